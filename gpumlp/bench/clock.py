"""Timing calls: warm, in whatever cache they have left their arrays, and cold, on arrays long out of every cache."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.bench.machine import last_cache, memory, on_device

Call = Callable[[], object]
MAX_SAMPLES, MIN_SAMPLES = 31, 5
"""Samples of one time."""
MIN_SAMPLE_S = 200e-6
"""Shortest warm sample (seconds), of as many calls as that needs."""
CACHE_FACTOR = 1.25
"""Bytes read between two cold calls on the same arrays, as a multiple of the last cache."""
AHEAD = 'extern "C" __global__ void ahead(long long n) { long long end = clock64() + n; while (clock64() < end); }'
AHEAD_CYCLES = 100_000
"""Some 60 µs for which a device waits before it is timed, so that the host has launched by then what is timed."""


@dataclass(frozen=True)
class Times:
    """Seconds of a call: the median of the samples, and the quartiles around it."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles, relative to the median."""
        return (self.high - self.low) / self.median


def times(samples: Sequence[float]) -> Times:
    """Return the median and the quartiles of at least two samples."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Times(middle, low, high)


class Clock:
    """Times calls on a backend, each for about ``seconds``: a host by its clock, a device by its events."""

    def __init__(self, backend: Backend, seconds: float) -> None:
        self.backend, self.seconds = backend, seconds
        self.beyond = int(min(CACHE_FACTOR * last_cache(backend), memory(backend) / 8))
        self._other = backend.asarray(backend.xp.ones(self.beyond // 4, backend.xp.float32))
        self._elapsed = self._on_host
        if on_device(backend):
            self._ahead = backend.xp.RawKernel(AHEAD, "ahead")
            self._elapsed = self._on_device

    def warm(self, call: Call) -> Times:
        """Time a call over and over."""
        with self.backend.quiet():
            call()
            count = max(1, math.ceil(MIN_SAMPLE_S / self._elapsed(call, 1)))
            first = self._elapsed(call, count)
            return times([self._elapsed(call, count) for _ in range(self._samples(first * count))])

    def cold(self, calls: Sequence[Call], size: int) -> Times:
        """Time calls that do the same on arrays of their own, each of ``size`` bytes, none of which is in a cache.

        Where the arrays of all calls together are larger than the cache, taking turns is enough; else as much is
        read from other memory before each turn.
        """
        with self.backend.quiet():
            for call in calls:
                call()
            first = max(self._elapsed(call, 1) for call in calls)
            samples: list[float] = []
            while len(samples) < self._samples(first):
                if size * len(calls) < self.beyond:
                    self._evict()
                samples += [self._elapsed(call, 1) for call in calls]
            return times(samples)

    def turns(self, size: int) -> int:
        """Return on how many sets of arrays of ``size`` bytes a cold time is best taken."""
        return min(max(2, math.ceil(self.beyond / size)), MAX_SAMPLES)

    def _samples(self, once: float) -> int:
        return min(max(MIN_SAMPLES, int(self.seconds / once)), MAX_SAMPLES)

    def _evict(self) -> None:
        self.backend.xp.max(self._other)

    def _on_host(self, call: Call, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - started) / count

    def _on_device(self, call: Call, count: int) -> float:
        cuda: Any = self.backend.xp.cuda
        start, stop = cuda.Event(), cuda.Event()
        self._ahead((1,), (1,), (np.int64(AHEAD_CYCLES),))
        start.record()
        for _ in range(count):
            call()
        stop.record()
        stop.synchronize()
        return float(cuda.get_elapsed_time(start, stop)) / 1e3 / count

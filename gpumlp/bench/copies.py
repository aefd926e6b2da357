"""What the machine can do at best: the bandwidth of a plain copy, by whichever way is the fastest here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.bench.clock import Clock
from gpumlp.bench.machine import on_device
from gpumlp.limits import cores
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Array


@dataclass(frozen=True)
class Copy:
    """The best copy of an array: bytes read and written per second, and how that was reached."""

    size: int
    warm: float
    cold: float
    warm_by: str
    cold_by: str


class Copies:
    """Measures copies on a backend, each size once.

    The ways are the array module's assignment, on a host the same shared out among all cores, and the kernel of
    the identity: whatever is the fastest is what the machine can do.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend, self.clock = backend, clock
        self._known: dict[int, Copy] = {}
        self._pool = ThreadPoolExecutor(cores())

    def at(self, size: int) -> Copy:
        """Return the best copy of an array of ``size`` bytes."""
        if size not in self._known:
            self._known[size] = self._measure(size)
        return self._known[size]

    def _measure(self, size: int) -> Copy:
        values = np.random.default_rng(size).standard_normal(size // 4).astype(np.float32)
        pairs = [
            (self.backend.asarray(values.copy()), self.backend.asarray(values.copy()))
            for _ in range(self.clock.turns(2 * size))
        ]
        warm: dict[str, float] = {}
        cold: dict[str, float] = {}
        for way, bind in self._ways().items():
            calls = [bind(source, target) for source, target in pairs]
            warm[way] = 2 * size / self.clock.warm(calls[0]).median
            cold[way] = 2 * size / self.clock.cold(calls, 2 * size).median
        fastest, coldest = max(warm, key=warm.__getitem__), max(cold, key=cold.__getitem__)
        return Copy(size, warm[fastest], cold[coldest], fastest, coldest)

    def _ways(self) -> dict[str, Callable[[Array, Array], Callable[[], Any]]]:
        copyto = self.backend.xp.copyto
        ways: dict[str, Callable[[Array, Array], Callable[[], Any]]] = {
            "copyto": lambda source, target: partial(copyto, target, source),
            "identity_forward": lambda source, target: self.backend.bind(
                RECORDS["identity"], "forward", (source,), (target,), {}
            ),
        }
        if not on_device(self.backend) and cores() > 1:
            ways[f"copyto on {cores()} threads"] = self._shared
        return ways

    def _shared(self, source: Array, target: Array) -> Callable[[], Any]:
        parts = list(zip(np.array_split(target, cores()), np.array_split(source, cores()), strict=True))

        def copy() -> None:
            list(self._pool.map(lambda part: np.copyto(*part), parts))

        return copy

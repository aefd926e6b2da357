"""One CUDA graph instead of many launches: what may be in it, how it is captured, and what stays between.

A launch puts work on the stream of its backend, and does nothing else. A run of them is captured once and then costs
the host one call. CuPy gives a graph no reference to the memory that it touches: the launches own theirs, and the
graph owns its launches.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from gpumlp.backend.device import explain
from gpumlp.errors import BackendError, GpumlpError

WORTH = 2
"""Launches that a graph has at least: one costs the host no less as a graph."""

log = logging.getLogger(__name__)


class Launch(ABC):
    """Work for a stream, bound to its arrays, which it owns.

    Called, it puts the work on the stream of the moment: it neither makes memory nor waits nor reads a value.
    """

    @abstractmethod
    def __call__(self) -> None: ...


class Graph:
    """Launches captured as one; calling it makes them all, in their order."""

    def __init__(self, xp: Any, stream: Any, launches: Sequence[Launch]) -> None:
        self.launches, self._stream = tuple(launches), stream
        stream.begin_capture()
        try:
            with xp.cuda.using_allocator(_refuse):
                for launch in self.launches:
                    launch()
        except BaseException:
            with contextlib.suppress(Exception):  # the stream leaves its capture, which has no graph to show for it
                stream.end_capture()
            raise
        self._graph = stream.end_capture()

    def __call__(self) -> None:
        self._graph.launch(self._stream)


def joined(xp: Any, stream: Any, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]:
    """Return the same calls with every run of launches made one graph.

    Where a graph cannot be had all of them stay as they are, and the log says why.
    """
    result: list[Callable[[], None]] = []
    try:
        for capturable, group in groupby(launches, key=lambda launch: isinstance(launch, Launch)):
            run: list[Any] = list(group)
            result += [Graph(xp, stream, run)] if capturable and len(run) >= WORTH else run
    except Exception as error:
        known = error if isinstance(error, GpumlpError) else explain(error, "capture")
        why = known.what if known else f"{type(error).__name__}: {error}"
        log.warning("no CUDA graph, so each step is launched piece by piece: %s", why)
        return launches
    return result


def _refuse(size: int) -> Any:
    raise BackendError(f"{size} bytes were asked for while a graph was captured")

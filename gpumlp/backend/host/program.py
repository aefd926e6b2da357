"""Kernels and products bound to their arrays: what a native step is made of."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

Runner = Callable[[int, int, int], None]
WORDS = 3
"""Eight bytes each in ``struct Node`` of ``kernels/host/host_program.h``: a function, its arguments, its parts."""


class Program:
    """A list of nodes; calling it runs them one after the other, without Python in between."""

    def __init__(self, run: Runner, threads: int, nodes: array[int], referenced: Any) -> None:
        self._run, self._threads, self.nodes = run, threads, nodes
        self._kept = referenced  # what the addresses point to must stay
        self._address, self._length = nodes.buffer_info()[0], len(nodes) // WORDS

    def __call__(self) -> None:
        self._run(self._address, self._length, self._threads)

    def followed_by(self, others: Sequence[Program]) -> Program:
        """Return one program that runs this one and then the others."""
        nodes = self.nodes[:]
        for other in others:
            nodes += other.nodes
        return Program(self._run, self._threads, nodes, (self._kept, [other._kept for other in others]))


def joined(launches: Sequence[Callable[[], None]]) -> list[Callable[[], None]]:
    """Return the same calls with every run of programs made one."""
    result: list[Callable[[], None]] = []
    waiting: list[Program] = []

    def settle() -> None:
        if waiting:
            result.append(waiting[0].followed_by(waiting[1:]))
            waiting.clear()

    for launch in launches:
        if isinstance(launch, Program):
            waiting.append(launch)
        else:
            settle()
            result.append(launch)
    settle()
    return result

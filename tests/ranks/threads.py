"""Ranks that are threads of this process, to see quickly that their number changes nothing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from gpumlp.ranks import Ranks


class Threads(Ranks):
    """A rank that lays what it has on a table, where the others take what is theirs."""

    def __init__(self, number: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.number, self.size, self._table, self._barrier = number, size, table, barrier

    def alltoall(self, source: Any, *, out: Any) -> Any:
        parts = [array.reshape(self.size, -1)[self.number] for array in self.collect(source.copy())]
        out.reshape(self.size, -1)[...] = parts
        return out

    def allgather(self, source: Any, *, out: Any) -> Any:
        out.reshape(self.size, -1)[...] = [array.reshape(-1) for array in self.collect(source.copy())]
        return out

    def collect(self, value: Any) -> list[Any]:
        self._table[self.number] = value
        self._barrier.wait(30)
        found = copy.deepcopy(self._table)  # messages share no memory
        self._barrier.wait(30)
        return found


def by_threads(size: int, action: Callable[[Ranks], Any]) -> list[Any]:
    """Return what ``action`` returns, or raises, on each of so many ranks."""
    barrier, table, found = threading.Barrier(size), [None] * size, [None] * size

    def run(number: int) -> None:
        try:
            found[number] = action(Threads(number, size, table, barrier))
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), name=f"{number}") for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

"""Ranks that are processes started by MPI. Only data moves in the library: no sum is its own.

Each wait has a limit, so that a rank which has stopped is named and does not hold the others for ever.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

import numpy as np
from mpi4py import MPI

from gpumlp.errors import RunError
from gpumlp.ranks.alone import Ranks

LINE = 64
"""Bytes of a unit of data: counts are of these, so that 2³¹ of them are enough."""

SPIN_S, MAX_PAUSE_S = 2e-4, 1e-3
"""Seconds for which a wait looks again at once, and the longest pause between two looks after that."""

GRACE_S = 5.0
"""Seconds in which a rank that waits, too, answers."""

STAGGER_S = 0.2
"""Seconds between two ranks that end all of them."""

ASK, ANSWER = 1, 2
"""Tags of the messages of a rank that has waited long enough, and of those that still wait."""


class Mpi(Ranks):
    """The ranks of ``MPI.COMM_WORLD``.

    Parameters
    ----------
    limit
        Seconds that a rank waits for the others.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self._comm = MPI.COMM_WORLD
        self._aside = self._comm.Dup()  # for what is not part of the common order
        self.number, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.limit = limit
        self._line = MPI.BYTE.Create_contiguous(LINE).Commit()
        self._asked: list[Any] = []  # requests that must live until they are done
        self.host = MPI.Get_processor_name()
        self._hosts = ["?"] * self.size
        self._hosts = self.collect(self.host)
        self.local = self._hosts[: self.number].count(self.host)

    def name(self, number: int) -> str:
        return f"rank {number} (host {self._hosts[number]})"

    def alltoall(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self._wait(self._comm.Ialltoall(self._data(source), self._data(out)))
        return out

    def allgather(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self._wait(self._comm.Iallgather(self._data(source), self._data(out)))
        return out

    def collect(self, value: Any) -> list[Any]:
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        sizes = np.zeros(self.size, np.int64)
        self.allgather(np.array([len(data)], np.int64), out=sizes)
        lines = -(-sizes // LINE)
        sent = np.zeros(lines[self.number] * LINE, np.uint8)
        sent[: len(data)] = np.frombuffer(data, np.uint8)
        starts = np.concatenate([[0], np.cumsum(lines)])
        received = np.empty(starts[-1] * LINE, np.uint8)
        counts = (lines.tolist(), starts[:-1].tolist())
        self._wait(self._comm.Iallgatherv([sent, self._line], [received, counts, self._line]))
        return [
            pickle.loads(received[start * LINE : start * LINE + size].tobytes())  # of our own ranks, written above
            for start, size in zip(starts.tolist(), sizes.tolist(), strict=False)
        ]

    def share_end(self) -> bool:
        request, ends = self._aside.Ibarrier(), time.monotonic() + min(GRACE_S, self.limit)
        while not request.Test():
            if time.monotonic() > ends:
                return False
            time.sleep(MAX_PAUSE_S)
        return True

    def abort(self, code: int) -> None:
        time.sleep(STAGGER_S * self.number)  # the first to abort ends the others before they print the same
        self._comm.Abort(code)

    def _data(self, array: np.ndarray[Any, Any]) -> list[Any]:
        """Return an array as MPI takes it: in lines where its parts are whole lines, otherwise in bytes."""
        kind = self._line if array.nbytes % (LINE * self.size) == 0 else MPI.BYTE
        return [array.reshape(-1).view(np.uint8), kind]

    def _wait(self, request: Any) -> None:
        started = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - started
            if waited < SPIN_S:
                os.sched_yield()
                continue
            self._answer()
            if waited > self.limit:
                raise self._missing()
            time.sleep(min(waited / 8, MAX_PAUSE_S))

    def _answer(self) -> None:
        """Let a rank that has waited long enough know that this one waits, too."""
        while self._aside.Iprobe(tag=ASK, status=(status := MPI.Status())):
            self._aside.Recv([bytearray(0), MPI.BYTE], source=status.source, tag=ASK)
            self._asked.append(self._aside.Isend([bytearray(0), MPI.BYTE], dest=status.source, tag=ANSWER))

    def _missing(self) -> RunError:
        """Return an error that names the ranks which do not answer."""
        others = [number for number in range(self.size) if number != self.number]
        self._asked += [self._aside.Isend([bytearray(0), MPI.BYTE], dest=number, tag=ASK) for number in others]
        here, ends = set[int](), time.monotonic() + min(GRACE_S, self.limit)
        while time.monotonic() < ends and len(here) < len(others):
            self._answer()
            while self._aside.Iprobe(tag=ANSWER, status=(status := MPI.Status())):
                self._aside.Recv([bytearray(0), MPI.BYTE], source=status.source, tag=ANSWER)
                here.add(status.source)
            time.sleep(MAX_PAUSE_S)
        silent = [self.name(number) for number in others if number not in here]
        names = ", ".join(silent) or "the others, which wait as well"
        return RunError(
            f"waited {self.limit:g} s for {names}",
            hint="resume from the last checkpoint; GPUMLP_RANKS_TIMEOUT=SECONDS sets another limit",
        )

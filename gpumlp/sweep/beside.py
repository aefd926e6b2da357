"""Runs side by side: a core for each small network, where that is faster than all cores for one after the other.

No bit of a run depends on it.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from gpumlp.backend import Backend
from gpumlp.config import Settings
from gpumlp.data import Prepared
from gpumlp.limits import host_memory, threads
from gpumlp.ranks import Ranks
from gpumlp.runs.signals import signals
from gpumlp.training.architecture import size_of
from gpumlp.training.build import backend_of, backends_side_by_side, is_small

MAX_SHARE = 0.25
"""Of the memory of the machine, what the data of runs at work may take together."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Job(Generic[_Result]):
    """A run to be made.

    Parameters
    ----------
    settings, data
        What it trains on.
    make
        Trains, given a backend (None: as the settings say) and the ranks that know of signals; returns a result.
    in_turn
        Whether no other run may be made meanwhile.
    """

    settings: Settings
    data: Prepared
    make: Callable[[Backend | None, Ranks], _Result]
    in_turn: bool = False

    def backend(self) -> Backend | None:
        """Return a backend of one thread for a small network; None for one that is to have all threads."""
        if self.in_turn:
            return None
        settings, encoder = self.settings, self.data.encoder
        backend = backend_of(settings, small=is_small(settings, encoder))
        apart, _ = backends_side_by_side(backend, 2, size_of(settings, encoder))
        return None if apart is backend else apart


@dataclass(frozen=True)
class Known(Generic[_Result]):
    """A result that is there already."""

    result: _Result


def side_by_side(jobs: Iterable[Job[_Result] | Known[_Result]]) -> Iterator[_Result]:
    """Make runs, and yield what they return, in the order of the jobs.

    A job is taken from ``jobs`` when the one before it has begun: few have their data in memory at once.

    Raises
    ------
    SignalError
        If SIGINT or SIGTERM arrives, once every run has saved where it stands.
    Exception
        The first one that a job raises, once the others have saved where they stand.
    """
    ranks, running = Ranks(), deque[Future[_Result]]()
    with signals(ranks) as watched, ThreadPoolExecutor(threads()) as pool:
        try:
            for job in jobs:
                watched.hold = True
                if isinstance(job, Known):
                    running.append(_known(job.result))
                elif (backend := job.backend()) is not None:
                    yield from _ended(running, leave=_beside(job.data) - 1)
                    running.append(pool.submit(job.make, backend, ranks))
                else:  # it has all threads
                    yield from _ended(running)
                    running.append(_known(job.make(None, ranks)))
                yield from _ended(running, leave=len(running))
                watched.hold = False
            watched.hold = True
            yield from _ended(running)
        except BaseException:
            ranks.wish = ranks.wish or signal.SIGTERM
            raise


def _known(result: _Result) -> Future[_Result]:
    future = Future[_Result]()
    future.set_result(result)
    return future


def _beside(data: Prepared) -> int:
    """Return how many runs on such data are made at once."""
    memory = host_memory()
    return threads() if memory is None else max(1, min(threads(), int(MAX_SHARE * memory / max(1, data.nbytes))))


def _ended(running: deque[Future[_Result]], leave: int = 0) -> Iterator[_Result]:
    """Wait until at most ``leave`` runs are at work; yield the results up to the first of these."""
    while sum(not future.done() for future in running) > leave:
        wait([future for future in running if not future.done()], return_when=FIRST_COMPLETED)
        for future in running:
            if future.done() and (error := future.exception()) is not None:
                raise error
    while running and running[0].done():
        yield running.popleft().result()

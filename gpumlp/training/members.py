"""The loop over several networks on the same rows: each trained as it would be alone, measured as their mean."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from gpumlp.backend import NativeBackend
from gpumlp.config import Settings
from gpumlp.data import Prepared
from gpumlp.errors import Note
from gpumlp.limits import in_threads
from gpumlp.limits import threads as available_threads
from gpumlp.metrics import METRICS
from gpumlp.nn import Ensemble
from gpumlp.nn.ensemble import of_all
from gpumlp.phases import phase
from gpumlp.training.architecture import size_of
from gpumlp.training.build import Parts, backend_of, backends_side_by_side, build, is_small
from gpumlp.training.loop import (
    COMPLETED,
    DIVERGED,
    STOPPED_EARLY,
    Diverged,
    Epoch,
    Event,
    Loop,
    Stand,
    Step,
    Weights,
    as_row,
)
from gpumlp.training.snapshots import SnapshotsLoop
from gpumlp.training.trainer import EpochReport, weights_in_place

ROUND_S = 0.1
"""Seconds of steps between two looks at signals and checkpoints; rounds become longer while they take less."""

_Result = TypeVar("_Result")


def loop_over(parts: Parts, *, every: int | None = None) -> Loop:
    """Return the loop that trains what :func:`gpumlp.training.build.build` returned: one network, or several."""
    if parts.snapshots > 1:
        return SnapshotsLoop(parts, every=every)
    return MembersLoop(parts, every=every) if parts.members else Loop(parts, every=every)


class MembersLoop(Loop):
    """Trains several networks epoch by epoch, each as it would be trained alone, bit for bit.

    Networks that have a backend of their own are trained side by side, one on each thread. One that has ended (it
    stopped early, or diverged) counts with its best weights from then on; one that had none is left out. The rows of
    epochs are of the mean: its loss and metrics on the validation rows, and the mean training loss.

    Attributes
    ----------
    batch, seconds
        Batches of the epoch that are done, and seconds spent on them.
    """

    def __init__(self, parts: Parts, *, every: int | None = None) -> None:
        super().__init__(parts, every=every)
        self.loops = tuple(Loop(each) for each in parts.members)
        self.batch, self.seconds = 0, 0.0
        self._round = 1
        self._pool: Executor | None = None
        self._gather()

    @property
    def steps(self) -> int:
        return self.progress.epoch * self.parts.trainer.batches + self.batch

    @property
    def status(self) -> str | None:
        if self.diverged is not None:
            return DIVERGED
        ended = {loop.status for loop in self.loops}
        return None if None in ended else STOPPED_EARLY if STOPPED_EARLY in ended else COMPLETED

    @property
    def outcome(self) -> dict[str, Any]:
        """What became of each network."""
        members = [
            {"status": loop.status, "epochs": loop.progress.epoch, "best_epoch": loop.progress.best_epoch}
            for loop in self.loops
        ]
        return {"members": members}

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(
            _departure(number, loop) for number, loop in enumerate(self.loops, 1) if loop.diverged is not None
        )

    def __iter__(self) -> Iterator[Event]:
        batches = self.parts.trainer.batches
        workers = min(available_threads(), len(self.loops)) if self._apart else 1
        try:
            with ThreadPoolExecutor(workers) if workers > 1 else contextlib.nullcontext() as self._pool:
                while self.status is None:
                    while self.batch < batches:
                        yield self._train_round(batches)
                    yield self._end_epoch()
        finally:
            self._pool = None
            for loop in self.loops:
                loop.parts.trainer.pause()

    def stand(self) -> Stand:
        position = {"epoch": self.progress.epoch, "batch": self.batch, "seconds": self.seconds}
        return Stand({}, {}, {}, np.zeros(4), replace(self.progress), position, {})

    def go_to(self, stand: Stand) -> None:
        self.progress, self.batch, self.seconds = stand.progress, stand.trainer["batch"], stand.trainer["seconds"]
        self._gather()

    def _gather(self) -> None:
        """Let the ensemble be those networks that have weights to predict with, and ``best`` their best ones."""
        usable = [loop for loop in self.loops if loop.progress.best_epoch or loop.diverged is None]
        if usable:
            ensemble = self.parts.model
            assert isinstance(ensemble, Ensemble)
            ensemble.members = tuple(network for loop in usable for network in loop.parts.model.networks)
        self.best: Weights = of_all(loop.best for loop in usable)
        self.progress.best_epoch = max((loop.progress.best_epoch for loop in usable), default=0)

    @property
    def _apart(self) -> bool:
        """Whether each network has a backend of its own, which another thread may use at the same time."""
        backends = {id(loop.parts.backend) for loop in self.loops}
        return len(backends) > 1 and isinstance(self.parts.backend, NativeBackend)

    @property
    def _in_step(self) -> bool:
        """Whether a launch may take steps of all networks."""
        return self.loops[0].parts.backend.one_block

    def _each(self, function: Callable[[Loop], _Result], loops: Sequence[Loop]) -> list[_Result]:
        """Return ``function`` of each loop, side by side where they may be."""
        return list(map(function, loops) if self._pool is None else self._pool.map(function, loops))

    @phase("train")
    def _train_round(self, batches: int) -> Step:
        """Take some of the epoch's steps in all networks that are still trained."""
        done, backend = self.batch, self.parts.backend
        until = min(done + self._round, batches)
        if self.every:
            until = min(until, done + self.every - self.steps % self.every)

        def advance(loop: Loop) -> None:
            while loop.parts.trainer.batch < until:
                loop.parts.trainer.advance(every=self.every, until=until)

        built, started = backend.seconds_building, time.perf_counter()
        trained = [loop for loop in self.loops if loop.status is None]
        first, *others = (loop.parts.trainer for loop in trained)
        while self._in_step and first.batch < until:
            first.advance(every=self.every, until=until, beside=others)
        self._each(advance, trained)
        backend.synchronize()
        taken = time.perf_counter() - started
        self.batch, self.seconds = until, self.seconds + taken - (backend.seconds_building - built)
        if taken < ROUND_S and until - done == self._round:
            self._round *= 2
        return Step(self.progress.epoch + 1, done + 1, until, batches)

    def _end_epoch(self) -> Epoch | Diverged:
        trained = [loop for loop in self.loops if loop.status is None]
        reports = [loop.parts.trainer.end_epoch() for loop in trained]
        measured = self._validate_each(trained)
        rows = [as_row(report, each) for report, each in zip(reports, measured, strict=True)]
        finite = [loop for loop, row in zip(trained, rows, strict=True) if loop.not_finite(row) is None]
        mean = self._validate_mean(finite)
        joint = mean if self.parts.joint else None
        outcomes = [
            loop.settle(report, each, chosen_by=joint)
            for loop, report, each in zip(trained, reports, measured, strict=True)
        ]
        goes_on, notes = self.status is None, []
        for number, loop in enumerate(self.loops, 1):
            if loop in trained and loop.status is not None:
                if goes_on:  # otherwise its last weights stay, from which a longer run can go on
                    loop.parts.model.load(loop.best)
                if loop.diverged is not None:
                    notes.append(_departure(number, loop))
        seconds, self.batch, self.seconds = self.seconds, 0, 0.0
        self._gather()
        if not finite:
            self.diverged = next(each for each in outcomes if isinstance(each, Diverged))
            return self.diverged
        self.progress.epoch = self.progress.epoch + 1
        self.progress.seconds += seconds
        if mean:
            metric = self.parts.metric
            self.progress.best_cost = min(self.progress.best_cost, METRICS[metric].cost(mean[metric]))
        finite_reports = [report for loop, report in zip(trained, reports, strict=True) if loop in finite]
        row = as_row(_mean_report(finite_reports, self.progress.epoch, seconds), mean)
        losses = {
            id(loop): each.get("validation_loss", each["train_loss"])
            for loop, each in zip(trained, rows, strict=True)
            if loop in finite
        }
        row["member_losses"] = [losses.get(id(loop)) for loop in self.loops]
        best = any(isinstance(each, Epoch) and each.best for each in outcomes)
        return Epoch(row, best, self.best, tuple(notes))

    @phase("measure")
    def _validate_each(self, loops: Sequence[Loop]) -> list[dict[str, float]]:
        return self._each(lambda loop: loop.validate(), loops)

    @phase("measure")
    def _validate_mean(self, finite: Sequence[Loop]) -> dict[str, float]:
        """Measure the mean of the networks of the moment, and of the best weights of those that have ended."""
        if self.parts.data.validation is None or not finite:
            return {}
        with contextlib.ExitStack() as stack:
            for loop in finite:
                stack.enter_context(weights_in_place(loop.parts.model, loop.parts.optimizer.weights))
            ended = [loop for loop in self.loops if loop.status is not None and loop.progress.best_epoch]
            ensemble = self.parts.model
            assert isinstance(ensemble, Ensemble)
            members = [loop for loop in self.loops if loop in finite or loop in ended]
            ensemble.members = tuple(network for loop in members for network in loop.parts.model.networks)
            return self._measured_for_choice()


def train_side_by_side(
    jobs: Sequence[tuple[Settings, Prepared]], on_event: Callable[[int, Event], bool | None] | None = None
) -> list[Loop]:
    """Train networks that have settings and data of their own, and return their loops, each at its end.

    On the native backend small ones are trained a core each, large ones in turn by all cores: no bit depends on that.

        loops = train_side_by_side([(settings, fold) for fold in folds])
        [loop.measure()["test"]["accuracy"] for loop in loops]

    Parameters
    ----------
    jobs
        Settings and prepared data of each. The backend is that of the first settings.
    on_event
        Called with the number of a network and each event of its loop, by one thread at a time. A network whose call
        returns True is trained no further.
    """
    if not jobs:
        return []
    lock = threading.Lock()
    largest = max(size_of(settings, data.encoder) for settings, data in jobs)
    small = all(is_small(settings, data.encoder) for settings, data in jobs)
    backends = backends_side_by_side(backend_of(jobs[0][0], small=small), len(jobs), largest)

    def train(number: int) -> Loop:
        settings, data = jobs[number]
        loop = loop_over(build(settings, data, backends[number]), every=settings.training.checkpoint_every)
        for event in loop:
            if on_event is not None:
                with lock:
                    ends = on_event(number, event)
                if ends:
                    break
        return loop

    numbers = range(len(jobs))
    return in_threads(train, numbers) if len({*map(id, backends)}) > 1 else [train(number) for number in numbers]


def _mean_report(reports: Sequence[EpochReport], epoch: int, seconds: float) -> EpochReport:
    """Return one report of several networks: the means of what each came to."""
    accuracies = [report.accuracy for report in reports if report.accuracy is not None]
    return EpochReport(
        epoch=epoch,
        seconds=seconds,
        loss=float(np.mean([report.loss for report in reports])),
        accuracy=float(np.mean(accuracies)) if accuracies else None,
        learning_rate=float(np.mean([report.learning_rate for report in reports])),
    )


def _departure(number: int, loop: Loop) -> Note:
    """Return a note on a network that diverged."""
    assert loop.diverged is not None
    best = loop.progress.best_epoch
    rest = f"the weights of its epoch {best} count" if best else "it is left out"
    return Note(f"network {number} diverged: {loop.diverged.reason}; {rest}")

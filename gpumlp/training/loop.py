"""The loop over epochs, as a generator of what happens. It knows no folder, no signal and no progress bar."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np

from gpumlp.data import EncodedRows
from gpumlp.errors import Note
from gpumlp.limits import beside
from gpumlp.metrics import METRICS
from gpumlp.phases import phase
from gpumlp.training.build import Parts
from gpumlp.training.calibration import Temperature, softmax
from gpumlp.training.device_data import DeviceData
from gpumlp.training.measure import Measured, Measurement, computed
from gpumlp.training.trainer import EpochReport, weights_in_place
from gpumlp.training.windows import Streamed, on_device

COMPLETED, STOPPED_EARLY, DIVERGED = "completed", "stopped early", "diverged"
"""Why a loop ended."""

CHOICE, HELD_OUT = "choice", "kept"
"""The validation rows that choose the best epoch, and those that do not."""

Weights = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """Steps were taken: those of the batches ``first`` to ``last``, counted from 1, of an epoch of ``batches``."""

    epoch: int
    first: int
    last: int
    batches: int


@dataclass(frozen=True)
class Epoch:
    """An epoch is done.

    Parameters
    ----------
    row
        Its number, seconds, losses, metrics and learning rate, by name.
    best
        Whether its weights are the best so far.
    weights
        The best weights so far, by name.
    notes
        On what has happened in it.
    """

    row: dict[str, Any]
    best: bool
    weights: Weights
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Diverged:
    """A loss or a weight is no longer finite after this epoch, which does not count. The loop ends."""

    epoch: int
    reason: str


Event = Step | Epoch | Diverged


@dataclass
class Progress:
    """How many epochs are done, which was the best, and since when there was no better one.

    The best epoch is that of the lowest cost (:meth:`gpumlp.metrics.Metric.cost`), and its weights are kept. Patience
    counts from ``lower_epoch``, the last one whose cost was lower by ``min_delta`` than that of the one before it
    that counted so. ``snapshots`` are the epochs that predict together, where
    several do; costs are those of their mean then.
    """

    epoch: int = 0
    seconds: float = 0.0
    best_cost: float = math.inf
    best_epoch: int = 0
    lower_cost: float = math.inf
    lower_epoch: int = 0
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.snapshots = tuple(self.snapshots)  # a list in JSON

    def observe(self, cost: float, min_delta: float, *, later: bool = False) -> bool:
        """Take an epoch into account. Return whether it is the best so far (``later``: equally good counts)."""
        if cost < self.lower_cost - min_delta:
            self.lower_cost, self.lower_epoch = cost, self.epoch
        better = cost < self.best_cost or (later and cost == self.best_cost)
        if better:
            self.best_cost, self.best_epoch = cost, self.epoch
        return better


@dataclass(frozen=True)
class Stand:
    """Where a loop stands: all that the rest of its training depends on, besides what it was built from.

    Parameters
    ----------
    model, best, optimizer
        Arrays by name: the parameters and running averages, the best ones so far, and what the optimizer keeps of
        each parameter.
    totals
        (4,) the sums over the batches of the epoch at work.
    progress
        Epochs done, and the best of them.
    trainer
        ``epoch``, ``batch`` and ``seconds`` of the trainer.
    schedule
        What the schedule remembers.
    diverged
        The epoch and the reason for which a network is no longer trained, while others are.
    """

    model: Weights
    best: Weights
    optimizer: Weights
    totals: Any
    progress: Progress
    trainer: dict[str, Any]
    schedule: dict[str, float]
    diverged: dict[str, Any] | None = None


class Loop:
    """Trains epoch by epoch; iterating over it yields events.

        for event in Loop(build(config.settings, load_data(config))):
            if isinstance(event, Epoch):
                print(event.row["validation_loss"])

    Whoever leaves the iteration can take it up again later: the loop goes on where it stood. Between two events the
    parts are as the steps so far have left them, and may be saved.

    Parameters
    ----------
    parts
        What :func:`gpumlp.training.build.build` returns.
    every
        No multiple of this number of steps is passed over between two events.

    Attributes
    ----------
    progress
        Epochs done, and the best of them.
    best
        The best weights so far, by name; without validation rows the last ones.
    diverged
        The event of that name that has ended the loop, or None.
    loops
        Those that this one trains beside each other; none where it trains one network.
    """

    loops: tuple[Loop, ...] = ()

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # one that shares arrays would learn with the original

    def __init__(self, parts: Parts, *, every: int | None = None) -> None:
        self.parts, self.every = parts, every
        self.progress = Progress()
        self.best: Weights = parts.model.arrays()
        self.diverged: Diverged | None = None
        self._measurements: dict[str, Measurement] = {}
        self._calibrated: tuple[Weights, Temperature] | None = None
        self._best_seen: tuple[Weights, Measured | None] | None = None
        if parts.data.validation is not None:
            self._measurement_of(CHOICE)

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return self.parts.trainer.steps

    @property
    def status(self) -> str | None:
        """Why the loop has ended; None where it has not."""
        progress, stopping = self.progress, self.parts.stopping
        if self.diverged is not None:
            return DIVERGED
        if progress.epoch >= self.parts.trainer.epochs:
            return COMPLETED
        if stopping and self.parts.data.validation and progress.epoch >= progress.lower_epoch + stopping.patience:
            return STOPPED_EARLY
        return None

    @property
    def notes(self) -> tuple[Note, ...]:
        """What is worth saying of the training so far."""
        return ()

    @property
    def outcome(self) -> dict[str, Any]:
        """What the summary of a run has of this loop, beside what it has of any."""
        return {}

    def stand(self) -> Stand:
        """Return where the loop stands, once the device has done what it was given; ``loops`` stand by themselves."""
        parts, trainer = self.parts, self.parts.trainer
        trainer.pause()
        return Stand(
            model=parts.model.arrays(),
            best=self.best,
            optimizer={name: parts.backend.to_host(array) for name, array in parts.optimizer.state.items()},
            totals=parts.backend.to_host(trainer.totals),
            progress=replace(self.progress),
            trainer={"epoch": trainer.epoch, "batch": trainer.batch, "seconds": trainer.seconds},
            schedule=parts.schedule.state,
            diverged=None if self.diverged is None else asdict(self.diverged),
        )

    def go_to(self, stand: Stand) -> None:
        """Stand there; ``loops`` do already."""
        parts = self.parts
        parts.model.load(stand.model)
        for name, target in parts.optimizer.state.items():
            parts.backend.write(target, stand.optimizer[name])
        self.best, self.progress = stand.best, stand.progress
        self.diverged = None if stand.diverged is None else Diverged(**stand.diverged)
        parts.schedule.state = stand.schedule
        parts.trainer.go_to(**stand.trainer, totals=stand.totals)

    def weights_kept(self, progress: Progress) -> Weights:
        """Return weights of the names and shapes that :meth:`stand` has of the best ones after some progress."""
        return self.stand().best

    def __iter__(self) -> Iterator[Event]:
        trainer = self.parts.trainer
        try:
            while self.status is None:
                while trainer.batch < trainer.batches:
                    done = trainer.advance(every=self.every)
                    yield Step(trainer.epoch + 1, done[0], done[-1], trainer.batches)
                yield self._end_epoch()
        except GeneratorExit:
            trainer.pause()
            raise

    @phase("measure")
    def measure(self) -> dict[str, dict[str, float]]:
        """Give the model its best weights; return its loss and metrics on each part of the data."""
        self.parts.model.load(self.best)
        parts, probabilities = self.parts, self.calibration() or softmax
        encoder, seen = parts.data.encoder, self._seen_by_best()
        measured: dict[str, Callable[[], dict[str, float]]] = {}
        with beside() as begin:  # what is made of outputs on the host, while those of the next part are computed
            for name, part in parts.data.parts.items():
                if name == "validation" and parts.held_out is None and seen is not None:
                    result = partial(seen.scored, part, probabilities) if encoder.classes else seen.measured.copy
                else:
                    blocks = self._rows_of(name).blocks(parts.model)
                    result = computed(parts.model, parts.loss, encoder, blocks, probabilities=probabilities)
                measured[name] = begin(result)
            return {name: result() for name, result in measured.items()}

    def _seen_by_best(self) -> Measured | None:
        """Return what the best weights have made of the rows that chose them; None where that was not kept."""
        best_seen = self._best_seen
        return best_seen[1] if best_seen is not None and best_seen[0] is self.best else None

    def calibration(self) -> Temperature | None:
        """Return the calibration of the best weights, fitted on the validation rows that chose them; or None."""
        data = self.parts.choice
        if data is None or self.parts.calibration is None:
            return None
        if self._calibrated is None or self._calibrated[0] is not self.best:
            self._calibrated = self.best, self._fit_calibration(data)
        return self._calibrated[1]

    @phase("measure")
    def _fit_calibration(self, data: EncodedRows) -> Temperature:
        assert data.targets is not None
        assert self.parts.calibration is not None
        if (seen := self._seen_by_best()) is not None:
            return self.parts.calibration.fit(seen.linear, data.targets, data.weights)
        self.parts.model.load(self.best)
        return self.parts.calibration.fit(self._measurement_of(CHOICE).linear(), data.targets, data.weights)

    def scores(self) -> np.ndarray[Any, Any] | None:
        """Return how far the best weights are from the validation rows that chose nothing, (n,) sorted; or None.

        Of numbers these are the distances in units of the target; of classes 1 - p of the true one.
        """
        data, encoder = self.parts.held_out, self.parts.data.encoder
        if data is None or encoder.labels or len(encoder.target_names) > 1:  # an interval is of one number
            return None
        self.parts.model.load(self.best)
        assert data.targets is not None
        linear = self._measurement_of(HELD_OUT).linear()
        if encoder.classes is None:
            predicted, true = encoder.restore(linear), encoder.decode(data.targets.astype(np.float64))
            each = np.abs(predicted - true)
        else:
            shares = (self.calibration() or softmax)(linear)
            each = 1.0 - shares[np.arange(len(data)), data.targets]
        return np.sort(each if data.weights is None else each[data.weights > 0])

    def _end_epoch(self) -> Epoch | Diverged:
        report = self.parts.trainer.end_epoch()
        return self.settle(report, self.validate())

    def settle(
        self, report: EpochReport, measured: dict[str, float], chosen_by: dict[str, float] | None = None
    ) -> Epoch | Diverged:
        """Take an epoch into account.

        Parameters
        ----------
        report
            Losses and times of the epoch.
        measured
            Loss and metrics on the validation rows, if there are any.
        chosen_by
            The same of what the best epoch is chosen by, where that is not this network alone.
        """
        row = as_row(report, measured)
        if reason := self.not_finite(row):
            self.diverged = Diverged(report.epoch, f"{reason} in epoch {report.epoch}")
            return self.diverged
        self.progress.epoch = report.epoch
        self.progress.seconds += report.seconds
        best = self._keep_best(chosen_by or measured)
        return Epoch(row, best, self.best)

    @phase("measure")
    def validate(self) -> dict[str, float]:
        """Measure the weights of the moment, or their average, on the validation rows if there are any."""
        if self.parts.data.validation is None:
            return {}
        with weights_in_place(self.parts.model, self.parts.optimizer.weights):
            return self._measured_for_choice()

    def _measured_for_choice(self) -> dict[str, float]:
        """Return what the best epoch is chosen by."""
        return self._measurement_of(CHOICE)(log_loss=self.parts.metric == "log_loss")

    def linear(self) -> np.ndarray[Any, Any]:
        """Return the last linear values, (N, K), that :meth:`validate` has computed of the rows that choose."""
        measurement = self._measurement_of(CHOICE)
        if measurement.seen is not None:
            return measurement.seen.linear
        with weights_in_place(self.parts.model, self.parts.optimizer.weights):
            return measurement.linear()

    def not_finite(self, row: dict[str, Any]) -> str | None:
        """Return what is no longer finite, or None."""
        for name in ("train_loss", "validation_loss"):
            if not math.isfinite(row.get(name, 0.0)):
                return f"the {name.replace('_', ' ')} became {row[name]}"
        return None if self.parts.model.parameters.are_finite() else "a weight is no longer finite"

    def _keep_best(self, measured: dict[str, float]) -> bool:
        """Keep the weights if they are the best so far; without validation rows the last are."""
        better, stopping, metric = True, self.parts.stopping, self.parts.metric
        if measured:
            cost, min_delta = METRICS[metric].cost(measured[metric]), stopping.min_delta if stopping else 0.0
            better = self.progress.observe(cost, min_delta, later=METRICS[metric].later)
            self.parts.schedule.observe(measured["loss"])
        else:
            self.progress.best_epoch = self.progress.epoch
        if better:
            self.best = self.parts.model.arrays(self.parts.optimizer.weights)
            self._best_seen = (self.best, self._measurement_of(CHOICE).seen) if measured else None
        return better

    def _measurement_of(self, name: str) -> Measurement:
        """Return the measurement of a part of the data, whose rows are brought to the device once."""
        if name not in self._measurements:
            parts = self.parts
            self._measurements[name] = Measurement(parts.model, parts.loss, self._rows_of(name), parts.data.encoder)
        return self._measurements[name]

    def _rows_of(self, name: str) -> DeviceData | Streamed:
        """Return a part of the data, or of its validation rows, on the device."""
        parts, rows = self.parts, self.parts.on_device
        if name == CHOICE and parts.held_out is None:
            name = "validation"  # all of them
        if name not in rows:
            data = {**parts.data.parts, CHOICE: parts.choice, HELD_OUT: parts.held_out}[name]
            assert data is not None
            rows[name] = on_device(parts.model, data, parts.data.encoder.input_scale)
        return rows[name]


def as_row(report: EpochReport, measured: dict[str, float]) -> dict[str, Any]:
    """Return what the history keeps of an epoch, by name."""
    row: dict[str, Any] = {"epoch": report.epoch, "seconds": report.seconds, "train_loss": report.loss}
    if report.accuracy is not None:
        row["train_accuracy"] = report.accuracy
    row |= {f"validation_{name}": value for name, value in measured.items()}
    return row | {"learning_rate": report.learning_rate}

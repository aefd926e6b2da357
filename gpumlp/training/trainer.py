"""The loop: a step written once, captured at its first run, then replayed batch by batch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Plan
from gpumlp.data import Dataset
from gpumlp.nn import Loss, Model
from gpumlp.ops.batches import ACCUMULATE, GATHER
from gpumlp.ops.record import Array
from gpumlp.optim import Optimizer, Schedule
from gpumlp.seeds import ORDER, generator

HASTE = 2e-3
"""Seconds: as long as steps that are replayed together take the host less, twice as many may be."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch of training came to. ``seconds`` is training alone; ``accuracy`` None in regression."""

    epoch: int
    seconds: float
    loss: float
    accuracy: float | None
    learning_rate: float


class Trainer:
    """Trains a model on rows that stay on the device.

    Each epoch visits every row once, in an order that depends on ``seed`` and the epoch alone. The last batch
    may be shorter. The host writes the clock and the learning rates when an epoch begins and reads four sums
    when it ends; in between it only replays, ``together`` steps at once (by default more and more, up to what the
    backend likes best, while they take the host no time to speak of). That changes when it looks up, and no bit.

    epoch, batch : epochs done, and batches done of the one after them
    seconds : spent on these batches so far
    totals : (4,) on the device: the sums of loss, mass, hits and rows over these batches
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        data: Dataset,
        *,
        epochs: int,
        batch_size: int,
        input_scale: float = 1.0,
        seed: int = 0,
        together: int | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.backend = model.context.backend
        if data.targets is not None:
            loss.check_targets(data.targets)
        self.data = DeviceData(model, data, input_scale)
        self.rows, self.epochs = len(data), epochs
        self.batch_size = min(batch_size, self.rows)
        self.batches = math.ceil(self.rows / self.batch_size)
        self.epoch = self.batch = 0
        self.seconds = 0.0
        self._key = int(generator(seed, ORDER).integers(2**32))
        self.totals = self.backend.zeros((4,), np.float64)
        self._together, self._most = together or 1, together or self.backend.together
        self._plans: dict[tuple[int, int], Plan] = {}  # by the rows of a batch, and how many of them are replayed
        optimizer.rates = self.backend.zeros((self.batches,), model.context.wide)

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return self.epoch * self.batches + self.batch

    def go_to(self, epoch: int, batch: int, seconds: float, totals: Any) -> None:
        """Take the place of a trainer that has come so far; the arguments are its attributes of these names."""
        self.epoch, self.batch, self.seconds = epoch, batch, seconds
        self.backend.write(self.totals, totals)

    def run_epoch(
        self, on_batch: Callable[[int], bool | None] | None = None, *, every: int | None = None
    ) -> EpochReport | None:
        """Train to the end of the epoch and report on it.

        ``on_batch`` is told of each batch, how many are done with it. Where it answers True before the last one,
        training pauses: the result is None, and the next call goes on as if there had been no pause, in this process
        or another. Steps that are replayed together are told of when the last of them is; none is passed over whose
        number, counted over all epochs, is a multiple of ``every``. A device may still be at work on them.
        """
        started = time.perf_counter() - self.backend.seconds_building - self.seconds
        rates = self._begin()
        while self.batch < self.batches:
            before = self.batch
            self._advance(every)
            told = [] if on_batch is None else [on_batch(done + 1) for done in range(before, self.batch)]
            if any(told) and self.batch < self.batches:
                self.backend.synchronize()
                self.seconds = time.perf_counter() - self.backend.seconds_building - started
                return None
        loss, mass, hits, rows = self.backend.to_host(self.totals)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        return EpochReport(
            epoch=self.epoch,
            seconds=time.perf_counter() - self.backend.seconds_building - started,
            loss=float(loss / mass),
            accuracy=float(hits / rows) if self.loss.record.counts_hits else None,
            learning_rate=float(rates[-1]),
        )

    def captured(self) -> Plan:
        """Go back to the start of the epoch and return the step for its first batch, captured.

        To capture a step is to run it: this is for looking at a step, not for a model that is wanted.
        """
        self.batch = 0
        self._begin()
        if (self.batch_size, 1) not in self._plans:
            self._step(self.batch_size)
            self._begin()
        return self._plans[self.batch_size, 1]

    def _begin(self) -> np.ndarray[Any, Any]:
        """Write where the epoch stands and what is its own; return the learning rate of each batch."""
        backend, clock = self.backend, self.model.context.clock
        rates = self.schedule.rates(self.epoch, self.batches, self.epochs)
        backend.write(clock, [self.steps, self.batch, self.epoch])
        backend.write(self.optimizer.rates, rates)
        if self.batch == 0:
            backend.write(self.totals, np.zeros(4))
        return rates

    def _advance(self, every: int | None) -> None:
        """Make the steps that come next, as many at once as may be: a power of two, so that there are few plans."""
        rows = min(self.batch_size, self.rows - self.batch * self.batch_size)
        alike = max(1, self.rows // self.batch_size - self.batch)  # the last batch may be shorter
        most = min(self._together, alike, every - self.steps % every if every else alike)
        count = 1 if (rows, 1) not in self._plans else 1 << most.bit_length() - 1
        started = time.perf_counter()
        self._step(rows, count)
        self.batch += count
        if count == self._together and time.perf_counter() - started < HASTE:
            self._together = min(2 * count, self._most)

    def _step(self, rows: int, count: int = 1) -> None:
        if (rows, 1) not in self._plans:
            self._plans[rows, 1] = self.backend.capture(lambda: self._define_step(rows))  # runs it, too
            return
        if (rows, count) not in self._plans:
            self._plans[rows, count] = self._plans[rows, 1].times(count)
        self._plans[rows, count]()

    def _define_step(self, rows: int) -> None:
        backend, data, parameters = self.backend, self.data, self.model.parameters
        x, y, weights = backend.run(
            GATHER,
            "forward",
            (self.model.context.clock, *data.arrays),
            rows=rows,
            stride=self.batch_size,
            key=self._key,
            scale=data.scale,
            dtype=self.model.context.dtype,
        )
        with GradientTape() as tape:
            outputs = self.model.forward(Tensor(x, backend), training=True)
            loss, sums = self.loss(outputs, y, weights)
        parameters.collect(tape, loss)
        self.optimizer.step()
        backend.run(ACCUMULATE, "forward", (self.totals, sums.array), (self.totals,))


class DeviceData:
    """A dataset on the device: ``arrays`` are inputs, targets, and row weights or None."""

    def __init__(self, model: Model, data: Dataset, scale: float) -> None:
        backend, dtype, wide = model.context.backend, model.context.dtype, model.context.wide
        assert data.targets is not None
        targets = data.targets if data.targets.dtype.kind == "i" else data.targets.astype(wide, copy=False)
        weights = None if data.weights is None else data.weights.astype(wide, copy=False)
        host = (_floats(data.inputs, dtype), targets, weights)
        self.arrays: tuple[Array, ...] = tuple(None if a is None else backend.asarray(a) for a in host)
        self.scale = scale


def _floats(inputs: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """Bytes stay bytes: they are scaled batch by batch."""
    return inputs if inputs.dtype == np.uint8 else inputs.astype(dtype, copy=False)


@contextlib.contextmanager
def weights_in_place(model: Model, weights: Array) -> Iterator[None]:
    """Let the model compute with other weights (the moving average) for a while."""
    parameters = model.parameters
    if weights is parameters.values:
        yield
        return
    kept = parameters.backend.asarray(parameters.values, copy=True)
    parameters.write(weights)
    try:
        yield
    finally:
        parameters.write(kept)

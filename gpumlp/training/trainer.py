"""A step written once, captured at its first run, then replayed batch by batch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.backend import Plan
from gpumlp.backend.base import written
from gpumlp.data import EncodedRows, PackedRows
from gpumlp.nn import Dropout, Loss, Model
from gpumlp.ops.batches import ACCUMULATE, BATCH, GATHER, at_batch
from gpumlp.ops.record import Array
from gpumlp.optim import Optimizer, Schedule
from gpumlp.phases import phase
from gpumlp.ranks import Ranks
from gpumlp.seeds import MIXUP, ORDER, generator
from gpumlp.training.device_data import DeviceData, coded, stored_dtype
from gpumlp.training.shards import Shards
from gpumlp.training.windows import Cut, Windows

REPLAY_BUDGET_S = 2e-3
"""Steps replayed together are doubled while they take the host less than this (seconds)."""


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
    may be shorter, or is left out (``drop_last``). The host writes the clock and the tables of the schedules when an
    epoch begins and reads four sums when it ends; in between it only replays, ``together`` steps at once (by default
    more and more, up to what the backend likes best, while they take the host no time to speak of). That changes when
    it looks up, and no bit.

    Parameters
    ----------
    shards
        The fixed parts of each batch, summed over a fixed tree; None where a batch is one.

    Attributes
    ----------
    epoch, batch
        Epochs done, and batches done of the one after them.
    seconds
        Spent on these batches so far.
    totals
        (4,) on the device: the sums of loss, mass, hits and rows over these batches.
    rates
        On the device: the learning rate of each batch of the epoch.
    shares
        On the device: λ of each batch, drawn from Beta(mixup, mixup), at least a half: its rows are mixed with
        others, and the loss is λ times that by their own targets and 1 - λ times that by the others' (Zhang et al.
        2017, arXiv:1710.09412); None without ``mixup``.
    decays, dropouts
        The same of the factors of weight decay and of dropout; None where these have no schedule.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        data: EncodedRows | DeviceData,
        *,
        epochs: int,
        batch_size: int,
        input_scale: float = 1.0,
        seed: int = 0,
        together: int | None = None,
        drop_last: bool = False,
        decay_schedule: Schedule | None = None,
        dropout_schedule: Schedule | None = None,
        shards: int = 1,
        ranks: Ranks | None = None,
        window: int | None = None,
        mixup: float = 0.0,
    ) -> None:
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.backend = model.context.backend
        self.rows, self.epochs = len(data), epochs
        self.batch_size = min(batch_size, self.rows)
        self.batches = self.rows // self.batch_size if drop_last else math.ceil(self.rows / self.batch_size)
        self.epoch = self.batch = 0
        self.seconds = 0.0
        self.ranks = ranks or Ranks()
        self.shards = Shards(model, shards, self.batch_size, self.ranks) if shards > 1 else None
        self.data: DeviceData | Windows
        if isinstance(data, PackedRows):
            window = self.rows if window is None else window
            in_window = self.batches if window >= self.rows else max(1, window // self.batch_size)
            plan = Cut(self.rows, self.batch_size, self.batches, in_window, shards)
            own_shards = range(1) if self.shards is None else self.shards.own
            self.data = Windows(model, data, input_scale, plan, own_shards=own_shards, epochs=epochs, seed=seed)
        else:
            self.data = data if isinstance(data, DeviceData) else DeviceData(model, data, input_scale)
        if self.data.host.targets is not None:
            loss.check_targets(self.data.host.targets)
        self._key = int(generator(seed, ORDER).integers(2**32))
        self._seed, self._mixup = seed, mixup
        self._key_of_others = int(generator(seed, MIXUP).integers(2**32))
        self.shares = self.backend.zeros((self.batches,), np.float64) if mixup else None
        self.totals = self.backend.zeros((4,), np.float64)
        if self.ranks.size > 1:  # which look up after each step, whether one has been asked to end
            together = 1
        self._together, self._most = together or 1, together or self.backend.together
        # By the rows of a batch, how many batches are replayed, and the rows that they are drawn from.
        self._plans: dict[tuple[int, int, int], Plan] = {}
        # What takes steps of several networks at once, by the rows of a batch, and whose.
        self._launches: dict[tuple[int, int], tuple[Sequence[Trainer], Callable[[int], None] | None]] = {}
        self.rates = self.backend.zeros((self.batches,), model.context.wide)
        self.decays = None if decay_schedule is None else self.backend.zeros((self.batches,), model.context.wide)
        self.dropouts = None if dropout_schedule is None else self.backend.zeros((self.batches,), np.float64)
        self._factors = [
            (schedule, table)
            for schedule, table in ((decay_schedule, self.decays), (dropout_schedule, self.dropouts))
            if schedule is not None
        ]
        for layer in model.layers().values():
            if isinstance(layer, Dropout):
                layer.factors = self.dropouts
        self._started: float | None = None  # None: the clock of the epoch stands still
        self._last_rate = 0.0

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return self.epoch * self.batches + self.batch

    def go_to(self, epoch: int, batch: int, seconds: float, totals: Any) -> None:
        """Take the place of a trainer that has come so far; the arguments are its attributes of these names."""
        self.epoch, self.batch, self.seconds, self._started = epoch, batch, seconds, None
        self.backend.write(self.totals, totals)

    @phase("train")
    def advance(self, *, every: int | None = None, until: int | None = None, beside: Sequence[Trainer] = ()) -> range:
        """Take the next steps of the epoch: one, or several as one call where that costs the host little time.

        Parameters
        ----------
        every
            No multiple of this number of steps, counted over all epochs, is passed over.
        until
            Batch of the epoch that is not passed over.
        beside
            Others, of networks of the same form that have come as far, which take the same steps: in the same
            launches where the backend makes one of several networks' steps.

        Returns
        -------
        The batches done by these steps, counted from 1. A device may still be at work on them.
        """
        trainers = (self, *beside)
        for each in trainers:
            if each._started is None:
                each._begin()
        rows = min(self.batch_size, self.rows - self.batch * self.batch_size)
        alike = max(1, self.rows // self.batch_size - self.batch)  # the last batch may be shorter
        left = (self.batches if until is None else until) - self.batch
        for each in trainers:
            each.data.go_to(self.epoch, self.batch)
        left = min(left, self.data.left(self.batch))
        most = min(self._together, alike, left, every - self.steps % every if every else alike)
        is_new = (rows, 1, self.data.size) not in self._plans
        count = 1 if is_new else 1 << most.bit_length() - 1  # a power of two: few plans
        started = time.perf_counter()
        if self.shards is not None:
            self.shards.send_wish()
        self._step_all(trainers, rows, count)
        if self.shards is not None:
            self.shards.receive_wish()
        self.backend.keep_pace()
        for each in trainers:
            each.batch += count
        if count == self._together and time.perf_counter() - started < REPLAY_BUDGET_S:
            self._together = min(2 * count, self._most)
        return range(self.batch - count + 1, self.batch + 1)

    def pause(self) -> None:
        """Wait for the device and stop the clock of the epoch: the next step starts it again."""
        if self._started is not None:
            self.backend.synchronize()
            self.seconds, self._started = self._clock() - self._started, None

    @phase("train")
    def end_epoch(self) -> EpochReport:
        """Return the report on an epoch whose batches are all done; the next step is the first of the next one."""
        if self._started is None:
            self._begin()
        assert self._started is not None
        loss, mass, hits, rows = self.backend.to_host(self.totals)
        seconds = self._clock() - self._started
        if self.ranks.size > 1:
            self._check_ranks()
        self.epoch, self.batch, self.seconds, self._started = self.epoch + 1, 0, 0.0, None
        return EpochReport(
            epoch=self.epoch,
            seconds=seconds,
            loss=float(loss / mass),
            accuracy=float(hits / rows) if self.loss.record.counts_hits else None,
            learning_rate=self._last_rate,
        )

    def run_epoch(
        self, on_batch: Callable[[int], bool | None] | None = None, *, every: int | None = None
    ) -> EpochReport | None:
        """Train to the end of the epoch and return the report on it.

        ``on_batch`` is called for each batch, with the number of those done. Where it returns True before the last
        one, training pauses after the steps at hand: the result is None, and the next call goes on as if there had
        been no pause, in this process or another.
        """
        while self.batch < self.batches:
            done = self.advance(every=every)
            requests = [] if on_batch is None else [on_batch(batch) for batch in done]
            if any(requests) and self.batch < self.batches:
                self.pause()
                return None
        return self.end_epoch()

    def captured(self) -> Plan:
        """Go back to the start of the epoch and return the step for its first batch, captured.

        To capture a step is to run it: this is for looking at a step, not for a model that is wanted.
        """
        self.batch = 0
        self._begin()
        self.data.go_to(self.epoch, 0)
        if (self.batch_size, 1, self.data.size) not in self._plans:
            self._step(self.batch_size)
            self._begin()
        self._started = None
        return self._plans[self.batch_size, 1, self.data.size]

    def _check_ranks(self) -> None:
        """Raise RunError where ranks no longer have the same weights."""
        values = self.backend.to_host(self.model.parameters.values)
        hint = "use machines with the same processor, and a folder of their own for GPUMLP_CACHE on each kind"
        self.ranks.require_alike(f"network after epoch {self.epoch + 1}", sha256(values.data).hexdigest(), hint)

    def _begin(self) -> None:
        """Start the clock, and write where the epoch stands and what is its own."""
        self._started = self._clock() - self.seconds
        rates = self.schedule.rates(self.epoch, self.batches, self.epochs)
        self._last_rate = float(rates[-1])
        self.backend.write(self.model.context.clock, [self.steps, self.batch, self.epoch])
        self.backend.write(self.rates, rates)
        if self.shares is not None:
            drawn = generator(self._seed, MIXUP, self.epoch).beta(self._mixup, self._mixup, self.batches)
            self.backend.write(self.shares, np.maximum(drawn, 1.0 - drawn))
        for schedule, table in self._factors:
            self.backend.write(table, schedule.rates(self.epoch, self.batches, self.epochs))
        if self.batch == 0:
            self.backend.write(self.totals, np.zeros(4))

    def _clock(self) -> float:
        """Return a time in seconds that stands still while kernels are built."""
        return time.perf_counter() - self.backend.seconds_building

    def _step(self, rows: int, count: int = 1) -> None:
        one, several = (rows, 1, self.data.size), (rows, count, self.data.size)
        if one not in self._plans:
            self._plans[one] = self.backend.capture(lambda: self._define_step(rows))  # runs it, too
        else:
            if several not in self._plans:
                self._plans[several] = self._plans[one].times(count)
            self._plans[several]()
        self.data.moved(count)

    def _step_all(self, trainers: Sequence[Trainer], rows: int, count: int) -> None:
        """Take steps in several networks: in one launch where the backend makes one of their plans."""
        if len(trainers) == 1 and not self.backend.one_block:
            self._step(rows, count)
            return
        key = rows, self.data.size
        if all((rows, 1, each.data.size) in each._plans for each in trainers):
            if self._launches.get(key, ((), None))[0] != trainers:
                plans = [each._plans[rows, 1, each.data.size] for each in trainers]
                self._launches[key] = trainers, self.backend.side_by_side(plans)
            if steps := self._launches[key][1]:
                steps(count)
                for each in trainers:
                    each.data.moved(count)
                return
            for each in trainers:  # what was captured for that is captured anew
                each._plans.clear()
        for each in trainers:
            for _ in range(count):
                each._step(rows)

    def _define_step(self, rows: int) -> None:
        if self.shards is None:
            sums = self._compute(range(rows))
        else:
            sums = self.shards.sum(rows, lambda part, row: self._compute(part, row, divisor=rows))
        self.optimizer.step(self.rates, self.decays)
        self.data.advance()
        self.backend.run(ACCUMULATE, "forward", (self.totals, sums), (self.totals,))

    def _compute(self, part: range, gradient: Array | None = None, *, divisor: int = 0) -> Array:
        """Leave the gradient of rows of the batch in the parameters, or where told; return the sums of their loss."""
        x, y, weights = self._gathered(part, self._key)
        if self.shares is None:
            with GradientTape() as tape:
                outputs = self.model.forward(x, training=True)
                loss, sums = self.loss(outputs, y, weights, divisor=divisor)
            self.model.parameters.collect(tape, loss, gradient)
            return sums.array
        backend, context = self.backend, self.model.context
        others, other_y, other_weights = self._gathered(part, self._key_of_others)
        shares = backend.compute("mixup share", _share, self.shares, context.clock, xp=backend.xp)
        share_of_first = Tensor(shares, backend)
        share = as_dtype(share_of_first, context.wide)
        x = as_dtype(as_dtype(x, context.wide) * share + as_dtype(others, context.wide) * (1.0 - share), x.dtype)
        with GradientTape() as tape:
            outputs = self.model.forward(x, training=True)
            loss, sums = self.loss(outputs, y, weights, divisor=divisor)
            other_loss, other_sums = self.loss(outputs, other_y, other_weights, divisor=divisor)
            loss = loss * share + other_loss * (1.0 - share)
        self.model.parameters.collect(tape, loss, gradient)
        mixed: Array = (sums * share_of_first + other_sums * (1.0 - share_of_first)).array
        return mixed

    def _gathered(self, part: range, key: int) -> tuple[Tensor, Array, Array | None]:
        """Return the inputs, targets and weights of some rows of the batch, in the order of a key."""
        data, context, features = self.data, self.model.context, self.data.host.features
        drawn = data.drawn(context.clock, part.start, self.batch_size, key)
        x, y, weights = self.backend.run(
            GATHER,
            "forward",
            (drawn.clock, *drawn.arrays),
            rows=len(part),
            stride=drawn.stride,
            first=drawn.first,
            key=drawn.key,
            scale=data.scale,
            dtype=stored_dtype(self.model, features),
        )
        rows = coded(self.model, features, x) if features.has_categories else Tensor(x, self.backend)
        return rows, y, weights


def _share(shares: Array, clock: Array, *, xp: Any, out: Array | None) -> Array:
    """Return the share of the batch, without axes."""
    return written(at_batch(xp, shares, clock[BATCH : BATCH + 1]).reshape(()), out)


@contextlib.contextmanager
def weights_in_place(model: Model, weights: Array) -> Iterator[None]:
    """Let the model compute with other weights (the moving average) for a while."""
    parameters = model.parameters
    if weights is parameters.values:
        yield
        return
    initial = parameters.backend.asarray(parameters.values, copy=True)
    parameters.write(weights)
    try:
        yield
    finally:
        parameters.write(initial)

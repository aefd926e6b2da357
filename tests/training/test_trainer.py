from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.data import Dataset
from gpumlp.nn import BatchNorm, Dense, Dropout, Loss, Sequential
from gpumlp.ops import batches
from gpumlp.ops.random import permute
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training.trainer import Trainer, weights_in_place


def make(
    rows: int = 50, batch: int = 16, *, bytes_: bool = False, weights: bool = False, **options: object
) -> Trainer:
    """Return a trainer on random rows; the first input of each row is its number."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (rows, 5), np.uint8) if bytes_ else rng.standard_normal((rows, 5)).astype(np.float32)
    x[:, 0] = np.arange(rows) % 256
    data = Dataset(x, rng.integers(0, 3, rows).astype(np.int32), rng.random(rows, np.float32) if weights else None)
    model = Sequential([Dense(8, "tanh"), Dropout(0.2), BatchNorm(), Dense(3, "softmax")]).build(5, backend=Backend())
    loss = Loss("cross_entropy", model)
    optimizer = Optimizer("adam", model.parameters, model.context.clock, clip_norm=1.0, averaging=0.9)
    schedule = Schedule("cosine", learning_rate=1e-2, warmup=0.1)
    scale = 1 / 255 if bytes_ else 1.0
    return Trainer(model, loss, optimizer, schedule, data, epochs=4, batch_size=batch, input_scale=scale, **options)


@pytest.mark.parametrize(("rows", "batch"), [(50, 16), (48, 16), (7, 16), (1, 1), (33, 32)])
def test_an_epoch_visits_every_row_once(rows: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[int] = []

    def noted(*given: Any) -> Any:
        visited.extend(chosen := permute(*given))
        return chosen

    monkeypatch.setattr(batches, "permute", noted)
    trainer = make(rows, batch)
    order = []
    for _ in range(3):
        visited.clear()
        trainer.run_epoch()
        order.append(visited.copy())
        assert sorted(visited) == list(range(rows))
    assert trainer.batches == -(-rows // batch)
    if rows > 7:
        assert order[0] != order[1]


@pytest.mark.parametrize("bytes_", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_replayed_epochs_equal_plain_steps_bit_for_bit(bytes_: bool, weights: bool) -> None:
    """The same epochs, written out: numpy indexing for the batch, an eager tape for the step."""
    trainer, twin = (make(bytes_=bytes_, weights=weights) for _ in range(2))
    data, model, optimizer, b = trainer.data, twin.model, twin.optimizer, twin.backend
    for epoch in range(3):
        report = trainer.run_epoch()
        totals = np.zeros(4)
        rates = twin.schedule.rates(epoch, twin.batches, twin.epochs)
        b.write(model.context.clock, [epoch * twin.batches, 0, epoch])
        for start in range(0, 50, 16):
            rows = permute(np, np.arange(start, min(start + 16, 50)), 50, np.array([epoch]), trainer._key)
            x = data.arrays[0][rows].astype(np.float32)
            x = x * data.scale if bytes_ else x
            s = None if data.arrays[2] is None else data.arrays[2][rows]
            with GradientTape() as tape:
                loss, sums = twin.loss(model.forward(Tensor(x, b), training=True), data.arrays[1][rows], s)
            model.parameters.collect(tape, loss)
            optimizer.step(rates.astype(np.float32))
            totals += sums.array
        assert report.loss == totals[0] / totals[1]
        assert report.accuracy == totals[2] / totals[3]
        for buffer in ("values", "gradients"):
            np.testing.assert_array_equal(
                getattr(trainer.model.parameters, buffer), getattr(model.parameters, buffer)
            )
        np.testing.assert_array_equal(trainer.optimizer.average, optimizer.average)
        for name, state in trainer.model.state.items():
            np.testing.assert_array_equal(state, model.state[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_decay_and_dropout_follow_their_schedules(backend: str) -> None:
    """Captured steps read tables: as steps that are written out, each with its own rates as plain settings."""
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    data = Dataset(x, (x[:, 0] > 0).astype(np.int32), None)
    epochs, batches, decay, drop = 4, 3, 0.5, 0.4

    def parts() -> tuple[Sequential, Loss, Optimizer]:
        layers = [Dense(8, "tanh"), Dropout(drop), Dense(2, "softmax")]
        model = Sequential(layers).build(4, backend=backends.get(backend), dtype=np.float64, seed=5)
        optimizer = Optimizer("adamw", model.parameters, model.context.clock, weight_decay=decay)
        return model, Loss("cross_entropy", model), optimizer

    def scheduled(name: str) -> Schedule:
        return Schedule(name, learning_rate=1.0)

    def trainer_of(model: Sequential, loss: Loss, optimizer: Optimizer) -> Trainer:
        return Trainer(
            model, loss, optimizer, Schedule("coslog", learning_rate=0.05), data, epochs=epochs, batch_size=10,
            decay_schedule=scheduled("flat_cos"), dropout_schedule=scheduled("cosine"),
        )  # fmt: skip

    trained = trainer_of(*parts())
    for _ in range(epochs):
        trained.run_epoch()

    paused = trainer_of(*parts())  # in the middle of the third epoch: a new trainer goes on with the same tables
    for _ in range(2):
        paused.run_epoch()
    assert paused.run_epoch(lambda done: done == 2) is None
    resumed = trainer_of(*parts())
    resumed.model.load(paused.model.arrays())
    for name, array in resumed.optimizer.state.items():
        resumed.backend.write(array, paused.backend.to_host(paused.optimizer.state[name]))
    resumed.go_to(paused.epoch, paused.batch, paused.seconds, paused.backend.to_host(paused.totals))
    for _ in range(2):
        resumed.run_epoch()

    model, loss, optimizer = parts()
    shares = np.arange(epochs * batches) / (epochs * batches)
    for step, t in enumerate(shares):
        epoch, batch = divmod(step, batches)
        model.context.backend.write(model.context.clock, [step, batch, epoch])
        rows = permute(np, np.arange(10 * batch, 10 * batch + 10), 30, np.array([epoch]), trained._key)
        model.chain[1].rate = drop * 0.5 * (1 + np.cos(np.pi * t))
        optimizer.settings["weight_decay"] = decay * 0.5 * (1 + np.cos(np.pi * max(0.0, 2 * t - 1)))
        rate = 0.05 * 0.5 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * t)))
        with GradientTape() as tape:
            inputs = Tensor(x[rows].astype(np.float64), model.context.backend)
            value, _ = loss(model.forward(inputs, training=True), data.targets[rows])
        model.parameters.collect(tape, value)
        optimizer.step(model.context.backend.asarray(np.array([rate])))
    for name, values in trained.model.arrays().items():
        np.testing.assert_allclose(values, model.arrays()[name], rtol=1e-9)
        np.testing.assert_array_equal(values, resumed.model.arrays()[name])


@pytest.mark.parametrize(("rows", "batch", "steps"), [(50, 16, 3), (48, 16, 3), (7, 16, 1), (1, 1, 1)])
def test_a_short_last_batch_can_be_left_out(rows: int, batch: int, steps: int) -> None:
    trainer, done = make(rows, batch, drop_last=True), []
    for _ in range(2):
        assert trainer.run_epoch(done.append) is not None
    assert done == [*range(1, steps + 1)] * 2
    assert trainer.steps == 2 * steps
    assert trainer.model.context.clock.tolist()[0] == 2 * steps
    assert trainer.totals[3] == steps * min(batch, rows)  # rows of the epoch that were trained on


def test_the_seed_decides_the_order() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    for trainer in (first, again, other):
        trainer.run_epoch()
    np.testing.assert_array_equal(first.model.parameters.values, again.model.parameters.values)
    assert not np.array_equal(first.model.parameters.values, other.model.parameters.values)


def test_an_epoch_after_the_first_calls_no_autodiff(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    trainer.run_epoch()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a replay must not come here")

    monkeypatch.setattr(GradientTape, "__enter__", forbidden)
    monkeypatch.setattr(type(trainer.backend), "run", forbidden)
    trainer.run_epoch()


def test_a_batch_is_reported_as_it_is_done() -> None:
    done: list[int] = []
    make().run_epoch(done.append)
    assert done == [1, 2, 3, 4]


def test_other_weights_for_a_while() -> None:
    trainer = make()
    trainer.run_epoch()
    values = trainer.model.parameters.values
    kept, average = values.copy(), trainer.optimizer.average
    with weights_in_place(trainer.model, average):
        np.testing.assert_array_equal(values, average)
    np.testing.assert_array_equal(values, kept)
    assert not np.array_equal(kept, average)


@pytest.mark.parametrize("bytes_", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_a_pause_leaves_no_trace(bytes_: bool, every: int) -> None:
    """Pause after so many batches, and go on in a trainer that is new."""
    whole, first, second = (make(bytes_=bytes_, weights=True) for _ in range(3))
    expected = [whole.run_epoch() for _ in range(2)]
    assert first.run_epoch(lambda done: done == every) is None
    assert (first.epoch, first.batch, first.steps) == (0, every, every)
    second.model.load(first.model.arrays())
    for name, state in first.optimizer.state.items():
        second.optimizer.state[name][...] = state
    second.go_to(first.epoch, first.batch, first.seconds, first.totals)
    for trainer in (first, second):
        batches: list[int] = []
        reports = [trainer.run_epoch(batches.append), trainer.run_epoch()]
        assert batches == list(range(every + 1, 5))
        for report, wanted in zip(reports, expected, strict=True):
            assert report is not None
            assert wanted is not None
            assert (report.epoch, report.loss, report.accuracy) == (wanted.epoch, wanted.loss, wanted.accuracy)
        np.testing.assert_array_equal(trainer.model.parameters.values, whole.model.parameters.values)
        np.testing.assert_array_equal(trainer.optimizer.average, whole.optimizer.average)
        assert trainer.steps == 8


@pytest.mark.parametrize("together", [2, 3, 4, 16])
@pytest.mark.parametrize(("rows", "batch"), [(50, 4), (48, 4), (7, 16), (33, 32)])
def test_steps_replayed_together_are_steps_one_at_a_time(rows: int, batch: int, together: int) -> None:
    """Every buffer and every report, byte for byte; every batch is told of, in order."""
    single, several = make(rows, batch, together=1), make(rows, batch, together=together)
    for _ in range(3):
        told: list[list[int]] = [[], []]
        reports = [own.run_epoch(list_.append) for own, list_ in zip((single, several), told, strict=True)]
        assert told == [list(range(1, single.batches + 1))] * 2
        assert len({(r.loss, r.accuracy, r.learning_rate) for r in reports if r}) == 1
        for name in ("values", "gradients"):
            a, b = (getattr(own.model.parameters, name) for own in (single, several))
            np.testing.assert_array_equal(a, b)
        for name, array in single.optimizer.state.items():
            np.testing.assert_array_equal(array, several.optimizer.state[name])
        np.testing.assert_array_equal(single.model.context.clock, several.model.context.clock)


def test_few_plans_serve_every_number_of_steps() -> None:
    """Powers of two, whatever is left of an epoch: 48 batches and a short one, from any of them on."""
    trainer = make(194, 4, together=16)
    for first in range(49):
        trainer.go_to(0, first, 0.0, np.zeros(4))
        trainer.run_epoch()
    assert sorted(trainer._plans) == [(2, 1, 194), *((4, count, 194) for count in (1, 2, 4, 8, 16))]


@pytest.mark.parametrize("every", [1, 3, 5, 16, 20])
def test_a_pause_falls_exactly_where_it_is_due(every: int) -> None:
    """At each multiple of `every`, counted over epochs, and nowhere else but at the end of an epoch."""
    trainer, whole = make(50, 4, together=16), make(50, 4)
    pauses = []
    while trainer.epoch < 3:
        first = trainer.epoch * trainer.batches
        if trainer.run_epoch(lambda done, first=first: (first + done) % every == 0, every=every) is None:  # type: ignore[misc]
            pauses.append(trainer.steps)
    ends = {trainer.batches * n for n in (1, 2, 3)}
    assert pauses == [step for step in range(every, 39, every) if step not in ends]
    for _ in range(3):
        whole.run_epoch()
    np.testing.assert_array_equal(trainer.model.parameters.values, whole.model.parameters.values)


@pytest.mark.parametrize("at", [1, 2, 7, 12])
def test_a_pause_unasked_for_falls_behind_the_steps_of_its_launch(at: int) -> None:
    """A signal: training stops soon after, at a place that another process goes on from to the same bytes."""
    trainer, whole, second = make(50, 4, together=4), make(50, 4), make(50, 4, together=16)
    for own in (trainer, whole):
        own.run_epoch()
    assert trainer.run_epoch(lambda done: done >= at) is None
    assert at <= trainer.batch < at + 4
    second.model.load(trainer.model.arrays())
    for name, array in trainer.optimizer.state.items():
        second.optimizer.state[name][...] = array
    second.go_to(trainer.epoch, trainer.batch, trainer.seconds, trainer.totals)
    found, wanted = second.run_epoch(), whole.run_epoch()
    assert found is not None
    assert wanted is not None
    assert (found.loss, found.accuracy) == (wanted.loss, wanted.accuracy)
    np.testing.assert_array_equal(second.model.parameters.values, whole.model.parameters.values)


def test_no_pause_after_the_last_batch() -> None:
    assert make().run_epoch(lambda done: done == 4) is not None


def test_the_captured_step_starts_the_epoch_again_each_time() -> None:
    trainer = make()
    plan = trainer.captured()
    names = plan.names()
    assert names[0] == "gather_forward"
    assert names[-1] == "accumulate_forward"
    assert {len(call.shapes) for call in plan.calls if call.name == "matmul"} == {2}
    for _ in range(10):  # more than there are batches: each is the first of its epoch
        assert trainer.captured() is plan
        clock = trainer.model.context.clock.copy()
        plan()
    assert clock.tolist() == [0, 0, 0]


def test_a_captured_step_is_the_one_that_training_replays() -> None:
    trainer = make()
    plan = trainer.captured()
    trainer.run_epoch()
    assert trainer.captured() is plan

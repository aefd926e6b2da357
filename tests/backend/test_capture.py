"""Capture and replay: the same bits as eager, and refusals by name."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from support import bits

from gpumlp import autodiff
from gpumlp.autodiff import GradientTape, Tensor, Variable, activate, dense, matmul, mul, transpose
from gpumlp.backend import Backend
from gpumlp.errors import CaptureError, GpumlpError
from gpumlp.nn import LOSSES, Activation, BatchNorm, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, RECORDS
from gpumlp.optim import OPTIMIZERS, Optimizer

ROWS, BATCH, WIDTH, CLASSES = 40, 8, 5, 3


class Run:
    """A small training run, with everything that a step can hold."""

    def __init__(self, optimizer="adam", activation="tanh", loss="cross_entropy", clip=0.5, averaging=0.9):
        rng = np.random.default_rng(0)
        self.backend = Backend()
        classes = CLASSES if LOSSES[loss].task == "classification" else 2
        self.model = Sequential(
            [Dense(8), LayerNorm(), Activation(activation), Dropout(0.3), Dense(7), BatchNorm(), Dense(6, activation),
             Dropout(0.2), Dense(classes)]
        ).build(WIDTH, backend=self.backend, seed=4)  # fmt: skip
        hyper = {key: 0.1 if h.default == 0 else h.default for key, h in LOSSES[loss].hyper.items()}
        weights = np.arange(1, classes + 1) if LOSSES[loss].task == "classification" else None
        self.loss = Loss(loss, self.model, class_weights=weights, **hyper)
        parameters, clock = self.model.parameters, self.model.context.clock
        self.optimizer = Optimizer(
            optimizer, parameters, clock, learning_rate=0.05, weight_decay=0.01, clip_norm=clip,
            averaging=None if OPTIMIZERS[optimizer].averages else averaging,
        )  # fmt: skip
        self.optimizer.rates = self.backend.asarray(np.linspace(0.05, 0.01, ROWS // BATCH, dtype=np.float32))
        x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
        labels = rng.integers(0, classes, ROWS).astype(np.int32)
        y = labels if weights is not None else rng.standard_normal((ROWS, classes)).astype(np.float32)
        if LOSSES[loss].task == "multilabel":
            y = (y > 0).astype(np.float32)
        if loss == "poisson":  # counts
            y = np.abs(y)
        self.data = x, y, rng.uniform(0.5, 2, ROWS).astype(np.float32)
        self.totals = np.zeros(4)
        self.history = []

    def begin(self, epoch):
        self.backend.write(self.model.context.clock, [epoch * (ROWS // BATCH), 0, epoch])

    def step(self):
        clock = self.model.context.clock
        params = {"rows": BATCH, "stride": BATCH, "key": 5, "scale": 1.0, "dtype": "<f4"}
        x, y, w = self.backend.run(RECORDS["gather"], "forward", (clock, *self.data), None, **params)
        with GradientTape() as tape:
            loss, sums = self.loss(self.model.forward(Tensor(x, self.backend), training=True), y, w)
        parameters = self.model.parameters
        parameters.collect(tape, loss)
        self.optimizer.step()
        self.backend.run(RECORDS["accumulate"], "forward", (self.totals, sums.array), (self.totals,))

    def everything(self):
        buffers = [
            self.model.parameters.values,
            self.model.parameters.gradients,
            self.totals,
            self.model.context.clock,
        ]
        return [bits(a) for a in (*buffers, *self.optimizer.state.values(), *self.model.state.values())]

    def train(self, captured, epochs=5):
        step, plan = self.step, None
        for epoch in range(epochs):
            self.begin(epoch)
            for _ in range(ROWS // BATCH):
                if captured and plan is None:
                    plan = step = self.backend.capture(self.step)
                else:
                    step()
                self.history.append(self.everything())
        return self.history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replay_is_eager_bit_for_bit(optimizer):
    eager, captured = Run(optimizer).train(False), Run(optimizer).train(True)
    assert len({tuple(state) for state in eager}) == 25  # the run moves at each step
    assert eager == captured


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_replay_is_eager_for_every_activation(activation):
    assert Run(activation=activation).train(False, 1) == Run(activation=activation).train(True, 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_replay_is_eager_for_every_loss(loss):
    arguments = {"loss": loss, "clip": None, "averaging": None}
    assert Run(**arguments).train(False, 2) == Run(**arguments).train(True, 2)


def test_a_replay_makes_no_tape_and_calls_nothing_of_autodiff(monkeypatch):
    expected = Run().train(False)
    run = Run()
    run.begin(0)
    plan = run.backend.capture(run.step)

    def refuse(*_, **__):
        raise AssertionError("called in a replay")

    for module, name in (
        (autodiff.tape, "record"), (autodiff.tensor, "record"), (autodiff.fused, "record"),
        (autodiff.functions, "record"), (autodiff.tensor, "raw"), (autodiff.fused, "raw"),
        (Tensor, "__init__"), (GradientTape, "__init__"), (Backend, "run"), (Backend, "compute"), (Backend, "bind"),
        (Backend, "allocate"), (Backend, "matmul"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    for _ in range(4):
        plan()
    assert run.everything() == expected[4]


def test_a_plan_owns_its_arrays():
    expected = Run().train(False)
    run = Run()
    run.begin(0)
    plan = run.backend.capture(run.step)
    for _ in range(4):
        gc.collect()
        junk = [np.full(n, np.nan, np.float32) for n in (8, 15, 24, 40, 48, 64, 256) for _ in range(50)]
        plan()
        del junk
    assert run.everything() == expected[4]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: transpose(x, (2, 1, 0)).reshape(-1),
        lambda x: dense(transpose(x, (2, 1, 0)), np.ones((2, 2)), np.zeros(2), "tanh"),
        lambda x: dense(transpose(x, (2, 1, 0)), x[:, 0, :2], x[0, 0, ::2], "tanh"),
        lambda x: matmul(np.ones(2), transpose(x, (2, 0, 1))),
        lambda x: x[np.array([1, 0])] + x[:, ::-1] * autodiff.mean(x, axis=(0, 2), keepdims=True),
        lambda x: autodiff.concat([x, autodiff.stack([x[0], x[1]])], axis=1),
        lambda x: autodiff.where(x > 5.0, x, autodiff.max(x, axis=1, keepdims=True)) ** 1.5,
        lambda x: 2.0**x / (1.0 - autodiff.exp(-x - 1.0)),
        lambda x: x.astype("float32").astype("float64"),
    ],
)
def test_views_copies_and_gradients_are_made_again(function):
    backend = Backend()
    first = np.arange(1.0, 25.0).reshape(2, 3, 4)

    def step(array):
        x = Tensor(array, backend)
        with GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    plan = backend.capture(step, first)
    for factor in (0.1, 0.7):
        replayed, eager = plan(first * factor), step(first * factor)
        for a, b in zip(replayed, eager, strict=True):
            assert bits(a.array) == bits(b.array)


def test_inputs_are_copied_and_refilled():
    backend, given = Backend(), np.array([1.0, 2.0])
    plan = backend.capture(lambda x: Tensor(x, backend) * 2.0, given)
    assert plan(np.array([3.0, 4.0])).numpy().tolist() == [6, 8]
    assert given.tolist() == [1, 2]
    assert plan.names() == ["mul"]
    for wrong in (np.zeros(3), np.zeros(2, np.float32), np.zeros((1, 2))):
        with pytest.raises(CaptureError, match=r"input 0 has changed: captured float64 \(2,\)"):
            plan(wrong)
    with pytest.raises(CaptureError, match="takes 1 inputs, 2 were given"):
        plan(given, given)
    assert plan(np.array([5.0, 6.0])).numpy().tolist() == [10, 12]


def hold(backend):
    return Variable(np.array([1.0, 2.0]), backend, name="W")


REFUSED = {
    "float()": (lambda b, v: float(autodiff.sum(v)), "the step reads the value of a tensor on the host, which"),
    "bool()": (lambda b, v: bool(autodiff.sum(v) > 0), "the step branches on the value of a tensor, which"),
    "if": (lambda b, v: v if v[0] > 0 else -v, "branches on the value of a tensor"),
    "numpy()": (lambda b, v: (v * 2.0).numpy(), "a read on the host"),
    "to_host": (lambda b, v: b.to_host(v.array), "a read on the host"),
    "zeros": (lambda b, v: b.zeros((2,), np.float32), "an allocation"),
    "empty": (lambda b, v: b.empty((2,), np.float32), "an allocation"),
    "a list": (lambda b, v: v * [1.0, 2.0], "a copy from the host"),
    "asarray": (lambda b, v: b.asarray([1.0]), "a copy from the host"),
    "a new variable": (lambda b, v: Variable([1.0], b), "a copy from the host"),
    "assign": (lambda b, v: v.assign([1.0, 2.0]), "a write from the host"),
    "a mask": (lambda b, v: v[v > 1.0], "a mask"),
    "nested": (lambda b, v: b.capture(lambda: v * 2.0), "being captured already"),
}


@pytest.mark.parametrize("act", REFUSED)
def test_what_cannot_be_replayed_is_refused_by_name(act):
    backend = Backend()
    v = hold(backend)
    step, message = REFUSED[act]

    def whole():
        mul(v, 2.0)
        step(backend, v)

    with pytest.raises(CaptureError, match=message):
        backend.capture(whole)
    assert not backend.capturing
    assert float(autodiff.sum(v)) == 3.0  # the backend works on, eagerly
    assert backend.capture(lambda: mul(v, 3.0))().numpy().tolist() == [3, 6]  # and can capture


def test_a_second_derivative_through_a_fused_operation_is_refused():
    backend = Backend()
    v = hold(backend)

    def step():
        with GradientTape() as outer:
            with GradientTape() as inner:
                y = activate("tanh", v)
            slope = inner.gradient(y, v)
        return outer.gradient(slope, v)

    with pytest.raises(CaptureError, match="second derivative of tanh"):
        backend.capture(step)


def test_an_empty_step_is_refused():
    with pytest.raises(CaptureError, match="made no call on the backend 'numpy'"):
        Backend().capture(lambda: None)


def test_an_error_of_the_step_itself_goes_through_and_leaves_the_backend_usable():
    backend = Backend()
    v = hold(backend)
    with pytest.raises(GpumlpError, match="do not fit"):
        backend.capture(lambda: v + np.ones(3))
    with pytest.raises(ZeroDivisionError):
        backend.capture(lambda: 1 / 0)
    assert not backend.capturing
    assert (v * 2.0).numpy().tolist() == [2, 4]


def test_repr_is_not_a_read():
    backend = Backend()
    v = hold(backend)
    seen = []
    backend.capture(lambda: seen.append(repr(v * 2.0)))
    assert "being captured" in seen[0]
    assert "2." in repr(v)


def test_capturing_on_one_backend_leaves_another_alone():
    here, there = Backend(), Backend()
    v = hold(here)
    seen = []

    def step():
        seen.append(there.to_host(there.zeros((1,), np.float32)))
        return v * 2.0

    assert here.capture(step).names() == ["mul"]
    assert seen[0].tolist() == [0]

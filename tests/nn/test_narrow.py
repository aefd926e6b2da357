"""Models in bfloat16: float32 weights with a narrow shadow, gradients within what the roundings allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import BACKENDS, bits

from gpumlp import backend as backends
from gpumlp import convert
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.errors import TapeError
from gpumlp.nn import LOSSES, Activation, BatchNorm, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.precision import dtype_of
from gpumlp.optim import OPTIMIZERS, Optimizer
from gpumlp.training.trainer import weights_in_place

NARROW = dtype_of("bfloat16")
U = 2.0**-8
"""The largest relative error of one rounding to bfloat16."""
SUMS = 2.0**-18
"""More than the relative error of the float32 sums here, of at most 48 terms."""


@pytest.fixture(params=BACKENDS, scope="module")
def machine(request: pytest.FixtureRequest) -> Backend:
    return backends.get(request.param)


def network(machine: Backend, norm: str = "none", outputs: int = 3, dtype: Any = "bfloat16") -> Sequential:
    norms = {"none": [], "layer": [LayerNorm()], "batch": [BatchNorm()]}[norm]
    first = Dense(16, bias=norm != "batch")
    layers = [first, *norms, Activation("tanh"), Dropout(0.2), Dense(8, "relu"), Dense(outputs)]
    return Sequential(layers).build(5, backend=machine, dtype=dtype, seed=3)


def agree(model: Sequential) -> bool:
    """Return whether the shadow is the values rounded, bit for bit."""
    p, host = model.parameters, model.context.backend.to_host
    assert p.shadow is not None
    return bits(host(p.shadow)) == bits(host(p.values).astype(NARROW))


def gradients(model: Sequential, loss: Loss, x: Any, y: Any, weights: Any = None) -> tuple[Tensor, list[Any]]:
    p, backend = model.parameters, model.context.backend
    with GradientTape() as tape:
        value, _ = loss(model.forward(Tensor(backend.asarray(x, NARROW), backend), training=True), y, weights)
    p.collect(tape, value)
    return value, p.views


def test_the_parts_have_the_dtypes_they_should(machine: Backend) -> None:
    model = network(machine, "batch")
    p = model.parameters
    assert (p.values.dtype, p.gradients.dtype, p.shadow.dtype) == (np.float32, np.float32, NARROW)
    assert {a.dtype for a in model.state.values()} == {np.dtype(np.float32)}
    assert {v.dtype for v in p.variables.values()} == {np.dtype(np.float32)}
    assert {a.dtype for a in model.arrays().values()} == {np.dtype(np.float32)}
    x = np.ones((4, 5), np.float32)
    assert model.forward(Tensor(machine.asarray(x, NARROW), machine)).dtype == NARROW
    assert model(x).dtype == model.predict(x).dtype == model.predict(x[:0]).dtype == np.float32
    optimizer = Optimizer("adam", p, model.context.clock, averaging=0.9, clip_norm=1.0)
    assert {a.dtype for a in (*optimizer.state.values(), optimizer.rates)} == {np.dtype(np.float32)}
    assert network(machine, dtype=np.float32).parameters.shadow is None


def test_whoever_writes_the_weights_writes_their_shadow(machine: Backend) -> None:
    model = network(machine)
    p, rng = model.parameters, np.random.default_rng(0)
    assert agree(model)
    model.load({name: rng.standard_normal(a.shape) for name, a in model.arrays().items()})
    assert agree(model)
    p.variables["dense_1.W"].assign(rng.standard_normal((5, 16)))
    assert agree(model)
    convert.read(model, convert.write(network(machine), "pytorch"), "pytorch")
    assert agree(model)
    optimizer = Optimizer("adam", p, model.context.clock, averaging=0.5)
    machine.write(p.gradients, rng.standard_normal(p.gradients.shape))
    for _ in range(3):
        optimizer.step()
        assert agree(model)
    kept = bits(machine.to_host(p.shadow))
    with weights_in_place(model, optimizer.weights):
        assert agree(model)
        assert bits(machine.to_host(p.shadow)) != kept
    assert bits(machine.to_host(p.shadow)) == kept


def test_gradients_are_within_the_roundings_of_those_in_float64(machine: Backend) -> None:
    """The bound follows each rounding through the network, element by element, to first order.

    A product p = h W is rounded, u|p|, as is what follows its bias and tanh, whose slope is at most 1; so a value is
    off by e' = e|W| + u|p| + u|h'|. Of softmax no element moves by more than half of what the logits do together.
    Backward, d = (D Wᵀ) (1 - h²) is off by what D is, by what h is, and by its own two roundings; dW = hᵀ d, in
    float32, by what h and d are.
    """
    model = Sequential([Dense(48, "tanh"), Dense(32, "tanh"), Dense(6)])
    model.build(20, backend=machine, dtype="bfloat16", seed=1)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((24, 20)).astype(NARROW)
    y = rng.integers(0, 6, 24)
    value, views = gradients(model, Loss("cross_entropy", model), x, y)
    assert value.dtype == np.float32

    shadow = {name: machine.to_host(v.shadow).astype(float) for name, v in model.parameters.variables.items()}
    weights = [shadow[f"dense_{i}.W"] for i in (1, 2, 3)]
    h, error, inputs = x.astype(float), np.zeros(x.shape), []
    for i, W in enumerate(weights):
        inputs.append((h, error))
        product = h @ W
        error = error @ np.abs(W) + (U + SUMS) * (np.abs(product) + np.abs(h) @ np.abs(W) * SUMS)
        z = product + shadow[f"dense_{i + 1}.b"]
        h = np.tanh(z) if i < 2 else z
        error = error + (U + SUMS) * np.abs(h)
    softmax = np.exp(h - h.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    d = (softmax - np.eye(6)[y]) / len(y)
    off = 0.5 * error.sum(axis=1, keepdims=True) / len(y) + (U + SUMS) * np.abs(d)
    worst = 0.0
    for i in (2, 1, 0):
        before, its_error = inputs[i]
        for part, exact, allowed in (
            ("W", before.T @ d, its_error.T @ np.abs(d) + np.abs(before).T @ (off + SUMS * np.abs(d))),
            ("b", d.sum(axis=0), (off + SUMS * np.abs(d)).sum(axis=0)),
        ):
            found = machine.to_host(views[[*shadow].index(f"dense_{i + 1}.{part}")])
            assert found.dtype == np.float32
            # What is of second order is by another factor of about u smaller.
            assert (np.abs(found - exact) <= 1.05 * allowed).all(), f"{part} of layer {i + 1}"
            worst = max(worst, np.linalg.norm(found - exact) / np.linalg.norm(exact))
        g = d @ weights[i].T
        off = off @ np.abs(weights[i]).T + (U + SUMS) * np.abs(g)
        slope = 1 - before**2
        off = off * slope + np.abs(g) * 2 * np.abs(before) * its_error + (U + SUMS) * np.abs(g * slope)
        d = g * slope
    assert 1e-4 < worst < 2e-2  # rounded, and right


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_native_computes_what_numpy_does(norm: str) -> None:
    """Products are summed in another order, so now and then a result falls on the other side of a rounding."""
    found = []
    for name in ("numpy", "native"):
        try:
            model = network(backends.get(name), norm)
        except backends.BackendError as error:
            pytest.skip(str(error))
        rng = np.random.default_rng(2)
        x, y, weights = rng.standard_normal((40, 5)), rng.integers(0, 3, 40), rng.uniform(0.5, 2, 40).astype("f4")
        value, _ = gradients(model, Loss("cross_entropy", model, class_weights=[1.0, 2.0, 0.5]), x, y, weights)
        found.append((float(value), model.parameters.gradients.copy()))
    (one, g), (other, h) = found
    assert abs(one - other) <= U / 4 * abs(one)
    assert np.linalg.norm(g - h) <= U * np.linalg.norm(g)
    assert np.linalg.norm(g) > 0.01


def training(machine: Backend, model: Sequential, loss: Loss, optimizer: Optimizer, y: Any) -> list[float]:
    """Return the losses of some captured steps on one batch."""
    x = Tensor(machine.asarray(np.random.default_rng(1).standard_normal((32, 5)), NARROW), machine)
    p, goal = model.parameters, machine.asarray(y)

    def step() -> Tensor:
        with GradientTape() as tape:
            value, _ = loss(model.forward(x, training=True), goal)
        p.collect(tape, value)
        optimizer.step()
        return value

    plan = machine.capture(step)
    losses = [float(plan.result)]
    for _ in range(30):
        plan()
        losses.append(float(plan.result))
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_every_optimizer_lowers_the_loss(machine: Backend, name: str, norm: str) -> None:
    model = network(machine, norm)
    optimizer = Optimizer(
        name,
        model.parameters,
        model.context.clock,
        clip_norm=5.0,
        averaging=None if OPTIMIZERS[name].averages else 0.9,
        learning_rate=0.02,
    )
    losses = training(machine, model, Loss("cross_entropy", model), optimizer, np.arange(32) % 3)
    assert min(losses[-3:]) < losses[0]
    assert agree(model)


CASES: dict[str, tuple[int, Callable[[], Any]]] = {
    "cross_entropy": (3, lambda: np.arange(32) % 3),
    "binary": (1, lambda: np.arange(32) % 2),
    "soft targets": (3, lambda: (np.arange(96).reshape(32, 3) % 2).astype(np.float32)),
    "squared_error": (2, lambda: np.sin(np.arange(64, dtype=np.float32)).reshape(32, 2)),
    "absolute_error": (2, lambda: np.sin(np.arange(64, dtype=np.float32)).reshape(32, 2)),
    "huber": (2, lambda: np.sin(np.arange(64, dtype=np.float32)).reshape(32, 2)),
    "quantile": (2, lambda: np.sin(np.arange(64, dtype=np.float32)).reshape(32, 2)),
    "focal": (3, lambda: np.arange(32) % 3),
    "hinge": (3, lambda: np.arange(32) % 3),
    "binary_focal": (2, lambda: np.arange(64).reshape(32, 2) % 2),
    "absolute_percentage_error": (2, lambda: 1 + np.sin(np.arange(64, dtype=np.float32)).reshape(32, 2)),
    "poisson": (2, lambda: np.arange(64, dtype=np.float32).reshape(32, 2) % 5),
}


@pytest.mark.parametrize("case", CASES)
def test_every_loss_falls(machine: Backend, case: str) -> None:
    outputs, targets = CASES[case]
    model = network(machine, outputs=outputs)
    loss = Loss(case if case in LOSSES else "cross_entropy", model)
    losses = training(machine, model, loss, Optimizer("adam", model.parameters, model.context.clock), targets())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_stored_narrow_and_has_a_gradient(machine: Backend, activation: str) -> None:
    model = Sequential([Dense(6, activation), Dense(3)]).build(5, backend=machine, dtype="bfloat16")
    rng = np.random.default_rng(0)
    _, views = gradients(model, Loss("cross_entropy", model), rng.standard_normal((9, 5)), np.arange(9) % 3)
    assert all(np.isfinite(machine.to_host(view)).all() and machine.to_host(view).any() for view in views)


@pytest.mark.parametrize("bias", [True, False])
def test_a_second_derivative_is_refused(machine: Backend, bias: bool) -> None:
    layer, x = Dense(3, bias=bias), Tensor(np.ones((4, 5)).astype(NARROW), machine)
    with GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    with GradientTape(), pytest.raises(TapeError, match=r"second derivative of \w+ is not taken in bfloat16"):
        tape.gradient(y, [x])


def test_a_loss_that_is_scaled_scales_its_gradient(machine: Backend) -> None:
    model = Sequential([Dense(3)]).build(5, backend=machine, dtype="bfloat16")
    loss, x, y = Loss("cross_entropy", model), np.ones((6, 5)).astype(NARROW), np.arange(6) % 3
    _, plain = gradients(model, loss, x, y)
    before = [machine.to_host(view) for view in plain]
    with GradientTape() as tape:
        value = loss(model.forward(Tensor(x, machine)), y)[0] * 4.0
    for four, one in zip(tape.gradient(value, list(model.parameters.variables.values())), before, strict=True):
        np.testing.assert_array_equal(four.numpy(), 4 * one)


def test_bytes_are_scaled_before_they_are_rounded(machine: Backend) -> None:
    model = Sequential([Dense(3)]).build(4, backend=machine, dtype="bfloat16")
    pixels = np.arange(32, dtype=np.uint8).reshape(8, 4) * 8
    scaled = (pixels.astype(np.float32) * np.float32(1 / 255)).astype(NARROW)
    np.testing.assert_array_equal(model.predict(pixels, scale=1 / 255), model(scaled.astype(np.float32)).numpy())

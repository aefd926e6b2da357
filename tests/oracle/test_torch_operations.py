"""Single operations against PyTorch, edges included."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

import torch
from support import FLOATS, assert_close, run

from gpumlp.autodiff import GradientTape, Tensor, Variable, activate, layer_norm, loss_value, mixed
from gpumlp.autodiff import batch_norm as our_batch_norm
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS

F = torch.nn.functional
DTYPES = pytest.mark.parametrize("dtype", FLOATS)
FUNCTIONS = {
    "identity": lambda x: x * 1.0,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=40),  # above it PyTorch is the identity
    "softmax": lambda x: torch.softmax(x, dim=-1),
}


def ours(name, x, dy):
    v = Variable(x)
    with GradientTape() as tape:
        y = activate(name, v)
    return y.numpy(), tape.gradient(y, v, Variable(dy)).numpy()


def theirs(name, x, dy):
    v = torch.from_numpy(x).requires_grad_()
    y = FUNCTIONS[name](v)
    y.backward(torch.from_numpy(dy))
    return y.detach().numpy(), v.grad.numpy()


def test_the_map_is_complete():
    assert set(FUNCTIONS) == set(ACTIVATIONS)


@DTYPES
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes(name, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((40, 33)) * 4).astype(dtype)
    dy = rng.standard_normal(x.shape).astype(dtype)
    for a, b in zip(ours(name, x, dy), theirs(name, x, dy), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, "reduction")


@DTYPES
@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "softmax"])
def test_edges(name, dtype):
    """NaN for NaN, infinities and zeros alike, wherever PyTorch defines a value; ours may be NaN nowhere else."""
    x = np.array([0.0, -0.0, 300.0, -300.0, 1e30, -1e30, math.inf, -math.inf, math.nan], dtype)
    y, dx = ours(name, x, np.ones_like(x))
    their_y, their_dx = theirs(name, x, np.ones_like(x))
    for a, b in ((y, their_y), (dx, their_dx)):
        both = ~np.isnan(b[:8])
        assert_close(a[:8][both], b[:8][both])
    assert np.isnan(y[8])
    assert np.isnan(their_y[8])


@DTYPES
def test_softmax_edges(dtype):
    inf = math.inf
    x = np.array([[1e30, 1e30, 0], [-inf, 0, 1], [300, -300, 0], [inf, 0, 0], [-inf] * 3, [math.nan, 0, 0]], dtype)
    for a, b in zip(ours("softmax", x, np.ones_like(x)), theirs("softmax", x, np.ones_like(x)), strict=True):
        assert_close(a, b)


@DTYPES
@pytest.mark.parametrize("level", [0.0, 300.0, -300.0, 1e4, 1e30])
def test_cross_entropy_of_huge_logits(level, dtype):
    z = (np.random.default_rng(0).standard_normal((6, 4)) + level).astype(dtype)
    labels = np.array([0, 1, 2, 3, 0, 1])
    op = LOSS_RECORDS["softmax_cross_entropy"]
    loss, _, gradient = run(op, "forward", z, labels, None, None)
    v = torch.from_numpy(z).requires_grad_()
    expected = F.cross_entropy(v, torch.from_numpy(labels))
    expected.backward()
    assert_close(loss, expected.detach().numpy())
    assert_close(gradient, v.grad.numpy())


@DTYPES
@pytest.mark.parametrize("z", [0.0, 300.0, -300.0, 1e30, -1e30])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_binary_cross_entropy_of_huge_logits(z, t, dtype):
    z, t = np.full((1, 1), z, dtype), np.full((1, 1), t, dtype)
    loss, _, gradient = run(LOSS_RECORDS["binary_cross_entropy"], "forward", z, t, None, None)
    v = torch.from_numpy(z).requires_grad_()
    expected = F.binary_cross_entropy_with_logits(v, torch.from_numpy(t))
    expected.backward()
    assert_close(loss, expected.detach().numpy())
    assert_close(gradient, v.grad.numpy())


@DTYPES
@pytest.mark.parametrize("shape", [(16, 33), (2, 5), (1024, 4)])
def test_norms(shape, dtype):
    rng = np.random.default_rng(0)
    x, gain, bias, dy = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[1:], shape[1:], shape))
    for function, their in (
        (layer_norm, lambda x, g, b: F.layer_norm(x, shape[1:], g, b)),
        (lambda *a: our_batch_norm(*a)[0], lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True)),
    ):
        sources = [Variable(a) for a in (x, gain, bias)]
        with GradientTape() as tape:
            y = function(*sources)
        gradients = tape.gradient(y, sources, Variable(dy))
        tensors = [torch.from_numpy(a).requires_grad_() for a in (x, gain, bias)]
        expected = their(*tensors)
        expected.backward(torch.from_numpy(dy))
        assert_close(y.numpy(), expected.detach().numpy(), "reduction")
        for a, b in zip(gradients, tensors, strict=True):
            assert_close(a.numpy(), b.grad.numpy(), "reduction", scale=max(4.0, shape[0] / 32))


@DTYPES
@pytest.mark.parametrize("shape", [(16, 33), (2, 5), (1024, 4)])
def test_mixed_activations(shape, dtype):
    rng = np.random.default_rng(0)
    x, a, dy = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[1:], shape))
    for function, their in (
        (lambda x, a: mixed("selu", x, a), lambda x, a: x + a * (F.selu(x) - x)),
        (lambda x, a: mixed("mish", x, a), lambda x, a: x + a * (F.mish(x) - x)),
    ):
        sources = [Variable(x), Variable(a)]
        with GradientTape() as tape:
            y = function(*sources)
        gradients = tape.gradient(y, sources, Variable(dy))
        tensors = [torch.from_numpy(each).requires_grad_() for each in (x, a)]
        expected = their(*tensors)
        expected.backward(torch.from_numpy(dy))
        assert_close(y.numpy(), expected.detach().numpy(), "reduction")
        for ours, theirs in zip(gradients, tensors, strict=True):
            assert_close(ours.numpy(), theirs.grad.numpy(), "reduction", scale=max(4.0, shape[0] / 32))


EDGES = np.array([[0.0, -0.0, 1.0, 1.0], [-1.0, 0.0, 30.0, -30.0], [700.0, 700.0, -700.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
"""Zeros of both signs, equal values within a row, and the ends of ranges."""


def all_orders(function, x, orders):
    """Return the gradients of order 1, 2, ..., each of the last one weighted by a fixed array; zeros for None."""
    v, weights, found = Variable(x), [np.cos(x), np.sin(x + 1), np.cos(2 * x)], []
    with contextlib.ExitStack() as stack:
        tapes = [stack.enter_context(GradientTape()) for _ in range(orders)]
        y = function(v)
        for tape, w in zip(reversed(tapes), weights, strict=False):
            y = None if y is None else tape.gradient(y, v, Tensor(w) if y.shape else None)
            found.append(np.zeros(x.shape) if y is None else y.numpy())
    return found


def all_orders_of_torch(function, x, orders):
    t, weights, found = torch.from_numpy(x).requires_grad_(), [np.cos(x), np.sin(x + 1), np.cos(2 * x)], []
    y = function(t)
    for w in weights[:orders]:
        y = torch.autograd.grad(y, t, torch.from_numpy(w) if y.ndim else None, create_graph=True)[0]
        found.append(y.detach().numpy())
        y = y + 0 * t  # where nothing depends on t any more, the derivative is 0
    return found


@pytest.mark.parametrize("x", [np.random.default_rng(0).standard_normal((3, 4)), EDGES], ids=["random", "edges"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_to_the_third_order(name, x):
    ours = all_orders(lambda v: activate(name, v), x, 3)
    for order, (a, b) in enumerate(zip(ours, all_orders_of_torch(FUNCTIONS[name], x, 3), strict=True), 1):
        if name in ("elu", "selu") and order > 1:  # at 0 PyTorch has the slope of the left side, and no curvature
            a, b = a[x != 0], b[x != 0]
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11, err_msg=f"order {order}")


def _quantile(z, t, q):
    r = torch.from_numpy(t) - z
    return torch.maximum(q * r, (q - 1) * r).mean()


def _hinge(z, labels):  # multi_margin_loss, which has no second derivative in PyTorch
    true = z[range(4), labels][:, None]
    return (F.relu(1 - true + z) * (1 - torch.eye(4, dtype=z.dtype)[labels])).sum(-1).mean() / 4


def _focal(logarithm, gamma):
    return -((-torch.expm1(logarithm)) ** gamma * logarithm).mean()


@pytest.mark.parametrize("x", [np.random.default_rng(0).standard_normal((4, 4)), EDGES], ids=["random", "edges"])
@pytest.mark.parametrize(
    "case",
    ["labels", "smoothed", "soft", "binary", "focal", "binary focal", "hinge", "binary hinge", "percentage",
     "squared", "huber", "quantile", "poisson"],
)  # fmt: skip
def test_derivatives_of_losses_to_the_third_order(case, x):
    labels, shares = np.array([0, 3, 1, 2]), np.random.default_rng(1).dirichlet(np.ones(4), 4)
    sides, goals = np.array([[0.0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 0.5], [1, 0, 0.5, 1]]), np.full((4, 4), 0.25)
    softmax, binary = LOSS_RECORDS["softmax_cross_entropy"], LOSS_RECORDS["binary_cross_entropy"]
    as_torch = torch.from_numpy
    ours, theirs = {
        "labels": (lambda z: loss_value(softmax, z, labels)[0], lambda z: F.cross_entropy(z, as_torch(labels))),
        "smoothed": (
            lambda z: loss_value(softmax, z, labels, label_smoothing=0.1)[0],
            lambda z: F.cross_entropy(z, as_torch(labels), label_smoothing=0.1),
        ),
        "soft": (lambda z: loss_value(softmax, z, shares)[0], lambda z: F.cross_entropy(z, as_torch(shares))),
        "binary": (
            lambda z: loss_value(binary, z, sides)[0],
            lambda z: F.binary_cross_entropy_with_logits(z, as_torch(sides)),
        ),
        "focal": (
            lambda z: loss_value(LOSS_RECORDS["focal"], z, labels, gamma=2.0)[0],
            lambda z: _focal(F.log_softmax(z, -1)[range(4), labels], 2.0),
        ),
        "binary focal": (
            lambda z: loss_value(LOSS_RECORDS["binary_focal"], z, goals > 0.5, gamma=2.0)[0],
            lambda z: _focal(F.logsigmoid(-z), 2.0),
        ),
        "hinge": (
            lambda z: loss_value(LOSS_RECORDS["hinge"], 1.1 * z, labels)[0],
            lambda z: _hinge(1.1 * z, labels),
        ),
        "binary hinge": (
            lambda z: loss_value(LOSS_RECORDS["binary_hinge"], 1.1 * z, (sides > 0.5) * 1.0)[0],
            lambda z: F.relu(1 - 1.1 * torch.where(as_torch(sides) > 0.5, z, -z)).mean(),
        ),
        "percentage": (
            lambda z: loss_value(LOSS_RECORDS["absolute_percentage_error"], z, goals, floor=0.1)[0],
            lambda z: ((z - as_torch(goals)).abs() / 0.25).mean(),
        ),
        "squared": (
            lambda z: loss_value(LOSS_RECORDS["squared_error"], z, goals)[0],
            lambda z: F.mse_loss(z, as_torch(goals)),
        ),
        "huber": (
            lambda z: loss_value(LOSS_RECORDS["huber"], z, goals, delta=0.6)[0],
            lambda z: F.huber_loss(z, as_torch(goals), delta=0.6),
        ),
        "quantile": (
            lambda z: loss_value(LOSS_RECORDS["quantile"], z, goals, None, [0.1, 0.5, 0.5, 0.8])[0],
            lambda z: _quantile(z, goals, torch.tensor([0.1, 0.5, 0.5, 0.8], dtype=torch.float64)),
        ),
        "poisson": (
            lambda z: loss_value(LOSS_RECORDS["poisson"], z, goals)[0],
            lambda z: F.poisson_nll_loss(z, as_torch(goals)),
        ),
    }[case]
    for order, (a, b) in enumerate(zip(all_orders(ours, x, 3), all_orders_of_torch(theirs, x, 3), strict=True), 1):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11, err_msg=f"order {order}")

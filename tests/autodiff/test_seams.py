"""Derivatives where a formula changes its branch: at 0, at ties, at the ends of ranges, to the third order."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Variable, fused
from gpumlp.autodiff.functions import TapedModule
from gpumlp.backend import Backend
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS
from gpumlp.ops.special import normal_cdf, sigmoid, softplus

KINKED = ("relu", "leaky_relu", "elu", "selu")
"""Activations with a kink at 0, where the slope is that of the left side; the others are smooth."""
ZEROS = (0.0, -0.0)
NEAR = 1e-9
POINTS = np.array([-1e4, -745.0, -40.0, -1.0, -NEAR, -0.0, 0.0, NEAR, 1.0, 40.0, 745.0, 1e4])


def derivatives(function, x, orders, watchers=0):
    """Return the derivatives of order 1, 2, ... of a function that works element by element; 0 for None."""
    v = Variable(np.asarray(x, np.float64))
    found = []
    with ExitStack() as stack:
        for _ in range(watchers):
            stack.enter_context(GradientTape())
        tapes = [stack.enter_context(GradientTape()) for _ in range(orders)]
        y = function(v)
        for tape in reversed(tapes):
            y = tape.gradient(y, v)
            if y is None:
                break
            found.append(y.numpy())
    return found + [np.zeros(v.shape)] * (orders - len(found))


elementwise = pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "softmax"])


@elementwise
@pytest.mark.parametrize("zero", ZEROS)
def test_derivatives_at_zero_are_those_beside_it(name, zero):
    """A smooth function goes on as it came; one with a kink has the derivatives of its left side, to every order."""
    at = derivatives(fused.FUSED[name], [zero], 3)
    left, right = derivatives(fused.FUSED[name], [-NEAR], 3), derivatives(fused.FUSED[name], [NEAR], 3)
    for order in range(3):
        np.testing.assert_allclose(at[order], left[order], rtol=0, atol=1e-8, err_msg=f"order {order + 1}")
        if name not in KINKED:
            np.testing.assert_allclose(at[order], right[order], rtol=0, atol=1e-8, err_msg=f"order {order + 1}")


@elementwise
def test_a_first_derivative_does_not_depend_on_who_watches(name):
    (alone,) = derivatives(fused.FUSED[name], POINTS, 1)
    for watchers in (1, 2):
        (watched,) = derivatives(fused.FUSED[name], POINTS, 1, watchers)
        np.testing.assert_allclose(watched, alone, rtol=1e-15, atol=0)


@elementwise
def test_derivatives_are_finite_at_the_ends(name):
    for order, values in enumerate(derivatives(fused.FUSED[name], POINTS, 3), 1):
        assert np.isfinite(values).all(), order


@pytest.mark.parametrize("function", [sigmoid, softplus, normal_cdf])
def test_special_functions_state_their_own_derivative(function):
    module = TapedModule(Backend())
    at, left, right = (derivatives(lambda x: function(module, x), [p], 3) for p in (0.0, -NEAR, NEAR))
    for order in range(3):
        np.testing.assert_allclose(at[order], left[order], rtol=0, atol=1e-8)
        np.testing.assert_allclose(at[order], right[order], rtol=0, atol=1e-8)
    assert isinstance(function(module, np.zeros(2)), np.ndarray)  # constants stay arrays


def test_the_slope_of_sigmoid_keeps_its_relative_accuracy():
    module, x = TapedModule(Backend()), np.array([-700.0, -40.0, 40.0, 700.0])
    (slope,) = derivatives(lambda v: sigmoid(module, v), x, 1)
    np.testing.assert_allclose(slope, np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2, rtol=1e-14)


# ---- losses ------------------------------------------------------------------------------------------------------


def of_loss(op, targets, **params):
    """Return a loss of one column as a function that works element by element."""
    return lambda z: ad.loss_value(op, z, targets, **params)[0] * float(z.size)


@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.2}])
def test_binary_cross_entropy_at_zero(params):
    z, t = np.array([[0.0], [-0.0], [0.0], [-0.0], [0.0]]), np.array([[0.0], [0.0], [1.0], [1.0], [0.3]])
    function = of_loss(LOSS_RECORDS["binary_cross_entropy"], t, **params)
    goal = t * (1 - params.get("label_smoothing", 0.0)) + params.get("label_smoothing", 0.0) / 2
    first, second, third = derivatives(function, z, 3)
    np.testing.assert_allclose(first, 0.5 - goal, rtol=1e-15)
    np.testing.assert_allclose(second, np.full((5, 1), 0.25), rtol=1e-15)
    np.testing.assert_allclose(third, np.zeros((5, 1)), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("squared_error", ([2, 0, -2, 4], [2, 2, 2, 2])),
        ("absolute_error", ([1, 0, -1, 1], [0, 0, 0, 0])),
        # where |r| is δ the loss goes on as a line
        ("huber", ([1, 0, -1, 1], [0, 1, 0, 0])),
        ("quantile", ([0.5, 0, -0.5, 0.5], [0, 0, 0, 0])),
    ],
)
def test_regression_losses_where_they_change(name, wanted):
    found = derivatives(of_loss(LOSS_RECORDS[name], np.zeros((4, 1))), [[1.0], [0.0], [-1.0], [2.0]], 3)
    for values, expected in zip(found, (*wanted, [0, 0, 0, 0]), strict=True):
        np.testing.assert_array_equal(values.ravel(), expected)


@pytest.mark.parametrize("name", LOSS_RECORDS)
def test_the_gradient_of_a_loss_does_not_depend_on_who_watches(name):
    op = LOSS_RECORDS[name]
    z = np.array([[0.0, 0.0, 0.0], [-0.0, 5e3, 5e3], [1.0, -1.0, 1.0]])
    targets = np.array([0, 1, 2]) if op.link == "softmax" else np.array([[0.0, 1, 0], [0, 1, 1], [1, 0, 0.5]])
    (alone,) = derivatives(of_loss(op, targets), z, 1)
    (watched,) = derivatives(of_loss(op, targets), z, 1, 1)
    np.testing.assert_allclose(watched, alone, rtol=1e-15, atol=0)

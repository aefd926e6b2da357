"""Activations: values, slopes and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import ACTIVATION_REFERENCES, FLOATS, activation_reference, assert_close, poison, run, slopes

from gpumlp.ops import ACTIVATIONS

every = pytest.mark.parametrize("name", ACTIVATIONS)
elementwise = pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "softmax"])
dtypes = pytest.mark.parametrize("dtype", FLOATS)

GRID = np.concatenate(
    [np.linspace(-12, 12, 241), [1e-8, -1e-8, 1e-3, -1e-3, 37.0, -37.0, 88.0, -88.0, 300.0, -300.0]]
)

LIMITS = {  # at -inf and at +inf; NaN where the formula is 0·inf
    "identity": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "leaky_relu": (-math.inf, math.inf),
    "elu": (-1.0, math.inf),
    "selu": (-1.0507009873554805 * 1.6732632423543772, math.inf),
    "gelu": (math.nan, math.inf),
    "silu": (math.nan, math.inf),
    "mish": (math.nan, math.inf),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, math.inf),
}
SLOPES_AT_ZERO = {
    "identity": 1.0,
    "relu": 0.0,
    "leaky_relu": 0.01,
    "elu": 1.0,
    "selu": 1.0507009873554805 * 1.6732632423543772,
    "gelu": 0.5,
    "silu": 0.5,
    "mish": 0.6,
    "sigmoid": 0.25,
    "tanh": 1.0,
    "softplus": 0.5,
}


def forward(name, x):
    return run(ACTIVATIONS[name], "forward", x)[0]


def backward(name, x, dy):
    op = ACTIVATIONS[name]
    saved = x if op.saves == "input" else forward(name, x)
    return run(op, "backward", saved, dy)[0]


@every
@dtypes
def test_forward_agrees_with_the_reference(name, dtype):
    x = GRID.astype(dtype)
    x = x[:250].reshape(10, 25) if name == "softmax" else x
    assert_close(forward(name, x), activation_reference(name, x))


@elementwise
@dtypes
def test_small_values_are_right_to_their_own_last_digits(name, dtype):
    """Tails and the neighbourhood of 0, where a tolerance that is absolute sees nothing."""
    near = np.array([s * 10.0**e for e in np.arange(-36, -1, 0.7) for s in (1, -1)])
    left = {"gelu": -4.0, "elu": -20.0, "selu": -20.0}.get(name, -80.0)
    x = np.concatenate([near, np.linspace(left, 80, 331)]).astype(dtype)
    got, exact = forward(name, x), activation_reference(name, x)
    seen = np.abs(exact) > 4 * float(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(got[seen], exact[seen], rtol=16 * np.finfo(dtype).eps)


@elementwise
@dtypes
def test_backward_agrees_with_differences(name, dtype):
    x = GRID[np.abs(GRID) > 1e-2].astype(dtype)
    x = x[np.abs(x) < 40]
    dy = np.linspace(0.5, 2.0, len(x)).astype(dtype)
    reference = ACTIVATION_REFERENCES.get(name) or (lambda v: float(activation_reference(name, np.array([v]))[0]))
    # a difference of fourth order is right to about 1e-9, which in float64 is far above the rounding
    expected = slopes(reference, x.astype(np.float64)) * dy
    np.testing.assert_allclose(backward(name, x, dy), expected, rtol=0, atol=1e-7 if dtype == np.float64 else 1e-5)


@dtypes
@pytest.mark.parametrize("cols", [1, 2, 31, 33])
def test_softmax_backward_is_the_jacobian(dtype, cols):
    rng = np.random.default_rng(cols)
    x, dy = rng.standard_normal((4, cols)).astype(dtype), rng.standard_normal((4, cols)).astype(dtype)
    p = activation_reference("softmax", x)
    expected = [(np.diag(row) - np.outer(row, row)) @ g for row, g in zip(p, dy.astype(np.float64), strict=True)]
    assert_close(backward("softmax", x, dy), expected)


@every
@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 33), (1024, 2), (0, 3)])
def test_bias_directions_fuse_the_sum_before_and_the_sum_after(name, dtype, shape):
    op, rng = ACTIVATIONS[name], np.random.default_rng(1)
    x, b, dy = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[1:], shape))
    y, z = run(op, "bias_forward", x, b)
    assert_close(y, activation_reference(name, x + b))
    assert (z is not None) == (op.saves == "input")
    if z is not None:
        np.testing.assert_array_equal(z, x + b)
    dx, db = run(op, "bias_backward", y if z is None else z, dy)
    np.testing.assert_array_equal(dx, backward(name, x + b, dy))
    # NumPy adds rows one after the other: the error grows with their number.
    assert_close(db, dx.astype(np.float64).sum(axis=0), "reduction", scale=max(1.0, shape[0] / 64))


@elementwise
@dtypes
def test_nan_goes_through_and_never_becomes_a_number(name, dtype):
    x = np.array([math.nan, 1.0], dtype)
    assert np.isnan(forward(name, x)).tolist() == [True, False]
    assert np.isnan(backward(name, x, np.array([math.nan, 1.0], dtype))).tolist() == [True, False]
    b = np.array([math.nan, 1.0], dtype)
    assert np.isnan(run(ACTIVATIONS[name], "bias_forward", np.zeros((3, 2), dtype), b)[0]).all(axis=0).tolist() == [
        True,
        False,
    ]


def test_the_gradient_of_relu_goes_through_nan():
    """The forward value is NaN there, so no slope is known: the gradient must not vanish without a trace."""
    assert backward("relu", np.array([math.nan]), np.array([2.0])).tolist() == [2.0]


@pytest.mark.parametrize("name", LIMITS)
@dtypes
def test_infinities(name, dtype):
    got = forward(name, np.array([-math.inf, math.inf], dtype))
    np.testing.assert_array_equal(got, np.array(LIMITS[name], dtype))


@elementwise
@dtypes
def test_large_inputs_stay_finite_in_both_directions(name, dtype):
    x = np.array([-1e30, -300.0, 300.0, 1e30], dtype)
    assert np.isfinite(forward(name, x)).all()
    slope = backward(name, x, np.ones(4, dtype))
    assert np.isfinite(slope).all()
    if name in LIMITS:  # there the slope has reached its limit
        left = {"identity": 1.0, "leaky_relu": 0.01}.get(name, 0.0)
        right = {"selu": 1.0507009873554805, "sigmoid": 0.0, "tanh": 0.0}.get(name, 1.0)
        np.testing.assert_allclose(slope, [left, left, right, right], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", SLOPES_AT_ZERO)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_slope_at_zero(name, zero):
    slope = backward(name, np.array([zero]), np.array([1.0]))
    np.testing.assert_allclose(slope, [SLOPES_AT_ZERO[name]], rtol=1e-15)


@dtypes
def test_softmax_of_extreme_rows(dtype):
    top = np.finfo(dtype).max
    x = np.array([[300, -300, 0], [top, top, -top], [-math.inf, 0, 0], [-top] * 3, [5e4, 5e4, 5e4]], dtype)
    third = 1 / 3
    expected = [[1, math.exp(-600), math.exp(-300)], [0.5, 0.5, 0], [0, 0.5, 0.5], [third] * 3, [third] * 3]
    got = forward("softmax", x)
    assert_close(got, expected)
    assert_close(got.sum(axis=-1), np.ones(5))
    assert np.isnan(forward("softmax", np.array([[math.nan, 0.0], [-math.inf, -math.inf]], dtype))).all()
    np.testing.assert_array_equal(forward("softmax", np.array([[-7.0], [1e30]], dtype)), 1.0)


@every
def test_more_and_fewer_axes_than_two(name):
    x = np.linspace(-2, 2, 24)
    for shape in ((24,), (2, 3, 4)):
        got = forward(name, x.reshape(shape))
        assert_close(got, activation_reference(name, x.reshape(shape)))
    op = ACTIVATIONS[name]
    saved = x.reshape(2, 3, 4)
    dx, db = run(op, "bias_backward", saved, np.ones((2, 3, 4)))
    assert db.shape == (4,)
    assert_close(db, dx.sum(axis=(0, 1)), "reduction")


def test_the_poison_of_these_tests_is_not_a_number():
    assert np.isnan(poison((2,), np.float32)).all()

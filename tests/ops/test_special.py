"""Special functions against Python's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpumlp.ops.special import normal_cdf, sigmoid, softplus

EPSILON = 2.2e-16


def test_normal_cdf_keeps_its_relative_accuracy_in_the_tail():
    """The exponent of the tail is x²/2 and its rounding is magnified by that much, and by no more."""
    x = np.linspace(-37.0, 9.0, 20_001)
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x])
    error = np.abs(normal_cdf(np, x) / exact - 1.0)
    assert (error <= 4 * EPSILON * (1.0 + x * x)).all()
    assert error[np.abs(x) <= 1].max() < 1e-15


def test_normal_cdf_at_the_edges():
    with np.errstate(all="ignore"):
        got = normal_cdf(np, np.array([-math.inf, -300.0, 0.0, 300.0, math.inf, math.nan]))
    np.testing.assert_array_equal(got[[0, 1, 3, 4, 5]], [0, 0, 1, 1, math.nan])
    assert abs(got[2] - 0.5) <= EPSILON


def test_normal_cdf_in_float32():
    x = np.linspace(-10, 10, 2001, dtype=np.float32)
    got = normal_cdf(np, x)
    assert got.dtype == np.float32
    exact = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2.0)) for v in x])
    assert np.abs(got - exact).max() < 2e-7


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (sigmoid, lambda v: 1 / (1 + math.exp(-v)) if v > -700 else math.exp(v)),
        (softplus, lambda v: max(v, 0.0) + math.log1p(math.exp(-abs(v)))),
    ],
)
def test_relative_accuracy_on_both_sides(function, exact):
    x = np.concatenate([np.linspace(-40, 40, 801), [-700.0, 700.0, 1e300]])
    wanted = np.array([exact(v) for v in x.tolist()])
    assert (np.abs(function(np, x) - wanted) <= 4 * EPSILON * wanted).all()

"""Layer norm, batch norm and running averages."""

from __future__ import annotations

import numpy as np
import pytest
from support import FLOATS, assert_close, run

from gpumlp.ops import RECORDS

AXES = {"layer_norm": -1, "batch_norm": 0}
every = pytest.mark.parametrize("name", AXES)
SHAPES = [(2, 1), (1, 2), (31, 33), (33, 32), (4, 1025), (1024, 3)]


def reference(name, x, gain, bias):
    x, gain, bias = (a.astype(np.float64) for a in (x, gain, bias))
    axis = AXES[name]
    variance = x.var(axis=axis, keepdims=True)
    return (x - x.mean(axis=axis, keepdims=True)) / np.sqrt(variance + 1e-5) * gain + bias


def arguments(shape, dtype, offset=0.0):
    rng = np.random.default_rng(shape)
    x = (rng.standard_normal(shape) + offset).astype(dtype)
    return x, rng.uniform(0.5, 2, shape[1]).astype(dtype), rng.standard_normal(shape[1]).astype(dtype)


@every
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(name, dtype, shape):
    x, gain, bias = arguments(shape, dtype)
    y, mean, variance = run(RECORDS[name], "forward", x, gain, bias)
    # With one or two values the difference from the mean is amplified by up to 1/√ε.
    assert_close(y, reference(name, x, gain, bias), "reduction", scale=300 if min(shape) == 1 else 4)
    axis = AXES[name]
    assert_close(mean, x.mean(axis=axis, keepdims=True, dtype=np.float64), "reduction")
    assert_close(variance, x.astype(np.float64).var(axis=axis, keepdims=True), "reduction")


@every
@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (5, 4), (33, 31)])
def test_backward_agrees_with_differences(name, shape):
    x, gain, bias = arguments(shape, np.float64)
    dy = np.random.default_rng(1).standard_normal(shape)
    _, mean, variance = run(RECORDS[name], "forward", x, gain, bias)
    gradients = run(RECORDS[name], "backward", x, gain, mean, variance, dy)
    values = [x, gain, bias]
    for position, gradient in enumerate(gradients):
        move = np.random.default_rng(position).standard_normal(values[position].shape)
        ends = []
        for h in (1e-5, -1e-5):
            moved = list(values)
            moved[position] = values[position] + h * move
            ends.append((reference(name, *moved) * dy).sum())
        np.testing.assert_allclose((gradient * move).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-6)


@every
def test_a_large_mean_does_not_spoil_the_variance(name):
    """E[x²] - E[x]² would give nothing but noise here."""
    x, gain, bias = arguments((64, 64), np.float32, offset=1000.0)
    _, _, variance = run(RECORDS[name], "forward", x, gain, bias)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=AXES[name], keepdims=True), rtol=1e-3)


@every
def test_constant_values_give_the_bias(name):
    x, gain, bias = np.full((4, 3), 7.0, np.float32), np.ones(3, np.float32), np.arange(3, dtype=np.float32)
    y, mean, variance = run(RECORDS[name], "forward", x, gain, bias)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (4, 3)))
    assert (mean == 7).all()
    assert (variance == 0).all()


@every
def test_nan_stays_in_its_row_or_column(name):
    x = np.random.default_rng(0).standard_normal((4, 3))
    x[1, 2] = np.nan
    y = run(RECORDS[name], "forward", x, np.ones(3), np.zeros(3))[0]
    lines = np.isnan(y) if name == "layer_norm" else np.isnan(y).T
    assert lines.all(axis=1).sum() == 1
    assert lines.any(axis=1).sum() == 1


@every
def test_an_empty_batch_is_no_warning(name):
    y, mean, _ = run(RECORDS[name], "forward", np.ones((0, 3)), np.ones(3), np.ones(3))
    assert y.shape == (0, 3)
    assert np.isnan(mean).all()


def test_moving_average():
    op = RECORDS["moving_average"]
    (average,) = run(op, "forward", np.array([1.0, 2.0]), np.array([[3.0, 5.0]]), momentum=0.25, scale=2.0)
    np.testing.assert_allclose(average, [0.75 + 0.25 * 6, 1.5 + 0.25 * 10])

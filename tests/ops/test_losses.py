"""Losses: values, gradients, weights, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import FLOATS, assert_close, bits, examples, loss_reference, run

from gpumlp import backend as backends
from gpumlp.backend.kernels import required_folder
from gpumlp.errors import BackendError, ConfigError, DataError
from gpumlp.ops import LOSS_RECORDS
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.losses import MAX_SETTINGS, loss

every = pytest.mark.parametrize("name", LOSS_RECORDS)
dtypes = pytest.mark.parametrize("dtype", FLOATS)
SHAPES = [(1, 1), (2, 3), (31, 33), (32, 32), (33, 31), (1025, 2), (3, 1025)]
SOFTMAX, BINARY = LOSS_RECORDS["softmax_cross_entropy"], LOSS_RECORDS["binary_cross_entropy"]


def forward(op, z, targets, rows=None, classes=None, **params):
    return run(op, "forward", z, targets, rows, classes, **params)


@every
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_sums_agree_with_the_reference(name, dtype, shape):
    op = LOSS_RECORDS[name]
    for inputs, params in examples(op, "forward", *shape, dtype):
        loss, sums, _ = forward(op, *inputs, **params)
        expected, totals = loss_reference(op, *inputs, **params)
        assert_close(loss, expected, "reduction")
        assert sums.dtype == np.float64
        assert_close(sums.astype(dtype), totals, "reduction")
        assert op.counts_hits or sums[2] == 0


@every
@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (33, 31)])
def test_the_gradient_agrees_with_differences(name, shape):
    op = LOSS_RECORDS[name]
    for inputs, params in examples(op, "forward", *shape, np.float64):
        z, *rest = inputs
        if op.takes_levels:  # at a tie the slopes of both sides differ, and their mean is not 0
            z = np.where(z == rest[0], z + 0.5, z)
        if "hinge" in name:  # no margin is near: 1 is no multiple of this
            z = 0.225 * np.round(4 * z)
        gradient = forward(op, z, *rest, **params)[2]
        move = np.random.default_rng(1).standard_normal(shape)
        high, low = (loss_reference(op, z + h * move, *rest, **params)[0] for h in (1e-5, -1e-5))
        np.testing.assert_allclose((gradient * move).sum(), (high - low) / 2e-5, rtol=1e-6, atol=1e-8)


@every
def test_evaluate_is_forward_without_the_gradient(name):
    op = LOSS_RECORDS[name]
    for inputs, params in examples(op, "forward", 7, 3, np.float32):
        for whole, part in zip(forward(op, *inputs, **params), run(op, "evaluate", *inputs, **params), strict=False):
            np.testing.assert_array_equal(whole, part)


@every
def test_gradient_is_that_of_forward(name):
    op = LOSS_RECORDS[name]
    for inputs, params in examples(op, "forward", 7, 3, np.float64):
        np.testing.assert_array_equal(op.gradient(np, *inputs, **params), forward(op, *inputs, **params)[2])


@every
@dtypes
def test_row_weights_of_one_change_nothing(name, dtype):
    op = LOSS_RECORDS[name]
    for (z, targets, _, classes), params in examples(op, "forward", 33, 5, dtype):
        plain = forward(op, z, targets, None, classes, **params)
        ones = forward(op, z, targets, np.ones(33, dtype), classes, **params)
        for a, b in zip(plain, ones, strict=True):
            np.testing.assert_array_equal(a, b)


@every
def test_a_weight_of_two_is_the_row_twice_and_of_zero_is_no_row(name):
    op = LOSS_RECORDS[name]
    for (z, targets, _, classes), params in examples(op, "forward", 5, 4, np.float64):
        weights, repeats = np.array([1.0, 2.0, 0.0, 1.0, 3.0]), [0, 1, 1, 3, 4, 4, 4]
        loss, sums, gradient = forward(op, z, targets, weights, classes, **params)
        again, totals, each = forward(op, z[repeats], targets[repeats], None, classes, **params)
        np.testing.assert_allclose(loss, again, rtol=1e-14)
        np.testing.assert_allclose(sums[:2], totals[:2], rtol=1e-14)
        folded = np.zeros_like(z)
        np.add.at(folded, repeats, each)
        np.testing.assert_allclose(gradient, folded, rtol=1e-13, atol=1e-16)


@dtypes
@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.2}])
def test_labels_one_hot_and_soft_targets_are_the_same(dtype, params):
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((33, 4)).astype(dtype), rng.integers(0, 4, 33)
    one_hot = np.eye(4)[labels]
    expected = forward(SOFTMAX, z, labels, **params)
    for targets in (
        labels.astype(np.uint8),
        labels.astype(np.int32),
        one_hot.astype(dtype),
        one_hot.astype(np.int64),
    ):
        for a, b in zip(expected, forward(SOFTMAX, z, targets, **params), strict=True):
            np.testing.assert_array_equal(a, b)


@dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_no_class_has_counts_for_nothing(dtype, smoothing):
    z = np.array([[0.854, 0.698, 0.598], [0.088, 0.86, 0.018]], dtype)
    for ignored in (-1, 3, -100, 2**40):
        labels = np.array([ignored, 2])
        loss, sums, gradient = forward(SOFTMAX, z, labels, label_smoothing=smoothing)
        alone = forward(SOFTMAX, z[1:], labels[1:], label_smoothing=smoothing)
        assert float(loss) == pytest.approx({0.0: 1.48013, 0.1: 1.44973}[smoothing], abs=2e-5)
        assert bits(loss) == bits(alone[0])
        assert sums[:2].tolist() == alone[1][:2].tolist()
        assert gradient[0].tolist() == [0, 0, 0]
        assert bits(gradient[1]) == bits(alone[2][0])


def test_a_loss_has_no_more_settings_than_its_kernel_takes():
    text = (required_folder() / "loss.cuh").read_text(encoding="utf-8")
    assert f"LOSS_SETTINGS = {MAX_SETTINGS}" in text
    hyper = {name: Hyper(1.0, name) for name in ("a", "b", "c")}
    with pytest.raises(ConfigError, match="the loss triple has 3 settings: a, b, c"):
        loss("triple", "-", lambda xp, z, t, w, *, a, b, c: (z, z, z), link="identity", slope="-", hyper=hyper)


def test_two_softmax_outputs_are_one_sigmoid_output():
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((9, 1)), rng.integers(0, 2, 9)
    classes = np.array([0.5, 3.0])
    a = forward(BINARY, z, labels, None, classes)
    b = forward(SOFTMAX, np.hstack([np.zeros((9, 1)), z]), labels, None, classes)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-14)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-14)
    np.testing.assert_allclose(a[2][:, 0], b[2][:, 1], rtol=1e-13, atol=1e-16)


def test_smoothing_moves_towards_equal_shares():
    z = np.array([[3.0, 1.0, -2.0]])
    smooth = forward(SOFTMAX, z, np.array([0]), label_smoothing=0.3)
    by_hand = forward(SOFTMAX, z, np.array([[0.8, 0.1, 0.1]]))
    np.testing.assert_allclose(smooth[0], by_hand[0], rtol=1e-15)
    smooth = forward(BINARY, z, np.array([[1, 0, 1]]), label_smoothing=0.3)
    by_hand = forward(BINARY, z, np.array([[0.85, 0.15, 0.85]]))
    np.testing.assert_allclose(smooth[0], by_hand[0], rtol=1e-15)


@dtypes
def test_equal_and_huge_logits(dtype):
    top = float(np.finfo(dtype).max)
    for level in (0.0, 300.0, -300.0, 1e30, top / 4):
        loss, _, gradient = forward(SOFTMAX, np.full((2, 4), level, dtype), np.array([1, 3]))
        assert_close(loss, math.log(4))
        assert_close(gradient, (np.full((2, 4), 0.25) - np.eye(4)[[1, 3]]) / 2)
    z = np.array([[300.0, -300.0]], dtype)
    assert_close(forward(SOFTMAX, z, np.array([0]))[0], math.exp(-600))
    assert_close(forward(SOFTMAX, z, np.array([1]))[0], 600.0)
    assert_close(forward(BINARY, z, np.array([[1, 0]]))[0], math.exp(-300))
    assert_close(forward(BINARY, z, np.array([[0, 1]]))[0], 300.0)
    huge = np.array([[1e30, -1e30]], dtype)
    assert forward(BINARY, huge, np.array([[1, 0]]))[0] == 0
    np.testing.assert_array_equal(forward(BINARY, huge, np.array([[0, 1]]))[2], [[0.5, -0.5]])
    assert forward(SOFTMAX, huge, np.array([0]))[0] == 0


@dtypes
def test_a_class_of_no_mass_may_have_the_logit_minus_infinity(dtype):
    z = np.array([[-math.inf, 1.0, 2.0], [3.0, -math.inf, 0.0]], dtype)
    loss, sums, gradient = forward(SOFTMAX, z, np.array([2, 0]))
    p = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))]
    assert_close(loss, -(math.log(p[0]) + math.log(p[1])) / 2)
    assert_close(gradient, np.array([[0, 1 - p[0], p[0] - 1], [p[1] - 1, 0, 1 - p[1]]]) / 2)
    assert sums[2] == 2
    assert forward(SOFTMAX, z, np.array([0, 0]))[0] == math.inf


@every
@dtypes
def test_nan_reaches_the_loss_and_the_gradient_of_its_row(name, dtype):
    op = LOSS_RECORDS[name]
    inputs, params = next(examples(op, "forward", 3, 2, dtype))
    inputs[0][1, 0] = math.nan
    loss, sums, gradient = forward(op, *inputs, **params)
    assert np.isnan(loss)
    assert np.isnan(sums[0])
    assert np.isnan(gradient[1, 0])
    assert np.isfinite(gradient[[0, 2]]).all()


@every
def test_a_batch_in_which_nothing_counts_has_loss_and_gradient_0(name):
    op = LOSS_RECORDS[name]
    inputs, params = next(examples(op, "forward", 0, 3, np.float32))
    loss, sums, gradient = forward(op, *inputs, **params)
    assert loss == 0
    assert sums.tolist() == [0, 0, 0, 0]
    assert gradient.shape == (0, 3)
    (z, targets, _, classes), params = next(examples(op, "forward", 4, 3, np.float32))
    loss, sums, gradient = forward(op, z, targets, np.zeros(4, np.float32), classes, **params)
    assert loss == 0
    assert not sums.any()
    assert not gradient.any()


@every
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_divisor_takes_the_place_of_the_mass(name, backend):
    """Shards that are divided by the rows of their batch add up to the batch, once its mass is known."""
    op, made = LOSS_RECORDS[name], in_backend(backend)
    for inputs, params in [*examples(op, "forward", 8, 3, np.float64), *examples(op, "forward", 8, 40, np.float64)]:
        _, sums, gradient = made.run(op, "forward", inputs, None, **params)
        z, targets, rows, classes = inputs
        parts = [
            made.run(op, "forward", (z[part], targets[part], None if rows is None else rows[part], classes), None,
                     divisor=8.0, **params)
            for part in (slice(0, 4), slice(4, 8))
        ]  # fmt: skip
        np.testing.assert_allclose(np.sum([part[1] for part in parts], axis=0), sums, rtol=1e-14)
        together = np.concatenate([part[2] for part in parts]) * (8.0 / sums[1])
        np.testing.assert_allclose(together, gradient, rtol=1e-12, atol=1e-17)


def in_backend(name):
    try:
        return backends.get(name)
    except BackendError as error:
        pytest.skip(str(error))


def test_slopes_at_the_kinks():
    zero = np.zeros((1, 2))
    for name in ("absolute_error", "squared_error", "huber"):
        assert forward(LOSS_RECORDS[name], zero, zero)[2].tolist() == [[0, 0]]
    levels = np.array([0.1, 0.8])
    above, below, tie = (
        forward(LOSS_RECORDS["quantile"], zero + r, zero, None, levels)[2] * 2 for r in (1.0, -1.0, 0.0)
    )
    np.testing.assert_allclose([above[0], below[0], tie[0]], [[0.9, 0.2], [-0.1, -0.8], [0, 0]], rtol=1e-15)
    r = np.array([[1.5, -1.5, 4.0, -4.0]])
    gradient = forward(LOSS_RECORDS["huber"], r, np.zeros((1, 4)), delta=1.5)[2]
    assert (gradient * 4).tolist() == [[1.5, -1.5, 1.5, -1.5]]


@dtypes
@pytest.mark.parametrize("name", [name for name, op in LOSS_RECORDS.items() if op.link != "softmax"])
def test_a_missing_target_counts_for_nothing(name, dtype):
    op = LOSS_RECORDS[name]
    z, t = (
        np.array([[0.5, -2.0], [3.0, 0.25], [1.0, 9.0]], dtype),
        np.array([[1, math.nan], [0, 1], [math.nan] * 2], dtype),
    )
    loss, sums, gradient = forward(op, z, t)
    alone = [forward(op, z[i : i + 1, k : k + 1], t[i : i + 1, k : k + 1]) for i, k in ((0, 0), (1, 0), (1, 1))]
    assert_close(loss, np.mean([part[0] for part in alone]))
    assert sums[[1, 3]].tolist() == [1.5, 3.0]  # the mass of a row is its share of targets that are there
    expected = [[alone[0][2].item(), 0], [alone[1][2].item(), alone[2][2].item()], [0, 0]]
    assert_close(gradient, np.array(expected) / 3)
    nothing = forward(op, z, np.full((3, 2), math.nan, dtype))
    assert nothing[0] == 0
    assert not nothing[2].any()


def test_counts_are_not_negative():
    z = np.zeros((2, 1))
    with pytest.raises(DataError, match="poisson: targets must be at least 0, one is -1"):
        LOSS_RECORDS["poisson"].check_targets(np.array([[math.nan], [-1.0]]))
    assert forward(LOSS_RECORDS["poisson"], z - math.inf, z)[0] == 0  # of no count the expected one may be 0


def test_regression_targets_may_be_flat_for_one_column():
    z, t = np.array([[1.0], [2.0]]), np.array([0.0, 4.0])
    for name in ("absolute_error", "squared_error", "huber", "binary_cross_entropy"):
        flat, column = (forward(LOSS_RECORDS[name], z, targets)[0] for targets in (t, t[:, None]))
        assert flat == column


@dtypes
@pytest.mark.parametrize("name", ["focal", "hinge"])
def test_a_label_that_no_class_has_counts_for_nothing_in_any_loss(name, dtype):
    z = np.array([[0.854, 0.698, 0.598], [0.088, 0.86, 0.018]], dtype)
    alone = forward(LOSS_RECORDS[name], z[1:], np.array([2]))
    for ignored in (-1, 3, 2**40):
        loss, sums, gradient = forward(LOSS_RECORDS[name], z, np.array([ignored, 2]))
        assert (bits(loss), sums[:2].tolist()) == (bits(alone[0]), alone[1][:2].tolist())
        assert gradient.tolist() == [[0, 0, 0], alone[2][0].tolist()]


@pytest.mark.parametrize("name", ["focal", "hinge"])
def test_shares_of_classes_are_the_mean_over_labels(name):
    op, rng = LOSS_RECORDS[name], np.random.default_rng(0)
    z, shares, weights = rng.standard_normal((5, 3)), rng.dirichlet(np.ones(3), 5), np.array([1.0, 2.0, 0.5])
    _, sums, gradient = forward(op, z, shares, None, weights)
    each = [forward(op, z, np.full(5, k), shares[:, k], weights) for k in range(3)]
    np.testing.assert_allclose(sums[:2], np.sum([one[1][:2] for one in each], axis=0))
    np.testing.assert_allclose(gradient, sum(one[2] * one[1][1] for one in each) / sums[1])


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_margins_that_are_just_met_move_nothing(backend):
    made = in_backend(backend)
    two = made.run(LOSS_RECORDS["binary_hinge"], "forward", (np.array([[1.0], [-1.0], [0.5]]), np.array([1, 0, 1]),
                   None, None), None)  # fmt: skip
    np.testing.assert_allclose(two[0], 0.5 / 3)
    np.testing.assert_allclose(two[2], [[0], [0], [-1 / 3]])
    z = np.array([[2.0, 1.0, 1.5, 0.0]])
    loss, _, gradient = made.run(LOSS_RECORDS["hinge"], "forward", (z, np.array([0]), None, None), None)
    np.testing.assert_allclose(loss, 0.5 / 4)
    np.testing.assert_allclose(gradient, [[-0.25, 0, 0.25, 0]])


@dtypes
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_a_focal_loss_of_what_is_sure_is_0_and_of_what_is_impossible_grows(backend, dtype):
    made = in_backend(backend)
    z, labels = np.array([[300.0, -300.0], [300.0, -300.0]], dtype), np.array([0, 1])
    for gamma in (0.5, 2.0):
        loss, _, gradient = made.run(LOSS_RECORDS["focal"], "forward", (z, labels, None, None), None, gamma=gamma)
        assert_close(loss, 300.0)
        assert_close(gradient, np.array([[0, 0], [0.5, -0.5]]))
        sides, targets = np.array([[400.0], [-400.0], [400.0]], dtype), np.array([1, 1, 0])
        of_sides = made.run(LOSS_RECORDS["binary_focal"], "forward", (sides, targets, None, None), None, gamma=gamma)
        assert_close(of_sides[0], 800 / 3)
        assert_close(of_sides[2], np.array([[0], [-1], [1]]) / 3)
    impossible = np.array([[-math.inf, 1.0, 2.0]], dtype)
    loss, _, gradient = made.run(LOSS_RECORDS["focal"], "forward", (impossible, np.array([2]), None, None), None)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_an_error_is_divided_by_no_less_than_the_floor():
    z, t = np.array([[1.0, 0.2, 0.0, -3.0]]), np.array([[0.0, 0.1, 0.0, -2.0]])
    loss, _, gradient = forward(LOSS_RECORDS["absolute_percentage_error"], z, t, floor=0.5)
    np.testing.assert_allclose(loss, (2 + 0.2 + 0 + 0.5) / 4)
    np.testing.assert_allclose(gradient, [[0.5, 0.5, 0, -0.125]])


def test_hits():
    z = np.array([[2.0, 1.0], [0.0, 5.0], [1.0, 1.0]])
    assert forward(SOFTMAX, z, np.array([0, 0, 0]))[1][2] == 2  # a tie goes to the first class
    assert forward(SOFTMAX, z, np.array([0, 0, 0]), np.full(3, 7.0))[1][2] == 14  # as if each stood seven times
    assert forward(BINARY, z, np.array([[1, 1], [0, 1], [0, 0]]))[1][2] == 2

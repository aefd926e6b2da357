"""What examples drawn at random never show, by kind, for every record that has the kind, on every backend.

Nothing that counts, infinity without mass, NaN of any bits, squares beyond a float, sums beyond its digits, tails,
zeros with a sign, grids that come round, counters beyond 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from agreement import check_agreement, check_values
from checked.machine import CheckedBackend, Machine
from support import FLOATS, activation_reference, assert_close, bits, decaying, directions, examples, update_reference
from support import loss_reference as loss_by_hand

from gpumlp.backend import Backend, geometry
from gpumlp.backend.host import native
from gpumlp.checks.agreement import alike
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS, UPDATES
from gpumlp.ops.losses import Loss
from gpumlp.ops.precision import is_floating
from gpumlp.ops.random import uniform_words

COLS = (1, 2, 16, 17, 64, 65, 300)
"""Columns on both sides of where a loss changes its way, on a GPU and on a CPU."""
INF = math.inf

each_dtype = pytest.mark.parametrize("dtype", FLOATS)
each_loss = pytest.mark.parametrize("name", LOSS_RECORDS)
each_kernel = pytest.mark.parametrize(("name", "direction"), list(directions()))
with_classes = pytest.mark.parametrize("name", [n for n, op in LOSS_RECORDS.items() if op.link != "identity"])


def computed(backend: Backend, op: Any, direction: str, inputs: Any, **params: Any) -> list[Any]:
    """Return the outputs on the host."""
    given = [None if a is None else backend.asarray(np.ascontiguousarray(a)) for a in inputs]
    found = backend.run(op, direction, given, None, **params)
    return [None if a is None else backend.to_host(a) for a in found]


# ---- nothing that counts -----------------------------------------------------------------------------------------


@each_dtype
@each_loss
def test_a_batch_without_weight_has_no_loss_and_no_gradient(kernels: Backend, name: str, dtype: Any) -> None:
    op = LOSS_RECORDS[name]
    for cols in COLS:
        for (z, targets, _, classes), params in examples(op, "forward", 5, cols, dtype):
            inputs = (z, targets, np.zeros(5, dtype), classes)
            loss, sums, gradient = computed(kernels, op, "forward", inputs, **params)
            assert loss == 0
            assert sums.tolist() == [0, 0, 0, 0]
            assert (gradient == 0).all()
            loss, sums = computed(kernels, op, "evaluate", inputs, **params)
            assert loss == 0
            assert sums.tolist() == [0, 0, 0, 0]


@each_dtype
@with_classes
def test_a_batch_of_classes_without_mass_has_no_loss_and_no_gradient(kernels: Backend, name: str, dtype: Any) -> None:
    op = LOSS_RECORDS[name]
    for cols in COLS:
        for (z, targets, rows, classes), params in examples(op, "forward", 5, cols, dtype):
            if classes is not None:
                inputs = (z, targets, rows, np.zeros_like(classes))
                loss, sums, gradient = computed(kernels, op, "forward", inputs, **params)
                assert loss == 0
                assert sums[:2].tolist() == [0, 0]
                assert sums[3] == pytest.approx(5 if rows is None else float(rows.sum()), rel=1e-6)
                assert (gradient == 0).all()


def without_mass(op: Loss, cols: int, dtype: Any) -> Iterator[tuple[Any, Any]]:
    """Rows whose logits are infinite where a class, or a side of it, has no mass."""
    rng = np.random.default_rng(cols)
    z = rng.standard_normal((6, cols)).astype(dtype)
    if op.link == "sigmoid":
        one = rng.integers(0, 2, (6, cols))
        z[::2] = np.where(one[::2] == 1, INF, -INF)  # the other side has no mass
        for targets in (one.astype(np.int32), one.astype(dtype)):
            yield (z, targets, None, None), {}
        only = np.array([[0, 3], [2, 0]], dtype)
        for side in (0, 1):
            towards = z.copy()
            towards[1::2] = INF if side == 0 else -INF
            yield (towards, np.full((6, cols), side, np.int32), rng.uniform(1, 2, 6).astype(dtype), only[side]), {}
        return
    some = max(1, cols // 2)
    labels = rng.integers(0, some, 6)
    plain = z.copy()
    plain[:, some:] = -INF
    soft = np.zeros((6, cols), dtype)
    soft[:, :some] = 1 / some
    for targets in (labels.astype(np.int32), labels, soft):
        yield (plain, targets, None, None), {}
    weights = np.ones(cols, dtype)
    weights[some:] = 0
    for targets in (labels, np.full(6, cols - 1), np.full((6, cols), 1 / cols, dtype)):
        for params in ({}, {"label_smoothing": 0.25}) if "label_smoothing" in op.hyper else ({},):
            yield (plain, targets, rng.uniform(1, 2, 6).astype(dtype), weights), params


@each_dtype
@with_classes
def test_a_class_without_mass_may_be_at_infinity(kernels: Backend, name: str, dtype: Any) -> None:
    op = LOSS_RECORDS[name]
    for cols in COLS:
        for inputs, params in without_mass(op, cols, dtype):
            expected = Backend().run(op, "forward", inputs, None, **params)
            assert all(np.isfinite(each).all() for each in expected), "the formula"
            for got, want in zip(computed(kernels, op, "forward", inputs, **params), expected, strict=True):
                check_values(got, want, dtype, 6)
            exact = in_float64(inputs)
            with np.errstate(all="ignore"):
                by_hand, sums = Backend().run(op, "evaluate", exact, None, **params)
            assert_close(expected[0], by_hand, "reduction")
            assert_close(expected[1].astype(dtype), sums, "reduction")


def in_float64(inputs: Any) -> list[Any]:
    return [a.astype(np.float64) if a is not None and a.dtype.kind == "f" else a for a in inputs]


@each_dtype
@pytest.mark.parametrize("cols", COLS)
def test_a_row_without_mass_may_say_anything(kernels: Backend, cols: int, dtype: Any) -> None:
    """A label that no class has: the loss is that of the other rows, whatever the logits are."""
    op, rng = LOSS_RECORDS["softmax_cross_entropy"], np.random.default_rng(cols)
    z, labels = rng.standard_normal((5, cols)).astype(dtype), np.array([0, -1, 0, -1, 0])
    plain = computed(kernels, op, "evaluate", (z, labels, None, None))
    for value in (np.nan, INF, -INF):
        z[1::2] = value
        found = computed(kernels, op, "evaluate", (z, labels, None, None))
        assert bits(found[0]) == bits(plain[0])
        assert found[1].tolist() == plain[1].tolist()


@each_dtype
@pytest.mark.parametrize("cols", [17, 65, 300])
def test_equal_logits_far_from_zero_lose_nothing(kernels: Backend, cols: int, dtype: Any) -> None:
    """Taken from the row's maximum, for next to a huge logit log K would round away."""
    op, labels = LOSS_RECORDS["softmax_cross_entropy"], np.arange(4)
    for level in (1e8, -1e30):
        loss, _, gradient = computed(kernels, op, "forward", (np.full((4, cols), level, dtype), labels, None, None))
        assert_close(loss, math.log(cols))
        assert_close(gradient * 4, np.full((4, cols), 1 / cols) - np.eye(4, cols))


# ---- NaN of any bits ---------------------------------------------------------------------------------------------

NAN_BITS = (0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF80FFFF, 0x7FBFFFFF, 0x7FFF8000)
"""NVIDIA's, x86's and others, quiet and signalling: some become -0 where they are rounded as numbers are."""
NARROW = [(name, d) for name, d in directions() if RECORDS[name].directions[d].narrow]


def is_nan(array: Any) -> Any:
    """Return where a number of any width is NaN; NumPy warns of the signalling ones."""
    with np.errstate(invalid="ignore"):
        return np.isnan(array.astype(np.float32))


def narrow_type() -> np.dtype[Any]:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


@pytest.mark.parametrize(("name", "direction"), NARROW)
def test_nan_of_any_bits_stays_nan_in_sixteen_bits(kernels: Backend, name: str, direction: str) -> None:
    """Each float input in turn is NaN at every second place; the kernel gives NaN where the formula does."""
    narrow, op, ran = narrow_type(), RECORDS[name], 0
    made = op.directions[direction]
    for inputs, params in examples(op, direction, 6, 9, narrow):
        params = {**params, "dtype": narrow} if "dtype" in params else params
        arrays = [
            np.array(a, np.float32 if label in made.wide or label == "inputs" else narrow)
            if a is not None and is_floating(a.dtype)
            else a
            for label, a in zip(made.arrays, inputs, strict=False)
        ]
        for place, array in enumerate(arrays):
            if array is None or not is_floating(array.dtype) or array.size == 0:
                continue
            ran += 1
            given = list(arrays)
            given[place] = poisoned = array.copy()
            short = array.itemsize == 2
            words = poisoned.view(np.uint16 if short else np.uint32)
            numbers = words[..., : params.get("dense", words.shape[-1])]  # behind these stand numbers of features
            patterns = [pattern >> 16 | pattern & 0x7F | 1 if short else pattern for pattern in NAN_BITS]
            every = np.arange(numbers.size).reshape(numbers.shape) % 2 == 0
            numbers[...] = np.where(every, np.resize(patterns, numbers.shape), numbers)
            assert is_nan(poisoned).any()
            expected = Backend().run(op, direction, given, None, **params)
            for got, want in zip(computed(kernels, op, direction, given, **params), expected, strict=True):
                if want is not None and want.dtype == narrow:
                    assert not (is_nan(want) & ~is_nan(got)).any(), made.arrays[place]
    assert ran


@pytest.mark.parametrize("pattern", NAN_BITS)
@pytest.mark.parametrize("name", UPDATES)
def test_the_shadow_of_nan_is_nan(kernels: Backend, name: str, pattern: int) -> None:
    narrow, op = narrow_type(), UPDATES[name]
    p = np.linspace(-1, 1, 40, dtype=np.float32)
    p.view(np.uint32)[::7] = pattern
    slots = [np.ones(40, np.float32) for _ in op.slots]
    shadow = np.zeros(40, narrow)
    inputs = (p, np.ones_like(p), np.ones(1, np.float32), None, decaying(20, 40))
    inputs += (np.array([3, 1, 0]), None, None, shadow, *slots, *(np.ones(1) for _ in op.totals))
    hyper = {key: value.default for key, value in op.hyper.items()}
    settings = {"weight_decay": 0.1, "clip_norm": None, "averaging": None}
    shadow = computed(kernels, op, "forward", inputs, **settings, **hyper)[2]
    assert is_nan(shadow).tolist() == is_nan(p).tolist()


# ---- squares and sums that a float has no room for ---------------------------------------------------------------

SIZES = {np.float32: (1e-36, 1e-25, 1e-19, 1.0, 1.9e19, 1e25, 1e36), np.float64: (1e-150, 1e-25, 1.0, 1e25, 1e150)}


@each_dtype
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_the_norm_of_gradients_whose_squares_no_float_holds(kernels: Backend, count: int, dtype: Any) -> None:
    for size in SIZES[dtype]:
        g = (np.random.default_rng(count).standard_normal(count) * size).astype(dtype)
        exact = size * math.sqrt(math.fsum((float(v) / size) ** 2 for v in g))
        for backend in (kernels, Backend()):
            (norm,) = computed(backend, RECORDS["gradient_norm"], "forward", (g,))
            np.testing.assert_allclose(norm, [exact], rtol=4 * np.finfo(dtype).eps)


def test_the_norm_counts_what_a_float_would_round_away(kernels: Backend) -> None:
    """Ten thousand squares of 1e-8 beside a 1, each below half of a float's last digit."""
    g = np.full(10_001, 1e-4, np.float32)
    for one in (0, 5000, 10_000):
        g[:] = 1e-4
        g[one] = 1
        (norm,) = computed(kernels, RECORDS["gradient_norm"], "forward", (g,))
        np.testing.assert_allclose(norm, [math.sqrt(math.fsum(float(v) ** 2 for v in g))], rtol=1.2e-7)


@each_dtype
@each_loss
def test_the_sums_of_a_loss_are_kept_in_double(kernels: Backend, name: str, dtype: Any) -> None:
    """A row of weight 2^24 swallows in float every row of weight 1 that is added to it."""
    op, rows = LOSS_RECORDS[name], 66
    counted = 2**24 + rows - 1
    for cols in (1, 17, 65):
        for (z, targets, _, classes), params in examples(op, "forward", 1, cols, dtype):
            if classes is not None:
                continue
            z, targets = (np.repeat(a, rows, axis=0) for a in (z, targets))
            for heavy in (0, rows - 1):
                weights = np.ones(rows, dtype)
                weights[heavy] = 2**24
                found = computed(kernels, op, "evaluate", (z, targets, weights, None), **params)[1]
                one = computed(kernels, op, "evaluate", (z[:1], targets[:1], None, None), **params)[1]
                np.testing.assert_allclose(found, one * counted, rtol=1e-12)
                assert found[3] == counted


@each_dtype
@pytest.mark.parametrize("averaging", [None, 0.9])
@pytest.mark.parametrize("name", UPDATES)
def test_steps_are_right_to_the_last_digits(kernels: Backend, name: str, averaging: float | None, dtype: Any) -> None:
    """From weights of 0, so that what is seen is the step alone; 1 - β^t in float loses four digits of it."""
    op, rate = UPDATES[name], np.ones(3, dtype)
    g = np.concatenate([np.geomspace(1e-3, 1e3, 20), -np.geomspace(1e-3, 1e3, 17)]).astype(dtype)
    for t in (1, 2, 3, 10, 1000, 2**31 + 1):
        for changed in ({}, {"beta2": 0.99999}, {"beta1": 0.999}):
            if not set(changed) <= set(op.hyper):
                continue
            hyper = {key: value.default for key, value in op.hyper.items()} | changed
            zero, average = np.zeros_like(g), None if averaging is None else np.zeros_like(g)
            state = [np.zeros(len(g)) for _ in op.slots]
            expected = update_reference(name, np.zeros(len(g)), g.astype(np.float64), state, t, 1.0, **hyper)
            inputs = (zero, g, rate, None, decaying(9, len(g)), np.array([t, 1, 0]), None, average, None)
            inputs += (*(zero for _ in op.slots), *(np.full(1, float(t)) for _ in op.totals))
            settings = {"weight_decay": 0.1, "clip_norm": None, "averaging": averaging}
            stepped, mean, _, *slots = computed(kernels, op, "forward", inputs, **settings, **hyper)
            few = 16 * np.finfo(dtype).eps
            np.testing.assert_allclose(stepped, expected, rtol=few)
            for got, want in zip(slots, state, strict=True):
                np.testing.assert_allclose(got, want, rtol=few)
            if averaging is not None:
                beta = min(averaging, (1 + t) / (10 + t))
                np.testing.assert_allclose(mean, (1 - beta) * expected, rtol=few)


@each_dtype
@pytest.mark.parametrize("name", UPDATES)
def test_a_gradient_is_cut_above_the_norm_and_stays_below(kernels: Backend, name: str, dtype: Any) -> None:
    op, g = UPDATES[name], np.linspace(-1, 1, 23).astype(dtype)
    hyper = {key: value.default for key, value in op.hyper.items()}
    slots = [np.ones_like(g) for _ in op.slots]
    for norm in (0.0, 1e-30, 0.5, 1.0, 1.5, 1e30, INF, np.nan):
        inputs = (g, g, np.ones(1, dtype), None, decaying(0, 23), np.array([3, 1, 0]), np.array([norm], dtype))
        inputs += (None, None, *slots, *(np.ones(1) for _ in op.totals))
        settings = {"weight_decay": 0.0, "clip_norm": 1.0, "averaging": None}
        expected = Backend().run(op, "forward", inputs, None, **settings, **hyper)
        for got, want in zip(computed(kernels, op, "forward", inputs, **settings, **hyper), expected, strict=True):
            if want is not None:
                check_values(got, want, dtype, 1)


@each_dtype
@pytest.mark.parametrize("name", ["layer_norm", "batch_norm"])
def test_a_spread_far_from_zero_is_no_difference_of_large_sums(kernels: Backend, name: str, dtype: Any) -> None:
    op, rng = RECORDS[name], np.random.default_rng(0)
    for rows, cols in ((70, 40), (3, 300), (300, 3), (40, 1100)):
        offset = 4096.0
        x = (offset + rng.standard_normal((rows, cols))).astype(dtype)
        y, mean, variance = computed(kernels, op, "forward", (x, np.ones(cols, dtype), np.zeros(cols, dtype)))
        axis, exact = (1 if name == "layer_norm" else 0), x.astype(np.float64)
        # The mean is right to a few of its last digits, and so is each distance from it; a square of x has lost all.
        few = 8 * np.finfo(dtype).eps
        off = few * offset
        np.testing.assert_allclose(mean, exact.mean(axis=axis, keepdims=True), rtol=few)
        np.testing.assert_allclose(variance, exact.var(axis=axis, keepdims=True), rtol=off / 2)
        scale = 1 / np.sqrt(exact.var(axis=axis, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, (exact - exact.mean(axis=axis, keepdims=True)) * scale, atol=off * scale.max())


# ---- tails and zeros ---------------------------------------------------------------------------------------------

NEAR = np.array([s * 10.0**e for e in np.arange(-36, -1, 0.7) for s in (1, -1)])
LEFT, RIGHT = {"gelu": -5.0, "elu": -20.0, "selu": -20.0}, 80.0


@each_dtype
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "softmax"])
def test_small_values_are_right_to_their_own_last_digits(kernels: Backend, name: str, dtype: Any) -> None:
    """Tails and the neighbourhood of 0: to what is lost beside 1 a tolerance that is absolute is blind."""
    op = ACTIVATIONS[name]
    x = np.concatenate([NEAR, np.linspace(LEFT.get(name, -80.0), RIGHT, 331)]).astype(dtype).reshape(-1, 1)
    exact = activation_reference(name, x)
    for direction, inputs in (("forward", (x,)), ("bias_forward", (x, np.zeros(1, dtype)))):
        y = computed(kernels, op, direction, inputs)[0]
        seen = np.abs(exact) > 4 * float(np.finfo(np.float32).tiny)
        np.testing.assert_allclose(y[seen], exact[seen], rtol=16 * np.finfo(dtype).eps)


STEADY = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "softplus")
"""Activations whose slope is one product or quotient of what is saved: nothing cancels in it."""


@each_dtype
@pytest.mark.parametrize("name", STEADY)
def test_small_slopes_are_right_to_their_own_last_digits(kernels: Backend, name: str, dtype: Any) -> None:
    op = ACTIVATIONS[name]
    x = np.concatenate([NEAR, np.linspace(-80, 12, 331)]).astype(dtype).reshape(-1, 1)
    (saved,) = Backend().run(op, "forward", (x.astype(np.float64),))
    given = saved.astype(dtype)
    (exact,) = Backend().run(op, "backward", (given.astype(np.float64), np.ones(x.shape)))
    (slope,) = computed(kernels, op, "backward", (given, np.ones_like(x)))
    seen = np.abs(exact) > 4 * float(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(slope[seen], exact[seen], rtol=16 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("cols", [2, 17, 300])
def test_small_shares_of_a_softmax_are_right_to_their_own_last_digits(
    kernels: Backend, cols: int, dtype: Any
) -> None:
    x = np.linspace(-60, 0, 4 * cols).astype(dtype).reshape(4, cols)
    (y,) = computed(kernels, ACTIVATIONS["softmax"], "forward", (x,))
    # An exponential of x has the relative error of x - max, which is exact here to half a digit of 60.
    np.testing.assert_allclose(y, activation_reference("softmax", x), rtol=64 * np.finfo(dtype).eps)


ODD = ("identity", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh")
"""Activations that are x times something positive near 0: theirs is the zero of x, with its sign."""


@each_dtype
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_zeros_with_a_sign(kernels: Backend, name: str, dtype: Any) -> None:
    op, reference = ACTIVATIONS[name], Backend()
    x = np.resize(np.array([0.0, -0.0], dtype), (5, 17))
    for direction in ("forward", "backward"):
        for dy in (np.ones_like(x), np.zeros_like(x), -np.zeros_like(x)):
            saved = x if op.saves == "input" else reference.run(op, "forward", (x,))[0]
            inputs = (x,) if direction == "forward" else (saved, dy)
            (got,) = computed(kernels, op, direction, inputs)
            check_values(got, reference.run(op, direction, inputs)[0], dtype, 5)
            if direction == "forward" and name in ODD:
                np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


@each_dtype
@each_loss
def test_a_loss_takes_either_zero_for_the_other(kernels: Backend, name: str, dtype: Any) -> None:
    """In outputs, targets, weights of rows and of classes."""
    op = LOSS_RECORDS[name]
    for cols in (1, 3, 17, 65):
        for inputs, params in examples(op, "forward", 6, cols, dtype):
            found = []
            for zero in (0.0, -0.0):
                given = [None if a is None else a.copy() for a in inputs]
                if op.link == "identity":
                    given[0][:2] = given[1][:2]  # residuals of 0, where there is a kink
                for number, a in enumerate(given):
                    if a is not None and a.dtype.kind == "f":
                        a.reshape(-1)[:: 2 + number] = zero
                found.append(computed(kernels, op, "forward", given, **params))
            for plus, minus, want in zip(*found, Backend().run(op, "forward", given, None, **params), strict=True):
                np.testing.assert_array_equal(plus, minus)
                check_values(plus, want, dtype, 6)
            loss, sums = loss_by_hand(op, *in_float64(given), **params)
            assert_close(found[0][0], loss, "reduction")
            assert_close(found[0][1].astype(dtype), sums, "reduction")


EXACT = ("identity", "relu", "leaky_relu", "dropout", "gather", "advance", "accumulate", "relu_mask", "tree_sum")


@each_dtype
@pytest.mark.parametrize(("name", "direction"), [(n, d) for n, d in directions() if n in EXACT])
def test_what_is_exact_or_rounded_once_has_the_bits_of_the_formula(
    kernels: Backend, name: str, direction: str, dtype: Any
) -> None:
    op = RECORDS[name]
    for inputs, params in examples(op, direction, 33, 65, dtype):
        expected = Backend().run(op, direction, inputs, None, **params)
        found = computed(kernels, op, direction, inputs, **params)
        for label, got, want in zip(op.directions[direction].outputs, found, expected, strict=True):
            if label != "db":  # a sum, taken in parts
                assert want is None or bits(got + 0) == bits(want + 0)  # relu's formula has either zero


# ---- grids that come round ---------------------------------------------------------------------------------------


@each_kernel
def test_a_grid_that_comes_round(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, direction: str
) -> None:
    """More elements, rows, columns and parts than the blocks of a grid take at once, several times over."""
    monkeypatch.setattr(geometry, "THREADS", 64)
    op, checked = RECORDS[name], CheckedBackend(machine)
    for blocks, parts in ((1, 1), (2, 3)):
        monkeypatch.setattr(geometry, "MOST_BLOCKS", blocks)
        monkeypatch.setattr(geometry, "MOST_PARTS", parts)
        for rows, cols in ((150, 5), (9, 330), (70, 33)):
            check_agreement(checked, op, direction, rows, cols, np.float32, alike)


@each_kernel
def test_parts_of_any_number(kernels: Backend, monkeypatch: pytest.MonkeyPatch, name: str, direction: str) -> None:
    """More parts than rows, as many, and a number that divides nothing."""
    if kernels.name != "native":
        pytest.skip("parts of a CPU")
    op = RECORDS[name]
    for piece, most in ((1, 1000), (50, 7), (1 << 15, 64)):
        monkeypatch.setattr(native, "PART_ELEMENTS", piece)
        monkeypatch.setattr(native, "MOST_PARTS", most)
        for rows, cols in ((1, 300), (5, 70), (131, 3)):
            check_agreement(kernels, op, direction, rows, cols, np.float32)


# ---- counters beyond 32 bits -------------------------------------------------------------------------------------

COUNTS = (2**16 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**53 + 1, 2**62)


@pytest.mark.parametrize("count", COUNTS)
def test_the_clock_counts_beyond_32_bits(kernels: Backend, count: int) -> None:
    clock = np.array([count, count - 1, 7])
    (after,) = computed(kernels, RECORDS["advance"], "forward", (clock,))
    assert after.tolist() == [count + 1, count, 7]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("count", COUNTS)
def test_a_mask_knows_each_step_stream_and_key(kernels: Backend, count: int, direction: str) -> None:
    x = np.ones((7, 11), np.float32)
    word = count & 0xFFFFFFFF
    for step, stream, key in ((count, 1, (2, 3)), (5, word, (2, 3)), (5, 1, (word, 3)), (5, 1, (2, word))):
        given = (x, np.array([step, 0, 0]), None), {"rate": 0.5, "stream": stream, "key": key}
        np.testing.assert_array_equal(
            computed(kernels, RECORDS["dropout"], direction, given[0], **given[1])[0],
            Backend().run(RECORDS["dropout"], direction, given[0], None, **given[1])[0],
        )


@pytest.mark.parametrize("rate", [0.0, 2**-32, 0.25, 1 - 2**-32])
def test_a_word_drops_where_it_is_below_the_rate_and_not_where_it_is_equal(kernels: Backend, rate: float) -> None:
    """The words themselves are the rates: the one that is equal to rate * 2^32 stays."""
    x, key = np.ones((64, 64), np.float32), (5, 6)
    words = uniform_words(np, x.size, np.array([3]), 1, key)
    at = int(np.abs(words.astype(np.float64) / 2**32 - rate).argmin())
    for limit in (rate, int(words[at]) / 2**32, (int(words[at]) + 1) / 2**32):
        if limit < 1:
            params = {"rate": limit, "stream": 1, "key": key}
            (y,) = computed(kernels, RECORDS["dropout"], "forward", (x, np.array([3, 0, 0]), None), **params)
            np.testing.assert_array_equal(y.ravel() != 0, words >= min(round(limit * 2**32), 2**32 - 1))


@pytest.mark.parametrize("count", COUNTS)
def test_the_order_of_any_epoch(kernels: Backend, count: int) -> None:
    rows = np.arange(50, dtype=np.float32)[:, None]
    for epoch, key in ((count, 9), (9, count & 0xFFFFFFFF)):
        given = np.array([count, 1, epoch]), rows, np.arange(50), None
        params = {"rows": 20, "stride": 25, "key": key, "scale": 1.0, "dtype": "<f4"}
        expected = Backend().run(RECORDS["gather"], "forward", given, None, **params)
        for got, want in zip(computed(kernels, RECORDS["gather"], "forward", given, **params), expected, strict=True):
            assert want is None or bits(got) == bits(want)


@pytest.mark.parametrize("count", COUNTS)
def test_a_late_batch_has_the_last_rate(kernels: Backend, count: int) -> None:
    p = np.zeros(5, np.float32)
    rates = np.array([1, 2, 4], np.float32)
    inputs = (p, np.ones_like(p), rates, None, decaying(0, 5), np.array([1, count, 0]), None, None, None)
    settings = {"weight_decay": 0.0, "clip_norm": None, "averaging": None}
    assert computed(kernels, UPDATES["sgd"], "forward", inputs, **settings)[0].tolist() == [-4.0] * 5

"""Every kernel against its formula, on every backend that runs kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from agreement import FORMULA_ONLY, check_agreement
from support import FLOATS, assert_close, bits, directions, examples

from gpumlp.backend import Backend
from gpumlp.checks.agreement import alike, askew, fault
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS, Op, Update
from gpumlp.ops.batches import CODE_SUM
from gpumlp.ops.inputs import LOOKUP, PBLD, PLE
from gpumlp.ops.products import MATRIX_PRODUCT
from gpumlp.ops.random import permute

# Teams of 1, 2, 4, ... 32 lanes and of a block; one part and several; one block and several; none, some and all of a
# row in vectors.
SHAPES = [(1, 1), (3, 1), (33, 2), (65, 3), (1, 5), (40, 9), (2, 31), (31, 32), (5, 33), (7, 255), (3, 257), (65, 64)]
SHAPES += [(3, 1023), (2, 1024), (2, 1025), (1023, 1), (1024, 2), (1025, 3), (300, 33), (66, 16), (66, 17), (66, 65)]

each_kernel = pytest.mark.parametrize(("name", "direction"), list(directions()))
each_dtype = pytest.mark.parametrize("dtype", FLOATS)


@each_dtype
@each_kernel
def test_a_kernel_agrees_with_the_formula(kernels: Backend, name: str, direction: str, dtype: Any) -> None:
    op = RECORDS[name]
    ran = sum(check_agreement(kernels, op, direction, rows, cols, dtype) for rows, cols in SHAPES)
    assert ran or op.entry(direction) in FORMULA_ONLY, "no example reached the kernel"


@pytest.mark.parametrize("shift", [alike, askew])
@each_dtype
@each_kernel
def test_arrays_that_no_vector_takes(kernels: Backend, name: str, direction: str, dtype: Any, shift: Any) -> None:
    """Views that begin one element late, all alike or each elsewhere."""
    for rows, cols in ((1, 2), (5, 7), (3, 40), (2, 1030)):
        check_agreement(kernels, RECORDS[name], direction, rows, cols, dtype, shift)


def in_place(op: Op, direction: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Which input may be which output: of an update its own, of a sum its first term, elsewhere any of the first
    output's shape.

    None of an embedding's, or of a product's: they take the place of nothing that they read.
    """
    if op in (PBLD, PLE, LOOKUP, MATRIX_PRODUCT) or (op is CODE_SUM and direction == "backward"):
        return
    made = op.directions[direction]
    for target, (name, out) in enumerate(zip(made.outputs, outputs, strict=True)):
        for source, (given, a) in enumerate(zip(made.inputs, inputs, strict=True)):
            meant = given == name if isinstance(op, Update) else target == 0 and (op is not CODE_SUM or source == 0)
            if meant and a is not None and out is not None and (a.shape, a.dtype) == (out.shape, out.dtype):
                yield source, target


@each_dtype
@each_kernel
def test_an_output_may_be_the_very_array_of_an_input(kernels: Backend, name: str, direction: str, dtype: Any) -> None:
    op = RECORDS[name]
    for rows, cols in ((4, 40), (2, 1030), (70, 5)):
        for inputs, params in examples(op, direction, rows, cols, dtype):
            given = [None if a is None else np.ascontiguousarray(a) for a in inputs]
            expected = Backend().run(op, direction, given, None, **params)
            for source, target in in_place(op, direction, given, expected):
                arrays = [None if a is None else kernels.asarray(a.copy()) for a in given]
                places = [arrays[source] if i == target else None for i in range(len(expected))]
                found = kernels.run(op, direction, arrays, places, **params)
                host = [None if a is None else kernels.to_host(a) for a in found]
                assert not fault(np, op.directions[direction], given, host, expected)


@each_dtype
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extreme_values(kernels: Backend, name: str, dtype: Any) -> None:
    op, reference = ACTIVATIONS[name], Backend()
    x = np.array([[0.0, -0.0, 300, -300, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 20, -20]], dtype).T.copy()
    for direction in ("forward", "bias_forward", "backward"):
        saved = x if op.saves == "input" else reference.run(op, "forward", (x,))[0]
        inputs = {"forward": (x,), "bias_forward": (x, np.zeros(1, dtype))}.get(direction, (saved, np.ones_like(x)))
        got = kernels.to_host(kernels.run(op, direction, [kernels.asarray(a) for a in inputs])[0])
        want = reference.run(op, direction, inputs)[0]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
        finite = np.isfinite(want)
        assert_close(got[finite], want[finite].astype(np.float64), "reduction")


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("cols", [1, 2, 16, 17, 64, 65, 300])
def test_the_answer_of_a_row_is_the_first_of_the_largest_and_nan_is_larger(
    kernels: Backend, cols: int, soft: bool
) -> None:
    rng = np.random.default_rng(cols)
    z, t = (rng.integers(0, 4, (130, cols)).astype(np.float32) for _ in range(2))
    z[rng.random(z.shape) < 0.5 / cols] = np.nan
    labels = np.argmax(t, axis=1).astype(np.int32)
    right = np.argmax(z, axis=1) == labels
    op, inputs = LOSS_RECORDS["softmax_cross_entropy"], (z, t if soft else labels, None, None)
    given = [None if a is None else kernels.asarray(a) for a in inputs]
    for direction in ("forward", "evaluate"):
        sums = kernels.to_host(kernels.run(op, direction, given)[1])
        assert sums[2] == right.sum()


@each_dtype
def test_losses_of_extreme_logits(kernels: Backend, dtype: Any) -> None:
    z = np.array([[0, 0], [1e4, 1e4], [-np.inf, 3], [1e30, -1e30], [np.nan, 1]], dtype)
    labels, reference = np.array([0, 1, 1, 0, 1], np.int32), Backend()
    op = LOSS_RECORDS["softmax_cross_entropy"]
    for rows in (slice(0, 4), slice(0, 5)):
        inputs = (z[rows], labels[rows], None, None)
        given = [None if a is None else kernels.asarray(a) for a in inputs]
        got = kernels.run(op, "forward", given, None, label_smoothing=0.0)
        want = reference.run(op, "forward", inputs, None, label_smoothing=0.0)
        for a, b in zip(map(kernels.to_host, got), want, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_allclose(a, b, rtol=1e-5 if dtype is np.float32 else 1e-12)


@pytest.mark.parametrize("cols", [3, 100])
def test_a_label_that_no_class_has_counts_for_nothing(kernels: Backend, cols: int) -> None:
    z = np.random.default_rng(cols).standard_normal((6, cols)).astype(np.float32)
    labels = np.array([0, 1, cols, -1, 2**32 + 1, -(2**32)])  # the last two are 1 and 0 in 32 bits
    op = LOSS_RECORDS["softmax_cross_entropy"]
    loss, sums, gradient = (
        kernels.to_host(found)
        for found in kernels.run(op, "forward", (kernels.asarray(z), kernels.asarray(labels), None, None))
    )
    reference = Backend().run(op, "forward", (z[:2], labels[:2], None, None))
    np.testing.assert_allclose(loss, reference[0], rtol=1e-5)
    assert sums[1] == 2
    assert sums[3] == 6
    np.testing.assert_allclose(gradient[:2], reference[2], rtol=1e-4, atol=1e-6)
    assert not gradient[2:].any()


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 65536, 65537])
def test_batches_are_the_permutation_cut_into_pieces(kernels: Backend, n: int) -> None:
    """Up to 70 rows a batch: more than the host takes at a time, and a last batch that is shorter."""
    rows, labels = np.arange(n, dtype=np.float64)[:, None], kernels.asarray(np.arange(n))
    order = permute(np, np.arange(n), n, np.array([4]), 3_000_000_000)
    stride = min(70, n)
    for batch in {0, n // stride - 1, (n - 1) // stride}:
        expected = order[batch * stride : (batch + 1) * stride]
        clock, count = kernels.asarray(np.array([9, batch, 4])), len(expected)
        take = {"rows": count, "stride": stride, "key": 3_000_000_000, "scale": 1.0, "dtype": "<f8"}
        given = clock, kernels.asarray(rows), labels, None
        x, y, _ = kernels.run(RECORDS["gather"], "forward", given, None, **take)
        np.testing.assert_array_equal(kernels.to_host(x)[:, 0], expected)
        np.testing.assert_array_equal(kernels.to_host(y), expected)


@each_dtype
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nothing_to_do(kernels: Backend, name: str, dtype: Any) -> None:
    for shape in ((0, 4), (0, 1025)):
        (y,) = kernels.run(ACTIVATIONS[name], "forward", (kernels.asarray(np.zeros(shape, dtype)),))
        assert y.shape == shape


def test_what_a_kernel_does_not_take_the_formula_does(kernels: Backend) -> None:
    tanh, entropy = ACTIVATIONS["tanh"], LOSS_RECORDS["softmax_cross_entropy"]
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    on_device = kernels.asarray(x)
    for given, want, rtol in (
        (on_device.T, np.tanh(x.T), 1e-6),
        (on_device[:, ::2], np.tanh(x[:, ::2]), 1e-6),
        (kernels.asarray(x.astype(np.float16)), np.tanh(x), 1e-2),
    ):
        np.testing.assert_allclose(kernels.to_host(kernels.run(tanh, "forward", (given,))[0]), want, rtol=rtol)
    for labels in (
        np.array([0, 1, 2], np.uint8),
        np.array([0.0, 1.0, 2.0], np.float32),
        np.eye(3, 4, dtype=np.int64),
    ):
        got = kernels.run(entropy, "forward", (on_device, kernels.asarray(labels), None, None))
        want = Backend().run(entropy, "forward", (x, labels, None, None))
        np.testing.assert_allclose(kernels.to_host(got[0]), want[0], rtol=1e-6)
        assert bits(kernels.to_host(on_device)) == bits(x)

"""What is stored in sixteen bits is computed in float: bfloat16 arrays, and the narrow shadow of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import bits, decaying, directions, examples

from gpumlp.backend import Backend
from gpumlp.checks.agreement import has_kernel
from gpumlp.ops import GATHER, RECORDS, UPDATES, Op
from gpumlp.ops.precision import is_floating
from gpumlp.ops.products import MATRIX_PRODUCT

NARROW = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
ULP = 2.0**-8
DIRECTIONS = [(name, d) for name, d in directions() if RECORDS[name].directions[d].narrow]


def there(backend: Backend, arrays: Any) -> list[Any]:
    return [None if a is None else backend.asarray(a) for a in arrays]


def here(backend: Backend, arrays: Any) -> list[Any]:
    return [None if a is None else backend.to_host(a) for a in arrays]


def widened(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype == NARROW else array


def narrowed(op: Op, direction: str, inputs: Any) -> list[Any]:
    """Return inputs in the dtypes that a narrow model gives them: what is wide in float32, all else in 16 bits."""
    made = op.directions[direction]
    return [
        np.ascontiguousarray(a, np.float32 if name in made.wide else NARROW)
        if a is not None and is_floating(a.dtype)
        else a
        for name, a in zip(made.arrays, inputs, strict=False)
    ]


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 32), (33, 65), (5, 300)])
@pytest.mark.parametrize(("name", "direction"), DIRECTIONS)
def test_a_narrow_kernel_agrees_with_the_formula_in_float64(
    kernels: Backend, name: str, direction: str, shape: tuple[int, int]
) -> None:
    """To the rounding of what is stored: twice where a result is stored in between."""
    op, ran = RECORDS[name], 0
    for inputs, params in examples(op, direction, *shape, NARROW):
        arrays = narrowed(op, direction, inputs)
        wide = params
        if "dtype" in params:
            wide, params = {**params, "dtype": "<f8"}, {**params, "dtype": NARROW}
        expected = Backend().run(op, direction, [widened(a) for a in arrays], None, **wide)
        specs = op.directions[direction].specs(*arrays, **params)
        outputs = [None if spec is None else np.empty(*spec) for spec in specs]
        if not has_kernel(op, direction, arrays, outputs):
            continue
        ran += 1
        found = here(kernels, kernels.run(op, direction, there(kernels, arrays), None, **params))
        for got, want in zip(found, expected, strict=True):
            if want is None or want.dtype.kind != "f":
                continue
            # Sums are taken in float and rounded once; their terms may cancel.
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(got.astype(np.float64), want, rtol=2 * ULP, atol=ULP * scale / 2)
    assert ran or op.name == "softmax" or shape == (1, 1), "no example reached the kernel"


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False)])
def test_a_product_can_leave_its_sums_unrounded(kernels: Backend, turned: tuple[bool, bool]) -> None:
    """As the gradient of weights in float32 needs them."""
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(size, np.float32).astype(NARROW) for size in ((7, 40), (40, 9)))
    given = [np.ascontiguousarray(m.T) if is_turned else m for m, is_turned in zip((a, b), turned, strict=True)]
    params = {"turned": turned, "dtype": np.dtype(np.float32)}
    (found,) = here(kernels, kernels.run(MATRIX_PRODUCT, "forward", there(kernels, given), None, **params))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, widened(a) @ widened(b), rtol=1e-5, atol=1e-5)


SIMPLE = ("identity", "relu", "leaky_relu", "dropout", "gather")
"""Operations whose every number is exact or rounded as IEEE 754 says, before it is stored."""


@pytest.mark.parametrize(("name", "direction"), [(n, d) for n, d in DIRECTIONS if n in SIMPLE])
def test_a_narrow_kernel_of_simple_arithmetic_leaves_the_bits_of_the_formula(
    kernels: Backend, name: str, direction: str
) -> None:
    op = RECORDS[name]
    for inputs, params in examples(op, direction, 33, 65, NARROW):
        arrays = narrowed(op, direction, inputs)
        expected, found = (
            here(each, each.run(op, direction, there(each, arrays), None, **params)) for each in (Backend(), kernels)
        )
        for made, got, want in zip(op.directions[direction].outputs, found, expected, strict=True):
            assert want is None or made == "db" or bits(got) == bits(want)  # db is a sum, taken in parts


@pytest.mark.parametrize("shift", [0, 1, 4])
@pytest.mark.parametrize("name", UPDATES)
def test_the_shadow_is_the_parameters_rounded(kernels: Backend, name: str, shift: int) -> None:
    """In the same launch, bit for bit what a cast would make of them."""
    op, n = UPDATES[name], 301
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, n), np.float32)
    slots = [np.abs(rng.standard_normal(n, np.float32)) for _ in op.slots]
    p, g, rates, groups, clock, memory, *slots = there(
        kernels,
        (
            *(p, g, np.array([0.1], np.float32), decaying(100, n), np.array([3, 1, 0])),
            *(np.zeros(n + 8, NARROW), *slots),
        ),
    )
    shadow = memory[shift : shift + n]
    totals = there(kernels, [np.ones(1) for _ in op.totals])
    inputs = (p, g, rates, None, groups, clock, None, None, shadow, *slots, *totals)
    params = {"weight_decay": 0.1, "clip_norm": None, "averaging": None}
    hyper = {key: value.default for key, value in op.hyper.items()}
    found = kernels.run(op, "forward", inputs, (p, None, shadow, *slots), **params, **hyper)
    assert found[2] is shadow
    stored, trained = here(kernels, (shadow, p))
    np.testing.assert_array_equal(stored, trained.astype(NARROW))


def test_rounding_is_to_the_nearest_and_of_two_to_the_even(kernels: Backend) -> None:
    x = np.array(
        [1, 1 + ULP, 1 + ULP / 2, 1 + 3 * ULP / 2, -1e38, 3.4e38, np.inf, -np.inf, np.nan, 0, -0.0], np.float32
    )
    inputs = (np.zeros(3, np.int64), x.reshape(-1, 1), np.arange(len(x)), None)
    take = {"rows": len(x), "stride": len(x), "key": 1, "scale": 1.0, "dtype": NARROW}
    batch, chosen, _ = here(kernels, kernels.run(GATHER, "forward", there(kernels, inputs), **take))
    np.testing.assert_array_equal(batch.ravel().view(np.uint16), x[chosen].astype(NARROW).view(np.uint16))

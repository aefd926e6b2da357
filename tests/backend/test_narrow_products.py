"""Products of bfloat16 matrices: summed up in float32, rounded once, and NaN and infinity go through."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BACKENDS, bits

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.errors import ShapeError

NARROW = np.dtype(ml_dtypes.bfloat16)
U = 2.0**-8
"""The largest relative error of one rounding to bfloat16, which has 8 bits of mantissa."""

SIZES = st.sampled_from([0, 1, 2, 3, 7, 31, 33, 65, 130])


@pytest.fixture(params=BACKENDS, scope="module")
def products(request: pytest.FixtureRequest) -> Backend:
    return backends.get(request.param)


def matrix(rng: np.random.Generator, rows: int, cols: int, turned: bool, odd: float | None) -> np.ndarray:
    values = rng.standard_normal((cols, rows) if turned else (rows, cols)).astype(np.float32).astype(NARROW)
    if odd is not None and values.size:
        values.reshape(-1)[rng.integers(values.size)] = odd
    return values.T if turned else values


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(SIZES, SIZES, SIZES),
    turned=st.tuples(st.booleans(), st.booleans()),
    odd=st.tuples(*[st.sampled_from([None, None, np.nan, np.inf, -np.inf])] * 2),
    into=st.sampled_from([None, NARROW, np.dtype(np.float32)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_product_is_the_exact_one_rounded(
    products: Backend,
    shape: tuple[int, int, int],
    turned: tuple[bool, bool],
    odd: tuple[float | None, float | None],
    into: np.dtype | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    rows, inner, cols = shape
    a, b = matrix(rng, rows, inner, turned[0], odd[0]), matrix(rng, inner, cols, turned[1], odd[1])
    before = bits(a), bits(b)
    place = None if into is None else np.full((rows, cols), 7.0).astype(into)
    found = products.matmul(a, b, place)
    assert found is place or place is None
    assert found.dtype == (NARROW if into is None else into)
    assert (bits(a), bits(b)) == before
    with np.errstate(all="ignore"):
        exact, size = a.astype(float) @ b.astype(float), np.abs(a.astype(float)) @ np.abs(b.astype(float))
        got, finite = found.astype(float), np.isfinite(exact)
        np.testing.assert_array_equal(got[~finite], exact[~finite])  # NaN equals NaN here
        rounding = 0.0 if found.dtype == np.float32 else U
        allowed = inner * 2.0**-24 * size * (1 + U) + rounding * np.abs(exact)
        assert (np.abs(got - exact)[finite] <= allowed[finite]).all()


@pytest.mark.parametrize("rows", [1, 40])
def test_the_sums_are_rounded_once_to_what_is_nearest(products: Backend, rows: int) -> None:
    """Integers of up to 24 bits are exact in float32, so here the product is the exact one, rounded."""
    rng = np.random.default_rng(rows)
    a, b = (rng.integers(-99, 100, shape).astype(NARROW) for shape in ((rows, 300), (300, 17)))
    exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(products.matmul(a, b), exact.astype(NARROW))
    np.testing.assert_array_equal(products.matmul(a, b, np.empty((rows, 17), np.float32)), exact)


def test_what_is_captured_is_computed_anew(products: Backend) -> None:
    a, b = (np.ones(shape).astype(NARROW) for shape in ((3, 4), (4, 5)))
    out = np.zeros((3, 5), np.float32)
    plan = products.capture(lambda: products.matmul(a, b, out))
    a[...] = 2
    plan()
    assert (out == 8).all()


@pytest.mark.parametrize(
    ("left", "right", "into"),
    [
        (NARROW, np.float32, None),
        (np.float32, NARROW, None),
        (NARROW, np.float64, None),
        (NARROW, NARROW, np.float64),
        (NARROW, NARROW, np.int32),
    ],
)
def test_other_mixtures_are_refused(products: Backend, left: object, right: object, into: object) -> None:
    a, b = np.ones((2, 2)).astype(left), np.ones((2, 2)).astype(right)
    with pytest.raises(ShapeError, match="matmul is given") as caught:
        products.matmul(a, b, None if into is None else np.empty((2, 2), into))
    assert "bfloat16 or float32" in str(caught.value)

"""Sums over a fixed binary tree."""

from __future__ import annotations

import numpy as np
import pytest
from support import FLOATS, run

from gpumlp import backend as backends
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS

TREE_SUM = RECORDS["tree_sum"]


def rows(terms, dtype=np.float32, cols=1000):
    rng = np.random.default_rng(terms)
    return (rng.standard_normal((terms, cols)) * 10.0 ** rng.integers(-6, 7, (terms, cols))).astype(dtype)


def by_hand(x):
    """Return the sum as the tree is defined: of two halves."""
    return x[0] if len(x) == 1 else by_hand(x[: len(x) // 2]) + by_hand(x[len(x) // 2 :])


@pytest.fixture(params=["numpy", "native"])
def backend(request):
    try:
        return backends.get(request.param)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("terms", [1, 2, 4, 8, 16, 32, 64, 128])
def test_the_sum_is_that_of_the_halves(backend, terms, dtype):
    x = rows(terms, dtype)
    (total,) = backend.run(TREE_SUM, "forward", (x, None))
    np.testing.assert_array_equal(total, by_hand(x))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_tree_of_trees_is_the_tree(backend, parts):
    x, of = rows(16), {"of": 12.0}
    sums = np.array([3.0, 7.0, 1.0, 2.0])
    (whole,) = backend.run(TREE_SUM, "forward", (x, sums), **of)
    leaves = [backend.run(TREE_SUM, "forward", (part, None))[0] for part in np.split(x, parts)]
    (total,) = backend.run(TREE_SUM, "forward", (np.stack(leaves), sums), **of)
    np.testing.assert_array_equal(total, whole)


def test_the_total_may_be_a_row_of_the_terms(backend):
    x = rows(2)
    expected = x[0] + x[1]
    backend.run(TREE_SUM, "forward", (x, None), (x[0],))
    np.testing.assert_array_equal(x[0], expected)


def test_the_factor_is_of_over_the_mass_and_1_where_they_are_equal(backend):
    x = rows(4)
    plain = by_hand(x)
    for mass, factor in ((8.0, 1.0), (4.0, 2.0), (0.0, 0.0)):
        (total,) = backend.run(TREE_SUM, "forward", (x, np.array([1.0, mass, 0.0, 8.0])), of=8.0)
        np.testing.assert_array_equal(total, plain * np.float32(factor))


def test_nan_goes_through():
    x = rows(4)
    x[2, 5] = np.nan
    (total,) = run(TREE_SUM, "forward", x, None)
    assert np.isnan(total).nonzero()[0].tolist() == [5]

from __future__ import annotations

import math

import numpy as np
import pytest

from gpumlp.autodiff import Variable
from gpumlp.autodiff.differences import MOST, TOLERANCE, compare, compare_variable


def cubes(v: np.ndarray) -> float:
    return float(np.sum(v**3))


def test_a_right_gradient_agrees_element_by_element() -> None:
    at = np.random.default_rng(0).standard_normal((3, 4))
    found = compare(cubes, at, 3 * at**2)
    assert found.passed
    assert found.error < 1e-9
    assert found.checked == 12
    np.testing.assert_allclose(found.numeric, 3 * at**2, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [12, 5 * MOST])
def test_one_wrong_element_among_many_is_found(size: int) -> None:
    """Even one that is not moved by itself: the random direction passes through all."""
    at = np.random.default_rng(0).standard_normal(size)
    taped = 3 * at**2
    index = 7
    taped[index] += 1e-3 * np.abs(taped).max()
    found = compare(cubes, at, taped)
    assert not found.passed
    assert found.error > 10 * TOLERANCE
    assert found.checked <= MOST
    assert size == 12 or np.isnan(found.numeric[index])


def test_the_elements_that_are_shown_are_checked() -> None:
    at = np.zeros(5 * MOST)
    found = compare(lambda v: float(v.sum()), at, np.ones(5 * MOST), shown=[3, 11])
    np.testing.assert_allclose(found.numeric[[0, 3, 11, -1]], 1.0, rtol=1e-6)
    assert np.isnan(found.numeric[4])


def test_a_kink_close_by_is_stepped_around_and_one_at_the_very_point_is_not() -> None:
    def relu(v: np.ndarray) -> float:
        return float(np.maximum(v, 0.0).sum())

    assert compare(relu, np.array([3e-6]), np.array([1.0])).passed
    assert compare(relu, np.array([-3e-6]), np.array([0.0])).passed
    assert not compare(relu, np.array([3e-6]), np.array([0.0])).passed
    assert not compare(relu, np.array([0.0]), np.array([0.0])).passed


def test_what_is_not_a_number_does_not_pass() -> None:
    at = np.array([1.0, 2.0])
    assert not compare(cubes, at, np.array([3.0, math.nan])).passed
    assert not compare(lambda v: math.nan, at, np.array([3.0, 12.0])).passed


def test_a_gradient_of_zeros_passes_where_the_function_is_constant() -> None:
    assert compare(lambda v: 2.0, np.ones(3), np.zeros(3)).error == 0
    assert compare(lambda v: 2.0, np.ones(0), np.zeros(0)).passed


def test_a_variable_has_its_values_again() -> None:
    v = Variable(np.array([1.0, -2.0]))
    found = compare_variable(lambda: cubes(v.numpy()), v, np.array([3.0, 12.0]))
    assert found.passed
    assert v.numpy().tolist() == [1.0, -2.0]

    def fails() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compare_variable(fails, v, np.zeros(2))
    assert v.numpy().tolist() == [1.0, -2.0]

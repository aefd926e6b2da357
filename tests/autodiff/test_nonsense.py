"""Every public function with what it is not for: a result or an error with a text, never another exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp.errors import GpumlpError

FILES = {"configure", "evaluate", "fit", "load", "load_trained", "plot", "prepare_files", "query", "read", "train"}
"""Functions of files and whole runs, whose arguments have tests of their own."""

FUNCTIONS = {
    name: value
    for name in dir(gpumlp)
    if not name.startswith("_")
    and callable(value := getattr(gpumlp, name))
    and not isinstance(value, type)
    and name not in FILES
}

VALUES: list[Any] = [
    *([1, 2, 3], [[1, 2], [3, 4]], True, [True, False], np.array([1, 2, 3], np.uint8), np.array(3), None, "x"),
    *(np.zeros((2, 3, 4)), np.array(["a"]), [[1], [1, 2]], np.array([1 + 2j]), np.array([]), object()),
    *(np.array([1.0, 2.0], np.float16), np.array([[1.0, 2.0]], ">f8"), np.zeros((0, 3)), float("nan"), 1 << 70),
]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_takes_nonsense_or_says_why_not(name: str) -> None:
    function: Callable[..., Any] = FUNCTIONS[name]
    for count in (1, 2, 3):
        for value in VALUES:  # the same object each time
            with contextlib.suppress(GpumlpError, TypeError, ValueError):
                function(*([value] * count))


@pytest.mark.parametrize("name", ["softmax", "tanh", "sigmoid", "exp", "gelu", "silu", "softplus", "log", "sqrt"])
@pytest.mark.parametrize("values", [[1, 2, 3], [True, True], np.array([1, 200], np.uint8), np.array([3, 4], ">i8")])
def test_whole_numbers_and_truth_values_become_floats(name: str, values: Any) -> None:
    function = FUNCTIONS[name]
    found = function(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.numpy(), function(np.asarray(values).astype(np.float32)).numpy())

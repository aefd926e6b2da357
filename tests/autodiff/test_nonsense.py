"""Every public function with what it is not for: a result or an error with a text, never another exception."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp.errors import GpumlpError, ShapeError

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


MASKED = np.ma.array([[1.0, 2.0]], mask=[[False, True]])


@pytest.mark.parametrize(
    "take",
    [
        gpumlp.Tensor,
        gpumlp.Variable,
        gpumlp.tanh,
        gpumlp.Dense(2),
        lambda masked: gpumlp.Tensor([[1.0, 2.0]]) * masked,
        lambda masked: gpumlp.Variable([[1.0, 2.0]]).assign(masked),
        lambda masked: gpumlp.squared_error([[1.0, 2.0]], masked),
    ],
)
def test_what_a_mask_hides_is_never_taken_for_a_number(take: Callable[[Any], Any]) -> None:
    with pytest.raises(ShapeError, match="a tensor has no mask"):
        take(MASKED)


def test_masks_that_another_thread_is_importing_are_none_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    assert gpumlp.Tensor([[1.0, 2.0]]).shape == (1, 2)


def test_a_step_by_masked_gradients_is_refused() -> None:
    variable = gpumlp.Variable([[1.0, 2.0]])
    optimizer = gpumlp.Optimizer("sgd", gpumlp.Parameters.of([variable]), learning_rate=0.1)
    with pytest.raises(ShapeError, match="a tensor has no mask"):
        optimizer.apply_gradients([(MASKED, variable)])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: gpumlp.Variable([1.5, 2.5], dtype="int32"), "holds floating point, not int32"),
        (lambda: gpumlp.Tensor([1.0], dtype=complex), "real numbers, not dtype complex128"),
        (lambda: gpumlp.Tensor([1.0], dtype="flaot32"), "unknown dtype 'flaot32'"),
        (lambda: gpumlp.Optimizer("sgd", [gpumlp.Variable([1.0])]), "updates Parameters, not a list"),  # type: ignore[arg-type]
        (lambda: gpumlp.Dense(True), "units of a dense layer is True"),
        (lambda: gpumlp.Dropout(True), "the dropout rate is True"),
        (lambda: gpumlp.Schedule(learning_rate=np.inf), "learning_rate is inf"),
    ],
)
def test_a_number_or_dtype_that_does_not_fit(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(GpumlpError, match=said):
        make()


LOGITS, ROWS, VALUES_OF_ONE = [[0.5, 0.2, 0.1], [0.1, 0.8, 0.3]], [0, 1], [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("name", "inputs", "params", "said"),
    [
        ("softmax_cross_entropy", (LOGITS, ROWS), {"label_smoothing": 1.5}, "label_smoothing .* is 1.5"),
        ("softmax_cross_entropy", (LOGITS, ROWS), {"label_smoothing": float("nan")}, "label_smoothing .* is nan"),
        ("softmax_cross_entropy", (LOGITS, ROWS), {"from_logits": True}, "no setting 'from_logits'"),
        ("softmax_cross_entropy", (LOGITS, ROWS, [1.0, -2.0]), {}, "row weights must be finite and at least 0"),
        ("softmax_cross_entropy", (LOGITS, ROWS, [1.0, np.nan]), {}, "row weights must be finite and at least 0"),
        ("softmax_cross_entropy", (LOGITS, ROWS, None, [1, -2, 3]), {}, "class weights must be finite"),
        ("huber", (VALUES_OF_ONE, VALUES_OF_ONE), {"delta": 0}, "delta of huber is 0"),
        ("quantile", (VALUES_OF_ONE, VALUES_OF_ONE, None, [1.9]), {}, "levels must lie between 0 and 1"),
        ("squared_error", (VALUES_OF_ONE, VALUES_OF_ONE, None, [1.0, 2.0]), {}, "no classes to weight"),
    ],
)
def test_a_loss_refuses_settings_and_weights_that_mean_nothing(
    name: str, inputs: tuple[Any, ...], params: dict[str, Any], said: str
) -> None:
    with pytest.raises(GpumlpError, match=said):
        FUNCTIONS[name](*inputs, **params)

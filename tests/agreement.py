"""One body of tests for every backend that runs kernels: what a kernel leaves is what the formula says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from support import assert_close, bits, examples

from gpumlp.backend import Backend
from gpumlp.backend.kernels import Texts, template_types
from gpumlp.ops import Op

FORMULA_ONLY = {"softmax_bias_forward", "softmax_bias_backward"}
"""Directions without a kernel: softmax inside a network is rare, and at its end it is not fused with a bias."""
GUARD = 64  # bytes

Shift = Callable[[int], int]
"""By how many elements an array is moved from an address that every vector takes, from its number."""


def straight(number: int) -> int:
    return 0


def alike(number: int) -> int:
    return 1


def askew(number: int) -> int:
    return number % 3


def guarded(
    backend: Backend, shape: tuple[int, ...], dtype: Any, shift: int, values: Any = None
) -> tuple[Any, Any, int]:
    """Return an array of the backend between two guards, all of the memory around it, and where it begins there.

    Without values it holds bytes 0xFF: NaN in floating point, -1 in whole numbers.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    first = GUARD + shift * np.dtype(dtype).itemsize
    memory = np.full(first + size + GUARD, 0xA5, np.uint8)
    memory[first : first + size] = 0xFF if values is None else np.frombuffer(bits(values), np.uint8)
    whole = backend.asarray(aligned(memory))
    return whole[first : first + size].view(dtype).reshape(shape), whole, first


def aligned(memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy that begins at a multiple of 64 bytes, as device memory does."""
    room = np.empty(memory.size + 64, np.uint8)
    first = -room.ctypes.data % 64
    room[first : first + memory.size] = memory
    return room[first : first + memory.size]


def has_kernel(op: Op, direction: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    types = template_types(op.directions[direction], inputs, outputs)
    return types is not None and bool(Texts().stages(op, direction))


def check_agreement(
    backend: Backend, op: Op, direction: str, rows: int, cols: int, dtype: Any, shift: Shift = straight
) -> int:
    """Run a direction on its examples; return how many of them have a kernel.

    Values, dtypes and shapes; outputs wholly written, nothing around them, no input touched.
    """
    ran = 0
    for inputs, params in examples(op, direction, rows, cols, dtype):
        given = [None if a is None else np.ascontiguousarray(a) for a in inputs]
        expected = Backend().run(op, direction, given, None, **params)
        ran += has_kernel(op, direction, given, expected)
        arrays = [None if a is None else guarded(backend, a.shape, a.dtype, shift(i), a) for i, a in enumerate(given)]
        places = [
            None if e is None else guarded(backend, e.shape, e.dtype, shift(len(given) + i))
            for i, e in enumerate(expected)
        ]
        run = [[None if p is None else p[0] for p in group] for group in (arrays, places)]
        found = backend.run(op, direction, *run, **params)
        for array, place in zip(given, arrays, strict=True):
            if place is not None:
                assert bits(backend.to_host(place[0])) == bits(array), "an input has changed"
        for got, want, place in zip(found, expected, places, strict=True):
            assert (got is None) == (want is None)
            if want is None:
                continue
            memory, first = backend.to_host(place[1]), place[2]
            assert (memory[:first] == 0xA5).all()
            assert (memory[first + want.nbytes :] == 0xA5).all()
            check_values(backend.to_host(got), want, dtype, rows)
    return ran


def check_values(got: Any, want: Any, dtype: Any, rows: int) -> None:
    """Compare with what the formula gives, to the tolerance of a sum over so many rows."""
    assert got.dtype == want.dtype
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    scale = max(1.0, float(np.abs(want).max(initial=0.0)), rows / 8)
    # The sums of a loss are kept in float64 and computed from values of `dtype`.
    assert_close(got.astype(dtype), want.astype(np.float64), "reduction", scale=scale)

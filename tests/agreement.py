"""One body of tests for every backend that runs kernels: what a kernel leaves is what the formula says."""

from __future__ import annotations

from typing import Any

import numpy as np
from support import assert_close

from gpumlp.backend import Backend
from gpumlp.checks.agreement import Shift, disagreement, has_kernel, straight
from gpumlp.checks.examples import examples
from gpumlp.ops import Op

FORMULA_ONLY = {"softmax_bias_forward", "softmax_bias_backward"}
"""Directions without a kernel: softmax inside a network is rare, and at its end it is not fused with a bias."""


def check_agreement(
    backend: Backend, op: Op, direction: str, rows: int, cols: int, dtype: Any, shift: Shift = straight
) -> int:
    """Run a direction on its examples; return how many of them have a kernel.

    Values, dtypes and shapes; outputs wholly written, nothing around them, no input touched.
    """
    ran = 0
    for inputs, params in examples(op, direction, rows, cols, dtype):
        wrong, expected = disagreement(backend, op, direction, inputs, params, shift)
        assert not wrong, wrong
        ran += has_kernel(op, direction, inputs, expected)
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

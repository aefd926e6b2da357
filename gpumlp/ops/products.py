"""A product of matrices as a kernel of our own: for a step that one block takes, where no library can be called."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.ops.precision import is_narrow, wide
from gpumlp.ops.record import Array, Direction, Op, Scalar, Spec


def _product(
    xp: Any, a: Array, b: Array, *, turned: tuple[bool, bool], dtype: np.dtype[Any] | str
) -> tuple[Array, ...]:
    if is_narrow(a.dtype):
        a, b = a.astype(wide(a.dtype)), b.astype(wide(b.dtype))
    return (xp.matmul(a.T if turned[0] else a, b.T if turned[1] else b),)


def _specs(a: Array, b: Array, *, turned: tuple[bool, bool], dtype: np.dtype[Any] | str) -> tuple[Spec, ...]:
    """``dtype`` is that of the product: the operands', or of those in bfloat16 float32."""
    return (((a.shape[turned[0]], b.shape[not turned[1]]), np.dtype(dtype)),)


def _steps(inputs: Any, params: Any) -> tuple[Scalar, ...]:
    """Return the terms of a sum, and how far it is to the next row and the next column of either matrix."""
    (a, b), (a_turned, b_turned) = inputs, params["turned"]
    steps = [(1, m.shape[1]) if turned else (m.shape[1], 1) for m, turned in ((a, a_turned), (b, b_turned))]
    return (a.shape[not a_turned], *steps[0], *steps[1])


MATRIX_PRODUCT = Op(
    "matrix_product",
    "c = a b, each of the two taken as it is stored or turned",
    {
        "forward": Direction(
            _product,
            ("a", "b"),
            ("c",),
            _specs,
            "elementwise",
            over="c",
            types=("a", "b", "c"),
            narrow=True,
            scalars=_steps,
        )
    },
)

"""ReLU with a mask: a bit for each of its values that says whether a gradient goes through, in cuBLASLt's layout.

Bit c % 8 of byte c // 8 of a row belongs to column c; a row has a multiple of 128 bits, as cublasLt.h wants it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.ops.record import Array, Direction, Op, Spec

ROW_BITS = 128


def mask_shape(rows: int, cols: int) -> tuple[int, int]:
    """Return the shape, in bytes, of the mask of a matrix."""
    return rows, -(-cols // ROW_BITS) * (ROW_BITS // 8)


def _forward(xp: Any, x: Array, b: Array) -> tuple[Array, ...]:
    z, (rows, pitch) = x + b, mask_shape(*x.shape)
    passed = xp.zeros((rows, 8 * pitch), dtype=np.uint8)
    passed[:, : x.shape[1]] = xp.where(z <= 0, 0, 1)  # NaN goes through, as in ReLU's own backward
    bits = passed.reshape(rows, pitch, 8) * (1 << xp.arange(8)).astype(np.uint8)
    return xp.maximum(z, 0.0), xp.sum(bits, axis=-1, dtype=np.uint8)


def _specs(x: Array, b: Array) -> tuple[Spec, ...]:
    return (x.shape, x.dtype), (mask_shape(*x.shape), "uint8")


RELU_MASK = Op(
    "relu_mask",
    "y = max(x + b, 0), and a bit for each value: whether the gradient goes through",
    {
        "forward": Direction(
            _forward,
            ("x", "b"),
            ("y", "mask"),
            _specs,
            "rows",
            narrow=True,
            scalars=lambda inputs, params: (mask_shape(*inputs[0].shape)[1],),
            accepts=lambda inputs: inputs[0].ndim == 2,
        )
    },
)

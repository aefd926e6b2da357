"""What surrounds a training step: the clock, the gathering of a batch in the order of the epoch, running sums.

The clock is one int64 array on the device, ``(3,)``: optimizer steps so far, batch within the epoch, epoch.
Everything that changes from step to step reads it, so a captured step needs no host.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpumlp.ops.precision import wide
from gpumlp.ops.random import permute
from gpumlp.ops.record import Array, Direction, Op, Spec, Stage, like

STEP, BATCH, EPOCH = 0, 1, 2


def at_batch(xp: Any, table: Array, batch: Array) -> Array:
    """Return the element of a table for a batch, counted from 0, in an array of one; later ones have the last."""
    return table[xp.minimum(batch, table.shape[0] - 1)]


def _advance(xp: Any, clock: Array) -> tuple[Array, ...]:
    return (clock + xp.asarray([1, 1, 0]),)


def _gather(
    xp: Any,
    clock: Array,
    inputs: Array,
    targets: Array,
    weights: Array | None,
    *,
    rows: int,
    stride: int,
    first: int = 0,
    key: int,
    scale: float,
    dtype: Any,
) -> tuple[Array | None, ...]:
    positions = (clock[BATCH : BATCH + 1] * stride + xp.arange(rows) + first) % len(inputs)
    chosen = permute(xp, positions, len(inputs), clock[EPOCH : EPOCH + 1], key)
    x, y = xp.take(inputs, chosen, axis=0), xp.take(targets, chosen, axis=0)
    # Bytes are scaled on the way; whatever is stored as floating point is already as the network wants it.
    x = x.astype(wide(dtype)) * scale if scale != 1.0 else x.astype(dtype, copy=False)
    return x, y, None if weights is None else xp.take(weights, chosen, axis=0)


def _gather_specs(
    clock: Array,
    inputs: Array,
    targets: Array,
    weights: Array | None,
    *,
    rows: int,
    stride: int,
    first: int = 0,
    key: int,
    scale: float,
    dtype: Any,
) -> tuple[Spec, ...]:
    return (
        ((rows, *inputs.shape[1:]), dtype),
        ((rows, *targets.shape[1:]), targets.dtype),
        None if weights is None else ((rows,), weights.dtype),
    )


def _numbers_of_features(xp: Any, stored: Array, dense: int, width: int) -> Array:
    """Return the numbers of the features that codes stand for, (N, q) int64: ``width`` for a code of none."""
    codes = stored[:, dense:]
    known = (codes >= dense) & (codes < width)
    return xp.where(known, codes, width).astype(np.int64)


def _expand(xp: Any, stored: Array, *, dense: int, width: int, dtype: Any) -> tuple[Array, ...]:
    codes = _numbers_of_features(xp, stored, dense, width)
    out = xp.zeros((len(stored), width + 1), dtype)
    out[:, :dense] = stored[:, :dense].astype(dtype, copy=False)
    out[xp.arange(len(stored))[:, None], codes] = xp.asarray(1, dtype)
    return (xp.ascontiguousarray(out[:, :width]),)


def _code_sum(xp: Any, z: Array | None, stored: Array, W: Array, *, dense: int) -> tuple[Array, ...]:
    chosen = _numbers_of_features(xp, stored, dense, len(W))
    total = xp.zeros((len(stored), W.shape[1]), W.dtype) if z is None else z
    for column in chosen.T:
        known = (column < len(W))[:, None]
        total = total + xp.where(known, W[xp.minimum(column, len(W) - 1)], 0)
    return (total,)


MAX_ONE_HOT_FEATURES = 1024
"""Features up to which a library's product with a matrix of 0 and 1 takes less time than adding row by row."""


def _code_sum_backward(xp: Any, stored: Array, dz: Array, *, dense: int, features: int) -> tuple[Array, ...]:
    chosen, count = _numbers_of_features(xp, stored, dense, features) - dense, features - dense
    if count <= MAX_ONE_HOT_FEATURES:
        one_hot = xp.zeros((count + 1, len(dz)), dz.dtype)
        for column in chosen.T:
            one_hot[column, xp.arange(len(dz))] += 1
        return (one_hot[:count] @ dz,)
    dW = xp.zeros((count + 1, dz.shape[1]), dz.dtype)
    xp.add.at(dW, chosen, dz[:, None])
    return (dW[:count],)


ADVANCE = Op(
    "advance",
    "clock ← clock + (1, 1, 0)",
    {"forward": Direction(_advance, ("clock",), ("clock",), like(0), "elementwise")},
)
GATHER = Op(
    "gather",
    "batch[i] = scale · inputs[p((batch · stride + first + i) mod n)], p by (key, epoch), targets and weights alike",
    {
        "forward": Direction(
            _gather,
            ("clock", "inputs", "targets", "row_weights?"),
            ("batch_inputs", "batch_targets", "batch_weights?"),
            _gather_specs,
            "rows",
            over="batch_inputs",
            types=("batch_inputs", "inputs", "targets"),
            narrow=True,
            wide=("row_weights", "batch_weights"),
            scalars=lambda inputs, params: (
                math.prod(inputs[2].shape[1:]),
                len(inputs[1]),
                params["stride"],
                params.get("first", 0),
                params["key"],
                float(params["scale"]),
            ),
        )
    },
)
EXPAND = Op(
    "expand",
    "x = the first numbers of each row, then 0 but for the features whose numbers stand behind them, which are 1",
    {
        "forward": Direction(
            _expand,
            ("stored",),
            ("x",),
            lambda stored, *, dense, width, dtype: (((len(stored), width), dtype),),
            "rows",
            over="x",
            narrow=True,
            wide=("stored",),
            scalars=lambda inputs, params: (params["dense"], inputs[0].shape[1]),
        )
    },
)
CODE_SUM = Op(
    "code_sum",
    "z + Σ_k W[code_k] of each row, in the order of its codes: what a product adds for features of 0 and 1",
    {
        "forward": Direction(
            _code_sum,
            ("z?", "stored", "W"),
            ("y",),
            lambda z, stored, W, *, dense: (((len(stored), W.shape[1]), W.dtype),),
            "rows",
            over="y",
            scalars=lambda inputs, params: (inputs[1].shape[1], params["dense"], len(inputs[2])),
        ),
        "backward": Direction(
            _code_sum_backward,
            ("stored", "dz"),
            ("dW",),
            lambda stored, dz, *, dense, features: (((features - dense, dz.shape[1]), dz.dtype),),
            "rows",
            over="dW",
            scalars=lambda inputs, params: (*inputs[0].shape, params["dense"]),
            stages=(
                Stage("_clear", "rows", (), ("dW",)),
                Stage("_add", "rows", ("stored", "dz", "dW"), ("dW",)),
            ),
        ),
    },
)
ACCUMULATE = Op(
    "accumulate",
    "totals ← totals + sums",
    {
        "forward": Direction(
            lambda xp, totals, sums: (totals + sums,), ("totals", "sums"), ("totals",), like(0), "elementwise"
        )
    },
)

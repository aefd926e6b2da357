"""What surrounds a training step: the clock, the order of an epoch, the gathering of a batch, running sums.

The clock is one int64 array on the device, ``(3,)``: optimizer steps so far, batch within the epoch, epoch.
Everything that changes from step to step reads it, so a captured step needs no host.
"""

from __future__ import annotations

from typing import Any

from gpumlp.ops.random import permute
from gpumlp.ops.record import Array, Direction, Op, Spec, like

STEP, BATCH, EPOCH = 0, 1, 2


def _advance(xp: Any, clock: Array) -> tuple[Array, ...]:
    return (clock + xp.asarray([1, 1, 0]),)


def _shuffle(xp: Any, clock: Array, *, n: int, key: int) -> tuple[Array, ...]:
    positions = xp.arange(n, dtype=xp.int64)
    return (permute(xp, positions, n, clock[EPOCH : EPOCH + 1], key),)


def _gather(
    xp: Any, clock: Array, order: Array, *sources: Array | None, rows: int, stride: int, scale: float, dtype: str
) -> tuple[Array | None, ...]:
    start = clock[BATCH : BATCH + 1] * stride
    chosen = xp.take(order, start + xp.arange(rows))
    inputs, *rest = (None if source is None else xp.take(source, chosen, axis=0) for source in sources)
    # Bytes are scaled on the way; whatever is stored as floating point is already as the network wants it.
    return (inputs.astype(dtype) * scale if scale != 1.0 else inputs.astype(dtype, copy=False), *rest)


def _gather_specs(
    clock: Array, order: Array, *sources: Array | None, rows: int, stride: int, scale: float, dtype: str
) -> tuple[Spec, ...]:
    specs: list[Spec] = [None if s is None else ((rows, *s.shape[1:]), s.dtype) for s in sources]
    assert specs[0] is not None
    return (specs[0][0], dtype), *specs[1:]


ADVANCE = Op(
    "advance",
    "clock ← clock + (1, 1, 0)",
    {"forward": Direction(_advance, ("clock",), ("clock",), like(0), "flat")},
)
SHUFFLE = Op(
    "shuffle",
    "order = the permutation of 0..n-1 keyed by (key, epoch)",
    {"forward": Direction(_shuffle, ("clock",), ("order",), lambda clock, *, n, key: (((n,), "int64"),), "flat")},
)
GATHER = Op(
    "gather",
    "batch[i] = scale · inputs[order[batch · stride + i]], targets and row weights alike",
    {
        "forward": Direction(
            _gather,
            ("clock", "order", "inputs", "targets", "row_weights?"),
            ("batch_inputs", "batch_targets", "batch_weights?"),
            _gather_specs,
            "rows",
        )
    },
)
ACCUMULATE = Op(
    "accumulate",
    "totals ← totals + sums",
    {
        "forward": Direction(
            lambda xp, totals, sums: (totals + sums,), ("totals", "sums"), ("totals",), like(0), "flat"
        )
    },
)

"""Sums over a fixed binary tree: what the shards of a batch are put together by.

A sum of floating-point numbers depends on its order. Neighbouring terms are added, then neighbouring pairs, and so
on, so that the tree over all shards is the tree over those of a rank followed by the tree over the ranks: the bits do
not depend on how many ranks there are.
"""

from __future__ import annotations

from typing import Any

from gpumlp.ops.record import Array, Direction, Op, Spec

MAX_TERMS = 8
"""Most terms that the kernel adds in one launch."""


def _tree_sum(xp: Any, x: Array, sums: Array | None, *, of: float = 1.0) -> tuple[Array, ...]:
    while len(x) > 1:
        x = x[0::2] + x[1::2]
    total = x[0]
    if sums is None:
        return (total,)
    mass = sums[1:2]
    factor = xp.where(mass == 0, 0.0, of / xp.where(mass == 0, 1.0, mass))
    return (total * factor.astype(total.dtype),)


def _specs(x: Array, sums: Array | None, **_: Any) -> tuple[Spec, ...]:
    return ((x.shape[1:], x.dtype),)


def is_power_of_two(count: int) -> bool:
    """Return whether a count is 1, 2, 4, 8, ..."""
    return count > 0 and count & (count - 1) == 0


TREE_SUM = Op(
    "tree_sum",
    "total = of / sums[1] · (((x_0 + x_1) + (x_2 + x_3)) + ...), without the factor where there are no sums",
    {
        "forward": Direction(
            _tree_sum,
            ("x", "sums?"),
            ("total",),
            _specs,
            "elementwise",
            over="total",
            scalars=lambda inputs, params: (len(inputs[0]), float(params.get("of", 1.0))),
            accepts=lambda inputs: len(inputs[0]) <= MAX_TERMS and is_power_of_two(len(inputs[0])),
        )
    },
)

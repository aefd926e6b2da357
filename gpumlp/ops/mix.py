"""An activation mixed with the identity, by a trained share of each column.

Source: Holzmüller et al. 2024, "RealMLP", arXiv:2407.04491.
"""

from __future__ import annotations

from typing import Any

from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array, Direction, Op, Spec, Stage, like


def _mix_backward(xp: Any, x: Array, h: Array, a: Array, dy: Array, slope: Array) -> tuple[Array, ...]:
    return dy + a * (slope - dy), xp.sum(dy * (h - x), axis=tuple(range(x.ndim - 1)))


def _backward_specs(x: Array, *_: Array) -> tuple[Spec, ...]:
    return (x.shape, x.dtype), (x.shape[-1:], wide(x.dtype))


MIX = Op(
    "mix",
    "y = x + a ⊙ (h - x), h = f(x) elementwise, a share for each column; slope = f'(x) ⊙ dy",
    {
        "forward": Direction(
            lambda xp, x, h, a: (x + a * (h - x),),
            ("x", "h", "a"),
            ("y",),
            like(0),
            "rows",
            narrow=True,
            wide=("a",),
        ),
        "backward": Direction(
            _mix_backward,
            ("x", "h", "a", "dy", "slope"),
            ("dx", "da"),
            _backward_specs,
            "columns",
            narrow=True,
            wide=("a", "da"),
            stages=(
                Stage("", "columns", ("x", "h", "a", "dy", "slope"), ("dx", "scratch")),
                Stage("_finish", "finish", ("scratch",), ("da",)),
            ),
        ),
    },
)

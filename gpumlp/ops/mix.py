"""An activation mixed with the identity, by a trained share of each column.

Source: Holzmüller et al. 2024, "RealMLP", arXiv:2407.04491.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpumlp.ops.dropout import limit_and_scale, scalars, words_of
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Activation, Array, Direction, Op, Spec, Stage, like


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


def mixing(f: Activation) -> Activation:
    """Return the record of an activation with the directions of a whole hidden layer: bias, f, mixing and dropout.

    z = x + b and u = z + a ⊙ (f(z) - z); y is u after dropout. Without a clock nothing is dropped. ``mask`` is the
    mask, a byte for each element: to make it anew in backward would take as long as all else there.
    """
    slope = f.directions["backward"].formula

    def forward(
        xp: Any,
        x: Array,
        b: Array,
        a: Array,
        clock: Array | None,
        factors: Array | None,
        *,
        rate: float = 0.0,
        **position: Any,
    ) -> tuple[Array | None, ...]:
        z = x + b
        y = z + a * (f.function(xp, z) - z)
        if clock is None:
            return y, z, None
        limit, scale = limit_and_scale(xp, y, clock, factors, rate)
        mask = words_of(xp, y, clock, **position) >= limit
        return xp.where(mask, y * scale, 0.0), z, mask.astype(xp.uint8)

    def forward_specs(x: Array, b: Array, a: Array, clock: Array | None, *_: Any, **__: Any) -> tuple[Spec, ...]:
        return (x.shape, x.dtype), (x.shape, x.dtype), None if clock is None else (x.shape, "uint8")

    def backward(
        xp: Any,
        z: Array,
        a: Array,
        dy: Array,
        mask: Array | None,
        clock: Array | None,
        factors: Array | None,
        *,
        rate: float = 0.0,
        **_: Any,
    ) -> tuple[Array, ...]:
        g = dy
        if mask is not None:
            g = xp.where(mask != 0, dy * limit_and_scale(xp, dy, clock, factors, rate)[1], 0.0)
        h = f.function(xp, z)
        (s,) = slope(xp, z if f.saves == "input" else h, g)
        dx, rows = g + a * (s - g), tuple(range(z.ndim - 1))
        return dx, xp.sum(g * (h - z), axis=rows), xp.sum(dx, axis=rows)

    def backward_specs(z: Array, *_: Any, **__: Any) -> tuple[Spec, ...]:
        columns = z.shape[-1:], wide(z.dtype)
        return (z.shape, z.dtype), columns, columns

    directions: Mapping[str, Direction] = {
        "mixed_forward": Direction(
            forward,
            ("x", "b", "a", "clock?", "factors?"),
            ("y", "z", "mask?"),
            forward_specs,
            "elementwise",
            narrow=True,
            wide=("a",),
            scalars=scalars(0, 4),
        ),
        "mixed_backward": Direction(
            backward,
            ("z", "a", "dy", "mask?", "clock?", "factors?"),
            ("dx", "da", "db"),
            backward_specs,
            "columns",
            narrow=True,
            wide=("a", "da", "db"),
            scalars=scalars(0, 5),
            stages=(
                Stage("", "columns", ("z", "a", "dy", "mask", "clock", "factors"), ("dx", "scratch")),
                Stage("_finish", "finish", ("scratch",), ("da", "db")),
            ),
        ),
    }
    return replace(f, directions={**f.directions, **directions})

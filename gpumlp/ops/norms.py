"""Normalisation of rows (layer norm) and of columns (batch norm), and the running averages of the latter."""

from __future__ import annotations

from typing import Any

from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array, Direction, Op, Spec, Stage, like

EPSILON = 1e-5


def _mean(xp: Any, x: Array, axes: Any) -> Array:
    total = xp.sum(x, axis=axes, keepdims=True)
    return total / (x.size // max(total.size, 1))  # NaN where there is nothing; xp.mean would print a warning


def _normalise(xp: Any, x: Array, gain: Array, bias: Array, axes: Any) -> tuple[Array, Array, Array]:
    mean = _mean(xp, x, axes)
    variance = _mean(xp, (x - mean) * (x - mean), axes)
    return (x - mean) * ((variance + EPSILON) ** -0.5) * gain + bias, mean, variance


def _backward(
    xp: Any, x: Array, gain: Array, mean: Array, variance: Array, dy: Array, axes: Any
) -> tuple[Array, Array, Array]:
    scale = (variance + EPSILON) ** -0.5
    h = (x - mean) * scale
    dh = dy * gain
    inner = dh - _mean(xp, dh, axes) - h * _mean(xp, dh * h, axes)
    leading = tuple(range(x.ndim - 1))
    return scale * inner, xp.sum(dy * h, axis=leading), xp.sum(dy, axis=leading)


def _rows(x: Array) -> int:
    return -1


def _columns(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _norm(name: str, meaning: str, axes: Any, statistic: Any, launch: Any, forward: Any, backward: Any) -> Op:
    def specs(x: Array, gain: Array, bias: Array) -> tuple[Spec, ...]:
        return (x.shape, x.dtype), (statistic(x), wide(x.dtype)), (statistic(x), wide(x.dtype))

    return Op(
        name,
        meaning,
        {
            "forward": Direction(
                lambda xp, x, gain, bias: _normalise(xp, x, gain, bias, axes(x)),
                ("x", "gain", "bias"),
                ("y", "mean", "variance"),
                specs,
                launch,
                narrow=True,
                wide=("gain", "bias", "mean", "variance"),
                stages=forward,
            ),
            "backward": Direction(
                lambda xp, x, gain, mean, variance, dy: _backward(xp, x, gain, mean, variance, dy, axes(x)),
                ("x", "gain", "mean", "variance", "dy"),
                ("dx", "dgain", "dbias"),
                like(0, 1, 1),
                "columns",
                narrow=True,
                wide=("gain", "mean", "variance", "dgain", "dbias"),
                stages=backward,
            ),
        },
    )


_SUMS_THEN_ROWS = (Stage("", "columns"), Stage("_finish", "finish"), Stage("_rows", "rows"))

LAYER_NORM = _norm(
    "layer_norm",
    "y = gain (x - mean) / sqrt(var + ε) + bias over the last axis (Ba et al. 2016, arXiv:1607.06450)",
    _rows,
    lambda x: (*x.shape[:-1], 1),
    "rows",
    forward=(),
    backward=(
        Stage("_columns", "columns", ("x", "mean", "variance", "dy"), ("scratch",)),
        Stage("_rows", "rows", ("x", "gain", "mean", "variance", "dy"), ("dx",)),
        Stage("_finish", "finish", ("scratch",), ("dgain", "dbias")),
    ),
)
BATCH_NORM = _norm(
    "batch_norm",
    "y = gain (x - mean) / sqrt(var + ε) + bias over all rows (Ioffe and Szegedy 2015, arXiv:1502.03167)",
    _columns,
    lambda x: (1,) * (x.ndim - 1) + x.shape[-1:],
    "columns",
    forward=_SUMS_THEN_ROWS,
    backward=_SUMS_THEN_ROWS,
)


def _moving_average(xp: Any, average: Array, value: Array, *, momentum: float, scale: float) -> tuple[Array, ...]:
    return ((1.0 - momentum) * average + (momentum * scale) * value.reshape(average.shape),)


MOVING_AVERAGE = Op(
    "moving_average",
    "average ← (1 - momentum) average + momentum scale value",
    {
        "forward": Direction(
            _moving_average,
            ("average", "value"),
            ("average",),
            like(0),
            "elementwise",
            scalars=lambda _, params: (float(params["momentum"]), float(params["scale"])),
        ),
    },
)

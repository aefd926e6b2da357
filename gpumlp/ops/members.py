"""What several networks that share their layers have of their own: a factor, and a bias, of each value.

Rows of k members stand side by side: (N, k p) has p values of each member, or (N k, p) has a row of each.

Source: Wen et al. 2020, "BatchEnsemble", arXiv:2002.06715; Gorishniy et al. 2024, "TabM", arXiv:2410.24210.
"""

from __future__ import annotations

from typing import Any

from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array, Direction, Op, Spec, Stage


def _spread(xp: Any, x: Array, gain: Array, bias: Array | None) -> Array:
    size, width = gain.shape[0], x.shape[-1]
    if size == width:
        y = x * gain
    else:  # all members have the same inputs
        y = xp.reshape(x, (len(x), 1, width)) * xp.reshape(gain, (size // width, width))
        y = xp.reshape(y, (len(x), size))
    return y if bias is None else y + bias


def _forward(xp: Any, x: Array, gain: Array, bias: Array | None) -> tuple[Array, ...]:
    return (_spread(xp, x, gain, bias),)


def _forward_specs(x: Array, gain: Array, bias: Array | None) -> tuple[Spec, ...]:
    return (((x.shape[0], gain.shape[0]), x.dtype),)


def _backward(xp: Any, x: Array, gain: Array, dy: Array) -> tuple[Array, ...]:
    rows, width, size = x.shape[0], x.shape[-1], gain.shape[0]
    g = xp.reshape(dy, (rows, size // width, width))
    dgain = xp.sum(g * xp.reshape(x, (rows, 1, width)), axis=0)
    dx = xp.sum(g * xp.reshape(gain, (size // width, width)), axis=1)
    return dx, xp.reshape(dgain, (size,)), xp.sum(dy, axis=0)


def _backward_specs(x: Array, gain: Array, dy: Array) -> tuple[Spec, ...]:
    trained = gain.shape, wide(dy.dtype)
    return (x.shape, x.dtype), trained, trained


def _width(inputs: Any, params: Any) -> tuple[int]:
    return (inputs[0].shape[-1],)


MEMBER_SCALE = Op(
    "member_scale",
    "y = gain x + bias, x (N, p) taken for each of k members where gain and bias are (k p,)",
    {
        "forward": Direction(
            _forward,
            ("x", "gain", "bias?"),
            ("y",),
            _forward_specs,
            "rows",
            over="y",
            narrow=True,
            wide=("gain", "bias"),
            scalars=_width,
        ),
        "backward": Direction(
            _backward,
            ("x", "gain", "dy"),
            ("dx", "dgain", "dbias"),
            _backward_specs,
            "columns",
            over="dy",
            narrow=True,
            wide=("gain", "dgain", "dbias"),
            scalars=_width,
            stages=(
                Stage("_columns", "columns", ("x", "dy"), ("scratch",)),
                Stage("_rows", "rows", ("gain", "dy"), ("dx",)),
                Stage("_finish", "finish", ("scratch",), ("dgain", "dbias")),
            ),
        ),
    },
)

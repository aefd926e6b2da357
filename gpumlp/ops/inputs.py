"""What turns the columns of a batch into wider inputs: embeddings of numbers, and tables of vectors by code.

``x`` is (N, p) throughout: its first f columns are the numbers that are embedded, and q neighbouring ones hold codes.
Sums over rows are in the order of the rows, each by one thread, so that no bit depends on a launch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpumlp.ops.record import Array, Direction, Op, Scalar, Spec, Stage
from gpumlp.ops.special import cospi, sinpi

UNREACHED = float(np.finfo(np.float32).max)
"""The lower edge of a bin that a number does not have, where others have more: no number is beyond it."""


# ---- periodic ----------------------------------------------------------------------------------------------------


def _half_turns(x: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """Return the numbers (f, N, 1) and the arguments of their waves, (f, N, K), in half turns."""
    numbers = x[:, : w.shape[0]].T[:, :, None]
    return numbers, numbers * (2.0 * w[:, None, :]) + b[:, None, :] * (1.0 / math.pi)


def periodic(xp: Any, x: Array, w: Array, b: Array, V: Array, c: Array) -> Array:
    """Return the embedding by waves, (N, f, d + 1)."""
    numbers, u = _half_turns(x, w, b)
    e = cospi(xp, u) @ xp.transpose(V, (0, 2, 1)) + c[:, None, :]
    return xp.transpose(xp.concatenate([e, numbers], axis=-1), (1, 0, 2))


def _pbld_backward(xp: Any, x: Array, w: Array, b: Array, V: Array, dy: Array) -> tuple[Array, ...]:
    numbers, u = _half_turns(x, w, b)
    g = xp.transpose(dy[:, :, :-1], (1, 0, 2))
    dz = -sinpi(xp, u) * (g @ V)
    dw = (2.0 * math.pi) * xp.sum(dz * numbers, axis=1)
    return dw, xp.sum(dz, axis=1), xp.transpose(g, (0, 2, 1)) @ cospi(xp, u), xp.sum(g, axis=1)


PBLD = Op(
    "pbld",
    "y_i = (V_i cos(2π w_i x_i + b_i) + c_i, x_i) of each number x_i (Holzmüller et al. 2024, arXiv:2407.04491)",
    {
        "forward": Direction(
            lambda xp, x, w, b, V, c: (periodic(xp, x, w, b, V, c),),
            ("x", "w", "b", "V", "c"),
            ("y",),
            lambda x, w, b, V, c: (((len(x), *c.shape[:1], c.shape[1] + 1), x.dtype),),
            "rows",
            over="y",
            scalars=lambda inputs, params: (inputs[0].shape[1], *inputs[1].shape),
        ),
        "backward": Direction(
            _pbld_backward,
            ("x", "w", "b", "V", "dy"),
            ("dw", "db", "dV", "dc"),
            lambda x, w, b, V, dy: (
                (w.shape, x.dtype),
                (b.shape, x.dtype),
                (V.shape, x.dtype),
                (V.shape[:2], x.dtype),
            ),
            "rows",
            over="dw",
            scalars=lambda inputs, params: (*inputs[0].shape, inputs[3].shape[1]),
        ),
    },
)


# ---- piecewise linear --------------------------------------------------------------------------------------------


def _shares(xp: Any, x: Array, edges: Array, scales: Array) -> tuple[Array, Array]:
    """Return the numbers (f, N, 1) and how much of each bin lies below them, (f, N, T).

    The first bin goes on below its edge, the last one above. A bin of scale 0 is none. The edges tell which bin a
    number is in: by its share, which is rounded, one at an edge may be in none, and y would not change with it.
    """
    numbers = x[:, : len(edges)].T[:, :, None]
    outside = xp.full((len(edges), 1), xp.inf, edges.dtype)
    begin = xp.concatenate([-outside, edges[:, 1:]], axis=1)[:, None, :]
    end = xp.concatenate([edges[:, 1:], outside * xp.nan], axis=1)[:, None, :]  # nothing is behind the last one
    shares = (numbers - edges[:, None, :]) * scales[:, None, :]
    return numbers, xp.where(numbers >= end, 1.0, xp.where(numbers < begin, 0.0, shares))


def piecewise_linear(xp: Any, x: Array, a: Array, c: Array, V: Array, *, edges: Array, scales: Array) -> Array:
    """Return the embedding as it is defined, (N, f, d): a product of all bins with all their vectors."""
    numbers, v = _shares(xp, x, edges, scales)
    return xp.transpose(numbers * a[:, None, :] + c[:, None, :] + v @ V, (1, 0, 2))


def _ple(xp: Any, x: Array, edges: Array, scales: Array, a: Array, c: Array, V: Array) -> tuple[Array, ...]:
    knots = xp.concatenate([xp.zeros_like(V[:, :1]), xp.cumsum(V, axis=1)[:, :-1]], axis=1)
    return piecewise_linear(xp, x, a, c, V, edges=edges, scales=scales), knots


def _ple_backward(xp: Any, x: Array, edges: Array, scales: Array, dy: Array) -> tuple[Array, ...]:
    numbers, v = _shares(xp, x, edges, scales)
    g = xp.transpose(dy, (1, 0, 2))
    return xp.sum(g * numbers, axis=1), xp.sum(g, axis=1), xp.transpose(v, (0, 2, 1)) @ g


PLE = Op(
    "ple",
    "y_i = a_i x_i + c_i + Σ_t v_t V_it, v_t the share of bin t below x_i (Gorishniy et al. 2022, arXiv:2203.05556)",
    {
        "forward": Direction(
            _ple,
            ("x", "edges", "scales", "a", "c", "V"),
            ("y", "knots"),
            lambda x, edges, scales, a, c, V: (((len(x), *a.shape), x.dtype), (V.shape, x.dtype)),
            "rows",
            over="y",
            scalars=lambda inputs, params: (inputs[0].shape[1], *inputs[1].shape),
            stages=(
                Stage("_knots", "rows", ("V",), ("knots",)),
                Stage("_rows", "rows", ("x", "edges", "scales", "a", "c", "V", "knots"), ("y",)),
            ),
        ),
        "backward": Direction(
            _ple_backward,
            ("x", "edges", "scales", "dy"),
            ("da", "dc", "dV"),
            lambda x, edges, scales, dy: (
                (dy.shape[1:], x.dtype),
                (dy.shape[1:], x.dtype),
                ((*edges.shape, dy.shape[2]), x.dtype),
            ),
            "rows",
            over="da",
            scalars=lambda inputs, params: (*inputs[0].shape, inputs[1].shape[1]),
        ),
    },
)


# ---- tables ------------------------------------------------------------------------------------------------------


def _rows_of_table(xp: Any, x: Array, starts: Array, first: int) -> Array:
    """Return the row of the table for each code, (N, q) int64: the first one of its column for a code it has not."""
    sizes = starts[1:] - starts[:-1]
    codes = x[:, first : first + len(sizes)]
    known = (codes >= 0) & (codes < sizes)
    return starts[:-1] + xp.where(known, codes, 0.0).astype(np.int64)


def looked_up(xp: Any, x: Array, table: Array, *, starts: Array, first: int) -> Array:
    """Return the vectors of the codes, (N, q, d)."""
    return table[_rows_of_table(xp, x, starts, first)]


def _lookup_backward(xp: Any, x: Array, starts: Array, dy: Array, *, first: int, rows: int) -> tuple[Array, ...]:
    dtable = xp.zeros((rows, dy.shape[2]), dy.dtype)
    xp.add.at(dtable, _rows_of_table(xp, x, starts, first), dy)
    return (dtable,)


def _columns(inputs: Sequence[Array], params: Mapping[str, Any]) -> tuple[Scalar, ...]:
    return (*inputs[0].shape, params["first"], len(inputs[1]) - 1)


LOOKUP = Op(
    "lookup",
    "y_i = row starts_i + x_i of the table for each column of codes x_i, row starts_i where the code is unknown",
    {
        "forward": Direction(
            lambda xp, x, starts, table, *, first: (looked_up(xp, x, table, starts=starts, first=first),),
            ("x", "starts", "table"),
            ("y",),
            lambda x, starts, table, *, first: (((len(x), len(starts) - 1, table.shape[1]), x.dtype),),
            "rows",
            over="y",
            scalars=_columns,
        ),
        "backward": Direction(
            _lookup_backward,
            ("x", "starts", "dy"),
            ("dtable",),
            lambda x, starts, dy, *, first, rows: _table_spec(x, dy, rows),
            "rows",
            over="dtable",
            scalars=_columns,
            stages=(
                Stage("_clear", "rows", (), ("dtable",)),
                Stage("_add", "rows", ("x", "starts", "dy", "dtable"), ("dtable",)),
            ),
        ),
    },
)


def _table_spec(x: Array, dy: Array, rows: int) -> tuple[Spec, ...]:
    return (((rows, dy.shape[2]), x.dtype),)

"""Embeddings of the columns of a batch as taped functions: the records of :mod:`gpumlp.ops.inputs`.

What they read is data as a rule: the gradient of what is trained is fused, that of the data goes through the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpumlp.autodiff.fused import Formula, dense_array, operands, through_formula
from gpumlp.autodiff.tape import Want, record, recording
from gpumlp.autodiff.tensor import Tensor, backend_of, wrap
from gpumlp.backend.base import Backend, place_of
from gpumlp.errors import ShapeError
from gpumlp.ops.inputs import LOOKUP, PBLD, PLE, looked_up, periodic, piecewise_linear
from gpumlp.ops.record import Array, Op

Shape = tuple[int, ...]


def pbld(x: Any, w: Any, b: Any, V: Any, c: Any) -> Tensor:
    """Return (V_i cos(2π w_i x_i + b_i) + c_i, x_i) of each of the first f columns of ``x``, side by side.

    Parameters
    ----------
    x
        Numbers (N, p), p at least f.
    w, b
        Frequencies and phases (f, K) of the K waves of each column.
    V, c
        What makes d outputs of the waves of a column: (f, d, K) and (f, d).

    Returns
    -------
    Tensor (N, f (d + 1)).

    Raises
    ------
    ShapeError
        Where the shapes do not fit.
    """
    backend = backend_of((x, w, b, V, c))
    inputs, arrays = operands((x, w, b, V, c), backend)
    xa, wa, ba, Va, ca = (dense_array(array, backend) for array in arrays)
    f, waves = _matrix("pbld", wa)
    size = _width("pbld", ca)
    _require("pbld", {"w": wa, "b": ba, "V": Va, "c": ca}, ((f, waves), (f, waves), (f, size, waves), (f, size)))
    _require_columns("pbld", xa, f)
    return _embedded(PBLD, periodic, inputs, (xa, wa, ba, Va, ca), (xa, wa, ba, Va), backend)


def ple(x: Any, edges: Any, scales: Any, a: Any, c: Any, V: Any) -> Tensor:
    """Return a_i x_i + c_i + Σ_t v_t V_it of each of the first f columns of ``x``, v_t the share of bin t below x_i.

    The first bin goes on below its edge, and the last one above, so that far values are not all alike.

    Parameters
    ----------
    x
        Numbers (N, p), p at least f.
    edges, scales
        Lower edges, in rising order, and 1 / width of the T bins of each column, (f, T), on the backend of ``x`` and
        of its dtype. A column with fewer bins has scales of 0 behind them, and edges no number is beyond.
    a, c
        Slopes and offsets (f, d).
    V
        What each bin adds (f, T, d).

    Returns
    -------
    Tensor (N, f d).

    Raises
    ------
    ShapeError
        Where the shapes do not fit.
    """
    backend = backend_of((x, edges, scales, a, c, V))
    inputs, arrays = operands((x, a, c, V), backend)
    xa, aa, ca, Va = (dense_array(array, backend) for array in arrays)
    low, scale = (dense_array(value, backend, xa.dtype) for value in (edges, scales))
    f, bins = _matrix("ple", low)
    size = _width("ple", aa)
    named = {"edges": low, "scales": scale, "a": aa, "c": ca, "V": Va}
    _require("ple", named, ((f, bins), (f, bins), (f, size), (f, size), (f, bins, size)))
    _require_columns("ple", xa, f)

    def formula(xp: Any, *trained: Any) -> Any:
        return piecewise_linear(xp, *trained, edges=low, scales=scale)

    return _embedded(PLE, formula, inputs, (xa, low, scale, aa, ca, Va), (xa, low, scale), backend)


def lookup(x: Any, starts: Any, table: Any, *, first: int = 0) -> Tensor:
    """Return row starts_i + code of the table for each of q columns of codes, side by side.

    A code that is not one of its column's counts as 0.

    Parameters
    ----------
    x
        Codes (N, p), whole numbers in floating point: those of columns ``first`` to ``first`` + q - 1.
    starts
        int64 (q + 1,) on the backend of ``x``: the row at which the codes of each column begin, and the end.
    table
        (rows, d).
    first
        Column of ``x`` from which on there are codes.

    Returns
    -------
    Tensor (N, q d).

    Raises
    ------
    ShapeError
        Where the shapes do not fit.
    """
    backend = backend_of((x, starts, table))
    inputs, arrays = operands((x, table), backend)
    xa, ta = (dense_array(array, backend) for array in arrays)
    begin = dense_array(starts, backend)
    rows, _ = _matrix("lookup", ta)
    if begin.ndim != 1 or len(begin) < 2:
        raise ShapeError(f"lookup: starts must be (columns + 1,), not {begin.shape}")
    _require_columns("lookup", xa, first + len(begin) - 1)

    def formula(xp: Any, x: Any, table: Any) -> Any:
        return looked_up(xp, xa, table, starts=begin, first=first)

    more = {"rows": rows}
    return _embedded(LOOKUP, formula, inputs, (xa, begin, ta), (xa, begin), backend, {"first": first}, more)


def _embedded(
    op: Op,
    formula: Formula,
    inputs: Sequence[Any],
    operands: Sequence[Array],
    read: Sequence[Array],
    backend: Backend,
    params: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Tensor:
    """Run a record on ``operands``; its backward takes what is ``read`` and the gradient. ``inputs`` begin with x."""
    params = params or {}
    out = backend.run(op, "forward", operands, None, **params)[0]
    y = wrap(out.reshape(len(out), -1), backend)
    shape = y.shape

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        if recording() or wants[0] is not False:
            return through_formula(op.name, lambda xp, *a: formula(xp, *a).reshape(shape), inputs, g, wants)
        dy = dense_array(g, backend).reshape(out.shape)
        gradient_arrays = [place_of(want) for want in wants[1:]]
        gradients = backend.run(op, "backward", (*read, dy), gradient_arrays, **params, **(more or {}))
        return [
            None,
            *(wrap(a, backend) if w is not False else None for a, w in zip(gradients, wants[1:], strict=True)),
        ]

    record(op.name, tuple(inputs), y, rule)
    return y


def _matrix(name: str, array: Array) -> Shape:
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"{name}: a matrix of at least one row and column is needed, not {array.shape}")
    return tuple(array.shape)


def _width(name: str, array: Array) -> int:
    return _matrix(name, array)[1]


def _require(name: str, arrays: dict[str, Array], shapes: Sequence[Shape]) -> None:
    if any(tuple(array.shape) != shape for array, shape in zip(arrays.values(), shapes, strict=True)):
        shapes_text = ", ".join(f"{key} {tuple(array.shape)}" for key, array in arrays.items())
        raise ShapeError(f"{name}: {shapes_text} do not fit")


def _require_columns(name: str, x: Array, least: int) -> None:
    if x.ndim != 2 or x.shape[1] < least:
        raise ShapeError(f"{name}: x must be (N, {least} or more), not {x.shape}")

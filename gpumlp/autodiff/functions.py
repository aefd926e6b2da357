"""The other taped functions: elementwise mathematics, reductions, joining. One rule beside each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpumlp.autodiff.tape import Want, record
from gpumlp.autodiff.tensor import (
    Axes,
    Function,
    Tensor,
    absolute,
    all_held,
    as_floats,
    as_numbers,
    axes_of,
    backend_of,
    broadcast_to,
    getitem,
    greater,
    kept,
    log,
    on_backend,
    primitive,
    raw,
    reduce_to,
    reshape,
    sign,
    sum,
    where,
    wrap,
)
from gpumlp.backend.base import Backend
from gpumlp.errors import ShapeError
from gpumlp.ops.record import Array
from gpumlp.ops.special import Derivative, Formula

abs = absolute


@primitive("exp", lambda g, y, x: g * y, operands=as_floats)
def exp(backend: Backend, x: Array) -> Array:
    """Return e to the power of x."""
    return backend.compute("exp", backend.xp.exp, x)


@primitive("expm1", lambda g, y, x: g * (y + 1.0), operands=as_floats)
def expm1(backend: Backend, x: Array) -> Array:
    """Return exp(x) - 1, exact for small x."""
    return backend.compute("expm1", backend.xp.expm1, x)


@primitive("log1p", lambda g, y, x: g / (1.0 + x), operands=as_floats)
def log1p(backend: Backend, x: Array) -> Array:
    """Return log(1 + x), exact for small x."""
    return backend.compute("log1p", backend.xp.log1p, x)


@primitive("sqrt", lambda g, y, x: g * (0.5 / y), operands=as_floats)
def sqrt(backend: Backend, x: Array) -> Array:
    """Return the square root."""
    return backend.compute("sqrt", backend.xp.sqrt, x)


@primitive("tanh", lambda g, y, x: g * (1.0 - y * y), operands=as_floats)
def tanh(backend: Backend, x: Array) -> Array:
    """Return the hyperbolic tangent."""
    return backend.compute("tanh", backend.xp.tanh, x)


@primitive(
    "maximum",
    lambda g, y, a, b: reduce_to(where(greater(a, b), g, 0.0), a),
    lambda g, y, a, b: reduce_to(where(greater(a, b), 0.0, g), b),
    operands=as_numbers,
)
def maximum(backend: Backend, a: Array, b: Array) -> Array:
    """Return the larger of a and b; NaN goes through. Where they are equal the gradient goes to b."""
    return backend.compute("maximum", backend.xp.maximum, a, b)


@primitive(
    "minimum",
    lambda g, y, a, b: reduce_to(where(greater(b, a), g, 0.0), a),
    lambda g, y, a, b: reduce_to(where(greater(b, a), 0.0, g), b),
    operands=as_numbers,
)
def minimum(backend: Backend, a: Array, b: Array) -> Array:
    """Return the smaller of a and b; NaN goes through. Where they are equal the gradient goes to b."""
    return backend.compute("minimum", backend.xp.minimum, a, b)


def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the mean over all elements, or over the given axes."""
    total = sum(x, axis=axis, keepdims=keepdims)
    size = np.size(x.array if isinstance(x, Tensor) else x)
    return total * (total.size / size if size else math.nan)


def _max_rule(g: Tensor, y: Tensor, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    top, g = kept(y, x, axis, keepdims), kept(g, x, axis, keepdims)
    among = where(greater(top, x), 0.0, x.ones_like())
    return among * (g / sum(among, axis=axis, keepdims=True))


@primitive("max", _max_rule)
def _max(backend: Backend, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return backend.compute("max", backend.xp.max, x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the largest element, of all or along the given axes. Equal ones share the gradient."""
    return _max(x, axis=axes_of(axis), keepdims=keepdims)


def _joined(parts: Sequence[Array], *, xp: Any, axis: int, out: Array | None) -> Array:
    return xp.concatenate(parts, axis=axis, out=out)


def concat(parts: Sequence[Any], axis: int = -1) -> Tensor:
    """Join tensors along an axis."""
    backend = backend_of(parts)
    parts = all_held(parts, backend)
    arrays = as_numbers([raw(part, backend) for part in parts], backend)
    try:
        array = backend.compute("concat", _joined, arrays, xp=backend.xp, axis=axis)
    except ValueError as error:
        shapes = ", ".join(str(np.shape(a)) for a in arrays)
        raise ShapeError(f"concat: shapes {shapes} do not fit along axis {axis}", hint=str(error)) from None
    y = wrap(array, backend)
    ends = np.cumsum([a.shape[axis] for a in arrays])

    def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
        pieces: list[Tensor | None] = []
        for part, end, array, want in zip(parts, ends, arrays, wants, strict=True):
            index: list[Any] = [slice(None)] * g.ndim
            index[axis] = slice(int(end) - array.shape[axis], int(end))
            pieces.append(reduce_to(getitem(g, index=tuple(index)), part) if want is not False else None)
        return pieces

    record("concat", tuple(parts), y, rule)
    return y


def stack(parts: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    backend = backend_of(parts)
    tensors = [on_backend(part, backend) for part in parts]
    if not tensors:
        raise ShapeError("stack: there is nothing to join")
    shape = tensors[0].shape
    at = axis % (len(shape) + 1)
    return concat([reshape(t, shape=(*t.shape[:at], 1, *t.shape[at:])) for t in tensors], axis=at)


FUNCTIONS: dict[str, Function] = {
    "abs": abs,
    "broadcast_to": broadcast_to,
    "concatenate": concat,
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "max": max,
    "maximum": maximum,
    "mean": mean,
    "minimum": minimum,
    "reshape": reshape,
    "sign": sign,
    "sqrt": sqrt,
    "sum": sum,
    "tanh": tanh,
    "where": where,
}


@primitive("smooth", lambda g, y, x, formula, derivative: g * derivative(TapedModule(g.backend), x, y))
def _smooth(backend: Backend, x: Array, *, formula: Formula, derivative: Derivative) -> Array:
    return backend.compute(formula.__name__, _formula_of, x, xp=backend.xp, formula=formula)


def _formula_of(x: Array, *, xp: Any, formula: Formula, out: Array | None) -> Array:
    if out is None:
        return formula(xp, x)
    out[...] = formula(xp, x)
    return out


class TapedModule:
    """An array module whose functions are taped: run a record's formula on it and it can be differentiated.

    What is not in ``FUNCTIONS``, or is given no tensor, is left to the backend's own module: constants stay arrays.
    """

    def __init__(self, backend: Backend) -> None:
        self._module = backend.xp

    def smooth(self, formula: Formula, derivative: Derivative, x: Any) -> Any:
        """Return the value at ``x`` of a function that states its own derivative (:mod:`gpumlp.ops.special`)."""
        taped = isinstance(x, Tensor)
        return _smooth(x, formula=formula, derivative=derivative) if taped else formula(self._module, x)

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._module, name)
        if name not in FUNCTIONS:
            return plain

        def function(*arguments: Any, **params: Any) -> Any:
            values = arguments[0] if isinstance(arguments[0], list | tuple) else arguments
            taped = any(isinstance(value, Tensor) for value in values)
            return (FUNCTIONS[name] if taped else plain)(*arguments, **params)

        return function

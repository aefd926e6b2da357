"""The other taped functions: elementwise mathematics, reductions, joining. One rule beside each."""

from __future__ import annotations

import builtins
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpumlp.autodiff.tape import Want, not_recording, record
from gpumlp.autodiff.tensor import (
    Axes,
    Function,
    Tensor,
    absolute,
    all_held,
    as_arrays,
    as_floats,
    as_numbers,
    backend_of,
    broadcast_to,
    concat,
    greater,
    largest,
    log,
    mean,
    on_backend,
    primitive,
    raw,
    reduce_to,
    reshape,
    sign,
    sum,
    transpose,
    where,
    wrap,
)
from gpumlp.backend.base import Backend, written
from gpumlp.errors import ShapeError, TapeError
from gpumlp.ops.record import Array
from gpumlp.ops.special import Derivative, Formula

abs, max = absolute, largest


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


@primitive("sin", lambda g, y, x: g * cos(x), operands=as_floats)
def sin(backend: Backend, x: Array) -> Array:
    """Return the sine of an angle in radians."""
    return backend.compute("sin", backend.xp.sin, x)


@primitive("cos", lambda g, y, x: -(g * sin(x)), operands=as_floats)
def cos(backend: Backend, x: Array) -> Array:
    """Return the cosine of an angle in radians."""
    return backend.compute("cos", backend.xp.cos, x)


@primitive("square", lambda g, y, x: g * (2 * x))
def square(backend: Backend, x: Array) -> Array:
    """Return x · x, element by element."""
    return backend.compute("square", backend.xp.square, x)


def clip(x: Any, low: Any, high: Any) -> Tensor:
    """Return x, no smaller than ``low`` and no larger than ``high``; NaN goes through.

    The gradient goes to x where it is within the bounds, or on one of them.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    low, high
        Bounds, which broadcast to x; infinite for none.

    Returns
    -------
    Tensor
        In the shape of x.
    """
    x = on_backend(x, backend_of((x, low, high)))
    return where(greater(low, x), low, where(greater(x, high), high, x))


def var(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the variance, the mean square distance from the mean, over all elements or over the given axes.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    axis
        An axis, or several; None for all.
    keepdims
        Whether reduced axes stay, with length 1.

    Returns
    -------
    Tensor
        The axes that are left.
    """
    x = on_backend(x, backend_of((x,)))
    return mean(square(x - mean(x, axis=axis, keepdims=True)), axis=axis, keepdims=keepdims)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Return the logarithm of the softmax along an axis, exact where the softmax itself would be 0.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    axis
        The axis of the classes.

    Returns
    -------
    Tensor
        In the shape of x.
    """
    x = on_backend(x, backend_of((x,)))
    below = x - stop_gradient(max(x, axis=axis, keepdims=True))
    result: Tensor = below - log(sum(exp(below), axis=axis, keepdims=True))
    return result


@primitive("argmax")
def _argmax(backend: Backend, x: Array, *, axis: int | None) -> Array:
    return backend.compute("argmax", backend.xp.argmax, x, axis=axis)


def argmax(x: Any, axis: int | None = None) -> Tensor:
    """Return where the largest element is, the first of equal ones: of all, or along an axis. It has no gradient.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    axis
        The axis; None for all elements.

    Returns
    -------
    Tensor
        int64, without the axis.
    """
    return _argmax(x, axis=axis)


def split(x: Any, parts: int | Sequence[int], axis: int = -1) -> list[Tensor]:
    """Cut a tensor along an axis: into a number of equal parts, or into parts of the given lengths.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    parts
        A number of equal parts, or the length of each.
    axis
        The axis that is cut.

    Returns
    -------
    list of Tensor
        In their order.
    """
    x = on_backend(x, backend_of((x,)))
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"split: a tensor of shape {x.shape} has no axis {axis}")
    length = x.shape[axis]
    if isinstance(parts, int):
        if parts < 1 or length % parts:
            raise ShapeError(f"split: {length} elements along axis {axis} do not make {parts} equal parts")
        parts = [length // parts] * parts
    lengths = [operator.index(part) for part in parts]
    if builtins.sum(lengths) != length or any(part < 0 for part in lengths):
        raise ShapeError(f"split: the lengths {lengths} do not add up to {length}, the length of axis {axis}")
    ends, before = np.cumsum(lengths), (slice(None),) * (axis % x.ndim)
    return [x[(*before, slice(int(end) - part, int(end)))] for part, end in zip(lengths, ends, strict=True)]


def _sum_of_products(*arrays: Array, xp: Any, rule: str, out: Array | None) -> Array:
    return written(xp.einsum(rule, *arrays, optimize=len(arrays) > 1), out)


def einsum(rule: str, *operands: Any) -> Tensor:
    """Return a sum of products in Einstein's notation: ``einsum("ij,jk->ik", a, b)`` is a @ b.

    Letters that the result does not have are summed over; without an arrow it has those that stand once, in the order
    of the alphabet. A letter stands at most once in each operand.

    Raises ShapeError for another rule, or shapes that do not fit it.

    Parameters
    ----------
    rule
        Letters of the axes of each operand, and after ``->`` those of the result.
    operands
        Tensors or arrays.

    Returns
    -------
    Tensor
        With the axes behind ``->``.
    """
    if not isinstance(rule, str):
        raise ShapeError(
            f"einsum: the rule must be a text, not {type(rule).__name__}", hint="as 'ij,jk->ik', then arrays"
        )
    inputs, arrow, output = rule.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        output = "".join(sorted(letter for letter in {*inputs} - {","} if inputs.count(letter) == 1))
    parts = [*terms, output]
    if not all(part == "" or (part.isascii() and part.isalpha()) for part in parts):
        raise ShapeError(f"einsum: {rule!r:.80} is not a rule of letters", hint="as 'ij,jk->ik'")
    if any(len(set(part)) < len(part) for part in parts):
        raise ShapeError(f"einsum: a letter is repeated in a term of {rule!r:.80}")
    backend = backend_of(operands)
    held = all_held(operands, backend)
    arrays = as_numbers([raw(value, backend) for value in held], backend)
    shapes = ", ".join(str(np.shape(array)) for array in arrays)
    if len(terms) != len(arrays) or any(len(t) != np.ndim(a) for t, a in zip(terms, arrays, strict=True)):
        raise ShapeError(f"einsum: {rule!r:.80} does not fit shapes {shapes}")
    if not set(output) <= set(inputs):
        raise ShapeError(f"einsum: the result of {rule!r:.80} has a letter that no operand has")
    sizes = {
        letter: n for term, a in zip(terms, arrays, strict=True) for letter, n in zip(term, np.shape(a), strict=True)
    }
    whole = f"{','.join(terms)}->{output}"
    try:
        array = backend.compute("einsum", _sum_of_products, *arrays, xp=backend.xp, rule=whole)
    except ValueError as error:
        raise ShapeError(f"einsum: {rule!r:.80} does not fit shapes {shapes}", hint=str(error)) from None
    y = wrap(array, backend)

    def of_operand(g: Tensor, at: int) -> Tensor:
        others = [(t, v) for number, (t, v) in enumerate(zip(terms, held, strict=True)) if number != at]
        elsewhere = {*output, *"".join(term for term, _ in others)}
        alone = "".join(letter for letter in terms[at] if letter not in elsewhere)  # summed over by itself: spread
        if alone:
            others.append((alone, backend.xp.ones([sizes[letter] for letter in alone], g.dtype)))
        back = f"{','.join([output, *(term for term, _ in others)])}->{terms[at]}"
        return reduce_to(einsum(back, g, *(value for _, value in others)), held[at])

    record(
        "einsum",
        held,
        y,
        lambda g, wants: [None if want is False else of_operand(g, at) for at, want in enumerate(wants)],
    )
    return y


@primitive("stop_gradient", operands=as_arrays, view=True)
def stop_gradient(backend: Backend, x: Array) -> Array:
    """Return x as a constant: no gradient flows to what it was computed from."""
    return x


def custom_gradient(function: Callable[..., tuple[Any, Callable[[Tensor], Any]]]) -> Callable[..., Tensor]:
    """Make a function that states its own gradient.

        @custom_gradient
        def log1pexp(x):
            e = exp(x)
            return log1p(e), lambda g: g * (1 - 1 / (1 + e))

    Parameters
    ----------
    function
        Returns its value and a function from the gradient of the value to that of each argument: a tensor, or several
        where there are several arguments; None for an argument without one. What it computes of the value is not
        recorded; what it computes of the gradient is, by tapes that are still recording then.

    Raises TapeError, when a gradient is asked for, where there are not as many gradients as arguments, or one has not
    its argument's shape.

    Returns
    -------
    callable
        Takes and returns tensors.
    """

    @functools.wraps(function)
    def taped(*arguments: Any) -> Tensor:
        backend = backend_of(arguments)
        held = all_held(arguments, backend)
        with not_recording():
            value, gradient = function(*(on_backend(each, backend) for each in held))
        y = wrap(raw(value, backend), backend)

        def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
            parts = gradient(g)
            parts = list(parts) if isinstance(parts, list | tuple) else [parts]
            if len(parts) != len(held):
                raise TapeError(f"{function.__name__} takes {len(held)} arguments and gives {len(parts)} gradients")
            for part, argument in zip(parts, held, strict=True):
                shapes = np.shape(getattr(part, "array", part)), np.shape(getattr(argument, "array", argument))
                if part is not None and shapes[0] != shapes[1]:
                    raise TapeError(f"{function.__name__} gives a gradient {shapes[0]} of an argument {shapes[1]}")
            return [
                None if part is None or want is False else on_backend(part, backend)
                for part, want in zip(parts, wants, strict=True)
            ]

        record(function.__name__, held, y, rule)
        return y

    return taped


FUNCTIONS: dict[str, Function] = {
    "abs": abs,
    "broadcast_to": broadcast_to,
    "concatenate": concat,
    "cos": cos,
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
    "sin": sin,
    "sqrt": sqrt,
    "sum": sum,
    "tanh": tanh,
    "transpose": transpose,
    "where": where,
}


@primitive("smooth", lambda g, y, x, formula, derivative: g * derivative(TapedModule(g.backend), x, y))
def _smooth(backend: Backend, x: Array, *, formula: Formula, derivative: Derivative) -> Array:
    return backend.compute(formula.__name__, _formula_of, x, xp=backend.xp, formula=formula)


def _formula_of(x: Array, *, xp: Any, formula: Formula, out: Array | None) -> Array:
    return written(formula(xp, x), out)


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

"""Tensors, and the arithmetic that their operators need: each function with its gradient beside it.

A function is made by :func:`primitive` from a forward on backend arrays and one rule for each argument. A rule
``(g, y, *arguments)`` gets the gradient of the output and returns that of its argument, computed with taped
functions again, so that gradients can themselves be differentiated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpumlp.autodiff.tape import Want, record
from gpumlp.backend.base import Backend
from gpumlp.errors import BackendError, CaptureError, ShapeError
from gpumlp.ops.precision import is_floating
from gpumlp.ops.record import Array

REFERENCE = Backend()
"""Where a tensor lives when it is not told: the NumPy reference, which has no settings that could differ."""

Function = Callable[..., "Tensor"]


class Tensor:
    """An array on a backend, as a value in a computation.

    ``array`` is the raw array of the backend; ``numpy()`` gives a copy on the host. Operators and the
    functions of :mod:`gpumlp.autodiff` take tensors, NumPy arrays and numbers, and return tensors.
    """

    __slots__ = ("__weakref__", "array", "backend", "name", "unit")
    __array_ufunc__ = None  # numpy_array @ tensor is ours to answer
    is_variable = False

    def __init__(self, values: Any, backend: Backend | None = None, *, dtype: Any = None, name: str = "") -> None:
        if isinstance(values, Tensor):
            backend, values = backend or values.backend, values.array
        self.backend: Backend = backend or REFERENCE
        if not self.backend.owns(values) or dtype is not None:
            if dtype is None and not hasattr(values, "dtype"):
                dtype = _default_dtype(values)
            values = self.backend.asarray(values, dtype)
        self.array: Array = values
        self.name = name
        self.unit = False  # True for the ones that a backward pass starts from: multiplying by them is no work

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def differentiable(self) -> bool:
        """True for floating point: only there does a derivative mean anything."""
        return is_floating(self.dtype)

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The transpose."""
        return transpose(self)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return a copy on the host. Refused while a step is being captured."""
        return self.backend.to_host(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def ones_like(self, *, unit: bool = False) -> Tensor:
        """Return ones of this shape and dtype; ``unit`` marks them as the start of a backward pass."""
        with self.backend.quiet():
            array = self.backend.xp.ones(self.shape, self.dtype)  # a constant: as true in a replay as now
        ones = Tensor(array, self.backend)
        ones.unit = unit
        return ones

    def astype(self, dtype: Any) -> Tensor:
        """Return the values in another dtype."""
        return cast(self, dtype=np.dtype(dtype))

    def reshape(self, *shape: Any) -> Tensor:
        """Return the same values in another shape, given as numbers or as one tuple."""
        return reshape(self, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)

    def __repr__(self) -> str:
        kind = type(self).__name__
        name = f"{self.name!r}, " if self.name else ""
        values = "being captured" if self.backend.capturing else np.array2string(self.numpy(), threshold=20)
        return f"{kind}({name}shape={self.shape}, dtype={self.dtype.name}, values={values})"

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self._scalar("branches on {}"))

    def __float__(self) -> float:
        return float(self._scalar("reads {} on the host"))

    def _scalar(self, act: str) -> Any:
        if self.backend.capturing:
            value = f"the value of {self.name or 'a tensor'}"
            raise CaptureError(
                f"the step {act.format(value)}, which cannot be replayed",
                hint="use where(), or decide before capture",
            )
        if self.size != 1:
            raise ShapeError(f"a tensor of shape {self.shape} has no single value")
        return self.numpy().reshape(())

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __neg__(self) -> Tensor:
        return mul(self, -1.0)

    def __add__(self, other: Any) -> Tensor:
        return add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return sub(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return sub(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return div(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return matmul(other, self)

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        arrays = tuple(part.array if isinstance(part, Tensor) else part for part in parts)
        return getitem(self, index=arrays if isinstance(index, tuple) else arrays[0])

    def __gt__(self, other: Any) -> Tensor:
        return greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return greater_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return greater(other, self)

    def __le__(self, other: Any) -> Tensor:
        return greater_equal(other, self)


class Variable(Tensor):
    """A tensor that every tape watches and that can be assigned to: a parameter.

    The values are copied; whole numbers become float32. ``shadow`` has them once more in a narrower dtype, where a
    model computes in one: whoever writes the values writes them there, too.
    """

    __slots__ = ("shadow",)
    is_variable = True

    def __init__(self, values: Any, backend: Backend | None = None, *, dtype: Any = None, name: str = "") -> None:
        super().__init__(values, backend, dtype=dtype, name=name)
        self.array = self.backend.asarray(self.array, self.dtype if self.differentiable else np.float32, copy=True)
        self.shadow: Array | None = None

    def assign(self, values: Any) -> None:
        """Overwrite the values in place; the shape must agree."""
        given = np.shape(values.array if isinstance(values, Tensor) else values)
        if given != self.shape:
            raise ShapeError(f"values of shape {given} were assigned to {self.name or 'a variable'} {self.shape}")
        self.backend.write(self.array, values.array if isinstance(values, Tensor) else values)
        if self.shadow is not None:
            self.backend.write(self.shadow, self.array)


def _default_dtype(values: Any) -> Any:
    """Python numbers are float32 here, as they are on a GPU; whole numbers stay whole."""
    return np.float32 if np.asarray(values).dtype == np.float64 else None


def backend_of(values: Sequence[Any]) -> Backend:
    """Return the one backend of the tensors among ``values``, or the reference where there is none."""
    found = {id(v.backend): v.backend for v in values if isinstance(v, Tensor)}
    if len(found) > 1:
        names = " and ".join(sorted(b.name for b in found.values()))
        raise BackendError(f"tensors of two backends ({names}) meet in one operation", hint="keep them on one")
    return next(iter(found.values()), REFERENCE)


def raw(value: Any, backend: Backend) -> Any:
    """Return the array behind a tensor, a number as it is, and anything else as an array of the backend."""
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, np.generic):
        return value.item()  # np.sqrt(2.0) is a number like any other: it must not turn float32 into float64
    if isinstance(value, bool | int | float) or backend.owns(value):
        return value
    return Tensor(value, backend).array


def as_dtype(x: Tensor, dtype: Any) -> Tensor:
    """Return a tensor as it is where it has the dtype, else its values in it."""
    return x if x.dtype == dtype else x.astype(dtype)


def on_backend(value: Any, backend: Backend) -> Tensor:
    """Return a tensor as it is, and a constant as a tensor of the backend."""
    return value if isinstance(value, Tensor) else Tensor(value, backend)


def primitive(name: str, *rules: Function | None) -> Callable[[Callable[..., Array]], Function]:
    """Turn ``forward(backend, *arrays, **params)`` into a taped function with one gradient rule per argument.

    None in place of a rule: no gradient flows to that argument (an index, a condition). Without any rule the function
    has no derivative; a tape that is asked for one says so.
    """

    def decorate(forward: Callable[..., Array]) -> Function:
        @functools.wraps(forward)
        def function(*arguments: Any, **params: Any) -> Tensor:
            backend = backend_of(arguments)
            try:
                array = forward(backend, *(raw(a, backend) for a in arguments), **params)
            except (ValueError, IndexError) as error:
                shapes = ", ".join(str(np.shape(a.array if isinstance(a, Tensor) else a)) for a in arguments)
                raise ShapeError(f"{name}: shapes {shapes} do not fit", hint=str(error)) from None
            y = Tensor(array, backend)

            def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
                return [
                    of_argument(g, y, *arguments, **params) if want is not False and of_argument else None
                    for of_argument, want in zip(rules or (None,) * len(wants), wants, strict=True)
                ]

            record(name, arguments, y, rule)  # what has no gradient, too, for a tape is there to be looked at
            return y

        return function

    return decorate


def reduce_to(g: Tensor, value: Any) -> Tensor:
    """Sum ``g`` over the axes along which ``value`` was broadcast, and give it the dtype of ``value``."""
    shape = np.shape(value.array) if isinstance(value, Tensor) else np.shape(value)
    if g.shape != shape:
        extra = g.ndim - len(shape)
        axes = (
            *range(extra),
            *(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1),
        )
        g = sum(g, axis=axes, keepdims=True)
        g = reshape(g, shape=shape)
    if isinstance(value, Tensor) and g.dtype != value.dtype:
        g = g.astype(value.dtype)
    return g


# ---- arithmetic, with broadcasting ---------------------------------------------------------------


@primitive("add", lambda g, y, a, b: reduce_to(g, a), lambda g, y, a, b: reduce_to(g, b))
def add(backend: Backend, a: Array, b: Array) -> Array:
    """Return a + b."""
    return backend.compute("add", backend.xp.add, a, b)


@primitive("sub", lambda g, y, a, b: reduce_to(g, a), lambda g, y, a, b: reduce_to(-g, b))
def sub(backend: Backend, a: Array, b: Array) -> Array:
    """Return a - b."""
    return backend.compute("sub", backend.xp.subtract, a, b)


@primitive("mul", lambda g, y, a, b: reduce_to(g * b, a), lambda g, y, a, b: reduce_to(g * a, b))
def mul(backend: Backend, a: Array, b: Array) -> Array:
    """Return a · b, element by element."""
    return backend.compute("mul", backend.xp.multiply, a, b)


@primitive("div", lambda g, y, a, b: reduce_to(g / b, a), lambda g, y, a, b: reduce_to(-(g * y) / b, b))
def div(backend: Backend, a: Array, b: Array) -> Array:
    """Return a / b."""
    return backend.compute("div", backend.xp.true_divide, a, b)


def _power_base(g: Tensor, y: Tensor, a: Any, b: Any) -> Tensor:
    # Where b is 0, a^b is 1 everywhere; but 0 · 0^-1 is not a number.
    if isinstance(b, np.generic):
        b = b.item()
    below: Any
    if isinstance(b, int | float):
        below = b - 1 if b else 0
    else:
        b = on_backend(b, g.backend)
        below = where(greater(b, 0.0), b - 1.0, where(greater(0.0, b), b - 1.0, 0.0))
    return reduce_to(g * b * power(a, below), a)


def _power_exponent(g: Tensor, y: Tensor, a: Any, b: Any) -> Tensor:
    # Where the base is 0 the logarithm is not finite, but y is 0 on both sides of any positive exponent.
    if isinstance(a, int | float):
        return reduce_to(g * y * (math.log(a) if a > 0 else 0.0), b)
    a = on_backend(a, g.backend)
    return reduce_to(g * y * log(where(greater(a, 0.0), a, 1.0)), b)


@primitive("power", _power_base, _power_exponent)
def power(backend: Backend, a: Array, b: Array) -> Array:
    """Return a to the power of b."""
    return backend.compute("power", backend.xp.power, a, b)


@primitive("log", lambda g, y, x: g / x)
def log(backend: Backend, x: Array) -> Array:
    """Return the natural logarithm."""
    return backend.compute("log", backend.xp.log, x)


# ---- matrix products -----------------------------------------------------------------------------


@primitive(
    "matmul",
    lambda g, y, a, b: reduce_to(_matmul(g, transpose(b)), a),
    lambda g, y, a, b: reduce_to(_matmul(transpose(a), g), b),
)
def _matmul(backend: Backend, a: Array, b: Array) -> Array:
    return backend.matmul(a, b)


def matmul(a: Any, b: Any) -> Tensor:
    """Return the matrix product over the last two axes; a vector stands for a row (left) or a column (right)."""
    for side in (a, b):
        if np.ndim(side.array if isinstance(side, Tensor) else side) == 0:
            raise ShapeError("matmul: a number has no matrix product", hint="use * to scale")
    backend = backend_of((a, b))
    a, b = on_backend(a, backend), on_backend(b, backend)
    row, column = a.ndim == 1, b.ndim == 1
    product = _matmul(reshape(a, shape=(1, -1)) if row else a, reshape(b, shape=(-1, 1)) if column else b)
    if row:
        product = product[..., 0, :]
    return product[..., 0] if column else product


# ---- shape ---------------------------------------------------------------------------------------


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(axes))


@primitive("transpose", lambda g, y, x, axes: _permute(g, axes=_inverse(axes)))
def _permute(backend: Backend, x: Array, *, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


def transpose(x: Any, axes: tuple[int, ...] | None = None) -> Tensor:
    """Swap the last two axes, or put the axes into the given order. A view: no copy is made."""
    ndim = np.ndim(x.array if isinstance(x, Tensor) else x)
    order = axes or (*range(ndim - 2), *reversed(range(max(ndim - 2, 0), ndim)))
    return _permute(x, axes=tuple(i + ndim if i < 0 else i for i in order))


@primitive("reshape", lambda g, y, x, shape: _reshape(g, shape=np.shape(x.array)))
def _reshape(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    if not x.flags.c_contiguous:
        x = backend.compute("copy", _contiguous, x, xp=backend.xp)
    return x.reshape(shape)


def reshape(x: Any, shape: tuple[int, ...]) -> Tensor:
    """Return the same values in another shape; one length may be -1."""
    return _reshape(x, shape=shape)


def _contiguous(x: Array, *, xp: Any, out: Array | None) -> Array:
    if out is None:
        return xp.array(x, order="C", copy=True)
    out[...] = x
    return out


@primitive("broadcast", lambda g, y, x, shape: reduce_to(g, x))
def broadcast_to(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    """Repeat values along new axes and axes of length 1 to fill ``shape``."""
    view = backend.xp.broadcast_to(x, shape)
    return backend.compute("broadcast", _contiguous, view, xp=backend.xp)


@primitive("cast", lambda g, y, x, dtype: g.astype(x.dtype))
def cast(backend: Backend, x: Array, *, dtype: Any) -> Array:
    """Return the values in another dtype."""
    return backend.cast(x, dtype)


def _is_view(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts)


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(getattr(part, "dtype", None) == np.bool_ for part in parts)


def _take(x: Array, *, index: Any, out: Array | None) -> Array:
    if out is None:
        return x[index]
    out[...] = x[index]
    return out


def _scatter(g: Array, *, xp: Any, shape: tuple[int, ...], index: Any, out: Array | None) -> Array:
    if out is None:
        out = xp.empty(shape, g.dtype)
    out[...] = 0
    xp.add.at(out, index, g)
    return out


@primitive("slice", lambda g, y, x, index: scatter(g, shape=x.shape, index=index))
def getitem(backend: Backend, x: Array, *, index: Any) -> Array:
    """Return x[index] for numbers, slices, None and ``...`` (a view), or for arrays of whole numbers."""
    if _is_view(index):
        parts = index if isinstance(index, tuple) else (index,)
        return x[parts if Ellipsis in parts else (*parts, ...)]  # with ``...`` NumPy gives a view, never a number
    if backend.capturing and _is_mask(index):
        raise CaptureError("the step picks elements by a mask, whose number may change", hint="use where()")
    return backend.compute("take", _take, x, index=index)


@primitive("scatter", lambda g, y, x, shape, index: getitem(g, index=index))
def scatter(backend: Backend, x: Array, *, shape: tuple[int, ...], index: Any) -> Array:
    """Return zeros of ``shape`` with ``x`` added at ``index``: the transpose of slicing."""
    return backend.compute("scatter", _scatter, x, xp=backend.xp, shape=shape, index=index)


# ---- reductions and choices ----------------------------------------------------------------------

Axes = int | tuple[int, ...] | None


def kept(y: Tensor, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    """Give a reduced tensor back its reduced axes, with length 1."""
    if keepdims:
        return y
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {a % x.ndim for a in axes}
    return reshape(y, shape=tuple(1 if i in gone else n for i, n in enumerate(x.shape)))


@primitive("sum", lambda g, y, x, axis, keepdims: broadcast_to(kept(g, x, axis, keepdims), shape=np.shape(x.array)))
def _sum(backend: Backend, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return backend.compute("sum", backend.xp.sum, x, axis=axis, keepdims=keepdims)


def sum(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the sum over all elements, or over the given axes."""
    return _sum(x, axis=axis, keepdims=keepdims)


@primitive("greater")
def greater(backend: Backend, a: Array, b: Array) -> Array:
    """Return a > b, element by element. It has no gradient."""
    return backend.compute("greater", backend.xp.greater, a, b)


@primitive("greater_equal")
def greater_equal(backend: Backend, a: Array, b: Array) -> Array:
    """Return a >= b, element by element. It has no gradient."""
    return backend.compute("greater_equal", backend.xp.greater_equal, a, b)


def _where(condition: Array, a: Array, b: Array, *, xp: Any, out: Array | None) -> Array:
    result = xp.where(condition, a, b)
    if out is None:
        return result
    out[...] = result
    return out


@primitive(
    "where",
    None,
    lambda g, y, condition, a, b: reduce_to(where(condition, g, 0.0), a),
    lambda g, y, condition, a, b: reduce_to(where(condition, 0.0, g), b),
)
def where(backend: Backend, condition: Array, a: Array, b: Array) -> Array:
    """Return a where the condition holds, else b."""
    return backend.compute("where", _where, condition, a, b, xp=backend.xp)

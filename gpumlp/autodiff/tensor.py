"""Tensors, and the arithmetic that their operators need: each function with its gradient beside it.

A function is made by :func:`primitive` from a forward on backend arrays and one rule for each argument. A rule
``(g, y, *arguments)`` gets the gradient of the output and returns that of its argument, computed with taped
functions again, so that gradients can themselves be differentiated.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, Signature
from typing import Any, Self

import numpy as np

from gpumlp.autodiff.tape import Want, not_recording, record, recording
from gpumlp.backend.base import REFERENCE as REFERENCE
from gpumlp.backend.base import Backend, written
from gpumlp.errors import BackendError, CaptureError, ShapeError, TapeError
from gpumlp.ops.precision import dtype_of, is_floating
from gpumlp.ops.record import Array

NUMBERS, LISTS = (bool, int, float), (list, tuple)  # made once: a union of types takes longer than the check for it
DEFAULT_DTYPE = np.float32
"""What Python's floating-point numbers are stored in, and whole numbers where floating point is meant."""
Function = Callable[..., "Tensor"]


class Tensor:
    """An array on a backend, as a value in a computation.

    ``array`` is the raw array of the backend; ``numpy()`` gives a copy on the host. Operators and the
    functions of :mod:`gpumlp.autodiff` take tensors, NumPy arrays, lists and numbers, and return tensors. Comparisons
    are element by element; a tensor is hashed by identity.

    A tensor keeps its values: those of an array or a list are copied (but not in a step that is being captured, and
    not by :meth:`sharing`). A part of a variable (``v[0]``, ``v.T``, ``v.reshape(...)``) is a view of its memory, and
    refused once that has been overwritten.

    Raises ShapeError for values that are not numbers, or lists that are not rectangular.

    Parameters
    ----------
    values
        A number, an array, or a nested list of numbers, of any shape.
    backend
        Where it is; None for that of the values, or the reference.
    dtype
        What it is stored in; None for that of the values, float32 for lists of floats.
    name
        For messages and drawings.
    """

    __slots__ = ("__weakref__", "array", "backend", "name", "unit", "view_of")
    __hash__ = object.__hash__  # by identity, although == is element by element
    is_variable = False

    def __init__(self, values: Any, backend: Backend | None = None, *, dtype: Any = None, name: str = "") -> None:
        self.backend: Backend = backend or (values.backend if isinstance(values, Tensor) else REFERENCE)
        self.view_of: tuple[Variable, int] | None = None  # the variable whose memory this is, and its version
        self.array: Array
        if isinstance(values, Tensor) and dtype is None and values.backend is self.backend:
            self.array, self.view_of = current(values), values.source
        else:
            if isinstance(values, Tensor):
                values = current(values) if self.backend.owns(values.array) else values.numpy()
            self.array = new_array(values, self.backend, dtype)
        self.name = name
        self.unit = False  # True for the ones that a backward pass starts from: multiplying by them is no work

    def sharing(self, array: Array) -> Self:
        """Return a tensor of this kind and backend on an array that others may write to: no copy is made.

        Parameters
        ----------
        array
            An array of the backend.

        Returns
        -------
        Tensor
        """
        tensor = type(self).__new__(type(self))
        tensor.array, tensor.backend, tensor.name, tensor.unit, tensor.view_of = (
            array,
            self.backend,
            self.name,
            False,
            None,
        )
        return tensor

    def __reduce__(self) -> Any:
        """Copy and pickle the values: the copy has memory of its own, on the same backend."""
        return _copied, (type(self), self.numpy(), self.backend, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def ndim(self) -> int:
        return len(self.array.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def differentiable(self) -> bool:
        """True for floating point: only there does a derivative mean anything."""
        return is_floating(self.array.dtype)

    @property
    def source(self) -> tuple[Variable, int] | None:
        """The variable whose memory holds these values, with its version when they were read.

        None for memory that is never overwritten.
        """
        return self.view_of

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The transpose."""
        return transpose(self)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return a copy on the host. Refused while a step is being captured.

        Returns
        -------
        numpy.ndarray
            Of the same shape and dtype.
        """
        return self.backend.to_host(current(self))

    def item(self) -> int | float | bool:
        """Return the value of a tensor of one element as a Python number.

        Returns
        -------
        int, float or bool
        """
        value: int | float | bool = self._scalar("reads {} on the host").item()
        return value

    def tolist(self) -> Any:
        """Return the values as a Python number, or as nested lists of them.

        Returns
        -------
        number or list
        """
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **params: Any) -> Any:
        """Answer ``numpy_array @ tensor`` and the other operators; refuse functions that no tape would see."""
        if method == "__call__" and not params and ufunc.__name__ in OPERATORS:
            return OPERATORS[ufunc.__name__](*inputs)
        raise TypeError(_refusal(ufunc.__name__))

    def __array_function__(self, function: Any, types: Any, inputs: Any, params: Any) -> Any:
        """Compare as arrays; refuse what would give an array that no tape knows."""
        if function.__name__ not in HARMLESS:
            raise TypeError(_refusal(function.__name__, function.__module__))
        return function(*(x.numpy() if isinstance(x, Tensor) else x for x in inputs), **params)

    def ones_like(self, *, unit: bool = False) -> Tensor:
        """Return ones of this shape and dtype.

        Parameters
        ----------
        unit
            Whether a backward pass starts here.

        Returns
        -------
        Tensor
        """
        with self.backend.quiet():
            array = self.backend.xp.ones(self.shape, self.dtype)  # a constant: as true in a replay as now
        ones = wrap(array, self.backend)
        ones.unit = unit
        return ones

    def zeros_like(self) -> Tensor:
        """Return zeros of this shape and dtype.

        Returns
        -------
        Tensor
        """
        with self.backend.quiet():
            return wrap(self.backend.xp.zeros(self.shape, self.dtype), self.backend)

    def units_like(self) -> Iterator[Tensor]:
        """Yield, for each element in its order, a tensor that is 1 there and 0 elsewhere.

        Yields
        ------
        Tensor
            In this shape and dtype.
        """
        for number in range(self.size):
            values = np.zeros(self.size, np.float32)
            values[number] = 1
            yield Tensor(values.reshape(self.shape), self.backend, dtype=self.dtype)

    def jacobian_of(self, rows: Sequence[Tensor], source: Tensor) -> Tensor:
        """Return the gradients of each element of this tensor, in their order, as one of both shapes together.

        Parameters
        ----------
        rows
            Gradients (source.shape), one for each element of this tensor.
        source
            What they are gradients of.

        Returns
        -------
        Tensor
            (*self.shape, *source.shape).
        """
        shape = (*self.shape, *source.shape)
        return reshape(stack(rows), shape=shape) if rows else reshape(source.zeros_like()[None][:0], shape=shape)

    def weights_like(self, values: Any) -> Tensor:
        """Return weights of the elements of this tensor in its dtype.

        Parameters
        ----------
        values
            An array or a tensor of this shape.

        Returns
        -------
        Tensor
            In the dtype of this one.

        Raises
        ------
        ShapeError
            If the shapes differ.
        """
        weights = values if isinstance(values, Tensor) else Tensor(values, self.backend, dtype=self.dtype)
        if weights.shape != self.shape:
            raise ShapeError(
                f"output_gradients has shape {weights.shape}, the target has {self.shape}", hint="they must agree"
            )
        return as_dtype(weights, self.dtype)

    def astype(self, dtype: Any) -> Tensor:
        """Return the values in another dtype.

        Parameters
        ----------
        dtype
            The dtype, or its name.

        Returns
        -------
        Tensor
            Of the same shape.
        """
        return cast(self, dtype=dtype_of(dtype))

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the sum over all elements, or over the given axes.

        Parameters
        ----------
        axis
            An axis, or several; None for all.
        keepdims
            Whether reduced axes stay, with length 1.

        Returns
        -------
        Tensor
            The axes that are left.
        """
        return sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the mean over all elements, or over the given axes.

        Parameters
        ----------
        axis
            An axis, or several; None for all.
        keepdims
            Whether reduced axes stay, with length 1.

        Returns
        -------
        Tensor
            The axes that are left.
        """
        return mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the largest element, of all or along the given axes. Equal ones share the gradient.

        Parameters
        ----------
        axis
            An axis, or several; None for all.
        keepdims
            Whether reduced axes stay, with length 1.

        Returns
        -------
        Tensor
            The axes that are left.
        """
        return largest(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        """Return the same values in another shape, given as numbers or as one tuple.

        Parameters
        ----------
        shape
            Lengths of the axes; one may be -1.

        Returns
        -------
        Tensor
            A view where that is possible.
        """
        return reshape(self, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)

    def __repr__(self) -> str:
        kind = type(self).__name__
        name = f"{self.name!r}, " if self.name else ""
        values = "being captured" if self.backend.capturing else np.array2string(self.numpy(), threshold=20)
        return f"{kind}({name}shape={self.shape}, dtype={self.dtype.name}, values={values})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of shape () has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self._scalar("branches on {}"))

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __round__(self, digits: int | None = None) -> int | float:
        return round(self.item(), digits)

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
        return mul(self, -1 if self.dtype.kind == "i" else -1.0)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return absolute(self)

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
        arrays = tuple(_index(part, self.backend) for part in parts)
        return getitem(self, index=arrays if isinstance(index, tuple) else arrays[0])

    def __eq__(self, other: Any) -> Any:
        return equal(self, other) if _has_numbers(other) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return not_equal(self, other) if _has_numbers(other) else NotImplemented

    def __and__(self, other: Any) -> Tensor:
        return bitwise_and(self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Tensor:
        return bitwise_or(self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> Tensor:
        return bitwise_xor(self, other)

    __rxor__ = __xor__

    def __invert__(self) -> Tensor:
        return invert(self)

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
    model computes in one: whoever writes the values writes them there, too, and counts ``version`` up.

    Parameters
    ----------
    values
        A number, an array, or a nested list of numbers, of any shape.
    backend
        Where it is; None for that of the values, or the reference.
    dtype
        What it is stored in; None for that of the values, float32 for lists of floats.
    name
        For messages and drawings.
    """

    __slots__ = ("shadow", "version")
    is_variable = True

    def __init__(self, values: Any, backend: Backend | None = None, *, dtype: Any = None, name: str = "") -> None:
        if dtype is not None and not is_floating(dtype_of(dtype)):
            raise ShapeError(f"a variable holds floating point, not {dtype_of(dtype)}")
        super().__init__(values, backend, dtype=dtype, name=name)
        if isinstance(values, Tensor) or not self.differentiable:
            dtype = self.dtype if self.differentiable else DEFAULT_DTYPE
            self.array = self.backend.asarray(self.array, dtype, copy=True)
        self.view_of = None
        self.shadow: Array | None = None
        self.version = 0  # how often the values were overwritten

    def sharing(self, array: Array) -> Self:
        variable = super().sharing(array)
        variable.shadow, variable.version = None, 0
        return variable

    @property
    def source(self) -> tuple[Variable, int]:
        return self, self.version

    def assign_add(self, values: Any) -> None:
        """Add to the values in place.

        Parameters
        ----------
        values
            What is added, in the shape of the variable.
        """
        with not_recording():
            self.assign(add(wrap(self.array, self.backend), values))

    def assign_sub(self, values: Any) -> None:
        """Subtract from the values in place.

        Parameters
        ----------
        values
            What is subtracted, in the shape of the variable.
        """
        with not_recording():
            self.assign(sub(wrap(self.array, self.backend), values))

    def assign(self, values: Any) -> None:
        """Overwrite the values in place; the shape must agree.

        Parameters
        ----------
        values
            New values, in the shape of the variable.
        """
        values = current(values) if isinstance(values, Tensor) else values
        values = values if hasattr(values, "dtype") else new_array(values, REFERENCE, floats=self.dtype)
        shape = np.shape(values)
        if shape != self.shape:
            raise ShapeError(f"values of shape {shape} were assigned to {self.name or 'a variable'} {self.shape}")
        self.backend.write(self.array, values)
        if self.shadow is not None:
            self.backend.write(self.shadow, self.array)
        self.backend.overwrote([self])


HARMLESS = {"allclose", "array_equal", "isclose", "ndim", "shape", "size"}
"""NumPy's functions that ask something of a tensor, and give nothing that one would go on computing with."""
_SAME = """
    add argmax clip cos einsum exp expm1 log log1p matmul max maximum mean minimum power reshape sign sin split sqrt
    square stack sum transpose var where
"""
OURS = {name: name for name in _SAME.split()} | {
    "absolute": "abs",
    "amax": "max",
    "concatenate": "concat",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
}
"""By the names of NumPy's functions, those that tapes know."""


def _refusal(name: str, module: str = "numpy") -> str:
    instead = f"gpumlp.{OURS[name]}, or " if name in OURS else ""
    return f"{module}.{name} takes no tensor, whose gradient it would lose: use {instead}tensor.numpy() for an array"


def _has_numbers(value: Any) -> bool:
    """Return whether a value can be compared element by element; to any other a tensor is unequal, as in Python."""
    return isinstance(value, Tensor | bool | int | float | list | tuple) or hasattr(value, "dtype")


def _copied(kind: type[Tensor], values: np.ndarray[Any, Any], backend: Backend, name: str) -> Tensor:
    return kind(values, backend, name=name)


def wrap(array: Array, backend: Backend) -> Tensor:
    """Return a tensor on an array of the backend that nobody writes to any more, without a copy."""
    tensor = Tensor.__new__(Tensor)
    tensor.array, tensor.backend, tensor.name, tensor.unit, tensor.view_of = array, backend, "", False, None
    return tensor


def current(x: Tensor) -> Array:
    """Return the array of a tensor. Raises TapeError for a view of a variable that has been overwritten since."""
    if x.view_of is not None and x.view_of[0].version != x.view_of[1]:
        name = x.view_of[0].name or "a variable"
        raise TapeError(
            f"this is a view {x.shape} of {name}, which has been overwritten since it was made",
            hint=f"make it again, or keep a copy: {x.view_of[0].name or 'variable'}[...] * 1.0, or .numpy()",
        )
    return x.array


def new_array(values: Any, backend: Backend, dtype: Any = None, *, floats: Any = DEFAULT_DTYPE) -> Array:
    """Return values as an array of the backend that nobody else writes to.

    Lists of Python's floating-point numbers have the dtype ``floats``; whole numbers stay whole. In a step that is
    being captured an array of the backend stays as it is: a replay is to see what it holds then.
    """
    dtype = None if dtype is None else dtype_of(dtype)
    if backend.owns(values) and backend.capturing and dtype in (None, values.dtype):
        return values
    if not hasattr(values, "dtype"):
        if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
            raise ShapeError("a list of tensors is not a tensor", hint="join them by stack() or concat()")
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ShapeError("a tensor takes lists of equal lengths", hint=str(error)) from None
        if dtype is None and values.dtype == np.float64:
            dtype = np.dtype(floats)
    if values.dtype.kind not in "biuf" and not is_floating(values.dtype):
        raise ShapeError(f"a tensor takes real numbers, not values of dtype {values.dtype}")
    return backend.asarray(values, dtype, copy=True)


def backend_of(values: Sequence[Any]) -> Backend:
    """Return the one backend of the tensors among ``values``, or the reference where there is none."""
    backends = {id(v.backend): v.backend for v in values if isinstance(v, Tensor)}
    if len(backends) > 1:
        names = " and ".join(sorted(b.name for b in backends.values()))
        raise BackendError(f"tensors of two backends ({names}) meet in one operation", hint="keep them on one")
    return next(iter(backends.values()), REFERENCE)


def held(value: Any, backend: Backend, floats: Any = DEFAULT_DTYPE) -> Any:
    """Return an argument of an operation as the tape may keep it: a tensor or a number as it is, else an array.

    While a tape is recording, an array of the caller's is copied, for its values are read again on the way back. A
    captured step goes back at once, and may not copy.
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()  # np.sqrt(2.0) is a number like any other: it must not turn float32 into float64
    if isinstance(value, (Tensor, NUMBERS)):
        return value
    if backend.owns(value) and value.dtype.kind in "biuf":
        return backend.duplicate(value) if recording() and not backend.capturing else value
    return new_array(value, backend, floats=floats)


def all_held(values: Sequence[Any], backend: Backend) -> tuple[Any, ...]:
    """Return arguments of an operation as the tape may keep them; lists get the dtype of the floats beside them."""
    floats: Any = DEFAULT_DTYPE
    if any(isinstance(value, LISTS) for value in values):
        arrays = [value for value in values if hasattr(value, "dtype") and not isinstance(value, np.generic)]
        dtypes = [value.dtype for value in arrays if is_floating(value.dtype)]
        floats = np.result_type(*dtypes) if dtypes else floats
    return tuple(held(value, backend, floats) for value in values)


def raw(value: Any, backend: Backend, floats: Any = DEFAULT_DTYPE) -> Any:
    """Return the array behind a tensor, a number as it is, and anything else as an array of the backend."""
    return current(value) if isinstance(value, Tensor) else held(value, backend, floats)


def as_arrays(values: Sequence[Any], backend: Backend) -> Sequence[Any]:
    """Return operands with arrays in place of Python's numbers."""
    return [new_array(value, backend) if isinstance(value, NUMBERS) else value for value in values]


def as_given(values: Sequence[Any], backend: Backend) -> Sequence[Any]:
    """Return operands whose dtypes may stay as they are."""
    return values


def as_numbers(values: Sequence[Any], backend: Backend, *, floating: bool = False) -> Sequence[Any]:
    """Return operands of which none is whole if one is floating point: whole numbers and booleans get its dtype.

    Beside Python's floating-point numbers alone, and where ``floating`` demands it, they become float32.
    """
    dtypes = [value.dtype for value in values if hasattr(value, "dtype")]
    if not dtypes:
        values = [new_array(value, backend) for value in values]
        dtypes = [value.dtype for value in values]
    if all(map(is_floating, dtypes)):
        return values
    floats = [dtype for dtype in dtypes if is_floating(dtype)]
    if not floats and not floating and not any(isinstance(value, float) for value in values):
        return values
    dtype = np.result_type(*floats) if floats else np.dtype(DEFAULT_DTYPE)
    whole = [hasattr(value, "dtype") and not is_floating(value.dtype) for value in values]
    return [backend.cast(value, dtype) if cast else value for value, cast in zip(values, whole, strict=True)]


def as_floats(values: Sequence[Any], backend: Backend) -> Sequence[Any]:
    """Return operands of a function that is defined for floating point."""
    return as_numbers(values, backend, floating=True)


def as_dtype(x: Tensor, dtype: Any) -> Tensor:
    """Return a tensor as it is where it has the dtype, else its values in it."""
    return x if x.dtype == dtype else x.astype(dtype)


def on_backend(value: Any, backend: Backend) -> Tensor:
    """Return a tensor as it is, and a constant as a tensor of the backend."""
    return value if isinstance(value, Tensor) else Tensor(value, backend)


PARAMETERS = """
    Parameters
    ----------
    {names}
        {what}.

    Returns
    -------
    Tensor
        On the backend of the arguments.
    """


def primitive(
    name: str,
    *rules: Function | None,
    operands: Callable[[Sequence[Any], Backend], Sequence[Any]] = as_given,
    view: bool = False,
) -> Callable[[Callable[..., Array]], Function]:
    """Turn ``forward(backend, *arrays, **params)`` into a taped function with one gradient rule per argument.

    None in place of a rule: no gradient flows to that argument (an index, a condition). Without any rule the function
    has no derivative; a tape that is asked for one says so. ``operands`` brings arrays to the dtypes that the
    function computes with. A ``view`` may give back the memory of its first argument.
    """

    def decorate(forward: Callable[..., Array]) -> Function:
        names = forward.__code__.co_varnames[1 : forward.__code__.co_argcount]

        @functools.wraps(forward)
        def function(*arguments: Any, **params: Any) -> Tensor:
            if params and not params.keys().isdisjoint(names):
                more = [params.pop(each) for each in names[len(arguments) :] if each in params]
                arguments = (*arguments, *more)
            backend = backend_of(arguments)
            arguments = all_held(arguments, backend)
            try:
                array = forward(backend, *operands([raw(a, backend) for a in arguments], backend), **params)
            except (ValueError, IndexError, OverflowError) as error:
                shapes = ", ".join(str(np.shape(a.array if isinstance(a, Tensor) else a)) for a in arguments)
                raise ShapeError(f"{name}: shapes {shapes} do not fit", hint=str(error)) from None
            except TypeError as error:
                dtypes = ", ".join(str(getattr(a, "dtype", type(a).__name__)) for a in arguments)
                raise ShapeError(f"{name} does not take {dtypes}", hint=str(error)) from None
            y = wrap(array, backend)
            source = getattr(arguments[0], "source", None) if view else None
            if source and backend.xp.may_share_memory(array, arguments[0].array):
                y.view_of = source

            def rule(g: Tensor, wants: Sequence[Want]) -> list[Tensor | None]:
                return [
                    of_argument(g, y, *arguments, **params) if want is not False and of_argument else None
                    for of_argument, want in zip(rules or (None,) * len(wants), wants, strict=True)
                ]

            record(name, arguments, y, rule)  # what has no gradient, too, for a tape is there to be looked at
            return y

        return _described(function, forward, names)

    return decorate


def _described(function: Function, forward: Callable[..., Array], ordinary: Sequence[str]) -> Function:
    """Return a taped function with the arguments and the documentation of those who call it: without a backend."""
    code = forward.__code__
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    kinds = [
        *((each, Parameter.POSITIONAL_OR_KEYWORD) for each in ordinary),
        *((k, Parameter.KEYWORD_ONLY) for k in named),
    ]
    function.__signature__ = Signature([Parameter(*each) for each in kinds], return_annotation=Tensor)  # type: ignore[attr-defined]
    meaning = (
        "Tensor, array, list or number"
        if len(ordinary) == 1
        else "Tensors, arrays, lists or numbers, whose shapes broadcast"
    )
    if forward.__doc__ and not named:
        names = ", ".join(ordinary)
        function.__doc__ = f"{forward.__doc__}\n{PARAMETERS.format(names=names, what=meaning)}"
    return function


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


@primitive("add", lambda g, y, a, b: reduce_to(g, a), lambda g, y, a, b: reduce_to(g, b), operands=as_numbers)
def add(backend: Backend, a: Array, b: Array) -> Array:
    """Return a + b."""
    return backend.compute("add", backend.xp.add, a, b)


@primitive("sub", lambda g, y, a, b: reduce_to(g, a), lambda g, y, a, b: reduce_to(-g, b), operands=as_numbers)
def sub(backend: Backend, a: Array, b: Array) -> Array:
    """Return a - b."""
    return backend.compute("sub", backend.xp.subtract, a, b)


@primitive("mul", lambda g, y, a, b: reduce_to(g * b, a), lambda g, y, a, b: reduce_to(g * a, b), operands=as_numbers)
def mul(backend: Backend, a: Array, b: Array) -> Array:
    """Return a · b, element by element."""
    return backend.compute("mul", backend.xp.multiply, a, b)


@primitive(
    "div", lambda g, y, a, b: reduce_to(g / b, a), lambda g, y, a, b: reduce_to(-(g * y) / b, b), operands=as_floats
)
def div(backend: Backend, a: Array, b: Array) -> Array:
    """Return a / b."""
    return backend.compute("div", backend.xp.true_divide, a, b)


def _powers(values: Sequence[Any], backend: Backend) -> Sequence[Any]:
    below_zero = isinstance(values[1], int) and values[1] < 0
    return as_numbers(values, backend, floating=below_zero)


def _power_base(g: Tensor, y: Tensor, a: Any, b: Any) -> Tensor:
    # Where b is 0 this is 0, but 0 · 0^-1 would be NaN where a is 0, too. Elsewhere b a^(b - 1) stays as it is, for
    # where b is 0 it has a slope in b, 1 / a.
    below: Any
    if isinstance(b, int | float):
        below = b - 1 if b else 0
    else:
        b = on_backend(b, g.backend)
        below = where(bitwise_and(equal(a, 0), equal(b, 0)), 0.0, b - 1.0)
    return reduce_to(g * b * power(a, below), a)


def _power_exponent(g: Tensor, y: Tensor, a: Any, b: Any) -> Tensor:
    # Where the base is 0 the logarithm is not finite, but y is 0 on both sides of any positive exponent.
    if isinstance(a, int | float):
        return reduce_to(g * y * (math.log(a) if a > 0 else 0.0), b)
    a = on_backend(a, g.backend)
    return reduce_to(g * y * log(where(greater(a, 0.0), a, 1.0)), b)


@primitive("power", _power_base, _power_exponent, operands=_powers)
def power(backend: Backend, a: Array, b: Array) -> Array:
    """Return a to the power of b."""
    return backend.compute("power", backend.xp.power, a, b)


@primitive("log", lambda g, y, x: g / x, operands=as_floats)
def log(backend: Backend, x: Array) -> Array:
    """Return the natural logarithm."""
    return backend.compute("log", backend.xp.log, x)


@primitive("sign")
def sign(backend: Backend, x: Array) -> Array:
    """Return -1, 0 or 1. Its gradient is nowhere but 0."""
    return backend.compute("sign", backend.xp.sign, x)


@primitive("abs", lambda g, y, x: g * sign(x))
def absolute(backend: Backend, x: Array) -> Array:
    """Return the absolute value; slope 0 at 0."""
    return backend.compute("abs", backend.xp.abs, x)


# ---- matrix products -----------------------------------------------------------------------------


@primitive(
    "matmul",
    lambda g, y, a, b: reduce_to(_matmul(g, transpose(b)), a),
    lambda g, y, a, b: reduce_to(_matmul(transpose(a), g), b),
    operands=as_numbers,
)
def _matmul(backend: Backend, a: Array, b: Array) -> Array:
    return backend.matmul(a, b)


def matmul(a: Any, b: Any) -> Tensor:
    """Return the matrix product over the last two axes; a vector stands for a row (left) or a column (right).

    Parameters
    ----------
    a
        (..., n, m), or a vector (m,).
    b
        (..., m, k), or a vector (m,).

    Returns
    -------
    Tensor
        (..., n, k), without the axis of a vector.
    """
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


@primitive("transpose", lambda g, y, x, axes: _permute(g, axes=_inverse(axes)), operands=as_arrays, view=True)
def _permute(backend: Backend, x: Array, *, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


def transpose(x: Any, axes: tuple[int, ...] | None = None) -> Tensor:
    """Swap the last two axes, or put the axes into the given order. A view: no copy is made.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    axes
        The axes of x in their new order; None swaps the last two.

    Returns
    -------
    Tensor
        A view of x.
    """
    ndim = np.ndim(x.array if isinstance(x, Tensor) else x)
    order = axes or (*range(ndim - 2), *reversed(range(max(ndim - 2, 0), ndim)))
    return _permute(x, axes=tuple(i + ndim if i < 0 else i for i in order))


@primitive("reshape", lambda g, y, x, shape: _reshape(g, shape=np.shape(x.array)), operands=as_arrays, view=True)
def _reshape(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    if not x.flags.c_contiguous:
        x = backend.compute("copy", _contiguous, x, xp=backend.xp)
    return x.reshape(shape)


def reshape(x: Any, shape: tuple[int, ...]) -> Tensor:
    """Return the same values in another shape; one length may be -1.

    Parameters
    ----------
    x
        A tensor, array or list, (...).
    shape
        Lengths of the axes.

    Returns
    -------
    Tensor
        A view where that is possible.
    """
    return _reshape(x, shape=shape)


def _contiguous(x: Array, *, xp: Any, out: Array | None) -> Array:
    return xp.array(x, order="C", copy=True) if out is None else written(x, out)


@primitive("broadcast", lambda g, y, x, shape: reduce_to(g, x))
def broadcast_to(backend: Backend, x: Array, *, shape: tuple[int, ...]) -> Array:
    """Repeat values along new axes and axes of length 1 to fill ``shape``."""
    view = backend.xp.broadcast_to(x, shape)
    return backend.compute("broadcast", _contiguous, view, xp=backend.xp)


@primitive("cast", lambda g, y, x, dtype: g.astype(x.dtype))
def cast(backend: Backend, x: Array, *, dtype: Any) -> Array:
    """Return the values in another dtype."""
    return backend.cast(x, dtype)


def _index(part: Any, backend: Backend) -> Any:
    """Return a part of an index as the tape may keep it."""
    array = isinstance(part, Tensor | list) or backend.owns(part)
    return raw(part, backend) if array and np.size(getattr(part, "array", part)) else part


def _is_view(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts)


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(getattr(part, "dtype", None) == np.bool_ for part in parts)


def _take(x: Array, *, index: Any, out: Array | None) -> Array:
    return written(x[index], out)


def _scatter(g: Array, *, xp: Any, shape: tuple[int, ...], index: Any, out: Array | None) -> Array:
    if out is None:
        out = xp.empty(shape, g.dtype)
    out[...] = 0
    xp.add.at(out, index, g)
    return out


@primitive("slice", lambda g, y, x, index: scatter(g, shape=x.shape, index=index), view=True)
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


def _joined(parts: Sequence[Array], *, xp: Any, axis: int, out: Array | None) -> Array:
    return xp.concatenate(parts, axis=axis, out=out)


def concat(parts: Sequence[Any], axis: int = -1) -> Tensor:
    """Join tensors along an axis.

    Parameters
    ----------
    parts
        Tensors or arrays that agree but for this axis.
    axis
        The axis along which they follow each other.

    Returns
    -------
    Tensor
    """
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
    """Join tensors of one shape along a new axis.

    Parameters
    ----------
    parts
        Tensors or arrays of one shape.
    axis
        Place of the new axis.

    Returns
    -------
    Tensor
    """
    backend = backend_of(parts)
    tensors = [on_backend(part, backend) for part in parts]
    if not tensors:
        raise ShapeError("stack: there is nothing to join")
    shape = tensors[0].shape
    at = axis % (len(shape) + 1)
    return concat([reshape(t, shape=(*t.shape[:at], 1, *t.shape[at:])) for t in tensors], axis=at)


# ---- reductions and choices ----------------------------------------------------------------------

Axes = int | tuple[int, ...] | None


def axes_of(axis: Any) -> Axes:
    """Return an axis or several as Python numbers, whatever kind of whole numbers they were given as."""
    if isinstance(axis, list | tuple | np.ndarray):
        return tuple(operator.index(each) for each in axis)
    return None if axis is None else operator.index(axis)


def with_kept_axes(y: Tensor, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    """Give a reduced tensor back its reduced axes, with length 1."""
    if keepdims:
        return y
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {a % x.ndim for a in axes}
    return reshape(y, shape=tuple(1 if i in gone else n for i, n in enumerate(x.shape)))


@primitive(
    "sum", lambda g, y, x, axis, keepdims: broadcast_to(with_kept_axes(g, x, axis, keepdims), shape=np.shape(x.array))
)
def _sum(backend: Backend, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return backend.compute("sum", backend.xp.sum, x, axis=axis, keepdims=keepdims)


def sum(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the sum over all elements, or over the given axes.

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
    return _sum(x, axis=axes_of(axis), keepdims=keepdims)


def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the mean over all elements, or over the given axes.

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
    total = sum(x, axis=axis, keepdims=keepdims)
    size = np.size(x.array if isinstance(x, Tensor) else x)
    return total * (total.size / size if size else math.nan)


def _max_rule(g: Tensor, y: Tensor, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    top, g = with_kept_axes(y, x, axis, keepdims), with_kept_axes(g, x, axis, keepdims)
    among = where(greater(top, x), 0.0, x.ones_like())
    return among * (g / sum(among, axis=axis, keepdims=True))


@primitive("max", _max_rule)
def _max(backend: Backend, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return backend.compute("max", backend.xp.max, x, axis=axis, keepdims=keepdims)


def largest(x: Any, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the largest element, of all or along the given axes. Equal ones share the gradient.

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
    return _max(x, axis=axes_of(axis), keepdims=keepdims)


@primitive("greater")
def greater(backend: Backend, a: Array, b: Array) -> Array:
    """Return a > b, element by element. It has no gradient."""
    return backend.compute("greater", backend.xp.greater, a, b)


@primitive("greater_equal")
def greater_equal(backend: Backend, a: Array, b: Array) -> Array:
    """Return a >= b, element by element. It has no gradient."""
    return backend.compute("greater_equal", backend.xp.greater_equal, a, b)


@primitive("equal")
def equal(backend: Backend, a: Array, b: Array) -> Array:
    """Return a == b, element by element. It has no gradient."""
    return backend.compute("equal", backend.xp.equal, a, b)


@primitive("not_equal")
def not_equal(backend: Backend, a: Array, b: Array) -> Array:
    """Return a != b, element by element. It has no gradient."""
    return backend.compute("not_equal", backend.xp.not_equal, a, b)


@primitive("and")
def bitwise_and(backend: Backend, a: Array, b: Array) -> Array:
    """Return a & b of booleans or whole numbers. It has no gradient."""
    return backend.compute("and", backend.xp.bitwise_and, a, b)


@primitive("or")
def bitwise_or(backend: Backend, a: Array, b: Array) -> Array:
    """Return a | b of booleans or whole numbers. It has no gradient."""
    return backend.compute("or", backend.xp.bitwise_or, a, b)


@primitive("xor")
def bitwise_xor(backend: Backend, a: Array, b: Array) -> Array:
    """Return a ^ b of booleans or whole numbers. It has no gradient."""
    return backend.compute("xor", backend.xp.bitwise_xor, a, b)


@primitive("invert")
def invert(backend: Backend, a: Array) -> Array:
    """Return ~a of booleans or whole numbers. It has no gradient."""
    return backend.compute("invert", backend.xp.invert, a)


def _choice(values: Sequence[Any], backend: Backend) -> Sequence[Any]:
    return [values[0], *as_numbers(values[1:], backend)]


def _where(condition: Array, a: Array, b: Array, *, xp: Any, out: Array | None) -> Array:
    return written(xp.where(condition, a, b), out)


@primitive(
    "where",
    None,
    lambda g, y, condition, a, b: reduce_to(where(condition, g, 0.0), a),
    lambda g, y, condition, a, b: reduce_to(where(condition, 0.0, g), b),
    operands=_choice,
)
def where(backend: Backend, condition: Array, a: Array, b: Array) -> Array:
    """Return a where the condition holds, else b."""
    return backend.compute("where", _where, condition, a, b, xp=backend.xp)


OPERATORS: dict[str, Function] = {
    "add": add,
    "bitwise_and": bitwise_and,
    "bitwise_or": bitwise_or,
    "bitwise_xor": bitwise_xor,
    "divide": div,
    "equal": equal,
    "greater": greater,
    "greater_equal": greater_equal,
    "less": lambda a, b: greater(b, a),
    "less_equal": lambda a, b: greater_equal(b, a),
    "matmul": matmul,
    "multiply": mul,
    "not_equal": not_equal,
    "power": power,
    "subtract": sub,
}
"""What NumPy's arrays ask for where an operator has a tensor on its other side."""

"""The reference backend: everything gpumlp needs from an array machine, in NumPy.

Another backend inherits from :class:`Backend` and overrides what it does better: ``bind`` for operations it
has a kernel for, ``matmul``, and the device services (``asarray``, ``to_host``, ``empty``, ...). What it does
not override still works, in formulas on its own array module ``xp``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Self

import numpy as np

from gpumlp.backend.capture import Call, Plan, Versioned, raw
from gpumlp.errors import CaptureError, ShapeError, has_mask
from gpumlp.limits import host_memory
from gpumlp.ops.precision import is_narrow, wide
from gpumlp.ops.record import Array, Op


def _refuse_mask(values: Any) -> None:
    """Raise ShapeError for masked arrays, whose hidden values would be taken for numbers."""
    if any(map(has_mask, values if isinstance(values, list | tuple) else [values])):
        raise ShapeError("a tensor has no mask", hint="fill what is masked: array.filled(0)")


class _Capture(threading.local):
    """The step that a thread captures: its calls so far, and the variables that it overwrites, by id."""

    calls: list[Call] | None = None
    overwritten: dict[int, Versioned]


class Backend:
    """Arrays and operations on the host, in NumPy.

    A copy of a backend is the backend itself, so that copies of tensors meet their originals. Unpickled, it is that
    too where it is still there; in another process all that was pickled of one backend shares a new one.
    """

    name = "numpy"
    xp: ModuleType = np
    tf32 = False  # whether products of float32 round their operands, to ten bits of fraction or more

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex
        _BY_TOKEN[self._token] = self
        self._capture = _Capture()

    @staticmethod
    def is_installed() -> bool:
        """Return whether the package that this backend stands on is installed: if not, ``auto`` says nothing."""
        return True

    @property
    def seconds_building(self) -> float:
        """How long this backend has spent on making its kernels: once on a machine, and no part of any training."""
        return 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What it is to be made with again, in another process."""
        return {}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> Any:
        return _shared_backend, (type(self), self._token, self.settings)

    # ---- memory ----------------------------------------------------------------------------------

    @property
    def memory(self) -> int | None:
        """The bytes of memory that arrays live in, free or not; None where the system does not tell."""
        return host_memory()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array on the device whose contents are undefined."""
        self._refuse_while_capturing("an allocation")
        return self.allocate(shape, dtype)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory for the output of an operation: while a step is being captured, the plan's own."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of zeros on the device."""
        self._refuse_while_capturing("an allocation")
        array = self.allocate(shape, dtype)
        with self.quiet():
            array[...] = 0
        return array

    def asarray(self, values: Any, dtype: Any = None, *, copy: bool = False) -> Array:
        """Return host values (or an array of this backend) as a C-contiguous array on the device.

        ``copy`` makes it a new one in any case.
        """
        self._refuse_while_capturing("a copy from the host")
        _refuse_mask(values)
        with self.quiet():
            array = self.xp.asarray(values, dtype, order="C")  # CuPy's ascontiguousarray takes none of the host's
            if not copy:
                return array
            result = self.allocate(array.shape, array.dtype)
            result[...] = array
            return result

    def duplicate(self, array: Array) -> Array:
        """Return a copy of an array of this backend."""
        result = self.allocate(array.shape, array.dtype)
        result[...] = array
        return result

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return a copy of a device array as a NumPy array."""
        self._refuse_while_capturing("a read on the host")
        return np.array(array)

    def write(self, target: Array, values: Any) -> None:
        """Overwrite a device array with host or device values of the same shape."""
        self._refuse_while_capturing("a write from the host")
        _refuse_mask(values)
        with self.quiet():
            values = self.xp.asarray(values, target.dtype)
            if values.shape != target.shape:
                raise ShapeError(f"values of shape {values.shape} were written to an array of shape {target.shape}")
            target[...] = values

    def owns(self, value: object) -> bool:
        """Return whether ``value`` is an array of this backend."""
        return isinstance(value, self.xp.ndarray) and not has_mask(value)

    def synchronize(self) -> None:
        """Wait until everything that was asked for is done: on the host, it always is."""

    def keep_pace(self) -> None:
        """Let the host be only a little ahead of the device: called after each step, or several in one call."""

    @property
    def device_name(self) -> str | None:
        """The name of the device that the arrays lie on; None for the host."""
        return None

    @property
    def memory_held(self) -> int | None:
        """The most bytes of the device's memory that were held; None for the host."""
        return None

    @property
    def together(self) -> int:
        """How many steps are at most replayed at once: more than one where each replay costs the host something."""
        return 1

    def quiet(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that the array module is used in: overflow and NaN are results, not warnings."""
        return np.errstate(all="ignore")

    # ---- operations ------------------------------------------------------------------------------

    def prepare(self, kernels: Iterable[tuple[Op, tuple[str, ...]]], *, wait: bool = False) -> None:
        """Begin to make kernels of operations, for the types of each, that are likely to be asked for.

        ``wait`` is for who takes times then: nothing is being made any more when this returns.
        """

    def bind(
        self,
        op: Op,
        direction: str,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        params: dict[str, Any],
    ) -> Callable[[], None]:
        """Return a function without arguments that runs one direction of an operation into ``outputs``."""
        definition, xp = op.directions[direction], self.xp
        # What is narrow is computed in float32, as in a kernel, and rounded once, when it is written.
        widened = {i for i in definition.computed if inputs[i] is not None and is_narrow(inputs[i].dtype)}

        def launch() -> None:
            operands = [wider(a) if i in widened else a for i, a in enumerate(inputs)] if widened else inputs
            for out, result in zip(outputs, definition.formula(xp, *operands, **params), strict=True):
                if out is not None:
                    out[...] = result

        return launch

    def run(
        self,
        op: Op,
        direction: str,
        inputs: Sequence[Array],
        outputs: Sequence[Array | None] | None = None,
        **params: Any,
    ) -> tuple[Array, ...]:
        """Run one direction of an operation and return its outputs.

        ``outputs`` are arrays to write into, None for those that are to be made. An output may be the very array
        of the input whose place it takes: an activation's, an update's own state. No other memory is shared: a
        formula reads everything before it writes, a kernel does not.

        Raises ShapeError where the outputs do not have the shapes or dtypes the record gives.
        """
        definition = op.directions[direction]
        specs = definition.specs(*inputs, **params)
        outputs_or_none = (None,) * len(specs) if outputs is None else outputs
        results: list[Array | None] = []
        for name, out, spec in zip(definition.outputs, outputs_or_none, specs, strict=True):
            if spec is None:
                results.append(None)
                continue
            shape, dtype = spec
            if out is None:
                out = self.allocate(shape, dtype)
            elif out.shape != shape or out.dtype != dtype:
                raise ShapeError(
                    f"{op.entry(direction)} gives {name} as {dtype} {shape}; "
                    f"the array to write into is {out.dtype} {out.shape}"
                )
            results.append(out)
        self._call(op.entry(direction), self.bind(op, direction, tuple(inputs), tuple(results), params), inputs)
        return tuple(results)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Return the matrix product a @ b over the last two axes.

        The product of two bfloat16 matrices is summed up in float32 and rounded once; ``out`` may be float32 there,
        and takes the sums as they are. Raises ShapeError where bfloat16 meets another dtype.
        """
        if is_narrow(a.dtype) or is_narrow(b.dtype):
            return self._narrow_product(a, b, out)
        return self.compute("matmul", self.xp.matmul, a, b, out=out)

    def dense(self, op: Op, x: Array, W: Array, b: Array) -> tuple[Array, Array | None]:
        """Return y = f(x W + b) of an activation, and x W + b where it saves that.

        Parameters
        ----------
        op : Activation
            The record of f.
        x, W, b : Array
            Inputs (..., p), weights (p, H) and biases (H,), of one dtype.
        """
        product = self.matmul(x, W)
        y, z = self.run(op, "bias_forward", (product, b), (product, None))
        return y, z

    def dense_backward(
        self,
        op: Op,
        x: Array,
        W: Array,
        saved: Array,
        dy: Array,
        wants: Sequence[Any],
        dtype: Any,
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Return dx, dW and db of :meth:`dense`, from what it saves and the gradient of y.

        ``wants`` say of each: False for none, True for a new array, or the array to write it into. A new dW is made
        in ``dtype``.
        """
        want_x, want_W, want_b = wants
        dz, db = self.run(op, "bias_backward", (saved, dy), (None, place_of(want_b)))
        dx, dW = self.product_backward(x, W, dz, (want_x, want_W), dtype)
        return dx, dW, db if want_b is not False else None

    def product_backward(
        self, x: Array, W: Array, dz: Array, wants: Sequence[Any], dtype: Any
    ) -> tuple[Array | None, Array | None]:
        """Return the gradients of x W, wanted as in :meth:`dense_backward`, from that of the product."""
        want_x, want_W = wants
        dx = self.matmul(dz, W.T) if want_x is not False else None
        if want_W is False:
            return dx, None
        dW = place_of(want_W)
        if dW is None and dtype != dz.dtype:
            dW = self.allocate(W.shape, dtype)
        if x.ndim != 2:
            x, dz = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
        return dx, self.matmul(x.T, dz, out=dW)

    def compute(
        self, name: str, function: Callable[..., Array], *inputs: Any, out: Array | None = None, **params: Any
    ) -> Array:
        """Run a function of the array module that takes ``out=``; return its result, as an array always."""
        with self.quiet():
            result = self.xp.asarray(function(*inputs, out=out, **params))
        if self.capturing:
            again = self.launch_of(partial(function, *inputs, out=result, **params), (inputs, params), result)
            self._note(name, again, inputs, multiplies=function is self.xp.matmul)
        return result

    def launch_of(self, again: Callable[[], Any], reads: Any, result: Array) -> Callable[[], Any]:
        """Return what a replay calls to make ``result`` anew, of arrays somewhere within ``reads``."""
        return again

    def exchange(self, name: str, function: Callable[..., Array], source: Array, target: Array) -> None:
        """Run a function of an array and ``out=`` that other processes take part in."""
        self._call(name, partial(function, source, out=target), (source,))

    def clear(self, target: Array) -> None:
        """Fill an array of the device with zeros."""
        self.compute("zero", _fill_zero, out=target)

    def copy(self, source: Array, target: Array) -> None:
        """Copy a device array into another of the same shape."""
        again = self.launch_of(partial(target.__setitem__, ..., source), source, target)
        self._call("copy", again, (source,))

    def cast(self, array: Array, dtype: Any) -> Array:
        """Return the values in another dtype, in a new array."""
        return self.compute("cast", _cast, array, dtype=np.dtype(dtype))

    def _narrow_product(self, a: Array, b: Array, out: Array | None) -> Array:
        if a.dtype != b.dtype or not (out is None or out.dtype in (a.dtype, wide(a.dtype))):
            into = "" if out is None else f", into {out.dtype}"
            raise ShapeError(
                f"matmul is given {a.dtype} and {b.dtype}{into}",
                hint="two matrices of bfloat16 have a product in bfloat16 or float32",
            )
        sums = out if out is not None and out.dtype != a.dtype else None
        sums = self.matmul(self.cast(a, wide(a.dtype)), self.cast(b, wide(b.dtype)), sums)
        if out is None:
            return self.cast(sums, a.dtype)
        if sums is not out:
            self.copy(sums, out)
        return out

    def _call(
        self, name: str, launch: Callable[[], None], inputs: Sequence[Any], *, multiplies: bool = False
    ) -> None:
        with self.quiet():
            launch()
        self._note(name, launch, inputs, multiplies)

    def _note(self, name: str, launch: Callable[[], None], inputs: Sequence[Any], multiplies: bool) -> None:
        if self._capture.calls is not None:
            self._capture.calls.append(Call(name, launch, _shapes(inputs), multiplies))

    # ---- capture ---------------------------------------------------------------------------------

    def capture(self, step: Callable[..., Any], *inputs: Any) -> Plan:
        """Run ``step(*inputs)`` once, recording every call it makes here, and return the plan that replays it.

        The step reads and writes arrays of this backend; replaying reads and writes the same ones. ``inputs``
        are tensors or raw arrays; they are copied, the step gets them as what they were, and
        ``plan(*new_inputs)`` refills them. Give tensors where the step computes with them: what is done with a
        raw array outside of this backend cannot be seen, and so not be replayed.

        Raises CaptureError, naming the act, where the step does what a replay could not repeat: a read on the
        host (which a branch on a value needs too), a copy from the host, an allocation.
        """
        if self.capturing:
            raise CaptureError("a step is being captured already", hint="a captured step cannot capture another")
        held = tuple(self.asarray(raw(value), copy=True) for value in inputs)
        again = [x.sharing(a) if raw(x) is not x else a for x, a in zip(inputs, held, strict=True)]
        with self._record() as calls:
            result = step(*again)
        if not calls:
            raise CaptureError(f"the step made no call on the backend {self.name!r}: nothing to replay")
        runs = tuple(self.joined([call.launch for call in calls]))
        return Plan(self, tuple(calls), runs, held, result, tuple(self._capture.overwritten.values()))

    def overwrote(self, variables: Iterable[Versioned]) -> None:
        """Count up the versions of variables that have new values: now, and at each replay of a step that does so."""
        for variable in variables:
            variable.version += 1
            if self.capturing:
                self._capture.overwritten[id(variable)] = variable

    def joined(self, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]:
        """Return what a replay calls instead of these: fewer where the backend can make several in one."""
        return launches

    one_block = False
    """Whether captured steps are such that one block of a device takes them alone."""

    def in_one_block(self) -> Backend | None:
        """Return this backend with steps that one block takes alone, for small networks; None: it has no blocks."""
        return None

    def side_by_side(self, plans: Sequence[Plan]) -> Callable[[int], None] | None:
        """Return what makes so many steps of each of several captured networks in one launch; None: there is none."""
        return None

    @property
    def capturing(self) -> bool:
        """True while this thread captures a step: what others compute here meanwhile is no part of it."""
        return self._capture.calls is not None

    @contextlib.contextmanager
    def _record(self) -> Iterator[list[Call]]:
        calls: list[Call] = []
        self._capture.calls, self._capture.overwritten = calls, {}
        try:
            yield calls
        finally:
            self._capture.calls = None

    def _refuse_while_capturing(self, act: str) -> None:
        if self.capturing:
            raise CaptureError(
                f"the step makes {act}, which cannot be replayed",
                hint="do this before capture, and let the step read and write existing arrays",
            )


_BY_TOKEN: weakref.WeakValueDictionary[str, Backend] = weakref.WeakValueDictionary()
"""Every backend of this process, by a name that no other has, in no process."""


def _shared_backend(kind: type[Backend], token: str, settings: dict[str, Any]) -> Backend:
    """Return the backend that was pickled, if it is here, or else one like it, from now on under its token."""
    backend = _BY_TOKEN.get(token)
    if backend is None:
        backend = kind(**settings)
        backend._token = token
        _BY_TOKEN[token] = backend
    return backend


REFERENCE = Backend()
"""Where a tensor is unless it is given a backend: the NumPy reference, which has no settings that could differ."""
REFERENCE._token = "reference"  # the same in every process
_BY_TOKEN[REFERENCE._token] = REFERENCE


def wider(array: Array) -> Array:
    """Return a narrow array in the dtype that it is computed in."""
    return array.astype(wide(array.dtype))


def _fill_zero(out: Array) -> Array:
    out[...] = 0
    return out


def _cast(x: Array, *, dtype: np.dtype[Any], out: Array | None) -> Array:
    return x.astype(dtype) if out is None else written(x, out)


def written(result: Array, out: Array | None) -> Array:
    """Return a result in ``out`` where that is given, as functions must that :meth:`Backend.compute` runs."""
    if out is None:
        return result
    out[...] = result
    return out


def place_of(want: Any) -> Array | None:
    """Return the array that a result is wanted in, or None where it may be any."""
    return None if isinstance(want, bool) else want


def switched_on(part: str) -> bool:
    """Return whether the environment leaves a part of a backend on: ``GPUMLP_`` and its name is not 0."""
    return os.environ.get(f"GPUMLP_{part}") != "0"


def _shapes(inputs: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(array.shape) for array in inputs if hasattr(array, "shape"))

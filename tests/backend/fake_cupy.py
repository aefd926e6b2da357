"""A CuPy for machines without a device: arrays in NumPy that refuse to be read unasked, kernels run natively.

It has the functions of CuPy that gpumlp's formulas use and no others, so that a test on it fails where a formula
needs more, or where an array would silently be copied to the host. ``RawModule`` keeps what it is given; a launch is
noted, checked as a driver would, and then made by the same kernel compiled for this processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpumlp.backend import device as devices
from gpumlp.backend.builder import Builder
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Op

FUNCTIONS = {
    *("array", "asarray", "ascontiguousarray", "arange", "empty", "ones", "zeros", "zeros_like"),
    *("abs", "exp", "expm1", "isfinite", "log", "log1p", "sign", "sqrt", "tanh"),
    *("add", "subtract", "multiply", "true_divide", "power", "maximum", "minimum", "greater", "greater_equal"),
    *("all", "any", "argmax", "max", "mean", "sum", "matmul"),
    *("broadcast_to", "concatenate", "stack", "take", "where"),
}
FROM_HOST = {"asarray", "array", "ascontiguousarray"}
DTYPES = {"float32", "float64", "int64", "uint32", "uint64"}


class OutOfMemoryError(MemoryError):
    """As CuPy raises it."""


class CompileException(Exception):  # noqa: N818
    """As CuPy raises it."""


class CUDARuntimeError(RuntimeError):
    """As CuPy raises it."""


for error in (OutOfMemoryError, CompileException, CUDARuntimeError):
    error.__module__ = "cupy.cuda"


@dataclass
class Launched:
    """One launch: the name expression of the kernel, its grid, its block, its arguments."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]


class ndarray:  # noqa: N801
    """An array on a device. Nothing of it comes to the host but by ``asnumpy``."""

    __array_ufunc__ = None

    def __init__(self, memory: np.ndarray[Any, Any], number: int) -> None:
        self.memory, self.device = memory, SimpleNamespace(id=number)

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    itemsize = property(lambda self: self.memory.itemsize)
    flags = property(lambda self: self.memory.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.memory.ctypes.data))

    def _like(self, memory: Any) -> ndarray:
        return ndarray(np.asarray(memory), self.device.id)

    T = property(lambda self: self._like(self.memory.T))

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, index: Any) -> ndarray:
        return self._like(self.memory[unwrap(index)])

    def __setitem__(self, index: Any, values: Any) -> None:
        self.memory[unwrap(index)] = unwrap(values)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an array was read on the host unasked")

    __array__ = __bool__ = __float__ = __int__ = __index__ = __iter__ = item = tolist = get = _refuse


def unwrap(value: Any) -> Any:
    """Return what NumPy computes with. Arrays of the host are refused, as CuPy refuses them."""
    if isinstance(value, ndarray):
        return value.memory
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(unwrap(each) for each in value)
    return value


def _method(name: str) -> Callable[..., ndarray]:
    def method(self: ndarray, *arguments: Any, **params: Any) -> ndarray:
        with np.errstate(all="ignore"):
            return self._like(getattr(self.memory, name)(*unwrap(arguments), **params))

    return method


def _operator(function: Callable[..., Any], swapped: bool) -> Callable[..., ndarray]:
    def method(self: ndarray, *other: Any) -> ndarray:
        operands = (self.memory, *(unwrap(each) for each in other))
        with np.errstate(all="ignore"):
            return self._like(function(*(reversed(operands) if swapped else operands)))

    return method


for name in ("astype", "copy", "reshape", "transpose", "all", "any", "sum"):
    setattr(ndarray, name, _method(name))
for name in ("add", "sub", "mul", "truediv", "pow", "and_", "or_", "xor", "rshift", "lshift"):
    word = name.strip("_")
    setattr(ndarray, f"__{word}__", _operator(getattr(operator, name), swapped=False))
    setattr(ndarray, f"__r{word}__", _operator(getattr(operator, name), swapped=True))
for name in ("eq", "ne", "lt", "le", "gt", "ge", "neg"):
    setattr(ndarray, f"__{name}__", _operator(getattr(operator, name), swapped=False))


class Function:
    """A function of the module; ``add`` has ``at``, too."""

    def __init__(self, cupy: Cupy, name: str) -> None:
        self.cupy, self.name, self.function = cupy, name, getattr(np, name)

    def __call__(self, *arguments: Any, **params: Any) -> ndarray:
        if self.cupy.memory_left == 0:
            raise OutOfMemoryError("Out of memory allocating 4,096 bytes (allocated so far: 1,024 bytes).")
        if self.name not in FROM_HOST:
            arguments, params = unwrap(arguments), {key: unwrap(value) for key, value in params.items()}
        elif isinstance(arguments[0], ndarray):
            arguments = (arguments[0].memory, *arguments[1:])
        with np.errstate(all="ignore"):
            return ndarray(np.asarray(self.function(*arguments, **params)), self.cupy.current)

    def at(self, target: ndarray, index: Any, values: ndarray) -> None:
        self.function.at(target.memory, unwrap(index), values.memory)


class RawModule:
    """Kernels of one text. They are found by the names that were announced, and by no others."""

    def __init__(self, cupy: Cupy, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        self.cupy, self.code, self.options, self.names = cupy, code, options, name_expressions
        cupy.modules.append(self)

    def get_function(self, name: str) -> Callable[..., None]:
        if self.cupy.compile_error:
            raise self.cupy.compile_error
        assert name in self.names
        kernel, _, types = name.removesuffix(">").partition("<")
        (op,) = (op for op in RECORDS.values() if kernel in self.cupy.builder.texts.kernels(op))
        function = _native(self.cupy.builder, op, kernel, tuple(types.split(", ")))

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            if self.cupy.launch_error:
                raise self.cupy.launch_error
            assert all(n > 0 for n in (*grid, *block))
            assert grid[1] <= 65535
            assert np.prod(block) <= 1024
            self.cupy.launched.append(Launched(name, grid, block, arguments))
            bits = []
            for value in arguments:
                assert isinstance(value, ndarray | np.int64 | np.float64), f"{kernel}: {type(value)}"
                bits.append(value.data.ptr if isinstance(value, ndarray) else int(value.view(np.uint64)))
            slots = np.array(bits, np.uint64)
            for part in range(grid[1]):
                function(ctypes.c_void_p(slots.ctypes.data), part, grid[1])

        return launch


def _native(builder: Builder, op: Op, kernel: str, types: tuple[str, ...]) -> Callable[..., None]:
    for direction in op.directions:
        if kernel in (found := builder.find(op, direction, types)):
            return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong)(found[kernel])
    raise AssertionError(kernel)


class Device:
    """A device by its number; entered, it is the one that arrays are made on."""

    def __init__(self, cupy: Cupy, number: int) -> None:
        self.cupy, self.id, self.before = cupy, number, list[int]()

    def __enter__(self) -> Device:
        self.before.append(self.cupy.current)
        self.cupy.current = self.id
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.current = self.before.pop()

    compute_capability = "90"


@dataclass
class Cupy(ModuleType):
    """The module. ``device_error``, ``compile_error`` and ``launch_error`` are raised where a real one would."""

    devices: int = 1
    current: int = 0
    memory_left: int = 1 << 30
    device_error: Exception | None = None
    compile_error: Exception | None = None
    launch_error: Exception | None = None
    modules: list[RawModule] = field(default_factory=list)
    launched: list[Launched] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.__version__, self.__file__ = "14.2.0", "/fake/cupy/__init__.py"
        self.ndarray = ndarray
        self.builder = Builder()
        runtime = SimpleNamespace(
            getDeviceCount=self._count,
            memGetInfo=lambda: (60 << 30, 80 << 30),
            driverGetVersion=lambda: 12080,
            runtimeGetVersion=lambda: 12090,
            getDeviceProperties=lambda number: {"name": f"Fake {number}".encode(), "multiProcessorCount": 132},
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            Device=lambda number: Device(self, number),
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
        )

    def _count(self) -> int:
        if self.device_error:
            raise self.device_error
        return self.devices

    def RawModule(self, **given: Any) -> RawModule:  # noqa: N802
        return RawModule(self, **given)

    def asnumpy(self, array: ndarray) -> np.ndarray[Any, Any]:
        return array.memory.copy()

    def __getattr__(self, name: str) -> Any:
        if name in DTYPES:
            return getattr(np, name)
        if name in FUNCTIONS:
            return Function(self, name)
        raise AttributeError(f"gpumlp does not use cupy.{name} so far: add it here if CuPy has it")


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[Cupy]:
    """Let ``import cupy`` find a fake one, on a machine that has a driver."""
    fake = Cupy(**how)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake)
        patch.setattr(devices, "has_driver", lambda: True)
        patch.setattr(devices, "packages", lambda: ["cupy-cuda12x 14.2.0"])
        yield fake

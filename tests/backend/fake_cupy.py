"""A CuPy for machines without a device: arrays in NumPy that refuse to be read unasked, kernels run natively.

It has the functions of CuPy that gpumlp's formulas use and no others, so that a test on it fails where a formula
needs more, or where an array would silently be copied to the host. ``RawModule`` keeps what it is given; a launch is
noted, checked as a driver would, and then made by the same kernel compiled for this processor.

Streams run what they are given at once, and note it. While one is captured it refuses what CuPy refuses and keeps the
rest as a graph: of the arrays it keeps nothing but their addresses, and a launch of the graph fails where an array is
gone by then.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import importlib.machinery
import operator
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.fake_cublaslt import CublasLt
from gpumlp.backend.cuda import blocks, cublaslt
from gpumlp.backend.cuda import device as devices
from gpumlp.backend.host.builder import Builder
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Op

FUNCTIONS = {
    *("array", "asarray", "arange", "empty", "ones", "zeros", "zeros_like"),
    *("abs", "exp", "expm1", "isfinite", "log", "log1p", "rint", "sign", "sqrt", "tanh"),
    *("add", "subtract", "multiply", "true_divide", "power", "maximum", "minimum", "greater", "greater_equal"),
    *("all", "any", "argmax", "max", "mean", "sum", "matmul"),
    *("broadcast_to", "concatenate", "stack", "take", "where"),
}
FROM_HOST = {"asarray", "array"}
DTYPES = {"float32", "float64", "int64", "uint8", "uint32", "uint64"}


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
    """One launch: the name expression of the kernel, its grid, its block, its arguments, the number of its stream."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    stream: int


PLACES: weakref.WeakValueDictionary[int, np.ndarray[Any, Any]] = weakref.WeakValueDictionary()
"""The allocations of the device by where they begin, as long as anybody has them."""
STARTS: list[int] = []
"""Where they begin, in order, and where some did that are gone."""
LOCK = threading.RLock()
"""Held by whoever looks at these: ranks that are threads have devices of their own."""


def keep(memory: np.ndarray[Any, Any]) -> None:
    """Remember an allocation."""
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    start = memory.ctypes.data
    with LOCK:
        index = bisect.bisect_left(STARTS, start)
        if STARTS[index : index + 1] != [start]:
            STARTS.insert(index, start)
        PLACES[start] = memory


def check_alive(place: int, size: int) -> None:
    """Fail where so many bytes from a place do not lie in one living array."""
    with LOCK:
        for index in range(bisect.bisect_right(STARTS, place) - 1, -1, -1):
            start = STARTS[index]
            memory = PLACES.get(start)
            if memory is None:
                del STARTS[index]
            elif place + size <= start + memory.nbytes:
                return
    raise AssertionError(f"{size} bytes from {place:#x} belong to no array, or to one that is gone")


VIEWS = {"reshape", "transpose"}


class Noted(threading.local):
    """Where the arrays of the module of the moment, in this thread, tell what is done to them."""

    note: Callable[[str], None]
    give: Callable[[str, Callable[[], Any]], None]


NOTED = Noted()


class ndarray:  # noqa: N801
    """An array on a device. Nothing of it comes to the host but by ``asnumpy``."""

    __array_ufunc__ = None

    def __init__(self, memory: np.ndarray[Any, Any], number: int) -> None:
        self.memory, self.device = memory, SimpleNamespace(id=number)
        keep(memory)

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    itemsize = property(lambda self: self.memory.itemsize)
    nbytes = property(lambda self: self.memory.nbytes)
    strides = property(lambda self: self.memory.strides)
    flags = property(lambda self: self.memory.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.memory.ctypes.data))

    def _like(self, memory: Any) -> ndarray:
        return ndarray(np.asarray(memory), self.device.id)

    T = property(lambda self: self._like(self.memory.T))

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, index: Any) -> ndarray:
        result = self.memory[unwrap(index)]
        if not np.may_share_memory(result, self.memory):
            NOTED.note("getitem")
        return self._like(result)

    def __setitem__(self, index: Any, values: Any) -> None:
        memory, index, values = self.memory, unwrap(index), unwrap(values)
        NOTED.give("setitem", lambda: memory.__setitem__(index, values))

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
        if name not in VIEWS:
            NOTED.note(name)
        with np.errstate(all="ignore"):
            return self._like(getattr(self.memory, name)(*unwrap(arguments), **params))

    return method


def _operator(function: Callable[..., Any], swapped: bool) -> Callable[..., ndarray]:
    def method(self: ndarray, *other: Any) -> ndarray:
        NOTED.note(function.__name__)
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
        if isinstance(out := params.get("out"), ndarray):
            self.cupy.give(self.name, lambda: self._compute(arguments, params))
            return out
        self.cupy.note(self.name)
        result = self._compute(arguments, params)
        self.cupy.held += result.nbytes
        return ndarray(result, self.cupy.current)

    def _compute(self, arguments: tuple[Any, ...], params: dict[str, Any]) -> np.ndarray[Any, Any]:
        if self.name not in FROM_HOST:
            arguments, params = unwrap(arguments), {key: unwrap(value) for key, value in params.items()}
        elif isinstance(arguments[0], ndarray):
            arguments = (arguments[0].memory, *arguments[1:])
        elif isinstance(arguments[0], np.ndarray):
            arguments = (arguments[0].copy(), *arguments[1:])  # other memory
        with np.errstate(all="ignore"):
            return np.asarray(self.function(*arguments, **params))

    def at(self, target: ndarray, index: Any, values: ndarray) -> None:
        operands = target.memory, unwrap(index), values.memory
        self.cupy.give(f"{self.name}.at", lambda: self.function.at(*operands))


class Pinned(bytearray):
    """Memory of the host that the device copies from: when it gets to it, not when it is asked."""


class RawModule:
    """Kernels of one text. They are found by the names that were announced, and by no others."""

    def __init__(self, cupy: Cupy, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        self.cupy, self.code, self.options, self.names = cupy, code, options, name_expressions
        cupy.modules.append(self)

    def get_function(self, name: str) -> Callable[..., None]:
        if self.cupy.compile_error:
            raise self.cupy.compile_error
        assert name in self.names
        if name == blocks.NAME:
            return self._steps_in_blocks
        function = self._function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            if self.cupy.launch_error:
                raise self.cupy.launch_error
            assert all(n > 0 for n in (*grid, *block))
            assert grid[1] <= 65535
            assert np.prod(block) <= 1024
            stream = self.cupy.stream
            stream.use(name)
            bits, arrays = [], []
            for value in arguments:
                assert isinstance(value, ndarray | np.int64 | np.float64), f"{name}: {type(value)}"
                bits.append(value.data.ptr if isinstance(value, ndarray) else int(value.view(np.uint64)))
                arrays += [(value.data.ptr, value.nbytes)] if isinstance(value, ndarray) else []
            slots = np.array(bits, np.uint64)

            def work() -> None:
                for place, size in arrays:
                    check_alive(place, size)
                for part in range(grid[1]):
                    function(ctypes.c_void_p(slots.ctypes.data), part, grid[1])

            if not stream.is_capturing():
                self.cupy.launched.append(Launched(name, grid, block, arguments, stream.ptr))
            stream.give(name, work)

        return launch

    def _function(self, expression: str) -> Callable[..., None]:
        kernel, _, types = expression.removesuffix(">").partition("<")
        (op,) = (op for op in RECORDS.values() if kernel in self.cupy.builder.texts.kernels(op))
        return _native(self.cupy.builder, op, kernel, tuple(types.split(", ")))

    def _steps_in_blocks(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        calls, slots, count, pitch, steps = arguments
        functions = [
            self._function(each) for each in re.findall(r"CASE\(\d+, (.*?)\)(?: |$)", self.code, re.MULTILINE)
        ]
        assert grid == (1, 1, len(slots))
        assert (len(calls), slots.shape[1]) == (count, pitch)
        self.cupy.stream.use(blocks.NAME)
        self.cupy.launched.append(Launched(blocks.NAME, grid, block, arguments, self.cupy.stream.ptr))
        if self.cupy.run_blocks is not None:
            self.cupy.run_blocks(self.code, grid, block, arguments)
            return
        for network in slots.memory:
            for _ in range(steps):
                for number, start in calls.memory.tolist():
                    functions[number](ctypes.c_void_p(network.ctypes.data + 8 * start), 0, 1)


def _native(builder: Builder, op: Op, kernel: str, types: tuple[str, ...]) -> Callable[..., None]:
    for direction in op.directions:
        if kernel in (found := builder.find(op, direction, types)):
            return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong)(found[kernel])
    raise AssertionError(kernel)


@dataclass
class Captured:
    """What is known of a graph while it is captured: its nodes, each with those that it waits for."""

    origin: Stream
    nodes: list[tuple[str, Callable[[], None], frozenset[int]]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)


class Graph:
    """What a stream, and those that waited for it, were given while it was captured.

    What does not wait for each other runs in an order that is nobody's: ``choose`` picks one of the numbers of what
    may be next, by default what came last.
    """

    def __init__(self, cupy: Cupy, captured: Captured) -> None:
        self.cupy, self.nodes = cupy, captured.nodes
        self.behind: list[list[int]] = [[] for _ in self.nodes]
        for number, (_, _, before) in enumerate(self.nodes):
            for other in before:
                self.behind[other].append(number)

    names = property(lambda self: [name for name, _, _ in self.nodes])

    def launch(self, stream: Stream) -> None:
        assert not stream.is_capturing()
        self.cupy.graphs.append(self)
        stream.use("graph")
        waiting = [set(before) for _, _, before in self.nodes]
        ready = [number for number, before in enumerate(waiting) if not before]
        done = 0
        while ready:
            ready.remove(number := self.cupy.choose(ready))
            self.nodes[number][1]()
            done += 1
            for other in self.behind[number]:
                waiting[other].remove(number)
                if not waiting[other]:
                    bisect.insort(ready, other)
        assert done == len(self.nodes)


class Event:
    """A place in a stream."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self.captured: Captured | None = None
        self.timed = not disable_timing
        self.stream, self.before, self.waits = -1, frozenset[int](), 0
        self.cupy: Cupy | None = None
        self.behind = 0  # copies from pinned memory
        self.done = True

    def synchronize(self) -> None:
        assert self.stream >= 0, "an event that was never recorded is waited for"
        assert self.captured is None
        self.waits += 1
        if self.cupy is not None:
            self.cupy.catch_up(self.behind)

    def record(self, stream: Stream) -> None:
        assert stream.captured is None or not self.timed
        self.cupy, self.behind = stream.cupy, stream.cupy.asked
        self.captured, self.stream, self.before = stream.captured, stream.ptr, stream.before


class Stream:
    """A stream, by its number; entered, it is the one that everything runs on. 0 is that of all who name none."""

    def __init__(self, cupy: Cupy, *, non_blocking: bool = False) -> None:
        self.cupy, self.ptr, self.non_blocking = cupy, len(cupy.streams), non_blocking
        self.device, self.outside = cupy.current, list[Stream]()
        self.captured: Captured | None = None
        self.before = frozenset[int]()  # the nodes that the next one waits for
        self.used: list[str] = []
        self.waited: list[Any] = []
        cupy.streams.append(self)

    def __enter__(self) -> Stream:
        assert self.cupy.current == self.device, "a stream is used on the device that it was made on"
        self.outside.append(self.cupy.stream)
        self.cupy.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.stream = self.outside.pop()

    def use(self, name: str) -> None:
        """Note what is done here; refuse what CuPy cannot capture."""
        self.cupy.catch_up()
        if self.captured is None:
            self.used.append(name)
        elif name == "matmul":
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        elif name in FROM_HOST or name == "asnumpy":
            raise RuntimeError("the current stream is capturing, so synchronous API calls are disallowed")

    def give(self, name: str, work: Callable[[], Any]) -> None:
        """Do some work, or keep it for a graph."""
        if self.captured is None:
            assert not any(stream.is_capturing() for stream in self.cupy.streams), "this stream is not captured"
            work()
        else:
            self.captured.nodes.append((name, work, self.before))
            self.before = frozenset({len(self.captured.nodes) - 1})

    def begin_capture(self) -> None:
        assert self.ptr != 0, "cannot capture on the default (legacy) stream"
        assert self.captured is None
        self.captured, self.before = Captured(self, streams=[self]), frozenset()

    def end_capture(self) -> Graph:
        captured = self.captured
        assert captured is not None
        assert captured.origin is self
        known, pending = set[int](), set(self.before)
        while pending:
            known.add(number := pending.pop())
            pending |= captured.nodes[number][2] - known
        for stream in captured.streams:
            stream.captured, stream.before = None, frozenset()
        if self.cupy.capture_error:
            raise self.cupy.capture_error
        if len(known) < len(captured.nodes):
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined: capture was not merged into the original stream")
        return Graph(self.cupy, captured)

    def is_capturing(self) -> bool:
        return self.captured is not None

    def synchronize(self) -> None:
        assert self.captured is None, "a stream that is captured cannot be waited for"
        self.cupy.catch_up()

    def record(self) -> Event:
        event = Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.captured is None:
            assert self.captured is None
            self.waited.append(("event", event.stream))
            return
        if self.cupy.branch_error:
            raise self.cupy.branch_error
        assert self.captured in (None, event.captured)
        if self.captured is None:
            self.captured, self.before = event.captured, frozenset()
            event.captured.streams.append(self)
        self.before |= event.before


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
    """The module. ``device_error``, ``compile_error`` and so on are raised where a real one would."""

    devices: int = 1
    memory_left: int = 1 << 30
    nccl: Any = None
    device_error: Exception | None = None
    compile_error: Exception | None = None
    launch_error: Exception | None = None
    capture_error: Exception | None = None
    branch_error: Exception | None = None
    choose: Callable[[list[int]], int] = max
    lt: CublasLt | None = None
    streams: list[Stream] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    held: int = 0
    compute_types: list[tuple[str, int]] = field(default_factory=list)
    modules: list[RawModule] = field(default_factory=list)
    run_blocks: Callable[..., None] | None = None  # in place of the kernels that the steps of networks are made of
    launched: list[Launched] = field(default_factory=list)
    waiting: list[tuple[int, weakref.ref[Pinned], Callable[[], object]]] = field(default_factory=list)
    asked: int = 0  # copies from pinned memory
    pinned: weakref.WeakValueDictionary[int, Pinned] = field(default_factory=weakref.WeakValueDictionary)

    def __post_init__(self) -> None:
        super().__init__("cupy")
        self._of_thread = threading.local()
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.__version__, self.__file__ = "14.2.0", "/fake/cupy/__init__.py"
        self.ndarray = ndarray
        self.builder = Builder()
        self.allocator: Callable[[int], Any] = self._allocate
        self.stream = Stream(self)
        self.lt, self.check_alive = CublasLt(self), check_alive
        NOTED.note, NOTED.give = self.note, self.give
        runtime = SimpleNamespace(
            memcpyHostToDevice=1,
            memcpyDeviceToDevice=3,
            memcpyAsync=self._copy,
            memcpy2DAsync=self._copy_rows,
            getDevice=lambda: self.current,
            getDeviceCount=self._count,
            memGetInfo=lambda: (60 << 30, 80 << 30),
            driverGetVersion=lambda: 12080,
            runtimeGetVersion=lambda: 12090,
            deviceGetPCIBusId=lambda number: f"0000:{number:02X}:00.0",
            getDeviceProperties=lambda number: {"name": f"Fake {number}".encode(), "multiProcessorCount": 132},
        )
        linalg = SimpleNamespace(set_compute_type=self._compute, COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7)
        self._core = SimpleNamespace(_routines_linalg=linalg, set_compute_type=self._compute)
        self.cuda = SimpleNamespace(
            runtime=runtime,
            Device=lambda number: Device(self, number),
            Stream=lambda **given: Stream(self, **given),
            Event=Event,
            get_current_stream=lambda: self.stream,
            using_allocator=self._using,
            alloc_pinned_memory=self._pin,
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
            nccl=self.nccl or SimpleNamespace(available=False),
        )

    @property
    def current(self) -> int:
        """The device of the moment, in this thread."""
        return getattr(self._of_thread, "device", 0)

    @current.setter
    def current(self, number: int) -> None:
        self._of_thread.device = number

    def note(self, name: str) -> None:
        """Note what makes an array of its own."""
        self.allocator(4096)
        self.stream.use(name)

    def give(self, name: str, work: Callable[[], Any]) -> None:
        """Do what only writes to an array, or keep it for a graph."""
        self.stream.use(name)
        self.stream.give(name, work)

    # ---- memory ----------------------------------------------------------------------------------

    def _allocate(self, size: int) -> Any:
        if self.memory_left == 0:
            raise OutOfMemoryError("Out of memory allocating 4,096 bytes (allocated so far: 1,024 bytes).")

    @contextlib.contextmanager
    def _using(self, allocator: Callable[[int], Any]) -> Iterator[None]:
        before, self.allocator = self.allocator, allocator
        try:
            yield
        finally:
            self.allocator = before

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(total_bytes=lambda: self.held)

    def _pin(self, size: int) -> Pinned:
        memory = Pinned(size)
        self.pinned[np.frombuffer(memory, np.uint8).ctypes.data] = memory
        return memory

    def catch_up(self, until: int | None = None) -> None:
        """Make the copies from pinned memory that were asked for, so many at the least."""
        while self.waiting and (until is None or self.waiting[0][0] <= until):
            _, memory, work = self.waiting.pop(0)
            assert memory() is not None, "pinned memory is gone before it was copied"
            work()

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        assert self.streams[stream] is self.stream
        if kind == 1:
            memory = next(
                m for start, m in self.pinned.items() if start <= source and source + size <= start + len(m)
            )
            self.asked += 1
            check_alive(target, size)
            self.waiting.append((self.asked, weakref.ref(memory), lambda: ctypes.memmove(target, source, size)))
            return
        assert kind == 3

        def work() -> None:
            check_alive(target, size)
            check_alive(source, size)
            ctypes.memmove(target, source, size)

        self.stream.use("copy")
        self.stream.give("copy", work)

    def _copy_rows(
        self, target: int, to: int, source: int, of: int, width: int, height: int, kind: int, stream: int
    ) -> None:
        assert kind == 3
        assert width <= min(to, of)
        assert self.streams[stream] is self.stream

        def work() -> None:
            for row in range(height):
                check_alive(target + row * to, width)
                check_alive(source + row * of, width)
                ctypes.memmove(target + row * to, source + row * of, width)

        self.stream.use("copy")
        self.stream.give("copy", work)

    def _compute(self, dtype: Any, kind: int) -> None:
        self.compute_types.append((np.dtype(dtype).name, kind))

    def _count(self) -> int:
        if self.device_error:
            raise self.device_error
        return self.devices

    def RawModule(self, **given: Any) -> RawModule:  # noqa: N802
        return RawModule(self, **given)

    def asnumpy(self, array: ndarray) -> np.ndarray[Any, Any]:
        self.stream.use("asnumpy")
        return array.memory.copy()

    def may_share_memory(self, one: ndarray, other: ndarray) -> bool:
        return np.may_share_memory(one.memory, other.memory)

    def load_lt(self, major: int) -> CublasLt:
        """Stand in for gpumlp's own search for the library."""
        assert major == 12
        if self.lt is None:
            raise BackendError("cuBLASLt for CUDA 12 cannot be loaded")
        return self.lt

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
        patch.setenv("GPUMLP_BRANCHES", "1")  # what takes less time here is chance
        patch.setattr(devices, "has_driver", lambda: True)
        patch.setattr(devices, "packages", lambda: ["cupy-cuda12x 14.2.0"])
        patch.setattr(cublaslt, "load", fake.load_lt)
        yield fake

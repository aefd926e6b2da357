"""The checked form of the kernels: CUDA's own text on a CPU, where every access to memory is seen.

``Machine`` compiles a record's kernels behind ``cuda.h`` and runs them on ``runtime.cpp``. ``CheckedBackend``
launches them as a GPU would be told to, by the geometry of :mod:`gpumlp.backend.geometry`.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.backend.geometry import Geometry, geometry, parts, scratch
from gpumlp.backend.host.builder import compiler
from gpumlp.backend.host.native import as_bits
from gpumlp.backend.kernels import (
    SHARED,
    SUMMED,
    Texts,
    address,
    arguments,
    required_folder,
    shape_of,
    template_types,
)
from gpumlp.ops.record import Array, Op, Scalar
from gpumlp.store.atomic import replace_file

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-g1", "-gdwarf-4", "-fPIC", "-w")
KERNEL_FLAGS = (
    "-O1",
    "-fno-strict-aliasing",
    "-ftrivial-auto-var-init=pattern",  # a local variable without a value is not 0 by chance
    "-fsanitize=thread,alignment,bounds,shift,integer-divide-by-zero,signed-integer-overflow,float-cast-overflow",
    "-fsanitize-coverage=trace-pc",
)
RUNTIME_FLAGS = ("-O2", "-fvisibility=hidden")
STEPS = 1 << 20
"""Basic blocks after which a thread counts as endless."""
FORWARD, BACKWARD = 0, 1
"""Orders of blocks and threads; a larger number is the seed of a shuffled one."""
WEEK = 7 * 24 * 3600
SCRATCH = "scratch"


class KernelError(AssertionError):
    """What the checked form has found wrong in a launch."""


@cache
def reason_to_skip() -> str | None:
    """Return why the checked form cannot run here, or None."""
    if compiler() is None:
        return "no C++ compiler: install g++ or clang"
    return None if sys.platform == "linux" else "the checked form reads Linux's libraries"


# ---- compiling ---------------------------------------------------------------------------------------------------


class Library:
    """The compiled kernels of one record for one set of types."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = ctypes.CDLL(str(path))
        self._run = self._handle.checked_run
        self._run.restype = ctypes.c_char_p

    def signature(self, kernel: str) -> str:
        """Return the types of a kernel's parameters, each with a comma behind it."""
        text = ctypes.create_string_buffer(4096)
        getattr(self._handle, f"{kernel}_signature")(text)
        return text.value.decode()

    def run(self, kernel: str, slots: Array, shape: Geometry, memory: Memory | State, order: int) -> None:
        """Run one launch. Raises KernelError, which names kernel, block, thread, array and line."""
        entry = ctypes.cast(getattr(self._handle, f"{kernel}_entry"), ctypes.c_void_p)
        regions = memory.regions
        grid, block = (ctypes.c_uint * 3)(*(*shape.grid, 1)[:3]), (ctypes.c_uint * 2)(*shape.block)
        stacks = _stacks().ctypes.data
        launch = _Launch(
            entry, slots.ctypes.data, len(slots), grid, block, regions, len(regions), order, STEPS, stacks
        )
        if report := self._run(ctypes.byref(launch)):
            text = re.sub(r"@([0-9a-f]+)", lambda match: self._line(match[1]), report.decode())
            raise KernelError(f"{kernel}: {text}")

    def _line(self, place: str) -> str:
        """Return the lines that an address of the library stems from: the innermost, then whence that was called."""
        if not (tool := shutil.which("addr2line")):
            return f"address {place}"
        command = [tool, "-i", "-e", str(self._path), f"0x{place}"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        names = [Path(line).name for line in lines if ".cu" in line]
        return ", called from ".join([names[0], names[-1]] if len(names) > 1 else names) or f"address {place}"


@cache
def _stacks() -> Array:
    """Return the memory of the threads of a block, as runtime.cpp divides it."""
    return np.empty(1024 << 16, np.uint8)


class Machine:
    """Compiles kernels, two files at a time, and keeps them in a folder.

    ``changed`` has texts to take in place of files of ``kernels/``, by name.
    """

    def __init__(self, folder: Path, changed: Mapping[str, str] | None = None) -> None:
        self.texts = Texts()
        self.folder = folder
        self._changed = changed or {}
        self._workers = ThreadPoolExecutor(2)
        self._libraries: dict[tuple[str, tuple[str, ...]], Future[Library]] = {}
        self._runtime = self._workers.submit(_runtime, folder)

    def ask(self, op: Op, types: tuple[str, ...]) -> Future[Library]:
        """Have the kernels of a record compiled for a set of types."""
        key = op.name, types
        if key not in self._libraries:
            self._libraries[key] = self._workers.submit(self._make, op, types)
        return self._libraries[key]

    def _make(self, op: Op, types: tuple[str, ...]) -> Library:
        entries = [f"CHECKED_ENTRY({kernel}, {kernel}<{', '.join(types)}>)" for kernel in self.texts.kernels(op)]
        files = {}
        for name in (*SHARED, f"{op.name}.cu"):
            files[name] = self._changed.get(name) or (required_folder() / name).read_text(encoding="utf-8")
        return self.make(op.name, files, entries)

    def make(self, what: str, texts: Mapping[str, str], entries: Sequence[str]) -> Library:
        """Return the library of these files, with an entry for each kernel that is to be called."""
        files = {"cuda.h": (HERE / "cuda.h").read_text(), **texts}
        files["kernels.cpp"] = "\n".join([*(f'#include "{name}"' for name in files), *entries])
        runtime = self._runtime.result()
        path = self.folder / f"{what}-{_hash(*files.values(), runtime.name, *KERNEL_FLAGS)}.so"
        with _alone(path):
            if path.exists():
                path.touch()
            else:
                replace_file(path, _compile(files, runtime))
        return Library(path)

    def close(self) -> None:
        """Compile no more, and forget libraries that nothing has asked for in a week."""
        self._workers.shutdown(cancel_futures=True)
        for path in self.folder.iterdir():
            if path.stat().st_mtime < time.time() - WEEK:
                path.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait while another worker of the tests, which all ask for the same libraries, compiles this one."""
    import fcntl  # there is none on Windows, where nothing is compiled

    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _runtime(folder: Path) -> Path:
    """Return the object of the runtime."""
    text = (HERE / "runtime.cpp").read_text()
    path = folder / f"runtime-{_hash(text, *FLAGS, *RUNTIME_FLAGS, *_command())}.o"
    with _alone(path):
        if path.exists():
            return path
        with tempfile.TemporaryDirectory() as place:
            _call(place, [*FLAGS, *RUNTIME_FLAGS, "-c", str(HERE / "runtime.cpp"), "-o", "runtime.o"])
            replace_file(path, (Path(place) / "runtime.o").read_bytes())
    return path


def _compile(files: Mapping[str, str], runtime: Path) -> bytes:
    """Return the library of kernels, linked with the runtime in the place of the sanitizers' own.

    They are files, as nowhere else, so that the compiler knows each line by the name of its file.
    """
    unique = [] if "clang" in _command()[0] else ["-fno-gnu-unique"]  # a library's variables are its own
    with tempfile.TemporaryDirectory() as place:
        for name, text in files.items():
            (Path(place) / name).write_text(text, encoding="utf-8")
        _call(place, [*FLAGS, *KERNEL_FLAGS, *unique, "-c", "kernels.cpp", "-o", "kernels.o"])
        _call(place, ["-shared", "kernels.o", str(runtime), "-o", "kernels.so"])
        return (Path(place) / "kernels.so").read_bytes()


def _command() -> tuple[str, ...]:
    command = compiler()
    assert command is not None
    return command


def _call(place: str, options: Sequence[str]) -> None:
    result = subprocess.run([*_command(), *options], cwd=place, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(options)}\n{result.stderr[:3000]}"


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


# ---- memory ------------------------------------------------------------------------------------------------------


class _Region(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_ulonglong),
        ("size", ctypes.c_ulonglong),
        ("item", ctypes.c_ulonglong),
        ("writable", ctypes.c_ulonglong),
        ("written", ctypes.c_void_p),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("arguments", ctypes.c_ulonglong),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 2),
        ("regions", ctypes.POINTER(_Region)),
        ("count", ctypes.c_ulonglong),
        ("order", ctypes.c_ulonglong),
        ("steps", ctypes.c_ulonglong),
        ("stacks", ctypes.c_void_p),
    )


@dataclass
class _Known:
    """An array that kernels may touch: which of its bytes have been written, and whether they may be."""

    name: str
    array: Array
    writable: bool
    written: Array

    def region(self) -> _Region:
        size, item = self.array.nbytes, self.array.itemsize
        written = self.written.ctypes.data
        return _Region(self.name.encode(), address(self.array), size, item, self.writable, written)


class Memory:
    """The arrays that a direction may touch: inputs to read, outputs and scratch memory to write before any reading.

    An output that is the very array of an input may be read and written from the start. All others are poisoned.
    """

    def __init__(self, inputs: Sequence[tuple[str, Array]], outputs: Sequence[tuple[str, Array]]) -> None:
        self._known: list[_Known] = []
        for given, writable in ((inputs, False), (outputs, True)):
            for name, array in given:
                if array is not None and array.nbytes:
                    self._add(name, array, writable)
        self.regions = (_Region * len(self._known))(*(known.region() for known in self._known))

    def _add(self, name: str, array: Array, writable: bool) -> None:
        for known in self._known:
            if address(known.array) == address(array) and known.array.nbytes == array.nbytes:
                known.name = f"{known.name}={name}"
                known.writable |= writable
                return
            assert not (writable and np.may_share_memory(known.array, array)), f"{name} overlaps {known.name}"
        if writable:
            array.reshape(-1).view(np.uint8)[...] = 0xFF
        self._known.append(_Known(name, array, writable, np.full(array.nbytes, not writable, np.uint8)))

    def check_all_written(self, kernel: str) -> None:
        """Raise KernelError where a byte of an output has no value yet. Scratch memory may have."""
        for known in self._known:
            if known.name != SCRATCH and not known.written.all():
                at = int(np.argmin(known.written)) // known.array.itemsize
                raise KernelError(f"{kernel}: output not written: {known.name}[{at}] of {known.array.size}")


class State:
    """Arrays that a launch may read and write wherever it likes, as they are."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._known = [
            _Known(f"array {number}", array, True, np.ones(array.nbytes, np.uint8))
            for number, array in enumerate(arrays)
        ]
        self.regions = (_Region * len(self._known))(*(known.region() for known in self._known))


# ---- the backend -------------------------------------------------------------------------------------------------


class CheckedBackend(Backend):
    """Arrays on the host, operations by checked kernels. What they do not take, the formula does.

    Blocks and threads run in the given order; by default in one of four, by the shape.
    """

    name = "checked"

    def __init__(self, machine: Machine, order: int | None = None) -> None:
        super().__init__()
        self._machine = machine
        self._order = order

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        made = op.directions[direction]
        types = template_types(made, inputs, outputs)
        stages = self._machine.texts.stages(op, direction)
        if not types or not stages:
            return super().bind(op, direction, inputs, outputs, params)
        library = self._machine.ask(op, types).result()
        values = arguments(made, inputs, outputs, params)
        rows, cols = shape_of(made, inputs, outputs)
        pairs = list(zip(made.arrays, (*inputs, *outputs), strict=True))
        given, written = pairs[: len(inputs)], pairs[len(inputs) :]
        if made.launch in SUMMED:
            pieces = parts(made.launch, rows, cols)
            room = np.empty(scratch(made.launch, cols, pieces))
            written.append((SCRATCH, room))
            values += [room, pieces]
        for stage in stages:
            _check_call(stage, library.signature(stage), values, len(inputs))
        slots = np.array([as_bits(value) for value in values], np.uint64)
        order = (rows + cols) % 4 if self._order is None else self._order

        def launch() -> None:
            memory = Memory(given, written)
            for name, stage in stages.items():
                library.run(name, slots, geometry(stage.walk, made.launch, rows, cols), memory, order)
            memory.check_all_written(op.entry(direction))

        return launch


def _check_call(kernel: str, signature: str, values: Sequence[Array | Scalar], inputs: int) -> None:
    """Raise KernelError unless a kernel takes these arguments: dtypes as they are, inputs as pointers to constants.

    A pointer that is not given may be of any dtype.
    """
    parameters = signature.split(",")[:-1]
    fits = len(parameters) == len(values)
    for number, (parameter, value) in enumerate(zip(parameters, values, strict=False)):
        if isinstance(value, np.ndarray):
            fits &= parameter == f"{'const ' if number < inputs else ''}{value.dtype.name}*"
        elif isinstance(value, float):
            fits &= parameter == "double"
        else:
            fits &= parameter == "int64" or value == 0
    if not fits:
        taken = ", ".join(v.dtype.name + "*" if isinstance(v, np.ndarray) else type(v).__name__ for v in values)
        raise KernelError(f"{kernel}: wrong arguments: it takes ({signature}), it is called with ({taken})")

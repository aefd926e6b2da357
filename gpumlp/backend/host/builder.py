"""From the text of a kernel to a function that can be called: compiled once, kept in the user's cache."""

from __future__ import annotations

import atexit
import ctypes
import errno
import hashlib
import itertools
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from gpumlp.backend.host import prebuilt
from gpumlp.backend.kernels import Texts, forms, shared_text
from gpumlp.errors import BackendError
from gpumlp.limits import cache_folder
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Op
from gpumlp.store.atomic import open_regular, replace_file

NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native", "aarch64": "-mcpu=native", "arm64": "-mcpu=native"}
"""What asks for the processor at hand, by kind of machine: Apple's clang refuses the one for the other."""
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fopenmp-simd",
    # Of -ffast-math only what leaves NaN, infinity and the order of sums as they are written.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)
WIDEST = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
"""For what is long: where there are vectors of 64 bytes g++ prefers those of 32, with which an exponential takes
up to half as long again. In a row of ten classes there would be none of the longer ones."""
MATHEMATICS = (
    *("exp", "expm1", "log", "log1p", "log1p_unit", "tanh", "normal_cdf", "normal_pdf", "sinpi", "cospi"),
    *("sqrt", "fabs", "pow", "rint"),
)

TILES = ("host/host_products.h", "host/host_amx.h")
PLAIN = {
    "float": "float, float",
    "double": "double, double",
    "bfloat16_into_float": "gpumlp::bfloat16, float",
    "bfloat16_into_bfloat16": "gpumlp::bfloat16, gpumlp::bfloat16",
}
"""Products by vectors: the types of what is read and written."""
TILED = {
    "float_by_3_parts": "float, float, 3",
    "float_by_2_parts": "float, float, 2",
    "bfloat16_into_float_by_tiles": "gpumlp::bfloat16, float, 1",
    "bfloat16_into_bfloat16_by_tiles": "gpumlp::bfloat16, gpumlp::bfloat16, 1",
}
"""Products by tiles: the types of what is read and written, and the parts of a number."""

CHECKSUM = hashlib.sha256().digest_size
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_loads = itertools.count()

Function = (
    int  # the address of a function of (slots, part, parts), as the nodes of kernels/host/host_program.h want it
)
log = logging.getLogger("gpumlp")


@cache
def _private_folder() -> Path:
    """Return a folder of this process alone, for where nothing can be kept; it goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="gpumlp-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def compiler() -> tuple[str, ...] | None:
    """Return the command of the machine's C++ compiler, or None. ``CXX`` decides if it is set."""
    try:
        command = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quote that is not closed
        return None
    if command:
        path = shutil.which(command[0])
        return (path, *command[1:]) if path else None
    return next(((path,) for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


@cache
def version(command: tuple[str, ...]) -> str:
    """Return what the compiler says of itself."""
    try:
        return subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace").stdout
    except OSError as error:
        raise BackendError(f"the C++ compiler {command[0]} cannot be run: {error.strerror}") from None


@cache
def _machine(command: tuple[str, ...]) -> str:
    """Return what compiled code depends on besides its text: the compiler and the processor."""
    about = version(command)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    processor = "" if features else platform.processor()  # which starts a program on Linux, and knows no more
    return "\n".join([*command, about, platform.machine(), processor, features])


class NotCarriedError(BackendError):
    """There is no compiler, and what is asked for did not come with the installation."""


class Builder:
    """Compiles kernels when they are first asked for, each file once for each set of types."""

    def __init__(self, kernels: Path | None = None) -> None:
        self.texts = Texts(kernels)
        self.seconds = 0.0  # spent on compiling
        self._libraries: dict[tuple[str, tuple[str, ...], tuple[str, ...]], ctypes.CDLL] = {}
        self._found: dict[tuple[str, str, tuple[str, ...], bool], dict[str, Function]] = {}
        self._lock = threading.RLock()  # networks that are trained side by side ask from several threads

    def check(self) -> None:
        """Raise BackendError, with the mend, unless kernels can be compiled, or are there, and can be loaded."""
        if sys.platform == "win32" or sys.maxsize < 1 << 32:
            raise BackendError("kernels are compiled on 64-bit Linux and macOS only", hint="use backend: numpy")
        if compiler() is None and prebuilt.folder() is None:
            command = os.environ.get("CXX")
            message = f"CXX={command!r} is not a command that can be run" if command else "there is no C++ compiler"
            raise BackendError(message, hint="install g++ or clang (or set CXX to its path), or use backend: numpy")
        self.program()

    def find(self, op: Op, direction: str, types: tuple[str, ...], long: bool = True) -> dict[str, Function]:
        """Return the compiled kernels of a direction by name, in the order they are launched; none without any.

        Without a compiler there are those that the installation carries.

        ``long`` tells whether their loops are long enough for the widest vectors of the processor.
        """
        key = op.name, direction, types, long
        with self._lock:
            if key not in self._found:
                functions, flags = {}, FLAGS + WIDEST if long else FLAGS
                for name in self.texts.stages(op, direction):
                    try:
                        library = self._load(op.name, types, lambda: self.kernels_source((op, types)), flags)
                    except NotCarriedError:
                        break
                    functions[name] = _function(library, name)
                self._found[key] = functions
            return self._found[key]

    def kernels_source(self, *records: tuple[Op, tuple[str, ...]]) -> str:
        """Return one text of all that the kernels of a record, or of several, need in some types."""
        return "\n".join(
            [
                shared_text(("host/host_math.h", "host/host.h")),
                "namespace gpumlp {",
                *(f"using gpumlp_math::{function};" for function in MATHEMATICS),
                shared_text(),
                *(self.texts.text(op.name) for op, _ in records),
                "}  // namespace gpumlp",
                "using gpumlp::bf16;",
                *(
                    f"GPUMLP_ENTRY({kernel}, {kernel}<{', '.join(types)}>)"
                    for op, types in records
                    for kernel in self.texts.kernels(op)
                ),
            ]
        )

    def product(self, name: str) -> Function:
        """Return a product of two matrices by its name in ``PLAIN`` or ``TILED``."""
        return _function(self._load("product", (name,), lambda: _product_source(name)), "multiply")

    def most_parts(self) -> int:
        """Return how many parts of bfloat16 a number may have that is multiplied part by part.

        3 where the processor has tile registers, the compiler knows them and the system gives them to us; 1 where it
        multiplies bfloat16 in vectors; else 0.
        """
        return int(self._load("tiles", (), lambda: shared_text(TILES)).most_parts())

    def program(self) -> Callable[[int, int, int], None]:
        """Return the function that runs a list of nodes: its address, its length, the number of threads."""
        run = self._load("program", (), lambda: shared_text(("host/host_program.h",))).gpumlp_run
        run.argtypes = (ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong)
        run.restype = None
        result: Callable[[int, int, int], None] = run
        return result

    def sources(self, floats: Sequence[str], products: Sequence[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield the name, the text and the flags of every library that training in these types may ask for."""
        yield "program", shared_text(("host/host_program.h",)), FLAGS
        yield "tiles", shared_text(TILES), FLAGS
        for name in products:
            yield "product", _product_source(name), FLAGS
        for op in RECORDS.values():
            narrow = any(definition.narrow for definition in op.directions.values())
            rows = any(definition.launch != "elementwise" for definition in op.directions.values())
            type_lists = {form.format(T=each) for each in floats if narrow or each != "bf16" for form in forms(op)}
            for types in sorted(type_lists) if self.texts.text(op.name) else ():
                source = self.kernels_source((op, tuple(types.split(", "))))
                yield op.name, source, FLAGS + WIDEST
                if rows:
                    yield op.name, source, FLAGS

    def _load(
        self, name: str, types: tuple[str, ...], source: Callable[[], str], flags: tuple[str, ...] = FLAGS
    ) -> ctypes.CDLL:
        key = name, types, flags
        with self._lock:
            if key not in self._libraries:
                started = time.perf_counter()
                self._libraries[key] = self._build(name, source(), flags)
                self.seconds += time.perf_counter() - started
            return self._libraries[key]

    @staticmethod
    def _build(name: str, source: str, flags: Sequence[str]) -> ctypes.CDLL:
        """Return the shared library of a source: from the cache, or compiled and put there in one step.

        A library ends with the checksum of what is before it: a damaged one is made again. Two processes that
        build the same kernel at once both end with a whole library.
        """
        command = compiler()
        if command is None:
            return _carried(name, source, flags)
        flags = [*flags, *_native(), *own_symbols(command)]
        digest = hashlib.sha256("\n".join([source, *flags, _machine(command)]).encode()).hexdigest()[:24]
        file = f"{name}-{digest}.so"
        folder = cache_folder()
        if folder is not None and (library := _load_cached(folder / file)):
            return library
        log.info("compiling kernels for this processor, once")
        content = compile_library([*command, *flags], name, source)
        try:
            path = _keep(content, (folder or _private_folder()) / file)
        except OSError as error:
            reason = f"{folder}: {error.strerror}"
            log.warning("compiled kernels cannot be cached (%s); set GPUMLP_CACHE to another folder", reason)
            path = _keep(content, _private_folder() / file)
        if library := _load_cached(path):
            return library
        raise BackendError("a compiled kernel changed after it was written", where=str(path))


def _product_source(name: str) -> str:
    if name in TILED:
        return f"{shared_text(TILES)}\nGPUMLP_TILED({TILED[name]})"
    return f"{shared_text(TILES[:1])}\nGPUMLP_PRODUCT({PLAIN[name]})"


@cache
def own_symbols(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return what keeps tables of functions apart where libraries made for two processors are loaded.

    g++ makes static variables of templates one for all libraries of a process, which nothing else does.
    """
    return ("-fno-gnu-unique",) if "Free Software Foundation" in version(command) else ()


def _native() -> tuple[str, ...]:
    """Return what asks the compiler for the processor at hand."""
    return (NATIVE[platform.machine()],) if platform.machine() in NATIVE else ()


def _carried(name: str, source: str, flags: Sequence[str]) -> ctypes.CDLL:
    """Load a library that came with the installation, which is trusted like its Python files."""
    folder = prebuilt.folder()
    file = folder / prebuilt.file_name(name, source, flags) if folder else None
    if file is None or not file.is_file():
        raise NotCarriedError(f"there is no C++ compiler, and no kernel {name} for this processor came with gpumlp")
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise BackendError(
            f"a kernel that came with gpumlp cannot be loaded: {error}", hint="install gpumlp again"
        ) from None


@cache
def _function(library: ctypes.CDLL, name: str) -> Function:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


def _keep(content: bytes, path: Path) -> Path:
    """Write a library with its checksum, so that another process finds all of it or nothing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(path.parent):
        raise OSError(errno.EPERM, "it belongs to another user, or is writable by others")
    replace_file(path, content + hashlib.sha256(content).digest(), mode=0o644)
    return path


def _load_cached(path: Path) -> ctypes.CDLL | None:
    """Load a library of the cache if it is whole and nobody else can have written it; else return None.

    The file is opened once: what was checked is what is loaded, whatever takes its name meanwhile. Loading half of a
    library would kill the process, and loading a stranger's would run it.
    """
    try:
        if not _is_ours(path.parent):
            return None
        with open(open_regular(path), "rb") as file:
            if not _is_safe(os.fstat(file.fileno())):
                return None
            content = file.read()
            whole = hashlib.sha256(content[:-CHECKSUM]).digest() == content[-CHECKSUM:]
            return _open_library(file.fileno(), path) if whole and len(content) > CHECKSUM else None
    except OSError:
        return None


def _is_ours(folder: Path) -> bool:
    """Return whether only this user, or the system's, can write in a folder; in our own, others lose the right."""
    status = folder.stat()
    if os.name == "posix" and status.st_uid == os.geteuid() and status.st_mode & OTHERS_WRITE:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS_WRITE)
        status = folder.stat()
    return _is_safe(status)


def _is_safe(status: os.stat_result) -> bool:
    """Return whether a file or folder can be changed by this user and the system's alone."""
    return os.name != "posix" or (status.st_uid in (os.geteuid(), 0) and not status.st_mode & OTHERS_WRITE)


def _open_library(handle: int, path: Path) -> ctypes.CDLL:
    """Load the library behind an open file. Raises BackendError where the system refuses it."""
    name = str(path)
    if sys.platform == "linux" and os.path.exists(f"/proc/self/fd/{handle}"):
        # The system knows libraries by name, and would take this one for the last that was loaded by the same number.
        unlike = "".join("./" if digit == "1" else "/" for digit in f"{next(_loads):b}")
        name = f"/proc/self/fd/{unlike}{handle}"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise BackendError(f"a compiled kernel cannot be loaded: {error}", hint=f"delete {path}") from None


def compile_library(command: Sequence[str], name: str, source: str) -> bytes:
    """Return the shared library that the compiler makes of a source."""
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as scratch:
        library = Path(scratch) / "kernel.so"
        (Path(scratch) / "kernel.cpp").write_text(source, encoding="utf-8")
        build = [*command, "kernel.cpp", "-o", library.name]
        result = subprocess.run(build, cwd=scratch, capture_output=True, text=True, errors="replace")
        if result.returncode or not library.exists():
            output = result.stderr.strip()[:1500] or "nothing"
            hint = f"use backend: numpy; the compiler says\n{output}"
            raise BackendError(f"the kernel {name} does not compile with {command[0]}", hint=hint)
        return library.read_bytes()

"""NVIDIA's run-time compiler takes every kernel, as CuPy would call it, for every architecture; no GPU is needed.

What it makes is not run here. Its report shows the registers and the memory, its PTX the parameters and the loads.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FLOATS, examples

from gpumlp.backend import Backend
from gpumlp.backend.gpu import OPTIONS, number
from gpumlp.backend.kernels import SUMMED, Texts, arguments, shared_text, template_types
from gpumlp.backend.launch import THREADS
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS, UPDATES
from gpumlp.ops.record import Op

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
MAIN, LIKE_80 = 90, (86, 89)
"""Where a loss is compiled for every kind of target, elsewhere for one; and sm_80's kin, compiled for float alone.

So everything takes a minute on two cores.
"""
MOST_REGISTERS = 128  # of 65536 for a multiprocessor: two blocks of 256 threads fit at the least
MOST_SHARED = 48 << 10  # what a kernel may have without asking for more
TYPES = {
    "shuffle": ["long long"],
    "advance": ["long long"],
    "accumulate": ["double"],
    "gather": [f"{{T}}, {inputs}, {targets}" for inputs in ("{T}", "unsigned char") for targets in ("int", "{T}")],
}


def library() -> Path | None:
    """Return where the wheel nvidia-cuda-nvrtc-cu12, or its successor for CUDA 13, has put the compiler."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    found = [path for place in places for path in place.glob("*/lib/libnvrtc.so.*") if ".alt" not in path.name]
    return found[0] if found else None


pytestmark = pytest.mark.skipif(library() is None, reason="no NVRTC here: pip install nvidia-cuda-nvrtc-cu12")


@dataclass
class Compiled:
    """What became of one record: the mangled name of each kernel, the assembler's report on it, its PTX."""

    names: dict[str, str]
    registers: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    spilled: dict[str, int] = field(default_factory=dict)
    ptx: dict[str, str] = field(default_factory=dict)
    """From the name of the kernel on: its parameters, then its instructions."""


def wanted(op: Op, architecture: int) -> list[str]:
    """Return the name expressions of every kernel of a record, as the backend could ask for them."""
    forms = TYPES.get(op.name, ["{T}"])
    if op.name in LOSS_RECORDS:
        labels = op in (LOSS_RECORDS["softmax_cross_entropy"], LOSS_RECORDS["binary_cross_entropy"])
        forms = ["{T}, int"] if labels else ["{T}, {T}"]
        if architecture == MAIN:
            forms = ["{T}, int", "{T}, {T}", *(["{T}, long long"] if op.name == "softmax_cross_entropy" else [])]
    kernels = [kernel for direction in op.directions for kernel in Texts().stages(op, direction)]
    floats = ("float",) if architecture in LIKE_80 else ("float", "double")
    types = [form.format(T=t) for form in forms for t in floats]
    return sorted({f"{kernel}<{each}>" for kernel in kernels for each in types})


class Compiler:
    """NVRTC, without CuPy."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(library()))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"nvrtc{name}")(*arguments)
        assert code == 0, f"nvrtc{name} returned {code}"

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, text)
        return text.value.decode()

    def compile(self, op: Op, architecture: int) -> Compiled:
        """Compile the kernels of a record to machine code. Fails with what the compiler says."""
        program, names = ctypes.c_void_p(), wanted(op, architecture)
        source = f"{shared_text()}\n{Texts().text(op.name)}".encode()
        self._call("CreateProgram", ctypes.byref(program), source, f"{op.name}.cu".encode(), 0, None, None)
        for name in names:
            self._call("AddNameExpression", program, name.encode())
        options = [*OPTIONS, f"-arch=sm_{architecture}", "-ftz=true", "--ptxas-options=-v"]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = self._library.nvrtcCompileProgram(program, len(options), encoded)
        log = self._text(program, "ProgramLog")
        assert code == 0, f"{op.name} for sm_{architecture}: {log[:3000]}"
        assert "warning" not in log, log[:3000]
        lowered = {}
        for name in names:
            mangled = ctypes.c_char_p()
            self._call("GetLoweredName", program, name.encode(), ctypes.byref(mangled))
            lowered[name] = (mangled.value or b"").decode()
        made = Compiled(lowered)
        pieces = re.split(r"\.entry ", self._text(program, "PTX"))[1:]
        of_entry = {piece.partition("(")[0].strip(): piece for piece in pieces}
        reports = re.split(r"Compiling entry function '", log)[1:]
        of_report = {report.partition("'")[0]: report for report in reports}
        for name, mangled_name in lowered.items():
            said = of_report[mangled_name]
            made.ptx[name] = of_entry[mangled_name]
            made.registers[name] = int(re.findall(r"Used (\d+) registers", said)[0])
            made.shared[name] = sum(map(int, re.findall(r"(\d+) bytes smem", said)))
            made.spilled[name] = sum(map(int, re.findall(r"(\d+) bytes (?:stack frame|spill \w+)", said)))
        self._call("DestroyProgram", ctypes.byref(program))
        return made


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[int, str], Compiled]:
    """Every record for every architecture, compiled two at a time; the longest first."""
    compiler = Compiler()
    work = [(architecture, op) for op in RECORDS.values() if Texts().kernels(op) for architecture in ARCHITECTURES]
    work.sort(key=lambda item: -len(wanted(item[1], item[0])))
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda item: compiler.compile(item[1], item[0]), work)
        return {(architecture, op.name): one for (architecture, op), one in zip(work, made, strict=True)}


Everything = dict[tuple[int, str], Compiled]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_within_its_budget(compiled: Everything, architecture: int) -> None:
    """No register spilled to memory; two blocks of 256 threads fit a multiprocessor; no shared memory on request."""
    kernels = 0
    for (for_architecture, name), made in compiled.items():
        if for_architecture == architecture:
            kernels += len(made.names)
            assert set(made.names) == set(wanted(RECORDS[name], architecture))
            assert {kernel: n for kernel, n in made.spilled.items() if n} == {}
            assert {kernel: n for kernel, n in made.registers.items() if not 0 < n <= MOST_REGISTERS} == {}
            assert {kernel: n for kernel, n in made.shared.items() if n > MOST_SHARED} == {}
    assert kernels > 100
    assert MOST_REGISTERS * THREADS <= 65536


def by_sixteen(ptx: str, what: str, kernel: str) -> int:
    """Count the loads or stores of sixteen bytes at once."""
    width = r"v2\.\w?64" if "<double" in kernel else r"v4\.\w?32"
    return len(re.findall(rf"{what}\.global[\w.:]*\.{width}", ptx))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_is_moved_sixteen_bytes_at_a_time_where_promised(compiled: Everything, architecture: int) -> None:
    """At least one load for each array read in full, and one store for each written."""
    for name in ACTIVATIONS:
        if (architecture, name) not in compiled or name == "softmax":
            continue
        for kernel, ptx in compiled[architecture, name].ptx.items():
            moved = {"_forward<": (1, 1), "_backward<": (1 if name == "identity" else 2, 1)}
            moved["_bias_forward<"] = 2, 1 + (ACTIVATIONS[name].saves == "input")
            for ending, (loads, stores) in moved.items():
                if kernel.startswith(f"{name}{ending}"):
                    assert by_sixteen(ptx, "ld", kernel) >= loads, kernel
                    assert by_sixteen(ptx, "st", kernel) >= stores, kernel
    for name, op in UPDATES.items():
        for kernel, ptx in compiled[architecture, name].ptx.items():
            assert by_sixteen(ptx, "ld", kernel) >= 2 + len(op.slots), kernel
            assert by_sixteen(ptx, "st", kernel) >= 1 + len(op.slots), kernel


def parameters(ptx: str) -> list[str]:
    """Return the parameters of a kernel: ``n`` for a pointer or a whole number of eight bytes, ``d`` for a double."""
    head = ptx.partition("{")[0]
    kinds = {"u64": "n", "s64": "n", "b64": "n", "f64": "d"}
    return [kinds[kind] for kind in re.findall(r"\.param \.(\w+)", head)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [name for name, op in RECORDS.items() if Texts().kernels(op)])
def test_a_kernel_is_given_what_it_takes(compiled: Everything, name: str, dtype: Any) -> None:
    """As many arguments as parameters, double where double is wanted, for every example; whole numbers included."""
    op, made = RECORDS[name], compiled[MAIN, name]
    for direction, one in op.directions.items():
        for inputs, params in examples(op, direction, 6, 5, dtype):
            outputs = Backend().run(op, direction, inputs, None, **params)
            types = template_types(one, inputs, outputs)
            for kernel in Texts().stages(op, direction) if types else ():
                values = arguments(one, inputs, outputs, params)
                given = ["n" if isinstance(a, np.ndarray) else "nd"[number(a).dtype.kind == "f"] for a in values]
                given += ["n", "n"] if one.launch in SUMMED else []
                assert types is not None
                assert parameters(made.ptx[f"{kernel}<{', '.join(types)}>"]) == given, kernel


def test_the_texts_include_nothing() -> None:
    """So that neither the headers of CUDA nor those of C++ are needed, and the key of a cache is the text."""
    for op in RECORDS.values():
        assert "#include" not in f"{shared_text()}{Texts().text(op.name)}"

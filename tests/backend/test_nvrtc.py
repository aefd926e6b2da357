"""NVIDIA's run-time compiler takes every kernel, as CuPy would call it, for every architecture; no GPU is needed.

What it makes is not run here. Its report shows the registers and the memory, its PTX the parameters and the loads.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FLOATS, examples

from gpumlp.backend import Backend
from gpumlp.backend.cuda.launcher import OPTIONS, number
from gpumlp.backend.geometry import THREADS
from gpumlp.backend.kernels import SUMMED, Texts, arguments, forms, shared_text, template_types
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS, UPDATES
from gpumlp.ops.record import Op
from gpumlp.store.atomic import replace_file

ALL = (75, 80, 86, 89, 90, 100, 120)
ARCHITECTURES = ALL if os.environ.get("GPUMLP_ARCHITECTURES") == "all" else (75, 90, 120)
"""The oldest, the main one and the newest; with ``GPUMLP_ARCHITECTURES=all``, some minutes on two cores, all of them.

Unless all are asked for, each record is compiled for the main one and, by turns, for the oldest or the newest.
Losses, which take most of the time, are compiled for float alone there, and everywhere for labels of 64 bits.
"""
MAIN, LIKE_80 = 90, (86, 89)
"""Where a loss is compiled for every kind of target (elsewhere for one), and for bfloat16 what can be stored so; and
sm_80's kin, compiled for float alone.

So everything takes a minute on two cores.
"""
WIDE_LABELS = "long long"
MOST_REGISTERS = 128  # of 65536 for a multiprocessor: two blocks of 256 threads fit at the least
MOST_SHARED = 48 << 10  # what a kernel may have without asking for more


def library() -> Path | None:
    """Return where the wheel nvidia-cuda-nvrtc-cu12, or its successor for CUDA 13, has put the compiler."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    found = [path for place in places for path in place.glob("*/lib/libnvrtc.so.*") if ".alt" not in path.name]
    return found[0] if found else None


pytestmark = pytest.mark.skipif(library() is None, reason="no NVRTC here: pip install nvidia-cuda-nvrtc-cu12")


@dataclass(frozen=True)
class Kernel:
    """What the compiler made of one kernel: bytes of shared memory and on the stack, what it takes, what it moves.

    ``parameters`` has an ``n`` for a pointer or a whole number of eight bytes and a ``d`` for a double; ``loads`` and
    ``stores`` count those of sixteen bytes at once. ``grid`` has the instructions that compute with the number of a
    block along the first axis, or of all blocks there.
    """

    registers: int
    shared: int
    spilled: int
    parameters: str
    loads: int
    stores: int
    grid: str


def wanted(op: Op, architecture: int) -> list[str]:
    """Return the name expressions of every kernel of a record, as the backend could ask for them."""
    asked = forms(op)
    kernels = [kernel for direction in op.directions for kernel in Texts().stages(op, direction)]
    floats: tuple[str, ...] = ("float",) if architecture in LIKE_80 else ("float", "double")
    if architecture == MAIN and any(made.narrow for made in op.directions.values()):
        floats += ("bf16",)
    few = floats if ARCHITECTURES == ALL else ("float",)
    if op.name in LOSS_RECORDS and architecture != MAIN:
        asked, floats = asked[:1], few
    types = [form.format(T=t) for form in asked for t in (few if WIDE_LABELS in form else floats)]
    return sorted({f"{kernel}<{each}>" for kernel in kernels for each in types})


def records(architecture: int) -> list[Op]:
    """Return the records that are compiled for an architecture."""
    found = [op for op in RECORDS.values() if Texts().kernels(op)]
    return found if architecture == MAIN or ARCHITECTURES == ALL else found[architecture == ARCHITECTURES[0] :: 2]


class Compiler:
    """NVRTC, without CuPy. What it says is kept under a hash of everything that it depends on."""

    def __init__(self, kept: Path) -> None:
        self._library, self._kept = ctypes.CDLL(str(library())), kept
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        self._version = f"{major.value}.{minor.value} {library()}"

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"nvrtc{name}")(*arguments)
        assert code == 0, f"nvrtc{name} returned {code}"

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, text)
        return text.value.decode()

    def kernels(self, op: Op, architecture: int) -> dict[str, Kernel]:
        """Return the kernels of a record, compiled to machine code, by name expression."""
        source, names = f"{shared_text()}\n{Texts().text(op.name)}", wanted(op, architecture)
        options = [*OPTIONS, f"-arch=sm_{architecture}", "-ftz=true", "--ptxas-options=-v"]
        facts = [self._version, Path(__file__).read_text(), source, *names, *options]
        file = self._kept / f"{op.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.json"
        if not file.exists():
            made = self._compile(op.name, source, names, options)
            replace_file(file, json.dumps({name: asdict(kernel) for name, kernel in made.items()}).encode())
        return {name: Kernel(**facts) for name, facts in json.loads(file.read_text()).items()}

    def _compile(self, name: str, source: str, names: list[str], options: list[str]) -> dict[str, Kernel]:
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None)
        for each in names:
            self._call("AddNameExpression", program, each.encode())
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = self._library.nvrtcCompileProgram(program, len(options), encoded)
        log = self._text(program, "ProgramLog")
        assert code == 0, f"{name} with {options}: {log[:3000]}"
        assert "warning" not in log, log[:3000]
        pieces = (piece.partition("\n}")[0] for piece in self._text(program, "PTX").split(".entry "))
        entries = {
            piece.partition("(")[0].strip(): piece for piece in pieces
        }  # a function may follow, as that of pow
        reports = {piece.partition("'")[0]: piece for piece in log.split("Compiling entry function '")}
        made = {}
        for each in names:
            mangled = ctypes.c_char_p()
            self._call("GetLoweredName", program, each.encode(), ctypes.byref(mangled))
            key = (mangled.value or b"").decode()
            made[each] = read(each, entries[key], reports[key])
        self._call("DestroyProgram", ctypes.byref(program))
        return made


def read(name: str, ptx: str, report: str) -> Kernel:
    """Return what is told of a kernel by its PTX, from its name on, and by the assembler's report."""
    kinds = {"u64": "n", "s64": "n", "b64": "n", "f64": "d"}
    width = r"v2\.\w?64" if "<double" in name else r"v4\.\w?32"
    return Kernel(
        registers=int(re.findall(r"Used (\d+) registers", report)[0]),
        shared=sum(map(int, re.findall(r"(\d+) bytes smem", report))),
        spilled=sum(map(int, re.findall(r"(\d+) bytes (?:stack frame|spill \w+)", report))),
        parameters="".join(kinds[kind] for kind in re.findall(r"\.param \.(\w+)", ptx.partition("{")[0])),
        loads=len(re.findall(rf"ld\.global[\w.:]*\.{width}", ptx)),
        stores=len(re.findall(rf"st\.global[\w.:]*\.{width}", ptx)),
        grid=" ".join(sorted(set(_of_grid(ptx)))),
    )


def _of_grid(ptx: str) -> Iterator[str]:
    registers = re.findall(r"mov\.u32\s+(%r\d+), %n?ctaid\.x;", ptx)
    for instruction, operands in re.findall(r"^\s*([a-z][\w.]+)\s+([^;\n]*);", ptx, flags=re.MULTILINE):
        if instruction != "mov.u32" and set(registers) & set(re.findall(r"%r\d+", operands)):
            yield instruction


Everything = dict[tuple[int, str], dict[str, Kernel]]


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """Every record for every architecture, compiled two at a time; the longest first."""
    cache = getattr(request.config, "cache", None)
    compiler = Compiler(cache.mkdir("nvrtc") if cache else tmp_path_factory.mktemp("nvrtc"))
    work = [(architecture, op) for architecture in ARCHITECTURES for op in records(architecture)]
    work.sort(key=lambda item: -len(wanted(item[1], item[0])))
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda item: compiler.kernels(item[1], item[0]), work)
        return {(architecture, op.name): one for (architecture, op), one in zip(work, made, strict=True)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_within_its_budget(compiled: Everything, architecture: int) -> None:
    """No register spilled to memory; two blocks of 256 threads fit a multiprocessor; no shared memory on request."""
    found: dict[str, Kernel] = {}
    for (for_architecture, name), kernels in compiled.items():
        if for_architecture == architecture:
            assert set(kernels) == set(wanted(RECORDS[name], architecture))
            found |= kernels
    assert len(found) > 100
    assert {name: each.spilled for name, each in found.items() if each.spilled} == {}
    assert {name: each.registers for name, each in found.items() if not 0 < each.registers <= MOST_REGISTERS} == {}
    assert {name: each.shared for name, each in found.items() if each.shared > MOST_SHARED} == {}
    assert 2 * MOST_REGISTERS * THREADS <= 65536


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_is_moved_sixteen_bytes_at_a_time_where_promised(compiled: Everything, architecture: int) -> None:
    """At least one load for each array read in full, and one store for each written."""
    least: dict[str, tuple[int, int]] = {}
    for name, op in ACTIVATIONS.items():
        least[f"{name}_forward"] = 1, 1
        least[f"{name}_backward"] = 1 if name == "identity" else 2, 1
        least[f"{name}_bias_forward"] = 2, 1 + (op.saves == "input")
    least |= {f"{name}_forward": (2 + len(op.slots), 1 + len(op.slots)) for name, op in UPDATES.items()}
    names = [op.name for op in records(architecture) if op.name != "softmax"]
    activations, updates = ([name for name in names if name in table] for table in (ACTIVATIONS, UPDATES))
    checked = 0
    for name in (*activations, *updates):
        for expression, kernel in compiled[architecture, name].items():
            if (entry := expression.partition("<")[0]) in least:
                checked += 1
                assert kernel.loads >= least[entry][0], expression
                assert kernel.stores >= least[entry][1], expression
    types = {MAIN: 3}.get(architecture, 1 if architecture in LIKE_80 else 2)
    assert checked == 3 * len(activations) * types + len(updates) * min(types, 2)
    assert len(activations) >= 5
    assert len(updates) >= 3


WIDENING = {"cvt.u64.u32", "mul.wide.u32"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_elements_are_counted_in_64_bits(compiled: Everything, architecture: int) -> None:
    """From the number of its block on: 2^31 elements are more than a grid takes at once, and a thread counts on."""
    kernels = {
        name: kernel
        for (for_architecture, _), own in compiled.items()
        for name, kernel in (own.items() if for_architecture == architecture else ())
    }
    for name, kernel in kernels.items():
        assert set(kernel.grid.split()) <= WIDENING, name
    in_parts = (*LOSS_RECORDS, "gradient_norm")  # their parts lie along the second axis of the grid
    found = {name for name, kernel in kernels.items() if kernel.grid}
    assert found == {name for name in kernels if not name.startswith(in_parts)}
    assert len(kernels) > 100


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("i64 i = blockIdx.x * (i64)threads() + thread()", "i64 i = blockIdx.x * threads() + thread()"),
        ("i += gridDim.x * (i64)threads()", "i += gridDim.x * threads()"),
    ],
)
def test_a_count_of_32_bits_is_seen(tmp_path: Path, right: str, wrong: str) -> None:
    text = shared_text()
    assert right in text
    source = f"{text.replace(right, wrong)}\n{Texts().text('accumulate')}"
    options = [*OPTIONS, f"-arch=sm_{MAIN}", "--ptxas-options=-v"]
    (kernel,) = (
        Compiler(tmp_path)._compile("accumulate", source, wanted(RECORDS["accumulate"], MAIN), options).values()
    )
    assert not set(kernel.grid.split()) <= WIDENING


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [name for name, op in RECORDS.items() if Texts().kernels(op)])
def test_a_kernel_is_given_what_it_takes(compiled: Everything, name: str, dtype: Any) -> None:
    """As many arguments as parameters, double where double is wanted, for every example."""
    op, kernels = RECORDS[name], compiled[MAIN, name]
    for direction, made in op.directions.items():
        for inputs, params in examples(op, direction, 6, 5, dtype):
            outputs = Backend().run(op, direction, inputs, None, **params)
            types = template_types(made, inputs, outputs) or ()
            for kernel in Texts().stages(op, direction) if types else ():
                values = arguments(made, inputs, outputs, params)
                given = ["n" if isinstance(a, np.ndarray) else "nd"[number(a).dtype.kind == "f"] for a in values]
                given += ["n", "n"] if made.launch in SUMMED else []
                expression = f"{kernel}<{', '.join(types)}>"
                if expression not in kernels:  # where not all are asked for: an array is a pointer in either type
                    assert types[1:] == (WIDE_LABELS,)
                    expression = expression.replace("double", "float")
                assert kernels[expression].parameters == "".join(given), kernel


def test_the_texts_include_nothing() -> None:
    """So that neither the headers of CUDA nor those of C++ are needed, and the key of a cache is the text."""
    for op in RECORDS.values():
        assert "#include" not in f"{shared_text()}{Texts().text(op.name)}"

"""Every kernel's loops are vector code: its instructions are counted, and no time is taken."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpumlp.backend.host import builder, prebuilt
from gpumlp.backend.host.builder import Builder
from gpumlp.backend.kernels import Texts, forms
from gpumlp.ops import RECORDS
from gpumlp.ops.losses import Loss
from gpumlp.ops.record import Op

WITHOUT = {
    "gradient_norm_forward_finish": "a sum over parts, in their order",
    "code_sum_backward_clear": "a call of memset",
    "lookup_backward_clear": "a call of memset",
    "member_scale_backward_rows": "a sum over members, a row apart from each other",
}
"""Kernels without vectors, and why."""
WITHOUT_BY_GCC = dict.fromkeys(
    ("focal_forward", "focal_evaluate", "hinge_forward", "hinge_evaluate"),
    "masses of labels: it asks at each row whether rows and classes have weights",
)
WITHOUT_BY_CLANG = {
    kernel: "a sum over parts, in their order"
    for op in RECORDS.values()
    for kernel in Texts().kernels(op)
    if isinstance(op, Loss) and kernel.endswith("_finish")
}

_SUMS_APART = "member_scale_backward_rows"
LOOPS_WITHOUT = {
    "ROWS(r, rows) LANES(c, width) {": WITHOUT[_SUMS_APART],
    f"GPUMLP_ENTRY({_SUMS_APART}, {_SUMS_APART}<float>)": WITHOUT[_SUMS_APART],
}
"""Loops marked for vectors that clang leaves scalar, by what it names, and why."""

VECTOR = re.compile(r"%[yz]mm\d")
"""A register of 32 bytes or more, in an instruction."""

REQUIRED = (
    (builder.compiler() is not None, "no C++ compiler: install g++ or clang"),
    (shutil.which("objdump") is not None, "no objdump: install binutils"),
    (prebuilt.level() not in (None, "x86-64-v2"), "no processor of x86-64 with AVX2"),
)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of libraries, in the order in which they are loaded. Skips where none can be made and read."""
    for met, reason in REQUIRED:
        if not met:
            pytest.skip(reason)
    found, real = list[Path](), builder._load_cached

    def kept(path: Path) -> Any:
        if library := real(path):
            found.append(path)
        return library

    monkeypatch.setattr(builder, "_load_cached", kept)
    return found


def types_of(op: Op) -> tuple[str, ...]:
    return tuple(forms(op)[0].format(T="float").split(", "))


def without_vectors(kernels: Iterable[str], bodies: dict[str, str]) -> set[str]:
    """Return the kernels in whose instructions, and those of what they call, there is no vector."""
    return {kernel for kernel in kernels if not any(VECTOR.search(body) for body in reached(kernel, bodies))}


def reached(kernel: str, bodies: dict[str, str]) -> Iterator[str]:
    """Yield the instructions of a function and of every one that they name."""
    seen, ahead = set[str](), [kernel]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            yield bodies[name]
            ahead += [each for each in re.findall(r"[\w.]+", bodies[name]) if each in bodies]


# ---- the machine's compiler, with the libraries that are trained with ---------------------------------------------


def scalar(op: Op, libraries: list[Path]) -> set[str]:
    """Return the kernels of a record that have no vectors in the library that is trained with."""
    made, kernels = Builder(), Texts().kernels(op)
    for direction in op.directions if kernels else ():
        made.find(op, direction, types_of(op))
    if not kernels:
        return set()
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(libraries[-1])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return without_vectors(kernels, dict(re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n?)+)", text, re.MULTILINE)))


def test_every_kernel_has_vectors(libraries: list[Path]) -> None:
    found = {kernel for op in RECORDS.values() for kernel in scalar(op, libraries)}
    assert found <= WITHOUT.keys() | WITHOUT_BY_GCC.keys()


def test_a_kernel_without_is_seen(libraries: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = tuple(flag for flag in builder.FLAGS if flag not in ("-O3", "-fopenmp-simd"))
    monkeypatch.setattr(builder, "FLAGS", (*flags, "-O1"))
    assert "tanh_forward" in scalar(RECORDS["tanh"], libraries)


# ---- clang, for vectors of 64 bytes, whatever this processor has ------------------------------------------------


def clang() -> tuple[str, ...]:
    """Return the command of clang: that of the package ziglang, which is the same everywhere, or the machine's."""
    if importlib.util.find_spec("ziglang"):
        return sys.executable, "-m", "ziglang", "c++", "--target=x86_64-linux-gnu", "-march=x86_64_v4"
    if (path := shutil.which("clang++")) and platform.machine() in ("x86_64", "AMD64"):
        return path, "-march=x86-64-v4"
    pytest.skip("no clang for x86-64: install clang, or the package ziglang")


@dataclass(frozen=True)
class Compiled:
    """The instructions of each function, and where clang warns of a loop marked for vectors that has none.

    Without debugging information that is the line of the loop, or of the function that it is in.
    """

    bodies: dict[str, str]
    loops: set[str]


def by_clang(ops: Sequence[Op], folder: Path, *flags: str, more: str = "") -> Compiled:
    """Compile the kernels of some records as one text, with ``more`` behind it."""
    source = f"{Builder().kernels_source(*((op, types_of(op)) for op in ops))}\n{more}"
    (folder / "kernels.cpp").write_text(source, encoding="utf-8")
    options = [flag for flag in (*builder.FLAGS, *builder.WIDEST) if flag != "-shared"]
    options += ["-g0", "-Wno-everything", "-Wpass-failed", *flags]
    command = [*clang(), *options, "-S", "kernels.cpp", "-o", "kernels.s"]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(folder) for kind in ("GLOBAL", "LOCAL")}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env={**os.environ, **caches}
    )
    text = (folder / "kernels.s").read_text(encoding="utf-8")
    lines = source.split("\n")
    return Compiled(
        dict(re.findall(r"^((?!\.L)[\w.]+):.*\n((?:(?!\.Lfunc_end).*\n)+)", text, re.MULTILINE)),
        {
            lines[int(at) - 1].strip()
            for at in re.findall(r"^kernels.cpp:(\d+):.*loop not", done.stderr, re.MULTILINE)
        },
    )


def test_every_kernel_and_every_loop_has_vectors_by_clang(tmp_path: Path) -> None:
    written = [op for op in RECORDS.values() if Texts().kernels(op)]
    kernels = [kernel for op in written for kernel in Texts().kernels(op)]
    made = by_clang(written, tmp_path)
    assert without_vectors(kernels, made.bodies) <= WITHOUT.keys() | WITHOUT_BY_CLANG.keys()
    assert made.loops <= LOOPS_WITHOUT.keys()


def test_what_is_without_is_seen_by_clang(tmp_path: Path) -> None:
    tanh = RECORDS["tanh"]
    function = 'extern "C" void each(double* x, int n) {'
    loop = "#pragma omp simd\nfor (int i = 0; i < n; ++i) x[i] = other(x[i]);"
    more = f"double other(double);\n{function}\n{loop}\n}}"
    assert by_clang([tanh], tmp_path, more=more).loops == {function}
    scalar = by_clang([tanh], tmp_path, "-fno-openmp-simd", "-fno-vectorize").bodies
    assert "tanh_forward" in without_vectors(Texts().kernels(tanh), scalar)

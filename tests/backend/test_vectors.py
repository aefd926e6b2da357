"""Every kernel's loops are vector code: its instructions are counted, and no time is taken."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumlp.backend.host import builder, prebuilt
from gpumlp.backend.host.builder import Builder
from gpumlp.backend.kernels import Texts, forms
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Op

WITHOUT = {
    "gradient_norm_forward_finish": "a sum over parts, in their order",
    "code_sum_backward_clear": "a call of memset",
    "lookup_backward_clear": "a call of memset",
    "member_scale_backward_rows": "a sum over members, a row apart from each other",
    **dict.fromkeys(
        ("focal_forward", "focal_evaluate", "hinge_forward", "hinge_evaluate"),
        "masses of labels: it asks at each row whether rows and classes have weights",
    ),
}
"""Kernels without vectors, and why."""

pytestmark = [
    pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump: install binutils"),
    pytest.mark.skipif(
        prebuilt.level() not in ("x86-64-v3", "x86-64-v4", "amx"), reason="no processor of x86-64 with AVX2"
    ),
]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of libraries, in the order in which they are loaded."""
    found, real = list[Path](), builder._load_cached

    def kept(path: Path) -> Any:
        if library := real(path):
            found.append(path)
        return library

    monkeypatch.setattr(builder, "_load_cached", kept)
    return found


def scalar(op: Op, libraries: list[Path]) -> Iterator[str]:
    """Yield the kernels of a record in whose instructions, and those of what they call, there is no vector."""
    types = tuple(forms(op)[0].format(T="float").split(", "))
    made, kernels = Builder(), Texts().kernels(op)
    for direction in op.directions if kernels else ():
        made.find(op, direction, types)
    if not kernels:
        return
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(libraries[-1])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bodies = dict(re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n?)+)", text, re.MULTILINE))
    for kernel in kernels:
        reached, ahead = set[str](), [kernel]
        while ahead:
            name = ahead.pop()
            if name in bodies and name not in reached:
                reached.add(name)
                ahead += re.findall(r"<([\w.]+)(?:@plt)?(?:\+0x[0-9a-f]+)?>", bodies[name])
        if not any(re.search(r"%[yz]mm\d", bodies[name]) for name in reached):
            yield kernel


def test_every_kernel_has_vectors(libraries: list[Path]) -> None:
    found = {kernel for op in RECORDS.values() for kernel in scalar(op, libraries)}
    assert found <= WITHOUT.keys()


def test_a_kernel_without_is_seen(libraries: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = tuple(flag for flag in builder.FLAGS if flag not in ("-O3", "-fopenmp-simd"))
    monkeypatch.setattr(builder, "FLAGS", (*flags, "-O1"))
    assert "tanh_forward" in set(scalar(RECORDS["tanh"], libraries))

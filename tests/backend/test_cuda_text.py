"""The kernels are CUDA: NVIDIA's compiler takes them all, for every architecture, without a GPU.

What it makes is not run here. Its report shows that no kernel spills registers to memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from gpumlp.backend.kernels import Texts, folder, kernels_of, shared_text
from gpumlp.ops import RECORDS

NVCC = shutil.which("nvcc")
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
MOST_REGISTERS = 128
TYPES = {
    "shuffle": ["long long"],
    "advance": ["long long"],
    "accumulate": ["double"],
    "gather": ["{T}, {T}, int", "{T}, unsigned char, int", "{T}, {T}, {T}"],
}
LOSS_TYPES = ["{T}, int", "{T}, {T}"]

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc here: install the CUDA toolkit")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile every kernel for every type and architecture; return what the assembler says."""
    place, scratch = folder(), tmp_path_factory.mktemp("cuda")
    assert place is not None
    kernels = sorted(place.glob("*.cu"))
    wanted = []
    for path in kernels:
        record = RECORDS[path.stem]
        for direction, made in record.directions.items():
            forms = TYPES.get(path.stem, LOSS_TYPES if made.types else ["{T}"])
            for kernel in Texts().stages(record, direction):
                wanted += sorted({f"{kernel}<{form.format(T=t)}>" for form in forms for t in ("float", "double")})
    texts = [shared_text(), *(path.read_text() for path in kernels)]
    uses = ",\n".join(f"    (void*){each}" for each in wanted)  # taking its address makes a kernel of the template
    source = scratch / "all.cu"
    source.write_text("\n".join([*texts, f"void* kernels[] = {{\n{uses}\n}};"]))
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = [str(NVCC), "-std=c++17", "-Xptxas=-v", "--threads=2", *codes, "-c", source.name, "-o", "all.o"]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:3000]
    assert "warning" not in result.stderr, result.stderr[:3000]
    return result.stderr


def test_every_kernel_compiles_for_every_architecture(report: str) -> None:
    place = folder()
    assert place is not None
    entries = [kernel for path in place.glob("*.cu") for kernel in kernels_of(path.read_text())]
    for architecture in ARCHITECTURES:
        found = re.findall(rf"Compiling entry function '(\w+)' for 'sm_{architecture}'", report)
        for entry in entries:
            assert any(entry in name for name in found), f"{entry} for sm_{architecture}"


def test_no_kernel_spills_and_none_is_greedy(report: str) -> None:
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert spills
    assert all(int(stores) == int(loads) == 0 for _, stores, loads in spills)
    assert max(int(count) for count in re.findall(r"Used (\d+) registers", report)) <= MOST_REGISTERS

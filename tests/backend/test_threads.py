"""The threads of a native step under ThreadSanitizer: as they are, and with one of their invariants broken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpumlp.backend.host import builder
from gpumlp.backend.kernels import folder, shared_text

STRESS = Path(__file__).with_name("stress_program.cpp")
FLAGS = ("-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread")
FAULTS = {
    "what a part has written may be seen late": (
        "done_.fetch_add(1);",
        "done_.fetch_add(1, std::memory_order_relaxed);",
    ),
    "parts of the node before count": ("        done_.store(0);\n", ""),
    "two lists share the helpers": ("= !taken_.test_and_set();", "= true;"),
}


def compiled(text: str, place: Path) -> Path | None:
    """Return a program under ThreadSanitizer, or None where the compiler makes none."""
    place.mkdir()
    (place / "stress.cpp").write_text(text)
    command = [*(builder.compiler() or ()), *FLAGS, "stress.cpp", "-o", "stress"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    return place / "stress" if done.returncode == 0 else None


def run(program: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}
    return subprocess.run([program], capture_output=True, text=True, timeout=100, env=environment)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program and its stress, where the compiler has ThreadSanitizer and the system lets it run."""
    if builder.compiler() is None or folder() is None:
        pytest.skip("no C++ compiler: install g++ or clang")
    empty = compiled("int main() { return 0; }\n", tmp_path_factory.mktemp("sanitizer") / "empty")
    if empty is None or run(empty).returncode != 0:
        pytest.skip("no ThreadSanitizer here: install libtsan, or lower vm.mmap_rnd_bits")
    return f"{shared_text(('host/host_program.h',)).replace('#pragma once', '')}\n{STRESS.read_text()}"


def test_every_part_runs_once_and_sees_what_came_before(text: str, tmp_path: Path) -> None:
    program = compiled(text, tmp_path / "right")
    assert program is not None
    done = run(program)
    assert (done.returncode, done.stdout) == (0, "every part ran once, after the node before\n"), done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_invariant_is_found(text: str, tmp_path: Path, fault: str) -> None:
    right, wrong = FAULTS[fault]
    assert text.count(right) == 1
    program = compiled(text.replace(right, wrong), tmp_path / "wrong")
    assert program is not None
    assert run(program).returncode != 0

"""What the scripts of benchmarks/ cannot do is said at once, in one message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpumlp.backend import CupyBackend

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "option"),
    [("approximate", "--repeats=1"), ("approximate", "--steps=0"), ("capture", "--repeats=1")],
)
def test_too_few_rounds_or_steps_are_refused_at_once(script: str, option: str) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "need at least 2 repeats" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--activation=rleu", "--backend=cuda", "--target=sinn"])
def test_an_unknown_name_is_one_message(option: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "approximate.py"), option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_that_cannot_be_had_is_one_message() -> None:
    if CupyBackend.is_installed():
        pytest.skip("there is a CuPy here")
    command = [sys.executable, str(BENCHMARKS / "approximate.py"), "--backend=cupy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: backend cupy: CuPy is not installed\n")


def test_figures_that_are_not_there_are_one_message() -> None:
    command = [sys.executable, str(BENCHMARKS / "precision.py"), "--read", "nosuch.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: no such file: nosuch.json\n")


@pytest.mark.parametrize("script", ["approximate", "capture", "gpu", "growth", "precision", "train"])
def test_a_reader_who_has_had_enough_is_no_traceback(script: str) -> None:
    """Unbuffered, argparse would hide it: what is printed is to be flushed at the end, as it is for most people."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, written = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--help"]
        done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (1, "")

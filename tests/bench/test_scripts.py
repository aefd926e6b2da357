"""The scripts of benchmarks/ that time in rounds take no number of them that they cannot make quartiles of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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

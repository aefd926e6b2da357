"""A short sample of what tests/proof.py and tests/disk.py do at length."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import disk

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.name != "posix", reason="there is no fork")
@pytest.mark.parametrize(
    "sample",
    [
        ["kills", "--number", "10", "--kinds", "10"],
        ["errors", "--step", "43", "--kinds", "1"],
        ["bytes", "--step", "501", "--kinds", "1"],
    ],
    ids=lambda sample: sample[0],
)
def test_a_sample(sample: list[str]) -> None:
    command = [sys.executable, "-m", "tests.proof", *sample]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="no C compiler, or not Linux")
def test_a_sample_of_errors_below_python(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.disk", "errors", "--step", "3", "--only", "save weights"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=disk.preloaded(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr

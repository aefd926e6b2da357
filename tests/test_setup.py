"""The README's two lines that set up a fresh machine, each run as it stands there, in a copy of the checkout.

They install from a package registry: the first only where ``GPUMLP_SETUP=1`` allows that, as in ``.ci/run``, and the
second, which takes minutes, with ``GPUMLP_SETUP=all``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = re.findall(r"^\$ (python3 -m venv .*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
ALL_TESTS = "make test"
ALLOWED = os.environ.get("GPUMLP_SETUP")
pytestmark = pytest.mark.skipif(ALLOWED not in ("1", "all"), reason="installs packages: set GPUMLP_SETUP=1")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in listed.split("\0")[:-1]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def output_of(line: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_one_line_sets_up_and_trains(checkout: Path) -> None:
    trains, _ = LINES
    assert "run folder  runs/digits" in output_of(trains, checkout)
    output_of(". .venv/bin/activate && gpumlp plot runs/digits -o curves.png", checkout)
    assert (checkout / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(ALLOWED != "all", reason="installs packages for minutes: set GPUMLP_SETUP=all")
def test_one_line_sets_up_and_tests(checkout: Path) -> None:
    """The line without most of the tests, which are running."""
    _, tests = LINES
    assert tests.endswith(ALL_TESTS)
    assert " passed" in output_of(
        tests.replace(ALL_TESTS, ".venv/bin/pytest -q tests/test_readme.py tests/test_errors.py"), checkout
    )

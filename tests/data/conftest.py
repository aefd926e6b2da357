"""Small files for the tests of the data package, and where to find real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumlp.data.source import delimited

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes text or bytes to a file, and returns the file's name."""

    def write(content: str | bytes, name: str = "a.csv") -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return name

    return write


@pytest.fixture(params=["start", "engine"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read with the csv module, then with the engine."""
    if request.param == "engine":
        monkeypatch.setattr(delimited, "START_CELLS", 1)


@pytest.fixture(scope="session")
def shipped() -> Path:
    """Return the folder of the data sets that come with gpumlp."""
    return ROOT / "data"


@pytest.fixture(scope="session")
def larger() -> Path:
    """Return a folder of larger data sets that are not shipped, or skip."""
    folder = Path(os.environ.get("GPUMLP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no larger data sets here: set GPUMLP_DATA to their folder")
    return folder

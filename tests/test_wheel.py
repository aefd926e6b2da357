"""The built packages: what they hold, and that a wheel works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "kernels").rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both packages with the tools of this environment: no network is needed."""
    folder = tmp_path_factory.mktemp("dist")
    pytest.importorskip("hatchling", reason="building needs hatchling, which is in the extra 'dev'")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_wheel_carries_the_kernels_and_the_type_marker(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert KERNELS
    assert {f"gpumlp/{name}" for name in KERNELS} <= names
    assert "gpumlp/py.typed" in names
    assert not any(name.startswith(("tests/", "data/", "configs/")) for name in names)


def test_the_sdist_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*KERNELS, "configs/digits.yaml", "data/digits.csv.gz", "tests/test_wheel.py", "README.md"} <= names


def test_an_installed_wheel_finds_its_kernels_and_trains(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # what installing a pure wheel does
    code = (
        "import pathlib, gpumlp; from gpumlp.backend.kernels import folder; "
        f"assert pathlib.Path(gpumlp.__file__).is_relative_to({str(site)!r}), gpumlp.__file__; "
        "print(folder()); from gpumlp.cli import main; "
        f"main(['train', {str(ROOT / 'configs/digits.yaml')!r}, '--set', 'training.epochs=1', '-q'])"
    )
    # -I: neither this folder nor PYTHONPATH counts, so the wheel is put in front by hand
    code = f"import sys; sys.path.insert(0, {str(site)!r}); {code}"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(site / "gpumlp" / "kernels")
    assert (tmp_path / "runs/digits/model/model.json").exists()

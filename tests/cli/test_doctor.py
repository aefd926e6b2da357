"""The page of `gpumlp doctor`, on machines that have a GPU, a broken one, or none: made of fakes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend.fake_cupy import CUDARuntimeError, Cupy, installed
from click.testing import CliRunner

from gpumlp.backend.cuda import device
from gpumlp.backend.host import builder
from gpumlp.cli import doctor
from gpumlp.cli.main import main
from gpumlp.errors import BackendError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    if builder.compiler() is None:
        pytest.skip("no C++ compiler: install g++ or clang")
    with installed(monkeypatch) as module:
        yield module


OTHERS = {"gpu", "gpu13", "dev", "bench", "oracle"}
"""Extras that are told elsewhere, or that nobody has who uses gpumlp."""
LIBRARY = "12.9.1 from /usr/lib/libcublasLt.so.12"


def page() -> dict[str, tuple[str, str]]:
    """Return the findings by name: the text and the mend."""
    return {finding.name: (finding.text, finding.mend) for finding in doctor.examine()}


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
@pytest.mark.parametrize(
    ("parts", "switch", "told"),
    [
        (3, "1", "tile registers (AMX)"),
        (3, "0", "vectors"),
        (1, "1", "vectors, of bfloat16 by pairs (AVX512_BF16)"),
        (0, "1", "vectors"),
    ],
)
def test_what_multiplies_is_told(parts: int, switch: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder.Builder, "most_parts", lambda _: parts)
    monkeypatch.setenv("GPUMLP_TILES", switch)
    assert page()["C++ compiler"][0].endswith(f"; kernels compile and load, products by {told}")


def test_every_dependency_is_told() -> None:
    project = tomllib.loads((Path(doctor.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [
        *project["dependencies"],
        *(each for name, group in extras.items() if name not in OTHERS for each in group),
    ]
    assert {re.split(r"[\[>=]", each)[0] for each in used} == set(doctor.PACKAGES)


def test_a_machine_with_a_device(fake: Cupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 UTC\n")
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "version")
    fake.devices = 2
    found = page()
    assert found["NVIDIA driver"] == ("570.86.15", "")
    assert found["CuPy"] == ("cupy-cuda12x 14.2.0", "")
    assert found["CUDA"] == ("driver for 12.8, runtime 12.9", "")
    assert found["NVRTC"] == ("12.9; kernels compile and run", "")
    assert found["cuBLASLt"] == (f"{LIBRARY}; works inside a CUDA graph; NaN passes its ReLU", "")
    for number in (0, 1):
        text = f"Fake {number}, compute capability 9.0, 132 multiprocessors, 64.4 GB of 85.9 GB free"
        assert found[f"GPU {number}"] == (text, "")
    assert found["backends"] == ("cupy, native, numpy can be used here; auto takes cupy", "")
    assert "CuPy's cache" in found


def test_what_is_told_of_products(fake: Cupy) -> None:
    assert fake.lt is not None
    fake.lt.keeps_nan, fake.capture_error = False, CUDARuntimeError("cudaErrorUnknown: unknown error")
    assert page()["cuBLASLt"][0] == f"{LIBRARY}; works, but without CUDA graphs; NaN does not pass its ReLU"
    fake.lt = None
    assert page()["cuBLASLt"][0] == "not there: CuPy multiplies, in float32 and between the graphs"


def test_a_device_that_does_not_answer_has_a_mend(fake: Cupy) -> None:
    fake.device_error = CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    text, mend = page()["GPU"]
    assert text.startswith("the NVIDIA driver finds no device")
    assert "nvidia-smi" in mend
    assert page()["backends"][0].endswith("auto takes native")
    fake.device_error = KeyError("whatever")
    assert page()["GPU"] == ("KeyError: 'whatever'", device.INSTEAD)


def test_a_driver_without_cupy_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "is_installed", lambda: False)
    for driver, mend in ((True, f"to compute on the GPU: {device.INSTALL}"), (False, "")):
        monkeypatch.setattr(device, "has_driver", lambda driver=driver: driver)
        assert page()["CuPy"] == ("not installed", mend)
        assert "GPU" not in page()


def test_a_question_without_an_answer_leaves_a_gap_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(doctor.np, "show_config", lambda mode: {})
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))

    def broken() -> None:
        raise BackendError("it fails", hint="mend it")

    monkeypatch.setattr(doctor, "NativeBackend", broken)
    monkeypatch.setattr(doctor, "compiler", lambda: ("g++",))
    found = page()
    assert found["memory"][0] == "cannot be found out (FileNotFoundError)"
    assert found["numpy's BLAS"][0] == "cannot be found out (KeyError)"
    assert found["packages"][0].endswith(", no no-such-package")
    assert found["C++ compiler"] == ("g++, but it fails", "mend it")


def test_the_page_ends_well_and_has_a_line_for_each_finding() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in ("cores", "memory", "packages", "numpy's BLAS", "threads", "kernel cache", "NVIDIA driver", "CuPy"):
        assert f"\n{name} " in result.output

"""The benchmark of precisions: TF32 as a GPU rounds, and figures that come from whole runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpumlp.backend import BACKENDS
from gpumlp.backend.host import builder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(BACKENDS, "native", BACKENDS["native"])  # which the benchmark changes
    return importlib.import_module("precision")


def exact(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Round to 11 significant bits in float64, where halves are exact: away from zero."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    scaled = mantissa * 2.0**11
    return np.ldexp(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), exponent - 11)


def test_operands_are_rounded_to_ten_bits(precision: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(4096) * 10.0 ** rng.integers(-30, 30, 4096)).astype(np.float32)
    halves = (1 + (2 * np.arange(64) + 1) * 2.0**-11).astype(np.float32)
    x = np.concatenate([x, halves, -halves, np.float32([0, -0.0, 1, 1 + 2.0**-10])]).reshape(-1, 2)
    rounded = precision.to_tf32(x, out=None)
    np.testing.assert_array_equal(rounded, exact(x))
    np.testing.assert_array_equal(precision.to_tf32(rounded, out=None), rounded)
    np.testing.assert_array_equal(precision.to_tf32(x.T, out=None), rounded.T)
    strange = np.array([np.nan, np.inf, -np.inf, -np.nan], np.float32)
    np.testing.assert_array_equal(precision.to_tf32(strange, out=np.empty_like(strange)), strange)


@pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
def test_a_table_of_whole_runs(
    precision: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    wanted = ["--only", "wine", "diabetes", "--precisions", "tf32", "bf16", "--seeds", "2", "--json", str(file)]
    monkeypatch.setattr(precision, "ALL", ("wine", "diabetes"))
    monkeypatch.setattr("sys.argv", ["precision.py", *wanted])
    precision.main()
    table = capsys.readouterr().out.splitlines()[-8:]
    assert [line.split(" | ")[1] for line in table[2:]] == ["float32", "tf32", "bf16"] * 2
    found = json.loads(file.read_text())["found"]
    one, tf32, bf16 = (found["diabetes"][name][0]["loss"] for name in ("float32", "tf32", "bf16"))
    assert 0 < abs(tf32 - one) < 0.02
    assert 0 < abs(bf16 - one) < 0.05
    monkeypatch.setattr("sys.argv", ["precision.py", "--read", str(file)])
    precision.main()
    assert capsys.readouterr().out.splitlines() == table

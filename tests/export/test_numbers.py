"""Exports of numbers that are not standardised alone: transformed targets, counts, several targets."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpumlp.config import load
from gpumlp.errors import RunError
from gpumlp.export import export
from gpumlp.runs import load_trained, train

KINDS = {
    "log": "target: p, target_transform: log",
    "yeo_johnson": "target: y, target_transform: yeo_johnson",
    "counts": "target: n",
    "several": "target: [y, p, n]",
    "several transformed": "target: [p, n], target_transform: yeo_johnson",
    "quantiles": "target: y",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    tmp_path = tmp_path_factory.mktemp("numbers")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 2))
    y = 3 * x[:, 0] ** 3 - 20 * x[:, 1]
    p, n = np.exp(2 * x[:, 0]), rng.poisson(np.exp(x[:, 1]))
    lines = [f"{a},{b},{c},{d},{e}" for (a, b), c, d, e in zip(x, y, p, n, strict=True)]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,y,p,n", *lines]) + "\n")
    kind = request.param
    used = {
        each.strip()
        for each in KINDS[kind].partition("target:")[2].partition(", target_t")[0].strip(" []").split(",")
    }
    drop = ", ".join(sorted({"y", "p", "n"} - used))
    loss = {"counts": "loss: poisson\n", "quantiles": "loss: quantile\n"}.get(kind, "")
    (tmp_path / "t.yaml").write_text(
        f"task: regression\ndata: {{train: d.csv, {KINDS[kind]}, drop: [{drop}]}}\n{loss}"
        "model: {hidden: [8]}\ntraining: {epochs: 10}\n"
    )
    return train(load(tmp_path / "t.yaml"), tmp_path / "run").folder


@pytest.mark.parametrize("ending", ["py", "onnx"])
@pytest.mark.parametrize("folder", [kind for kind in KINDS if kind != "quantiles"], indirect=True)
def test_exported_numbers_are_those_of_the_run(folder: Path, tmp_path: Path, ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnx")
    comparison, _ = export(folder, tmp_path / f"model.{ending}")
    wanted = load_trained(folder).predict(folder.parent / "d.csv")
    assert comparison.difference <= comparison.allowed < 1e-3 * np.ptp(wanted)
    if ending == "py":
        command = [sys.executable, str(tmp_path / "model.py"), str(folder.parent / "d.csv")]
        heads, *rows = csv.reader(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        )
        names = load_trained(folder).encoder.target_names
        assert heads == (["prediction"] if len(names) == 1 else [f"prediction {name}" for name in names])
        np.testing.assert_allclose(
            np.array(rows, np.float64).squeeze(), wanted, rtol=1e-4, atol=1e-4 * np.ptp(wanted)
        )


@pytest.mark.parametrize("folder", ["quantiles"], indirect=True)
def test_quantiles_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a model of quantiles cannot be exported yet"):
        export(folder, tmp_path / "model.py")
    assert not (tmp_path / "model.py").exists()

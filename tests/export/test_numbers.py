"""Exports of numbers that are not standardised alone: transformed targets, counts, several targets."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpumlp.config import load
from gpumlp.export import export
from gpumlp.runs import load_trained, train

KINDS = {
    "log": "target: p, target_transform: log",
    "yeo_johnson": "target: y, target_transform: yeo_johnson",
    "counts": "target: n",
    "several": "target: [y, p, n]",
    "several transformed": "target: [p, n], target_transform: yeo_johnson",
    "quantiles": "target: y",
    "quantiles of two": "target: [y, p]",
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
    loss = {"counts": "loss: poisson\n"}.get(
        kind, "loss: {name: quantile, levels: [0.2, 0.4, 0.9]}\n" * ("quant" in kind)
    )
    (tmp_path / "t.yaml").write_text(
        f"task: regression\ndata: {{train: d.csv, {KINDS[kind]}, drop: [{drop}]}}\n{loss}"
        "model: {hidden: [8]}\ntraining: {epochs: 10}\n"
    )
    return train(load(tmp_path / "t.yaml"), tmp_path / "run").folder


@pytest.mark.parametrize("ending", ["py", "onnx"])
@pytest.mark.parametrize("folder", KINDS, indirect=True)
def test_exported_numbers_are_those_of_the_run(folder: Path, tmp_path: Path, ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnx")
    comparison, _ = export(folder, tmp_path / f"model.{ending}")
    wanted = load_trained(folder).predict(folder.parent / "d.csv")
    assert comparison.difference <= comparison.allowed < 1e-3 * np.ptp(wanted)
    if ending == "onnx":
        outputs = pytest.importorskip("onnx").load(tmp_path / "model.onnx").graph.output
        quantiles = ["quantiles"] if load_trained(folder).encoder.levels else []
        assert [each.name for each in outputs] == ["prediction", *quantiles]
    if ending == "py":
        command = [sys.executable, str(tmp_path / "model.py"), str(folder.parent / "d.csv")]
        heads, *rows = csv.reader(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        )
        model = load_trained(folder)
        names, levels = model.encoder.target_names, model.encoder.levels
        ends = [""] if len(names) == 1 else [f" {name}" for name in names]
        assert heads == [f"prediction{end}" for end in ends] + [
            f"quantile {q:g}{end}" for end in ends for q in levels
        ]
        found = np.array(rows, np.float64)
        close = {"rtol": 1e-4, "atol": 1e-4 * np.ptp(wanted)}
        np.testing.assert_allclose(found[:, : len(names)].squeeze(), wanted, **close)
        if levels:
            quantiles = model.predict_quantiles(folder.parent / "d.csv")
            np.testing.assert_allclose(found[:, len(names) :], quantiles.reshape(len(found), -1), **close)
            module = runpy.run_path(str(tmp_path / "model.py"))
            assert module["predict_quantiles"]([{"a": 1.0, "b": "2"}]).shape == (1, *quantiles.shape[1:])

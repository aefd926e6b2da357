"""The verbs that show what happens inside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run

from gpumlp import runs
from gpumlp.backend import Backend
from gpumlp.ops import ACTIVATIONS, Direction

ROOT = Path(__file__).parents[2]
SCALAR = str(ROOT / "configs" / "lecture" / "scalar.yaml")
DIGITS = str(ROOT / "configs" / "digits.yaml")


def test_backprop_of_the_scalar_exercise(backend: Backend) -> None:
    lines = run("backprop", SCALAR, "--row", "2", "--backend", backend.name).stdout.splitlines()
    assert lines[0] == f"training row 2, y = 1, 1 when standardized; in float64 on {backend.name}"
    heads = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert heads == [
        "x", "z_h", "h(x)", "z_o", "f(x)", "y", "L",
        "∇z_o", "∇W_o", "∇b_o", "∇h(x)", "∇z_h", "∇W_h", "∇b_h",
    ]  # fmt: skip
    taped, numeric = lines[lines.index("    by the tape" + " " * 27 + "by finite differences") + 2].split()
    assert taped == numeric
    assert lines[-1].startswith("all agree: the largest relative error is ")


def test_backprop_of_a_larger_network_fits_80_columns_and_shows_the_ends_of_arrays() -> None:
    text = run("backprop", DIGITS, "--row", "3", "--backend", "numpy").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "target = 9 (class 9 of 0 to 9)" in text
    assert "∇W_h = xᵀ ∇z_h" in text
    assert "61 × 128" in text
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  ∇W_o"))
    block = [line.split() for line in lines[start + 1 : start + 5]]
    assert [len(row) for row in block] == [8, 8, 2, 8]  # twice two numbers, a sign and one more
    assert all(row[: len(row) // 2] == row[len(row) // 2 :] for row in block)  # equal, as far as is shown


def test_backprop_as_json_has_all_numbers() -> None:
    found = json.loads(run("backprop", DIGITS, "--row", "3", "--backend", "numpy", "--json").stdout)
    assert (found["row"], found["backend"]) == (3, "numpy")
    by_name = {each["of"]: each for each in found["gradients"]}
    assert [*by_name] == ["z_o", "W_o", "b_o", "h(x)", "z_h", "W_h", "b_h"]
    W = by_name["W_h"]
    assert W["shape"] == [61, 128]
    assert np.array(W["gradient"]).shape == (61, 128)
    numeric = np.array(W["finite_difference"], dtype=float)  # null where no difference was taken
    taken = np.isfinite(numeric)
    assert 300 <= taken.sum() < 400
    np.testing.assert_allclose(numeric[taken], np.array(W["gradient"])[taken], rtol=0, atol=1e-8)
    values = {each["symbol"]: each["value"] for each in found["values"]}
    assert sum(values["f(x)"][0]) == pytest.approx(1)
    assert values["e(y)"][0][9] == 1
    assert W["equation"] == "xᵀ ∇z_h"
    assert W["relative_error"] < 1e-6


def test_backprop_of_a_run(task, tmp_path: Path) -> None:
    folder = str(runs.train(task(), tmp_path / "run").folder)
    text = run("backprop", folder).stdout
    assert "class = " in text
    assert "∇z_h = ∇h(x) ⊙ tanh'(z_h)" in text
    assert "cannot be changed" in run("backprop", folder, "--set", "training.seed=1", code=2).stderr


def test_rows_that_are_not_there() -> None:
    error = run("backprop", SCALAR, "--row", "4", code=2).stderr
    assert error == "error: --row: there is no row 4\n  the last is 3\n"
    run("backprop", SCALAR, "--row", "-1", code=2)
    assert "did you mean 'numpy'?" in run("backprop", SCALAR, "--backend", "nunpy", code=2).stderr


def test_gradcheck_passes(backend: Backend) -> None:
    blocks = "model.hidden=[{units: 5, norm: batch, dropout: 0.2}, {units: 4, norm: layer, activation: gelu}]"
    result = run("gradcheck", str(ROOT / "configs/diabetes.yaml"), "--set", blocks, "--backend", backend.name)
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines if " pass" in line]
    assert [row[0] for row in rows] == [
        "dense_1.W", "batchnorm_1.gain", "batchnorm_1.bias", "dense_2.W", "dense_2.b", "layernorm_1.gain",
        "layernorm_1.bias", "dense_3.W", "dense_3.b",
    ]  # fmt: skip
    assert all(float(row[-2]) <= 1e-6 for row in rows)
    assert f"16 training rows, in float64 on {backend.name}" in result.stdout
    assert lines[-1] == "pass: all 9 parameters"
    assert max(map(len, lines)) <= 80


@pytest.fixture
def wrong_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    op = ACTIVATIONS["tanh"]

    def wrong(direction: Direction) -> Direction:
        return replace(direction, formula=lambda *a: tuple(dx * 1.01 for dx in direction.formula(*a)))

    backward = {name: wrong(op.directions[name]) for name in ("backward", "bias_backward")}
    monkeypatch.setitem(ACTIVATIONS, "tanh", replace(op, directions={**op.directions, **backward}))


@pytest.mark.usefixtures("wrong_tanh")
def test_gradcheck_of_a_wrong_gradient_fails() -> None:
    result = run("gradcheck", DIGITS, "--backend", "numpy", code=1)
    assert result.stdout.splitlines()[-1] == "FAIL: dense_1.W, dense_1.b"
    found = json.loads(run("gradcheck", DIGITS, "--backend", "numpy", "--json", code=1).stdout)
    assert not found["passed"]
    verdicts = {name: each["passed"] for name, each in found["parameters"].items()}
    assert verdicts == {"dense_1.W": False, "dense_1.b": False, "dense_2.W": True, "dense_2.b": True}
    assert found["parameters"]["dense_1.W"]["worst_relative_error"] > 1e-3
    assert "do not agree" in run("backprop", DIGITS, "--backend", "numpy").stdout


def test_gradcheck_takes_few_rows_and_row_weights(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,w,y\n1,1,0.5\n2,0,1\n4,2,0\n")
    (tmp_path / "rows.yaml").write_text(
        "task: regression\ndata: {train: rows.csv, target: y, weights: w, split: {validation: 0, test: 0}}\n"
        "model: {hidden: [3], activation: softplus}\n"
    )
    assert "3 training rows" in run("gradcheck", str(tmp_path / "rows.yaml")).stdout


def test_activations_on_each_backend(backend: Backend, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")
    file = tmp_path / "sheet.svg"
    assert run("activations", "relu", "tanh", "-o", str(file), "--backend", backend.name).stdout == f"{file}\n"


def test_activations(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")
    file = tmp_path / "sheet.svg"
    assert run("activations", "relu", "tanh", "-o", str(file), "--backend", "numpy").stdout == f"{file}\n"
    error = run("activations", "-o", str(file), code=1).stderr
    assert "the file exists" in error
    assert "--force" in error
    run("activations", "-o", str(file), "--force")
    assert "did you mean 'relu'?" in run("activations", "rellu", "-o", str(tmp_path / "x.png"), code=2).stderr
    assert "--output" in run("activations", "relu", code=2).stderr

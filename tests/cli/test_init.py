"""gpumlp init, and gpumlp train on a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run

IRIS = Path(__file__).parents[2] / "data" / "iris.csv"
SHORT = ("--set", "training.epochs=2", "--set", "backend=numpy", "-q")


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("iris.csv").write_bytes(IRIS.read_bytes())


def test_the_columns_are_listed_without_a_target() -> None:
    lines = run("init", "iris.csv").stdout.splitlines()
    assert lines[0] == "iris.csv: 150 rows, 5 columns"
    assert lines[1] == "  sepal length (cm)  numbers from 4.3 to 7.9"
    assert lines[5] == "  target             3 categories: setosa, versicolor, virginica"
    assert "--target" in run("init", "iris.csv", "-o", "c.yaml", code=2).stderr
    assert not Path("c.yaml").exists()


def test_a_configuration_is_written_once_and_trains_like_the_data_file_itself() -> None:
    Path("configs").mkdir()
    assert (
        "gpumlp train configs/iris.yaml"
        in run("init", "iris.csv", "--target", "target", "-o", "configs/iris.yaml").stdout
    )
    text = Path("configs/iris.yaml").read_text()
    assert run("init", "iris.csv", "--target", "target").stdout == text.replace("../iris.csv", "iris.csv")
    assert "exists" in run("init", "iris.csv", "--target", "target", "-o", "configs/iris.yaml", code=1).stderr
    run("train", "configs/iris.yaml", *SHORT)
    run("train", "iris.csv", "--target", "target", *SHORT)  # takes the next free name
    for file in ("model/model.json", "model/weights.safetensors"):
        assert Path("runs/iris", file).read_bytes() == Path("runs/iris-2", file).read_bytes()


def test_a_run_on_a_data_file_can_be_resumed() -> None:
    run("train", "iris.csv", "--target", "target", *SHORT)
    assert "already complete" in run("train", "iris.csv", "--target", "target", "--resume", *SHORT).stderr


def test_wrong_input() -> None:
    assert "did you mean 'target'" in run("train", "iris.csv", "--target", "targt", code=3).stderr
    assert "did you mean 'iris.csv'" in run("init", "irs.csv", code=3).stderr
    assert "gpumlp init" in run("train", "iris.csv", code=2).stderr
    assert (
        "training.epohcs"
        in run("train", "iris.csv", "--target", "target", "--set", "training.epohcs=1", code=2).stderr
    )
    Path("c.yaml").write_text("task: regression\n")
    assert "--set data.target=NAME" in run("train", "c.yaml", "--target", "target", code=2).stderr
    assert not Path("runs").exists()


def test_several_files() -> None:
    lines = Path("iris.csv").read_text().splitlines()
    Path("part-1.csv").write_text("\n".join(lines[:70]))
    Path("part-2.csv").write_text("\n".join([lines[0], *lines[70:]]))
    run("train", "part-*.csv", "--target", "target", *SHORT)
    run("train", "iris.csv", "--target", "target", *SHORT)
    weights = "model/weights.safetensors"
    assert Path("runs/part", weights).read_bytes() == Path("runs/iris", weights).read_bytes()


@pytest.mark.parametrize(
    ("shape", "dtype", "preset"),
    [
        ((4, 4), np.uint8, "images"),
        ((4, 4, 1), np.uint8, "images"),
        ((16,), np.uint8, "tabular"),
        ((4, 4), np.float32, "tabular"),
        ((4, 5), np.uint8, "tabular"),
    ],
)
def test_the_preset_of_arrays_of_images_is_that_of_images(shape: tuple[int, ...], dtype: Any, preset: str) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (60, *shape)).astype(dtype)
    np.savez("rows.npz", x=rows, y=np.arange(60) % 2)
    text = run("init", "rows.npz", "--target", "y").stdout
    assert [line.split()[2] for line in text.splitlines() if line.startswith("# preset:")] == [preset]
    run("train", "rows.npz", "--target", "y", "--set", f"preset={preset}", "--set", "training.epochs=1")


def test_a_data_file_is_trained_by_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{['no', 'yes'][i % 2]}\n" for i in range(60)))
    small = ["--set", "training.epochs=1", "--set", "model.hidden=[4]"]
    run("train", "rows.csv", "--target", "y", "--set", "preset=tabular", *small, "--run-dir", "run")
    text = Path("run/config.yaml").read_text()
    assert "activation: selu" in text
    assert "preset: tabular" in text
    assert "preset: tabular" in run("init", "rows.csv", "--target", "y", "--preset", "tabular").stdout
    said = run("init", "rows.csv", "--target", "y", "--preset", "tabula", code=2).stderr
    assert "there is no preset 'tabula'" in said
    assert "did you mean 'tabular'?" in said

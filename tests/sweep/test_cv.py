"""Cross-validation: each row is predicted once by a model that has not seen it, and a killed one goes on."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import run

from gpumlp.config import Loaded, load
from gpumlp.runs import train
from gpumlp.store.lock import locked


@pytest.fixture
def config(task: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = task().path
    monkeypatch.chdir(path.parent)
    path.write_text(path.read_text() + "backend: numpy\n")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_row_is_predicted_once_and_the_table_is_of_the_folds(config: Path) -> None:
    result = json.loads(run("cv", config, "--folds", 3, "--json", "-q").stdout)
    rows = rows_of(Path(result["predictions"]))
    assert [int(row["row"]) for row in rows] == list(range(150))
    truth = [row["class"] for row in rows_of(config.parent / "points.csv")]
    assert [row["target"] for row in rows] == truth
    for fold in result["folds"]:
        own = [row for row in rows if int(row["fold"]) == fold["fold"]]
        right = np.mean([row["prediction"] == row["target"] for row in own])
        assert right == pytest.approx(fold["metrics"]["accuracy"])
        assert sum(float(own[0][f"probability {name}"]) for name in "xyz") == pytest.approx(1)
    accuracies = [fold["metrics"]["accuracy"] for fold in result["folds"]]
    assert result["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert result["metrics"]["accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))


def test_a_fold_is_a_run_that_its_configuration_reproduces(config: Path) -> None:
    run("cv", config, "--folds", 3, "-q")
    fold = Path("runs/points-cv/fold-2")
    train(load(fold / "config.yaml"), "again")
    for name in ("model.json", "weights.safetensors"):
        assert Path("again/model", name).read_bytes() == (fold / "model" / name).read_bytes()


def test_finished_folds_are_kept_and_others_trained(config: Path) -> None:
    whole = run("cv", config, "--folds", 3, "--json", "-q").stdout
    place = Path("runs/points-cv")
    kept = (place / "fold-1" / "summary.json").stat().st_mtime_ns
    predictions = (place / "predictions.csv").read_bytes()
    shutil.rmtree(place / "fold-2")
    (place / "predictions.csv").unlink()
    again = run("cv", config, "--folds", 3, "--json")
    assert again.stdout == whole
    assert (place / "predictions.csv").read_bytes() == predictions
    assert (place / "fold-1" / "summary.json").stat().st_mtime_ns == kept
    assert "fold-1: " in again.stderr
    assert "finished before" in again.stderr
    elsewhere = place.parent / "elsewhere"
    (place / "predictions.csv").unlink()
    (place / "predictions.csv").symlink_to(elsewhere.absolute())
    refused = run("cv", config, "--folds", 3, code=1)
    assert "predictions.csv: cannot be written: this is a link" in refused.stderr
    assert not elsewhere.exists()


def test_another_cross_validation_gets_another_folder_and_takes_no_foreign_one(config: Path) -> None:
    run("cv", config, "--folds", 3, "-q")
    assert "runs/points-cv-2" in run("cv", config, "--folds", 2, "-q").stdout
    refused = run("cv", config, "--folds", 4, "--run-dir", "runs/points-cv", code=1)
    assert "begun with other settings: folds changed" in refused.stderr
    Path("mine").mkdir()
    Path("mine/file").write_text("mine")
    assert "the folder is not empty" in run("cv", config, "--run-dir", "mine", code=1).stderr
    assert [path.name for path in Path("mine").iterdir()] == ["file"]


def test_repeats_have_other_folds(config: Path) -> None:
    result = json.loads(run("cv", config, "--folds", 2, "--repeats", 2, "--json", "-q", "-o", "oof.jsonl").stdout)
    rows = [json.loads(line) for line in Path("oof.jsonl").read_text().splitlines()]
    first, second = ([row["fold"] for row in rows if row["repeat"] == repeat] for repeat in (1, 2))
    assert len(first) == len(second) == 150
    assert first != second
    assert [fold["run"] for fold in result["folds"]][2] == "repeat-2-fold-1"


def test_groups_and_time(config: Path) -> None:
    grouped = json.loads(
        run(
            "cv",
            config,
            "--folds",
            3,
            "--group",
            "w",
            "--set",
            "data.drop=[]",
            "--set",
            "data.split.validation=0",
            "--json",
            "-q",
        ).stdout
    )
    assert sorted(fold["rows"] for fold in grouped["folds"]) == [50, 50, 50]
    rows = rows_of(Path(grouped["predictions"]))
    assert all(len({row["fold"] for row in rows[start::3]}) == 1 for start in range(3))
    timed = json.loads(run("cv", config, "--folds", 3, "--time", "a", "--json", "-q").stdout)
    assert sum(fold["rows"] for fold in timed["folds"]) == len(rows_of(Path(timed["predictions"]))) < 150


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--group", "patients"), 3, "there is no column 'patients'"),
        (("--folds", "151"), 3, "150 rows are too few for 151 folds"),
        (("--folds", "1000000"), 3, "150 rows are too few for 1000000 folds"),  # without a look at each
        (("--folds", "1"), 2, "--folds"),
        (("--set", "training.epoch=1"), 2, "epochs"),
        (("-o", "a.xls"), 2, "cannot tell the format"),
        (("-o", "points.csv"), 1, "the file exists"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    config: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    before = sorted(config.parent.iterdir())
    assert text in run("cv", config, *arguments, code=code).stderr
    assert sorted(config.parent.iterdir()) == before


def test_changed_data_are_found(config: Path) -> None:
    run("cv", config, "--folds", 2, "-q")
    data = config.parent / "points.csv"
    data.write_text(data.read_text().replace("\n", "\n9.5,9.5,1,x\n", 1))
    assert "the data have changed since this fold was trained" in run("cv", config, "--folds", 2, code=1).stderr


def test_a_lock_is_held_once_and_free_again(tmp_path: Path) -> None:
    with locked(tmp_path / "locks" / "a") as first, locked(tmp_path / "locks" / "a") as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "locks" / "a") as again:
        assert again


def test_a_run_folder_is_not_a_configuration(config: Path) -> None:
    run("train", config, "-q", "--run-dir", "one")
    for verb in (("cv",), ("sweep", "--set", "model.hidden=[4],[8]")):
        refused = run(verb[0], "one", *verb[1:], code=2).stderr
        assert "one: this is a run folder, not a configuration" in refused
        assert "its settings are one/config.yaml" in refused

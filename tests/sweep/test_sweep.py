"""Sweeps and comparisons: a point is a function of its number, validation rows decide, a killed sweep goes on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import run

from gpumlp.config import Loaded, load
from gpumlp.data.source import cache
from gpumlp.errors import ConfigError
from gpumlp.runs import train
from gpumlp.store.lock import locked
from gpumlp.sweep.compare import Compared, compare
from gpumlp.sweep.points import Space, dimension_of, divided, numbers_of

GRID = ("--set", "model.hidden=[4],[8,4]", "--set", "optimizer.learning_rate=1e-3,1e-2")


@pytest.fixture
def config(task: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = task().path
    monkeypatch.chdir(path.parent)
    path.write_text(path.read_text().replace("epochs: 6", "epochs: 2") + "backend: numpy\n")
    return path


def space(*overrides: str, trials: int | None = None, seed: int = 0) -> Space:
    dimensions = tuple(found for each in overrides if (found := dimension_of(each)))
    return Space(dimensions, trials, seed)


def test_lists_are_divided_outside_brackets_and_quotes() -> None:
    assert divided("[64],[128,64]") == ["[64]", "[128,64]"]
    assert divided("'a,b', {units: 3, dropout: 0.1},c") == ["'a,b'", "{units: 3, dropout: 0.1}", "c"]
    assert dimension_of("model.hidden=[128,64]") is None


def test_a_grid_is_in_order() -> None:
    grid = space("a=1,2", "b=x,y,z")
    assert [grid.point(i) for i in range(len(grid))] == [(f"a={a}", f"b={b}") for a in (1, 2) for b in "xyz"]


def test_random_points_are_within_their_ranges_and_a_function_of_seed_and_number() -> None:
    ranges = ("a=log(1e-4,1e-2)", "b=uniform(-1,1)", "c=int(1,3)", "d=x,y")
    few, many = space(*ranges, trials=2), space(*ranges, trials=400)
    assert [few.point(i) for i in range(2)] == [many.point(i) for i in range(2)]
    assert few.point(0) != space(*ranges, trials=2, seed=1).point(0)
    points = [dict(each.split("=") for each in many.point(i)) for i in range(400)]
    logs = np.log10([float(point["a"]) for point in points])
    assert -4 <= logs.min() < -3.95
    assert -2.05 < logs.max() <= -2
    assert abs(logs.mean() + 3) < 0.1
    assert {point["c"] for point in points} == {"1", "2", "3"}
    assert {point["d"] for point in points} == {"x", "y"}
    assert all(-1 <= float(point["b"]) < 1 for point in points)


def test_fewer_trials_than_a_grid_has_are_different_points_of_it() -> None:
    some = space("a=1,2,3,4", "b=1,2,3,4", trials=9)
    assert len({some.point(i) for i in range(len(some))}) == 9
    assert len(space("a=1,2", trials=50)) == 2


def test_parts_are_all_points_once() -> None:
    assert sorted(i for part in range(4) for i in numbers_of(10, f"{part}/4")) == list(range(10))
    assert list(numbers_of(10, "4/4")) == list(numbers_of(10, "0/4"))
    for wrong in ("5/4", "1", "1/0", "-1/2"):
        with pytest.raises(ConfigError, match="is not a part"):
            numbers_of(10, wrong)


def test_the_validation_rows_decide_and_a_point_can_be_trained_alone(config: Path) -> None:
    found = json.loads(run("sweep", config, *GRID, "--json", "-q").stdout)
    scores = [point["score"] for point in found["points"]]
    assert scores == sorted(scores)
    best = found["points"][0]
    assert best["score"] == best["summary"]["metrics"]["validation"]["loss"]
    train(load(Path(best["run"]) / "config.yaml"), "again")
    for name in ("model.json", "weights.safetensors"):
        assert Path("again/model", name).read_bytes() == Path(best["run"], "model", name).read_bytes()
    train(load(config, best["overrides"]), "by-hand")
    assert Path("by-hand/metrics.jsonl").exists()
    assert Path("by-hand/model/model.json").read_bytes() == Path("again/model/model.json").read_bytes()


def test_a_metric_that_rises_is_best_where_it_is_highest(config: Path) -> None:
    found = json.loads(run("sweep", config, *GRID, "--set", "training.metric=accuracy", "--json", "-q").stdout)
    scores = [point["score"] for point in found["points"]]
    assert scores == sorted(scores, reverse=True)


def test_files_are_read_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = cache.read
    monkeypatch.setattr(cache, "read", lambda *a, **k: calls.append(a) or plain(*a, **k))
    run("sweep", config, *GRID, "--set", "data.scaling=robust,standard", "-q")
    assert len(calls) == 1


def test_a_sweep_goes_on_where_it_was_and_parts_share_it(config: Path) -> None:
    for part in ("0/2", "1/2"):
        run("sweep", config, *GRID, "--part", part, "-q")
    place = Path("runs/points-sweep")
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("point-*/summary.json")}
    assert len(stamps) == 4
    shutil.rmtree(place / "point-0001")
    again = run("sweep", config, *GRID)
    assert again.stderr.count("finished before") == 3
    assert "4 of 4 points" in again.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.parent.name != "point-0001")


def test_a_point_that_another_process_trains_is_passed_over(config: Path) -> None:
    run("sweep", config, *GRID, "--part", "1/4", "-q")
    with locked(Path("runs/points-sweep/locks/point-0000")) as free:
        assert free
        assert "1 of 4 points" in run("sweep", config, *GRID, "--part", "0/4", "-q").stdout
    assert "2 of 4 points" in run("sweep", config, *GRID, "--part", "0/4", "-q").stdout


def test_a_point_that_does_not_fit_the_data_is_recorded_and_tried_again(config: Path) -> None:
    arguments = ("sweep", config, "--set", "data.drop=[w],[nothing]", "--json", "-q")
    points = json.loads(run(*arguments).stdout)["points"]
    assert [point["status"] for point in points] == ["completed", "failed"]
    assert "there is no column 'nothing'" in points[1]["error"]
    data = config.parent / "points.csv"
    data.write_text(data.read_text().replace("a,b,w,class", "a,b,nothing,class"))
    assert "there is no column 'w'" in run(*arguments, code=3).stderr
    again = json.loads(run(*arguments, "--part", "1/2").stdout)["points"]
    assert {point["status"] for point in again} == {"completed"}


def test_a_point_that_diverges_is_recorded_and_not_fatal(config: Path) -> None:
    arguments = ("sweep", config, "--set", "optimizer.learning_rate=1e30,1e-2", "--json", "-q")
    arguments = (*arguments, "--set", "model.activation=relu")
    for _ in range(2):
        points = json.loads(run(*arguments).stdout)["points"]
        assert [point["status"] for point in points] == ["completed", "diverged"]
        assert points[1]["score"] is None
        assert "became" in points[1]["error"]
    rows = json.loads(run("compare", "runs/points-sweep", "--json").stdout)
    assert rows["differ"] == ["optimizer.learning_rate"]
    assert [row["status"] for row in rows["runs"]] == ["diverged", "completed"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "there is nothing to try"),
        (("--set", "optimizer.learning_rat=1,2"), "did you mean 'learning_rate'?"),
        (("--set", "model.hidden=[8],[-1]"), "model.hidden.0"),
        (("--set", "optimizer.learning_rate=log(1e-4,1e-2)"), "add --trials N"),
        (("--set", "optimizer.learning_rate=log(0,1)", "--trials", "2"), "must be above 0"),
        (("--set", "optimizer.learning_rate=log(2,1)", "--trials", "2"), "must be below"),
        (("--set", "optimizer.learning_rate=log(a,1)", "--trials", "2"), "needs two numbers"),
        (("--set", "training.batch_size=int(1.5,2)", "--trials", "2"), "needs whole numbers"),
        (("--set", "a=1,2", "--set", "a=2,3"), "given twice"),
        ((*GRID, "--set", "data.split.validation=0"), "needs validation rows"),
        ((*GRID, "--part", "7/4"), "is not a part"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(config: Path, arguments: tuple[str, ...], text: str) -> None:
    before = sorted(config.parent.iterdir())
    assert text in run("sweep", config, *arguments, code=2).stderr
    assert sorted(config.parent.iterdir()) == before


def test_compare_shows_what_differs_within_80_columns(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("train", config, "-q", "--run-dir", "one")
    run("train", config, "-q", "--run-dir", "two", "--set", "model.dropout=0.5")
    shown = run("compare", "one", "two").stdout
    assert "model" in shown
    assert ".dropout" in shown
    assert "optimizer" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    rows = json.loads(run("compare", "one", "two", "--json").stdout)["runs"]
    assert [row["settings"] for row in rows] == [{"model.dropout": 0.0}, {"model.dropout": 0.5}]
    assert math.isfinite(rows[0]["metrics"]["test"]["loss"])
    refused = run("compare", "one", ".", code=1)
    assert "not a folder of runs" in refused.stderr


def test_compare_shows_first_what_stands_for_many_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("task", "model.hidden", "training.seed", "training.snapshots", "members.count", "preset")
    runs = {Path(each): Compared(each, dict.fromkeys(names, each) | {"task": "0"}, None) for each in "12"}
    monkeypatch.setattr("gpumlp.sweep.compare.runs_in", lambda folder: [folder])
    monkeypatch.setattr("gpumlp.sweep.compare._read", runs.get)
    first = ["training.snapshots", "members.count", "preset"]
    assert compare(list(runs))[1] == [*first, "model.hidden", "training.seed"]


def test_compare_breaks_no_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("cv", config, "--folds", "2", "-q")
    run("sweep", config, *GRID, "-q")
    shown = run("compare", "runs/points-cv", "runs/points-sweep").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert {"runs", "points-cv/fold-2", "points-sweep/point-0003", "validation", "accuracy"} <= {*shown.split()}


def test_compare_draws(config: Path) -> None:
    pytest.importorskip("matplotlib")
    run("sweep", config, *GRID, "-q")
    run("compare", "runs/points-sweep", "--plot", "a.svg")
    assert "point-0003" in Path("a.svg").read_text() or Path("a.svg").stat().st_size > 1000
    assert "the file exists" in run("compare", "runs/points-sweep", "--plot", "a.svg", code=1).stderr

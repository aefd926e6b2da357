"""Weighted ensembles of finished runs: how weights are chosen, what they predict, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import run as command
from support import peak_memory

from gpumlp import load_ensemble
from gpumlp.config import configure
from gpumlp.data import SourceCache
from gpumlp.errors import RunError
from gpumlp.runs import ensemble as ensembles
from gpumlp.runs import load_trained, train
from gpumlp.runs.ensemble import mean_of, metrics_of
from gpumlp.runs.predictor import Predictions
from gpumlp.store import formats
from gpumlp.sweep.cv import cross_validate
from gpumlp.sweep.ensemble import Seen, combine, counted_of, folds_of, loss_of, select
from gpumlp.sweep.folder import PlanFolder, Template
from gpumlp.sweep.search import space_of, sweep

ROWS = 90


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of three kinds of targets, runs on them, and a cross-validation."""
    folder = tmp_path_factory.mktemp("ensembles")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 3))
    lines = ["a,b,c,kind,size,more,w"]
    for row in x:
        kind = "uvw"[int(np.argmax(row + 0.3 * rng.normal(size=3)))]
        numbers = [*row.tolist(), float(row.sum()), float(3 * row[0]), 1 + int(row[1] > 0)]
        texts = [f"{each!r}" for each in numbers]
        lines.append(",".join([*texts[:3], kind, *texts[3:]]))
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    for name, seed in (("one", 0), ("two", 0), ("three", 0), ("other", 1)):
        hidden = {"one": [4], "two": [16], "three": [8, 8], "other": [4]}[name]
        train(task(folder, hidden, seed), folder / name)
    return folder


def task(folder: Path, hidden: list[int], seed: int = 0, **more: Any) -> Any:
    data = {"train": "data.csv", "target": "kind", "drop": ["size", "more", "w"], "folder": str(folder)}
    given: dict[str, Any] = {
        "task": "classification",
        "data": data,
        "model": {"hidden": hidden},
        "training": {"epochs": 8, "batch_size": 16, "seed": seed},
        "backend": "numpy",
    }
    return configure(**(given | more))


def regression(folder: Path, hidden: list[int], target: list[str], **more: Any) -> Any:
    rest = [name for name in ("kind", "size", "more", "w") if name not in target]
    data = {"train": "data.csv", "target": target, "drop": rest, "folder": str(folder)}
    return task(folder, hidden, task="regression", data=data, **more)


def seen(probabilities: Any, labels: Any) -> Seen:
    found = np.asarray(probabilities, np.float64)

    def predict(start: int, stop: int) -> Predictions:
        return Predictions(found[start:stop].argmax(axis=1), found[start:stop])

    return Seen(np.arange(len(found)), np.asarray(labels), None, predict)


def of_classes(count: int) -> Any:
    return SimpleNamespace(classes=tuple(map(str, range(count))), outputs=count)


def selected(candidates: list[Seen], classes: int, rounds: int) -> tuple[Any, list[float]]:
    encoder = of_classes(classes)
    return select([counted_of(each, encoder) for each in candidates], candidates[0], encoder, rounds)


def test_the_selection_is_the_greedy_one() -> None:
    """Against one that tries every candidate in every round, by formulas of its own."""
    rng = np.random.default_rng(2)  # the best round is a late one, in which candidates count for unequal shares
    labels = rng.integers(0, 3, 40)
    found = []
    for noise in (1.6, 1.5, 1.7, 3.0):
        z = 2.0 * np.eye(3)[labels] + noise * rng.normal(size=(40, 3))
        powers = np.exp(z)
        found.append(powers / powers.sum(axis=1, keepdims=True))

    def log_loss(p: Any) -> float:
        return float(np.mean([-np.log(row[label]) for row, label in zip(p, labels, strict=True)]))

    taken: list[int] = []
    path = []
    for _ in range(25):
        trials = [log_loss(np.mean([found[i] for i in (*taken, j)], axis=0)) for j in range(4)]
        taken.append(int(np.argmin(trials)))
        path.append(min(trials))
    best = int(np.argmin(path)) + 1
    counts, alone = selected([seen(each, labels) for each in found], 3, 25)
    assert counts.tolist() == np.bincount(taken[:best], minlength=4).tolist()
    assert np.count_nonzero(counts) > 1
    np.testing.assert_allclose(alone, [log_loss(each) for each in found], rtol=1e-12)
    assert path[best - 1] < min(alone)


def test_of_equal_candidates_the_first_is_taken_and_a_probability_of_0_is_finite() -> None:
    same = seen([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    counts, alone = selected([same, same], 2, 5)
    assert counts.tolist() == [1, 0]
    assert alone[0] == pytest.approx((-np.log(1e-15) + np.log(2)) / 2)


def test_rows_count_by_their_weights() -> None:
    each = replace(seen([[0.9, 0.1], [0.5, 0.5]], [0, 1]), weights=np.array([3.0, 1.0]))
    expected = -(3 * np.log(0.9) + np.log(0.5)) / 4
    assert loss_of(counted_of(each, of_classes(2)), each, of_classes(2)) == pytest.approx(expected)


def test_of_many_classes_some_rows_are_predicted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensembles, "MAX_KEPT_VALUES", 1 << 16)
    monkeypatch.setattr(ensembles, "MAX_PIECE_VALUES", 1 << 16)
    rows, classes = 1000, 1000
    labels = np.arange(rows) % 7

    def predict(start: int, stop: int) -> Predictions:
        found = np.full((stop - start, classes), 0.5 / (classes - 1))
        found[np.arange(stop - start), labels[start:stop]] = 0.5
        return Predictions(found.argmax(axis=1), found)

    each, encoder = Seen(np.arange(rows), labels, None, predict), of_classes(classes)
    assert each.cached(classes) is each
    with peak_memory() as peak:
        counted = counted_of(each, encoder)
        blocks = (mean_of([predict(at.start, at.stop)] * 2, [0.5, 0.5]) for at in ensembles.pieces(rows, classes))
        found = metrics_of(blocks, encoder, labels, None)
        assert peak() < rows * classes * 8 / 2
    np.testing.assert_array_equal(counted, np.full(rows, 0.5))
    assert (found["accuracy"], found["log_loss"]) == (1.0, pytest.approx(np.log(2)))


def test_in_pieces_the_same_ensemble_is_chosen(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "cv.yaml"
    given = "task: classification\ndata: {train: %s, target: kind, drop: [size, more, w]}\n" % (place / "data.csv")
    template.write_text(given + "model: {hidden: [4]}\ntraining: {epochs: 1}\nbackend: numpy\n")
    cross_validate(Template(template), tmp_path / "cv", folds=2, repeats=2)
    (of_folds,) = folds_of(PlanFolder(tmp_path / "cv"), SourceCache(), 0)
    shares = of_folds.seen.predict(0, ROWS).probabilities
    assert shares is not None
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    for folders in ([place / "one", place / "two"], [tmp_path / "cv"]):
        whole, about = combine(folders)
        measured = whole.evaluate(place / "data.csv")
        with monkeypatch.context() as patch:
            patch.setattr(ensembles, "MAX_KEPT_VALUES", 0)
            patch.setattr(ensembles, "MAX_PIECE_VALUES", 12)
            again, other = combine(folders)
            assert again.evaluate(place / "data.csv") == pytest.approx(measured)
        assert again.weights == whole.weights
        assert other["metrics"] == pytest.approx(about["metrics"])
        assert other["loss"] == pytest.approx(about["loss"])


def test_an_ensemble_predicts_by_the_weighted_mean_of_its_runs(place: Path, tmp_path: Path) -> None:
    runs = [place / name for name in ("one", "two", "three")]
    ensemble, about = combine(runs)
    assert about["rows"] == round(0.15 * ROWS)
    assert sum(each["weight"] for each in about["candidates"]) == pytest.approx(1)
    assert about["loss"] <= min(each["loss"] for each in about["candidates"])
    assert about["metrics"]["log_loss"] == pytest.approx(about["loss"])
    weights = [each["weight"] for each in about["candidates"]]
    each = [load_trained(run).predict_proba(place / "data.csv") for run in runs]
    expected = np.einsum("k,knc->nc", weights, each)
    ensemble.save(tmp_path / "kept")
    again = load_ensemble(tmp_path / "kept")
    np.testing.assert_allclose(again.predict_proba(place / "data.csv"), expected, rtol=1e-6)
    assert (again.predict(place / "data.csv") == np.array(["u", "v", "w"])[expected.argmax(axis=1)]).all()
    found = again.evaluate(place / "data.csv")
    assert {"accuracy", "log_loss", "macro_f1"} <= found.keys()
    with pytest.raises(RunError, match="an ensemble of models has no intervals"):
        again.predict_interval(place / "data.csv")


@pytest.mark.parametrize("kind", ["one", "several", "quantiles", "weighted"])
def test_ensembles_of_numbers(place: Path, tmp_path: Path, kind: str) -> None:
    target = ["size", "more"] if kind == "several" else ["size"]
    more: dict[str, Any] = {"loss": {"name": "quantile", "levels": [0.1, 0.5, 0.9]}} if kind == "quantiles" else {}
    for name, hidden in (("one", [4]), ("two", [16])):
        loaded = regression(place, hidden, target, **more)
        if kind == "weighted":
            data = {
                "train": "data.csv",
                "target": "size",
                "drop": ["kind", "more"],
                "folder": str(place),
                "weights": "w",
            }
            loaded = task(place, hidden, task="regression", data=data)
        train(loaded, tmp_path / name)
    ensemble, about = combine([tmp_path / "one", tmp_path / "two"])
    assert about["loss"] <= min(each["loss"] for each in about["candidates"])
    file, weights = place / "data.csv", ensemble.weights
    values = [model.predict(file) for model in ensemble.models]
    np.testing.assert_allclose(
        ensemble.predict(file), sum(w * v for w, v in zip(weights, values, strict=True)), rtol=1e-12
    )
    assert ensemble.evaluate(file).keys() == ensemble.models[0].evaluate(file).keys()
    if kind == "quantiles":
        assert (np.diff(ensemble.predict_quantiles(file), axis=1) >= 0).all()


def test_the_folds_of_a_cross_validation_predict_by_their_mean(place: Path, tmp_path: Path) -> None:
    template = tmp_path / "cv.yaml"
    given = "task: classification\ndata: {train: %s, target: kind, drop: [size, more, w]}\n" % (place / "data.csv")
    template.write_text(given + "model: {hidden: [4]}\ntraining: {epochs: 4, batch_size: 16}\nbackend: numpy\n")
    for members in ("1", "{count: 2}", "{count: 3, share: hidden}"):
        cross_validate(Template(template, (f"members={members}",)), tmp_path / f"cv-{members[-8:-1]}", folds=3)
    folders = sorted(tmp_path.glob("cv-*"))
    ensemble, about = combine(folders)
    assert about["rows"] == ROWS
    assert [each["models"] for each in about["candidates"]] == [3, 3, 3]
    alone, about = combine([folders[0]])
    models = [load_trained(folders[0] / f"fold-{fold}") for fold in (1, 2, 3)]
    mean = np.mean([model.predict_proba(place / "data.csv") for model in models], axis=0)
    np.testing.assert_allclose(alone.predict_proba(place / "data.csv"), mean, rtol=1e-12)
    results = json.loads((folders[0] / "results.json").read_text())
    folds = [fold["metrics"]["log_loss"] * fold["rows"] for fold in results["folds"]]
    assert about["loss"] == pytest.approx(sum(folds) / ROWS)
    (folders[0] / "results.json").unlink()
    with pytest.raises(RunError, match="not all folds have been trained"):
        combine([folders[0]])
    assert len(ensemble.models) in (3, 6, 9)


def test_what_cannot_be_combined_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"other: these rows outside of training are not those of .*one"):
        combine([place / "one", place / "other"])
    train(regression(place, [4], ["size"]), tmp_path / "numbers")
    with pytest.raises(RunError, match="the models predict different things"):
        combine([place / "one", tmp_path / "numbers"])
    data = {"train": "data.csv", "target": "kind", "folder": str(place), "split": {"validation": 0.0}}
    train(task(place, [4], data=data), tmp_path / "blind")
    with pytest.raises(RunError, match="the run has no validation rows"):
        combine([tmp_path / "blind"])
    with pytest.raises(RunError, match="not a folder of runs"):
        combine([tmp_path])


def test_a_run_that_has_lost_what_tells_that_it_is_one(place: Path, tmp_path: Path) -> None:
    template = Template(tmp_path / "kept.yaml")
    given = "task: classification\ndata: {train: %s, target: kind, drop: [size, more, w]}\n" % (place / "data.csv")
    template.path.write_text(given + "model: {hidden: [4]}\ntraining: {epochs: 1}\nbackend: numpy\n")
    chosen, space = space_of(template, ("model.hidden=[4],[5]",), None)
    sweep(chosen, space, tmp_path / "s")
    (tmp_path / "s" / "point-0001" / "config.yaml").write_text("")
    with pytest.raises(RunError, match=r"point-0001: the run is damaged: it has summary\.json, but not config\.yaml"):
        combine([tmp_path / "s"])


def test_folders_of_ensembles(place: Path, tmp_path: Path) -> None:
    """One is replaced only on demand, nothing else ever; a damaged one is found."""
    ensemble, _ = combine([place / "one"])
    folder = tmp_path / "kept"
    folder.mkdir()
    ensemble.save(folder)
    with pytest.raises(RunError, match="there is an ensemble here"):
        ensemble.save(folder)
    ensemble.save(folder, force=True)
    assert sorted(each.name for each in folder.iterdir()) == ["ensemble.json", "model-1"]
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(RunError, match="the folder is not empty, and is not an ensemble"):
        ensemble.save(place, force=True)
    for name in (load_trained, lambda path: load_trained(path).network):
        with pytest.raises(RunError, match="this is an ensemble of models, not a run"):
            name(folder)
    description = json.loads((folder / "ensemble.json").read_text())
    del description["sha256"]
    kept = description["models"][0]
    for change in (
        {"models": []},
        {"models": [kept, kept]},
        {"models": [{**kept, "folder": "../one"}]},
        {"models": [{**kept, "weight": 0.5}]},
        {"models": [{**kept, "weight": float("nan")}]},
        {"models": [{**kept, "model": "0"}]},
        {"models": None},
        {"format": 2},
    ):
        formats.write_sealed(folder / "ensemble.json", description | change)
        with pytest.raises(RunError):
            load_ensemble(folder)
    (folder / "ensemble.json").write_text("{}")
    with pytest.raises(RunError):
        load_ensemble(folder)


def test_the_command(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "best"
    done = command("ensemble", place / "one", place / "two", "-o", folder)
    assert "rows outside of training the ensemble has the loss" in done.output
    again = command("ensemble", place / "one", "-o", folder, code=1)
    assert "there is an ensemble here" in again.output
    found = command("ensemble", place / "one", "-o", folder, "--force", "--json")
    assert json.loads(found.stdout)["candidates"][0]["weight"] == 1.0
    predictions = tmp_path / "predictions.csv"
    command("predict", folder, place / "data.csv", "-o", predictions, "--proba")
    assert len(predictions.read_text().splitlines()) == ROWS + 1
    command("evaluate", folder, "--data", place / "data.csv")
    command("evaluate", folder, code=2)
    assert "by the weighted mean of 1 model" in command("inspect", folder).output
    refused = command("export", folder, "-o", tmp_path / "m.py", code=2)
    assert "an ensemble has no rows of its own" in refused.output
    refused = command("plot", folder, code=1)
    assert "predict, evaluate --data and export --data take it" in refused.output

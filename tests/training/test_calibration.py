"""Probabilities that are calibrated on validation rows, and intervals from rows that chose nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support import peak_memory

from gpumlp.cli import main
from gpumlp.config import Loaded, configure
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.metrics import ECE_BINS, ProbabilityScores
from gpumlp.runs import evaluate, load_trained, train
from gpumlp.runs.in_memory import fit
from gpumlp.training import Loop, calibration
from gpumlp.training.build import build, load_data
from gpumlp.training.calibration import Temperature, best_sharpness, rank, softmax

Task = Callable[..., Loaded]
LARGER = ("training.epochs=20", "data.split.validation=0.4", "optimizer.learning_rate=0.1")


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_of_probabilities_are_those_of_scikit_learn(classes: int) -> None:
    judge: Any = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(classes)
    p, y, w = rng.dirichlet(np.ones(classes), 300), rng.integers(0, classes, 300), rng.integers(1, 4, 300)
    for weight in (None, w):
        scores = ProbabilityScores()
        for rows in (slice(0, 100), slice(100, 101), slice(101, 300)):
            scores.add(p[rows], y[rows], None if weight is None else weight[rows])
        found = scores.result()
        assert found["log_loss"] == pytest.approx(judge.log_loss(y, p, sample_weight=weight))
        given = p[:, 1] if classes == 2 else p
        assert found["brier"] == pytest.approx(judge.brier_score_loss(y, given, sample_weight=weight))
        counts = np.ones(300) if weight is None else weight
        place = np.minimum((p.max(axis=1) * ECE_BINS).astype(int), ECE_BINS - 1)
        gaps = [counts[place == i] @ (p.max(axis=1) - (p.argmax(axis=1) == y))[place == i] for i in range(ECE_BINS)]
        assert found["ece"] == pytest.approx(sum(map(abs, gaps)) / counts.sum())


def test_certain_probabilities_have_finite_scores() -> None:
    scores = ProbabilityScores()
    scores.add(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert scores.result() == pytest.approx({"log_loss": 354.2, "brier": 0.5, "ece": 0.0 + 1.0 / 2}, rel=1e-3)


def test_a_run_keeps_its_temperature(task: Task, tmp_path: Path) -> None:
    """It lowers the log-loss of the rows it was fitted on and moves no class; every user of the model applies it."""
    summary = train(task(*LARGER), tmp_path / "run").summary
    raw = train(task(*LARGER, "training.calibration=none"), tmp_path / "raw").summary
    for part in ("train", "validation", "test"):
        for name in ("loss", "accuracy", "macro_f1"):
            assert summary["metrics"][part][name] == raw["metrics"][part][name]
    assert summary["metrics"]["validation"]["log_loss"] < raw["metrics"]["validation"]["log_loss"]
    assert raw["metrics"]["test"]["log_loss"] == pytest.approx(raw["metrics"]["test"]["loss"], rel=1e-5)
    model, plain = load_trained(tmp_path / "run"), load_trained(tmp_path / "raw")
    assert plain.calibration is None
    assert model.calibration is not None
    assert model.calibration.mix == 1 / 122
    assert json.loads((tmp_path / "run/model/model.json").read_text())["calibration"] == model.calibration.to_state()
    rows = {"a": [0.0, 3.0, 1.0], "b": [0.0, 0.0, 1.0]}
    linear = np.log(plain.predict_proba(rows))
    assert model.predict_proba(rows) == pytest.approx(model.calibration(linear), rel=1e-6)
    assert evaluate(tmp_path / "run")[0] == summary["metrics"]
    assert evaluate(tmp_path / "run", tmp_path / "points.csv")[0]["points.csv"]["log_loss"] == pytest.approx(
        model.evaluate(tmp_path / "points.csv")["log_loss"]
    )


def test_a_temperature_is_fitted_by_the_weights_of_the_rows(task: Task) -> None:
    loaded = task(*LARGER, "data.drop=[]", "data.weights=w")
    loop = Loop(build(loaded.settings, load_data(loaded)))
    list(loop)
    data = loop.parts.data.validation
    assert data is not None
    assert data.targets is not None
    loop.parts.model.load(loop.best)
    linear = loop._measurement_of("validation").linear()
    assert loop.calibration() == Temperature.fit(linear, data.targets, data.weights)


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_a_temperature_of_many_values_is_fitted_in_pieces(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, max(2, classes), 200)
    linear = rng.standard_normal((200, classes)).astype(np.float32)
    linear[np.arange(200), np.minimum(labels, classes - 1)] += 1
    weights = rng.integers(0, 3, 200).astype(np.float32)
    whole = Temperature.fit(linear, labels, weights)
    monkeypatch.setattr(calibration, "MAX_VALUES", 7 * classes)
    in_pieces = Temperature.fit(linear, labels, weights)
    assert in_pieces.sharpness == pytest.approx(whole.sharpness, rel=1e-10)
    assert in_pieces.mix == whole.mix


def test_a_temperature_of_ten_thousand_classes_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, labels = np.zeros((200, 10_000), np.float32), np.arange(200)
    linear[:, ::7] = 1
    monkeypatch.setattr(calibration, "MAX_VALUES", 1 << 17)
    monkeypatch.setattr(calibration, "MAX_STEPS", 2)
    with peak_memory() as peak:
        Temperature.fit(linear, labels)
        assert peak() < linear.nbytes


@pytest.mark.parametrize("sections", [{"calibration": "temperature"}, {"conformal": 0.5}])
def test_what_needs_validation_rows_is_refused_without(sections: dict[str, Any]) -> None:
    data = {"train": "rows.csv", "target": "y", "split": {"validation": 0.0}}
    with pytest.raises(ConfigError, match=r"needs? validation rows, but data\.split\.validation is 0"):
        configure(task="classification", data=data, training=sections)
    with pytest.raises(ConfigError, match="a regression has none"):
        configure(task="regression", data=data, training={"calibration": "temperature"})


@pytest.mark.parametrize(
    ("level", "count", "place"), [(0.9, 9, 9), (0.9, 8, 9), (0.5, 9, 5), (0.9, 99, 90), (0.8, 4, 4), (0.01, 9, 1)]
)
def test_the_rank_of_a_level(level: float, count: int, place: int) -> None:
    assert rank(level, count) == place


def test_intervals_hold_as_many_new_rows_as_they_say(tmp_path: Path) -> None:
    """Over many draws of kept and new rows; the network is poor, which makes intervals wide and no less true."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(3000)
    y = np.sin(3 * x) + rng.standard_normal(3000) * (0.1 + np.abs(x))
    settings = {"training": {"epochs": 3, "conformal": 0.5}, "model": {"hidden": [8]}}
    model = fit({"x": x[:1000]}, y[:1000], validation=0.4, **settings)
    assert model.scores is not None
    assert len(model.scores) == 200
    for level in (0.5, 0.9):
        low, high = model.predict_interval({"x": x[1000:]}, level).T
        assert np.mean((low <= y[1000:]) & (y[1000:] <= high)) == pytest.approx(level, abs=0.06)
    labels = np.where(y > 0.5, "up", np.where(y < -0.5, "down", "mid"))
    true, held = np.searchsorted(["down", "mid", "up"], labels), []
    for start in range(0, 3000, 500):
        old, new = slice(start, start + 500), np.r_[0:start, start + 500 : 3000]
        classifier = fit({"x": x[old]}, labels[old], validation=0.6, **settings)
        near = classifier.predict_interval({"x": x[new]}, 0.9)
        held.append(near[np.arange(2500), true[new]].mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load_trained(tmp_path / "model").scores, model.scores)


def test_rows_for_intervals_choose_nothing(task: Task) -> None:
    """Whatever their targets are, the best epoch, its weights and the temperature stay as they are."""
    loaded = task(*LARGER, "training.conformal=0.3")
    found = []
    for turned in (False, True):
        parts = build(loaded.settings, load_data(loaded))
        assert parts.held_out is not None
        assert parts.choice is not None
        assert (len(parts.held_out), len(parts.choice)) == (18, 42)
        assert parts.held_out.targets is not None
        if turned:
            parts.held_out.targets[...] = 2 - parts.held_out.targets
        loop = Loop(parts)
        list(loop)
        weights = {name: array.tolist() for name, array in loop.best.items()}
        found.append((loop.progress.best_epoch, loop.calibration(), weights, loop.scores()))
    assert found[0][:3] == found[1][:3]
    assert found[0][3].tolist() != found[1][3].tolist()


def test_predict_writes_intervals_and_sets(task: Task, tmp_path: Path) -> None:
    train(task(*LARGER, "training.conformal=0.5"), tmp_path / "run")
    arguments = ["predict", str(tmp_path / "run"), str(tmp_path / "points.csv"), "--interval"]
    done = CliRunner().invoke(main, [*arguments, "0.9", "--proba"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(done.stdout.splitlines()))
    margin = load_trained(tmp_path / "run").margin(0.9)
    for row in rows:
        near = [name for name in "xyz" if 1 - float(row[f"probability {name}"]) <= margin]
        assert row["set"] == "|".join(near)
    few = CliRunner().invoke(main, [*arguments, "0.99"])
    assert few.exit_code == 1
    assert "need at least 99 rows kept for them, and this model has 30" in few.stderr
    assert few.stdout == ""
    numbers = ("task=regression", "data.target=b", "data.drop=[]")
    train(task(*LARGER, *numbers, "training.conformal=0.5"), tmp_path / "numbers")
    arguments[1] = str(tmp_path / "numbers")
    rows = list(csv.DictReader(CliRunner().invoke(main, [*arguments, "0.9"]).stdout.splitlines()))
    margin = load_trained(tmp_path / "numbers").margin(0.9)
    for row in rows[:5]:
        assert float(row["upper"]) - float(row["prediction"]) == pytest.approx(margin)
        assert float(row["prediction"]) - float(row["lower"]) == pytest.approx(margin)


def test_intervals_of_a_model_without_kept_rows_are_refused(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    with pytest.raises(RunError, match="intervals need validation rows that did not choose") as caught:
        load_trained(tmp_path / "run").margin(0.9)
    assert caught.value.hint == "train with validation rows and --set training.conformal=0.5"
    with pytest.raises(DataError, match=r"a share of 0\.001 of 22 validation rows is no row"):
        train(task("training.conformal=0.001"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_softmax_of_one_value_is_that_of_two_classes() -> None:
    z = np.array([[0.3], [-800.0], [800.0]])
    assert softmax(z) == pytest.approx(softmax(np.hstack([np.zeros_like(z), z])))
    assert softmax(z)[1, 1] > 0 or softmax(z)[1, 0] == 1


def test_a_temperature_by_weights_is_that_of_copies() -> None:
    rng = np.random.default_rng(0)
    linear, labels, weights = rng.standard_normal((60, 3)), rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    linear[np.arange(60), labels] += 1
    fitted, copies = Temperature.fit(linear, labels, weights), np.repeat(np.arange(60), weights)
    each_once = np.full(len(copies), 1 / len(copies))
    of_copies = best_sharpness(linear[copies], labels[copies], each_once, fitted.mix)
    assert fitted.sharpness == pytest.approx(of_copies, rel=1e-9)


def test_a_temperature_of_few_rows_that_are_all_right_leaves_them_apart() -> None:
    """Without smoothed labels the factor has no bound, and the probabilities of all rows are the same."""
    z, right = np.array([[2.0], [1.0], [-3.0]]), np.array([1, 1, 0])
    fitted, margins = Temperature.fit(z, right), np.array([2.0, 1.0, 3.0])
    assert fitted.mix == 0.125
    wrong = 1 / (1 + np.exp(fitted.sharpness * margins))
    assert (margins * wrong).sum() == pytest.approx(fitted.mix / 2 * margins.sum(), rel=1e-9)  # where the slope is 0
    shares = fitted(z)[[0, 1, 2], right]
    np.testing.assert_allclose(shares, 0.875 * (1 - wrong) + 0.0625, rtol=1e-12)
    assert shares[1] + 0.05 < shares[0] < shares[2] - 0.01
    assert len(set(fitted(np.linspace(-5, 5, 50)[:, None])[:, 1])) == 50


def test_a_note_tells_why_log_loss_is_far_above_the_loss(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 200)
    rows = "".join(f"{a},{'yes' if a > 0 else 'no'}\n" for a in x[np.abs(x) > 0.5])
    (tmp_path / "t.csv").write_text("x,y\n" + rows)
    data = {"train": str(tmp_path / "t.csv"), "target": "y"}
    config = configure(task="classification", data=data, model={"hidden": [8]}, training={"epochs": 200})
    result = train(config, tmp_path / "run")
    count = sum(1 for _ in load_data(config).validation.targets)  # type: ignore[union-attr]
    least = -np.log(1 - 0.5 * 0.5 / (count + 1))
    fitted = load_trained(tmp_path / "run").calibration
    assert fitted is not None
    assert not fitted.is_flat
    assert -np.log(fitted(np.array([[-1e6], [1e6]])).max(axis=1)) == pytest.approx(least, rel=1e-12)
    message = f"log-loss cannot fall below {least:.2g}: with {count} validation rows, calibration keeps"
    assert result.notes[-1] == f"{message} probabilities from 0 and 1"
    turned = fit({"x": x}, np.where(x > 0, "yes", "no"), validation=({"x": x}, np.where(x > 0, "no", "yes")))
    assert turned.calibration is not None
    assert turned.calibration.is_flat

"""Which epoch is the best: by the metric asked for, as scikit-learn measures it on the validation rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.config import Loaded, configure
from gpumlp.errors import ConfigError, DataError
from gpumlp.metrics import METRICS
from gpumlp.runs import train
from gpumlp.runs.in_memory import fit
from gpumlp.training import Epoch, Loop
from gpumlp.training.build import build, load_data
from gpumlp.training.calibration import Temperature, softmax
from gpumlp.training.device_data import outputs

Task = Callable[..., Loaded]
REGRESSION = ("task=regression", "data.target=b", "data.drop=[]", "optimizer.learning_rate=0.05")
OVERLAP = ("data.drop=[a]", "data.split.validation=0.4", "training.epochs=12", "optimizer.learning_rate=0.03")


def two_classes(folder: Path) -> None:
    path = folder / "points.csv"
    path.write_text(path.read_text().replace(",z\n", ",x\n"))


def by_sklearn(metric: str, loop: Loop) -> float:
    """Return a metric of the best weights on the validation rows."""
    judge: Any = pytest.importorskip("sklearn.metrics")
    data, encoder, model = loop.parts.data.validation, loop.parts.data.encoder, loop.parts.model
    assert data is not None
    model.load(loop.best)
    linear = np.concatenate([each.numpy() for each in outputs(model, data.features, 1.0, 64)]).astype(np.float64)
    assert data.targets is not None
    if encoder.classes is None:
        wanted, found = encoder.restore(data.targets.astype(np.float64)), encoder.restore(linear)
        functions: dict[str, Any] = {
            "rmse": judge.root_mean_squared_error,
            "mae": judge.mean_absolute_error,
            "r2": judge.r2_score,
        }
        return float(functions[metric](wanted, found))
    shares, wanted = softmax(linear), data.targets
    if metric == "auc":
        return float(judge.roc_auc_score(wanted, shares[:, 1]))
    if metric == "accuracy":
        return float(judge.accuracy_score(wanted, shares.argmax(axis=1)))
    if metric == "macro_f1":
        return float(judge.f1_score(wanted, shares.argmax(axis=1), average="macro"))
    if metric == "loss":
        return float(judge.log_loss(wanted, shares))
    mix = 0.5 / (len(linear) + 1)
    columns = np.hstack([np.zeros_like(linear), linear]) if linear.shape[1] == 1 else linear
    search: Any = pytest.importorskip("scipy.optimize").minimize_scalar
    b = search(lambda b: smoothed(b * columns, wanted, mix), bounds=(0.01, 20), options={"xatol": 1e-8}).x
    return float(judge.log_loss(wanted, (1 - mix) * softmax(b * columns) + mix / columns.shape[1]))


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_epoch_is_that_of_the_metric(task: Task, tmp_path: Path, metric: str) -> None:
    if metric == "auc":
        two_classes(tmp_path)
    more = REGRESSION if METRICS[metric].task == "regression" else ()
    loaded = task(*OVERLAP[bool(more) :], *more, f"training.metric={metric}")
    loop = Loop(build(loaded.settings, load_data(loaded)))
    rows = [event.row for event in loop if isinstance(event, Epoch)]
    values = [row[f"validation_{metric}"] for row in rows]
    best = max(values) if METRICS[metric].rises else min(values)
    places = [epoch for epoch, value in enumerate(values, 1) if value == best]
    later = metric in ("accuracy", "macro_f1", "auc")
    assert loop.progress.best_epoch == places[-1 if later else 0]
    assert by_sklearn(metric, loop) == pytest.approx(best, rel=1e-5)


def test_what_is_written_names_the_metric(task: Task, tmp_path: Path) -> None:
    result = train(task(*OVERLAP, "training.metric=accuracy"), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    best = max(row["validation_accuracy"] for row in rows)
    assert result.summary["metric"] == "accuracy"
    assert result.summary["metrics"]["validation"]["accuracy"] == best
    assert train(task("data.split.validation=0"), tmp_path / "all").summary["metric"] is None


def test_early_stopping_waits_for_the_metric(task: Task, tmp_path: Path) -> None:
    """Accuracy moves in steps, so it stands still long before the loss does; ties reset no patience."""
    stopping = ("training.epochs=60", "training.early_stopping={patience: 5}", "optimizer.learning_rate=0.003")
    loop = {}
    for metric in ("loss", "accuracy"):
        loaded = task(*stopping, f"training.metric={metric}")
        loop[metric] = Loop(build(loaded.settings, load_data(loaded)))
        values = [event.row[f"validation_{metric}"] for event in loop[metric] if isinstance(event, Epoch)]
        costs = [METRICS[metric].cost(value) for value in values]
        assert len(costs) == 60 or len(costs) == int(np.argmin(costs)) + 1 + 5
    assert loop["accuracy"].progress.epoch < loop["loss"].progress.epoch


@pytest.mark.parametrize(("task_name", "metric"), [("regression", "accuracy"), ("classification", "rmse")])
def test_a_metric_of_the_other_task_is_refused(task_name: str, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"{metric} is not a metric for {task_name}") as caught:
        configure(task=task_name, data={"train": "rows.csv", "target": "y"}, training={"metric": metric})
    assert "allowed: auto, loss, " in str(caught.value)


def test_a_metric_needs_validation_rows() -> None:
    with pytest.raises(ConfigError, match="choosing the epoch by accuracy needs validation rows") as caught:
        configure(
            task="classification",
            data={"train": "rows.csv", "target": "y", "split": {"validation": 0.0}},
            training={"metric": "accuracy"},
        )
    assert "set metric: auto" in str(caught.value)


def test_metrics_that_the_rows_do_not_define_are_refused_before_training(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="AUC is measured for two classes, and there are 3"):
        train(task("training.metric=auc"), tmp_path / "run")
    two_classes(tmp_path)
    lines = (tmp_path / "points.csv").read_text().splitlines()
    few = [lines[0], *[line for line in lines if line.endswith("x")][:20]]
    (tmp_path / "few.csv").write_text("\n".join(few) + "\n")
    with pytest.raises(DataError, match="AUC is not defined: the target is the same in all validation rows"):
        train(task("training.metric=auc", f"data.split.validation={tmp_path / 'few.csv'}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    x = np.arange(20.0)
    with pytest.raises(DataError, match="R² is not defined"):
        fit({"x": x}, x, task="regression", validation=({"x": x}, np.ones(20)), training={"metric": "r2"})


def test_a_temperature_is_the_lowest_log_loss_of_smoothed_labels() -> None:
    rng = np.random.default_rng(0)
    for classes, scale in ((1, 1.0), (1, 30.0), (3, 0.01), (7, 5.0)):
        labels = rng.integers(0, max(classes, 2), 400)
        linear = (rng.standard_normal((400, classes)) * scale).astype(np.float32)
        linear[np.arange(400), labels % classes] += (1.0 if classes > 1 else labels * 2.0 - 1.0) * scale
        weights = rng.integers(0, 4, 400).astype(np.float32)
        for weight in (None, weights):
            fitted = Temperature.fit(linear, labels, weight)
            factors = fitted.sharpness * np.array([1 / 1.001, 1 / 1.0001, 1, 1.0001, 1.001])
            each = [smoothed(b * linear, labels, fitted.mix, weight) for b in factors]
            assert each[2] == min(each)
            assert (each[-1] - each[0]) / each[2] == pytest.approx(0, abs=1e-7)


def smoothed(linear: Any, labels: Any, smoothing: float, weights: Any = None) -> float:
    """Return the log-loss of labels of which a share is spread over all classes."""
    logarithms = np.log(softmax(linear))
    of_labels = logarithms[np.arange(len(labels)), labels]
    return float(-np.average((1 - smoothing) * of_labels + smoothing * logarithms.mean(axis=1), weights=weights))


def test_temperatures_at_the_edges() -> None:
    z = np.array([[2.0], [1.0], [-3.0]])
    both = np.hstack([np.zeros_like(z), z])
    right, wrong = np.array([1, 1, 0]), np.array([0, 0, 1])
    assert Temperature.fit(z, wrong)(z) == pytest.approx(np.full((3, 2), 0.5), abs=1e-6)
    assert Temperature.fit(np.zeros((3, 1)), right) == Temperature(1.0, 0.125)
    assert Temperature.fit(both, np.array([1, 0, 0])).sharpness == pytest.approx(
        Temperature.fit(z, np.array([1, 0, 0])).sharpness
    )
    huge = Temperature.fit(np.array([[3e38], [-3e38]], np.float32), np.array([1, 1]))
    assert np.isfinite(huge(np.array([[3e38]], np.float32))).all()
    shares = Temperature(2.0, 0.1)(np.array([[0.0, 1.0, 3.0]]))
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(0.9 * softmax(np.array([[0.0, 2.0, 6.0]]))[0] + 0.1 / 3)


@pytest.mark.parametrize(("epochs", "patience"), [(40, 10), (100, 10), (101, 11), (1000, 100)])
def test_patience_is_a_tenth_of_the_epochs(task: Task, epochs: int, patience: int) -> None:
    loaded = task("training.early_stopping=auto", f"training.epochs={epochs}")
    stopping = build(loaded.settings, load_data(loaded)).stopping
    assert stopping is not None
    assert (stopping.patience, stopping.min_delta) == (patience, 0.0)
    given = task("training.early_stopping={patience: 3, min_delta: 0.5}", f"training.epochs={epochs}")
    stopping = build(given.settings, load_data(given)).stopping
    assert stopping is not None
    assert (stopping.patience, stopping.min_delta) == (3, 0.5)
    without = task("training.early_stopping=auto", "data.split.validation=0")
    assert build(without.settings, load_data(without)).stopping is None


def test_a_plain_run_keeps_the_average_and_tells_what_it_did_not_run() -> None:
    """What nobody sets: the average of the weights, until it gets no better."""
    x = np.random.default_rng(0).standard_normal((80, 2))
    noise = np.random.default_rng(1).standard_normal(80)
    model = fit(x, noise, task="regression")
    assert 100 < len(model.history) < 1000

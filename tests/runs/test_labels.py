"""Several labels of a row: from a file to metrics, predictions, exports and a report."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp.cli.main import main
from gpumlp.config import configure
from gpumlp.data import read
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.source.frame import merged
from gpumlp.errors import ConfigError, DataError
from gpumlp.export import export
from gpumlp.metrics import labels
from gpumlp.runs import evaluate, load_trained, plot, train
from gpumlp.runs.ensemble import WeightedModels
from gpumlp.runs.reports import report

ROWS, LABELS = 240, ("sport", "music", "news")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    lines = ["x,y,town,sport,music,news"]
    for i, (x, y) in enumerate(rng.standard_normal((ROWS, 2))):
        gap = "" if i % 3 == 0 else str(y < -1).lower()
        lines.append(f"{x:.4f},{y:.4f},{'Ulm' if i % 2 else 'Bonn'},{'yes' if x > 0 else 'no'},{int(y > x)},{gap}")
    (place / "rows.csv").write_text("\n".join(lines) + "\n")
    loaded = configure(
        task="multilabel",
        data={"train": str(place / "rows.csv"), "target": LABELS, "split": {"validation": 0.15, "test": 0.3}},
        model={"hidden": [16]},
        training={"epochs": 40, "batch_size": 32, "metric": "log_loss"},
        optimizer={"learning_rate": 0.02},
        backend="numpy",
    )
    return train(loaded, place / "run").folder


def cells(path: Path) -> tuple[list[str], np.ndarray]:
    heads, *rows = csv.reader(path.read_text().splitlines())
    return heads, np.array(rows, object)


def test_labels_are_learned_with_gaps(run: Path) -> None:
    metrics = json.loads((run / "summary.json").read_text())["metrics"]["test"]
    assert metrics["accuracy"] == pytest.approx(np.mean([metrics[f"accuracy[{name}]"] for name in LABELS]))
    assert metrics["accuracy"] > 0.93
    assert metrics["macro_f1"] == pytest.approx(np.mean([metrics[f"f1[{name}]"] for name in LABELS]))
    assert metrics["loss"] == pytest.approx(metrics["log_loss"], abs=0.02)  # which weighs each label alike
    assert evaluate(run)[0]["test"] == pytest.approx(metrics)
    model = load_trained(run)
    rows = read(run.parent / "rows.csv", texts=LABELS)
    from_file = evaluate(run, run.parent / "rows.csv")[0]["rows.csv"]
    assert model.evaluate(rows) == pytest.approx({key: from_file[key] for key in from_file if key != "loss"})
    assert {type(each) for each in model.predict(rows)[:, 2]} == {bool}
    assert {type(each) for each in model.predict(rows)[:, 1]} == {int}
    np.testing.assert_array_equal(model.predict(rows)[:, 0] == "yes", model.predict_proba(rows)[:, 0] > 0.5)


def test_predictions_have_a_column_for_each_label(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(run), str(run.parent / "rows.csv"), "--proba", "-o", str(out)])
    assert ended.value.code == 0
    heads, found = cells(out)
    assert heads == [f"{what} {name}" for what in ("prediction", "probability") for name in LABELS]
    np.testing.assert_array_equal(found[:, 1] == "1", found[:, 4].astype(float) > 0.5)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(run), str(run.parent / "rows.csv"), "-o", str(tmp_path / "out.npy")])
    assert ended.value.code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), found[:, :3].astype(str))


@pytest.mark.parametrize("ending", ["py", "onnx", "safetensors"])
def test_exports_predict_labels(run: Path, tmp_path: Path, ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnx")
    comparison, _ = export(run, tmp_path / f"model.{ending}")
    assert comparison.difference <= comparison.allowed < 1e-4
    if ending == "onnx":
        graph = pytest.importorskip("onnx").load(tmp_path / "model.onnx").graph
        assert [each.name for each in graph.output] == ["prediction", "probability"]
        assert {each.name for each in graph.initializer} <= {name for node in graph.node for name in node.input}
    if ending == "py":
        command = [sys.executable, str(tmp_path / "model.py"), str(run.parent / "rows.csv"), "--proba"]
        (tmp_path / "out.csv").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        heads, found = cells(tmp_path / "out.csv")
        assert heads == [f"{what} {name}" for what in ("prediction", "probability") for name in LABELS]
        model = load_trained(run)
        predicted = model.predict(run.parent / "rows.csv")
        np.testing.assert_array_equal(found[:, :3], [[str(each).lower() for each in row] for row in predicted])
        heads, table = cells(run.parent / "rows.csv")
        rows = [dict(zip(heads, each, strict=True)) for each in table[:5]]
        assert runpy.run_path(str(tmp_path / "model.py"))["predict"](rows) == predicted[:5].tolist()
        np.testing.assert_allclose(
            found[:, 3:].astype(float), model.predict_proba(run.parent / "rows.csv"), atol=1e-5
        )


def test_a_report_and_a_picture_show_each_label(run: Path, tmp_path: Path) -> None:
    report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(page.count(f">{name}<") >= 3 for name in LABELS)
    assert "false negatives" in page
    assert "probability: sport: 0" in page
    pytest.importorskip("matplotlib")
    plot(run, tmp_path / "plot.svg")
    assert "<!-- area under the ROC curve -->" in (tmp_path / "plot.svg").read_text()


def test_several_models_predict_labels_by_their_mean(run: Path) -> None:
    model, rows = load_trained(run), run.parent / "rows.csv"
    both = WeightedModels((model, model), (0.25, 0.75))
    np.testing.assert_allclose(both.predict_proba(rows), model.predict_proba(rows), rtol=1e-12)
    assert both.evaluate(rows) == pytest.approx(model.evaluate(rows))


def test_arrays_of_labels_and_what_fit_takes_them_for() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    y = (x[:, :2] > 0).astype(float)
    y[::4, 1] = np.nan
    quick = {"training": {"epochs": 2}, "backend": "numpy"}
    model = gpumlp.fit(x, y, **quick)
    assert model.encoder.task == "multilabel"
    assert model.predict(x).shape == model.predict_proba(x).shape == (60, 2)
    assert gpumlp.fit(x, y, task="regression", **quick).encoder.task == "regression"
    assert gpumlp.fit(x, y + 0.5, **quick).encoder.task == "regression"
    assert gpumlp.fit(x, np.where(x[:, :2] > 0, "in", "out"), **quick).encoder.labels.columns[0].classes == (
        "in",
        "out",
    )


def test_the_mean_of_metrics_leaves_gaps_and_what_is_not_defined_out() -> None:
    p = np.array([[0.9, 0.2, 0.1], [0.4, 0.7, 0.2], [0.6, 0.8, 0.3], [0.1, 0.9, 0.4]])
    t = np.array([[1, 0, 0], [1, np.nan, 0], [0, 1, 0], [0, np.nan, np.nan]], float)
    found = labels(p, t, ["a", "b", "c"])
    assert found["accuracy[a]"] == 0.5
    assert (found["precision[a]"], found["recall[a]"], found["f1[a]"]) == (0.5, 0.5, 0.5)
    assert found["accuracy[b]"] == found["f1[b]"] == found["auc[b]"] == 1.0
    assert np.isnan(found["f1[c]"])
    assert np.isnan(found["auc[c]"])
    assert found["macro_f1"] == 0.75
    assert found["all_right"] == 0.5
    assert found["log_loss"] == pytest.approx(
        np.mean([-np.log([0.9, 0.4, 0.4, 0.9]).mean(), -np.log([0.8, 0.8]).mean(), -np.log([0.9, 0.8, 0.7]).mean()])
    )
    twice = labels(np.repeat(p, [2, 1, 1, 1], axis=0), np.repeat(t, [2, 1, 1, 1], axis=0), ["a", "b", "c"])
    assert labels(p, t, ["a", "b", "c"], np.array([2.0, 1, 1, 1])) == pytest.approx(twice, nan_ok=True)
    none = labels(p, np.full((4, 3), np.nan), ["a", "b", "c"])
    assert all(np.isnan(value) for value in none.values())


def where(row: int) -> str:
    return f"a.csv:{row + 2}"


def fitted(*words: str) -> LabelTargets:
    return LabelTargets.fit({"l": merged(words, np.arange(len(words)))}, where)


def test_a_label_has_two_values() -> None:
    assert fitted("0", "0", "").columns[0].classes == ("0", "1")  # rare labels may be absent
    assert fitted("10", "9").columns[0].classes == ("9", "10")
    encoded = fitted("no", "yes", "").encode([merged(("", "yes", "no"), np.arange(3))], where)
    np.testing.assert_array_equal(encoded, [[np.nan], [1], [0]])
    with pytest.raises(DataError, match="the label 'l' has 3 different values: 'a', 'b', 'c'"):
        fitted("a", "b", "c")
    with pytest.raises(DataError, match="the label 'l' has 1 different values: 'a'"):
        fitted("a", "a")
    with pytest.raises(DataError, match=r"^a\.csv:3: the label 'l' is 'maybe' here\n.*allowed: no, yes"):
        fitted("no", "yes").encode([merged(("no", "maybe"), np.arange(2))], where)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"data": {"train": "a.csv", "target": "a"}}, r"multilabel has a list of labels\n.*write \[a\]"),
        ({"loss": "cross_entropy"}, "cross_entropy is not a loss for multilabel"),
        ({"training": {"metric": "rmse"}}, "rmse is not a metric for multilabel"),
        ({"training": {"calibration": "temperature"}}, "labels have none"),
        ({"training": {"conformal": 0.5}}, "intervals are of one target"),
        ({"task": "classification"}, "or set the task to multilabel"),
    ],
)
def test_settings_that_do_not_fit_labels(more: dict, what: str) -> None:
    given = {"task": "multilabel", "data": {"train": "a.csv", "target": ["a", "b"]}} | more
    with pytest.raises(ConfigError, match=what):
        configure(**given)

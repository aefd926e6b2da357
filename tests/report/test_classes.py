"""Classes in a report: those never seen in training, one colour for each, worst rows in one order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp import metrics
from gpumlp.report import Rows, analysis, sections
from gpumlp.runs.reports import report

NAMES = [f"c{i}" for i in range(9)]
ROWS = 135
# The later a class, the more often it is there, so that the order of the names is not that of the charts.
CLASS = np.repeat(np.arange(9), np.arange(11, 20))
RNG = np.random.default_rng(0)
TABLE = {"x": CLASS + 0.1 * RNG.normal(size=ROWS), "z": RNG.normal(size=ROWS)}
TARGET = np.array(NAMES)[CLASS]


@pytest.fixture(scope="module")
def model() -> Any:
    settings: dict[str, Any] = {"model": {"hidden": [8]}, "training": {"epochs": 5, "batch_size": 32}}
    return gpumlp.fit(TABLE, TARGET, backend="numpy", **settings)


def test_classes_never_seen_in_training_count_as_wrong_and_each_has_one_colour(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "MAX_RESAMPLES", 100)
    new = TARGET.astype(object)
    right = np.flatnonzero(model.predict(TABLE) == TARGET)[:2]
    new[right] = "x<y"
    model.report(tmp_path / "new.html", TABLE, new)
    page = (tmp_path / "new.html").read_text()
    measured = model.evaluate(TABLE, new)
    assert measured["accuracy"] == model.evaluate(TABLE, TARGET)["accuracy"] - 2 / ROWS
    assert re.search(rf"<td>accuracy</td><td[^>]*>{measured['accuracy']:.4g}</td>", page)
    assert "2 rows are of a class not seen in training, such as &#x27;x&lt;y&#x27;: counted as wrong" in page
    assert "Without 2 rows of classes that training has not seen." in page
    assert re.search(r"<td>not seen in training</td><td[^>]*>2</td>", page)
    worst = page.partition("<h2>Worst rows")[2]
    assert re.findall(r"row (\d+)</td><td[^>]*>x&lt;y \(new\)", worst) == right.astype(str).tolist()
    matrix = page.partition("<h2>Confusion matrix")[2].partition("</table>")[0]
    assert sum(int(each) for each in re.findall(r"<td[^>]*>(\d+)</td>", matrix)) == ROWS - 2
    legends = [
        dict(re.findall(r'<i class="b(\d)"></i>(c\d)', each))
        for each in re.findall('<ul class="legend">.*?</ul>', page)
    ]
    legends = [each for each in legends if each]  # not that of the losses
    assert len(legends) == 4  # ROC, precision and recall, two columns
    assert all(each == legends[0] for each in legends)
    assert sorted(legends[0].values()) == NAMES[3:]  # the most frequent
    drawn = [set(re.findall(r'class="(?:line|dots[a-z ]*) s(\d)"', figure)) for figure in page.split("<figure>")]
    assert sum(each == set(legends[0]) for each in drawn) == 4


def test_a_class_without_rows_takes_no_colour_from_others() -> None:
    curve = metrics.curves(np.array([0.1, 0.9]), np.array([False, True]), np.ones(2))
    html = sections._curves_of({"a": None, "b": curve, "c": curve}, "class")
    assert re.findall(r'class="b(\d)"></i>(\w)', html) == 2 * [("1", "b"), ("2", "c")]


def test_a_run_reports_on_rows_of_new_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "MAX_RESAMPLES", 100)
    rows = [f"{x},{'yn'[x % 2]}" for x in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    (tmp_path / "b.csv").write_text("\n".join(["x,y", *rows[::4], "1,new"]) + "\n")
    data = {"train": str(tmp_path / "a.csv"), "target": "y"}
    settings: dict[str, Any] = {"model": {"hidden": [2]}, "training": {"epochs": 1}, "backend": "numpy"}
    run = gpumlp.train(gpumlp.configure(task="classification", data=data, **settings), tmp_path / "run").folder
    notes = report(run, tmp_path / "r.html", data=tmp_path / "b.csv")
    assert any(
        "1 row is of a class not seen in training, such as 'new': counted as wrong" in str(each) for each in notes
    )
    assert "new (new)" in (tmp_path / "r.html").read_text()


def test_worst_rows_with_tied_losses_are_in_the_order_of_the_rows(model: Any) -> None:
    rows = Rows.of(model, gpumlp.data.with_columns(gpumlp.data.rows_of(TABLE), {"y": TARGET}))
    p = np.full((ROWS, 9), 0.1)
    p[np.arange(ROWS), CLASS] = 1e-3
    p[100, CLASS[100]] = 1e-12  # far below one in a million
    p[101, CLASS[101]] = 1e-9
    rounded = np.random.default_rng(1).uniform(1 - 1e-9, 1 + 1e-9, p.shape)
    for each in (p, p * rounded):
        order, errors = analysis.worst(replace(rows, probabilities=each))
        assert order.tolist() == [100, 101, *range(8)]
        assert errors[100] == pytest.approx(1 - 1e-12)
    numbers = SimpleNamespace(
        probabilities=None,
        weights=np.ones(4),
        numbers=lambda: (
            np.array([[2.0], [3.0], [1.0], [9.0]]) + 1e-12 * RNG.normal(size=(4, 1)),
            np.zeros((4, 1)) + 1,
        ),
    )
    order, _ = analysis.worst(numbers)  # type: ignore[arg-type]
    assert order.tolist() == [3, 1, 0, 2]

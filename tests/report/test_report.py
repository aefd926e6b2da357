"""The report on a run: what it measures is right, and the page shows any text as text."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import run as command

import gpumlp
from gpumlp import metrics
from gpumlp.config import Loaded, load
from gpumlp.errors import DataError, RunError
from gpumlp.report import Rows, analysis, charts, sections
from gpumlp.report.page import POLICY, page
from gpumlp.runs import Listener, load_trained, train
from gpumlp.runs.reports import report

Task = Callable[..., Loaded]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = """<img src=x onerror=alert(1)>"'&amp;</title></svg><script>alert(2)</script>\u202e"""
HEADINGS = ("Metrics", "Learning curves", "Importance of columns", "Partial dependence", "Data", "Network",
            "Settings that differ from the defaults", "How to reproduce")  # fmt: skip


class Page(HTMLParser):
    """What is in a page: tags with attributes, and the texts of headings and of pictures."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data


TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "nav", "a", "section", "div", "table",
    "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "desc", "path", "text", "ul", "li",
    "i", "pre", "details", "summary",
}  # fmt: skip


def checked(path: Path) -> Page:
    """Return a page after the checks that hold for all: it loads and runs nothing, and every picture has a text."""
    content = path.read_text()
    found = Page(content)
    assert {tag for tag, _ in found.tags} <= TAGS
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert {"src", "srcset", "action", "data"}.isdisjoint(attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    anchors = [str(attributes["id"]) for _, attributes in found.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    assert {str(attributes["href"])[1:] for tag, attributes in found.tags if tag == "a"} == set(anchors)
    pictures = len(found.texts["svg"])
    assert content.count('role="img"><title>') == pictures
    assert len(found.texts["title"]) == pictures + 1
    assert len(found.texts["desc"]) == pictures
    assert all(len(each) > 20 for each in found.texts["desc"])
    assert "url(" not in content
    assert "@import" not in content
    assert "nan" not in "".join(str(attributes) for tag, attributes in found.tags if tag == "path")
    return found


def test_the_report_on_a_run(task: Task, tmp_path: Path) -> None:
    folder = train(task(), tmp_path / "run").folder
    assert command("report", str(folder)).stdout.strip() == str(folder / "report.html")
    found = checked(folder / "report.html")
    for heading in (*HEADINGS, "Confusion matrix (test)", "ROC and precision-recall (test)", "Reliability (test)",
                    "Worst rows (test)"):  # fmt: skip
        assert heading in found.texts["h2"]
    cells = found.texts["td"]
    assert "model.activation" in cells
    assert '"tanh"' in cells
    assert "data.folder" not in cells
    before = (folder / "report.html").read_bytes()
    assert "--force" in command("report", str(folder), code=1).stderr
    command("report", str(folder), "--force")
    assert (folder / "report.html").read_bytes() == before
    train(task(), folder, force=True)
    assert not (folder / "report.html").exists()


def test_texts_of_a_file_stay_texts(tmp_path: Path) -> None:
    """The name of a column, a category, a class, the target, the file and the folder."""
    rng = np.random.default_rng(0)
    rows = [f"{rng.standard_normal()},{'pq'[i % 2]},{'uv'[i % 2]}" for i in range(80)]
    text = "\n".join(rows).replace("p", '"' + HOSTILE.replace('"', '""') + '"').replace("u", "'" + "<b>x</b>'")
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    (tmp_path / "<i>.csv").write_text(f"{quoted},c,<s>t</s>\n{text}\n")
    (tmp_path / "t.yaml").write_text(
        "task: classification\ndata: {train: '<i>.csv', target: '<s>t</s>'}\ntraining: {epochs: 2}\n"
    )
    folder = train(load(tmp_path / "t.yaml"), tmp_path / "<u>run").folder
    report(folder, tmp_path / "report.html")
    found = checked(tmp_path / "report.html")
    shown = HOSTILE.replace("\u202e", r"\u202e")
    assert shown in found.texts["td"]
    assert any(HOSTILE[:20] in each for each in found.texts["text"])
    assert "Run <u>run" in found.texts["h1"]


@pytest.mark.parametrize("kind", ["regression", "several", "quantiles", "many classes", "no test rows"])
def test_kinds_of_runs(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((120, 2))
    target = [f"c{v}" for v in rng.integers(0, 25, 120)] if kind == "many classes" else x[:, 0] + 1e-3 * x[:, 1]
    second = np.where(np.arange(120) % 9 == 0, "", np.round(x[:, 1], 3).astype(str))
    lines = [f"{a},{b},{t},{s}" for (a, b), t, s in zip(x, target, second, strict=True)]
    (tmp_path / "d.csv").write_text("\n".join(["a,b,t,s", *lines]) + "\n")
    targets = "[t, s]" if kind == "several" else "t"
    drop = "[]" if kind == "several" else "[s]"
    test = 0 if kind == "no test rows" else 0.25
    loss = "\nloss: quantile" if kind == "quantiles" else ""
    classes = kind == "many classes"
    (tmp_path / "t.yaml").write_text(
        f"task: {'classification' if classes else 'regression'}\n"
        f"data: {{train: d.csv, target: {targets}, drop: {drop}, split: {{validation: 0.2, test: {test}}}}}{loss}\n"
        "training: {epochs: 3}\n"
    )
    train(load(tmp_path / "t.yaml"), tmp_path / "run")
    report(tmp_path / "run", tmp_path / "report.html")
    found = checked(tmp_path / "report.html")
    part = "validation" if kind == "no test rows" else "test"
    assert ("Confusion matrix" if classes else "Predicted against true") + f" ({part})" in found.texts["h2"]
    if kind == "quantiles":
        assert "coverage" in found.texts["td"]
        (tmp_path / "d.csv").rename(tmp_path / "other.csv")  # the rows of the run need not be there
        (note,) = report(tmp_path / "run", tmp_path / "o.html", data=_with_a_gap(tmp_path / "other.csv"))
        assert "no target" in note
        assert "Predicted against true (other.csv)" in checked(tmp_path / "o.html").texts["h2"]


def _with_a_gap(path: Path) -> Path:
    """Return the file after a row without a target was added."""
    path.write_text(path.read_text() + "0.5,0.5,,\n")
    return path


def test_arrays_and_a_run_that_was_interrupted(tmp_path: Path) -> None:
    class Stop(Listener):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            if row["epoch"] == 2:
                raise KeyboardInterrupt

    rng = np.random.default_rng(2)
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((60, 3)), y=np.arange(60) % 2)
    (tmp_path / "t.yaml").write_text(
        "task: classification\ndata: {train: d.npz, target: y}\ntraining: {epochs: 5, checkpoint_every: 1}\n"
    )
    with pytest.raises(KeyboardInterrupt):
        train(load(tmp_path / "t.yaml"), tmp_path / "run", listener=Stop())
    (note,) = report(tmp_path / "run", tmp_path / "report.html")
    assert "has not finished" in note
    found = checked(tmp_path / "report.html")
    assert any("not finished after 2 of 5 epochs" in each for each in found.texts["p"])
    assert "Partial dependence" not in found.texts["h2"]


def test_a_model_from_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    table = {"x": rng.standard_normal(200), "noise": rng.standard_normal(200)}
    model = gpumlp.fit(table, 3 * table["x"], model={"hidden": [8]}, training={"epochs": 40})
    fresh = {"x": rng.standard_normal(50), "noise": rng.standard_normal(50)}
    model.report(tmp_path / "report.html", fresh, 3 * fresh["x"])
    found = checked(tmp_path / "report.html")
    assert found.texts["h2"][:2] == ["Metrics", "Predicted against true (given)"]
    assert "Learning curves" in found.texts["h2"]
    with pytest.raises(RunError, match="the file exists"):
        model.report(tmp_path / "report.html", fresh, 3 * fresh["x"])
    with pytest.raises(DataError):
        model.report(tmp_path / "other.html", {"x": fresh["x"]}, fresh["x"])
    assert not (tmp_path / "other.html").exists()


def test_usage(tmp_path: Path) -> None:
    train_only = tmp_path / "nothing"
    assert "not a run folder" in command("report", str(train_only), code=1).stderr
    assert "must end in .html" in command("report", str(train_only), "-o", "r.pdf", code=2).stderr


# ---- what is measured ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> Rows:
    """A regression of 3 x, with a column that says nothing, and one of texts."""
    rng = np.random.default_rng(4)
    count = 240
    table = {
        "x": rng.standard_normal(count),
        "noise": rng.standard_normal(count),
        "word": ["p", "q", ""] * (count // 3),
    }
    y = 3 * table["x"] + np.array([1.0, -1.0, 0.0] * (count // 3))
    model = gpumlp.fit(table, y, model={"hidden": [16]}, training={"epochs": 150})
    source = gpumlp.data.with_columns(gpumlp.data.rows_of(table), {"y": y})
    return Rows.of(model, source)


def test_importance_is_the_rise_of_the_error(rows: Rows) -> None:
    found = analysis.importance(rows, seed=0)
    assert list(found)[:2] == ["x", "word"]
    assert abs(found["noise"][0]) < 0.05 < 0.5 < found["word"][0] < found["x"][0]
    # permuted, the prediction is that of an independent x: the squared error is 2 · 9 · var(x)
    assert found["x"][0] == pytest.approx(np.sqrt(2) * 3 * np.std(np.asarray(rows.source.numbers("x"))), rel=0.15)
    assert analysis.importance(rows, seed=0) == found


def test_partial_dependence_is_the_mean_over_rows(rows: Rows) -> None:
    found = analysis.dependence(rows, "x", seed=0)
    slope, _ = np.polyfit(found.values, found.means[:, 0], 1)
    assert slope == pytest.approx(3, rel=0.1)
    words = analysis.dependence(rows, "word", seed=0)
    assert set(words.values) == {"p", "q", "missing"}
    means = dict(zip(words.values, words.means[:, 0], strict=True))
    assert means["p"] - means["missing"] == pytest.approx(1, abs=0.2)
    # by hand: all rows of the sample with the first value
    some = analysis.sample(rows, analysis.DEPENDENCE_ROWS, 0)
    table = {name: some.source.labels(name) if name == "word" else some.source.numbers(name) for name in rows.columns}
    by_hand = rows.model.predict({**table, "word": ["q"] * len(some)})  # type: ignore[attr-defined]
    assert means["q"] == pytest.approx(by_hand.mean(), rel=1e-5)


def test_of_many_classes_the_pairs_that_are_confused_most_are_listed() -> None:
    rng = np.random.default_rng(0)
    count = sections.MAX_MATRIX_CLASSES + 1
    targets, chosen, weights = rng.integers(0, count, 500), rng.integers(0, count, 500), rng.random(500)
    targets[:200] = chosen[:200]
    rows: Any = SimpleNamespace(targets=targets, weights=weights, known=np.ones(500, bool), chosen=lambda: chosen)
    names = [f"class {number}" for number in range(count)]
    confused = np.zeros((count, count))
    np.add.at(confused, (targets, chosen), weights)
    np.fill_diagonal(confused, 0)
    wanted = np.argsort(-confused, axis=None)[: sections.LISTED_PAIRS]
    cells = [cell for tag, cell in re.findall(r"<t(d)[^>]*>([^<]*)", sections._of_confusion(rows, names))]
    assert cells[:3] == [names[wanted[0] // count], names[wanted[0] % count], f"{confused.flat[wanted[0]]:,.6g}"]
    assert len(cells) == 3 * sections.LISTED_PAIRS
    assert cells[2::3] == [f"{confused.flat[i]:,.6g}" for i in wanted]
    rows.chosen = lambda: targets
    assert "<td" not in sections._of_confusion(rows, names)


def test_the_worst_rows(rows: Rows) -> None:
    order, errors = analysis.worst(rows)
    found, wanted = rows.numbers()
    np.testing.assert_array_equal(errors, np.abs(found - wanted)[:, 0])
    assert list(errors[order]) == sorted(errors, reverse=True)[:10]


def test_intervals_are_as_wide_as_the_spread_of_a_mean(rows: Rows) -> None:
    bounds, samples = analysis.intervals(rows, seed=0)
    found, wanted = rows.numbers()
    errors = np.abs(found - wanted)[:, 0]
    low, high = bounds["mae"]
    assert samples == 1000
    assert low < errors.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * errors.std() / np.sqrt(len(errors)), rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_curves_are_those_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    rng = np.random.default_rng(seed)
    count = 1 + 10**seed * 3
    positive = np.arange(count) % 2 == 0
    probability = np.round(rng.random(count), 1 + seed)  # with ties
    weights = rng.integers(1, 5, count).astype(np.float64)
    found = metrics.curves(probability, positive, weights)
    assert found is not None
    assert found.auc == pytest.approx(roc_auc_score(positive, probability, sample_weight=weights))
    average = average_precision_score(positive, probability, sample_weight=weights)
    assert found.average_precision == pytest.approx(average)
    false, true, _ = roc_curve(positive, probability, sample_weight=weights, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positives, false, atol=1e-12)
    np.testing.assert_allclose(found.recall, true, atol=1e-12)
    precision, _, _ = precision_recall_curve(positive, probability, sample_weight=weights)
    np.testing.assert_allclose(found.precision, precision[:-1][::-1], atol=1e-12)


def test_a_class_that_does_not_occur_has_no_curves() -> None:
    for positive in (np.zeros(4, bool), np.ones(4, bool)):
        assert metrics.curves(np.linspace(0, 1, 4), positive, np.ones(4)) is None
    assert metrics.curves(np.linspace(0, 1, 4), np.arange(4) > 1, np.array([1.0, 1.0, 0.0, 0.0])) is None


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0.001, 0.0012, [0.001, 0.00105, 0.0011, 0.00115, 0.0012]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert charts._round_values(low, high) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0.012672, 0.69747], ["0.0127", "0.094", "0.697"]), ([3.0, 20000.0], ["10", "100", "1000", "10000"])],
)
def test_ticks_of_a_logarithmic_scale_are_short(values: list[float], wanted: list[str]) -> None:
    series = [charts.Series("", np.arange(2.0), np.array(values))]
    drawn = charts.chart("t", "a", series, charts.Axis("x"), charts.Axis("y", logarithmic=True))
    assert [label for label in re.findall(r">([0-9.e+-]+)</text>", drawn) if label in wanted] == wanted


@pytest.mark.parametrize("values", [[], [5.0], [2.0, 2.0], [np.nan, 1.0, np.inf], [1e-300, 1e300], [-0.0, 0.0]])
def test_a_chart_of_any_values(values: list[float]) -> None:
    y = np.array(values, np.float64)
    for form in ("line", "dots"):
        series = [charts.Series("", np.arange(len(y), dtype=np.float64), y, form=form)]  # type: ignore[arg-type]
        drawn = charts.chart("t", "a", series, charts.Axis("x"), charts.Axis("y", logarithmic=True))
        assert not re.search(r"nan|inf", drawn)


@pytest.mark.parametrize("count", [1, 2, 6, 14, 40])
@pytest.mark.parametrize("length", [1, 5, 30])
def test_names_below_a_chart_do_not_touch_and_are_not_cut(count: int, length: int) -> None:
    """A character takes 6.5 units of the page at most, on the average."""
    names = tuple(chr(97 + i % 26) * length for i in range(count))
    dots = charts.Series("", np.arange(count), np.arange(count), form="dots")
    drawn = charts.chart("t", "a", [dots], charts.Axis("x", names=names), charts.Axis("y"))
    below = re.findall(r'<text x="([0-9.]+)" y="255" text-anchor="middle">([^<]*)</text>', drawn)
    spans = [(float(x) - 3.25 * len(label), float(x) + 3.25 * len(label)) for x, label in below]
    assert 1 <= len(spans) <= count
    assert len(spans) == count or length * count > 20
    assert spans[0][0] >= 0
    assert spans[-1][1] <= 400
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_has_nothing_to_say(task: Task, tmp_path: Path) -> None:
    """No error in its console; a page that breaks its own rules has one."""

    def opened(path: Path) -> tuple[str, str]:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path}/b",
        ]
        done = subprocess.run(
            [str(CHROMIUM), *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60
        )
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    folder = train(task(), tmp_path / "run").folder
    report(folder, tmp_path / "report.html")
    shown, console = opened(tmp_path / "report.html")
    assert "<h1>Run run</h1>" in shown
    assert shown.count("</svg>") == (tmp_path / "report.html").read_text().count("</svg>")
    assert console == ""
    bad = page("t", "a", []).replace("<body>", "<body><script>1</script>")
    (tmp_path / "bad.html").write_text(bad)
    assert "Content Security Policy" in opened(tmp_path / "bad.html")[1]
    assert "script" not in POLICY


def test_the_rows_of_a_report_are_unseen(task: Task, tmp_path: Path) -> None:
    result = train(task(), tmp_path / "run")
    report(result.folder, tmp_path / "r.html")
    model = load_trained(result.folder)
    assert model.calibration is not None
    cells = checked(tmp_path / "r.html").texts["td"]
    assert f"{result.summary['metrics']['test']['accuracy']:.4g}" in cells

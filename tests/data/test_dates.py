"""Columns of dates: what is one, what becomes of it, and that exports encode it alike."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run

from gpumlp.config import load
from gpumlp.data import Kind, read, rows_of, survey
from gpumlp.data.encoding.columns import TableInputs
from gpumlp.data.encoding.dates import CYCLES, ORDERS, Dates, doubt_of, parsed
from gpumlp.data.preparation import prepare
from gpumlp.data.source.frame import Codes
from gpumlp.errors import ConfigError, DataError
from gpumlp.export import export, standalone
from gpumlp.runs import load_trained, train

EPOCH = datetime.datetime(1970, 1, 1)


def fitted(texts: Sequence[str | None], **kinds: Kind) -> Dates | None:
    frame = rows_of({"when": list(texts)})
    assert hasattr(frame, "with_kinds")
    return Dates.fit("when", frame.with_kinds(kinds))


@pytest.mark.parametrize(
    ("text", "order", "wanted"),
    [
        ("1970-01-01", "ymd", 0),
        ("1969-12-31", "ymd", -1),
        ("2000-02-29", "ymd", 11016),
        ("1/3/2000", "dmy", 11017),
        ("3/1/2000", "mdy", 11017),
        ("01.03.2000", "dmy", 11017),
        ("1970-01-02 06:00", "ymd", 1.25),
        ("1970-01-02T06:00:00Z", "ymd", 1.25),
        ("1970-01-02T06:00:00+06:00", "ymd", 1),
        ("1970-01-02T06:00:00-0530", "ymd", 1.25 + 5.5 / 24),
        ("1970-01-01 00:00:00.5", "ymd", 0.5 / 86400),
        ("1/2/1970 12:00 AM", "mdy", 1),
        ("1/2/1970, 6:00:00 a.m.", "mdy", 1.25),
        ("1.2.1970 12:30pm", "dmy", 31 + 12.5 / 24),
        ("1/2/1970, 11:45:00\u202fPM", "mdy", 1 + 23.75 / 24),
        ("1970-01-02 6:00 PM +06:00", "ymd", 1.5),
        ("0001-01-01", "ymd", -719162),
        ("9999-12-31", "ymd", 2932896),
    ],
)
def test_a_date_is_days_since_1970(text: str, order: str, wanted: float) -> None:
    assert parsed(text, order) == pytest.approx(wanted, abs=1e-9)
    assert standalone._days(text, order, 0, "when", {"missing": []}) == parsed(text, order)


@pytest.mark.parametrize(
    "text",
    ["", "2000-02-30", "2001-02-29", "2000-13-01", "2000-1", "2000-01-01 24:00", "2000-01-01 1:60", "20000101", "1.5",
     "2000-01-01x", "٢٠٠٠-01-01", "2000-01-01 13:00 PM", "2000-01-01 0:30 AM", "2000-01-01 PM",
     "2000-01-01T", "0000-01-01", "12-2000", "1/2-2000"],
)  # fmt: skip
def test_other_texts_are_no_dates(text: str) -> None:
    for order in ORDERS:
        assert parsed(text, order) is None
        with pytest.raises(standalone._CellError) if text else nullcontext():
            standalone._days(text, order, 0, "when", {"missing": []})


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["2024-01-05", "2024-02-07", "2024-03-01"], "ymd"),
        (["5/1/2024", "13/2/2024", "1/3/2024"], "dmy"),
        (["1/5/2024", "2/13/2024", "3/1/2024"], "mdy"),
        (["5.1.2024", "7.2.2024", "1.3.2024"], "dmy"),  # with points the day is first
        (["5/1/2024", "7/2/2024", "1/3/2024"], None),  # which nobody can tell
        (["5/1/2024", "13/2/2024", "2/13/2024"], None),
        (["2024-01-05", "2024-02-07", "soon"], None),
        (["2024-01-05", "2024-02-07", "2024-01-05"], None),  # two dates are two categories
        (["2024-01-05", "2024-01-05", None], None),
    ],
)
def test_what_is_a_column_of_dates(texts: Sequence[str | None], order: str | None) -> None:
    found = fitted(texts)
    assert (found and found.order) == order


@pytest.mark.parametrize(
    ("texts", "remark"),
    [
        (["2024-01-05", "2024-02-07"], None),
        (["5/1/2024", "7/2/2024", "1/3/2024"], "whether the month or the day is first is not clear"),
        (["5/1/2024", "13/2/2024", "2/13/2024"], "such as '5/1/2024'; write"),
        (["2024-01-05", "13.2.2024", "2/13/2024"], "such as '2024-01-05' and '13.2.2024' and '2/13/2024'; write"),
        ([*(f"2024-01-{day:02}" for day in range(1, 20)), "soon"], "because of 'soon': correct such cells"),
        (["2024-01-05", "soon", "later"], None),
        (["soon"], None),
        ([], None),
    ],
)
def test_the_doubt_about_columns_that_are_nearly_dates(texts: Sequence[str], remark: str | None) -> None:
    found = doubt_of(Codes(np.array(texts, object), np.arange(len(texts), dtype=np.int32)))
    assert found is remark is None or (found and remark and remark in found)


def test_the_cycles_that_a_column_has() -> None:
    start = datetime.datetime(2023, 1, 2)

    def cycles(count: int, **step: int) -> tuple[str, ...] | None:
        found = fitted([str(start + i * datetime.timedelta(**step)) for i in range(count)])
        return None if found is None else found.cycles

    assert cycles(400, days=1) == ("year", "week")
    assert cycles(20, days=1) == ("week",)
    assert cycles(60, days=7) == ("year",)  # always a Monday
    assert cycles(48, hours=1) == ("day",)
    assert cycles(2000, hours=11) == ("year", "week", "day")


def test_features_are_elapsed_time_and_places_in_cycles() -> None:
    days = [datetime.datetime(2022, 1, 1) + datetime.timedelta(hours=7 * i) for i in range(2000)]
    texts: list[str | None] = [None, *map(str, days[1:])]
    inputs, notes = TableInputs.fit(rows_of({"when": texts}), ["when"], scaling="robust")  # type: ignore[arg-type]
    assert inputs.features == (
        "when (elapsed)",
        *(f"when ({cycle}, {wave})" for cycle in CYCLES for wave in ("sine", "cosine")),
        "when is missing",
    )
    assert notes == ["column 'when' has dates: encoded as elapsed time and the cycles of year, week, day"]
    features, _ = inputs.encode(rows_of({"when": texts}), others=())
    found = features.stored.astype(np.float64)
    assert found.shape == (2000, 8)
    np.testing.assert_array_equal(found[0], [0, 0, 0, 0, 0, 0, 0, 1])
    elapsed = np.array([(day - EPOCH) / datetime.timedelta(days=1) for day in days[1:]])
    wanted = [(elapsed - np.median(elapsed)) / elapsed.std()]
    for length in CYCLES.values():
        wanted += [np.sin(2 * np.pi * elapsed / length), np.cos(2 * np.pi * elapsed / length)]
    np.testing.assert_allclose(found[1:], np.stack([*wanted, 0 * elapsed], axis=1), atol=1e-6)
    again = TableInputs.from_state(_state(inputs))
    assert again.dates == inputs.dates


def _state(inputs: TableInputs) -> Any:
    from gpumlp.data.state import StateReader

    return StateReader(*inputs.to_state())


def test_a_weight_of_two_counts_as_two_rows() -> None:
    dates = [f"2024-01-{day:02}" for day in (1, 2, 5, 9, 20, 28)]
    weights = [1, 2, 1, 3, 1, 1]
    once = {"d": dates, "x": list(range(6)), "w": weights, "y": [0.0, 1, 2, 3, 4, 5]}
    often = {
        name: [v for v, w in zip(values, weights, strict=True) for _ in range(w)] for name, values in once.items()
    }
    options: dict[str, Any] = {"task": "regression", "target": "y", "validation": 0.0, "test": 0.0}
    one = prepare(once, weights="w", **options).encoder.inputs
    other = prepare({k: v for k, v in often.items() if k != "w"}, **options).encoder.inputs
    assert isinstance(one, TableInputs)
    assert isinstance(other, TableInputs)
    assert one.dates[0].center == other.dates[0].center


def test_kinds_that_the_user_gives() -> None:
    texts = [f"2024-01-{day:02}" for day in range(1, 20)]
    assert fitted(texts) is not None
    assert fitted(texts, when=Kind("category")) is None
    assert fitted(texts[:2] * 5, when=Kind("date")) is not None
    with pytest.raises(DataError, match=r"column 'when' should have dates, but this cell is 'soon'"):
        fitted([*texts, "soon"], when=Kind("date"))


def test_typed_columns_of_dates(tmp_path: Path) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    days = [datetime.datetime(2024, 1, 1, 5) + datetime.timedelta(days=3 * i) for i in range(30)]
    written = tmp_path / "d.csv"
    written.write_text("\n".join(["when", *map(str, days)]) + "\n")
    polars.DataFrame({"when": days}).write_parquet(tmp_path / "d.parquet")
    found = [
        survey(source, ["when"])[0].text
        for source in (
            read(written),
            read(tmp_path / "d.parquet"),
            rows_of(pandas.DataFrame({"when": pandas.to_datetime(days)})),
            rows_of(polars.DataFrame({"when": days})),
            rows_of({"when": days}),
            rows_of({"when": np.array(days, "datetime64[s]")}),
        )
    ]
    assert set(found) == {"dates from 2024-01-01 to 2024-03-28; elapsed time and cycles of week"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows whose target is a matter of the season and the hour."""
    place = tmp_path_factory.mktemp("dates")
    rng = np.random.default_rng(0)
    start = datetime.datetime(2021, 3, 1)
    lines = []
    for i in range(500):
        when = start + datetime.timedelta(hours=int(rng.integers(0, 2 * 8766)))
        day = datetime.date(2020, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 700)))
        days = (when - EPOCH) / datetime.timedelta(days=1)
        y = 3 * np.sin(2 * np.pi * days / 365.2425) + np.cos(2 * np.pi * days) + rng.standard_normal() / 20
        shown = "" if i % 50 == 7 else f"{day.day}.{day.month}.{day.year}"
        lines.append(f"{when.isoformat()},{shown},{rng.standard_normal():.3f},{'ab'[i % 2]},{y:.4f}")
    (place / "d.csv").write_text("\n".join(["when,day,x,word,y", *lines]) + "\n")
    (place / "t.yaml").write_text(
        "task: regression\ndata: {train: d.csv, target: y}\nmodel: {hidden: [16]}\n"
        "training: {epochs: 150}\noptimizer: {learning_rate: 0.01}\n"
    )
    result = train(load(place / "t.yaml"), place / "run")
    assert result.summary["metrics"]["test"]["rmse"] < 0.4
    assert any("written day, month, year" in note for note in result.notes)
    return place


@pytest.mark.parametrize("ending", ["py", "onnx"])
def test_exports_encode_dates_alike(folder: Path, tmp_path: Path, ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnx")
    export(folder / "run", tmp_path / f"model.{ending}")
    if ending == "py":
        rows = "when,day,x,word\n2022-07-01T12:30:15.25+02:00,3.4.2021,0.5,a\n2022-07-01 00:00,,0.5,new\n"
        (tmp_path / "new.csv").write_text(rows)
        command = [sys.executable, str(tmp_path / "model.py"), str(tmp_path / "new.csv")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wanted = load_trained(folder / "run").predict(tmp_path / "new.csv")
        np.testing.assert_allclose([float(line) for line in done.stdout.split()[1:]], wanted, rtol=1e-5)
        (tmp_path / "new.csv").write_text("when,day,x,word\nsoon,3.4.2021,0.5,a\n")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "column 'when' should have dates, but this cell is 'soon'" in done.stderr


def test_what_does_not_fit_when_predicting(folder: Path, tmp_path: Path) -> None:
    model = load_trained(folder / "run")
    (tmp_path / "new.csv").write_text("when,day,x,word\n2022-07-01,3.4.2021,0.5,a\n31.12.2021,3.4.2021,0.5,a\n")
    with pytest.raises(DataError, match=r"new.csv:3: column 'when' should have dates, but this cell is '31.12.2021'"):
        model.predict(tmp_path / "new.csv")
    (tmp_path / "gap.csv").write_text("when,day,x,word\n,3.4.2021,0.5,a\n")
    shown = run("predict", folder / "run", tmp_path / "gap.csv")
    assert "column 'when' has missing values (none in training)" in shown.stderr


def test_it_is_said_of_columns(folder: Path, tmp_path: Path) -> None:
    shown = run("init", folder / "d.csv").stdout
    assert re.search("when  dates from 2021-03-0. to 2023-0.-..; elapsed time and cycles of year, week, day", shown)
    (tmp_path / "a.csv").write_text(
        "\n".join(["d,y", *(f"{i % 12 + 1}/{i % 7 + 1}/2024,{i}" for i in range(60))]) + "\n"
    )
    text = run("init", tmp_path / "a.csv").stdout
    assert "whether the month or the day is first is not clear" in text
    (tmp_path / "t.yaml").write_text(
        "task: regression\ndata: {train: a.csv, target: y, columns: {d: {type: date, unit: x}}}\n"
    )
    with pytest.raises(ConfigError, match="dates have no number format"):
        load(tmp_path / "t.yaml")


def test_a_report_draws_what_dates_do(folder: Path, tmp_path: Path) -> None:
    run("report", folder / "run", "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Partial dependence on when, from 2021" in page


@pytest.mark.parametrize(("zone", "hours"), [("+00", 0), ("+05", 5), ("-03", -3), ("-03:30", -3.5), ("+0530", 5.5)])
def test_zones_of_hours_alone_as_the_engine_writes_them(zone: str, hours: float) -> None:
    assert parsed(f"1970-01-02 12:00:00{zone}", "ymd") == 1.5 - hours / 24

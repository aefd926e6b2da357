"""Predictions as files, and in blocks: the same numbers whatever the format and however many blocks."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpumlp
from gpumlp import runs
from gpumlp.cli import main
from gpumlp.config import load
from gpumlp.data import ArrayTable, News, read, read_blocks
from gpumlp.data.source import arrays, delimited, room
from gpumlp.errors import ConfigError, DataError
from gpumlp.runs import load_trained, predictions
from gpumlp.runs.predictions import FORMATS, ending_of, write_predictions
from gpumlp.training.calibration import softmax

COLUMNS = {
    "name": np.array(["a", "b,\"c\"", "ü"], object),
    "whole": np.array([1, -2, 3]),
    "p": np.array([0.1, 1e-300, 1.0]),
}  # fmt: skip


def blocks(count: int = 2):
    for _ in range(count):
        yield dict(COLUMNS)


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def from_parquet(path: Path) -> list[list[object]]:
    import duckdb

    found = duckdb.connect().execute(f"SELECT * FROM read_parquet('{path}')")
    return [[column[0] for column in found.description], *map(list, found.fetchall())]


READERS: dict[str, Callable[[Path], list[list[object]]]] = {
    ".csv": lambda path: read_csv(path.read_text("utf-8")),
    ".csv.gz": lambda path: read_csv(gzip.decompress(path.read_bytes()).decode()),
    ".jsonl": lambda path: (
        rows := [json.loads(line) for line in path.read_text("utf-8").splitlines()],
        [list(rows[0]), *(list(row.values()) for row in rows)],
    )[1],
    ".parquet": from_parquet,
}


@pytest.mark.parametrize("ending", READERS)
def test_every_format_keeps_every_value(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    write_predictions(path, blocks())
    header, *rows = READERS[ending](path)
    assert header == list(COLUMNS)
    assert [row[0] for row in rows] == [*COLUMNS["name"], *COLUMNS["name"]]
    assert [int(row[1]) for row in rows] == [1, -2, 3] * 2
    assert [float(row[2]) for row in rows] == [0.1, 1e-300, 1.0] * 2


def test_npy_has_the_numbers_or_the_names(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.npy", blocks())
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.array([0.1, 1e-300, 1.0] * 2)[:, None])
    write_predictions(tmp_path / "b.npy", iter([{"prediction": COLUMNS["name"]}]))
    assert np.load(tmp_path / "b.npy").tolist() == COLUMNS["name"].tolist()
    write_predictions(tmp_path / "c.npy", iter([{"prediction": COLUMNS["p"]}]))
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), COLUMNS["p"])


def test_the_same_predictions_are_the_same_bytes(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.csv.gz", blocks())
    write_predictions(tmp_path / "b.csv.gz", blocks())
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
def test_what_goes_wrong_in_a_block_leaves_nothing_behind(tmp_path: Path, ending: str) -> None:
    def broken():
        yield from blocks()
        raise DataError("the third block is wrong", where="x:9")

    path = tmp_path / f"out{ending}"
    path.write_bytes(b"before")
    with pytest.raises(DataError, match="x:9: the third block is wrong"):
        write_predictions(path, broken())
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_other_endings_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a\.xlsx'\n  the name must end in one of: \.csv \.csv\.gz"):
        ending_of(tmp_path / "a.xlsx")
    assert ending_of(Path("/dev/null")) == ".csv"


def test_both_probabilities_of_two_classes_keep_their_digits() -> None:
    z = np.array([[-40.0], [0.0], [1.0], [40.0], [800.0]])
    found = softmax(z)
    assert found[1].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(found[2], [1 / (1 + math.e), math.e / (1 + math.e)], rtol=1e-15)
    np.testing.assert_allclose([found[0, 1], found[3, 0]], math.exp(-40), rtol=1e-15)  # 1 - p would be 0
    assert found[4].tolist() == [0.0, 1.0]
    many = softmax(np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]]))
    np.testing.assert_allclose(many.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(many[0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-15)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    rng = np.random.default_rng(0)
    lines = [f"{x:.4f},{'uvw'[i % 3]},{i:05},{'yn'[int(x > 0)]}" for i, x in enumerate(rng.standard_normal(300))]
    (folder / "a.csv").write_text("\n".join(["x,word,id,y", *lines]) + "\n")
    (folder / "run.yaml").write_text(
        "task: classification\ndata: {train: a.csv, target: y, drop: [id]}\nmodel: {hidden: [8]}\n"
        "training: {epochs: 5, batch_size: 32}\n"
    )
    result = CliRunner().invoke(main, ["train", str(folder / "run.yaml"), "--run-dir", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder


def predict(trained: Path, *args: str, stdin: bytes | None = None, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["predict", str(trained / "run"), *args], input=stdin)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_blocks_predict_what_the_whole_file_does(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_trained(trained / "run")
    whole = model.predict_proba(trained / "a.csv")
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    news = News()
    sources = read_blocks(trained / "a.csv", model.encoder.dialect, texts=model.encoder.texts)
    found = [p for _, p in model.predictions(sources, news)]
    probabilities = np.concatenate([p.probabilities for p in found])
    np.testing.assert_allclose(probabilities, whole, rtol=1e-6)
    assert np.concatenate([p.values for p in found]).tolist() == (whole[:, 1] > 0.5).astype(int).tolist()
    assert not news.notes()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_few_rows_are_predicted_at_a_time_where_outputs_are_many(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path, few = str(trained / "a.csv"), tmp_path / f"few{ending}"
    predict(trained, path, "--proba", "--keep", "id", "-o", str(tmp_path / f"all{ending}"))
    monkeypatch.setattr(predictions, "MAX_OUTPUTS", 7)
    predict(trained, path, "--proba", "--keep", "id", "-o", str(few))
    if ending == ".npy":
        np.testing.assert_allclose(np.load(few), np.load(tmp_path / "all.npy"), rtol=1e-6)
    else:
        found, whole = (rows_of(read(place)) for place in (few, tmp_path / f"all{ending}"))
        assert [row[:2] for row in found] == [row[:2] for row in whole]
        np.testing.assert_allclose(*([row[2:] for row in rows] for rows in (found, whole)), rtol=1e-6)


def rows_of(frame: Any) -> list[tuple[Any, ...]]:
    texts = [frame.labels(name) for name in frame.names[:2]]
    return list(zip(*texts, *(frame.numbers(name).tolist() for name in frame.names[2:]), strict=True))


def test_arrays_come_in_pieces_where_their_rows_are_known() -> None:
    x, y = np.arange(22).reshape(11, 2), np.arange(11)
    table = ArrayTable("a", {"x": x, "y": y})
    found = [each.block("x") for each in predictions.pieces([table], predictions.MAX_OUTPUTS // 4)]
    assert [len(each) for each in found] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(found), x)
    unclear = ArrayTable("a", {"x": x, "other": x[:5], "y": y})
    assert [each is unclear for each in predictions.pieces([unclear], predictions.MAX_OUTPUTS)] == [True]
    part = unclear.take(np.array([9, 3]))
    assert [each.block("x").tolist() for each in predictions.pieces([part], predictions.MAX_OUTPUTS)] == [
        [[18, 19]],
        [[6, 7]],
    ]


def test_kept_columns_stand_first_as_they_were_written(trained: Path) -> None:
    path = str(trained / "a.csv")
    plain = read_csv(predict(trained, path))
    header, *rows = read_csv(predict(trained, path, "--keep", "id", "--keep", "x"))
    assert header == ["id", "x", "prediction"]
    assert [row[0] for row in rows[:3]] == ["00000", "00001", "00002"]
    assert [[row[2]] for row in rows] == plain[1:]
    written = read(path)
    header, *rows = read_csv(predict(trained, path, "--keep", "all", "--proba"))
    assert header == ["x", "word", "id", "y", "prediction", "probability n", "probability y"]
    assert [row[0] for row in rows] == written.labels("x").tolist()
    assert "there is no column 'idd'\n  did you mean 'id'?" in predict(trained, path, "--keep", "idd", code=3)


def test_a_column_that_predictions_would_hide_is_not_kept(trained: Path, tmp_path: Path) -> None:
    lines = (trained / "a.csv").read_text().splitlines()
    path = tmp_path / "b.csv"
    path.write_text("\n".join([lines[0] + ",prediction", *(line + ",1" for line in lines[1:])]) + "\n")
    assert "'prediction' cannot be kept" in predict(trained, str(path), "--keep", "all", code=3)


def test_long_standard_input_is_read_in_blocks(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (trained / "a.csv").read_bytes()
    from_file = predict(trained, str(trained / "a.csv"), "--proba")
    assert predict(trained, "-", "--proba", stdin=content) == from_file
    monkeypatch.setattr(delimited, "COPY_BYTES", 512)
    assert predict(trained, "-", "--proba", stdin=content) == from_file


def test_the_ending_is_looked_at_before_the_model_is(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(tmp_path), "nothing.csv", "-o", str(tmp_path / "a.xls")])
    assert result.exit_code == 2
    assert "'a.xls'" in result.stderr


def test_evaluate_measures_blocks_as_it_does_the_whole(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics() -> dict[str, float]:
        command = ["evaluate", str(trained / "run"), "--data", str(trained / "a.csv"), "--json"]
        found: dict[str, float] = json.loads(CliRunner().invoke(main, command).stdout)["a.csv"]
        return found

    whole = metrics()
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    assert metrics() == whole


def test_evaluate_counts_new_classes_as_wrong_and_leaves_rows_without_a_target_out(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, *rows = (trained / "a.csv").read_text().splitlines()
    column = header.split(",").index("y")

    def written(name: str, label: str, count: int) -> Path:
        cells = [row.split(",") for row in rows]
        for row in cells[:count]:
            row[column] = label
        (trained / name).write_text("\n".join([header, *map(",".join, cells)]) + "\n")
        return trained / name

    def evaluate(name: Path) -> dict[str, float]:
        metrics, notes = runs.evaluate(trained / "run", name)
        found.extend(notes)
        return metrics[name.name]

    found: list[str] = []
    monkeypatch.setattr(delimited, "START_CELLS", 0)  # in blocks
    new, lacking = written("new.csv", "strange", 4), written("lacking.csv", "", 4)
    (trained / "fewer.csv").write_text("\n".join([header, *rows[4:]]) + "\n")
    fewer = evaluate(trained / "fewer.csv")
    assert evaluate(lacking) == fewer
    assert found == [f"4 of {len(rows)} rows have no target and are left out"]
    wrong = evaluate(new)
    assert wrong["accuracy"] == pytest.approx(fewer["accuracy"] * (1 - 4 / len(rows)))
    assert wrong["macro_f1"] < fewer["macro_f1"]
    assert {k: wrong[k] for k in ("loss", "log_loss")} == pytest.approx({k: fewer[k] for k in ("loss", "log_loss")})
    assert "4 rows are of a class not seen in training, such as 'strange': counted as wrong" in found[-1]
    assert runs.load_trained(trained / "run").evaluate(new)["accuracy"] == pytest.approx(wrong["accuracy"])
    alone = evaluate(written("alone.csv", "strange", len(rows)))
    assert alone["accuracy"] == 0
    assert np.isnan(alone["loss"])
    with pytest.raises(DataError, match="no row has a target"):
        evaluate(written("none.csv", "", len(rows)))


def test_arrays_beyond_memory_are_predicted_and_measured_by_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    (tmp_path / "a.yaml").write_text(
        "task: classification\ndata: {train: a.npz, target: y}\ntraining: {epochs: 2}\nbackend: numpy\n"
    )
    runs.train(load(tmp_path / "a.yaml"), tmp_path / "run")

    def found() -> tuple[bytes, dict[str, float]]:
        given = ["predict", str(tmp_path / "run"), str(tmp_path / "a.npz"), "--proba", "--force"]
        result = CliRunner().invoke(main, [*given, "-o", str(tmp_path / "out.csv")])
        assert result.exit_code == 0, result.output
        metrics, _ = runs.evaluate(tmp_path / "run", tmp_path / "a.npz")
        return (tmp_path / "out.csv").read_bytes(), metrics["a.npz"]

    wanted = found()
    monkeypatch.setattr(room, "host_memory", lambda: 4000)
    monkeypatch.setattr("gpumlp.runs.model.MAX_ENCODED_BYTES", 2400)
    monkeypatch.setenv("GPUMLP_CACHE", str(tmp_path / "cache"))
    moved: list[tuple[int, ...]] = []

    def counted(read: Any, shape: tuple[int, ...], *more: Any, on_disk: Any = arrays.on_disk, **named: Any) -> Any:
        moved.append(shape)
        return on_disk(read, shape, *more, **named)

    monkeypatch.setattr(arrays, "on_disk", counted)
    text, metrics = found()
    assert moved.count((600, 5)) == 2
    assert text == wanted[0]
    assert metrics == pytest.approx(wanted[1], rel=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_a_row_whose_prediction_is_not_finite_is_named(task: str) -> None:
    """A class of NaN would be the first one."""
    x = np.random.default_rng(0).random((60, 2), np.float32)
    y = {"classification": np.where(x[:, 0] > 0.5, "b", "a"), "regression": x[:, 0]}.get(task, (x > 0.5).astype(int))
    few = {"model": {"hidden": [4], "numbers": "ple"}, "training": {"epochs": 1}, "backend": "numpy"}
    model = gpumlp.fit(x, y, task=task, data={"scaling": "none"}, **few)
    far = x[:5].copy()
    far[3] = -1e30, 1e30
    assert len(model.predict(far)) == 5
    far[3, 1] = 3.4e38
    with pytest.raises(DataError, match="row 3: the prediction is not finite, since a number is too far"):
        model.predict(far)

from __future__ import annotations

import datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from gpumlp.data import Dialect, prepare_files, read, read_blocks
from gpumlp.data.source import engine, typed
from gpumlp.data.source.frame import Numbers
from gpumlp.data.source.room import Room, reading_into
from gpumlp.errors import DataError


@pytest.fixture
def write(tmp_path: Path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes the files; it is in the extra 'oracle'")
    from pyarrow import parquet

    def write(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    return write


def test_the_same_rows_as_csv_and_as_parquet_are_encoded_alike(write, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(60)
    text = [None if i % 7 == 0 else "abc"[i % 3] + " " for i in range(60)]
    whole, truth, y = np.arange(60) % 5, np.arange(60) % 2 == 0, x * 2 + 1
    path = write(x=x, text=text, whole=whole, truth=truth, y=y)
    lines = [f"{a!r},{t or ''},{w},{str(bool(b)).lower()},{v!r}"
             for a, t, w, b, v in zip(x.tolist(), text, whole, truth, y.tolist(), strict=True)]  # fmt: skip
    (tmp_path / "a.csv").write_text("\n".join(["x,text,whole,truth,y", *lines]) + "\n")
    one, other = (
        prepare_files(name, task="regression", target="y", folder=tmp_path) for name in (path.name, "a.csv")
    )
    assert one.encoder.features == other.encoder.features
    assert one.fingerprint == other.fingerprint


def test_null_numbers_are_gaps(write):
    table = read(write(a=[1.5, None, 2.5], b=["x", "y", "z"]))
    np.testing.assert_array_equal(table.numbers("a"), [1.5, np.nan, 2.5])
    assert table.where(1).endswith("a.parquet:2")


def test_dictionary_columns_keep_only_what_occurs(write):
    import pyarrow as pa

    column = pa.DictionaryArray.from_arrays(pa.array([0, 2, None]), pa.array(["x", "unused", "y "]))
    assert sorted(read(write(a=column)).column("a").texts) == ["", "x", "y"]


def test_what_is_no_parquet_or_no_table(write, tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path / "b.parquet")
    nested = read(write(a=[[1, 2], [3]], b=[1, 2]))
    for use in (nested.numbers, nested.try_numbers, nested.labels, nested.column):
        with pytest.raises(DataError, match="column 'a' holds lists, not single values"):
            use("a")
    assert nested.numbers("b").tolist() == [1, 2]
    with pytest.raises(DataError, match="no rows"):
        read(write(a=np.zeros(0)))


def test_times_with_a_zone_do_not_depend_on_the_clock_of_the_machine(tmp_path):
    polars = pytest.importorskip("polars")
    with engine.engine([]) as connection:
        assert connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
    polars.DataFrame({"when": [datetime.datetime(2024, 1, 1, 23, tzinfo=datetime.UTC)]}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet").labels("when").tolist() == ["2024-01-01 23:00:00+00"]


@pytest.mark.parametrize("place", ["memory", "file"])
def test_columns_of_a_file_are_divided_among_readers(tmp_path, monkeypatch, place):
    """Of a file with one group of rows; where the columns go to a file, one reads them all."""
    path, rows = tmp_path / "a.parquet", 3000
    selected = "i % 7 AS a, CASE WHEN i % 5 = 0 THEN NULL ELSE i / 3 END AS b, 't' || i % 11 AS c, i::FLOAT AS d"
    duckdb.sql(f"COPY (SELECT {selected} FROM range({rows}) r(i)) TO '{path}'")
    alone = read(path)
    monkeypatch.setattr(typed, "MIN_SHARED_CELLS", 1)
    monkeypatch.setattr(engine, "available_threads", lambda: 3)
    opened, open_engine = [], engine.engine
    monkeypatch.setattr(engine, "engine", lambda *args, **more: (opened.append(1), open_engine(*args, **more))[1])
    with reading_into(Room() if place == "memory" else Room(tmp_path, 0)):
        together = read(path)
    assert len(opened) == (3 if place == "memory" else 1)
    assert together.names == alone.names == ("a", "b", "c", "d")
    for name in alone.names:
        one, other = alone.columns[name], together.columns[name]
        if isinstance(one, Numbers):
            np.testing.assert_array_equal(one.values, other.values)
        assert one.written().texts.tolist() == other.written().texts.tolist()
        assert one.written().codes.tolist() == other.written().codes.tolist()


def test_an_error_of_one_reader_is_that_of_all(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    duckdb.sql(f"COPY (SELECT i AS a, i AS b FROM range(100) r(i)) TO '{path}'")
    monkeypatch.setattr(typed, "MIN_SHARED_CELLS", 1)
    monkeypatch.setattr(engine, "available_threads", lambda: 2)
    monkeypatch.setattr(typed.TypedCells, "number", lambda cells, name: "error('no')" if name == "b" else "a::DOUBLE")
    with pytest.raises(DataError, match="cannot be read as Parquet: no"):
        read(path)


def test_names_that_differ_in_case_alone_are_those_of_the_file(write):
    path = write(a=[1.5, 2.5], A=["x", "y"], rows=[{"a": 1, "b": [1]}, {"a": 2, "b": []}], Rows=[1, 2], last=[3, 4])
    for frame in (read(path), next(read_blocks(path, Dialect()))):
        assert frame.names == ("a", "A", "rows", "Rows", "last")
        assert frame.labels("A").tolist() == ["x", "y"]
        assert [frame.numbers(name).tolist() for name in ("a", "Rows", "last")] == [[1.5, 2.5], [1, 2], [3, 4]]
    assert read(path, texts=["Rows"]).columns["Rows"].written().texts.tolist() == ["1", "2"]

from __future__ import annotations

import base64
import datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from gpumlp.data import Dialect, prepare_files, read, read_blocks, rows_of
from gpumlp.data.source import arrow_schema, engine, typed
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


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("writer", ["pyarrow", "pandas", "polars"])
def test_times_that_passed_are_seconds(write, tmp_path, unit, writer):
    """They are plain integers in the file; as whose model a DataFrame of the same rows would be taken for seconds."""
    pa = pytest.importorskip("pyarrow")
    path, passed = tmp_path / "a.parquet", pa.array([90, None, -2], pa.duration("s")).cast(pa.duration(unit))
    columns = {"n": pa.array([1, 2, 3]), "nested": pa.array([{"a": 1}] * 3), "passed": passed, "x": [0.5, 1, 1.5]}
    match writer:
        case "pyarrow":
            write(**columns)
        case "pandas":
            pa.table(columns).to_pandas().to_parquet(path)
        case "polars":
            pytest.importorskip("polars").from_arrow(pa.table(columns)).write_parquet(path)
    for frame in (read(path), next(read_blocks(path, Dialect())), rows_of(pa.table(columns).drop(["nested"]))):
        np.testing.assert_array_equal(frame.numbers("passed"), [90, np.nan, -2])
        assert (frame.type_of("passed"), frame.labels("passed").tolist()) == ("number", ["90", "", "-2"])
        assert frame.numbers("n").tolist() == [1, 2, 3]


def test_a_damaged_schema_of_arrow_changes_nothing(write):
    import pyarrow as pa

    path = write(a=pa.array([1, 2], pa.duration("ns")))
    content = path.read_bytes()
    ((schema,),) = duckdb.sql(
        f"SELECT value FROM parquet_kv_metadata('{path}') WHERE key = 'ARROW:schema'"
    ).fetchall()
    assert arrow_schema.durations_of(schema) == {"a": 10**9}
    message = bytearray(base64.b64decode(schema))
    for place in range(len(message)):
        for value in (0, 1, 127, 255):
            damaged = base64.b64encode(message[:place] + bytes([value]) + message[place + 1 :])
            assert set(arrow_schema.durations_of(damaged).values()) <= set(arrow_schema.UNITS)
    for length in range(len(schema)):
        assert set(arrow_schema.durations_of(schema[:length]).values()) <= set(arrow_schema.UNITS)
    path.write_bytes(content.replace(schema, b"A" * len(schema)))
    assert read(path).numbers("a").tolist() == [1, 2]

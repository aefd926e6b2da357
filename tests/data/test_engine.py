"""What the engine reads is what our own reader reads: the same cells, numbers, lines and errors."""

from __future__ import annotations

import gzip
import json
import random
from functools import partial
from pathlib import Path

import arro3.core
import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumlp.data import Dialect, Encoder, Frame, Missing, News, prepare_files, read, read_blocks
from gpumlp.data.source import delimited, engine
from gpumlp.data.source.delimited import TextFile
from gpumlp.data.source.dialect import DETECT
from gpumlp.data.source.engine import EngineRefusalError
from gpumlp.data.source.frame import Codes, Nested, Numbers, PartOfCodes, concatenated
from gpumlp.data.source.room import Room, is_in_file, reading_into
from gpumlp.errors import DataError

NUMERIC = Dialect(missing=Missing(frozenset(("", "-999")), frozenset(("-",))))


@pytest.fixture
def everything_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "START_CELLS", 0)


@pytest.fixture(params=["engine", "wide"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read everything by the engine, then as tables that are too wide for it."""
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    if request.param == "wide":
        monkeypatch.setattr(delimited, "ENGINE_COLUMNS", 1)


def by_hand(path: Path, dialect: Dialect = Dialect()) -> Frame:  # noqa: B008
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "START_CELLS", 10**9)
        return read(path, dialect)


def numbers_or_error(frame: Frame, name: str):
    try:
        found = frame.try_numbers(name)
    except DataError as error:
        return str(error)
    return None if found is None else found.tolist()


def assert_alike(one: Frame, other: Frame) -> None:
    assert (one.names, one.dialect, one.notes, len(one)) == (other.names, other.dialect, other.notes, len(other))
    for name in one.names:
        np.testing.assert_equal(numbers_or_error(one, name), numbers_or_error(other, name))
        np.testing.assert_equal(one.labels(name).tolist(), other.labels(name).tolist())
        assert one.column(name).texts.tolist() == other.column(name).texts.tolist()
        assert one.gap_markers(name) == other.gap_markers(name)
        assert one.remedy(name) == other.remedy(name)
    assert [one.where(row) for row in range(len(one))] == [other.where(row) for row in range(len(other))]


ODD = {
    "plain": "a,b\n1,x\n2,y\n3,x\n",
    "blank lines, blanks and quotes": 'a,b\n\n 1 , "x, y"\n2,z \n\n"3","q ""r"""\n',
    "lines within cells": 'a,b\n1,"two\nlines"\n2,"x\r\ny"\n3,z\n',
    "gaps and markers": "a,b,c\n1,NA,x\n?,2,-\n3,,y\n-,4,z\nnan,5,\n",
    "nothing but markers": "a,b\n-,1\n-,2\n.,3\n",
    "codes that look like numbers": "a,b,c\n1_000,+-1,1\n2_000,2,2\n3,3,+3\n",
    "a word far down": "a,b\n" + "1,1\n" * 50 + "x,2\n",
    "decimal commas": "a;b\n1,5;x\n2,25;y\n1.234,5;z\n",
    "decimal commas in one column": "a;b;c\n1,5;1;x\n2,25;2;y\n3,75;3;z\n",
    "commas after points": "a;b\n" + "1,5;1\n" * 5 + "2,5;1.5\n",
    "a comma beside points": 'a,b,c\n"1,5",1.5,x\n"2,5",2.5,y\n',
    "a comma beside points further down": "a,b\n" + '"1,5",1\n' * 4000 + '"1,5",2.5\n',
    "thousands": "a;b\n1,234;x\n5,678;y\n",
    "grouped": "a,b\n" + "".join(f"{i}.{100 + i},{i}\n" for i in range(1, 15)) + "950,3\n",
    "decimal commas and infinity": "a;b\n1,5;x\n-Inf;y\n2,5;z\ninfinity;x\n",
    "infinite": "a,b\n1,2\ninf,3\n4,5\n",
    "beyond float32": "a,b\n1,2\n1e300,3\n4,5\n",
    "beyond float64": "a,b\n1,2\n1e999,3\n4,5\n",
    "infinite between markers": "a,b\n1,2\n-,3\ninf,5\n",
    "other digits": "a,b\n١,2\n٢,3\n4,5\n",
    "signs and exponents": "a,b\n+1,.5\n-0,5.\n1e-3,1E5\n4.9e-324,00012\n",
    "quotes in cells": "a,b\n5\" pipe,2\n6\" pipe,3\n'x',4\n",
    "single quotes": "a,b\n'x, y',2\n'z',3\n",
    "no header": "1,x\n2,y\n3,x\n",
    "tabs": "a\tb\n1\tx\n2\ty y\n",
    "runs of blanks": "1  2   3\n 4 5 6\n7  8 9 \n",
    "semicolons": "a;b\n1;x\n2;y\n",
    "windows ends": "a,b\r\n1,x\r\n2,y\r\n",
    "mixed ends": "a,b\n1,x\r\n2,y\n3,z\n",
    "a mark at the start": "\ufeffa,b\n1,x\n2,y\n",
    "letters of anywhere": "größe,城市\n1,北京\n2,Zürich\n3,北京\n",
    "no last end": "a,b\n1,x\n2,y",
    "titles between": "a,b\n1,2\n,\n3,4\n",
    "a blank line and no last end": "a,b\n1,x\n\n2,y\n3,z",
    "a blank line below the names": "a,b\n\n1,x\n2,y\n3,z\n",
    "a blank line above all": "\n,\n\n1,x\n2,y\n3,z\n",
}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_files_are_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert_alike(read(path), by_hand(path))
    assert_alike(read(path, NUMERIC), by_hand(path, NUMERIC))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.data", b"1, x.\n| a comment\n2, y.\n3, x.\n"),
        ("a.csv", "a,b\n1,caf\u00e9\n2,No\u00ebl\n3,x\n".encode("cp1252")),
        ("a.csv", "a,b\n1,x\n2,y\n3,x\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress(b"a,b\n1,x\n2,y\n3,x\n")),
        ("a.tsv.gz", gzip.compress(b"a\tb\n1\tx\n2\ty\n3\tx\n")),
    ],
    ids=["C4.5", "cp1252", "UTF-16", "gzip", "tabs, gzip"],
)
def test_files_that_are_made_plain_first(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert_alike(read(path), by_hand(path))


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("gaps", [(), (0,), (3, 8, 12)], ids=str)
def test_numbers_are_seen_where_the_engine_left_them(start: int, gaps: tuple[int, ...]) -> None:
    values = [None if i in gaps else i + 0.5 for i in range(13)]
    column = arro3.core.Array(values, arro3.core.DataType.float64()).slice(start)
    numbers, missing = engine._cells(column, np.float64)
    del column
    missing = np.zeros(len(numbers), bool) if missing is None else missing
    found = [None if gap else value for value, gap in zip(numbers.tolist(), missing, strict=True)]
    assert found == values[start:]


@pytest.mark.parametrize("text", ["a+-b\n", "a+\n-b", "+", "+-", "__\n\n", "\n_", "-+\n-+\n"], ids=repr)
@pytest.mark.parametrize(("size", "part"), [(1, 1), (2, 5), (3, 2), (64, 3), (64, 64)])
def test_what_the_bytes_of_a_file_tell(
    tmp_path: Path, text: str, size: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    monkeypatch.setattr(engine, "_CACHED_BYTES", size)
    monkeypatch.setattr(engine, "_PART_BYTES", part)
    facts = engine.text_facts(path)
    assert facts.odd == tuple(mark for mark in ("+-", "_") if mark in text)
    assert facts.lines == text.count("\n") + (not text.endswith("\n"))


CELLS = st.one_of(
    st.sampled_from(["", "NA", "-", "1", "2.5", "-3", "1e3", "1_0", "x", "y z", "TRUE", "é", "1,5", "0012", "inf"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\x1a", exclude_categories=["Cs"]), max_size=6),
)


GAPS = st.sampled_from(["", "NA", "-", "-999", "nan"])
WORDS = st.sampled_from(["x", "y z", "1_0", "Inf", "1,234", "1.234", "1.234,5", "1 234", "5 %", "2024-01-02", "TRUE"])


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[str, ...]]:
    """Draw rows of columns, each of numbers with either mark, words, gaps, a mixture of these, or anything."""
    count, columns = draw(st.integers(2, 12)), []
    for _ in range(draw(st.integers(2, 4))):
        mark = draw(st.sampled_from(".,"))
        real = st.floats(-1e6, 1e6, width=32).map(repr)
        numbers = st.one_of(st.integers(-9, 999).map(str), real.map(lambda text, mark=mark: text.replace(".", mark)))
        cells = draw(st.sampled_from([numbers, numbers, numbers | GAPS, numbers | WORDS, WORDS | GAPS, CELLS]))
        columns.append(draw(st.lists(cells, min_size=count, max_size=count)))
    return list(zip(*columns, strict=True))


def assert_any_rows_alike(folder: Path, rows: list[tuple[str, ...]], decimal: str | None, block: int) -> None:
    path = folder / "any.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    names = ",".join("pqrs"[: len(rows[0])])
    path.write_text("\n".join([names, *quoted]) + "\n", encoding="utf-8", newline="")
    dialect = Dialect(separator=",", quote="double", header=True, decimal=decimal)
    expected = by_hand(path, dialect)
    assert_alike(read(path, dialect), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_CELLS", block)
        blocks = list(read_blocks(path, dialect))
    assert {each.dialect for each in blocks} == {expected.dialect}
    for name in expected.names:
        assert [label for each in blocks for label in each.labels(name)] == expected.labels(name).tolist()
    assert [each.where(row) for each in blocks for row in range(len(each))] == [
        expected.where(row) for row in range(len(expected))
    ]


ANY = given(rows=tables(), decimal=st.sampled_from([None, None, ".", ","]), block=st.sampled_from([3, 10**6]))
any_settings = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("everything_to_the_engine")
@any_settings(max_examples=25)
@ANY
def test_any_rows_are_read_alike(
    tmp_path: Path, rows: list[tuple[str, ...]], decimal: str | None, block: int
) -> None:
    assert_any_rows_alike(tmp_path, rows, decimal, block)


@pytest.mark.usefixtures("everything_to_the_engine")
@any_settings(max_examples=300)
@ANY
def test_any_rows_of_a_wide_table_are_read_alike(
    tmp_path: Path, rows: list[tuple[str, ...]], decimal: str | None, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "ENGINE_COLUMNS", 1)
        assert_any_rows_alike(tmp_path, rows, decimal, block)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,4\n5\n", r"a\.csv:4: expected 2 cells, as in the first row, but found 1"),
        ("a,b\n1,2\n3,4\n5,6,7\n", r"a\.csv:4: expected 2 cells, as in the first row, but found 3"),
        ('a,b\n1,2\n3,4\n5,"x\n6,y\n', r"a\.csv:4: broken quoting or line end"),
        ('a,b\n1,2\n3,4\n"x"y,6\n', r"a\.csv:4: broken quoting or line end"),
    ],
)
def test_what_the_engine_refuses_is_told_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(path)


def lines(count: int) -> list[str]:
    draw = random.Random(0)
    return [
        f"{draw.gauss(0, 1):.5f},{draw.choice(['', 'NA', '7', '8.5'])},{draw.choice('uvw')}{i % 40},{'yn'[i % 3 > 0]}"
        for i in range(count)
    ]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.csv"
    path.write_text("\n".join(["x,gaps,word,y", *lines(150_000)]) + "\n")
    return path


def test_a_large_file_becomes_typed_columns_in_its_order(large: Path) -> None:
    found, expected = read(large), by_hand(large)
    assert [type(found.columns[name]) for name in found.names] == [Numbers, Numbers, Codes, Codes]
    for name in ("x", "gaps"):
        np.testing.assert_array_equal(found.numbers(name), expected.numbers(name))
    for name in ("word", "y"):
        assert found.column(name).texts.tolist() == expected.column(name).texts.tolist()
        np.testing.assert_array_equal(found.column(name).codes, expected.column(name).codes)
    assert found.where(100_000) == expected.where(100_000) == f"{large}:100002"
    rows = np.array([149_999, 5, 70_000])
    part = found.take(rows).take(np.array([2, 0]))
    np.testing.assert_array_equal(part.numbers("x"), expected.numbers("x")[[70_000, 149_999]])
    assert part.where(0) == f"{large}:70002"
    assert part.labels("x").tolist() == [lines(150_000)[i].split(",")[0] for i in (70_000, 149_999)]


def test_a_large_file_is_encoded_as_a_short_one_is(large: Path) -> None:
    kwargs = {"task": "classification", "target": "y", "folder": large.parent}
    fast = prepare_files(large.name, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "START_CELLS", 10**9)
        slow = prepare_files(large.name, **kwargs)
    assert fast.fingerprint == slow.fingerprint
    assert fast.notes == slow.notes
    state, other = fast.encoder.to_state(), slow.encoder.to_state()
    assert state[0] == other[0]
    for name, array in state[1].items():
        np.testing.assert_array_equal(array, other[1][name])


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_a_short_file_of_many_cells_needs_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str):
    row = ",".join(str(i % 10) for i in range(60)).encode() + b"\n"
    text = b",".join(b"c%d" % i for i in range(60)) + b"\n" + row * 500
    (tmp_path / f"a.{ending}").write_bytes(text if ending == "csv" else gzip.compress(text))
    monkeypatch.setattr(TextFile, "_by_engine", None)
    frame = read(tmp_path / f"a.{ending}")
    assert len(frame) == 500
    assert all(set(frame.numbers(f"c{i}")) == {i % 10} for i in range(60))


def test_numbers_of_a_wide_file_take_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    monkeypatch.setattr(delimited, "ENGINE_COLUMNS", 2)
    monkeypatch.setattr(delimited, "_PORTION_CELLS", 12)
    path = tmp_path / "a.csv"
    path.write_text("x,y,z\n" + "".join(f"{i}.50,{i if i < 25 else 'word'},{i % 3}\n" for i in range(30)))
    frame = read(path, texts=["z"])
    assert [type(frame.columns[name]) for name in frame.names] == [Numbers, Codes, Codes]
    assert frame.numbers("x").tolist() == [i + 0.5 for i in range(30)]
    assert frame.labels("x").tolist() == [f"{i}.50" for i in range(30)]  # as it is written
    assert_alike(frame, by_hand(path))


def test_blocks_are_the_file_in_parts(large: Path) -> None:
    whole = read(large)
    encoder = prepare_files(large.name, task="classification", target="y", folder=large.parent).encoder
    assert isinstance(encoder, Encoder)
    blocks = list(read_blocks(large, whole.dialect, texts=encoder.texts))
    assert len(blocks) > 1
    joined = concatenated(blocks, str(large))
    np.testing.assert_array_equal(joined.numbers("gaps"), whole.numbers("gaps"))
    assert joined.labels("word").tolist() == whole.labels("word").tolist()
    assert blocks[1].where(0) == whole.where(len(blocks[0]))
    news = News()
    parts = [encoder.encode(block, targets=True, news=news)[0] for block in blocks]
    expected, notes = encoder.encode(whole, targets=True)
    np.testing.assert_array_equal(np.concatenate([p.features.stored for p in parts]), expected.features.stored)
    np.testing.assert_array_equal(np.concatenate([p.targets for p in parts]), expected.targets)
    assert news.notes() == notes


def test_a_line_that_is_wrong_far_down_is_found_in_blocks(large: Path) -> None:
    dialect = read(large).dialect
    with large.open("a") as file:
        file.write("1,2,u1\n")
    with pytest.raises(DataError, match=r"large\.csv:150002: expected 4 cells"):
        list(read_blocks(large, dialect))


def test_rows_behind_what_the_engine_refuses_follow_once(large: Path) -> None:
    dialect = read(large).dialect
    with large.open("ab") as file:
        file.write(b"1,2,u1,y\r\n3,4,u2,n\n")
    joined = concatenated(list(read_blocks(large, dialect)), "x")
    assert len(joined) == 150_002
    assert joined.numbers("x")[-2:].tolist() == [1, 3]


def test_a_cell_far_down_that_is_not_a_number_changes_no_other(large: Path) -> None:
    before, dialect = read(large), read(large).dialect
    with large.open("a") as file:
        file.write("?,7,u1,y\n1_0,nan,u2,n\n,9,u2,n\n")
    whole = read(large, dialect)
    joined = concatenated(list(read_blocks(large, dialect)), str(large))
    for frame in (whole, joined):
        np.testing.assert_array_equal(frame.numbers("gaps"), [*before.numbers("gaps"), 7, np.nan, 9])
        assert frame.labels("x")[-3:].tolist() == ["", "1_0", ""]
        assert frame.labels("word").tolist() == [*before.labels("word"), "u1", "u2", "u2"]
        with pytest.raises(DataError, match=r"large\.csv:150003: .*'1_0'"):
            frame.numbers("x")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet", "wide.csv", "part-*.csv", "*.jsonl"])
def test_blocks_of_every_kind_of_file_are_its_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "START_CELLS", 10)
    monkeypatch.setattr(delimited, "BLOCK_CELLS", 30)
    monkeypatch.setattr(engine, "MAX_KEPT_TEXTS", 1)
    if name == "wide.csv":
        monkeypatch.setattr(delimited, "ENGINE_COLUMNS", 2)
    rows = [{"x": i / 8, "word": f"w{i % 7}", "id": f"row {i}", "gap": None if i % 5 else i} for i in range(90)]
    for part, some in enumerate((rows[:40], rows[40:])):
        (tmp_path / f"part-{part}.csv").write_text(as_csv(some))
        (tmp_path / f"part-{part}.jsonl").write_text(as_objects(some))
    if "*" not in name:
        {"csv": lambda path: path.write_text(as_csv(rows)), "parquet": partial(as_parquet, rows)}.get(
            name.split(".")[1], lambda path: path.write_text(as_objects(rows))
        )(tmp_path / name.removesuffix(".gz"))
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    whole = read(tmp_path / name)
    blocks = list(read_blocks(tmp_path / name, whole.dialect))
    assert sum(map(len, blocks)) == 90
    if name in ("wide.csv", "part-*.csv", "*.jsonl"):
        assert len(blocks) > 1
    places = [block.where(row) for block in blocks for row in range(len(block))]
    assert places == [whole.where(row) for row in range(90)]
    for column in whole.names:
        labels = [label for block in blocks for label in block.labels(column)]
        assert labels == whole.labels(column).tolist()
    found = np.concatenate([block.numbers("gap") for block in blocks])
    np.testing.assert_array_equal(found, whole.numbers("gap"))


def as_csv(rows: list[dict[str, object]]) -> str:
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    return "\n".join([",".join(rows[0]), *lines]) + "\n"


def as_objects(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows: list[dict[str, object]], path: Path) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    duckdb.from_arrow(arro3.core.Table.from_pydict({k: arrow(v) for k, v in columns.items()})).write_parquet(
        str(path)
    )


def arrow(values: list[object]) -> arro3.core.Array:
    kinds = {str: arro3.core.DataType.utf8(), float: arro3.core.DataType.float64(), int: arro3.core.DataType.int64()}
    return arro3.core.Array(values, kinds[type(values[0])])


@pytest.mark.parametrize(
    "content", ["a;b\n1,5;x\n2,25;y\n", "a;b\n" + "1;x\n" * 200 + "2,25;y\n"], ids=["early", "late"]
)
def test_only_all_rows_tell_a_decimal_comma(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    path = tmp_path / "a.csv"
    path.write_text(content)
    (frame,) = read_blocks(path, Dialect())
    assert frame.dialect.decimal == ","
    assert frame.numbers("a")[-1] == 2.25


def test_texts_with_commas_do_not_keep_a_file_from_blocks(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = large.read_text().replace("x,gaps,word,y", "x;gaps;word;y")
    large.write_text("\n".join(line.replace(",", ";") + ", yes" for line in text.splitlines()) + "\n")
    monkeypatch.setattr(TextFile, "read", None)
    blocks = list(read_blocks(large, Dialect()))
    assert len(blocks) > 1
    assert blocks[0].dialect.decimal == "."


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("x,y\n1,2\n", "x\n1\n", r"b\.csv: there is no column 'y', which .*a\.csv has"),
        ("x,y\n1,2\n", "x,y,z\n1,2,3\n", r"b\.csv: there is a column 'z', which .*a\.csv has not"),
    ],
)
def test_blocks_of_several_files_have_the_same_columns(tmp_path: Path, first: str, second: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(first)
    (tmp_path / "b.csv").write_text(second)
    with pytest.raises(DataError, match=message):
        list(read_blocks(tmp_path / "*.csv", Dialect()))


def test_a_line_of_json_that_is_wrong_is_found_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for content, message in (
        ('{"x": 1}\n[2]\n', r"a\.jsonl:2: this line is not a JSON object"),
        ('{"x": 1}\n{"x": \n', r"a\.jsonl:2: this line is not JSON"),
        ("1\n2\n", r"a\.jsonl:1: this line is not a JSON object"),
        ("", r"a\.jsonl: the file is empty"),
        ("\n\n", r"a\.jsonl: the file is empty"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            list(read_blocks(path, Dialect()))


def test_the_engine_reads_nothing_else_writes_nothing_and_loads_nothing(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    mine.write_text("a,b\n1,2\n")
    other.write_text("a,b\n3,4\n")
    with engine.engine([str(mine)]) as connection:
        assert connection.execute(f"SELECT * FROM read_csv('{mine}')").fetchall() == [(1, 2)]
    for statement in (
        f"SELECT * FROM read_csv('{other}')",
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY (SELECT 1) TO '{tmp_path / 'new.csv'}'",
        f"ATTACH '{tmp_path / 'new.db'}' AS new",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET enable_external_access = true",
        "SELECT * FROM tmp_path",
    ):
        with pytest.raises(EngineRefusalError), engine.engine([str(mine)]) as connection:
            connection.execute(statement)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv", "other.csv"]


def test_nested_columns_are_there_until_somebody_asks_for_their_values() -> None:
    nested = Nested("a", "BIGINT[]", "f", 5)
    assert len(nested.take(np.arange(2))) == 2
    with pytest.raises(DataError, match=r"column 'a' holds BIGINT\[\]"):
        nested.written()


@pytest.mark.usefixtures("everything_to_the_engine")
def test_temporary_copies_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,x\n2,y\n3,x\n"))
    frame = read(path)
    assert frame.labels("a").tolist() == ["1", "2", "3"]
    del frame
    import gc

    gc.collect()
    assert not list(folder.iterdir())


def test_texts_are_told_apart_whose_hashes_begin_alike() -> None:
    """The first bits lead to one of them at most; the others are looked for among all."""
    known = engine._Dictionary()
    for block in ([5, 6, 2**63, 5, 7], [7, 6, 8, 2**63 + 1, 2**64 - 1, 5], [8]):
        texts = arro3.core.Array([f"text {number}" for number in block], arro3.core.DataType.utf8())
        codes = known.codes(np.array(block, np.uint64), texts)
        assert [known.texts[code] for code in codes] == texts.to_pylist()
    assert len(known.texts) == 7


def test_a_column_of_text_in_a_file_is_made_numbers_once(tmp_path):
    place = Room(tmp_path, limit=0)
    codes = place.keep(np.array([0, 1, 2, 1, 0], np.int32))
    whole = Frame("a", {"x": Codes(np.array(["1", "2.5", ""], object), codes)}, lambda row: f"a:{row}", DETECT)
    part = whole.take(np.array([4, 3, 2]))
    assert isinstance(part.columns["x"], PartOfCodes)
    with reading_into(place):
        assert not is_in_file(part.parsed(["x"]).columns["x"].source)  # as of a block, which nobody keeps
        parsed = part.parsed(["x"], keep=place.keep)
    assert isinstance(parsed.columns["x"], Numbers)
    assert is_in_file(parsed.columns["x"].source)
    np.testing.assert_array_equal(parsed.numbers("x"), [1, 2.5, np.nan])
    assert parsed.labels("x").tolist() == ["1", "2.5", ""]

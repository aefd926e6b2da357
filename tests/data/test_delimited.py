"""Delimited text to tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.data import Dialect, Frame, Missing, read, read_bytes, read_lines
from gpumlp.errors import DataError


def table(text: str, **known) -> Frame:
    return read_lines(io.StringIO(text, newline=""), Dialect(**known), name="a.csv")


def test_cells_are_stripped_and_lines_are_kept():
    found = table('x, y ,z\n 1 ,"two\nlines",3\n\n4, "a ""b"", c" ,6\n\n'.replace('" ,6', '",6'))
    assert found.names == ("x", "y", "z")
    assert found.labels("x").tolist() == ["1", "4"]
    assert found.labels("y").tolist() == ["two\nlines", 'a "b", c']
    # The first row starts on line 2 and ends on line 3; line 4 is blank.
    assert [found.where(row) for row in range(2)] == ["a.csv:2", "a.csv:5"]


def test_texts_that_differ_in_blanks_are_one_text():
    column = table("x\na\n a\nb\na \n").columns["x"]
    assert column.texts.tolist() == ["a", "b"]
    assert column.codes.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("head", "row"), [("a,b", "1,2"), ("a;b", "1;2"), ("a\tb", "1\t2"), ('"a,x";b', "1;2"), ("a\tb;c", "1\t2;3")]
)
def test_the_separator_comes_from_the_first_line(head, row):
    found = table(f"{head}\n{row}\n")
    assert len(found.names) == 2
    assert found.labels(found.names[0]).tolist()[0].startswith("1")


def test_tsv_is_separated_by_tabs_whatever_the_header_says(tmp_path, write):
    write("a,x\tb\n1\t2\n", "a.tsv")
    assert read(tmp_path / "a.tsv").names == ("a,x", "b")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, write):
    write(b"\xef\xbb\xbfx,y\r\n1,2\r\n")
    found = read(tmp_path / "a.csv")
    assert found.names == ("x", "y")
    assert found.numbers("y").tolist() == [2.0]


def test_a_column_without_a_name_is_called_by_its_number():
    assert table(',y,""\n1,2,3\n').names == ("column_0", "y", "column_2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^a\.csv: the file is empty\n"),
        ("\n  \n,,\n", r"^a\.csv: the file is empty\n"),
        ("x,y\n", r"^a\.csv: there are column names but no rows"),
        ("x,y,x\n1,2,3\n", r"^a\.csv:1: two columns are called 'x'"),
        ("x,y\n1,2\n3\n", r"^a\.csv:3: expected 2 cells, as in the first row, but found 1"),
        ("x,y\n1,2\n\n1,2,3\n", r"^a\.csv:4: expected 2 cells, as in the first row, but found 3"),
        (
            "Report\n\nx,y\n1,2\n",
            r"^a\.csv:3: 1 column name for a row of 2 cells\n.* if the first row is a title or a comment",
        ),
        (
            "a;title\nx;y;z\n1;2;3\n",
            r"^a\.csv:2: 2 column names for a row of 3 cells\n.* if the first row is a title",
        ),
        (
            "x,y\n1,2,3\n",
            r"^a\.csv:2: 2 column names for a row of 3 cells\n  each column needs one name",
        ),
        ("x,y\r1,2\r", r"^a\.csv:1: broken quoting or line end.*\n  end each line with \\n or \\r\\n"),
        ('x,y\n1,"2\n3,4\n5,6\n', r"^a\.csv:2: broken quoting or line end"),
        ('x,y\n1,"2"3\n', r"^a\.csv:2: broken quoting or line end"),
        ("x,y\n1,2\n3,4\r5,6\n", r"^a\.csv:3: broken quoting or line end"),
    ],
)
def test_what_is_not_a_table(text, message):
    with pytest.raises(DataError, match=message):
        # Lines end at \n only, as they do in a file of bytes.
        read_lines(text.splitlines(keepends=True) if "\r" not in text else text.split("\n"), name="a.csv")


def test_bytes_that_are_not_the_encoding_are_named(tmp_path, write):
    write("x,y\n1,2\n3,café\n".encode("latin-1"))
    message = r"a\.csv:3: byte 13 \(0xe9\) is not UTF-8\n  save the file as UTF-8, or set data\.encoding"
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv", Dialect(encoding="utf-8"))
    with pytest.raises(DataError, match=r"is not UTF-16\n  save the file as UTF-16, or set data\.encoding"):
        read(tmp_path / "a.csv", Dialect(encoding="utf-16"))
    with pytest.raises(DataError, match=r"odd\.csv: the text is not UTF-16"):
        read(write("x,y\n1,2\n", "odd.csv") and tmp_path / "odd.csv", Dialect(encoding="utf-16"))
    # 0x81 is nothing in cp1252, so that is no way out.
    with pytest.raises(DataError, match=r"standard input:2: byte 2 \(0x81\) is not UTF-8"):
        read_bytes(b"x\n\x81\n")


def test_columns_by_name_and_number():
    found = table("age,city,y\n1,2,3\n")
    assert [found.resolve(each) for each in ("city", 0, -1)] == ["city", "age", "y"]
    with pytest.raises(DataError, match=r"there is no column 'cty'\n  did you mean 'city'\? allowed: age, city, y"):
        found.resolve("cty")
    with pytest.raises(
        DataError, match=r"no column number 2021\n  there is one of that name: write '2021', with the"
    ):
        read_lines(["2020,2021,y\n", "1,2,a\n"], Dialect(header=True)).resolve(2021)
    with pytest.raises(DataError, match=r"no column number 3\n  the file has 3 columns: 0 to 2, or -1"):
        found.resolve(3)
    with pytest.raises(DataError, match="needs the name of its target"):
        found.resolve(None)


def test_missing_numbers_are_nan_and_missing_labels_empty():
    found = table("x\n1\n?\n-9\n NA \n1e3\n", missing=Missing(frozenset(("?", "NA", "-9"))))
    assert found.numbers("x").tolist() == pytest.approx([1, np.nan, np.nan, np.nan, 1000], nan_ok=True)
    assert found.labels("x").tolist() == ["1", "", "", "", "1e3"]


def test_the_empty_cell_is_missing_whatever_the_markers():
    found = table("x,y\n1,2\n,3\n", missing=Missing(frozenset()))
    assert np.isnan(found.numbers("x")).tolist() == [False, True]


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e39", "1e999", "NAN"])
def test_numbers_must_be_finite_in_32_bits(cell):
    found = table(f"x\n1\n?\n{cell}\n{cell}\n")
    with pytest.raises(DataError, match=rf"^a\.csv:4: column 'x' has '{cell}', which is not a finite"):
        found.numbers("x")


@pytest.mark.parametrize("cell", ["abc", "1_000", "1,500", "0x10"])
def test_text_among_numbers_is_found(cell):
    found = table(f'x\n1\n?\n"{cell}"\n2\n')
    assert found.try_numbers("x") is None
    with pytest.raises(DataError, match=rf"^a\.csv:4: column 'x' should be numeric, but this cell is '{cell}'"):
        found.numbers("x")


def test_take_keeps_lines_and_forgets_texts_that_are_gone():
    found = table("x\na\nb\nc\na\n").take(np.array([1, 3]))
    assert len(found) == 2
    assert found.labels("x").tolist() == ["b", "a"]
    assert sorted(found.columns["x"].texts) == ["a", "b"]
    assert found.where(1) == "a.csv:5"


CELLS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=6)


@settings(deadline=None)
@given(st.integers(1, 3).flatmap(lambda p: st.lists(st.tuples(*[CELLS] * p), min_size=1, max_size=20)))
def test_what_the_csv_module_writes_is_read_back(rows):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([[f"c{i}" for i in range(len(rows[0]))], *rows])
    stream.seek(0)
    found = read_lines(stream, Dialect(",", "double", header=True, missing=Missing(frozenset())))
    for i, name in enumerate(found.names):
        assert found.labels(name).tolist() == [row[i].strip() for row in rows]


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_table_or_an_error_of_data(text):
    try:
        found = read_lines(io.StringIO(text, newline=""))
    except DataError:
        return
    assert len(found) > 0
    assert all(len(found.labels(name)) == len(found) for name in found.names)


def test_portions_join_without_a_seam():
    count = 3 * 8192 + 5
    found = table("x,y\n" + "".join(f"{i},{i % 7}\n" for i in range(count)))
    assert (found.numbers("x") == np.arange(count)).all()
    assert (found.numbers("y") == np.arange(count) % 7).all()
    assert found.where(count - 1) == f"a.csv:{count + 1}"

"""How a delimited file is written is found out; what is found holds for later files."""

from __future__ import annotations

import codecs
import gzip
import io

import numpy as np
import pytest

from gpumlp.data import Dialect, Encoder, Frame, Missing, prepare_files, read, read_bytes, read_lines
from gpumlp.errors import DataError


def table(text: str, **known) -> Frame:
    return read_lines(io.StringIO(text, newline=""), Dialect(**known), name="a.csv")


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1;2\n", ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("a b c\n1 2 3\n-4  5e3\t?\n", " "),
        ("  1.5   2\n  3     4\n", " "),
        ("x y z\n1  2.5 a\n 3 4  b\n", " "),
        ('1 "New York" a\n2 Rome b\n', " "),
        ("x y\n1 New York\n2 Rome\n", ","),  # two words in a cell
        ("x y,z\n1 2,3\n4 5,6\n", ","),
        ("full name\nAda Lovelace\nAlan Turing\n", ","),  # one column of two words
        ("1,5;2,5;3,5\n4,5;5,5;6,5\n", ";"),  # both fit; a semicolon is trusted more
        ('name,"last; first"\nx,"a; b"\ny,"c; d"\n', ","),
        ("a;b;c\n1,2;3,4;5\n6,7;8;9\n", ";"),
        ("x\n1\n2\n", ","),
        ("a,b\n1;1,2\n3;3,4\n", ","),
        ("a;b\n1;2\n3\n4;5\n", ";"),  # ragged: most lines agree
    ],
)
def test_the_separator(text, separator):
    try:
        assert table(text).dialect.separator == separator
    except DataError as error:
        assert "expected 2 cells" in str(error)  # noqa: PT017 (the ragged one: it was split as it should be)


def test_the_line_that_tells_a_spreadsheet_the_separator():
    read_ = table("SEP=;\nx,1;y\n1,5;2\n2,5;3\n")
    assert read_.names == ("x,1", "y")
    assert read_.numbers("x,1").tolist() == [1.5, 2.5]
    assert read_.where(1) == "a.csv:4"
    assert table("sep=\t\nx\ty\n1\t2\n").names == ("x", "y")
    assert table("sep=x\nab\n").names == ("sep=x",)


def test_blanks_are_one_separator_however_many():
    found = table(" 1  2.5\t3 \n 4 5 6\n")
    assert found.names == ("column_0", "column_1", "column_2")
    assert found.numbers("column_1").tolist() == [2.5, 5]
    assert found.where(1) == "a.csv:2"


@pytest.mark.parametrize(
    ("text", "quote", "first"),
    [
        ('a,b\n"x,y",1\n\'z,2\n', "double", "x,y"),
        ("a,b\n'x,y',1\n'z',2\n", "single", "x,y"),
        ("'a','b'\r\n'x,y','1'\r\n", "single", "x,y"),
        ("a,b\nit's,1\nrock 'n' roll,2\n", "double", "it's"),
        ("a,b\n'tis,1\n'twas,2\n", "double", "'tis"),
    ],
)
def test_the_quote(text, quote, first):
    found = table(text)
    assert found.dialect.quote == quote
    assert found.labels("a")[0] == first


def test_quotes_can_be_plain_text():
    found = table('size,n\n5",1\n"6,2\n', quote="none")
    assert found.labels("size").tolist() == ['5"', '"6']


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("a,b\n1,2\n", True),
        ("1,2\n3,4\n", False),
        ("x,1\ny,2\nz,3\n", False),
        ("39,State-gov,<=50K\n50,Private,<=50K\n", False),
        ("age,class,income\n50,Private,<=50K\n", True),
        (",a,b\n0,1,2\n", True),  # row names, as R and pandas write them
        ("0,1,2,3\n5.1,3.5,1.4,0\n", True),  # pandas numbers the columns of an array
        ("1,2,3\n5.1,3.5,1.4\n", False),
        ("?,a\n?,b\n", True),
        ("?,2\n1,2\n", False),
        ("b,o,x,win\nx,o,b,win\no,o,b,loss\nb,x,x,loss\n", False),  # all text, and all of it comes again
        ("a1,a2,a3,class\nx,o,b,win\no,o,b,loss\n", True),
        ("a,b\n", True),
        ("1,b\n", False),
        ("x\n1\nabc\n2\n", True),
        ("a,b\n0,5;x\n", True),
    ],
)
def test_the_header(text, header):
    try:
        found = table(text)
    except DataError as error:
        assert "no rows" in str(error) or "expected" in str(error)  # noqa: PT017 (read as a header)
        assert header
        return
    assert found.dialect.header is header
    assert len(found) == text.count("\n") - header
    told = "a.csv: found no line of column names, so they are column_0 to "
    assert [note for note in found.notes if note.startswith(told)] == list(found.notes) * (not header)


def test_a_header_can_be_insisted_on():
    years = "land,2019,2020\nFrance,1,2\n"
    assert table(years).names[0] == "column_0"
    assert table(years, header=True).names == ("land", "2019", "2020")
    assert table("a,b\n1,2\n", header=False).labels("column_0").tolist() == ["a", "1"]


def test_columns_without_names_are_found_by_index_or_name():
    found = table("1,x\n2,y\n")
    assert [found.resolve(each) for each in (0, -1, "column_1")] == ["column_0", "column_1", "column_1"]
    hint = r"if the first line holds the column names, set data\.header to true; else allowed: column_0"
    with pytest.raises(DataError, match=rf"no column 'x'\n  {hint}"):
        found.resolve("x")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a;b\n1,5;x\n2;y\n", [1.5, 2]),
        ("a;b\n-1,5e3;x\n,25;y\n?;z\n", [-1500, 0.25, np.nan]),
        ('a,b\n"1,5",x\n"2,25",y\n', [1.5, 2.25]),
        ("a;b\n1,234;0,5\n2,345;0,25\n", [1.234, 2.345]),  # b says what the comma means
        ("a;b\n1.5;x,1\n2;y,2\n", [1.5, 2]),
        ("1,5\t2\n2,5\t3\n", [1.5, 2.5]),
    ],
)
def test_the_decimal_mark(text, values):
    found = table(text)
    assert found.dialect.decimal == ("," if 1.5 not in values or "1,5" in text else ".")
    np.testing.assert_array_equal(found.numbers(found.names[0]), values)


@pytest.mark.parametrize("text", ["a;b\n1,234;x\n5,678;y\n", "a;b\n1,5;0.5\n2,5;0.25\n", "a;b\n1,5;x\nabc;y\n"])
def test_a_comma_that_may_mean_something_else_is_no_decimal_mark(text):
    found = table(text)
    assert found.dialect.decimal == "."
    assert found.try_numbers("a") is None
    assert table("a;b\n1,234;x\n5,678;y\n", decimal=",").numbers("a").tolist() == [1.234, 5.678]


def test_with_a_decimal_comma_a_point_is_no_number():
    found = table("a;b\n1.5;1,5\n", decimal=",")
    with pytest.raises(DataError, match=r"column 'a' should be numeric, but this cell is '1\.5'"):
        found.numbers("a")
    assert table("a;b\n1,5;1,5\n", decimal=".").try_numbers("a") is None


TEXT = "name,größe\nCafé,1\nNoël,2\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (TEXT.encode("utf-16"), "utf-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16"),
        (TEXT.encode("utf-32"), "utf-32"),
        (TEXT.encode("cp1252"), "cp1252"),
    ],
)
def test_the_encoding(content, encoding):
    found = read_bytes(content)
    assert found.names == ("name", "größe")
    assert found.labels("name").tolist() == ["Café", "Noël"]
    assert found.dialect.encoding is None  # a later file may well be written otherwise
    told = "standard input:1: byte 7 (0xf6) is not UTF-8, so the file is read as cp1252; set data.encoding if that is"
    assert [note[: len(told)] for note in found.notes] == [told] * (encoding == "cp1252")


def test_the_encoding_can_be_set(tmp_path, write):
    write(gzip.compress("x,y\nПривет,1\n".encode("koi8-r")), "a.csv.gz")
    found = read(tmp_path / "a.csv.gz", Dialect(encoding="koi8-r"))
    assert found.labels("x").tolist() == ["Привет"]
    assert found.notes == ()


def test_utf8_that_is_read_otherwise_is_told():
    """A model trained on what was said to be cp1252 would else take every ö in UTF-8 for a value never seen."""
    told = "standard input: the file seems to be UTF-8, but is read as cp1252"
    for content, notes in ((TEXT.encode(), 1), (TEXT.encode("cp1252"), 0), (b"x,y\n1,2\n", 0)):
        found = read_bytes(content, Dialect(encoding="cp1252")).notes
        assert [note[: len(told)] for note in found] == [told] * notes


@pytest.mark.parametrize("trained", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("later", ["utf-8", "utf-16", "cp1252"])
def test_a_later_file_tells_its_own_encoding(trained, later):
    dialect = read_bytes(TEXT.encode(trained)).dialect
    found = read_bytes(TEXT.encode(later), dialect)
    assert found.names == ("name", "größe")
    assert found.labels("name").tolist() == ["Café", "Noël"]


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(DataError, match="there are NUL characters, so this is not text, or in another encoding"):
        read_bytes("x,y\n1,2\n".encode("utf-16-le"))


def test_cells_that_are_not_separated_as_was_said():
    with pytest.raises(DataError, match="not separated by ',' but, it seems, by ';'"):
        table("a;b\n1;2\n", separator=",")
    assert table("a\n1\n", separator=";").names == ("a",)


C45 = "|1x3 Cross validator\n25, Private, <=50K.\n38, ?, >50K.\n\n"


@pytest.mark.parametrize("name", ["adult.test", "adult.data", "adult.test.gz"])
def test_c45_files_have_comments_and_points(tmp_path, write, name):
    write(gzip.compress(C45.encode()) if name.endswith("gz") else C45, name)
    found = read(tmp_path / name)
    assert found.labels("column_2").tolist() == ["<=50K", ">50K"]
    assert found.labels("column_1").tolist() == ["Private", ""]
    assert found.where(0).endswith(f"{name}:2")


def trained(tmp_path, write, text: str, **options) -> Encoder:
    write(text, "train.csv")
    options = {"task": "classification", "target": -1, "validation": 0, "test": 0, "scaling": "none"} | options
    encoder = prepare_files("train.csv", folder=tmp_path, **options).encoder
    return Encoder.from_state(*encoder.to_state())


def test_what_was_found_travels_with_the_encoder(tmp_path, write):
    """A file of one row tells little: not whether it has a header, nor what 2,250 means."""
    encoder = trained(tmp_path, write, "1,5;it's;'a;b'\n2,5;ok;'c'\n3,5;ok;'a;b'\n".replace("it's", "'no'"))
    assert encoder.dialect == Dialect(";", "single", False, None, ",", encoder.dialect.missing)
    assert encoder.classes == ("a;b", "c")
    source = read_bytes(b"2,250;ok;'c'\n", encoder.dialect)
    found, notes = encoder.encode(source, targets=True)
    assert found.inputs.tolist() == [[2.25, 1, 0]]
    assert found.targets.tolist() == [1]
    assert notes == []


def test_what_was_found_holds_for_the_other_files_of_a_task(tmp_path, write):
    write("1,5;a\n2,5;b\n3,5;a\n", "train.csv")
    write("x;b\n", "empty.csv")
    write("2,250;b\n", "test.csv")
    options = {"task": "classification", "target": -1, "validation": 0, "scaling": "none"}
    prepared = prepare_files("train.csv", folder=tmp_path, test="test.csv", **options)
    assert prepared.test.inputs.tolist() == [[2.25]]
    assert [note for note in prepared.notes if note.startswith("test:")] == []
    (note,) = prepared.notes
    assert note.endswith("column_0 to column_1 (data.header); decimal commas (data.decimal)")
    with pytest.raises(DataError, match=r"empty\.csv:1: column 'column_0' should be numeric"):
        prepare_files("train.csv", folder=tmp_path, test="empty.csv", **options)


@pytest.mark.parametrize(
    ("first", "rows", "names"),
    [
        ("2019,2020,trend", ["1.5,-0.5,up", "2.5,0.25,down"], True),
        ("2019,2020,2021", ["1.5,0.25,-1e-3", ",0.5,2.5"], True),
        ("1,2", ["1.5,0.25", "2.5,0.5"], True),
        ("2019,2020,up", ["1.5,-0.5,up", "2.5,0.25,down"], False),  # a class that comes again
        ("2019,2020,trend", ["1.5,2,up", "2.5,0.25,down"], False),  # whole numbers below
        ("2019,2021,trend", ["1.5,2.5,up", "2.5,0.25,down"], False),  # not one after the other
        ("2019,trend", ["1.5,up", "2.5,down"], False),  # one number may be one
    ],
)
def test_years_are_names_over_numbers_with_decimals(first, rows, names):
    found = table("\n".join([first, *rows * 5]) + "\n")
    assert (found.dialect.header, len(found)) == (names, 10 + (not names))
    assert list(found.columns) == (
        first.split(",") if names else [f"column_{i}" for i in range(first.count(",") + 1)]
    )
    few = table("\n".join([first, *rows * 4]) + "\n")
    assert not few.dialect.header


def test_arrays_leave_it_to_a_later_file_of_text(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.eye(4), y=np.arange(4) % 2)
    encoder = prepare_files("a.npz", folder=tmp_path, task="classification", target="y", validation=0, test=0).encoder
    assert Encoder.from_state(*encoder.to_state()).dialect == Dialect()


def test_markers_of_missing_values_can_be_set():
    found = table("a,b\n1,-\n-9,x\n", missing=Missing(frozenset(["-9"])))
    assert found.numbers("a").tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert found.labels("b").tolist() == ["-", "x"]
    assert table("a\n1\nunknown\n").numbers("a").tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert table("a\nx\nunknown\n").labels("a").tolist() == ["x", "unknown"]
    assert table("a\nunknown\n-\n").try_numbers("a") is None  # there are no numbers to stand among

"""Several files as one table, and the kinds of files beyond CSV, Parquet and arrays."""

from __future__ import annotations

import gc
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gpumlp.config import load
from gpumlp.data import prepare_files, read
from gpumlp.errors import ConfigError, DataError

ROWS = [(round(i * 0.37 - 5, 2), "abc"[i % 3], i % 7) for i in range(120)]


def csv(rows) -> str:
    return "x,w,y\n" + "".join(f"{x},{w},{y}\n" for x, w, y in rows)


def objects(rows) -> str:
    return "".join(json.dumps({"x": x, "w": w, "y": y}) + "\n" for x, w, y in rows)


def zstd(text: str) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="pyarrow packs by zstd; it is in the extra 'oracle'")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


def fingerprint(files, folder) -> str:
    return prepare_files(files, task="regression", target="y", folder=folder).fingerprint


@pytest.mark.usefixtures("reader")
def test_parts_are_the_whole(tmp_path, write):
    write(csv(ROWS), "whole.csv")
    for number, start in enumerate(range(0, 120, 40)):
        write(csv(ROWS[start : start + 40]), f"part-{number}.csv")
    whole = fingerprint("whole.csv", tmp_path)
    assert fingerprint("part-*.csv", tmp_path) == whole
    assert fingerprint("part-[0-2].csv", tmp_path) == whole
    assert fingerprint(["part-0.csv", "part-[12].csv"], tmp_path) == whole
    assert fingerprint(["part-2.csv", "part-0.csv", "part-1.csv"], tmp_path) != whole
    frame = read(tmp_path / "part-*.csv")
    assert [frame.where(row) for row in (0, 39, 40, 119)] == [
        f"{tmp_path}/part-{part}.csv:{line}" for part, line in ((0, 2), (0, 41), (1, 2), (2, 41))
    ]
    assert frame.take(np.array([80])).where(0).endswith("part-2.csv:2")


def test_parts_may_be_of_several_kinds_and_orders(tmp_path, write):
    write(csv(ROWS), "whole.csv")
    write("y;w;x\n" + "".join(f"{y};{w};{x}\n" for x, w, y in ROWS[:50]), "a.csv")
    write(gzip.compress(objects(ROWS[50:90]).encode()), "b.jsonl.gz")
    write("y;w;x\n" + "".join(f"{y};{w};{x}\n" for x, w, y in ROWS[90:]), "c.txt")
    one = prepare_files(["a.csv", "b.jsonl.gz", "c.txt"], task="regression", target="y", folder=tmp_path)
    other = prepare_files("whole.csv", task="regression", target="y", folder=tmp_path)
    order = [other.encoder.features.index(name) for name in one.encoder.features]
    np.testing.assert_array_equal(one.train.inputs, other.train.inputs[:, order])


def test_a_column_of_words_in_one_part_is_one_of_words(tmp_path, write):
    write("x\n" + "1\n2\n" * 3, "a.csv")
    write("x\n?\nlow\n", "b.csv")
    frame = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert frame.try_numbers("x") is None
    assert frame.labels("x").tolist() == ["1", "2"] * 3 + ["", "low"]
    write("x\n?\n7\n", "b.csv")
    np.testing.assert_array_equal(read(tmp_path / "[ab].csv").numbers("x"), [1, 2] * 3 + [np.nan, 7])


def test_other_columns_are_named_with_their_file(tmp_path, write):
    write("x,y\n1,2\n", "a.csv")
    write("x,Y\n1,2\n", "b.csv")
    with pytest.raises(DataError, match=r"b\.csv: there is no column 'y', which .*a\.csv has\n  did you mean 'Y'"):
        read(tmp_path / "*.csv")
    write("x,y,z\n1,2,3\n", "b.csv")
    with pytest.raises(DataError, match=r"b\.csv: there is a column 'z', which .*a\.csv has not"):
        read(tmp_path / "*.csv")


def test_patterns_and_lists_that_cannot_be_read(tmp_path, write):
    write("x,y\n1,2\n", "a.csv")
    with pytest.raises(DataError, match=r"b-\*\.csv: no file matches this pattern"):
        read(tmp_path / "b-*.csv")
    with pytest.raises(DataError, match=r"a\.csv: this file is named twice"):
        read([tmp_path / "a.csv", tmp_path / "*.csv"])
    write(np.zeros(0).tobytes(), "b.npz")
    np.savez(tmp_path / "b.npz", x=np.ones((2, 2)))
    with pytest.raises(DataError, match=r"b\.npz: only tables can be read together"):
        read([tmp_path / "a.csv", tmp_path / "b.npz"])
    write("x,y\n1,2\n", "odd[1].csv")  # a file of this very name
    assert len(read(tmp_path / "odd[1].csv")) == 1


def test_settings_take_lists_and_patterns(tmp_path, write):
    for name in ("a.csv", "b.csv", "v.csv"):
        write(csv(ROWS), name)
    text = "task: regression\ndata:\n  train: [{}]\n  target: y\n  split: {{validation: 'v*.csv', test: 0}}\n"
    write(text.format("a.csv, b.csv"), "run.yaml")
    data = load(tmp_path / "run.yaml").settings.data
    assert data.train == ("a.csv", "b.csv")
    assert data.misfits(tmp_path) == []
    write(text.format("a.csv, c.csv, 'd*.csv'"), "run.yaml")
    wrong = load(tmp_path / "run.yaml")
    found = wrong.settings.data.misfits(tmp_path)
    assert [setting for setting, _ in found] == ["data.train.1", "data.train.2"]
    assert "run.yaml:3:18: data.train.1" in wrong.report(found)
    write(text.format(""), "run.yaml")
    with pytest.raises(ConfigError, match=r"data\.train: got a list, needs non-empty text or a"):
        load(tmp_path / "run.yaml")


def test_validation_and_test_take_patterns(tmp_path, write):
    write(csv(ROWS), "a.csv")
    for name in ("v1.csv", "v2.csv"):
        write(csv(ROWS[:10]), name)
    prepared = prepare_files(
        "a.csv", task="regression", target="y", folder=tmp_path, validation="v*.csv", test=["v1.csv"]
    )
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == (120, 20, 10)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_are_the_csv(tmp_path, write, name):
    pack = {"gz": lambda text: gzip.compress(text.encode()), "zst": zstd}.get(name.split(".")[-1], str)
    write(csv(ROWS), "whole.csv")
    write(pack(objects(ROWS)), name)
    assert fingerprint(name, tmp_path) == fingerprint("whole.csv", tmp_path)


def test_json_lines_of_mixed_values(tmp_path, write):
    lines = '{"a": 1, "b": "x"}\n\n{"a": "NA", "b": null}\n{"a": 2.5}\n{"b": "y", "a": null}\n'
    write(lines, "a.jsonl")
    frame = read(tmp_path / "a.jsonl")
    np.testing.assert_array_equal(frame.numbers("a"), [1, np.nan, 2.5, np.nan])
    assert frame.labels("b").tolist() == ["x", "", "", "y"]
    assert [frame.where(row) for row in range(4)] == [f"{tmp_path}/a.jsonl:{line}" for line in (1, 3, 4, 5)]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"a": 1}\n\n{"a": 2\n', ":3", "this line is not JSON: Expecting ',' delimiter"),
        ('{"a": 1}\nhello\n', ":2", "this line is not JSON"),
        ('{"a": 1, "a": 2}\n', "", "duplicate key"),
        ('{"a": 1}\n[3, 4]\n', ":2", "this line is not a JSON object"),
        ("[1, 2]\n[3, 4]\n", ":1", "this line is not a JSON object"),
        ("1\n2\n", ":1", "this line is not a JSON object"),
        ("\n", "", "the file is empty"),
        ("", "", "the file is empty"),
    ],
)
def test_damaged_json_lines(tmp_path, write, text, place, message):
    write(text, "a.jsonl")
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "a.jsonl")
    assert caught.value.where == f"{tmp_path}/a.jsonl{place}"


def test_checksums_of_packed_json_lines_are_verified(tmp_path, write):
    packed = gzip.compress(objects(ROWS).encode())
    write(packed[:-8] + bytes(8), "a.jsonl.gz")
    with pytest.raises(DataError, match="the gzip data is damaged or cut short"):
        read(tmp_path / "a.jsonl.gz")


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", ["a.csv.zst", "a.tsv.zst", "a.DAT.ZST"])
def test_zstd_text(tmp_path, write, name):
    text = csv(ROWS).replace(",", "\t") if "tsv" in name else csv(ROWS)
    write(csv(ROWS), "whole.csv")
    write(zstd(text.replace("\n5.", "\n\n5.")), name)
    assert fingerprint(name, tmp_path) == fingerprint("whole.csv", tmp_path)
    assert read(tmp_path / name).where(119).endswith(f"{name}:{121 + text.count(chr(10) + '5.')}")


def test_damaged_zstd(tmp_path, write):
    packed = zstd(csv(ROWS))
    cuts = [packed[:end] for end in range(len(packed))]
    for content in (*cuts[::9], b"x,y\n1,2\n", b"\0" * 9, packed + b"x"):
        write(content, "a.csv.zst")
        with pytest.raises(DataError, match=r"a\.csv\.zst: the zstd data is damaged"):
            read(tmp_path / "a.csv.zst")
    with pytest.raises(DataError, match=r"b\.csv\.zst: no such file"):
        read(tmp_path / "b.csv.zst")


def test_zstd_of_several_frames(tmp_path, write):
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    write(zstd(csv(ROWS[:60])) + skipped + zstd(csv(ROWS[60:]).partition("\n")[2]), "a.csv.zst")
    assert read(tmp_path / "a.csv.zst").numbers("x").tolist() == [x for x, _, _ in ROWS]


def test_temporary_copies_go(tmp_path, write, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    write(zstd(csv(ROWS)), "a.csv.zst")
    write(gzip.compress(objects(ROWS).encode()), "a.jsonl.gz")
    for name in ("a.csv.zst", "a.jsonl.gz"):
        frame = read(tmp_path / name)
        assert frame.columns["y"].written().texts[0] == "0"
        assert frame.where(2).startswith(f"{tmp_path}/{name}:")
        del frame
        gc.collect()
        assert list(scratch.iterdir()) == []


def test_dat_is_text(tmp_path, write):
    write("".join(f"{x}  {y:>3}\n" for x, _, y in ROWS), "a.dat")
    assert read(tmp_path / "a.dat").numbers("column_1").tolist() == [y for _, _, y in ROWS]


ARFF = """% made by hand
@RELATION weather

@attribute 'outlook today' {sunny, 'light rain'}
@ATTRIBUTE temperature REAL
@attribute class {0,1,2}
@attribute day date "yyyy-MM-dd"

@DATA
% a comment
sunny,85,0,"2020-01-01"
'light rain',?,2,"2020-01-02"

sunny, 64.5 ,1,?
"""


@pytest.mark.usefixtures("reader")
def test_arff(tmp_path, write):
    write(ARFF.replace('"2', "2").replace('1"', "1").replace('2"', "2"), "a.arff")
    frame = read(tmp_path / "a.arff")
    assert frame.names == ("outlook today", "temperature", "class", "day")
    assert frame.labels("outlook today").tolist() == ["sunny", "light rain", "sunny"]
    np.testing.assert_array_equal(frame.numbers("temperature"), [85, np.nan, 64.5])
    assert frame.try_numbers("class") is None
    assert frame.labels("class").tolist() == ["0", "2", "1"]
    assert [frame.where(row) for row in range(3)] == [f"{tmp_path}/a.arff:{line}" for line in (11, 12, 14)]


ODD_ARFF = r"""@relation odd
@attribute	'a b'	numeric
@attribute "c d"{'New York', "it's", 'say "no"', 'it\'s, too'}
@attribute e string
@data
1,'New York','x, y'
?, "it's" , '%'
.5	,'say "no"','a\\b', {3}
1e3	'it\'s, too'	NA
"""


@pytest.mark.usefixtures("reader")
def test_an_arff_file_of_odd_cells(tmp_path, write):
    write(ODD_ARFF, "a.arff")
    frame = read(tmp_path / "a.arff")
    np.testing.assert_array_equal(frame.numbers("a b"), [1, np.nan, 0.5, 1000])
    assert frame.labels("c d").tolist() == ["New York", "it's", 'say "no"', "it's, too"]
    assert frame.labels("e").tolist() == ["x, y", "%", "a\\b", ""]
    assert frame.notes == ()
    write(ODD_ARFF.replace("1,'New", "one,'New"), "a.arff")
    with pytest.raises(DataError, match=r"a.arff:6: column .a b. should be numeric, but this cell is .one."):
        read(tmp_path / "a.arff").try_numbers("a b")


def test_a_model_of_an_arff_file_predicts_a_csv(tmp_path, write):
    header = "@relation r\n@attribute x numeric\n@attribute w {a,b,c}\n@attribute y numeric\n@data\n"
    write(gzip.compress((header + csv(ROWS).partition("\n")[2]).encode()), "a.arff.gz")
    write(csv(ROWS), "a.csv")
    prepared = prepare_files("a.arff.gz", task="regression", target="y", folder=tmp_path, validation=0, test=0)
    encoder = prepared.encoder
    other, _ = encoder.encode(read(tmp_path / "a.csv", encoder.dialect), targets=True)
    np.testing.assert_array_equal(other.inputs, prepared.train.inputs)
    assert (
        prepared.fingerprint
        == prepare_files("a.csv", task="regression", target="y", folder=tmp_path, validation=0, test=0).fingerprint
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@relation r\n@attribute x numeric\n1\n", "there is no @data line"),
        ("@data\n1\n", "there is no @data line"),
        ("x,y\n1,2\n", "there is no @data line"),
        ("@attribute x\n@data\n1\n", r"a\.arff:1: not an attribute"),
        ("@attribute x real\n@attribute x real\n@data\n1,2\n", r"a\.arff:2: two attributes are called 'x'"),
        ("@attribute x real\n@data\n{0 1}\n", r"a\.arff:3: sparse rows"),
        ("@attribute x real\n@attribute z real\n@data\n1\n", r"a\.arff:4: 2 column names for a row of 1 cell"),
        ("@attribute x real\n@data\n", "empty"),
        ("@attribute x relational\n@attribute y real\n@end x\n@data\n1\n", r"a\.arff:1: .* type relational"),
        ("@attribute x string\n@data\n'it's'\n", r"a\.arff:3: broken quoting"),
        ("@attribute x string\n@data\n'its\n", r"a\.arff:3: broken quoting"),
    ],
)
def test_damaged_arff(tmp_path, write, text, message):
    write(text, "a.arff")
    with pytest.raises(DataError, match=message):
        read(Path(tmp_path) / "a.arff")

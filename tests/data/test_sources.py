"""Finding the file and its reader."""

from __future__ import annotations

import errno
import gzip
import os

import duckdb
import pytest

from gpumlp.data import ENDINGS, Frame, read
from gpumlp.data.source.read import read_start, rows_at_most
from gpumlp.errors import DataError


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"cannot tell the kind of file from the name 'a\.xlsx'") as caught:
        read(tmp_path / "a.xlsx")
    for ending in ENDINGS:
        assert ending in str(caught.value)


def test_a_missing_file_names_the_nearest_one(tmp_path, write):
    write("x\n1\n", "Train.csv")
    with pytest.raises(DataError, match=r"trian\.csv: no such file\n  did you mean 'Train\.csv'\?"):
        read(tmp_path / "trian.csv")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist"):
        read(tmp_path / "nowhere" / "a.csv")


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    for folder in (tmp_path / "a.csv", tmp_path):
        with pytest.raises(DataError, match="this is a folder"):
            read(folder)


def test_errors_of_data_exit_with_3(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.csv")
    assert caught.value.exit_code == 3


def test_gzip_is_unpacked_whatever_the_case_of_the_name(tmp_path, write):
    write(gzip.compress(b"x,y\n1,2\n"), "A.CSV.GZ")
    source = read(tmp_path / "A.CSV.GZ")
    assert isinstance(source, Frame)
    assert source.names == ("x", "y")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_columns_are_told_by_the_first_rows(tmp_path, monkeypatch, ending):
    """So that ``validate`` takes no more memory for a large file than for a small one."""
    path, kind = tmp_path / f"a.{ending}", {"parquet": "parquet", "jsonl": "json"}[ending]
    duckdb.sql(f"COPY (SELECT i AS x, 'a' AS y FROM range(200000) t(i)) TO '{path}' (FORMAT {kind})")
    start = read_start(path)
    assert start.names == ("x", "y")
    assert 0 < len(start) < 200_000
    monkeypatch.setattr("gpumlp.data.source.read.host_memory", lambda: 1000)
    assert rows_at_most(path) == 200_000


@pytest.mark.parametrize("ending", ["csv.gz", "csv.zst", "jsonl.gz"])
def test_lines_of_packed_files_are_counted_where_they_may_be_too_many(tmp_path, monkeypatch, ending):
    path, kind = tmp_path / f"a.{ending}", {"csv": "csv", "jsonl": "json"}[ending.split(".")[0]]
    packing = {"gz": "gzip", "zst": "zstd"}[ending.split(".")[1]]
    rows = "SELECT i AS x, 'a' AS y FROM range(2000) t(i)"
    duckdb.sql(f"COPY ({rows}) TO '{path}' (FORMAT {kind}, COMPRESSION {packing})")
    assert rows_at_most(path) == 0
    monkeypatch.setattr("gpumlp.data.source.read.host_memory", lambda: 1000)
    assert rows_at_most(path) == 2000 + (kind == "csv")
    path.write_bytes(b"damaged")
    monkeypatch.setattr("gpumlp.data.source.read.host_memory", lambda: 1)
    assert rows_at_most(path) == 0


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(gzip.compress(b"x,y\n1,2\n")), "gzip data, perhaps packed twice"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard data"),
        (b"PAR1" + bytes(20), "a Parquet file"),
        (b"PK\3\4" + bytes(20), "a ZIP archive, as of a spreadsheet"),
    ],
    ids=["gzip", "Zstandard", "Parquet", "ZIP"],
)
def test_another_kind_of_file_than_its_name_says(tmp_path, write, content, kind):
    name = write(content, "a.csv.gz" if content[:2] == b"\x1f\x8b" else "a.csv")
    with pytest.raises(DataError, match=f"{name}: this is {kind}, not text"):
        read(tmp_path / name)


def test_no_room_for_a_temporary_copy(tmp_path, monkeypatch):
    duckdb.sql(f"COPY (SELECT i AS x, 'a' AS y FROM range(200000) t(i)) TO '{tmp_path}/a.csv.zst' (COMPRESSION zstd)")
    duckdb.sql(f"COPY (SELECT i AS x, 'a' AS y FROM range(200000) t(i)) TO '{tmp_path}/a.csv.gz' (COMPRESSION gzip)")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gpumlp.data.source.files.shutil.copyfileobj", full)
    monkeypatch.setattr("gpumlp.data.source.files.packed_lines", full)
    for name in ("a.csv.gz", "a.csv.zst"):
        with pytest.raises(DataError, match=rf"{name}: there is no room in .* \(No space left on device\)"):
            read(tmp_path / name)


PACKED = gzip.compress(b"x,y\n" + b"1,2\n" * 5000)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PACKED[:-20], id="cut short"),
        pytest.param(PACKED[:10] + b"\xff" * 40, id="no such kind of block"),
        pytest.param(PACKED[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(b"x,y\n1,2\n", id="not packed"),
    ],
)
def test_damaged_gzip(tmp_path, write, content):
    write(content, "a.csv.gz")
    with pytest.raises(DataError, match=r"a\.csv\.gz: the gzip data is damaged or cut short"):
        read(tmp_path / "a.csv.gz")

"""Rows from a query: one SELECT over data files, and nothing else."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gpumlp.config import load
from gpumlp.data import MisfitError, prepare_files
from gpumlp.data.source.query import query_columns, read_query
from gpumlp.errors import ConfigError, DataError
from gpumlp.phases import collected

ROWS = [(i, round(i * 0.37 - 5, 2), "abc"[i % 3], i % 7) for i in range(90)]


@pytest.fixture
def folder(tmp_path, write) -> Path:
    text = "id,x,w,y\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS)
    write(text, "all.csv")
    (tmp_path / "parts").mkdir()
    for number in range(3):
        part = ROWS[30 * number : 30 * number + 30]
        lines = "".join(",".join(map(str, row)) + "\n" for row in part)
        (tmp_path / "parts" / f"p-{number}.csv").write_text("id,x,w,y\n" + lines)
    write("w;größe\na;1,5\nb;2\n", "sizes.txt")
    return tmp_path


def fingerprint(folder, query=None, train=None) -> str:
    return prepare_files(train, query=query, task="regression", target="y", folder=folder, drop=["id"]).fingerprint


def test_the_time_of_a_query_counts_as_reading(folder):
    with collected() as phases:
        read_query("select * from 'all.csv'", folder)
    assert phases.seconds["read"] > 0


def test_a_query_is_the_file(folder, monkeypatch):
    monkeypatch.chdir("/")
    whole = fingerprint(folder, train="all.csv")
    for query in (
        "select * from 'all.csv'",
        'from "all.csv"',
        "select * from 'parts/p-*.csv'",
        "select id, x, w, y from read_csv('parts/p-*.csv') -- all",
        "select * from read_csv(['parts/p-0.csv', 'parts/p-[12].csv'], delim = ',');",
        f"select * from '{folder}/all.csv'",
        "with t as (select * from 'parts/../all.csv') select t.* from t",
        "select * from 'parts/p-0.csv' union all select * from 'parts/p-[12].csv'",
        "select * from 'all.csv' where id in (select id from 'parts/*.csv') order by id",
    ):
        assert fingerprint(folder, query) == whole, query
    assert fingerprint(folder, "select * from 'all.csv' order by id desc") != whole


def test_a_query_joins_and_computes(folder):
    query = """select a.id, a.x + 1 as x1, s."größe", 'all.csv' as note, a.y
               from 'all.csv' a join read_csv('sizes.txt', delim = ';', decimal_separator = ',') s using (w)
               order by a.id"""
    frame = read_query(query, folder)
    assert frame.names == ("id", "x1", "größe", "note", "y")
    kept = [row for row in ROWS if row[2] != "c"]
    np.testing.assert_allclose(frame.numbers("x1"), [row[1] + 1 for row in kept])
    np.testing.assert_array_equal(frame.numbers("größe"), [1.5 if row[2] == "a" else 2 for row in kept])
    assert set(frame.labels("note")) == {"all.csv"}
    assert frame.where(3) == "query, row 4"
    assert frame.notes == ()
    assert query_columns(query, folder).names == frame.names


def test_the_time_between_two_days_is_a_number_of_seconds(folder):
    query = "select timestamp '2024-03-01 00:00:30' - timestamp '2024-02-28' as gap, id from 'all.csv' order by id"
    assert set(read_query(query, folder).numbers("gap")) == {2 * 86400 + 30.0}


@pytest.mark.parametrize(
    ("query", "is_noted"),
    [
        ("select w, sum(y) as y from 'all.csv' group by w", True),
        ("select w, sum(y) as y from 'all.csv' group by w order by w", False),
        ("select distinct w, y from 'all.csv'", True),
        ("select a.y from 'all.csv' a, 'all.csv' b", True),
        ("select y from 'all.csv' union select y from 'all.csv'", True),
        ("select y from 'all.csv' where y > (select avg(y) from 'all.csv')", False),
    ],
)
def test_an_order_that_may_change_is_noted(folder, query, is_noted):
    assert any("without ORDER BY" in note for note in read_query(query, folder).notes) == is_noted


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("copy (select 1) to 'x.csv'", "must be one SELECT, and this is COPY"),
        ("install httpfs", "must be one SELECT, and this is LOAD"),
        ("load httpfs", "must be one SELECT, and this is LOAD"),
        ("attach 'x.db'", "must be one SELECT, and this is ATTACH"),
        ("set threads = 1", "must be one SELECT, and this is SET"),
        ("create table t as select 1", "must be one SELECT, and this is CREATE"),
        ("export database 'x'", "must be one SELECT, and this is EXPORT"),
        ("pragma version", "must be one SELECT"),
        ("call pragma_version()", "must be one SELECT"),
        ("explain select 1", "must be one SELECT"),
        ("select 1 as y; select 2 as y", "must be one SELECT, and this is 2 statements"),
        ("  ", "must be one SELECT, and this is 0 statements"),
        ("with t as (insert into t values (1) returning *) select * from t", "only reads, and there is INSERT"),
        ("select getenv('HOME') as y", "getenv does not exist"),
        ("select * from read_text('/etc/passwd')", "may not read '/etc/passwd'"),
        ("select * from read_blob('all.csv')", "may not read 'all.csv'"),
        ("select * from glob('/etc/*')", r"may not read '/etc/\*'"),
        ("select * from query('select * from ''/etc/passwd''')", "cannot be run|may not read"),
        ("select * from read_csv('/etc/passwd')", "reads data files only, and '/etc/passwd' has another ending"),
        ("select * from '/etc/passwd'", "reads data files only, and '/etc/passwd' has another ending"),
        ("select * from 'https://example.com/a.csv'", "no such file"),
        ("select * from read_csv('s3://bucket/a.csv')", "no such file"),
        ("select * from read_csv(concat('all', '.csv'))", "no such file|other ending|another ending|may not read"),
        ("select * from sqlite_scan('a.db', 't')", "cannot be run"),
        ("select * from read_csv('all.csv', store_rejects = true, rejects_table = 'x')", ""),
    ],
)
def test_what_a_query_may_not_do(folder, query, message, monkeypatch):
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if message:
        with pytest.raises(DataError, match=message):
            read_query(query, folder)
    else:
        read_query(query, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_file_that_is_not_named_cannot_be_read(folder):
    with pytest.raises(DataError, match=r"may not read|cannot be run"):
        read_query("select * from 'all.csv', query('from ''sizes.txt''')", folder)
    with pytest.raises(DataError, match=r"may not read|cannot be run"):
        read_query("select * from query_table('sizes.txt')", folder)


@pytest.mark.parametrize(
    ("query", "place", "message"),
    [
        ("selct 1", "line 1, column 1", "syntax error"),
        ("select y\nfrom 'all.csv' wher y > 1", "line 2, column 21", "syntax error"),
        ("select 'é' as k, nope from 'all.csv'", "line 1, column 18", 'column "nope" not found'),
        ("select y\nfrom 'parts/*.csv' p\nwhere p.z > 1", "line 3, column 7", "z"),
        ("select y from 'al.csv'", "line 1, column 15", r"al\.csv: no such file\n  did you mean 'all\.csv'"),
        ("select y from 'b/*.csv'", "line 1, column 15", "no file matches this pattern"),
        ("select cast(w as int) as y from 'all.csv'", "", 'Could not convert string "a"'),
        ("select nofunc(y) from 'all.csv'", "line 1, column 8", "nofunc does not exist"),
        ("select y from 'all.csv' where y > 99", "", "no rows"),
    ],
)
def test_errors_tell_the_place_in_the_query(folder, query, place, message):
    with pytest.raises(DataError, match=message) as caught:
        read_query(query, folder)
    assert caught.value.where.startswith(f"query, {place}" if place else "query")
    assert "\n" not in caught.value.what


def test_settings_take_a_query(folder, write):
    text = "task: regression\ndata:\n  query: {}\n  target: {}\n"
    write(text.format("select * from 'all.csv'", "y"), "run.yaml")
    data = load(folder / "run.yaml").settings.data
    assert (data.train, data.title) == (None, "query")
    assert data.misfits(folder) == []
    write(text.format("select * from 'all.csv'", "z"), "run.yaml")
    assert [setting for setting, _ in load(folder / "run.yaml").settings.data.misfits(folder)] == ["data.target"]
    write(text.format("select a from 'all.csv'", "y"), "run.yaml")
    loaded = load(folder / "run.yaml")
    assert "run.yaml:3:3: data.query: query, line 1, column 8" in loaded.report(loaded.settings.data.misfits(folder))
    with pytest.raises(MisfitError, match="not found"):
        fingerprint(folder, "select a from 'all.csv'")
    write(text.format("select 1", "y") + "  train: all.csv\n", "run.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml:5:3: data\.train: data.query is set too"):
        load(folder / "run.yaml")


def test_the_rows_of_a_query_go_with_it(folder, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    frame = read_query("select * from 'all.csv'", folder)
    assert frame.columns["x"].written().texts[0] == "-5"
    assert len(list(scratch.iterdir())) == 1
    del frame
    gc.collect()
    with pytest.raises(DataError):
        read_query("select * from 'all.csv' where y > 99", folder)
    gc.collect()
    assert list(scratch.iterdir()) == []

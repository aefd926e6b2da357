"""Files that would take memory or time without end are refused first."""

from __future__ import annotations

import gzip
import re
import struct
import time
from collections import namedtuple

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner
from support import peak_memory

from gpumlp.cli import main
from gpumlp.config import load
from gpumlp.data import prepare, prepare_files, read, rows_of
from gpumlp.data.source import delimited, engine, frame, room
from gpumlp.data.source import read as source_read
from gpumlp.data.source.engine import Scan
from gpumlp.errors import ConfigError, DataError
from gpumlp.training.build import load_data, require_memory


def peak_of(function, error, match) -> int:
    """Return the bytes that a refusal takes at its peak."""
    with peak_memory() as peak:
        with pytest.raises(error, match=match):
            function()
        return peak()


def test_an_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_LINE_BYTES", 1 << 20)
    with gzip.open(tmp_path / "a.csv.gz", "wb", 1) as stream:
        stream.write(b"x,y\n1,2\n")
        for _ in range(64):
            stream.write(b"1" * (1 << 20))
    match = r"a\.csv\.gz:3: this line has more than 1,048,576 characters"
    assert peak_of(lambda: read(tmp_path / "a.csv.gz"), DataError, match) < 20 << 20


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_that_is_not_what_it_says(tmp_path, packed):
    def write(shape, body):
        content = struct.pack(">4I", 2051, *shape) + body
        path = tmp_path / ("a.idx3.gz" if packed else "a.idx3")
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        return path

    many = write((2**31, 2**10, 2**10), b"ab")
    assert peak_of(lambda: read(many), DataError, "the header says 2147483648 x 1024 x 1024 bytes") < 4 << 20
    longer = write((1, 1, 2), bytes(64 << 20))
    assert peak_of(lambda: read(longer), DataError, "= 2, but .* follow") < 4 << 20
    assert read(write((1, 1, 2), b"ab")).block("images").tolist() == [[97, 98]]


def test_a_table_of_a_million_columns(tmp_path):
    line = b",".join([b"1"] * 10**6) + b"\n"
    (tmp_path / "a.csv").write_bytes(line * 3)
    start = time.process_time()
    with pytest.raises(DataError, match=r"a\.csv:1: there are 1,000,000 columns, and a table has at most 100,000"):
        read(tmp_path / "a.csv")
    assert time.process_time() - start < 5


def test_an_array_of_a_million_columns():
    rows = rows_of(np.broadcast_to(np.float32(1), (4, 10**6)), np.arange(4))
    with pytest.raises(DataError, match=r"has 1,000,000 columns, and at most 262,144"):
        prepare(rows, task="regression", target="y", validation=0, test=0)


def test_time_is_linear_in_the_columns(tmp_path):
    seconds = {}
    for columns in (500, 2000):
        rng = np.random.default_rng(0)
        names = ",".join(f"c{i}" for i in range(columns))
        rows = "".join(",".join(map(str, row)) + "\n" for row in rng.integers(0, 1000, (80, columns)).tolist())
        (tmp_path / "a.csv").write_text(names + "\n" + rows)
        start = time.process_time()
        prepared = prepare_files("a.csv", task="regression", target="c0", folder=tmp_path)
        seconds[columns] = time.process_time() - start
        assert prepared.encoder.width == columns - 1
    assert seconds[2000] < 4 * 3 * max(seconds[500], 0.1)


def test_long_lines_of_the_engine_and_of_the_reader_are_as_long():
    assert delimited.MAX_LINE_BYTES == engine.MAX_LINE_BYTES


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_what_neither_memory_nor_disk_can_hold_is_refused_before_it_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "START_CELLS", 0)
    text = "x,w,y\n" + "".join(f"{i},{'ab'[i % 2]},{i % 3}\n" for i in range(50))
    (tmp_path / "a.csv").write_text(text)
    duckdb.sql(f"SELECT * FROM read_csv('{tmp_path / 'a.csv'}')").write_parquet(str(tmp_path / "a.parquet"))
    kept = "max_memory: 5e-7, pack: {folder: packs}"
    (tmp_path / "a.yaml").write_text(f"task: regression\ndata: {{train: {name}, target: y, {kept}}}\n")
    assert CliRunner().invoke(main, ["validate", str(tmp_path / "a.yaml")]).exit_code == 0
    monkeypatch.setattr(Scan, "columns", None)
    for module in (frame, source_read):
        monkeypatch.setattr(module, "host_memory", lambda: 1100)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: Usage(2000, 1100, 900))
    for command in (["validate"], ["inspect"], ["train", "--run-dir", str(tmp_path / "run")]):
        result = CliRunner().invoke(main, [command[0], str(tmp_path / "a.yaml"), *command[1:]])
        assert result.exit_code == 3, result.output
        assert re.search(r"packs: the columns of the data take 9\d\d bytes, and this disk has 900 b", result.stderr)
        assert "choose a folder on another disk by data.pack.folder" in result.stderr
    assert not (tmp_path / "run").exists()


def test_arrays_that_nothing_can_hold_are_refused_by_their_headers(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.zeros((100, 4)), y=np.arange(100))
    kept = "max_memory: 5e-7, pack: {folder: packs}"
    (tmp_path / "a.yaml").write_text(f"task: regression\ndata: {{train: a.npz, target: y, {kept}}}\n")
    assert CliRunner().invoke(main, ["validate", str(tmp_path / "a.yaml")]).exit_code == 0
    monkeypatch.setattr(frame, "host_memory", lambda: 1100)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: Usage(2000, 1100, 900))
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "a.yaml")])
    assert result.exit_code == 3, result.output
    assert "packs: the columns of the data take 3,750 bytes, and this disk has 900 bytes" in result.stderr


def test_encoded_rows_and_the_network_are_refused_together(tmp_path, write):
    path = write("x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(200)))
    (tmp_path / "a.yaml").write_text(f"task: regression\ndata: {{train: {path}, target: y}}\n")
    loaded = load(tmp_path / "a.yaml")
    data = load_data(loaded)
    assert data.nbytes == 200 * 2 * 4
    needed = next(has for has in range(1, 10**7, 997) if _fits(loaded.settings, has, data.encoder))
    assert _fits(loaded.settings, needed + data.nbytes, data.encoder, len(data.train), data.nbytes)
    with pytest.raises(ConfigError, match=r"the encoded rows take 1,600 bytes and the network .*\n  train on fewer"):
        require_memory(loaded.settings, needed, data.encoder, len(data.train), data.nbytes)


def _fits(*args):
    try:
        require_memory(*args)
    except ConfigError:
        return False
    return True

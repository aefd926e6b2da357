"""Files that would take memory or time without end are refused first."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc

import numpy as np
import pytest

from gpumlp.data import prepare, prepare_files, read, rows_of
from gpumlp.data.source import delimited, engine
from gpumlp.errors import DataError


def peak_of(function, error, match) -> int:
    """Return the bytes that a refusal takes at its peak."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match):
            function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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
    assert read(write((1, 1, 2), b"ab")).arrays["images"].tolist() == [[97, 98]]


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

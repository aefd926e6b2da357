"""Reading a data file: which reader, by the ending of its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from gpumlp.data.source.arff import read_arff
from gpumlp.data.source.arrays import ArrayTable, read_npy, read_npz
from gpumlp.data.source.delimited import delimited_blocks, read_delimited
from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.engine import EngineRefusalError, packed_line_count, text_facts
from gpumlp.data.source.files import Files, all_files, existing, title, unpacked_name
from gpumlp.data.source.frame import Frame, concatenated, require_same_columns
from gpumlp.data.source.idx import read_idx
from gpumlp.data.source.sniff import SAMPLE
from gpumlp.data.source.typed import json_blocks, parquet_blocks, read_json_lines, read_parquet, row_count
from gpumlp.errors import DataError
from gpumlp.limits import host_memory
from gpumlp.phases import phase

Source = Frame | ArrayTable


class FrameReader(Protocol):
    """A function that reads a file of typed or untyped columns."""

    def __call__(self, path: Path, dialect: Dialect = ..., *, texts: Collection[str] = ...) -> Frame: ...


_ARRAY_READERS: dict[str, Callable[[Path], ArrayTable]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    "-ubyte": read_idx,
    "-ubyte.gz": read_idx,
    ".idx": read_idx,
    ".idx.gz": read_idx,
    ".idx1": read_idx,
    ".idx1.gz": read_idx,
    ".idx3": read_idx,
    ".idx3.gz": read_idx,
}
_TEXT = (".csv", ".tsv", ".txt", ".dat", ".data", ".test")
_JSON = (".jsonl", ".ndjson")
_PACKED = ("", ".gz", ".zst")
_PACKS = 16  # times smaller that text is when it is packed, at the most, nearly always
_FRAME_READERS: dict[str, FrameReader] = {
    **{ending + packed: read_delimited for ending in _TEXT for packed in _PACKED},
    ".parquet": read_parquet,
    **{ending + packed: read_json_lines for ending in _JSON for packed in _PACKED},
    **{".arff" + packed: read_arff for packed in _PACKED},
}

_BLOCK_READERS: dict[FrameReader, Callable[..., Iterator[Frame]]] = {
    read_delimited: delimited_blocks,
    read_parquet: parquet_blocks,
    read_json_lines: json_blocks,
}

ENDINGS: tuple[str, ...] = (*_FRAME_READERS, *_ARRAY_READERS)
"""The endings of file names that can be read."""


@phase("read")
def read(files: Files, dialect: Dialect = DETECT, *, texts: Collection[str] = ()) -> Source:
    """Read a data file, or several as one table.

    Parameters
    ----------
    files
        A file whose name ends in one of ``ENDINGS``, a pattern such as ``part-*.csv``, which stands for all that
        match in the order of their names, or a list of these.
    dialect
        How a text file is written, as far as that is known; what is found in the first holds for all.
    texts
        Columns to be kept as they are written, even where all their cells are numbers: classes, categories.

    Raises
    ------
    DataError
        If a file is absent, of an unknown kind, or damaged, or if files have different columns.
    """
    paths = all_files(files)
    frames: list[Frame] = []
    for path in paths:
        source = _read_one(path, dialect, texts)
        if len(paths) == 1:
            return source
        if not isinstance(source, Frame):
            message = "only tables can be read together, and this file holds arrays"
            raise DataError(message, where=str(path), hint="put the arrays of all files into one")
        frames.append(source)
        if source.dialect.separator:
            dialect = source.dialect
    if not frames:
        raise DataError("no file is named")
    return concatenated(frames, title(paths))


def _read_one(path: Path, dialect: Dialect, texts: Collection[str]) -> Source:
    ending = readable(path)
    if ending in _FRAME_READERS:
        return _FRAME_READERS[ending](path, dialect, texts=texts)
    return _ARRAY_READERS[ending](path)


def count_of(source: Source) -> int:
    """Return the number of rows of a source; of several arrays that of the first."""
    return len(source) if isinstance(source, Frame) else source.count(source.names[0])


def in_parts(source: Source, count: int, size: int) -> Iterator[Source]:
    """Yield ``count`` rows, ``size`` at a time: the source itself where they are no more."""
    if count <= size:
        yield source
        return
    for start in range(0, count, size):
        yield source.take(np.arange(start, min(start + size, count)))


def read_blocks(files: Files, dialect: Dialect, *, texts: Collection[str] = ()) -> Iterator[Source]:
    """Yield the rows of text, Parquet and JSON lines some at a time, so that memory does not grow with them.

    Several files come one after the other. A short file, and one of another kind, comes at once.

    Parameters
    ----------
    files, texts
        As for ``read``.
    dialect
        Dialect of the training file.

    Raises
    ------
    DataError
        As ``read`` does; rows before what is wrong may have been yielded.
    """
    paths = all_files(files)
    for path in paths:  # so that a mistake in the last name is found before any work
        if readable(path) not in _FRAME_READERS:
            yield read(files, dialect, texts=texts)
            return
    first: Frame | None = None
    for path in paths:
        reader = _FRAME_READERS[readable(path)]
        blocks = _BLOCK_READERS.get(reader)
        for frame in [reader(path, dialect, texts=texts)] if blocks is None else blocks(path, dialect, texts=texts):
            if first is None:
                first = frame.take(np.arange(0))
            require_same_columns(first, frame)
            yield frame
        if first is not None and first.dialect.separator:
            dialect = first.dialect


def read_start(path: Path, dialect: Dialect = DETECT) -> Source:
    """Read a data file, of a pattern the first, as far as its columns are told: of tables, only the first rows.

    Raises
    ------
    DataError
        As ``read`` does.
    """
    path = all_files(path)[0]
    reader = _FRAME_READERS.get(readable(path))
    if reader is read_delimited:
        return read_delimited(path, dialect, limit=SAMPLE)
    if reader is None or (blocks := _BLOCK_READERS.get(reader)) is None:
        return read(path, dialect)
    first: Frame = next(blocks(path, dialect))
    return first


def rows_at_most(path: Path) -> int:
    """Return the rows of a Parquet file, and the lines of text or JSON that may be too large for memory; else 0."""
    ending = readable(path)
    if ending == ".parquet":
        return row_count(path)
    # A cell takes two bytes of text at least, and eight of memory.
    grows = 4 * (_PACKS if ending.endswith((".gz", ".zst")) else 1)
    has_lines = unpacked_name(path).endswith((*_TEXT, *_JSON))
    if not has_lines or grows * path.stat().st_size <= (host_memory() or 0):
        return 0
    if grows == 4:
        return text_facts(path).lines
    try:
        return packed_line_count(path)
    except EngineRefusalError:  # which is told when it is read
        return 0


def readable(path: Path) -> str:
    """Return the ending of the name of a file that can be read.

    Raises
    ------
    DataError
        If the file is absent or of an unknown kind.
    """
    if os.path.isdir(path):
        existing(path)  # a folder is told as one, whatever its name
    ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), None)
    if ending is None:
        raise DataError(
            f"cannot tell the kind of file from the name {path.name!r}",
            where=str(path),
            hint="the name must end in one of: " + " ".join(ENDINGS),
        )
    existing(path)
    return ending

"""Delimited text: perhaps a line of column names, then one row per line. How it is written is found out."""

from __future__ import annotations

import codecs
import contextlib
import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np

from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.files import open_binary
from gpumlp.data.source.sniff import SAMPLE, Row, find_decimal, find_separator, sniffed, split_rows
from gpumlp.data.source.table import Column, Table
from gpumlp.errors import DataError

# Rows become columns in portions of this size: the whole file is never held as lists of cells.
_PORTION = 8192

# What a text is that is not UTF-8, more often than anything else.
_FALLBACK = "cp1252"

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip

Opened = Callable[[], AbstractContextManager[IO[bytes]]]


def read_delimited(path: Path, dialect: Dialect = DETECT, *, limit: int | None = None) -> Table:
    """Read a delimited file, gzip if its name ends in ``.gz``; ``.tsv`` is separated by tabs unless told otherwise.

    In ``.data`` and ``.test``, which are C4.5 files, a line that begins with ``|`` is a comment, and a point at the
    end of a line is no part of the last cell (Quinlan 1993, C4.5).

    Parameters
    ----------
    path : of the file
    dialect : how it is written, as far as that is known
    limit : lines to read; None for all

    Raises
    ------
    DataError : if the file cannot be read as a table; the message names the line
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".tsv") and dialect.separator is None:
        dialect = replace(dialect, separator="\t")
    clean = _c45 if name.endswith((".data", ".test")) else iter
    return _read(lambda: open_binary(path), str(path), dialect, lambda lines: islice(clean(lines), limit))


def read_bytes(content: bytes, dialect: Dialect = DETECT, *, name: str = "standard input") -> Table:
    """Read a table from the bytes of a delimited file.

    Raises
    ------
    DataError : as ``read_delimited`` does
    """
    return _read(lambda: contextlib.nullcontext(io.BytesIO(content)), name, dialect, iter)


def read_lines(lines: Iterable[str], dialect: Dialect = DETECT, *, name: str = "standard input") -> Table:
    r"""Read a table from lines of text with their ends, each ``\n`` or ``\r\n``.

    Raises
    ------
    DataError : if the lines are not a table
    """
    lines = iter(lines)
    head = list(islice(lines, SAMPLE))
    if head:
        head[0] = head[0].removeprefix("\ufeff")
    if "\0" in "".join(head):
        hint = "give data.encoding, such as utf-16, if it is text"
        raise DataError("there are NUL characters, so this is no text, or in another encoding", where=name, hint=hint)
    found = sniffed(head, dialect)
    rows = split_rows(chain(head, lines), found, name)
    first = next((row for row in rows if any(cell.strip() for cell in row[1])), None)
    if first is None:
        raise DataError("the file is empty", where=name, hint="a table has a line of column names, then rows")
    if found.header:
        names = _column_names(first[1], f"{name}:{first[0]}")
    else:
        names = tuple(f"column_{i}" for i in range(len(first[1])))
        rows = chain([first], rows)
    if len(names) == 1 and dialect.separator is not None:
        _require_separator(head, found, f"{name}:{first[0]}")
    columns, starts = _columns(rows, len(names), name)
    if not starts:
        hint = "if they are a row, set data.header to false"
        raise DataError("there are column names but no rows", where=name, hint=hint)
    if found.decimal is None:
        found = replace(found, decimal=find_decimal([c.texts for c in columns], found.missing))
    return Table(
        path=name,
        columns=dict(zip(names, columns, strict=True)),
        lines=np.array(starts, dtype=np.int64),
        dialect=found,
        notes=_told(name, dialect, found, len(names)),
    )


def _read(opened: Opened, name: str, dialect: Dialect, clean: Callable[[Iterable[str]], Iterator[str]]) -> Table:
    """Decode and read: by the encoding that is given, or by its mark, or as UTF-8, or else as what is usual.

    What was found is not kept for later files: unlike a header, each of them tells its own.
    """

    def attempt(encoding: str) -> Table:
        with opened() as stream, io.TextIOWrapper(stream, encoding, newline="\n") as lines:
            return read_lines(clean(lines), dialect, name=name)

    with opened() as stream:
        start = stream.read(4)
    marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")
    encoding = dialect.encoding or marked
    try:
        table = attempt(encoding)
        return replace(table, notes=(*table.notes, *_doubts(opened, name, encoding)))
    except UnicodeError as error:
        undecodable = _undecodable(opened, name, encoding, error)
        if dialect.encoding or marked != "utf-8":
            raise undecodable from error
    try:
        table = attempt(_FALLBACK)
    except UnicodeError as error:
        raise undecodable from error
    note = f"{undecodable.where}: {undecodable.what}, so the file is read as {_FALLBACK}"
    return replace(table, notes=(*table.notes, f"{note}; set data.encoding if that is wrong"))


def _undecodable(opened: Opened, name: str, encoding: str, error: UnicodeError) -> DataError:
    """Return the error that names the first byte that cannot be decoded, by its line and its place in the file."""
    with opened() as stream:
        content = stream.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as found:
        start = found.start
        where = f"{name}:{content.count(10, 0, start) + 1}"
        what = f"byte {start} (0x{content[start]:02x}) is not {encoding.upper()}"
        return DataError(what, where=where, hint=f"save the file as {encoding.upper()}, or set data.encoding")
    except UnicodeError:
        pass
    return DataError(f"the text is not {encoding.upper()} ({error})", where=name, hint="set data.encoding")


def _doubts(opened: Opened, name: str, encoding: str) -> tuple[str, ...]:
    """Return a note where bytes beyond ASCII make sense as UTF-8, which hardly any other text does by chance."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return ()
    with opened() as stream:
        content = stream.read()
    try:
        if content.isascii() or not content.decode("utf-8"):
            return ()
    except UnicodeDecodeError:
        return ()
    return (f"{name}: the file seems to be UTF-8, but is read as {encoding}, by data.encoding",)


def _c45(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a C4.5 file: comments blank, the point at the end of a line cut off."""
    for line in lines:
        body = line.rstrip()
        yield "\n" if body.startswith("|") else body.removesuffix(".") + "\n"


def _require_separator(head: list[str], found: Dialect, where: str) -> None:
    """Raise the error for lines that are not separated as was said, but evidently otherwise."""
    assert found.separator is not None
    seems = find_separator(head, found)
    if seems != found.separator and seems in head[0]:
        what = f"the cells are not separated by {found.separator!r} but, it seems, by {seems!r}"
        raise DataError(what, where=where, hint="it is given by data.separator, or by the file that was trained on")


def _told(name: str, given: Dialect, found: Dialect, width: int) -> tuple[str, ...]:
    """Return what a user should know of what was found: nothing, for a file as most are."""
    told = []
    if given.header is None and not found.header:
        told.append(f"no line of column names, so they are column_0 to column_{width - 1} (data.header)")
    if given.decimal is None and found.decimal == ",":
        told.append("decimal commas (data.decimal)")
    if given.quote is None and found.quote == "single":
        told.append("single quotes (data.quote)")
    return (f"{name}: found " + "; ".join(told),) if told else ()


def _column_names(header: list[str], where: str) -> tuple[str, ...]:
    """Check the header. A nameless column, such as the row names that R writes, is called by its index."""
    names = [name.strip() or f"column_{index}" for index, name in enumerate(header)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            hint = "column names must differ; if this line is a row, set data.header to false"
            raise DataError(f"two columns are called {name!r}", where=where, hint=hint)
        seen.add(name)
    return tuple(names)


class _Texts(dict[str, int]):
    """Numbers texts in the order in which they are first looked up."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def _columns(rows: Iterator[Row], width: int, where: str) -> tuple[list[Column], list[int]]:
    """Turn rows into columns, and return these with the line that each row starts on."""
    texts = [_Texts() for _ in range(width)]
    codes = [array("i") for _ in range(width)]
    starts: list[int] = []
    portion: list[list[str]] = []

    def flush() -> None:
        for known, column, cells in zip(texts, codes, zip(*portion, strict=True), strict=False):
            column.extend(map(known.__getitem__, cells))
        portion.clear()

    for start, row in rows:
        if len(row) != width:
            hint = "a cell that holds the separator needs quotes"
            if not starts and len(row) > width:
                hint = f"if the first row is a title or a comment, take it out; else {hint}"
            what = f"expected {width} cell{'s' * (width > 1)}, as in the first row, but found {len(row)}"
            raise DataError(what, where=f"{where}:{start}", hint=hint)
        starts.append(start)
        portion.append(row)
        if len(portion) == _PORTION:
            flush()
    flush()
    return [_stripped(*each) for each in zip(texts, codes, strict=True)], starts


def _stripped(texts: _Texts, codes: array[int]) -> Column:
    """Cut the blanks off the texts, which makes some of them equal."""
    stripped = _Texts()
    renumbered = np.array([stripped[text.strip()] for text in texts], dtype=np.int32)
    return Column(np.array(list(stripped), dtype=object), renumbered[np.array(codes, dtype=np.int32)])

"""Delimited text: a header line of column names, then one row per line."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.cells import DEFAULT_MISSING, FLOAT32_MAX, Floats, Strings, parse_numbers
from gpumlp.data.files import open_binary
from gpumlp.errors import DataError, choices

# Rows become columns in portions of this size: the whole file is never held as lists of cells.
_PORTION = 8192


@dataclass(frozen=True, eq=False)
class Column:
    """A column of text, each distinct text kept once: what costs time is done per text, not per cell.

    Parameters
    ----------
    texts : (u,) str, without blanks at the ends; all of them occur
    codes : (N,) int32, for each row which of the texts it has
    """

    texts: Strings
    codes: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> Column:
        """Return the column of these rows."""
        codes = self.codes[rows]
        used = np.bincount(codes, minlength=len(self.texts)) > 0
        return Column(self.texts[used], (np.cumsum(used) - 1).astype(np.int32)[codes])

    def blank(self, missing: Collection[str]) -> Column:
        """Return the column with the empty text in place of every text that means "no value"."""
        return replace(self, texts=np.array([t if t not in missing else "" for t in self.texts], object))


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a delimited text file, still text.

    Parameters
    ----------
    path : what to call the source in messages
    columns : by name, in file order
    lines : (N,) int64, the line of the file on which each row starts, counted from 1
    missing : the cells that mean "no value"; the empty cell always does
    """

    path: str
    columns: Mapping[str, Column]
    lines: NDArray[np.int64]
    missing: frozenset[str]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in file order."""
        return tuple(self.columns)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return the table of these rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, lines=self.lines[rows])

    def where(self, row: int) -> str:
        """Return ``file:line`` for a row."""
        return f"{self.path}:{self.lines[row]}"

    def resolve(self, column: str | int | None) -> str:
        """Return the name of a column given by name or by position (negative: from the end).

        Raises
        ------
        DataError : if there is no such column
        """
        names = self.names
        if column is None:
            hint = "name one of the columns: " + ", ".join(names)
            raise DataError("a table needs the name of its target", where=self.path, hint=hint)
        if isinstance(column, str):
            if column not in names:
                hint = choices(column, names)
                raise DataError(f"there is no column {column!r}", where=self.path, hint=hint)
            return column
        if not -len(names) <= column < len(names):
            hint = f"the file has {len(names)} columns: 0 to {len(names) - 1}, or -1 for the last"
            raise DataError(f"there is no column number {column}", where=self.path, hint=hint)
        return names[column]

    def column(self, name: str) -> Column:
        """Return a column with the empty text for every missing value."""
        return self.columns[name].blank(self.missing)

    def labels(self, name: str) -> Strings:
        """Return the cells of a column, (N,) str, the empty text where the value is missing."""
        column = self.column(name)
        labels: Strings = column.texts[column.codes]
        return labels

    def try_numbers(self, name: str) -> Floats | None:
        """Return a column as numbers, (N,) float64, NaN where the value is missing; None if it has text.

        Raises
        ------
        DataError : if a number is not finite, or beyond the range of 32-bit floats
        """
        column = self.column(name)
        missing = column.texts == ""
        values = parse_numbers(np.where(missing, "nan", column.texts))
        if values is None:
            return None
        # A comparison with NaN is false, so this one test finds NaN, infinities and overflow.
        bad = ~(np.abs(values) <= FLOAT32_MAX) & ~missing
        if bad.any():
            row = int(np.argmax(bad[column.codes]))
            raise DataError(
                f"column {name!r} has {self._cell(name, row)!r}, which is not a finite 32-bit float",
                where=self.where(row),
                hint="correct the cell, or name it as a marker of missing values",
            )
        numbers: Floats = values[column.codes]
        return numbers

    def numbers(self, name: str) -> Floats:
        """Return a column that must be numeric, (N,) float64, NaN where the value is missing.

        Raises
        ------
        DataError : if a cell is text, not finite, or beyond the range of 32-bit floats
        """
        values = self.try_numbers(name)
        if values is not None:
            return values
        column = self.column(name)
        bad = np.array([text != "" and parse_numbers(np.array([text], object)) is None for text in column.texts])
        row = int(np.argmax(bad[column.codes]))
        raise DataError(
            f"column {name!r} should be numeric, but this cell is {self._cell(name, row)!r}",
            where=self.where(row),
            hint="correct the cell, name it as a marker of missing values, or drop the column",
        )

    def _cell(self, name: str, row: int) -> str:
        column = self.columns[name]
        return str(column.texts[column.codes[row]])


def read_delimited(path: Path, *, missing: Iterable[str] = DEFAULT_MISSING) -> Table:
    """Read a comma-, semicolon- or tab-separated file, UTF-8, gzip if its name ends in ``.gz``.

    Raises
    ------
    DataError : if the file cannot be read as a table; the message names the line
    """
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    with open_binary(path) as stream:
        lines = _decoded(stream, str(path))
        return read_lines(lines, name=str(path), separator="\t" if tabs else None, missing=missing)


def read_lines(
    lines: Iterable[str],
    *,
    name: str = "standard input",
    separator: str | None = None,
    missing: Iterable[str] = DEFAULT_MISSING,
) -> Table:
    """Read a table from lines of text, such as an open text stream.

    Parameters
    ----------
    lines : the lines with their ends; the first one holds the column names
    name : what to call the source in messages
    separator : None finds ``,``, ``;`` or a tab from the first line
    missing : the cells that mean "no value"; the empty cell always does

    Raises
    ------
    DataError : if the lines are not a table
    """
    rows = _rows(iter(lines), separator, name)
    names = _column_names(next(rows)[1], name)
    columns, starts = _columns(rows, len(names), name)
    if not starts:
        raise DataError("there are column names but no rows", where=name)
    return Table(
        path=name,
        columns=dict(zip(names, columns, strict=True)),
        lines=np.array(starts, dtype=np.int64),
        missing=frozenset(missing),
    )


def _decoded(stream: IO[bytes], name: str) -> Iterator[str]:
    """Decode line by line, so that a byte that is not UTF-8 can be named with its line and offset."""
    offset = 0
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {offset + error.start} (0x{line[error.start]:02x}) is not UTF-8",
                where=f"{name}:{number}",
                hint="save the file as UTF-8",
            ) from error
        offset += len(line)


def _rows(lines: Iterator[str], separator: str | None, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, the header first, with the line that it starts on."""
    start = 1
    try:
        head = next(lines, "").removeprefix("\ufeff")
        if not head.strip():
            raise DataError("the first line is empty", where=name, hint="it must hold the column names")
        reader = csv.reader(
            chain([head], lines),
            delimiter=separator or _sniffed(head),
            skipinitialspace=True,
            strict=True,  # else one unclosed quote swallows the rest of the file into a cell
        )
        for row in reader:
            if row:  # the csv module gives [] for a blank line
                yield start, row
            start = reader.line_num + 1  # a quoted cell may hold line ends, so a row can span lines
    except csv.Error as error:
        raise DataError(f"broken quoting or line end ({error})", where=f"{name}:{start}") from error
    except UnicodeDecodeError as error:  # from a text stream, which decodes by itself
        raise DataError(f"the text is not UTF-8 ({error.reason})", where=f"{name}:{start}") from error


def _sniffed(head: str) -> str:
    """Return the separator of a header line: the first of comma, semicolon, tab that it has unquoted."""
    bare = re.sub(r'"[^"]*"', "", head)
    return next((each for each in ",;\t" if each in bare), ",")


def _column_names(header: list[str], where: str) -> tuple[str, ...]:
    """Check the header. A nameless column, such as the row names that R writes, is called by its number."""
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"two columns are called {name!r}",
                where=f"{where}:1",
                hint="the first line must hold the column names, each one once",
            )
        seen.add(name)
    return tuple(names)


class _Texts(dict[str, int]):
    """Numbers texts in the order in which they are first looked up."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def _columns(rows: Iterator[tuple[int, list[str]]], width: int, where: str) -> tuple[list[Column], list[int]]:
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
            raise DataError(
                f"expected {width} cells, as in the first line, but found {len(row)}",
                where=f"{where}:{start}",
            )
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

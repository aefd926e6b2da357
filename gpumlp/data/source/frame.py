"""A frame: typed columns, each numbers or codes of texts, with the place that each row came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import (
    FLOAT32_MAX,
    Floats,
    Missing,
    Strings,
    mend_number,
    number_text,
    parse_numbers,
    seem_grouped,
)
from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.kinds import Kind
from gpumlp.data.source.room import ask_for, gathered, is_in_file, room
from gpumlp.errors import DataError, Note, choices, listed, shown
from gpumlp.limits import gigabytes, host_memory

TYPES = ("text", "boolean", "integer", "number")
"""Types of the values of a column: those that Python and typed files tell apart and classes keep."""

_PADDED = re.compile(r"0[0-9]{2,}")
_FIRST_ROWS = 1000  # looked at before all of a column are


@dataclass(frozen=True, eq=False)
class Codes:
    """A column of text, each distinct text kept once: what costs time is done per text, not per cell.

    Parameters
    ----------
    texts
        (u,) str, without blanks at the ends, in the order in which they first occur.
    codes
        (N,) int32, for each row which of the texts it has.
    """

    texts: Strings
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: NDArray[np.int64]) -> Codes:
        """Return the column of these rows."""
        codes = gathered(self.codes, rows)
        used = np.bincount(codes, minlength=len(self.texts)) > 0
        if used.all():
            return Codes(self.texts, codes)
        return Codes(self.texts[used], (np.cumsum(used) - 1).astype(np.int32)[codes])

    def blank(self, missing: Collection[str]) -> Codes:
        """Return the column with the empty text in place of every text that means "no value"."""
        return replace(self, texts=np.array([t if t not in missing else "" for t in self.texts], object))

    def written(self) -> Codes:
        """Return the column itself: it is kept as it was written."""
        return self

    def in_room(self) -> Codes:
        """Return the column with its codes where the room for sources has them."""
        return replace(self, codes=room().keep(self.codes))


@dataclass(frozen=True, eq=False)
class PartOfCodes:
    """Some rows of a column of text that lies in a file: gathered when they are asked for.

    Parameters
    ----------
    source
        The whole column.
    rows
        (N,) int64.
    """

    source: Codes
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64]) -> PartOfCodes:
        """Return the column of these rows."""
        return PartOfCodes(self.source, self.rows[rows])

    def written(self) -> Codes:
        """Return the column itself."""
        return self.source.take(self.rows)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of numbers.

    Parameters
    ----------
    source
        (n,) float64, NaN where the value is missing.
    rewritten
        Returns the source as it was written; called only where a message or a class needs the texts.
    markers
        Texts that were taken for missing because they stand among numbers.
    rows
        (N,) int64, the rows of the source that the column has; None for all.
    """

    source: Floats
    rewritten: Callable[[], Codes]
    markers: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    @property
    def values(self) -> Floats:
        """The numbers, (N,): gathered when they are asked for, so that parts of a table take no memory."""
        return gathered(self.source, self.rows)

    def take(self, rows: NDArray[np.int64]) -> Numbers:
        """Return the column of these rows."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def written(self) -> Codes:
        """Return the column as it was written."""
        column = self.rewritten()
        return column if self.rows is None else column.take(self.rows)


@dataclass(frozen=True, eq=False)
class Nested:
    """A column of lists or records, which is there but cannot be used: whoever asks for its values gets an error.

    Parameters
    ----------
    name, kind
        Name of the column, and what it is.
    path
        Path of the source.
    count
        Rows.
    """

    name: str
    kind: str
    path: str
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, rows: NDArray[np.int64]) -> Nested:
        """Return the column of these rows."""
        return replace(self, count=len(rows))

    def written(self) -> Codes:
        """Raise the error.

        Raises
        ------
        DataError
            In any case.
        """
        message = f"column {self.name!r} holds {self.kind}, not single values"
        raise DataError(message, where=self.path, hint="leave it out with data.drop, or make columns of its parts")


Column = Numbers | Codes | PartOfCodes | Nested


@dataclass(frozen=True, eq=False)
class Frame:
    """The rows of a table.

    Parameters
    ----------
    path
        What to call the source in messages.
    columns
        By name, in file order.
    locate
        Returns where a row of the source starts, such as ``file:line``; rows are counted from 0.
    dialect
        How the source was read; a later file can be read the same way.
    notes
        What a user should know about how it was read.
    rows
        (N,) int64, the rows of the source that are here; None for all.
    kinds
        What columns are by what the user or the file says.
    types
        Types of the values of columns, one of ``TYPES``, where the source has types; a file of text has none.
    start
        The first rows of a file of text as they are written, by column.
    """

    path: str
    columns: Mapping[str, Column]
    locate: Callable[[int], str]
    dialect: Dialect
    notes: tuple[Note, ...] = ()
    rows: NDArray[np.int64] | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, Codes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in file order."""
        return tuple(self.columns)

    def take(self, rows: NDArray[np.int64]) -> Frame:
        """Return the frame of these rows."""
        columns = {name: _part(column, rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, rows=rows if self.rows is None else self.rows[rows])

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, at most."""
        return 8 * len(self.names)

    def type_of(self, name: str) -> str | None:
        """Return the type of the values of a column, one of ``TYPES``; None where the source has no types."""
        kind = self.kinds.get(name)
        return self.types.get(name) or ("text" if kind is not None and kind.type == "category" else None)

    def ask_for(self) -> None:
        """Have the disk bring the columns that lie in a file."""
        for column in self.columns.values():
            if isinstance(column, Numbers):
                ask_for(column.source, column.rows)

    def where(self, row: int) -> str:
        """Return the place of a row, such as ``file:line``."""
        return self.locate(row if self.rows is None else int(self.rows[row]))

    def resolve(self, column: str | int | None) -> str:
        """Return the name of a column given by name or by position (negative: from the end).

        Raises
        ------
        DataError
            If there is no such column.
        """
        names = self.names
        if column is None:
            hint = f"name one of the columns: {listed(names)}"
            raise DataError("a table needs the name of its target", where=self.path, hint=hint)
        if isinstance(column, str):
            if column not in self.columns:
                hint = choices(column, names)
                if self.dialect.header is False:
                    hint = f"if the first line holds the column names, set data.header to true; else {hint}"
                raise DataError(f"there is no column {column!r}", where=self.path, hint=hint)
            return column
        position: Any = column
        if isinstance(position, bool) or not isinstance(position, Integral):
            message = f"a column is found by its name or number, not by a {type(position).__name__}"
            raise DataError(message, where=self.path, hint=f"columns: {listed(names)}")
        if not -len(names) <= column < len(names):
            hint = f"the file has {len(names)} columns: 0 to {len(names) - 1}, or -1 for the last"
            if str(column) in names:
                hint = f"there is one of that name: write '{column}', with the quotes"
            raise DataError(f"there is no column number {column}", where=self.path, hint=hint)
        return names[column]

    def with_missing(self, missing: Missing) -> Frame:
        """Return the frame with other texts that mean "no value"; numbers that were read with others are undone."""
        if missing == self.dialect.missing:
            return self
        columns = {name: c.written() if isinstance(c, Numbers) else c for name, c in self.columns.items()}
        return replace(self, columns=columns, dialect=replace(self.dialect, missing=missing))

    def with_kinds(self, kinds: Mapping[str, Kind]) -> Frame:
        """Return the frame with what these columns are, numbers of other writings plainly written."""
        new = {name: kind for name, kind in kinds.items() if name in self.columns and self.kinds.get(name) != kind}
        decimal = self.dialect.decimal or "."
        columns = dict(self.columns)
        for name, kind in new.items():
            if kind.thousands or kind.unit:
                column = columns[name].written()
                columns[name] = merged([kind.plain(text, decimal) for text in column.texts], column.codes)
        return replace(self, columns=columns, kinds={**self.kinds, **new})

    def column(self, name: str) -> Codes:
        """Return a column of texts, with the empty text for every missing value."""
        return self.columns[name].written().blank(self.dialect.missing.anywhere)

    def categories(self, name: str) -> Codes:
        """Return a column of classes: each text once, the empty one for every missing value."""
        column = self.column(name)
        return merged(column.texts.tolist(), column.codes)

    def labels(self, name: str) -> Strings:
        """Return the cells of a column, (N,) str, the empty text where the value is missing."""
        column = self.column(name)
        labels: Strings = column.texts[column.codes]
        return labels

    def try_numbers(self, name: str) -> Floats | None:
        """Return a column as numbers, (N,) float64, NaN where the value is missing; None if it has text.

        Raises
        ------
        DataError
            If a number is not finite, or beyond the range of 32-bit floats.
        """
        kind = self.kinds.get(name)
        if kind is not None:
            return self.numbers(name) if kind.type == "number" else None
        column, missing = self.columns[name], self.dialect.missing
        if not isinstance(column, Numbers) or (column.markers and np.isnan(column.values).all()):
            present = {text for text in column.written().texts if text and text not in missing.anywhere}
            if present and present <= missing.among_numbers:
                return None  # there are no numbers for them to stand among
        return self._parsed(name)

    def numbers(self, name: str) -> Floats:
        """Return a column that must be numeric, (N,) float64, NaN where the value is missing.

        Raises
        ------
        DataError
            If a cell is text, not finite, or beyond the range of 32-bit floats.
        """
        values = self._parsed(name)
        if values is not None:
            return values
        column, decimal = self.columns[name].written(), self.dialect.decimal or "."
        alone = (np.array([text], object) for text in column.texts)
        bad = np.array([parse_numbers(text, decimal) is None for text in alone]) & ~self._missing(column)
        row = int(np.argmax(bad[column.codes]))
        raise DataError(
            f"column {name!r} should be numeric, but this cell is {shown(self._cell(name, row))}",
            where=self.where(row),
            hint=self.remedy(name) or "correct the cell, list it under data.missing, or drop the column",
        )

    def parsed(self, names: Iterable[str], *, keep: Callable[[Floats], Floats] = lambda values: values) -> Frame:
        """Return the frame with columns that must be numeric as numbers, so that their texts are read once.

        Parameters
        ----------
        names
            Of the columns.
        keep
            Returns numbers where they are to lie.

        Raises
        ------
        DataError
            As ``numbers`` does.
        """
        texts = {name: column for name in names if isinstance(column := self.columns[name], Codes | PartOfCodes)}
        if not texts:
            return self
        numbers = {name: Numbers(keep(self.numbers(name)), column.written) for name, column in texts.items()}
        return replace(self, columns={**self.columns, **numbers})

    def matrix(self, names: Sequence[str]) -> Floats:
        """Return columns that must be numeric, (N, p) float64, each in one piece of memory: as ``numbers`` does each.

        Raises
        ------
        DataError
            As ``numbers`` does.
        """
        columns = np.empty((len(names), len(self)))
        for out, name in zip(columns, names, strict=True):
            column = self.columns[name]
            out[:] = column.values if isinstance(column, Numbers) else self.numbers(name)
        if largest(columns.reshape(-1)) > FLOAT32_MAX:
            for name in names:
                self.numbers(name)
        return columns.T

    def remedy(self, name: str) -> str | None:
        """Return a hint for fixing the first cell that is not a number, if a person would read it as one."""
        decimal, missing = self.dialect.decimal or ".", self.dialect.missing
        alone = (text for text in self.columns[name].written().texts if text not in missing)
        strange = (text for text in alone if parse_numbers(np.array([text], object), decimal) is None)
        return mend_number(next(strange, ""), decimal)

    def gap_markers(self, name: str) -> list[str]:
        """Return the texts of a column of numbers that mean "no value" only because they stand among numbers."""
        column = self.columns[name]
        if isinstance(column, Numbers) and not column.markers:
            return []
        return [text for text in column.written().texts if text in self.dialect.missing.among_numbers]

    def padded(self, name: str) -> str | None:
        """Return a text of a column of numbers that zeros stand before, as in codes; None where there is none.

        Of a file of text only the first rows are looked at. Two digits are mostly days, months or hours.
        """
        column = self.start.get(name, self.columns[name])
        texts = () if isinstance(column, Numbers | Nested) else column.written().texts
        return next((text for text in texts if text[:1] == "0" and _PADDED.fullmatch(text)), None)

    def grouped(self, name: str) -> str | None:
        """Return a remark on a column of numbers in which points seem to stand between thousands."""
        column = self.columns[name]
        if self.dialect.decimal == ",":
            return None  # then a number has no point
        if isinstance(column, Numbers) and not _may_be_grouped(column.values):
            return None
        return seem_grouped(text for text in column.written().texts if text not in self.dialect.missing)

    def _parsed(self, name: str) -> Floats | None:
        column = self.columns[name]
        if isinstance(column, Numbers):
            values = column.values
            if largest(values) > FLOAT32_MAX:
                raise self._not_finite(name, int(np.argmax(np.abs(values) > FLOAT32_MAX)))
            return values
        codes = column.written()
        missing = self._missing(codes)
        parsed = parse_numbers(np.where(missing, "nan", codes.texts), self.dialect.decimal or ".")
        if parsed is None:
            return None
        bad = ~(np.abs(parsed) <= FLOAT32_MAX) & ~missing
        if bad.any():
            raise self._not_finite(name, int(np.argmax(bad[codes.codes])))
        parsed[np.isin(parsed, list(self.dialect.missing.values))] = np.nan
        numbers: Floats = parsed[codes.codes]
        return numbers

    def _not_finite(self, name: str, row: int) -> DataError:
        return DataError(
            f"column {name!r} has {shown(self._cell(name, row))}, which is not a finite 32-bit float",
            where=self.where(row),
            hint="correct the cell, or list it under data.missing",
        )

    def _missing(self, column: Codes) -> NDArray[np.bool_]:
        """Return which texts of a column of numbers mean "no value", (u,) bool."""
        is_marker = self.dialect.missing.texts.__contains__
        return np.fromiter(map(is_marker, column.texts), bool, len(column.texts))

    def _cell(self, name: str, row: int) -> str:
        column = self.columns[name].written()
        return str(column.texts[column.codes[row]])


def _part(column: Column, rows: NDArray[np.int64]) -> Column:
    """Return the column of these rows, which takes no memory where the column is in a file."""
    return PartOfCodes(column, rows) if isinstance(column, Codes) and is_in_file(column.codes) else column.take(rows)


def require_memory(rows: int, columns: int, where: str, *, itemsize: int = 8, kind: str = "numbers") -> None:
    """Check that columns fit into memory, before any of it is taken.

    Parameters
    ----------
    rows, columns
        Size of the table.
    where
        The source, for the message.
    itemsize
        Bytes of a cell: 8 as it is read.
    kind
        Kind of the columns, for the message.

    Raises
    ------
    DataError
        If they do not.
    """
    needed = itemsize * rows * columns
    require_bytes(needed, f"{rows:,} rows of {columns:,} columns take {gigabytes(needed)} as {kind}", where)


def require_bytes(needed: int, message: str, where: str) -> None:
    """Check that so many bytes have a place in memory or on disk, before any of it is taken.

    Raises
    ------
    DataError
        If they have none; the message begins with ``message``.
    """
    there_is = host_memory()
    if there_is is not None and needed > there_is and not room().holds(needed):
        hint = "train on fewer rows, or drop columns"
        raise DataError(f"{message}; this machine has {gigabytes(there_is)}", where=where, hint=hint)


def largest(values: Floats) -> float:
    """Return the largest absolute value, 0 where there is none. Infinite ones count, NaN does not."""
    return float(max(np.fmax.reduce(values, initial=0.0), -np.fmin.reduce(values, initial=0.0)))


def _may_be_grouped(values: Floats) -> bool:
    """Return whether all numbers may be written with three decimals or none, and some are: see ``seem_grouped``."""
    for part in (values[:_FIRST_ROWS], values):
        thousandths = 1000.0 * part[~np.isnan(part)]
        if not (np.abs(thousandths - np.rint(thousandths)) <= 1e-6).all():
            return False
    return bool((values % 1 != 0).any())


def concatenated(frames: Sequence[Frame], path: str) -> Frame:
    """Return the rows of several frames with the same columns, in any order, one after the other.

    Raises
    ------
    DataError
        If a frame has other columns than the first.
    """
    first = frames[0]
    if len(frames) == 1:
        return first
    for frame in frames:
        require_same_columns(first, frame)
    starts = np.cumsum([0, *map(len, frames)])

    def where(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return frames[part].where(row - int(starts[part]))

    columns = {name: _joined([frame.columns[name] for frame in frames]) for name in frames[0].names}
    notes = tuple(dict.fromkeys(note for frame in frames for note in frame.notes))
    kinds = {name: kind for frame in reversed(frames) for name, kind in frame.kinds.items()}
    types = {name: type_ for name, type_ in first.types.items() if all(f.types.get(name) == type_ for f in frames)}
    return Frame(path, columns, where, first.dialect, notes, kinds=kinds, types=types)


def require_same_columns(first: Frame, frame: Frame) -> None:
    """Check that a frame has the columns of another, in any order.

    Raises
    ------
    DataError
        If it does not.
    """
    lacking = [name for name in first.names if name not in frame.columns]
    new = [name for name in frame.names if name not in first.columns]
    if lacking:
        message = f"there is no column {lacking[0]!r}, which {first.path} has"
        raise DataError(message, where=frame.path, hint=choices(lacking[0], new or frame.names))
    if new:
        hint = "files that are read together have the same columns"
        raise DataError(f"there is a column {new[0]!r}, which {first.path} has not", where=frame.path, hint=hint)


def _joined(columns: Sequence[Column]) -> Column:
    """Return several columns as one: of numbers if all are, unusable if one is."""
    nested = next((column for column in columns if isinstance(column, Nested)), None)
    if nested is not None:
        return replace(nested, count=sum(map(len, columns)))
    if all(isinstance(column, Numbers) for column in columns):
        markers = tuple(dict.fromkeys(m for c in columns if isinstance(c, Numbers) for m in c.markers))
        values = room().growing(np.float64, sum(map(len, columns)))
        for column in columns:
            values.extend(column.values if isinstance(column, Numbers) else np.empty(0))
        return Numbers(values.whole(), lambda: _joined_codes([c.written() for c in columns]), markers)
    return _joined_codes([column.written() for column in columns])


def _joined_codes(columns: Sequence[Codes]) -> Codes:
    starts = np.cumsum([0, *(len(column.texts) for column in columns)])
    codes = [column.codes + start for column, start in zip(columns, starts, strict=False)]
    return merged([text for column in columns for text in column.texts], np.concatenate(codes)).in_room()


def type_of_dtype(dtype: np.dtype[Any]) -> str | None:
    """Return the type of the values of an array, one of ``TYPES``; None for objects and others."""
    return {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "text", "T": "text"}.get(dtype.kind)


def as_written(values: NDArray[Any]) -> Codes:
    """Return values as a CSV file would have them: whole numbers without a point, else the shortest that reads back.

    Parameters
    ----------
    values
        (N,) real numbers, truth values or texts; NaN is the empty text.
    """
    distinct, codes = np.unique(values, return_inverse=True)
    if distinct.dtype.kind == "f":
        texts = list(map(number_text, distinct.tolist() if distinct.dtype == np.float64 else distinct))
    else:
        texts = [str(v).strip() for v in distinct.tolist()]
    return merged(texts, codes.reshape(-1))


def merged(texts: Sequence[str], codes: NDArray[Any]) -> Codes:
    """Return a column of texts without blanks at the ends, each once, in the order in which they first occur.

    Parameters
    ----------
    texts
        Which may be equal once they are stripped, and need not occur.
    codes
        (N,) for each row which of the texts it has.
    """
    stripped: dict[str, int] = {}
    numbers = np.array([stripped.setdefault(text.strip(), len(stripped)) for text in texts], np.int32)
    first = _first_rows(numbers, codes)
    used = np.argsort(first, kind="stable")[: int((first < len(codes)).sum())]
    rank = np.zeros(len(stripped), np.int32)
    rank[used] = np.arange(len(used), dtype=np.int32)
    renumbered = rank[numbers]
    same = codes.dtype == np.int32 and np.array_equal(renumbered, np.arange(len(numbers)))
    return Codes(np.array(list(stripped), object)[used], codes if same else renumbered[codes])


def _first_rows(numbers: NDArray[np.int32], codes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the first row of each of the texts, of which those of a column have these numbers; beyond all for none.

    Most columns have all their texts in the first rows, so more of them are looked at only while some are lacking.
    """
    first = np.full(int(numbers.max(initial=-1)) + 1, len(codes))
    start, size = 0, _FIRST_ROWS
    while start < len(codes) and (first == len(codes)).any():
        part = numbers[codes[start : start + size]]
        firsts = np.full(len(first), len(codes))
        firsts[part[::-1]] = np.arange(start, start + len(part))[::-1]
        np.minimum(first, firsts, out=first)
        start, size = start + size, 8 * size
    return first

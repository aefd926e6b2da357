"""A table of text: columns by name, read as labels or as numbers when somebody asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import FLOAT32_MAX, Floats, Strings, mend_number, parse_numbers, seem_grouped
from gpumlp.data.source.dialect import Dialect
from gpumlp.errors import DataError, choices


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
    """The cells of a table, still text.

    Parameters
    ----------
    path : what to call the source in messages
    columns : by name, in file order
    lines : (N,) int64, the line of the file on which each row starts, counted from 1
    dialect : how the file was read; a later file can be read the same way
    notes : what a user should know about how it was read
    """

    path: str
    columns: Mapping[str, Column]
    lines: NDArray[np.int64]
    dialect: Dialect
    notes: tuple[str, ...] = ()

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
                if self.dialect.header is False:
                    hint = f"if the first line holds the column names, set data.header to true; else {hint}"
                raise DataError(f"there is no column {column!r}", where=self.path, hint=hint)
            return column
        if not -len(names) <= column < len(names):
            hint = f"the file has {len(names)} columns: 0 to {len(names) - 1}, or -1 for the last"
            if str(column) in names:
                hint = f"there is one of that name: write '{column}', with the quotes"
            raise DataError(f"there is no column number {column}", where=self.path, hint=hint)
        return names[column]

    def column(self, name: str) -> Column:
        """Return a column with the empty text for every missing value."""
        return self.columns[name].blank(self.dialect.missing.anywhere)

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
        told = {text for text in self.columns[name].texts if text and text not in self.dialect.missing.anywhere}
        if told and told <= self.dialect.missing.among_numbers:
            return None  # there are no numbers for them to stand among
        return self._parsed(name)

    def numbers(self, name: str) -> Floats:
        """Return a column that must be numeric, (N,) float64, NaN where the value is missing.

        Raises
        ------
        DataError : if a cell is text, not finite, or beyond the range of 32-bit floats
        """
        values = self._parsed(name)
        if values is not None:
            return values
        column, decimal = self.columns[name], self.dialect.decimal or "."
        alone = (np.array([text], object) for text in column.texts)
        bad = np.array([parse_numbers(text, decimal) is None for text in alone]) & ~self._missing(column)
        row = int(np.argmax(bad[column.codes]))
        raise DataError(
            f"column {name!r} should be numeric, but this cell is {self._cell(name, row)!r}",
            where=self.where(row),
            hint=self.remedy(name) or "correct the cell, name it as a marker of missing values, or drop the column",
        )

    def remedy(self, name: str) -> str | None:
        """Return how the texts of a column become numbers, if the first that is none is one to a person."""
        decimal, missing = self.dialect.decimal or ".", self.dialect.missing
        alone = (text for text in self.columns[name].texts if text not in missing)
        strange = (text for text in alone if parse_numbers(np.array([text], object), decimal) is None)
        return mend_number(next(strange, ""), decimal)

    def gap_markers(self, name: str) -> list[str]:
        """Return the texts of a column of numbers that mean "no value" only because they stand among numbers."""
        return [text for text in self.columns[name].texts if text in self.dialect.missing.among_numbers]

    def grouped(self, name: str) -> str | None:
        """Return a remark on a column of numbers in which points seem to stand between thousands."""
        if self.dialect.decimal == ",":
            return None  # then a number has no point
        return seem_grouped(text for text in self.columns[name].texts if text not in self.dialect.missing)

    def _parsed(self, name: str) -> Floats | None:
        column = self.columns[name]
        missing = self._missing(column)
        values = parse_numbers(np.where(missing, "nan", column.texts), self.dialect.decimal or ".")
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

    def _missing(self, column: Column) -> NDArray[np.bool_]:
        """Return which texts of a column of numbers mean "no value", (u,) bool."""
        return np.array([text in self.dialect.missing for text in column.texts], bool)

    def _cell(self, name: str, row: int) -> str:
        column = self.columns[name]
        return str(column.texts[column.codes[row]])

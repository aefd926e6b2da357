"""Finding out how a delimited file is written, from its first lines and, for the decimal comma, from its columns."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from gpumlp.data.source.cells import Missing, Strings, is_number, parse_numbers
from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.engine import MAX_LINE_BYTES
from gpumlp.errors import DataError

_MANY_ROWS = 10  # below a first row of whole numbers: by chance, so many have decimals hardly ever

SAMPLE = 200
"""Lines that are looked at."""

# In the order of trust: a tab hardly ever stands inside a cell, a comma often does.
_SEPARATORS = "\t;|,"
_SINGLE_QUOTED = re.compile(r"(?:(?<=[,;|\t ])|^)'[^']*'(?=[,;|\t ]|$)")
DECIMAL_COMMA = re.compile(r"[+-]?((\d+(,\d*)?|,\d+)([eE][+-]?\d+)?|(?i:inf(inity)?))")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")

# A cell of a megabyte is an article, not an error; the limit is one of the whole process.
csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))

Row = tuple[int, list[str]]
"""The line on which a row starts, counted from 1, and its cells."""


class Blanks:
    """Counts the blank lines between rows."""

    count = 0


def split_rows(lines: Iterable[str], dialect: Dialect, name: str, blanks: Blanks | None = None) -> Iterator[Row]:
    """Yield the rows, without blank lines. Separator and quote must be known; ``name`` is for messages.

    Raises
    ------
    DataError
        If quotes or line ends are broken.
    """
    if dialect.separator == " ":
        lines = single_blanks(lines)
    reader = csv.reader(lines, **dialect.csv_options)
    start, skipped = 1, None
    try:
        for row in reader:
            if row:  # the csv module gives [] for a blank line
                if blanks is not None and skipped:
                    blanks.count += skipped
                skipped = 0
                yield start, row
            elif skipped is not None:  # those before the first row separate nothing
                skipped += 1
            start = reader.line_num + 1  # a quoted cell may hold line ends, so a row can span lines
    except csv.Error as error:
        hint = "double a quote inside quotes; where quotes are plain text, set data.quote to none"
        if "field limit" in str(error):
            hint = f"no cell may have more than {MAX_LINE_BYTES:,} characters; is a quote not closed?"
        if "new-line" in str(error):
            hint = r"end each line with \n or \r\n; a single \r, as old programs write it, needs quotes"
        raise DataError(f"broken quoting or line end ({error})", where=f"{name}:{start}", hint=hint) from error


def single_blanks(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines with one blank between cells, and none at the ends."""
    return (re.sub(r"[ \t]+", " ", line.strip()) + "\n" for line in lines)


def sniffed(lines: Sequence[str], settings: Dialect) -> Dialect:
    """Return the dialect of a file that begins with ``lines``: separator, quote and header, where not given."""
    quote = settings.quote or _quote(lines)
    separator = settings.separator or find_separator(lines, replace(settings, quote=quote))
    dialect = replace(settings, quote=quote, separator=separator)
    if settings.header is None:
        dialect = replace(dialect, header=_has_header(_sample(lines, dialect), settings.missing))
    return dialect


def find_separator(lines: Sequence[str], dialect: Dialect) -> str:
    """Return the separator by which most lines have as many cells as the first, and more than one."""
    best, agreement = ",", 0.0
    for separator in _SEPARATORS:
        rows = _sample(lines, replace(dialect, separator=separator))
        if rows and len(rows[0]) > 1:
            share = sum(len(row) == len(rows[0]) and not _is_torn(row) for row in rows) / len(rows)
            if share > agreement:
                best, agreement = separator, share
    if agreement < 1:
        # Blanks stand between words, too: rows are separated by them if all are numbers, or a whole column is and
        # nothing else may separate cells.
        rows = _sample(lines, replace(dialect, separator=" "))
        if rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            columns = zip(*(rows[1:] or rows), strict=True)
            numeric = [all(is_number(cell) or cell in dialect.missing for cell in column) for column in columns]
            if all(numeric) or (any(numeric) and not agreement and len(rows) > 1):
                best = " "
    return best


def find_decimal(columns: Iterable[Strings], missing: Missing) -> str:
    """Return the decimal mark, given the distinct texts of each column.

    It is a comma where some column says so clearly and none has decimal points. ``1,234`` says nothing: it may be a
    thousand and more.
    """
    marked = {mark: [texts for texts in columns if mark in "".join(texts)] for mark in ",."}
    clear = any(_has_decimal_commas([text for text in texts if text not in missing]) for texts in marked[","])
    pointed = (np.array([text for text in texts if text not in missing], object) for texts in marked["."])
    return "," if clear and all(parse_numbers(texts) is None for texts in pointed) else "."


def _has_decimal_commas(texts: Sequence[str]) -> bool:
    whole = all(DECIMAL_COMMA.fullmatch(text) for text in texts)
    return whole and any("," in text and not _THOUSANDS.fullmatch(text) for text in texts)


def _sample(lines: Sequence[str], dialect: Dialect) -> list[list[str]]:
    """Return the cells of the rows, up to the first that cannot be read: the last may well be cut in two."""
    rows: list[list[str]] = []
    with contextlib.suppress(DataError):
        for _, row in split_rows(lines, dialect, ""):
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(cells)
    return rows


def _is_torn(row: Sequence[str]) -> bool:
    """Return whether a cell has lost one of its quotes to another: the separator was not one."""
    return '"' in "".join(row) and any(cell.count('"') % 2 for cell in row)


def _quote(lines: Sequence[str]) -> str:
    """Return single where apostrophes do nothing but enclose cells, and there are no double quotes."""
    marked = [line.strip() for line in lines if "'" in line]
    if not marked or any('"' in line for line in lines):
        return "double"
    return "double" if any("'" in _SINGLE_QUOTED.sub("", line) for line in marked) else "single"


def _are_years(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names columns by numbers that follow one another, over numbers with decimals."""
    years = [column for column, cell in enumerate(first) if re.fullmatch(r"\d+", cell)]
    numbers = [int(first[column]) for column in years]
    if len(rest) < _MANY_ROWS or len(years) < 2 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return False
    below = [[row[column] for row in rest if column < len(row) and row[column]] for column in range(len(first))]
    if any(cell in below[column] or is_number(cell) != (column in years) for column, cell in enumerate(first)):
        return False
    return all(is_number(cell) and not re.fullmatch(r"[+-]?\d+", cell) for column in years for cell in below[column])


def _has_header(rows: Sequence[Sequence[str]], missing: Missing) -> bool:
    """Return whether the first row holds names: text over numbers or, where all is text, nothing that repeats."""
    if not rows:
        return True
    first, rest = rows[0], rows[1:]
    counted = [cell for cell in first if cell]
    if len(counted) > 2 and counted == [str(i) for i in range(len(counted))]:
        return True  # pandas calls nameless columns so
    if not rest:
        return not any(map(is_number, first))
    if _are_years(first, rest):
        return True
    votes = repeated = 0
    for column, cell in enumerate(first):
        values = {row[column] for row in rest if column < len(row)} - missing.texts
        if values and cell not in missing and all(map(is_number, values)):
            votes += -1 if is_number(cell) else 1
        repeated += cell in values
    return votes > 0 if votes else repeated <= len(first) / 2

"""Cells of data: when text is a number, when it is missing, how large a number may be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Strings = NDArray[np.object_]
Floats = NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)

WHOLE_BELOW = 2.0**53
"""Whole numbers below are written without a point: float64 has all of them."""

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")

# With marks between thousands (by two digits in India: https://en.wikipedia.org/wiki/Indian_numbering_system), a
# printer's minus, a currency, a percent sign.
_FOR_PEOPLE = re.compile(
    r"[+\-−]?\s?[$€£¥]?\s?[+\-−]?([1-9]\d{0,2}([.'’\s]\d{3}|,\d{2,3})+|\d+|(?=[.,]\d))([.,]\d*)?\s?[%$€£¥]?"
)
_PLAINLY = (
    "write the numbers plainly, as -1234.5: without marks between thousands, currency or percent signs; "
    "or describe them in data.columns, as {type: number, thousands: ',', unit: $}"
)
_IN_BRACKETS = re.compile(r"[$€£¥]?\s?\((.+)\)")
_NO_BRACKETS = (
    "if brackets mean that a number is negative, write it plainly, as -1234.5 for (1,234.5); "
    "if these are names, set the column to category in data.columns"
)
_WITH_UNIT = re.compile(rf"{_NUMBER.pattern}\s*(?P<unit>[^\W\d_]{{1,12}}[²³]?|°[CF]?)")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
_MANY = 10  # numbers of three decimals: by chance, one in ten has fewer, as 1.230 is mostly written 1.23


@dataclass(frozen=True)
class Missing:
    """The cells that mean "no value", compared after blanks at both ends are cut off. The empty cell always does.

    Parameters
    ----------
    anywhere
        In every column.
    among_numbers
        Only in a column whose other cells are numbers; in a column of text they may well be a category.
    """

    anywhere: frozenset[str]
    among_numbers: frozenset[str] = frozenset()

    def __contains__(self, cell: str) -> bool:
        """Return whether a cell may mean "no value"."""
        return cell in self.texts

    @cached_property
    def texts(self) -> frozenset[str]:
        """All of these texts, the empty one included."""
        return self.anywhere | self.among_numbers | {""}

    @cached_property
    def values(self) -> frozenset[float]:
        """The numbers that mean "no value", however they are written: -999 also as -999.0."""
        numbers = (parse_numbers(np.array([text], object)) for text in (*self.anywhere, *self.among_numbers) if text)
        return frozenset(float(v[0]) for v in numbers if v is not None and np.isfinite(v[0]))


USUAL_MISSING = Missing(
    frozenset(("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")),
    frozenset(("-", "--", ".", "..", "*", "none", "None", "NONE", "missing", "unknown", "n.a.", "nil")),
)
"""What is taken for "no value" where nobody says otherwise."""


def is_number(cell: str) -> bool:
    """Return whether a cell is written as a number, with a decimal point or a decimal comma."""
    return _NUMBER.fullmatch(cell) is not None


def mend_number(cell: str, decimal: str = ".") -> str | None:
    """Return how to write what a person reads as a number, such as ``1 234`` or ``12 %``; None if nothing is to mend.

    With another decimal mark it may be one as it is.
    """
    other = "," if decimal == "." else "."
    if is_number(cell):
        hint = f"set data.decimal to {other!r} if that stands before decimals; else write the numbers without it"
        return hint if other in cell else None
    if match := _IN_BRACKETS.fullmatch(cell):
        return _NO_BRACKETS if is_number(match[1]) or _FOR_PEOPLE.fullmatch(match[1]) else None
    return _PLAINLY if _FOR_PEOPLE.fullmatch(cell) else None


def common_unit(cells: Iterable[str]) -> str | None:
    """Return the word that stands after the number of every cell, as in ``1.5 kg``, or None."""
    units = set()
    for cell in cells:
        match = _WITH_UNIT.fullmatch(cell)
        units.add(match and match["unit"])
        if None in units or len(units) > 1:
            return None
    return units.pop() if units else None


def seem_grouped(numbers: Iterable[str]) -> str | None:
    """Return a remark where points seem to stand between thousands: 950, but 1.234, of different numbers.

    With them all numbers of a thousand and more have a point and three digits after it, and no others have one.
    """
    pointed, whole = [], []
    for text in numbers:
        if "." not in text:
            whole.append(text)
        elif _THOUSANDS.fullmatch(text):
            pointed.append(text)
        else:  # mostly soon: few columns are read to their end
            return None
    if len(pointed) < _MANY or not whole:
        return None
    if max(abs(float(text)) for text in whole) >= 1000:
        return None
    remark = f"has numbers such as {whole[0]!r} and {pointed[0]!r}, which is read as {float(pointed[0]):g}"
    return f"{remark}; if points stand between thousands, write the numbers without them"


def number_text(value: float | np.floating[Any]) -> str:
    """Return a number as the text of a category: the shortest that reads back in its 32 or 64 bits, empty for NaN.

    Those of 16 bits are taken as 32 bits.
    """
    if value != value:
        return ""
    is_short = isinstance(value, np.floating) and value.dtype.itemsize <= 4
    plain = np.float32(value) if is_short else float(value)
    return str(int(plain)) if -WHOLE_BELOW < plain < WHOLE_BELOW and plain.is_integer() else str(plain)


def parse_numbers(cells: Strings, decimal: str = ".") -> Floats | None:
    """Return the cells as numbers, or None if any of them is not written as one.

    Python would read ``1_2`` as 12; here it is text, because in data it is a code and not a number. With a decimal
    comma a point has no place in a number.
    """
    together = "".join(cells)
    if "_" in together or (decimal == "," and "." in together):
        return None
    if decimal == "," and "," in together:
        cells = np.array([cell.replace(",", ".") for cell in cells], object)
    try:
        return cells.astype(np.float64)
    except ValueError:
        return None

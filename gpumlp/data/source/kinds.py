"""What the user says that a column is, where that is not left to be found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpumlp.data.source.cells import is_number
from gpumlp.data.state import Fields, StateReader
from gpumlp.errors import DataError, choices

KINDS = ("category", "number", "date")


@dataclass(frozen=True)
class Kind:
    """What a column is.

    Parameters
    ----------
    type
        One of ``KINDS``: a category has texts, even where all of them are numbers or dates.
    thousands
        Mark between the thousands of numbers.
    unit
        What stands before or after numbers, such as ``$`` or ``%``, and is left out.
    """

    type: str
    thousands: str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise DataError(f"unknown type of column {self.type!r:.80}", hint=choices(self.type, KINDS))

    def plain(self, text: str, decimal: str) -> str:
        """Return a number as it is written without marks between thousands and without unit.

        Parameters
        ----------
        text
            Text of a cell.
        decimal
            The mark before decimals that is to be written; where thousands have it, decimals have the other one.
        """
        if self.unit:
            sign = text[:1] if text[:1] in ("-", "+") else ""
            rest = text[len(sign) :].strip()
            text = sign + rest.removeprefix(self.unit).removesuffix(self.unit).strip()
        if not self.thousands:
            return text
        text = text.replace(self.thousands, "")
        return text.replace(self.decimal(decimal), decimal)

    def decimal(self, usual: str) -> str:
        """Return the mark before decimals, which is that of the file unless thousands have it."""
        return {",": ".", ".": ","}.get(usual, ".") if self.thousands == usual else usual

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {"type": self.type, "thousands": self.thousands, "unit": self.unit}

    @classmethod
    def from_state(cls, state: StateReader) -> Kind:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        thousands, unit = state.optional_text("thousands"), state.optional_text("unit")
        return cls(state.text("type", allowed=KINDS), thousands, unit)


_UNITS, _CURRENCIES = "$€£¥₹%", "$€£¥₹"
_MARKS = (",", ".", "'", "’", " ", "\u00a0", "\u202f")
"""What stands between thousands somewhere."""
_WRITTEN = re.compile(rf"[+-]?\s?([{_UNITS}]?)\s?[+-]?\s?(\d[\d.,'’\s]*|[.,]\d+)\s?([{_UNITS}]?)")
_EITHER = re.compile(r"\d{1,3}[.,]\d{3}")


def number_format(texts: Iterable[str], decimal: str = ".") -> Kind | None:
    """Return the kind of numbers that all of these texts are; None where they are plain, or may be read in two ways.

    Parameters
    ----------
    texts
        The different texts of a column, without those that mean a missing value.
    decimal
        The mark before decimals in the file.
    """
    listed, units, bodies = list(texts), set(), []
    for text in listed:
        match = _WRITTEN.fullmatch(text)
        if match is None or (match[1] and match[3]):
            return None
        units.add(match[1] or match[3])
        bodies.append(match[2].strip())
    if units == {"%", ""}:  # 12% and 0.12 may be the same
        return None
    units.discard("")
    if len(units) > 1:
        return None
    unit = units.pop() if units else None
    for mark in (None, *_MARKS):
        kind = Kind("number", mark, unit)
        usual = unit is not None and unit in _CURRENCIES and mark != decimal
        if (unit or mark) and _is_certain(bodies, mark, kind.decimal(decimal), usual=usual):
            return kind if all(is_number(kind.plain(text, decimal)) for text in listed) else None
    return None


def _is_certain(bodies: Iterable[str], mark: str | None, decimal: str, *, usual: bool) -> bool:
    """Return whether all are numbers with this mark between thousands, and cannot be others.

    What has one mark, and three digits after it, has thousands or decimals; ``usual`` says that it has thousands.
    """
    whole = r"\d+" if mark is None else rf"[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+|\d{{1,3}}"
    form = re.compile(rf"(?:{whole})?(?:{re.escape(decimal)}\d*)?")
    marked, certain = False, usual or (mark is not None and mark not in ".,")
    for body in bodies:
        if not form.fullmatch(body) or (mark is None and _EITHER.fullmatch(body)):
            return False
        has_mark = mark is not None and mark in body
        marked = marked or has_mark
        certain = certain or (has_mark and not _EITHER.fullmatch(body))
    return mark is None or (marked and certain)


CATEGORY, NUMBER = Kind("category"), Kind("number")

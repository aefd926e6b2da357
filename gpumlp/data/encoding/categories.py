"""Columns of text as 0/1 features."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import WHOLE_BELOW, Strings, common_unit, is_number, mend_number
from gpumlp.data.source.frame import Codes, Frame
from gpumlp.data.state import Fields, StateReader
from gpumlp.errors import DataError, listed, shown

MAX_CATEGORIES = 10_000
"""Features of one column at the most: of more values, the most frequent have one each, and the others share one."""

# Up to so many rows, texts that are all different may still be categories; above, they are names.
_FEW_ROWS = 50
_MANY_CATEGORIES = 255  # one-hot features of one column that are worth a remark
# A column of so many different numbers, and of other texts so few and in so few rows, is no column of categories.
_MANY_NUMBERS, _FEW_STRAYS, _STRAY_SHARE = 10, 3, 0.1
MOSTLY, ALMOST_ALL = 0.9, 0.99
"""Shares of rows: of different values in what looks like an id, of one value in what is nearly constant."""
_TRUTHS = frozenset(("true", "false"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class OneHot:
    """A column of text: one feature for each category, perhaps one for missing values, perhaps one for all others.

    A value that training has never seen must not meet weights that training has never changed. What is not known
    therefore shares a feature with the values that only one training row has: how often such values come is the
    best estimate of how often a new one will (Good 1953, The population frequencies of species). Where there are
    none, a new value has 0 in every feature of the column.

    Parameters
    ----------
    name
        Name of the column.
    categories
        The values with a feature of their own, sorted.
    rare
        The values that one training row has, or the least frequent of more than ``MAX_CATEGORIES``, sorted, if they
        share a feature; where nothing else would be left, they are categories.
    gaps
        Whether a missing value was seen in training, and so is a category of its own.
    """

    name: str
    categories: tuple[str, ...]
    rare: tuple[str, ...]
    gaps: bool

    @classmethod
    def fit(cls, name: str, table: Frame) -> tuple[OneHot | None, str | None]:
        """Return the encoding of a column of text, None where it says nothing, and a remark on it.

        Raises
        ------
        DataError
            If the texts cannot be categories.
        """
        column = table.column(name)
        sizes = np.bincount(column.codes, minlength=len(column.texts)).tolist()
        counts: Counter[str] = Counter()
        for text, size in zip(_plain(column.texts), sizes, strict=True):
            counts[text] += size
        gaps = counts.pop("", 0) > 0
        if len(counts) == 1 and not gaps:
            return None, f"is left out: it is {shown(next(iter(counts)))} in every training row"
        among = None if name in table.kinds else _require_words(name, table, counts)
        if len(counts) == counts.total() > _FEW_ROWS:
            return None, f"is left out: all its {len(counts)} texts are different" + (
                f"; it {among}" if among else ""
            )
        rare = sorted(text for text, count in counts.items() if count == 1)
        if len(rare) == len(counts) and not gaps:
            rare = []
        if crowded := len(counts) - len(rare) + gaps + bool(rare) > MAX_CATEGORIES:
            by_count = sorted(counts, key=lambda text: (-counts[text], text))
            rare = sorted(by_count[MAX_CATEGORIES - gaps - 1 :])
        one_hot = cls(name, tuple(sorted(counts.keys() - set(rare))), tuple(rare), gaps)
        return one_hot, among or _remark(counts, crowded)

    @property
    def width(self) -> int:
        """Features made of this column."""
        return len(self.features)

    @property
    def truths(self) -> bool:
        """Whether the categories are truth values, which programs write in capital or small letters."""
        return _TRUTHS.issuperset((*self.categories, *self.rare))

    @cached_property
    def features(self) -> list[str]:
        """Names of the features: the categories, missing if that is one, and all others if some were seen."""
        values = [*self.categories, *(["(missing)"] if self.gaps else []), *(["(other)"] if self.rare else [])]
        return [f"{self.name}={value}" for value in values]

    def encode(self, column: Codes) -> tuple[NDArray[np.int64], list[str]]:
        """Return the number of the feature of each text, (u,), ``width`` for none, and of each row with a new one it.

        Parameters
        ----------
        column
            With the empty text where the value is missing.
        """
        texts = [text.lower() for text in column.texts] if self.truths else column.texts
        numbers = np.array([self.codes.get(text, -1) for text in texts], np.int64)
        new = numbers < 0
        strangers: list[str] = column.texts[column.codes[new[column.codes]]].tolist() if new.any() else []
        numbers[new] = len(self.categories) + self.gaps
        return numbers, strangers

    @cached_property
    def codes(self) -> dict[str, int]:
        """The number of the feature of each value that training has seen, of a number in its usual spellings."""
        known = [*self.categories, *([""] if self.gaps else [])]
        codes = {category: code for code, category in enumerate(known)} | dict.fromkeys(self.rare, len(known))
        return _usual_spellings(codes) | codes

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {"name": self.name, "categories": list(self.categories), "rare": list(self.rare), "gaps": self.gaps}

    @classmethod
    def from_state(cls, state: StateReader) -> OneHot:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        categories, rare = state.texts("categories"), state.texts("rare")
        one_hot = cls(state.text("name"), categories, rare, state.flag("gaps"))
        if not one_hot.width or not set(categories).isdisjoint(rare):
            raise state.wrong("categories", "must be some, each once")
        return one_hot


def _usual_spellings(codes: dict[str, int]) -> dict[str, int]:
    """Return codes of the numbers among texts as programs write them: 01 as 1, and 1 as 1.0 once a cell is empty.

    A truth value is 1 or 0. Of texts with equal values none is meant.
    """
    values = {text: float(text) for text in codes if _NUMBER.fullmatch(text)}
    values |= {text: float(text == "true") for text in codes if text in _TRUTHS}
    counts = Counter(values.values())
    spellings: dict[str, int] = {}
    for text, value in values.items():
        if counts[value] == 1 and abs(value) < WHOLE_BELOW:
            spellings |= dict.fromkeys((str(value), *([str(int(value))] if value.is_integer() else [])), codes[text])
    return spellings


def _remark(counts: Counter[str], crowded: bool) -> str | None:
    """Return what is to be said of a column of categories that is used."""
    count, different = counts.total(), len(counts)
    if count > _FEW_ROWS and different >= MOSTLY * count:
        return f"has {different} different texts in {count} rows, as an id or a name; consider dropping it"
    if crowded:
        return f"has {different:,} values: the most frequent are categories, and the others share one"
    if different > _MANY_CATEGORIES:
        return f"has {different} categories; consider dropping it"
    if different > 1:
        (text, size), *_ = counts.most_common(1)
        return nearly_constant(shown(text), size, count)
    return None


def nearly_constant(value: str, size: int, count: int) -> str | None:
    """Return a remark on a column that has one value in nearly all rows."""
    if count <= _FEW_ROWS or size == count or size < ALMOST_ALL * count:
        return None
    return f"is {value} in {ALMOST_ALL:.0%} of the training rows or more"  # the same words for many columns: one note


def _require_words(name: str, table: Frame, counts: Counter[str]) -> str | None:
    """Raise the error for a column that was to be one of numbers: some are not plain, or a few cells are no numbers.

    A few different texts like ``10 %`` may be categories, but not with commas: these are more often decimals. Where
    it may be either, return a remark: where most rows have numbers, and where more numbers than words are different,
    as beside a word for "below the limit of detection" that fills most rows.
    """
    remedies = {text: mend_number(text, table.dialect.decimal or ".") for text in counts}
    unplain = {text: remedy for text, remedy in remedies.items() if remedy}
    strays = [text for text in counts if not is_number(text) and text not in unplain]
    numbers = len(counts) - len(strays)
    enough = numbers >= _MANY_NUMBERS or any("," in text for text in unplain)
    if unplain and enough and len(strays) <= numbers:
        text, remedy = next(iter(unplain.items()))
        message = f"column {name!r} has numbers that are not written plainly, such as {shown(text)}"
        raise DataError(message, where=table.path, hint=remedy)
    if not numbers and len(counts) >= _MANY_NUMBERS and (unit := common_unit(counts)):
        kind = f"{{type: number, unit: {unit}}}"
        return f"has numbers in {unit!r} but is read as categories: set its type in data.columns, {kind}"
    rows, total = sum(counts[text] for text in strays), counts.total()
    if not strays or not numbers or (2 * rows >= total and (numbers < _MANY_NUMBERS or numbers < len(strays))):
        return None
    few = listed(map(shown, strays), _FEW_STRAYS)
    if numbers < _MANY_NUMBERS or len(strays) > _FEW_STRAYS or rows > _STRAY_SHARE * total:
        words = f"has numbers but is read as categories because of {few} (in {rows:,} of {total:,} rows)"
        return f"{words}: list such words in data.missing, or set the type in data.columns"
    row = int(np.argmax(table.labels(name) == strays[0]))
    message = f"column {name!r} should be numeric, but this cell is {shown(strays[0])}"
    if rows > 1:
        message += f", and {rows:,} of {total:,} are such words: {few}"
    hint = "correct the cell, name it in data.missing, or set the column to category in data.columns"
    raise DataError(message, where=table.where(row), hint=hint)


def _plain(texts: Strings) -> Strings:
    """Return the texts; in small letters where they are truth values: programs write ``True``, ``TRUE``, ``true``."""
    small = [text.lower() for text in texts]
    return np.array(small, object) if _TRUTHS.issuperset(filter(None, small)) else texts

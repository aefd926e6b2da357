"""The input encoding: from the columns of a source to the numbers that the network sees.

It is fitted on the training rows only and then fixed. The encoded features are, each group in file order:
all numeric columns, a 0/1 flag for each of them that had missing values in training, and one 0/1 feature
for each category of each column of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.arrays import ArrayTable
from gpumlp.data.cells import FLOAT32_MAX, Floats
from gpumlp.data.delimited import Column, Table
from gpumlp.data.scaling import Scaling
from gpumlp.data.sources import Source
from gpumlp.data.state import Fields, StateReader, prefixed
from gpumlp.errors import DataError, choices

Features = NDArray[np.float32 | np.uint8]

# A column with more than this many different texts, all different, holds names and not categories.
_FEW_ROWS = 50
# One-hot features of one column: worth a remark, and beyond all reason.
_MANY_CATEGORIES = 255
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_NAMED_COLUMNS = 5  # further columns that a note names
_MOST_CATEGORIES = 10_000
# No array is believed to be wider than this, whatever a model file says.
_WIDEST = 2**24
# Float64 copies are made of this many rows at a time.
_ROWS_AT_ONCE = 65536


@dataclass(frozen=True, eq=False)
class NumericBlock:
    """Numeric columns, encoded all at once: gaps filled, scaled, then the flags of gaps.

    Parameters
    ----------
    medians : (p,) float64, of the training rows; they fill the gaps
    flagged : (f,) int64, the columns that had gaps in training; each gets a flag
    scaling : fitted to the p columns
    """

    medians: Floats
    flagged: NDArray[np.int64]
    scaling: Scaling

    @classmethod
    def fit(cls, block: NDArray[Any], scaling: str) -> NumericBlock:
        """Fit to (N, p) real numbers, NaN for a gap, no column without a value."""
        return cls(
            medians=np.nanmedian(block, axis=0).astype(np.float64),
            flagged=np.flatnonzero(np.isnan(block).any(axis=0)),
            scaling=Scaling.fit(scaling, block),
        )

    @property
    def width(self) -> int:
        """Features made of the p columns: p + f."""
        return len(self.medians) + len(self.flagged)

    def features(self, names: Sequence[str]) -> list[str]:
        """Return the names of the features, given those of the p columns."""
        return [*names, *(f"{names[column]} is missing" for column in self.flagged)]

    def encode(
        self,
        block: NDArray[Any],
        out: NDArray[np.float32],
        *,
        where: Callable[[int], str],
        name: Callable[[int], str],
    ) -> None:
        """Write the features of (N, p) real numbers to ``out``, (N, p + f) float32.

        ``where`` and ``name`` give the place of a row and the name of a column, for messages.

        Raises
        ------
        DataError : if a value lies so far from the training values that its scaled value overflows
        """
        p = len(self.medians)
        for start in range(0, len(block), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            gaps = np.isnan(block[rows])
            filled = np.where(gaps, self.medians, block[rows])
            with np.errstate(over="ignore", invalid="ignore"):  # found below, and named
                out[rows, :p] = self.scaling.apply(filled)
            out[rows, p:] = gaps[:, self.flagged]
        finite = np.isfinite(out[:, :p])
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            what = f"column {name(column)!r}: {block[row, column]} is too far from the training values"
            raise DataError(what, where=where(row))

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.scaling.to_state()
        own = {"medians": self.medians, "flagged": self.flagged}
        return {"scaling": fields}, {**own, **prefixed("scaling", arrays)}

    @classmethod
    def from_state(cls, state: StateReader, width: int) -> NumericBlock:
        """Restore the block of ``width`` columns.

        Raises
        ------
        RunError : if the state is damaged
        """
        flagged = state.array("flagged", np.int64, (None,))
        if (np.diff(flagged) <= 0).any() or (flagged < 0).any() or (flagged >= width).any():
            raise state.wrong("flagged", "must be sorted numbers of columns")
        medians = state.array("medians", np.float64, (width,))
        return cls(medians, flagged, Scaling.from_state(state.section("scaling"), width))


@dataclass(frozen=True)
class OneHot:
    """A column of text: one feature for each category seen in training, and one for any other text.

    Parameters
    ----------
    name : of the column
    categories : seen in training, sorted
    gaps : whether a missing value was seen in training too, and so is a category of its own
    """

    name: str
    categories: tuple[str, ...]
    gaps: bool

    @property
    def width(self) -> int:
        """Features made of this column."""
        return len(self.features)

    @property
    def features(self) -> list[str]:
        """Names of the features: the categories, missing if that is one, unknown."""
        values = [*self.categories, *(["(missing)"] if self.gaps else []), "(unknown)"]
        return [f"{self.name}={value}" for value in values]

    def encode(self, table: Table, out: NDArray[np.float32]) -> list[str]:
        """Set the feature of each row's category in ``out``, (N, width) zeros; note what is unknown."""
        known = [*self.categories, *([""] if self.gaps else [])]
        codes_of = {category: code for code, category in enumerate(known)}
        unknown = len(known)
        column = table.column(self.name)
        codes = np.array([codes_of.get(text, unknown) for text in column.texts])[column.codes]
        out[np.arange(len(codes)), codes] = 1.0
        strangers = column.texts[column.codes[codes == unknown]]
        if not len(strangers):
            return []
        rows = "1 row has" if len(strangers) == 1 else f"{len(strangers)} rows have"
        example = repr(strangers[0]) if strangers[0] else "a missing value"
        return [f"column {self.name!r}: {rows} a value not seen in training, such as {example}"]


@dataclass(frozen=True, eq=False)
class TableInputs:
    """The encoding of a table with named columns."""

    numeric: tuple[str, ...]
    block: NumericBlock | None  # None where no column is numeric
    one_hots: tuple[OneHot, ...]

    input_scale = 1.0

    @classmethod
    def fit(cls, table: Table, names: Sequence[str], *, scaling: str) -> tuple[TableInputs, list[str]]:
        """Decide on the kind of each column by the rows of ``table``, the training rows, and fit it.

        Returns the encoding, and notes on the columns that are left out or look suspicious.

        Raises
        ------
        DataError : if no column is left, or one cannot be encoded
        """
        numbers: dict[str, Floats] = {}
        one_hots: list[OneHot] = []
        remarks: dict[str, list[str]] = {}  # what is to be said, and of which columns
        for name in names:
            column = table.column(name)
            values = table.try_numbers(name)
            remark = None
            if not any(column.texts):
                remark = "is left out: it is empty in every training row"
            elif values is not None and np.ptp(values) == 0:
                remark = f"is left out: it is {values[0]:g} in every training row"
            elif values is not None:
                numbers[name] = values
                if _counts_rows(table, values):
                    remark = "looks like a row number; consider dropping it"
            else:
                one_hot, remark = _fit_one_hot(name, column, table.path)
                one_hots += one_hot
            if remark is not None:
                remarks.setdefault(remark, []).append(name)
        notes = [_note(columns, remark) for remark, columns in remarks.items()]
        if not numbers and not one_hots:
            raise DataError("no column is left to learn from", where=table.path, hint="; ".join(notes) or None)
        block = NumericBlock.fit(np.stack(list(numbers.values()), axis=1), scaling) if numbers else None
        return cls(tuple(numbers), block, tuple(one_hots)), notes

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the file that are used."""
        return (*self.numeric, *(each.name for each in self.one_hots))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the p features."""
        numeric = self.block.features(self.numeric) if self.block else []
        return (*numeric, *(feature for each in self.one_hots for feature in each.features))

    @property
    def width(self) -> int:
        """The number of features, p."""
        return (self.block.width if self.block else 0) + sum(each.width for each in self.one_hots)

    def encode(self, source: Source, *, others: Collection[str]) -> tuple[Features, list[str]]:
        """Return the features, (N, p) float32, and notes on what is new in this source.

        Parameters
        ----------
        source : a table with all the columns of the training file that were used
        others : columns that may be there too and are no news

        Raises
        ------
        DataError : if a column is missing, or a numeric one has text in it
        """
        if not isinstance(source, Table):
            what = "this file holds arrays, but the model was trained on a table with named columns"
            raise DataError(what, where=source.path)
        for name in self.names:
            if name not in source.columns:
                what = f"there is no column {name!r}, which the model was trained on"
                raise DataError(what, where=source.path, hint=choices(name, source.names))
        notes: list[str] = []
        new = [name for name in source.names if name not in self.names and name not in others]
        if new:
            notes.append("not used, because not in the training data: " + ", ".join(map(repr, new)))
        out = np.zeros((len(source), self.width), np.float32)
        end = 0
        if self.block:
            block = np.stack([source.numbers(name) for name in self.numeric], axis=1)
            end = self.block.width
            self.block.encode(block, out[:, :end], where=source.where, name=self.numeric.__getitem__)
        for one_hot in self.one_hots:
            notes += one_hot.encode(source, out[:, end : end + one_hot.width])
            end += one_hot.width
        return out, notes

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.block.to_state() if self.block else (None, {})
        one_hots = [
            {"name": each.name, "categories": list(each.categories), "gaps": each.gaps} for each in self.one_hots
        ]
        state = {"numeric": list(self.numeric), "block": fields, "one_hots": one_hots}
        return state, prefixed("block", arrays)

    @classmethod
    def from_state(cls, state: StateReader) -> TableInputs:
        """Restore.

        Raises
        ------
        RunError : if the state is damaged
        """
        numeric = state.texts("numeric")
        block = NumericBlock.from_state(state.section("block"), len(numeric)) if numeric else None
        one_hots = tuple(
            OneHot(each.text("name"), each.texts("categories"), each.flag("gaps"))
            for each in state.sections("one_hots")
        )
        inputs = cls(numeric, block, one_hots)
        if not inputs.names or len(set(inputs.names)) < len(inputs.names):
            raise state.wrong("", "must name each column once, and at least one")
        return inputs


@dataclass(frozen=True, eq=False)
class ArrayInputs:
    """The encoding of one array of inputs.

    Parameters
    ----------
    name : of the array in the training file
    columns : of the array, all axes but the first made one
    block : None for bytes, which stay bytes until the network multiplies them by ``input_scale``
    """

    name: str
    columns: int
    block: NumericBlock | None

    @classmethod
    def fit(cls, source: ArrayTable, name: str, *, scaling: str | None) -> ArrayInputs:
        """Fit to the rows of ``source``; ``scaling`` None means robust, but leaves bytes as they are.

        Raises
        ------
        DataError : if a value is infinite, or a column has no value at all
        """
        block = source.block(name)
        if block.dtype == np.uint8 and scaling is None:
            return cls(name, block.shape[1], None)
        _require_finite(block, name, source.where)
        empty = np.isnan(block).all(axis=0)
        if empty.any():
            what = f"array {name!r}: column {int(np.argmax(empty))} has no value in any training row"
            raise DataError(what, where=source.path, hint="take such columns out of the array")
        return cls(name, block.shape[1], NumericBlock.fit(block, scaling or "robust"))

    @property
    def names(self) -> tuple[str, ...]:
        """The array of the file that is used."""
        return (self.name,)

    @property
    def input_scale(self) -> float:
        """What the encoded inputs are to be multiplied by."""
        return 1.0 if self.block else 1.0 / 255.0

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the p features."""
        names = list(map(self._element, range(self.columns)))
        return tuple(self.block.features(names) if self.block else names)

    @property
    def width(self) -> int:
        """The number of features, p."""
        return self.block.width if self.block else self.columns

    def encode(self, source: Source, *, others: Collection[str]) -> tuple[Features, list[str]]:
        """Return the features, (N, p) float32 or uint8, and no notes.

        Parameters
        ----------
        source : arrays with inputs as wide as those of the training file
        others : arrays that are not the inputs

        Raises
        ------
        DataError : if there is no array of inputs, or it does not fit
        """
        if not isinstance(source, ArrayTable):
            what = "this file is a table of text, but the model was trained on an array"
            raise DataError(what, where=source.path)
        name = source.choose_inputs(preferred=self.name, exclude=others)
        block = source.block(name)
        if block.shape[1] != self.columns:
            what = f"array {name!r} has {block.shape[1]} columns, but the model was trained on {self.columns}"
            raise DataError(what, where=source.path)
        if self.block is None:
            if block.dtype != np.uint8:
                what = f"array {name!r} holds {block.dtype}, but the model was trained on bytes (uint8)"
                raise DataError(what, where=source.path)
            return np.ascontiguousarray(block), []
        _require_finite(block, name, source.where)
        out = np.empty((len(block), self.width), np.float32)
        self.block.encode(block, out, where=source.where, name=self._element)
        return out, []

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.block.to_state() if self.block else (None, {})
        return {"name": self.name, "columns": self.columns, "block": fields}, prefixed("block", arrays)

    @classmethod
    def from_state(cls, state: StateReader) -> ArrayInputs:
        """Restore.

        Raises
        ------
        RunError : if the state is damaged
        """
        columns = state.count("columns", largest=_WIDEST)
        section = state.optional_section("block")
        return cls(state.text("name"), columns, NumericBlock.from_state(section, columns) if section else None)

    def _element(self, column: int) -> str:
        return f"{self.name}[{column}]"


def _counts_rows(table: Table, values: Floats) -> bool:
    """Tell whether the values count the lines of the file, from whatever start: an id, not a quantity."""
    return len(values) > _FEW_ROWS and bool(np.ptp(values - table.lines) == 0)


def _note(columns: Sequence[str], remark: str) -> str:
    """Return one sentence on several columns of which the same is to be said."""
    first, *others = columns
    told = ", ".join(repr(name) for name in others[:_NAMED_COLUMNS])
    more = len(others) - _NAMED_COLUMNS
    also = f" (also {told}{f' and {more} more' if more > 0 else ''})" if others else ""
    return f"column {first!r} {remark}{also}"


def _fit_one_hot(name: str, column: Column, path: str) -> tuple[list[OneHot], str | None]:
    """Return the encoding of a column of text, or none, and a remark on it."""
    categories = sorted({text for text in column.texts if text})
    gaps = len(categories) < len(column.texts)
    if len(categories) == 1 and not gaps:
        return [], f"is left out: it is {categories[0]!r} in every training row"
    present = int(np.count_nonzero(column.texts[column.codes] != ""))
    if len(categories) == present > _FEW_ROWS:
        return [], f"is left out: all its {present} texts are different"
    if len(categories) > _MOST_CATEGORIES:
        what = f"column {name!r} has {len(categories)} different texts, too many for categories"
        raise DataError(what, where=path, hint="drop the column")
    commas = sum(bool(_DECIMAL_COMMA.fullmatch(text)) for text in categories)
    if commas > len(categories) / 2:
        what = f"column {name!r} has numbers with a decimal comma, such as {categories[0]!r}"
        raise DataError(what, where=path, hint="write them with a decimal point")
    many = f"has {len(categories)} categories; consider dropping it" if len(categories) > _MANY_CATEGORIES else None
    return [OneHot(name, tuple(categories), gaps)], many


def _require_finite(block: NDArray[Any], name: str, where: Callable[[int], str]) -> None:
    """Check that no number is infinite or beyond 32-bit floats; NaN is a gap and passes."""
    if block.dtype.kind != "f":
        return  # no whole number of 64 bits is that large
    # The extremes first: they need no array of truth values.
    if max(-float(np.nanmin(block, initial=0.0)), float(np.nanmax(block, initial=0.0))) <= FLOAT32_MAX:
        return
    row, column = (int(i) for i in np.argwhere(np.abs(block) > np.float64(FLOAT32_MAX))[0])
    what = f"array {name!r} has {block[row, column]} in column {column}, which is not a finite 32-bit float"
    raise DataError(what, where=where(row))

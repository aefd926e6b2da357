"""The input encoding: from the columns of a source to the numbers that the network sees.

It is fitted on the training rows only and then fixed. The encoded features are, each group in file order:
all numeric columns, a 0/1 flag for each of them that had missing values in training, what columns of dates become,
and one 0/1 feature for each category of each column of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.categories import MOSTLY, OneHot, nearly_constant
from gpumlp.data.encoding.dates import Dates, doubt_of
from gpumlp.data.encoding.features import MAX_WIDTH, Features
from gpumlp.data.encoding.numeric import NumericBlock
from gpumlp.data.encoding.scaling import Ordered
from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.cells import FLOAT32_MAX, FLOAT32_TINY, Floats, Strings
from gpumlp.data.source.frame import Frame, require_memory
from gpumlp.data.source.read import Source
from gpumlp.data.source.room import room
from gpumlp.data.state import Fields, StateReader, prefixed
from gpumlp.errors import DataError, Note, choices, listed, shown
from gpumlp.limits import in_threads

MAX_ARRAY_COLUMNS = 1 << 18
"""Columns of an array at the most, each of which is scaled by itself."""

_FEW_ROWS = 50  # up to so many, whole numbers that are all different mean nothing
_EXACT = 2.0**53  # whole numbers up to it are themselves in float64
_CELLS_AT_ONCE = 1 << 17  # of the rows that are encoded together: float64 copies are made of them
_FITTED_ELEMENTS = 1 << 23  # of an array on disk that are checked together
_ROWS_AT_ONCE = 64
_FIRST_ROWS = 1000  # tell the value of a column that is nearly constant
_NAMED_COLUMNS = 5  # further columns that a note names
_NAME_OF_ID = re.compile(r"(?i:(.*[\W_])?id)|.*[a-z]I[dD]", re.DOTALL)
_ENCODED = "encoded features"
_TOO_NARROW = "varies by less than 32-bit floats resolve, so it counts as 0; change its unit"
_LOST = "has whole numbers beyond 2^53, which floating point cannot represent exactly"
_NEW_GAPS = "has missing values (none in training); filled with the training median"


@dataclass
class News:
    """What is new in sources that are encoded, as against the training rows; it grows from block to block.

    Parameters
    ----------
    source
        Notes on how the source was read.
    columns
        Columns that are not used.
    gaps
        Names of columns that have missing values for the first time.
    strangers
        By column, how many rows have a value that is new, and the first such value.
    rows, unlabelled
        Number of rows that were looked at for a target, and of those without one.
    unseen
        How many rows are of classes that are new, and the first such class.
    """

    source: tuple[Note, ...] = ()
    columns: dict[str, None] = field(default_factory=dict)
    gaps: dict[str, None] = field(default_factory=dict)
    strangers: dict[str, tuple[int, str]] = field(default_factory=dict)
    rows: int = 0
    unlabelled: int = 0
    unseen: tuple[int, str] = (0, "")

    def add_strangers(self, name: str, texts: Sequence[str]) -> None:
        """Count the rows of a column whose values are new."""
        if texts:
            count, example = self.strangers.get(name, (0, texts[0]))
            self.strangers[name] = count + len(texts), example

    def notes(self) -> list[Note]:
        """Return a sentence on each thing."""
        notes = list(self.source)
        if self.columns:
            notes.append(Note("not used, because not in the training data: " + ", ".join(map(repr, self.columns))))
        if self.gaps:
            notes.append(_note(list(self.gaps), _NEW_GAPS))
        for name, (count, text) in self.strangers.items():
            subject = "1 row has" if count == 1 else f"{count} rows have"
            example = shown(text) if text else "a missing value"
            message = f"column {name!r}: {subject} a value not seen in training, such as {example}"
            notes.append(Note(message, name))
        if self.unlabelled:
            notes.append(Note(f"{self.unlabelled:,} of {self.rows:,} rows have no target and are left out"))
        count, example = self.unseen
        if count:
            subject = "1 row is" if count == 1 else f"{count:,} rows are"
            message = f"{subject} of a class not seen in training, such as {shown(example)}: counted as wrong"
            notes.append(Note(f"{message}; loss, log-loss and AUC are of the other rows"))
        return notes


@dataclass(frozen=True, eq=False)
class TableInputs:
    """The encoding of a table with named columns."""

    numeric: tuple[str, ...]
    block: NumericBlock | None  # None where no column is numeric
    one_hots: tuple[OneHot, ...]
    dates: tuple[Dates, ...] = ()

    input_scale = 1.0

    @classmethod
    def fit(
        cls, frame: Frame, names: Sequence[str], *, scaling: str, rows: NDArray[np.int64] | None = None
    ) -> tuple[TableInputs, list[Note]]:
        """Decide on the kind of each column by the rows of ``frame``, the training rows, and fit it.

        Numbers are scaled by ``rows`` of these, of which some may come often; by all if None.

        Returns the encoding, and notes on the columns that are left out or look suspicious.

        Raises
        ------
        DataError
            If no column is left, or one cannot be encoded.
        """
        numeric: list[str] = []
        one_hots: list[OneHot] = []
        dates: list[Dates] = []
        remarks: list[tuple[str, str]] = []
        decided = in_threads(lambda name: decide(name, frame, rows), names)
        for name, (is_numeric, fitted, remark) in zip(names, decided, strict=True):
            if is_numeric:
                numeric.append(name)
            if isinstance(fitted, Dates):
                dates.append(fitted)
            elif fitted is not None:
                one_hots.append(fitted)
            if remark is not None:
                remarks.append((name, remark))
        notes = [*remarks_on(remarks), *(each.note for each in dates)]
        if not numeric and not one_hots and not dates:
            raise DataError("no column is left to learn from", where=frame.path, hint="; ".join(notes) or None)

        numbers = frame.parsed(numeric, keep=room().keep)

        def column(number: int) -> Floats:
            values = numbers.numbers(numeric[number])
            return values if rows is None else values[rows]

        block = NumericBlock.fit(len(numeric), column, scaling) if numeric else None
        return cls(tuple(numeric), block, tuple(one_hots), tuple(dates)), notes

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the file that are used."""
        return (*self.numeric, *self.texts)

    @property
    def numbers(self) -> int:
        """How many of the features are numbers: the first ones."""
        return len(self.numeric)

    @property
    def category_values(self) -> tuple[int, ...]:
        """How many features each column of categories has: the last ones."""
        return tuple(each.width for each in self.one_hots)

    @property
    def columns_of_features(self) -> tuple[int, ...]:
        """The column of the table that each feature is of, (p,): a flag of gaps is of the column that has them."""
        flagged = self.block.flagged.tolist() if self.block else []
        widths = (*(each.width for each in self.dates), *self.category_values)
        others = np.repeat(np.arange(len(self.numeric), len(self.names)), widths)
        return (*range(len(self.numeric)), *flagged, *others.tolist())

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns among them that are read as texts: dates and categories."""
        return (*(each.name for each in self.dates), *(each.name for each in self.one_hots))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the p features."""
        numeric = self.block.features(self.numeric) if self.block else []
        dates = (feature for each in self.dates for feature in each.features)
        return (*numeric, *dates, *(feature for each in self.one_hots for feature in each.features))

    @cached_property
    def width(self) -> int:
        """The number of features, p."""
        return self.dense_width + sum(each.width for each in self.one_hots)

    def encode(
        self, source: Source, *, others: Collection[str], news: News | None = None
    ) -> tuple[Features, list[Note]]:
        """Return the features, p of them, and notes on what is new in this source.

        Parameters
        ----------
        source
            A table with all the columns of the training file that were used.
        others
            Columns that may be there too and are no news.
        news
            News of the blocks before this one, which the notes are on, too.

        Raises
        ------
        DataError
            If a column is missing, or a numeric one has text in it.
        """
        if not isinstance(source, Frame):
            message = "this file holds arrays, but the model was trained on a table with named columns"
            raise DataError(message, where=source.path)
        for name in self.names:
            if name not in source.columns:
                message = f"there is no column {name!r}, which the model was trained on"
                raise DataError(message, where=source.path, hint=choices(name, source.names))
        news = News() if news is None else news
        used = {*self.names, *others}
        news.columns |= dict.fromkeys(name for name in source.names if name not in used)
        require_memory(len(source), self.dense_width + len(self.one_hots), source.path, itemsize=4, kind=_ENCODED)
        stored = np.empty((len(source), self.dense_width + len(self.one_hots)), np.float32)

        columns = (*self.numeric, *(each.name for each in self.dates))
        dense = source.parsed(self.numeric)
        dense = replace(dense, columns={name: dense.columns[name] for name in columns})
        step = _rows_at_once(self.dense_width)
        categories = []
        first = self.dense_width
        for one_hot in self.one_hots:
            texts = source.column(one_hot.name)
            numbers, strangers = one_hot.encode(texts)
            news.add_strangers(one_hot.name, strangers)
            numbers = np.where(numbers < one_hot.width, first + numbers, self.width)
            categories.append((numbers.astype(np.float32), texts.codes))
            first += one_hot.width

        def encode(start: int) -> set[int]:
            rows = slice(start, start + step)
            for column, (number_of, codes) in zip(stored[rows, self.dense_width :].T, categories, strict=True):
                column[:] = number_of.take(codes[rows])
            if not columns:
                return set()
            part = dense.take(np.arange(*rows.indices(len(source))))
            return self._encode(part, stored[rows, : self.dense_width])

        gaps = in_threads(encode, range(0, len(source), step))
        news.gaps |= dict.fromkeys(columns[i] for i in sorted(set().union(*gaps)))
        return Features(stored, self.dense_width, self.width), news.notes()

    @property
    def row_bytes(self) -> int:
        """The bytes that the features of a row take as they are stored."""
        return 4 * (self.dense_width + len(self.one_hots))

    @property
    def dense_width(self) -> int:
        """The number of features that are numbers, flags of missing ones, or of dates; the others are categories."""
        return (self.block.width if self.block else 0) + sum(each.width for each in self.dates)

    def _encode(self, frame: Frame, out: NDArray[np.float32]) -> set[int]:
        """Fill in the dense features of some rows; return the columns with gaps that are new."""
        gaps: set[int] = set()
        start = 0
        if self.block:
            start = self.block.width
            name = self.numeric.__getitem__
            gaps.update(self.block.encode(frame.matrix(self.numeric), out[:, :start], where=frame.where, name=name))
        for number, each in enumerate(self.dates, len(self.numeric)):
            days = each.days(frame)
            out[:, start : start + each.width] = each.encode(days)
            start += each.width
            if not each.gaps and np.isnan(days).any():
                gaps.add(number)
        return gaps

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.block.to_state() if self.block else (None, {})
        one_hots = [each.to_state() for each in self.one_hots]
        state = {"numeric": list(self.numeric), "block": fields, "one_hots": one_hots}
        if self.dates:
            state["dates"] = [each.to_state() for each in self.dates]
        return state, prefixed("block", arrays)

    @classmethod
    def from_state(cls, state: StateReader) -> TableInputs:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        numeric = state.texts("numeric")
        block = NumericBlock.from_state(state.section("block"), len(numeric)) if numeric else None
        one_hots = tuple(map(OneHot.from_state, state.sections("one_hots")))
        dates = tuple(map(Dates.from_state, state.sections("dates"))) if state.has("dates") else ()
        inputs = cls(numeric, block, one_hots, dates)
        if not inputs.names or len(set(inputs.names)) < len(inputs.names):
            raise state.wrong("", "must name each column once, and at least one")
        return inputs


@dataclass(frozen=True, eq=False)
class ArrayInputs:
    """The encoding of one array of inputs.

    Parameters
    ----------
    name
        Name of the array in the training file.
    columns
        Columns of the array, all axes but the first made one.
    block
        None for bytes, which stay bytes until the network multiplies them by ``input_scale``.
    """

    name: str
    columns: int
    block: NumericBlock | None

    @classmethod
    def fit(
        cls, source: ArrayTable, name: str, *, scaling: str | None, rows: NDArray[np.int64] | None = None
    ) -> tuple[ArrayInputs, list[Note]]:
        """Fit to ``rows`` of ``source``, None for all; ``scaling`` None means robust, but leaves bytes as they are.

        Returns the encoding, and notes on the columns that say nothing: they are kept, as arrays are.

        Raises
        ------
        DataError
            If a value is infinite, or a column has no value at all.
        """
        width, whole = source.width(name), None if source.is_in_file(name) else source.block(name)

        def part(columns: slice) -> NDArray[Any]:
            return source.block(name, columns) if whole is None else whole[:, columns]

        if part(slice(1)).dtype == np.uint8 and scaling is None:
            return cls(name, width, None), []
        if width > MAX_ARRAY_COLUMNS:
            message = f"array {name!r} has {width:,} columns, and at most {MAX_ARRAY_COLUMNS:,} can be scaled"
            raise DataError(message, where=source.path, hint="reduce them, such as by principal components")
        constant: list[int] = []
        narrow: list[int] = []
        step = width if whole is not None else max(1, _FITTED_ELEMENTS // source.count(name))
        for first in range(0, width, step):
            block = part(slice(first, first + step))
            _require_finite(block, name, source.where, first)
            empty = np.isnan(block).all(axis=0)
            if empty.any():
                message = f"array {name!r}: column {first + int(np.argmax(empty))} has no value in any training row"
                raise DataError(message, where=source.path, hint="take such columns out of the array")
            high, low = np.nanmax(block, axis=0), np.nanmin(block, axis=0)
            constant += (first + np.flatnonzero(high == low)).tolist()
            spread = high.astype(np.float64) - low
            narrow += (first + np.flatnonzero((high != low) & (spread < FLOAT32_TINY))).tolist()
        remarks = ((constant, "has one value only"), (narrow, _TOO_NARROW))
        notes = [
            _note([f"{name}[{column}]" for column in indices], message) for indices, message in remarks if indices
        ]
        return cls(name, width, _fitted(part, width, scaling or "robust", rows)), notes

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

    @property
    def row_bytes(self) -> int:
        """The bytes that the features of a row take as they are stored."""
        return 4 * self.width if self.block else self.columns

    @property
    def numbers(self) -> int:
        """How many of the features are numbers: the first ones. Bytes are none."""
        return self.columns if self.block else 0

    @property
    def category_values(self) -> tuple[int, ...]:
        """How many features each column of categories has: there are no such columns."""
        return ()

    @property
    def columns_of_features(self) -> tuple[int, ...]:
        """The column of the array that each feature is of, (p,): a flag of gaps is of the column that has them."""
        return (*range(self.columns), *(self.block.flagged.tolist() if self.block else ()))

    def encode(
        self, source: Source, *, others: Collection[str], news: News | None = None
    ) -> tuple[Features, list[Note]]:
        """Return the features, p of them, and notes on what is new in this source.

        Parameters
        ----------
        news
            News of the blocks before this one, which the notes are on, too.
        source
            Arrays with inputs as wide as those of the training file.
        others
            Arrays that are not the inputs.

        Raises
        ------
        DataError
            If there is no array of inputs, or it does not fit.
        """
        if not isinstance(source, ArrayTable):
            message = "this file is a table of text, but the model was trained on an array"
            raise DataError(message, where=source.path)
        name = source.choose_inputs(preferred=self.name, exclude=others)
        block = source.block(name)
        if block.shape[1] != self.columns:
            message = f"array {name!r} has {block.shape[1]} columns, but the model was trained on {self.columns}"
            raise DataError(message, where=source.path)
        if self.block is None:
            if block.dtype != np.uint8:
                message = f"array {name!r} holds {block.dtype}, but the model was trained on bytes (uint8)"
                raise DataError(message, where=source.path)
            return Features.of_array(np.ascontiguousarray(block), source.shape(name)), []
        fitted = self.block
        _require_finite(block, name, source.where)
        require_memory(len(block), self.width, source.path, itemsize=4, kind=_ENCODED)
        out, step = np.empty((len(block), self.width), np.float32), _rows_at_once(self.width)

        def encode(start: int) -> set[int]:
            rows = slice(start, start + step)
            values = block[rows].astype(np.float64)
            return set(
                fitted.encode(values, out[rows], where=lambda row: source.where(start + row), name=self._element)
            )

        gaps = sorted(set().union(*in_threads(encode, range(0, len(block), step))))
        news = News() if news is None else news
        news.gaps |= dict.fromkeys(map(self._element, gaps))
        return Features.of_array(out), news.notes()

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.block.to_state() if self.block else (None, {})
        return {"name": self.name, "columns": self.columns, "block": fields}, prefixed("block", arrays)

    @classmethod
    def from_state(cls, state: StateReader) -> ArrayInputs:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        columns = state.count("columns", largest=MAX_WIDTH)
        section = state.optional_section("block")
        return cls(state.text("name"), columns, NumericBlock.from_state(section, columns) if section else None)

    def _element(self, column: int) -> str:
        return f"{self.name}[{column}]"


def _rows_at_once(width: int) -> int:
    """Return how many rows are encoded together: more cells of many columns, each of which takes time of its own."""
    width = max(width, 1)
    return max(1, _CELLS_AT_ONCE // width, min(_ROWS_AT_ONCE, 8 * _CELLS_AT_ONCE // width))


def decide(
    name: str, frame: Frame, rows: NDArray[np.int64] | None = None
) -> tuple[bool, OneHot | Dates | None, str | None]:
    """Return whether a column is one of numbers, its encoding if it is one of texts or dates, and a remark on it.

    Parameters
    ----------
    name
        Name of the column.
    frame
        The training rows.
    rows
        Those by which dates are scaled, of which some may come often; None: all.

    Raises
    ------
    DataError
        If a cell is wrong.
    """
    values = frame.try_numbers(name)
    if values is None:
        if (dates := Dates.fit(name, frame, rows)) is not None:
            return False, dates, None
        one_hot, remark = OneHot.fit(name, frame)
        if name not in frame.kinds and (doubt := doubt_of(frame.column(name))):
            remark = doubt if remark is None else f"{remark}; it {doubt}"
        return False, one_hot, remark
    low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    if np.isnan(low):
        return False, None, "is left out: it is empty in every training row"
    if high - low < FLOAT32_TINY and not np.isnan(values).any():
        if high > low:
            return True, None, _TOO_NARROW
        lost = abs(low) >= _EXACT and _are_lost(frame.column(name).texts)
        why = f"it {_LOST}" if lost else f"it is {values[0]:g} in every training row"
        return False, None, f"is left out: {why}"
    return True, None, frame.grouped(name) or _remark(name, values, frame, max(high, -low)) or _seldom(values)


def _fitted(
    part: Callable[[slice], NDArray[Any]], width: int, scaling: str, rows: NDArray[np.int64] | None
) -> NumericBlock:
    """Return the encoding of an array, fitted in float64 whatever its dtype: sums of float16 soon overflow."""

    def column(number: int) -> Floats:
        values = part(slice(number, number + 1))[:, 0].astype(np.float64)
        return values if rows is None else values[rows]

    return NumericBlock.fit(width, column, scaling)


def _remark(name: str, values: Floats, frame: Frame, size: float) -> str | None:
    """Return what is to be said of a column of numbers that is used, the largest of this size."""
    if _is_id(name, values):
        return "looks like an id; consider dropping it"
    if _NAME_OF_ID.fullmatch(name) and (different := _mostly_different(values)):
        return f"looks like an id ({different} different numbers in {len(values)} rows); consider dropping it"
    if name not in frame.kinds and (padded := frame.padded(name)):
        hint = f"if they are codes, set data.columns to {{{json.dumps(name, ensure_ascii=False)}: category}}"
        return f"has numbers such as {padded!r}, read as {int(padded)}; {hint}"
    if markers := frame.gap_markers(name):
        return f"has {', '.join(map(repr, markers))} between numbers, taken for missing"
    if size >= _EXACT and _are_lost(frame.column(name).texts):
        return _LOST
    return None


def _mostly_different(values: Floats) -> int:
    """Return how many different whole numbers there are, if hardly any comes again; else 0."""
    if len(values) <= _FEW_ROWS or not _are_whole(values):
        return 0
    different = len(np.unique(values))
    return different if different >= MOSTLY * len(values) else 0


def _are_whole(values: Floats) -> bool:
    """Return whether all are whole numbers; a missing one is not."""
    return bool((values == np.floor(values)).all())


def _seldom(values: Floats) -> str | None:
    """Return a remark on a column that is the same in nearly all rows, of which the first ones tell the value."""
    first = values[:_FIRST_ROWS]
    usual = float("nan") if np.isnan(first).all() else float(Ordered.of(first[:, None]).medians()[0])
    return nearly_constant(f"{usual:g}", int(np.count_nonzero(values == usual)), len(values))


def _are_lost(texts: Strings) -> bool:
    """Return whether some different whole numbers are one number in float64."""
    whole = {int(text) for text in texts if re.fullmatch(r"[+-]?\d+", text)}
    return len(set(map(float, whole))) < len(whole)


def _is_id(name: str, values: Floats) -> bool:
    """Return whether the values only tell rows apart: whole numbers, all different.

    By chance, n numbers below R are all different with a probability of about exp(-n² / 2R). Where that could not
    have happened, or the name says so, they were given out one by one.
    """
    count = len(values)
    if count <= _FEW_ROWS or not (_are_whole(values[:_FIRST_ROWS]) and _are_whole(values)):
        return False
    if len(np.unique(values)) < count:
        return False
    return bool(_NAME_OF_ID.fullmatch(name) or count**2 > 20 * np.ptp(values))


def remarks_on(columns: Iterable[tuple[str, str]]) -> tuple[Note, ...]:
    """Return a sentence on each of some columns, given what is to be said of it; one on all that are alike."""
    names: dict[str, list[str]] = {}
    for name, remark in columns:
        names.setdefault(remark, []).append(name)
    return tuple(_note(alike, remark) for remark, alike in names.items())


def _note(columns: Sequence[str], remark: str) -> Note:
    """Return one sentence on several columns of which the same is to be said."""
    first, *others = columns
    few = listed(map(repr, others), _NAMED_COLUMNS)
    also = f" (also {few})" if others else ""
    return Note(f"column {first!r} {remark}{also}", first)


def _require_finite(block: NDArray[Any], name: str, where: Callable[[int], str], first: int = 0) -> None:
    """Check that no number is infinite or beyond 32-bit floats; NaN is a gap and passes. Columns from ``first``."""
    if block.dtype.kind != "f":
        return  # no whole number of 64 bits is that large
    # The extremes first: they need no array of truth values.
    if max(-float(np.nanmin(block, initial=0.0)), float(np.nanmax(block, initial=0.0))) <= FLOAT32_MAX:
        return
    row, column = (int(i) for i in np.argwhere(np.abs(block) > np.float64(FLOAT32_MAX))[0])
    message = (
        f"array {name!r} has {block[row, column]} in column {first + column}, which is not a finite 32-bit float"
    )
    raise DataError(message, where=where(row))

"""What would become of each column of a source, before anybody trains on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpumlp.data.encoding.columns import TableInputs
from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.frame import Codes, Frame
from gpumlp.data.source.kinds import Kind, number_format
from gpumlp.data.source.read import Source
from gpumlp.errors import DataError, listed

ID = "looks like an id"
"""What a note on a column of ids begins with."""

_SHOWN_CATEGORIES = 5


@dataclass(frozen=True)
class ColumnReport:
    """What would become of a column.

    Parameters
    ----------
    name
        Name of the column or the array.
    used
        Whether it would be an input; else it would better be dropped.
    text
        What it holds, or why it would be dropped.
    width
        Inputs of the network that it would become.
    numbers
        How many of these are numbers that an embedding could take.
    """

    name: str
    used: bool
    text: str
    width: int = 0
    numbers: int = 0


def survey(source: Source, names: Iterable[str]) -> list[ColumnReport]:
    """Return what would become of these columns, or arrays, as inputs, by all rows of the source."""
    columns = list(names)
    if isinstance(source, Frame):
        return [_column(source, name) for name in columns]
    return [_array(source, name, set(columns)) for name in columns]


def number_formats(source: Source) -> dict[str, Kind]:
    """Return how numbers are written in the columns whose numbers are not written plainly, such as $1,203.50."""
    if not isinstance(source, Frame):
        return {}
    formats = {}
    for name, column in source.columns.items():
        if isinstance(column, Codes) and name not in source.kinds:
            texts = (text for text in column.texts if text not in source.dialect.missing)
            if (kind := number_format(texts, source.dialect.decimal or ".")) is not None:
                formats[name] = kind
    return formats


def _column(frame: Frame, name: str) -> ColumnReport:
    try:
        inputs, notes = TableInputs.fit(frame, [name], scaling="standard")
    except DataError as error:  # it would be left out, or would stop training
        reason = error.hint if error.hint and error.hint.startswith(f"column {name!r}") else error.what
        return ColumnReport(name, False, _without_name(reason or error.what, name))
    note = next((_without_name(note, name) for note in notes), "")
    if note.startswith(ID):
        return ColumnReport(name, False, note.removesuffix("; consider dropping it"))
    if inputs.dates:
        (dates,) = inputs.dates
        days = dates.days(frame)
        missing = int(np.isnan(days).sum())
        first, last = (np.datetime64(int(day), "D") for day in (np.nanmin(days), np.nanmax(days)))
        cycles = f"; elapsed time and cycles of {', '.join(dates.cycles)}" if dates.cycles else "; elapsed time"
        gaps = f", {missing:,} missing" if missing else ""
        return ColumnReport(name, True, f"dates from {first} to {last}{gaps}{cycles}", inputs.width, inputs.numbers)
    if inputs.one_hots:
        (one_hot,) = inputs.one_hots
        texts = [*one_hot.categories, *one_hot.rare]
        text = f"{len(texts)} categories: {listed(texts, _SHOWN_CATEGORIES)}" + (
            "; some missing" if one_hot.gaps else ""
        )
    else:
        values = frame.numbers(name)
        missing = int(np.isnan(values).sum())
        text = f"numbers from {np.nanmin(values):g} to {np.nanmax(values):g}"
        text += f", {missing:,} missing" if missing else ""
    return ColumnReport(name, True, f"{text}; {note}" if note else text, inputs.width, inputs.numbers)


def _array(source: ArrayTable, name: str, names: set[str]) -> ColumnReport:
    array = source.arrays[name]
    shape = " × ".join(f"{size:,}" for size in array.shape)
    try:
        chosen = source.choose_inputs(exclude=set(source.names) - names)
    except DataError as error:
        return ColumnReport(name, False, f"{shape} {array.dtype}; {error.what}")
    return ColumnReport(
        name,
        name == chosen,
        f"{shape} {array.dtype}" + ("" if name == chosen else "; not the inputs"),
        int(np.prod(array.shape[1:])) if name == chosen else 0,
    )


def _without_name(text: str, name: str) -> str:
    return text.removeprefix(f"column {name!r} ").removeprefix("is left out: ").replace("training row", "row")

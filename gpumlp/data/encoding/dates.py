"""Columns of dates and times: how much time has passed, and its place in the cycles of the year, week and day."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import Floats
from gpumlp.data.source.frame import Codes, Frame
from gpumlp.data.state import Fields, StateReader
from gpumlp.errors import DataError, Note, shown

CYCLES = {"year": 365.2425, "week": 7.0, "day": 1.0}
"""Cycles of the calendar, and their length in days: that of the year is the mean of the Gregorian calendar."""

ORDERS = {
    "ymd": "year, month, day, as in 2024-03-31",
    "dmy": "day, month, year, as in 31.03.2024",
    "mdy": "month, day, year, as in 03/31/2024",
}
"""Orders in which dates are written."""

_HALF = "[\\s\u00a0\u202f]*([AaPp])\\.?[Mm]\\.?"  # AM or PM, behind a space that browsers write without a break
_ZONE = r"(Z|[+-]\d{2}(?::?\d{2})?)"
_TIME = rf"(?:(?:T|,? )\s*(\d{{1,2}}):(\d{{2}})(?::(\d{{2}})(\.\d{{1,9}})?)?(?:{_HALF})?\s*{_ZONE}?)?"
_ISO = re.compile(rf"(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){_TIME}", re.ASCII)
_OTHER = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}){_TIME}", re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1)
_DAY = datetime.timedelta(days=1)
_FIRST_TEXTS = 100  # looked at before all of a column are
MOST_DATES = 0.9
"""Share of the different texts of a column that are dates, from which on a column of categories is doubted."""
_PLAIN_DATES = "write them as 2024-03-31 to have them encoded as dates"
_FEW_DATES = 2  # different ones that a column has at most, where categories say as much


@dataclass(frozen=True)
class Dates:
    """A column of dates: features are the elapsed time, sine and cosine of each cycle, perhaps a flag of gaps.

    Parameters
    ----------
    name
        Name of the column.
    order
        Order of the parts of a date, a key of ``ORDERS``.
    cycles
        Keys of ``CYCLES``.
    center, deviation
        Mean and standard deviation of the elapsed time in the training rows, in days since 1970-01-01.
    gaps
        Whether a value was missing in training.

    Notes
    -----
    A date that is missing counts as the median of training, and stands in the middle of each cycle. Times with a zone
    are those of UTC, others stay as they are written.
    """

    name: str
    order: str
    cycles: tuple[str, ...]
    center: float
    deviation: float
    gaps: bool

    @classmethod
    def fit(cls, name: str, frame: Frame, rows: NDArray[np.int64] | None = None) -> Dates | None:
        """Return the encoding of a column of dates, None if it is no such column, or has hardly any.

        Parameters
        ----------
        name
            Name of the column.
        frame
            The training rows.
        rows
            Rows that decide about the scale of the elapsed time, some perhaps more than once; None: all.
        """
        kind = frame.kinds.get(name)
        if kind is not None and kind.type != "date":
            return None
        column = frame.column(name)
        order = order_of(column)
        if order is None:
            if kind is None:
                return None
            order = "ymd"  # which says what is wrong
        days = days_of(column, order, _refusal(name, frame))
        known = days[~np.isnan(days)]
        if kind is None and len(np.unique(known)) <= _FEW_DATES:
            return None
        if not len(known) or known.min() == known.max():
            return None
        scaled = known if rows is None else days[rows][~np.isnan(days[rows])]
        span, clock = known.max() - known.min(), known % 1.0
        there = {
            "year": span >= CYCLES["year"],
            "week": len(np.unique(np.floor(known) % 7)) > 1 and span >= CYCLES["week"],
            "day": clock.min() < clock.max(),
        }
        return cls(
            name,
            order,
            tuple(cycle for cycle in CYCLES if there[cycle]),
            float(np.median(scaled)) if len(scaled) else float(np.median(known)),
            float(known.std()),
            bool(len(known) < len(days)),
        )

    @property
    def width(self) -> int:
        """Features made of this column."""
        return len(self.features)

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        waves = [f"{self.name} ({cycle}, {wave})" for cycle in self.cycles for wave in ("sine", "cosine")]
        return [f"{self.name} (elapsed)", *waves, *([f"{self.name} is missing"] if self.gaps else [])]

    def days(self, frame: Frame) -> Floats:
        """Return the days since 1970-01-01, (N,) float64, NaN where the date is missing.

        Raises
        ------
        DataError
            If a cell is not a date.
        """
        return days_of(frame.column(self.name), self.order, _refusal(self.name, frame))

    def encode(self, days: Floats) -> NDArray[np.float32]:
        """Return the features of (N,) days, (N, width) float32."""
        missing = np.isnan(days)
        there = np.where(missing, self.center, days)
        parts = [(there - self.center) / self.deviation]
        for cycle in self.cycles:
            angle = there * (2.0 * np.pi / CYCLES[cycle])
            parts += [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
        if self.gaps:
            parts.append(missing)
        return np.stack(parts, axis=1).astype(np.float32)

    @property
    def note(self) -> Note:
        """What the column is taken for."""
        cycles = f" and the cycles of {', '.join(self.cycles)}" if self.cycles else ""
        written = "" if self.order == "ymd" else f" (written {ORDERS[self.order]})"
        return Note(f"column {self.name!r} has dates{written}: encoded as elapsed time{cycles}", self.name)

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {
            "name": self.name,
            "order": self.order,
            "cycles": list(self.cycles),
            "center": self.center,
            "deviation": self.deviation,
            "gaps": self.gaps,
        }

    @classmethod
    def from_state(cls, state: StateReader) -> Dates:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        cycles, deviation = state.texts("cycles"), state.number("deviation")
        if not set(cycles) <= CYCLES.keys() or len(set(cycles)) < len(cycles):
            raise state.wrong("cycles", f"must be of {', '.join(CYCLES)}")
        if not deviation > 0:
            raise state.wrong("deviation", "must be above 0")
        order = state.text("order", allowed=tuple(ORDERS))
        return cls(state.text("name"), order, cycles, state.number("center"), deviation, state.flag("gaps"))


def order_of(column: Codes) -> str | None:
    """Return the order in which all texts of a column are dates, None if they are not, or it cannot be told."""
    texts = [text for text in column.texts.tolist() if text]
    if not texts:
        return None
    for part in (texts[:_FIRST_TEXTS], texts):
        orders = [order for order in ORDERS if all(parsed(text, order) is not None for text in part)]
        if not orders:
            return None
    if len(orders) == 2 and "." in texts[0].split(" ")[0]:
        return "dmy"  # dates with points have the day first
    return orders[0] if len(orders) == 1 else None


def doubt_of(column: Codes) -> str | None:
    """Return a remark on a column that is not one of dates, though most of its texts are dates."""
    texts = [text for text in column.texts.tolist() if text]
    for part in (texts[:_FIRST_TEXTS], texts):
        fits = np.array([[parsed(text, order) is not None for order in ORDERS] for text in part], bool)
        dates = fits.any(axis=1) if len(part) else np.empty(0, bool)
        if not len(part) or dates.mean() < MOST_DATES:
            return None
    if fits[:, 1:].all():
        return f"may have dates, but whether the month or the day is first is not clear; {_PLAIN_DATES}"
    if fits.all(axis=0).any():
        return None
    if dates.all():
        rows = [int(np.argmax(fits[:, i])) for i in range(len(ORDERS)) if fits[:, i].any()]
        examples = dict.fromkeys(shown(texts[row]) for row in rows)
        return f"has dates that are not all written alike, such as {' and '.join(examples)}; {_PLAIN_DATES}"
    odd = shown(texts[int(np.argmin(dates))])
    return f"has dates but is read as categories because of {odd}: correct such cells, or list them in data.missing"


def parsed(text: str, order: str) -> float | None:
    """Return a date as days since 1970-01-01, None for any other text.

    Times with a zone are those of UTC; of others the zone does not matter.
    """
    if order == "ymd":
        if (match := _ISO.fullmatch(text)) is None:
            return None
        year, month, day, *clock = match.groups()
    else:
        if (match := _OTHER.fullmatch(text)) is None:
            return None
        first, _, second, year, *clock = match.groups()
        day, month = (first, second) if order == "dmy" else (second, first)
    hour, minute, second_, fraction, half, zone = clock
    try:
        hours = int(hour or 0) if half is None else _hours(int(hour), half)
        time = datetime.datetime(int(year), int(month), int(day), hours, int(minute or 0), int(second_ or 0))
    except ValueError:
        return None
    days = (time - _EPOCH) / _DAY + float(fraction or 0) / 86400.0
    if zone and zone != "Z":
        days -= (int(zone[:3]) * 60 + int(zone[0] + (zone[3:].lstrip(":") or "0"))) / 1440.0
    return days


def _hours(hour: int, half: str) -> int:
    """Return the hours since midnight of 1 to 12 of a half of the day. Raises ValueError for other hours."""
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + 12 * (half in "Pp")


def days_of(column: Codes, order: str, refuse: Callable[[int], DataError]) -> Floats:
    """Return a column of dates as days since 1970-01-01, (N,) float64, NaN for the empty text.

    Raises
    ------
    DataError
        By ``refuse`` of a row, if one is not a date.
    """
    values = [np.nan if not text else parsed(text, order) for text in column.texts.tolist()]
    bad = np.array([value is None for value in values], bool)
    if bad.any():
        raise refuse(int(np.argmax(bad[column.codes])))
    days: Floats = np.array(values, np.float64)[column.codes]
    return days


def _refusal(name: str, frame: Frame) -> Callable[[int], DataError]:
    def refuse(row: int) -> DataError:
        cells: Any = frame.column(name)
        message = f"column {name!r} should have dates, but this cell is {shown(str(cells.texts[cells.codes[row]]))}"
        hint = "write dates as 2024-03-31 or 2024-03-31 17:45:00, as in the training rows"
        return DataError(message, where=frame.where(row), hint=hint)

    return refuse

"""Charts as SVG text: lines, dots and bars over two axes, coloured by the page, each with a text alternative."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

from gpumlp.errors import printable

Host = np.ndarray[Any, Any]

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 66, 10, 10, 40
"""Margins around the axes."""

MAX_POINTS = 1_000
"""Most points of a series that are drawn: more of them add bytes, not sight."""

COLOURS = 8
"""Colours that the page has for series."""

CHARACTER = 7
"""Room for a character of the labels on the left, which may need more than ``LEFT``, and of those below."""

DOT = 4
"""Margin around dots."""

FEW_DOTS = 30
"""Most dots that are drawn large."""

DECADES = 20.0
"""Ratio of the values of an axis from which a straight scale would hide the small ones."""


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Parameters
    ----------
    name
        For the legend; the empty text for none.
    x, y
        (n,) numbers; of bars x are (n + 1,) edges.
    form
        How they are drawn.
    faint
        Whether they are no more than a guide to the eye.
    colour
        Number of the colour, by which a class is the same in all charts; None: the place among the series.
    """

    name: str
    x: Host
    y: Host
    form: Literal["line", "dots", "bars"] = "line"
    faint: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Axis:
    """What one side of a chart is: a scale of numbers, or names at 0, 1, 2, ...

    Parameters
    ----------
    low, high
        Ends of the scale; None: those of the values.
    logarithmic
        Whether the scale is one if all values are above 0 and far apart.
    """

    label: str
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()
    logarithmic: bool = False


def chart(title: str, about: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Return a figure: a caption, the chart as SVG, and a legend where there are several names.

    Parameters
    ----------
    title
        The caption.
    about
        What the chart shows, as a text for who cannot see it.
    series
        Curves, each with its name and points.
    x, y
        The axes.
    """
    form = series[0].form
    margin = DOT if form == "dots" else 0  # so that no dot is cut
    upwards = _Scale(y, [each.y for each in series], HEIGHT - BOTTOM - margin, TOP + margin, from_zero=form == "bars")
    left = max(LEFT, 24 + CHARACTER * max((len(label) for _, label in upwards.ticks()), default=0))
    across = _Scale(x, [each.x for each in series], left + margin, WIDTH - RIGHT - margin)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{text(title)}</title><desc>{text(about)}</desc>']
    for position, label in upwards.ticks():
        parts.append(f'<path class="grid" d="M{left} {position:.1f}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{position + 4:.1f}" text-anchor="end">{text(label)}</text>')
    for position, label in _apart(across.ticks()):
        parts.append(f'<path class="grid" d="M{position:.1f} {TOP}V{bottom}"/>')
        middle = _middle(position, label)
        parts.append(f'<text x="{middle:.1f}" y="{bottom + 15}" text-anchor="middle">{text(label)}</text>')
    parts.append(f'<path class="axis" d="M{left} {TOP}V{bottom}H{right}"/>')
    for number, each in enumerate(series):
        parts.append(_drawn(each, across, upwards, "faint" if each.faint else f"s{_colour(each, number)}"))
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(left + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{text(x.label)}</text>')
    turned = f'transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" {turned}>{text(y.label)}</text></svg>')
    return f"<figure><figcaption>{text(title)}</figcaption>{''.join(parts)}{_legend(series)}</figure>"


def _colour(series: Series, number: int) -> int:
    return (number if series.colour is None else series.colour) % COLOURS


def text(value: object) -> str:
    """Return a text as HTML shows it: whatever is in it, it stays text, in one line."""
    return escape(printable(str(value)).replace("\n", " "))


def _legend(series: Sequence[Series]) -> str:
    named = [each for each in series if not each.faint]
    if len(named) < 2:
        return ""
    items = (f'<li><i class="b{_colour(each, i)}"></i>{text(each.name)}</li>' for i, each in enumerate(named))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _drawn(series: Series, across: _Scale, upwards: _Scale, colour: str) -> str:
    if series.form == "bars":
        left, right, top = across.at(series.x[:-1]), across.at(series.x[1:]), upwards.at(series.y)
        base = HEIGHT - BOTTOM
        shapes = (f"M{a:.1f} {base}V{t:.1f}H{b:.1f}V{base}Z" for a, b, t in zip(left, right, top, strict=True))
        return f'<path class="bar {colour}" d="{"".join(shapes)}"/>'
    xs, ys = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    there = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[there], ys[there]
    if len(xs) > MAX_POINTS:
        rows = np.linspace(0, len(xs) - 1, MAX_POINTS).round().astype(np.int64)
        xs, ys = xs[rows], ys[rows]
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(across.at(xs), upwards.at(ys), strict=True)]
    if series.form == "dots":
        few = "few " if len(points) <= FEW_DOTS else ""
        return f'<path class="dots {few}{colour}" d="{"".join(f"M{point}h0" for point in points)}"/>'
    single = f'<path class="dots {colour}" d="M{points[0]}h0"/>' if len(points) == 1 else ""
    return f'<path class="line {colour}" d="{"M" + "L".join(points) if points else ""}"/>{single}'


class _Scale:
    """Where the values of an axis are."""

    def __init__(
        self, axis: Axis, values: Sequence[Host], start: float, end: float, *, from_zero: bool = False
    ) -> None:
        self.axis, self.start, self.end = axis, start, end
        each = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in values])
        each = each[np.isfinite(each)]
        if axis.names:
            self.low, self.high = -0.5, len(axis.names) - 0.5
        else:
            self.low = float(each.min(initial=math.inf)) if axis.low is None else axis.low
            self.high = float(each.max(initial=-math.inf)) if axis.high is None else axis.high
        if not math.isfinite(self.low + self.high):
            self.low, self.high = 0.0, 1.0
        if from_zero:
            self.low = min(0.0, self.low)
        self.logarithmic = axis.logarithmic and self.low > 0 and self.high > DECADES * self.low
        if self.low == self.high:
            margin = abs(self.low) * 0.1 or 1.0
            self.low, self.high = self.low - margin, self.high + margin

    def at(self, values: Host) -> Host:
        """Return the places of values on the page."""
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(values), math.log(low), math.log(high)
        share = (np.asarray(values, np.float64) - low) / (high - low)
        positions: Host = self.start + share * (self.end - self.start)
        return positions

    def ticks(self) -> list[tuple[float, str]]:
        """Return where the scale is marked, and how."""
        if self.axis.names:
            return [(float(self.at(np.array(n))), _shortened(name)) for n, name in enumerate(self.axis.names)]
        values = _decades(self.low, self.high) if self.logarithmic else _round_values(self.low, self.high)
        digits = 3 if self.logarithmic and self.high < 1000 else 6  # there may be no round number between the ends
        return [(float(self.at(np.array(value))), f"{value:.{digits}g}") for value in values]


def _middle(position: float, label: str) -> float:
    """Return where the middle of a label below a position is, so that none of it is cut."""
    half = CHARACTER * len(label) / 2
    return max(half, min(position, WIDTH - half))


def _apart(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """Return all ticks of the lower axis, or every second, third and so on, whose labels do not touch."""
    for step in range(1, len(ticks)):
        some = ticks[::step]
        ends = [(_middle(*tick), CHARACTER * len(tick[1]) / 2) for tick in some]
        if all(one + half + CHARACTER <= other - its for (one, half), (other, its) in itertools.pairwise(ends)):
            return some
    return ticks[:1]


def _shortened(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"


def _round_values(low: float, high: float) -> list[float]:
    """Return about five round numbers between two."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten between two numbers, or the ends and their middle if there are fewer than two."""
    powers = [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return powers[:: -(-len(powers) // 6)] if len(powers) > 1 else [low, math.sqrt(low * high), high]

"""Scaling of numeric columns, each column by what its training rows look like.

One record per way of scaling. ``fit`` sees (N, p) float64 with NaN where a value is missing, no column
without a value; ``apply`` sees the same with the gaps filled. Both work on all columns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import FLOAT32_TINY, Floats
from gpumlp.data.state import Fields, StateReader
from gpumlp.limits import in_threads

Fitted = dict[str, Floats]

MAX_KNOTS = 1000

GROUP_CELLS = 1 << 16
"""Cells of the columns that are fitted together, at most: of few rows, a column at a time is slow."""

_Result = TypeVar("_Result")

# The normal score of the smallest and the largest training value would be infinite.
# Cutting the probability at 1e-7 bounds the scores to ±5.2.
_EXTREME = 1e-7


@dataclass(frozen=True)
class Scaler:
    """One way to scale.

    ``shapes`` names what ``fit`` returns, each with its axes before the columns (None: any length). ``fit`` takes
    (N, p) numbers as they are and in order.
    """

    shapes: dict[str, tuple[int | None, ...]]
    fit: Callable[[Floats, Ordered], Fitted]
    apply: Callable[[Floats, Fitted], Floats]


def each_group(function: Callable[[Floats], _Result], count: int, column: Callable[[int], Floats]) -> list[_Result]:
    """Return ``function`` of groups of columns, (N, g) each, computed in several threads.

    Parameters
    ----------
    function
        Is called with a group of columns, (N, g) float64.
    count
        Count of the columns.
    column
        Returns one by its number, (N,); called in several threads.
    """
    together = max(1, GROUP_CELLS // max(1, len(column(0))))

    def of_group(start: int) -> _Result:
        return function(np.stack([column(i) for i in range(start, min(start + together, count))], axis=1))

    return in_threads(of_group, range(0, count, together))


def _divided(block: Floats, fitted: Fitted) -> Floats:
    """Return (x − centre) / spread, and 0 for a column that had no spread a 32-bit float could tell."""
    spread = fitted["spread"]
    constant = spread < FLOAT32_TINY
    scaled: Floats = block - fitted["centre"]
    scaled /= np.where(constant, 1.0, spread)
    return np.where(constant, 0.0, scaled) if constant.any() else scaled


@dataclass(frozen=True, eq=False)
class Ordered:
    """Columns of numbers in rising order, from which quantiles are read.

    Sorting serves all of them, and where NumPy sorts by vectors it is as fast as to look for one.

    Parameters
    ----------
    values
        (N, p) float64, each column sorted, missing values last.
    last
        (p,) int64, the number of the last value of each column that is there, of which there is one at least.
    """

    values: Floats
    last: NDArray[np.int64]

    @classmethod
    def of(cls, block: Floats) -> Ordered:
        """Sort (N, p) numbers, NaN where one is missing."""
        return cls(np.sort(block, axis=0), len(block) - 1 - np.isnan(block).sum(axis=0))

    @property
    def gaps(self) -> NDArray[np.bool_]:
        """Which columns have missing values, (p,)."""
        return self.last < len(self.values) - 1

    def quantiles(self, levels: Sequence[float] | Floats) -> Floats:
        """Return the quantiles of each column, (levels, p), as ``np.nanquantile`` has them, to the bit."""
        position = np.multiply.outer(np.asarray(levels, np.float64), self.last)
        below = position.astype(np.int64)
        one, other = self._at(below), self._at(np.minimum(below + 1, self.last))
        share, difference = position - below, other - one
        levels_of: Floats = np.where(share >= 0.5, other - difference * (1 - share), one + difference * share)
        return levels_of

    def medians(self) -> Floats:
        """Return the median of each column, (p,), as ``np.nanmedian`` has it, to the bit."""
        low, high = self._at(np.stack([self.last // 2, (self.last + 1) // 2]))
        median: Floats = (low + high) / 2
        return median

    def _at(self, positions: NDArray[np.int64]) -> Floats:
        values: Floats = np.take_along_axis(self.values, positions, axis=0)
        return values


def _fit_robust(_: Floats, ordered: Ordered) -> Fitted:
    low, q25, median, q75, high = ordered.quantiles((0, 0.25, 0.5, 0.75, 1))
    # A column that is mostly one value has no interquartile range: half its full range serves instead.
    return {"centre": median, "spread": np.where(q75 - q25 < FLOAT32_TINY, 0.5 * (high - low), q75 - q25)}


def _apply_robust(block: Floats, fitted: Fitted) -> Floats:
    """Scale by median and interquartile range, then clip smoothly to ±3 (RealMLP, arXiv:2407.04491)."""
    scaled = _divided(block, fitted)
    bent = scaled / 3.0  # in place from here: new memory for each step takes as long as the step
    bent *= bent
    bent += 1.0
    scaled /= np.sqrt(bent)
    return scaled


def _fit_standard(block: Floats, _: Ordered) -> Fitted:
    # The deviation of equal values need not come out as exactly 0: their mean is rounded.
    constant = np.nanmax(block, axis=0) == np.nanmin(block, axis=0)
    return {"centre": np.nanmean(block, axis=0), "spread": np.where(constant, 0.0, np.nanstd(block, axis=0))}


def _fit_quantile(block: Floats, ordered: Ordered) -> Fitted:
    """Return the knots and their normal scores, (q, p) each, knots sorted down every column."""
    levels = np.linspace(0.0, 1.0, max(2, min(MAX_KNOTS, len(block))))
    # Rounding in the interpolation between neighbours may leave knots unsorted by one last digit.
    knots = np.maximum.accumulate(ordered.quantiles(levels), axis=0)
    knots[np.abs(knots) < FLOAT32_TINY] = 0.0  # between subnormal knots a slope may be infinite
    inverse = NormalDist().inv_cdf
    normal = np.array([inverse(min(max(level, _EXTREME), 1.0 - _EXTREME)) for level in levels.tolist()])
    scores = np.empty_like(knots)
    for column, score in zip(knots.T, scores.T, strict=True):
        # A value that fills many knots gets the score of the middle one, so that it has one score.
        first = np.searchsorted(column, column, side="left")
        last = np.searchsorted(column, column, side="right") - 1
        score[:] = 0.5 * (normal[first + (last - first) // 2] + normal[last - (last - first) // 2])
    return {"knots": knots, "scores": scores}


def _apply_quantile(block: Floats, fitted: Fitted) -> Floats:
    columns = zip(block.T, fitted["knots"].T, fitted["scores"].T, strict=True)
    return np.stack([np.interp(values, knots, scores) for values, knots, scores in columns], axis=1)


SCALINGS: dict[str, Scaler] = {
    "robust": Scaler({"centre": (), "spread": ()}, _fit_robust, _apply_robust),
    "standard": Scaler({"centre": (), "spread": ()}, _fit_standard, _divided),
    "quantile": Scaler({"knots": (None,), "scores": (None,)}, _fit_quantile, _apply_quantile),
    "none": Scaler({}, lambda block, ordered: {}, lambda block, fitted: block),
}
"""How numeric columns can be scaled, by the name that a configuration uses."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """A way of scaling with what it learnt from the training rows."""

    name: str
    fitted: Fitted

    @classmethod
    def fit(cls, name: str, block: NDArray[Any]) -> Scaling:
        """Fit the scaling called ``name`` to (N, p) real numbers, NaN where a value is missing."""
        wide = block.astype(np.float64)
        return cls.joined(name, [SCALINGS[name].fit(wide, Ordered.of(wide))])

    @classmethod
    def joined(cls, name: str, parts: Sequence[Fitted]) -> Scaling:
        """Return the scaling called ``name`` of all columns, given what it has fitted to groups of them."""
        return cls(name, {key: np.concatenate([p[key] for p in parts], axis=-1) for key in SCALINGS[name].shapes})

    def apply(self, block: Floats) -> Floats:
        """Scale (N, p) float64 without gaps to (N, p) float64."""
        return SCALINGS[self.name].apply(block, self.fitted)

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        return {"name": self.name}, dict(self.fitted)

    @classmethod
    def from_state(cls, state: StateReader, width: int) -> Scaling:
        """Restore the scaling of ``width`` columns.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        name = state.text("name", allowed=tuple(SCALINGS))
        shapes = SCALINGS[name].shapes
        fitted = {key: state.array(key, np.float64, (*axes, width)) for key, axes in shapes.items()}
        if len({array.shape for array in fitted.values()}) > 1:
            raise state.wrong("", "has arrays of different lengths")
        return cls(name, fitted)

"""A gradient beside its finite differences, which know nothing of how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpumlp.autodiff.tensor import Variable

Values = np.ndarray[Any, np.dtype[np.float64]]
Function = Callable[[Values], float]

TOLERANCE = 1e-6
STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
"""Tried in turn until one agrees. A kink between the two points of a difference, as ReLU has, spoils it, and so does
a sharp bend, as of layer norm where a row hardly varies; a short step avoids them, a long one is exact elsewhere. A
gradient that is wrong agrees with none."""

MIN_GRADIENT = 1e-4
"""In units of the loss: where all of a gradient is smaller than this, its error is measured by this. The rounding of
the loss, 1e-16 of it, divided by the longest step, is a 1e-7th of it."""

MOST = 300  # elements of an array that are moved one by one


@dataclass(frozen=True)
class Comparison:
    """A gradient by the tape and by central differences, (f(v + h) - f(v - h)) / 2h.

    Parameters
    ----------
    taped
        The gradient, in the shape of what it belongs to.
    numeric
        The differences in the same shape, NaN at elements that were not moved by themselves.
    error
        The largest |taped - numeric|, in units of the largest element of the gradient.
    """

    taped: Values
    numeric: Values
    error: float

    @property
    def passed(self) -> bool:
        """Whether the error is at most ``TOLERANCE``."""
        return self.error <= TOLERANCE  # NaN does not pass

    @property
    def checked(self) -> int:
        """How many elements were moved by themselves."""
        return int(np.isfinite(self.numeric).sum())


def compare(function: Function, at: Values, taped: Values, *, shown: Iterable[int] = (), seed: int = 0) -> Comparison:
    """Compare a gradient of ``function`` at ``at`` with differences.

    Each element is moved by itself; of more than ``MOST`` those of the flat indices ``shown`` and others spread
    evenly. Then all are moved together, along one random direction, so that none goes unchecked.
    """
    unit = max(float(np.abs(taped).max(initial=0.0)), MIN_GRADIENT * max(1.0, abs(function(at))))
    numeric, errors = np.full(at.size, np.nan), []
    moved = at.copy()

    def along_element(index: int, distance: float) -> float:
        moved.flat[index] = at.flat[index] + distance
        value = function(moved)
        moved.flat[index] = at.flat[index]
        return value

    spread = np.linspace(0, at.size - 1, min(at.size, MOST)).round().astype(int)
    for index in sorted({*spread.tolist(), *shown}):
        slope, error = _slope(partial(along_element, index), float(taped.flat[index]), unit)
        numeric[index] = slope
        errors.append(error)
    direction = np.random.default_rng(seed).standard_normal(at.shape)
    direction /= max(float(np.linalg.norm(direction)), 1.0)
    errors.append(
        _slope(lambda distance: function(at + distance * direction), float(np.vdot(taped, direction)), unit)[1]
    )
    return Comparison(taped, numeric.reshape(at.shape), float(np.max(errors)))  # NaN where one is


def compare_variable(
    loss: Callable[[], float], variable: Variable, taped: Values, *, shown: Iterable[int] = ()
) -> Comparison:
    """Compare the gradient of a loss that reads this variable; its values are the same again afterwards."""

    def loss_at(values: Values) -> float:
        variable.assign(values)
        return loss()

    initial = variable.numpy()
    try:
        return compare(loss_at, initial, taped, shown=shown)
    finally:
        variable.assign(initial)


def central(line: Callable[[float], float], step: float) -> float:
    """Return (f(h) - f(-h)) / 2h of a function of one number, whose error is of order h²."""
    return (line(step) - line(-step)) / (2.0 * step)


def _slope(line: Callable[[float], float], taped: float, unit: float) -> tuple[float, float]:
    """Return the difference of ``line`` around 0 that comes closest to ``taped``, and its error in these units."""
    tried: list[tuple[float, float]] = []
    for step in STEPS:
        numeric = central(line, step)
        tried.append((numeric, abs(taped - numeric) / unit))
        if tried[-1][1] <= TOLERANCE:
            break
    return min(tried, key=lambda pair: np.nan_to_num(pair[1], nan=np.inf))

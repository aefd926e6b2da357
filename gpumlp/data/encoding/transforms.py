"""Transforms of a number to predict, fitted to the training rows and undone in predictions and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import Floats
from gpumlp.data.state import Fields, StateReader
from gpumlp.errors import DataError

TRANSFORMS = {
    "none": "the target as it is",
    "log": "its natural logarithm; the target must be positive",
    "yeo_johnson": "a power that makes it as normal as possible, for values of any sign (Yeo and Johnson 2000)",
}
"""What the network learns in place of the target, by the name in a configuration."""

MAX_FITTED = 10_000
"""Most values that the exponent of Yeo and Johnson is fitted to, evenly spaced in the sorted ones."""

MIN_EXPONENT, MAX_EXPONENT = -4.0, 6.0
"""Where the exponent of Yeo and Johnson is looked for."""

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Transform:
    """A transform and where it is undone: beyond the training values by as much as they span, and no further.

    Parameters
    ----------
    kind
        Log or yeo_johnson.
    exponent
        Exponent of Yeo and Johnson; 0 for log.
    low, high
        What is below or above, in the transformed target, counts as ``low`` or ``high``.
    """

    kind: str
    exponent: float
    low: float
    high: float

    @classmethod
    def fit(cls, kind: str, values: Floats, where: Callable[[int], str]) -> Transform:
        """Fit to (N,) values, NaN where one is missing.

        Raises
        ------
        DataError
            If the logarithm of a value is asked for that is not positive.
        """
        present = values[~np.isnan(values)]
        exponent = 0.0
        if kind == "log":
            if (present <= 0).any():
                row = int(np.argmax(values <= 0))
                message = f"the target {values[row]:g} has no logarithm"
                hint = "set data.target_transform: yeo_johnson, which takes values of any sign"
                raise DataError(message, where=where(row), hint=hint)
        else:
            exponent = _best_exponent(present)
        inner = cls(kind, exponent, -math.inf, math.inf).forward(np.array([present.min(), present.max()]))
        span = float(np.ptp(inner))
        low, high = float(inner[0]) - span, float(inner[1]) + span
        if kind == "yeo_johnson" and exponent < 0:  # its values end at -1 / exponent
            high = min(high, (float(inner[1]) - 1.0 / exponent) / 2.0)
        if kind == "yeo_johnson" and exponent > 2:
            low = max(low, (float(inner[0]) - 1.0 / (exponent - 2.0)) / 2.0)
        return cls(kind, exponent, low, high)

    def forward(self, values: Floats) -> Floats:
        """Return transformed values; NaN where the transform has no value."""
        if self.kind == "log":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(values > 0, np.log(values), np.nan)
        return _yeo_johnson(values, self.exponent)

    def inverse(self, values: Floats) -> Floats:
        """Return the values of which these are transformed."""
        values = np.clip(values, self.low, self.high)
        if self.kind == "log":
            return np.exp(values)
        return np.where(
            values >= 0,
            _inverse_side(np.maximum(values, 0.0), self.exponent),
            -_inverse_side(np.maximum(-values, 0.0), 2.0 - self.exponent),
        )

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {"kind": self.kind, "exponent": self.exponent, "low": self.low, "high": self.high}

    @classmethod
    def from_state(cls, state: StateReader) -> Transform:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        kind = state.text("kind", allowed=("log", "yeo_johnson"))
        exponent, low, high = (state.number(key) for key in ("exponent", "low", "high"))
        if not low < high:
            raise state.wrong("high", "must be above low")
        return cls(kind, exponent, low, high)


def _side(values: NDArray[Any], exponent: float) -> Floats:
    """Return ((v + 1)^exponent - 1) / exponent of values from 0 on, log(v + 1) for the exponent 0."""
    logs: Floats = np.log1p(values)
    return logs if exponent == 0 else np.asarray(np.expm1(exponent * logs) / exponent)


def _inverse_side(values: NDArray[Any], exponent: float) -> Floats:
    logs = values if exponent == 0 else np.log1p(exponent * values) / exponent
    return np.asarray(np.expm1(logs))


def _yeo_johnson(values: Floats, exponent: float) -> Floats:
    return np.where(
        values >= 0,
        _side(np.maximum(values, 0.0), exponent),
        -_side(np.maximum(-values, 0.0), 2.0 - exponent),
    )


def _best_exponent(values: Floats) -> float:
    """Return the exponent of the largest likelihood, found by golden-section search."""
    chosen = np.sort(values)[np.linspace(0, len(values) - 1, min(len(values), MAX_FITTED)).astype(np.int64)]
    logs = float(np.mean(np.sign(chosen) * np.log1p(np.abs(chosen))))

    def likelihood(exponent: float) -> float:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value = -0.5 * math.log(max(float(np.var(_yeo_johnson(chosen, exponent))), 5e-324))
            return value + (exponent - 1.0) * logs if math.isfinite(value) else -math.inf

    low, high = MIN_EXPONENT, MAX_EXPONENT
    while high - low > 1e-6:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if likelihood(left) >= likelihood(right) else (left, high)
    return round((low + high) / 2.0, 6)

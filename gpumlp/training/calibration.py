"""Probabilities that mean what they say: the temperature of a network's linear values, fitted on validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Host = np.ndarray[Any, Any]

MAX_LOG_SHARPNESS = 16.0
"""Largest |log| of the factor of the linear values: beyond it, the probabilities are all equal, or all 0 or 1."""

MAX_STEPS, CLOSE = 100, 1e-12
"""Steps of the search for the factor, and the relative step at which it ends."""

MAX_COLUMNS = 7
"""Classes up to which each has a column of memory: there NumPy sums rows many times faster, in the same order."""


def softmax(linear: Host) -> Host:
    """Return the probability of each class, (N, classes) float64, from (N, K) linear values, of two classes (N, 1).

    Both of two come from the value itself: 1 - p is 0 for every p that float32 rounds to 1.
    """
    both = _by_columns(both_of_two(linear.astype(np.float64, copy=False)))
    shares: Host = both - both.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _by_columns(values: Host) -> Host:
    """Return (N, K) numbers so laid out that sums over K are fast."""
    return np.asfortranarray(values) if values.shape[1] <= MAX_COLUMNS else values


def both_of_two(linear: Host) -> Host:
    """Return a linear value for each class, (N, classes); one value is that of the second of two classes."""
    return np.concatenate([-linear, np.zeros_like(linear)], axis=1) if linear.shape[1] == 1 else linear


@dataclass(frozen=True)
class Temperature:
    """A calibration that multiplies the linear values, and mixes in equal probabilities.

    p = (1 - mix) softmax(sharpness z) + mix / classes. The order of the classes in a row stays as it was.

    Parameters
    ----------
    sharpness : the factor b, which is 1 / temperature
    mix : the share of equal probabilities, 1 / (rows it was fitted on + 1), so that no probability is 0 or 1

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599
    """

    sharpness: float
    mix: float

    @classmethod
    def fit(cls, linear: Host, labels: Host, weights: Host | None = None) -> Temperature:
        """Find the factor of the lowest log-loss.

        The derivative of the log-loss, mean(Σ p z - z_y), rises with b: Newton's steps are taken where they stay
        between the bounds found so far, which are halved otherwise.

        Parameters
        ----------
        linear : (N, K) last linear values of the network; (N, 1) for two classes
        labels : (N,) class numbers
        weights : (N,) of the rows, or None for all alike
        """
        z = both_of_two(linear.astype(np.float64))
        weight = np.ones(len(z)) if weights is None else weights.astype(np.float64)
        kept, weight = weight > 0, weight / max(weight.sum(), 1e-300)
        if not kept.all():
            z, labels, weight = z[kept], labels[kept], weight[kept]
        # The gaps to the value of the true class.
        z = _by_columns(z - np.take_along_axis(z, labels[:, None].astype(np.int64), axis=1))
        squares = z**2
        low, high, b = math.exp(-MAX_LOG_SHARPNESS), math.exp(MAX_LOG_SHARPNESS), 1.0
        for _ in range(MAX_STEPS):
            p = softmax(b * z)
            mean = (p * z).sum(axis=1)
            slope = float(weight @ mean)
            if slope == 0:
                break
            low, high = (low, b) if slope > 0 else (b, high)
            p *= squares
            curvature = float(weight @ (p.sum(axis=1) - mean**2))
            following = b - slope / curvature if curvature > 0 else math.inf
            if not low < following < high:
                following = math.sqrt(low * high)
            if abs(following - b) <= CLOSE * b:
                break
            b = following
        return cls(b, 1.0 / (len(z) + 1.0))

    def __call__(self, linear: Host) -> Host:
        """Return the probability of each class, (N, classes) float64, from (N, K) linear values."""
        shares = softmax(self.sharpness * linear.astype(np.float64))
        shares *= 1.0 - self.mix
        shares += self.mix / shares.shape[1]
        return shares

    def to_state(self) -> dict[str, float]:
        """Return what ``from_state`` takes back."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> Temperature:
        """Restore. Raises ValueError for numbers that no fit gives."""
        sharpness, mix = float(state["sharpness"]), float(state["mix"])
        if not (0 < sharpness < math.inf and 0 <= mix <= 1):
            raise ValueError(f"a calibration of {dict(state)}")
        return cls(sharpness, mix)


def rank(level: float, count: int) -> int:
    """Return which of ``count`` sorted scores bounds a new one with this probability, counted from 1.

    It is the ceil((count + 1) level)-th, where rounding errors below 1e-9 do not count. Above ``count``: none does.

    References
    ----------
    Lei et al. 2018, Distribution-Free Predictive Inference for Regression, arXiv:1604.04173
    """
    return math.ceil((count + 1) * level - 1e-9)

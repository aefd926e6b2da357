"""Probabilities that mean what they say: the temperature of a network's linear values, fitted on validation rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Host = np.ndarray[Any, Any]

MAX_LOG_SHARPNESS = 16.0
"""Largest |log| of the factor of the linear values: beyond it, the probabilities are all equal, or all 0 or 1."""

MAX_STEPS, MIN_RELATIVE_STEP = 100, 1e-12
"""Steps of the search for the factor, and the relative step at which it ends."""

MAX_COLUMNS = 7
"""Classes up to which each has a column of memory: there NumPy sums rows many times faster, in the same order."""


MAX_VALUES = 1 << 20
"""Linear values whose probabilities are computed at a time: all rows of 10,000 classes would take gigabytes."""


CACHED_VALUES = 1 << 15
"""Linear values whose probabilities are computed again and again: a few arrays of these lie in the cache."""


def pieces(linear: Host, values: int = MAX_VALUES) -> list[slice]:
    """Return which rows of (N, K) linear values are computed together, at least one piece."""
    size = max(1, values // max(1, linear.shape[1]))
    return [slice(start, start + size) for start in range(0, max(1, len(linear)), size)]


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


def _gaps(linear: Host, labels: Host) -> Callable[[], Iterable[Host]]:
    """Return a function of the gaps to the value of the true class, of some rows at a time; few rows are kept."""

    def of(rows: slice) -> Host:
        z = both_of_two(linear[rows].astype(np.float64))
        return _by_columns(z - np.take_along_axis(z, labels[rows, None].astype(np.int64), axis=1))

    some = pieces(linear, CACHED_VALUES)
    if linear.size <= MAX_VALUES:
        whole = [of(rows) for rows in some]
        return lambda: whole
    return lambda: map(of, some)


def _moments(z: Host, factor: float) -> tuple[Host, Host]:
    """Return the mean of each row's gaps, and of their squares, by the probabilities that a factor gives, (n,)."""
    p = softmax(factor * z)
    mean: Host = (p * z).sum(axis=1)
    p *= z**2
    return mean, p.sum(axis=1)


def both_of_two(linear: Host) -> Host:
    """Return a linear value for each class, (N, classes); one value is that of the second of two classes."""
    return np.concatenate([-linear, np.zeros_like(linear)], axis=1) if linear.shape[1] == 1 else linear


def best_sharpness(linear: Host, labels: Host, weights: Host, smoothing: float) -> float:
    """Return the factor of the lowest log-loss of smoothed labels.

    Its derivative, mean(Σ p z - (1 - smoothing) z_y - smoothing mean(z)), rises with the factor: Newton's steps are
    taken where they stay between the bounds found so far, which are halved otherwise.

    Parameters
    ----------
    linear, labels
        As :meth:`Temperature.fit` takes them.
    weights
        (N,) of sum 1.
    smoothing
        The share of a label that is spread evenly over all classes.
    """
    gaps = _gaps(linear, labels)
    spread = smoothing * float(weights @ np.concatenate([z.mean(axis=1) for z in gaps()]))
    low, high, b = math.exp(-MAX_LOG_SHARPNESS), math.exp(MAX_LOG_SHARPNESS), 1.0
    for _ in range(MAX_STEPS):
        means, squares = zip(*(_moments(z, b) for z in gaps()), strict=True)
        mean = np.concatenate(means)
        slope = float(weights @ mean) - spread
        if slope == 0:
            break
        low, high = (low, b) if slope > 0 else (b, high)
        curvature = float(weights @ (np.concatenate(squares) - mean**2))
        following = b - slope / curvature if curvature > 0 else math.inf
        if not low < following < high:
            following = math.sqrt(low * high)
        if abs(following - b) <= MIN_RELATIVE_STEP * b:
            break
        b = following
    return b


@dataclass(frozen=True)
class Temperature:
    """A calibration that multiplies the linear values, and mixes in equal probabilities.

    p = (1 - mix) softmax(sharpness z) + mix / classes. The order of the classes in a row stays as it was.

    Parameters
    ----------
    sharpness
        The factor b, which is 1 / temperature.
    mix
        The share of equal probabilities, so that no probability is 0 or 1: 1 / (2 (N + 1)) of N rows. By as much the
        labels of these rows are smoothed. Without that the factor would grow without bounds where all of a few rows
        are right, and all probabilities of a class would be the same.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599; Platt 1999, Probabilistic outputs for
    support vector machines (smoothed labels)
    """

    sharpness: float
    mix: float

    @classmethod
    def fit(cls, linear: Host, labels: Host, weights: Host | None = None) -> Temperature:
        """Fit it to validation rows.

        Parameters
        ----------
        linear
            (N, K) last linear values of the network; (N, 1) for two classes.
        labels
            (N,) class numbers.
        weights
            (N,) of the rows, or None for all alike.
        """
        weight = np.ones(len(linear)) if weights is None else weights.astype(np.float64)
        weighted, weight = weight > 0, weight / max(weight.sum(), 1e-300)
        if not weighted.all():
            linear, labels, weight = linear[weighted], labels[weighted], weight[weighted]
        mix = 0.5 / (len(linear) + 1.0)
        return cls(best_sharpness(linear, labels, weight, mix), mix)

    def __call__(self, linear: Host) -> Host:
        """Return the probability of each class, (N, classes) float64, from (N, K) linear values."""
        shares = softmax(self.sharpness * linear.astype(np.float64))
        shares *= 1.0 - self.mix
        shares += self.mix / shares.shape[1]
        return shares

    @property
    def is_flat(self) -> bool:
        """Whether all probabilities are nearly the same: the rows it was fitted on are predicted worse than so."""
        return self.sharpness < 2.0 * math.exp(-MAX_LOG_SHARPNESS)

    def least_log_loss(self, classes: int) -> float:
        """Return the log-loss of rows that are all right and sure, which the share of equal probabilities leaves."""
        return -math.log1p(-self.mix * (classes - 1) / classes)

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Temperature:
        """Restore it, or what extends it. Raises ValueError for numbers that no fit gives."""
        sharpness, mix = float(state["sharpness"]), float(state["mix"])
        if not (0 < sharpness < math.inf and 0 <= mix <= 1):
            raise ValueError(f"a calibration of {dict(state)}")
        if "curves" not in state:
            return Temperature(sharpness, mix)
        curves = tuple(
            Curve(tuple(map(float, each["inputs"])), tuple(map(float, each["outputs"]))) for each in state["curves"]
        )
        for each in curves:
            x, y = np.array(each.inputs), np.array(each.outputs)
            rises = (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
            if not (len(x) == len(y) > 0 and rises and y[0] >= 0 and y[-1] <= 1 and np.isfinite(x).all()):
                raise ValueError("a curve of a calibration that does not rise")
        return Isotonic(sharpness, mix, curves)


@dataclass(frozen=True)
class Curve:
    """A rising function of a probability: straight between points, flat beyond them.

    Parameters
    ----------
    inputs, outputs
        (points,) both rising, inputs strictly.
    """

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]

    @classmethod
    def fit(cls, x: Host, y: Host, weights: Host) -> Curve:
        """Return the rising function of least weighted squared distance from points, by pooling adjacent violators.

        Parameters
        ----------
        x, y, weights
            (n,), weights above 0.
        """
        inputs, rank = np.unique(x, return_inverse=True)
        mass = np.bincount(rank, weights)
        means = np.bincount(rank, weights * y) / mass
        starts, levels, masses = list[int](), list[float](), list[float]()
        for start, (level, weight) in enumerate(zip(means.tolist(), mass.tolist(), strict=True)):
            while levels and levels[-1] >= level:
                level = (levels[-1] * masses[-1] + level * weight) / (masses[-1] + weight)
                weight += masses.pop()
                levels.pop()
                start = starts.pop()
            starts.append(start)
            levels.append(level)
            masses.append(weight)
        ends = [start - 1 for start in starts[1:]] + [len(inputs) - 1]
        points = dict[float, float]()
        for first, last, level in zip(starts, ends, levels, strict=True):
            points |= {float(inputs[first]): level, float(inputs[last]): level}
        return cls(tuple(points), tuple(points.values()))

    def __call__(self, x: Host) -> Host:
        """Return its values."""
        return np.interp(x, self.inputs, self.outputs)


MIN_ISOTONIC_ROWS = 10_000
"""Fewest validation rows for curves: on fewer, they fit the noise."""


@dataclass(frozen=True)
class Isotonic(Temperature):
    """A temperature, and then a rising curve for the probability of each class (of two, of the second alone).

    Of more than two classes the results are divided by their sum. Then equal probabilities are mixed in.

    References
    ----------
    Zadrozny and Elkan 2002, Transforming classifier scores into accurate multiclass probability estimates
    """

    curves: tuple[Curve, ...] = ()

    @classmethod
    def fit(cls, linear: Host, labels: Host, weights: Host | None = None) -> Isotonic:
        base = Temperature.fit(linear, labels, weights)
        weight = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
        weighted = weight > 0
        if not weighted.all():
            linear, labels, weight = linear[weighted], labels[weighted], weight[weighted]
        curves = [
            Curve.fit(share, (labels == k).astype(np.float64), weight)
            for k, share in _shares_by_class(linear, base.sharpness)
        ]
        return cls(base.sharpness, base.mix, tuple(curves))

    def __call__(self, linear: Host) -> Host:
        mixed = np.empty((len(linear), max(2, linear.shape[1])))
        for rows in pieces(linear, MAX_VALUES):
            mixed[rows] = self._of_rows(linear[rows])
        return mixed

    def _of_rows(self, linear: Host) -> Host:
        shares = softmax(self.sharpness * linear.astype(np.float64))
        if len(self.curves) == 1:
            second = self.curves[0](shares[:, 1])
            shares_of_classes = np.stack([1.0 - second, second], axis=1)
        else:
            shares_of_classes = np.stack(
                [curve(share) for curve, share in zip(self.curves, shares.T, strict=True)], axis=1
            )
            total = shares_of_classes.sum(axis=1, keepdims=True)
            shares_of_classes = np.where(
                total > 0, shares_of_classes / np.where(total > 0, total, 1.0), 1.0 / shares_of_classes.shape[1]
            )
        mixed: Host = (1.0 - self.mix) * shares_of_classes + self.mix / shares_of_classes.shape[1]
        return mixed


def _shares_by_class(linear: Host, sharpness: float) -> Iterator[tuple[int, Host]]:
    """Yield each class that has a curve, and its probability in each row, (N,): not all rows and classes at once."""
    if linear.shape[1] <= 2:
        yield 1, softmax(sharpness * linear.astype(np.float64))[:, 1]
        return
    tops, totals = np.empty((2, len(linear), 1))
    for rows in pieces(linear, MAX_VALUES):
        z = _by_columns(sharpness * linear[rows].astype(np.float64))
        tops[rows] = z.max(axis=1, keepdims=True)
        totals[rows] = np.exp(z - tops[rows]).sum(axis=1, keepdims=True)
    for columns in pieces(linear.T, MAX_VALUES):
        shares = np.exp(sharpness * linear[:, columns].astype(np.float64) - tops) / totals
        yield from zip(range(columns.start, linear.shape[1]), shares.T, strict=False)


CALIBRATIONS: dict[str, type[Temperature]] = {"temperature": Temperature, "isotonic": Isotonic}
"""Calibrations by the names that settings use."""


def rank(level: float, count: int) -> int:
    """Return which of ``count`` sorted scores bounds a new one with this probability, counted from 1.

    It is the ceil((count + 1) level)-th, where rounding errors below 1e-9 do not count. Above ``count``: none does.

    References
    ----------
    Lei et al. 2018, Distribution-Free Predictive Inference for Regression, arXiv:1604.04173
    """
    return math.ceil((count + 1) * level - 1e-9)

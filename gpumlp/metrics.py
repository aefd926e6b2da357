"""Metrics of predictions, computed on the host in float64, and which of them the best epoch can be chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.errors import ShapeError, has_mask

Host = np.ndarray[Any, Any]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """A metric that the best epoch can be chosen by.

    Parameters
    ----------
    title
        Its name in a sentence.
    task
        Classification (and multilabel) or regression; None: all.
    rises
        Whether higher is better.
    later
        Whether the later of two equal epochs is better, as for metrics that only count rows.
    """

    title: str
    task: str | None
    rises: bool = False
    later: bool = False

    @property
    def superlative(self) -> str:
        """What the best value is: ``highest`` or ``lowest``."""
        return "highest" if self.rises else "lowest"

    def fits(self, task: str) -> bool:
        """Return whether it is measured in a task; of labels, those of classes are their means."""
        return self.task in (None, "classification" if task == "multilabel" else task)

    def cost(self, value: float) -> float:
        """Return a number that is lower where the metric is better."""
        return -value if self.rises else value


METRICS: dict[str, Metric] = {
    "loss": Metric("loss", None),
    "accuracy": Metric("accuracy", "classification", rises=True, later=True),
    "macro_f1": Metric("macro F1", "classification", rises=True, later=True),
    "auc": Metric("AUC", "classification", rises=True, later=True),
    "log_loss": Metric("log-loss", "classification"),
    "rmse": Metric("RMSE", "regression"),
    "mae": Metric("MAE", "regression"),
    "r2": Metric("R²", "regression", rises=True),
}
"""The metrics by the names a user knows. ``log_loss`` is measured after a temperature fitted to the same rows."""

TITLES = {name: metric.title for name, metric in METRICS.items()} | {
    "brier": "Brier score",
    "ece": "ECE",
    "all_right": "all labels right",
    "f1": "F1",
}
"""Names of all metrics, for tables."""


def classification(predictions: Host, labels: Host, weights: Host | None = None) -> Metrics:
    """Return accuracy and macro-F1; for two classes also precision and recall of the second, and the area under ROC.

    Memory is that of the rows, whatever the number of classes. Raises ShapeError where rows do not match.

    Parameters
    ----------
    predictions
        (N,) class numbers, (N, K) probabilities, or (N, 1) of the second of two classes.
    labels
        (N,) class numbers; -1 for a class that cannot be predicted, which is wrong in any case.
    weights
        (N,) or None for all alike.
    """
    predictions = np.asarray(predictions)
    if predictions.ndim not in (1, 2):
        raise ShapeError(f"predictions must be (N,) or (N, K), not {predictions.shape}")
    labels = _each_row("labels", labels, predictions)
    weight = _weights_of(weights, predictions)
    chosen = predictions if predictions.ndim == 1 else most_probable(_known(predictions))
    right = weight * (chosen == labels)
    metrics = {"accuracy": _ratio(right.sum(), weight.sum()), "macro_f1": macro_f1(chosen, labels, weight)}
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        of_class = hits_of(chosen == 1, labels == 1, weight)
        metrics |= {"precision": of_class["precision"], "recall": of_class["recall"]}
        metrics["auc"] = auc(predictions[:, 0], labels, weight)
    return metrics


def _each_row(name: str, values: Host, predictions: Host) -> Host:
    """Return one value for each row as an array. Raises ShapeError for any other shape, which would broadcast."""
    if has_mask(values) and np.ma.is_masked(values):
        raise ShapeError(f"{name} have a mask: leave the rows out that it hides")
    values = np.asarray(values)
    if values.shape != predictions.shape[:1]:
        raise ShapeError(f"{name} must be ({len(predictions)},), one for each row, not {values.shape}")
    return values


def _weights_of(weights: Host | None, predictions: Host) -> Host:
    """Return how much each row counts, (N,) float64. Raises ShapeError for another shape, or a number below 0."""
    if weights is None:
        return np.ones(len(predictions))
    weight = _each_row("weights", weights, predictions).astype(np.float64)
    if not ((weight >= 0) & (weight < np.inf)).all():
        raise ShapeError("weights must be finite and at least 0")
    return weight


def _known(predictions: Host) -> Host:
    """Return predictions. Raises ShapeError where one is NaN, which is below and above nothing."""
    if predictions.dtype.kind == "f" and np.isnan(predictions).any():
        raise ShapeError("predictions hold NaN")
    return predictions


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _weight(count: int, weights: Host | None) -> Host:
    """Return how much each row counts, (N,) float64: 1 where there are no weights."""
    return np.ones(count) if weights is None else np.asarray(weights, np.float64)


def most_probable(probabilities: Host) -> Host:
    """Return the number of the most probable class of each row, (N,), from (N, K), or (N, 1) for two classes."""
    binary = probabilities.shape[1] == 1
    return (probabilities[:, 0] > 0.5).astype(np.int64) if binary else probabilities.argmax(axis=1)


def macro_f1(chosen: Host, labels: Host, weights: Host) -> float:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN); classes that never occur do not count."""
    exact = np.result_type(labels, chosen).kind in (labels.dtype.kind, chosen.dtype.kind)
    numbers = _numbered(np.concatenate([labels, chosen], dtype=None if exact else object))
    true, predicted = np.split(numbers, 2)
    hits = np.bincount(true, weights * (true == predicted), numbers.max(initial=-1) + 1)
    # Whole numbers are counted in half of the time.
    totals = np.bincount(numbers, None if (weights == 1).all() else np.concatenate([weights, weights]))
    seen = totals > 0
    return float(np.mean(2.0 * hits[seen] / totals[seen])) if seen.any() else float("nan")


def _numbered(values: Host) -> Host:
    """Return a number from 0 for each value, equal for equal ones, in their order; some may be left out."""
    if values.dtype.kind in "iu" and len(values) and int(low := values.min()) + len(values) >= values.max():
        numbers: Host = values.astype(np.int64) - low
    else:
        _, numbers = np.unique(values, return_inverse=True)
    return numbers


def auc(scores: Host, labels: Host, weights: Host) -> float:
    """Return the probability that a positive row scores above a negative one, ties counting half.

    NaN where one of the classes is absent.
    """
    if (weights == 1).all():  # sorting numbers takes half the time of ranking them, and counts are exact
        higher, lower = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
        if not len(higher) or not len(lower):
            return float("nan")
        below = np.searchsorted(lower, higher, "left")
        tied = ~(lower.take(below, mode="clip") > higher)  # hardly any: no need to look for the ends of all
        ties = np.searchsorted(lower, higher[tied], "right") - below[tied]
        return float((below.sum() + 0.5 * ties.sum()) / (len(higher) * len(lower)))
    values, rank = np.unique(scores, return_inverse=True)
    positive = np.bincount(rank, weights * (labels == 1), len(values))
    negative = np.bincount(rank, weights * (labels == 0), len(values))
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / pairs) if pairs else float("nan")


THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))
"""Thresholds of a probability at which precision and recall are shown."""

ECE_BINS = 15
"""Equal intervals of the probability of the chosen class, over which the calibration error is summed."""


@dataclass(frozen=True)
class Curves:
    """How well one class is told from the others by its probability, at every threshold.

    Parameters
    ----------
    false_positives, recall
        (n,) rising from 0 to 1, the ROC curve.
    precision
        (n - 1,) at each recall but the first.
    auc, average_precision
        Areas under the two curves.
    """

    false_positives: Host
    recall: Host
    precision: Host
    auc: float
    average_precision: float


def curves(probability: Host, positive: Host, weights: Host) -> Curves | None:
    """Return the curves of a class, None where all rows are of it, or none.

    Parameters
    ----------
    probability
        (N,) of the class.
    positive
        (N,) bool, whether the row is of it.
    weights
        (N,).
    """
    values, rising = np.unique(probability, return_inverse=True)
    rank, positive = len(values) - 1 - rising, np.asarray(positive, bool)
    hits = np.cumsum(np.bincount(rank, weights * positive))
    misses = np.cumsum(np.bincount(rank, weights * ~positive))
    if not (hits.any() and misses.any()):
        return None
    nonempty = hits + misses > 0
    hits, misses = hits[nonempty], misses[nonempty]
    recall, precision = hits / hits[-1], hits / (hits + misses)
    average = float(np.diff(recall, prepend=0.0) @ precision)
    return Curves(
        np.concatenate([[0.0], misses / misses[-1]]),
        np.concatenate([[0.0], recall]),
        precision,
        auc(probability, positive.astype(np.int64), weights),
        average,
    )


class ProbabilityScores:
    """How good probabilities are, of rows that come in blocks: log-loss, Brier score and calibration error.

    ``brier`` is mean Σ (p - y)² over the classes, of two classes half of it; ``ece`` the mean distance, in each of
    ``ECE_BINS`` intervals, between the probability of the most probable class and how often it is the true one.
    The probability of a class that cannot be predicted (-1) is 0, so that only log-loss leaves its rows out.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(4)  # of log-losses and their weights, squared distances and theirs
        self._bins = np.zeros((2, ECE_BINS))  # sums of probabilities, and of rows that are right

    def add(self, probabilities: Host, labels: Host, weights: Host | None = None) -> None:
        """Take rows into account.

        Parameters
        ----------
        probabilities
            (N, classes).
        labels
            (N,) class numbers, or -1.
        weights
            (N,) or None for all alike.
        """
        weight, known = _weight(len(labels), weights), labels >= 0
        true = np.where(known, probabilities[np.arange(len(labels)), labels], 0)
        squares = (probabilities**2).sum(axis=1) - true**2 + (1 - true) ** 2
        losses = -np.log(true.clip(np.finfo(np.float64).tiny))
        half = 1 + (probabilities.shape[1] == 2)
        self._sums += weight[known] @ losses[known], weight[known].sum(), weight @ squares / half, weight.sum()
        chosen, sure = _surest(probabilities)
        bins = np.minimum((sure * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        for row, values in zip(self._bins, (sure, chosen == labels), strict=True):
            row += np.bincount(bins, weight * values, ECE_BINS)

    def result(self) -> Metrics:
        """Return the scores of the rows so far."""
        loss, counted, squares, total = self._sums
        return {
            "log_loss": float(loss / counted) if counted else float("nan"),
            "brier": float(squares / total),
            "ece": float(np.abs(self._bins[0] - self._bins[1]).sum() / total),
        }


def _surest(probabilities: Host) -> tuple[Host, Host]:
    """Return the class of the largest probability of each row, the first of equal ones, and that probability."""
    if probabilities.shape[1] == 2:  # argmax takes many times as long
        first, second = probabilities.T
        above = (second > first) | (np.isnan(second) & ~np.isnan(first))
        return above.astype(np.int64), np.where(above, second, first)
    chosen = probabilities.argmax(axis=1)
    return chosen, probabilities[np.arange(len(chosen)), chosen]


def regression(predictions: Host, targets: Host, weights: Host | None = None) -> Metrics:
    """Return RMSE and MAE in the units of the target, and R², NaN where all targets are equal. ``(N,)`` each.

    Raises ShapeError where rows do not match.
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 1:
        raise ShapeError(f"predictions must be (N,), not {predictions.shape}")
    targets = _each_row("targets", targets, predictions).astype(np.float64)
    weight = _weights_of(weights, predictions)
    if not weight.any():
        return dict.fromkeys(("rmse", "mae", "r2"), float("nan"))
    weight = weight / weight.sum()
    errors = predictions.astype(np.float64) - targets
    squared = float(weight @ errors**2)
    spread = float(weight @ (targets - weight @ targets) ** 2)
    varies = np.ptp(targets[weight > 0]) > 0  # equal targets leave the rounding of their mean, not 0
    return {
        "rmse": squared**0.5,
        "mae": float(weight @ np.abs(errors)),
        "r2": 1.0 - squared / spread if varies and spread else float("nan"),
    }


def _tables(role: str, values: Host, targets: Host, names: Sequence[str]) -> tuple[Host, Host]:
    """Return values and targets, (N, T) of T names. Raises ShapeError for other shapes."""
    values, targets = np.asarray(values), np.asarray(targets)
    if values.shape != targets.shape or values.shape[1:] != (len(names),):
        raise ShapeError(f"{role} {values.shape} and targets {targets.shape} must be (N, {len(names)})")
    return values, targets


def regressions(predictions: Host, targets: Host, names: Sequence[str], weights: Host | None = None) -> Metrics:
    """Return the metrics of several targets: their means, as scikit-learn has them, then ``rmse[name]`` and so on.

    Parameters
    ----------
    predictions
        (N, T).
    targets
        (N, T), NaN where one is missing, which does not count.
    names
        Names of the T targets.
    weights
        (N,) or None for all alike.
    """
    each: dict[str, Metrics] = {}
    predictions, targets = _tables("predictions", predictions, targets, names)
    weight = _weights_of(weights, targets)
    for i, name in enumerate(names):
        there = ~np.isnan(targets[:, i])
        if not (weight[there] > 0).any():
            each[name] = dict.fromkeys(("rmse", "mae", "r2"), float("nan"))
            continue
        each[name] = regression(predictions[there, i], targets[there, i], weight[there])
    means = {key: float(np.mean([values[key] for values in each.values()])) for key in ("rmse", "mae", "r2")}
    return means | {f"{key}[{name}]": value for name, values in each.items() for key, value in values.items()}


def labels(probabilities: Host, targets: Host, names: Sequence[str], weights: Host | None = None) -> Metrics:
    """Return the metrics of several labels: their means, how many rows have all of them right, then those of each.

    ``macro_f1`` is the mean of the labels' F1, as in scikit-learn; labels for which a metric is not defined do not
    count in its mean.

    Parameters
    ----------
    probabilities
        (N, T) of each label.
    targets
        (N, T), 0 or 1, NaN where one is missing, which does not count.
    names
        Names of the T labels.
    weights
        (N,) or None for all alike.
    """
    probabilities, targets = _tables("probabilities", probabilities, targets, names)
    if not (np.isnan(targets) | (targets == 0) | (targets == 1)).all():
        raise ShapeError("targets of labels must be 0, 1 or NaN")
    weight = _weights_of(weights, targets)
    each = {name: label(probabilities[:, i], targets[:, i], weight) for i, name in enumerate(names)}
    right = np.isnan(targets) | ((probabilities > 0.5) == (targets == 1))
    counted = weight * ~np.isnan(targets).all(axis=1)
    metrics = {
        "accuracy": _mean_of(each, "accuracy"),
        "macro_f1": _mean_of(each, "f1"),
        "auc": _mean_of(each, "auc"),
        "log_loss": _mean_of(each, "log_loss"),
        "all_right": float((counted * right.all(axis=1)).sum() / counted.sum()) if counted.any() else float("nan"),
    }
    shown = ("accuracy", "precision", "recall", "f1", "auc")
    return metrics | {f"{key}[{name}]": each[name][key] for key in shown for name in names}


def label(probability: Host, targets: Host, weights: Host) -> Metrics:
    """Return the metrics of one label, of (N,) probabilities and (N,) targets 0, 1 or NaN. NaN is undefined."""
    there = ~np.isnan(targets)
    p, positive, weight = probability[there], targets[there] == 1, weights[there]
    if not (weight > 0).any():
        return dict.fromkeys(("accuracy", "precision", "recall", "f1", "auc", "log_loss"), float("nan"))
    chosen = p > 0.5
    p = p.astype(np.float64, copy=False)
    return {
        "accuracy": float(weight @ (chosen == positive) / weight.sum()),
        **hits_of(chosen, positive, weight),
        "auc": auc(p, positive.astype(np.int64), weight),
        "log_loss": _label_log_loss(p, positive, weight),
    }


def labels_log_loss(probabilities: Host, targets: Host, weights: Host | None = None) -> float:
    """Return the ``log_loss`` of ``labels`` without the other metrics, whose areas sort all rows."""
    weight, losses = _weight(len(targets), weights), []
    for p, target in zip(probabilities.T, targets.T, strict=True):
        there = ~np.isnan(target)
        if (weight[there] > 0).any():
            losses.append(_label_log_loss(p[there].astype(np.float64, copy=False), target[there] == 1, weight[there]))
    return float(np.mean(losses)) if losses else float("nan")


def _label_log_loss(p: Host, positive: Host, weight: Host) -> float:
    of_true = np.where(positive, p.clip(np.finfo(np.float64).tiny), (1.0 - p).clip(2.0**-53))  # as near as p is to 1
    return float(weight @ -np.log(of_true) / weight.sum())


def hits_of(chosen: Host, positive: Host, weights: Host) -> Metrics:
    """Return precision, recall and F1 of a class: of (N,) rows, which were taken for it, and which are of it.

    Precision is 0 where no row was taken for the class, but some are of it; all are NaN where there is neither.
    """
    chosen, positive = np.asarray(chosen, bool), np.asarray(positive, bool)
    counts = np.count_nonzero if (weights == 1).all() else weights.__matmul__
    true, taken, there = (float(counts(each)) for each in (chosen & positive, chosen, positive))
    return _rates(true, taken, there)


def _rates(true: float, taken: float, there: float) -> Metrics:
    """Return precision, recall and F1, from how many rows are rightly taken for a class, taken for it, and of it."""
    if not (taken or there):
        return dict.fromkeys(("precision", "recall", "f1"), float("nan"))
    precision = _ratio(true, taken) if taken else 0.0
    return {"precision": precision, "recall": _ratio(true, there), "f1": float(2.0 * true / (taken + there))}


def at_thresholds(
    probability: Host, positive: Host, weights: Host | None = None, thresholds: Sequence[float] = THRESHOLDS
) -> list[Metrics]:
    """Return precision, recall and F1 of a class that is predicted where its probability is above a threshold.

    Each dictionary also has the ``threshold``, as ``taken`` the share of the rows that are above it, and as
    ``false_positive_rate`` that of the rows that are not of the class: beside recall, a point of the ROC curve.

    Parameters
    ----------
    probability
        (N,) of the class.
    positive
        (N,) bool, whether the row is of it.
    weights
        (N,) or None for all alike.
    thresholds
        (T,), rising.
    """
    return _points(thresholds, _above(probability, positive, _weight(len(positive), weights), thresholds))


GRID = tuple(k / 100 for k in range(101))
"""Thresholds of the points of curves."""

CurvePoints = dict[str, list[Metrics]]
"""By the name of a class or label, as :func:`at_thresholds` at ``GRID``."""


class ThresholdCounts:
    """Points of the ROC and precision-recall curves of classes or labels, of rows that come in blocks.

    Parameters
    ----------
    names
        Names of the K classes or labels.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._counts = np.zeros((len(names), 2, len(GRID) + 1))

    def add(self, probabilities: Host, targets: Host, weights: Host | None = None) -> None:
        """Take rows into account.

        Parameters
        ----------
        probabilities
            (N, K).
        targets
            (N,) class numbers, -1 for another one; or labels 0 and 1, (N, K), NaN where one is missing.
        weights
            (N,) or None for all alike.
        """
        weight = _weight(len(targets), weights)
        for k, counts in enumerate(self._counts):
            positive = targets[:, k] == 1 if targets.ndim == 2 else targets == k
            known = ~np.isnan(targets[:, k]) if targets.ndim == 2 else np.ones(len(targets), bool)
            counts += _above(probabilities[known, k], positive[known], weight[known], GRID)

    def result(self) -> CurvePoints:
        """Return the points of each class or label."""
        return {name: _points(GRID, each) for name, each in zip(self._names, self._counts, strict=True)}


def _above(probability: Host, positive: Host, weights: Host, thresholds: Sequence[float]) -> Host:
    """Return how many rows of a class, and not of it, are above so many thresholds and no more, (2, T + 1)."""
    passed, positive = np.searchsorted(thresholds, probability, side="left"), np.asarray(positive, bool)
    return np.stack([np.bincount(passed, weights * each, len(thresholds) + 1) for each in (positive, ~positive)])


def _points(thresholds: Sequence[float], counts: Host) -> list[Metrics]:
    hits, misses = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    return [
        {
            "threshold": float(threshold),
            "taken": _ratio(hit + miss, hits[0] + misses[0]),
            "false_positive_rate": _ratio(miss, misses[0]),
            **_rates(hit, hit + miss, hits[0]),
        }
        for threshold, hit, miss in zip(thresholds, hits[1:], misses[1:], strict=True)
    ]


def _mean_of(each: Mapping[str, Metrics], key: str) -> float:
    values = [metrics[key] for metrics in each.values() if metrics[key] == metrics[key]]
    return float(np.mean(values)) if values else float("nan")


def coverage(quantiles: Host, targets: Host, weights: Host | None = None) -> float:
    """Return the share of targets, (N, T), from the lowest to the highest of their quantiles, (N, T, Q)."""
    inside = (quantiles[:, :, 0] <= targets) & (targets <= quantiles[:, :, -1])
    weight = _weight(len(targets), weights)
    counts = weight[:, None] * ~np.isnan(targets)
    return float((counts * inside).sum() / counts.sum()) if counts.any() else float("nan")


def quantile(values: Host, weights: Host, level: float) -> float:
    """Return the smallest of values, (N,), that a share ``level`` of the weights is at or below; NaN is missing."""
    there = ~np.isnan(values)
    order = np.argsort(values[there], kind="stable")
    below = np.cumsum(np.asarray(weights, np.float64)[there][order])
    if not len(order) or not below[-1] > 0:
        return 0.0
    index = min(int(np.searchsorted(below, level * below[-1])), len(order) - 1)
    return float(values[there][order][index])


def title(name: str) -> str:
    """Return what a metric is called: ``RMSE of price`` for ``rmse[price]``."""
    metric, _, target = name.partition("[")
    called = TITLES.get(metric, metric)
    return f"{called} of {target[:-1]}" if target else called

"""What a report measures: intervals by bootstrap, curves, importance of columns, partial dependence, worst rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gpumlp import metrics
from gpumlp.data import Dataset, Encoder, Features, Frame, News, Source
from gpumlp.data.encoding.columns import TableInputs
from gpumlp.data.encoding.dates import CYCLES
from gpumlp.seeds import REPORT, generator
from gpumlp.training.measure import outcome_metrics

Host = np.ndarray[Any, Any]

LEVEL = 0.95
"""Probability of the intervals."""

MAX_RESAMPLES, MIN_RESAMPLES, BOOTSTRAP_ROWS = 1_000, 100, 20_000_000
"""Most and fewest samples of a bootstrap, and the rows of all of them together, between these."""

IMPORTANCE_ROWS, IMPORTANCE_REPEATS, MAX_COLUMNS = 1_000, 3, 200
"""Rows that are permuted, how often, and the most columns that are looked at."""

DEPENDENCE_ROWS, GRID, MAX_CATEGORIES = 200, 15, 12
"""Rows that partial dependence is the mean over, its points of a number, and of categories."""

RELIABILITY_BINS = 10
WORST_ROWS, TIED_DECIMALS = 10, 5
"""Rows that are listed, and decimals of their losses (of numbers: shares of the largest error) that order them."""


class Predictor(Protocol):
    """A model as a report needs it."""

    @property
    def encoder(self) -> Encoder:
        """The encoding of its rows."""

    def answers(self, features: Features) -> Iterator[tuple[Host, Host]]:
        """Yield last linear values and what they stand for: probabilities, or scaled numbers."""

    def probabilities(self, linear: Host) -> Host:
        """Return the probability of each class."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a model was not trained on, with what it predicts.

    Parameters
    ----------
    source
        Raw, as the encoder takes them.
    data
        Encoded.
    outcome
        (N, K) what the network answers.
    probabilities
        (N, classes) calibrated, or (N, T) of labels; None in regression.
    """

    model: Predictor
    source: Source
    data: Dataset
    outcome: Host
    probabilities: Host | None

    @classmethod
    def of(cls, model: Predictor, source: Source, news: News | None = None) -> Rows:
        """Encode rows with their targets and predict them; rows of new classes are of class -1, which is wrong.

        Raises DataError if they do not fit the model; ``news`` collects what a user should know about them.
        """
        encoder = model.encoder
        if isinstance(source, Frame):
            source = source.with_missing(encoder.dialect.missing).with_kinds(encoder.kinds)
        data, _ = encoder.encode(source, targets=True, news=news, unseen=True)
        return cls(model, source, data, *_answers(model, data.features))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def targets(self) -> Host:
        """Class numbers (N,), or targets as encoded."""
        assert self.data.targets is not None
        return self.data.targets

    @property
    def weights(self) -> Host:
        """How much each row counts, (N,) float64."""
        return np.ones(len(self)) if self.data.weights is None else self.data.weights.astype(np.float64)

    @property
    def known(self) -> Host:
        """Which rows are of a class that training has seen, (N,) bool."""
        return self.targets >= 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the input columns; () of arrays."""
        return tuple(self.model.encoder.inputs.names) if isinstance(self.source, Frame) else ()

    def numbers(self) -> tuple[Host, Host]:
        """Return predictions and truth of a regression, (N, T) each, in units of the targets."""
        encoder = self.model.encoder
        predicted, true = encoder.restore(self.outcome), encoder.decode(self.targets.astype(np.float64))
        return predicted.reshape(len(self), -1), true.reshape(len(self), -1)

    def chosen(self) -> Host:
        """Return the most probable class of each row, (N,)."""
        assert self.probabilities is not None
        chosen: Host = self.probabilities.argmax(axis=1)
        return chosen


def _answers(model: Predictor, features: Features) -> tuple[Host, Host | None]:
    outcomes, probabilities = [], []
    for linear, outcome in model.answers(features):
        outcomes.append(outcome)
        if model.encoder.task != "regression":
            probabilities.append(model.probabilities(linear))
    return np.concatenate(outcomes), np.concatenate(probabilities) if probabilities else None


def scores(rows: Rows, weights: Host | None) -> dict[str, float]:
    """Return all metrics of rows but the loss, each row counted by a weight."""
    values = outcome_metrics(rows.model.encoder, rows.outcome, rows.targets, weights)
    if rows.probabilities is not None and rows.model.encoder.classes:
        each = metrics.ProbabilityScores()
        each.add(rows.probabilities, rows.targets, weights)
        values |= each.result()
    return values


def intervals(rows: Rows, seed: int) -> tuple[dict[str, tuple[float, float]], int]:
    """Return an interval of each metric by bootstrap over the rows, and the number of samples.

    The interval is between percentiles of the metric over samples of the rows, drawn with replacement (Efron 1979).
    """
    count = len(rows)
    samples = int(min(MAX_RESAMPLES, max(MIN_RESAMPLES, BOOTSTRAP_ROWS // (count * rows.outcome.shape[1]))))
    draws, weights = generator(seed, REPORT, 0), rows.weights
    resampled: dict[str, list[float]] = {}
    for _ in range(samples):
        drawn = weights * np.bincount(draws.integers(0, count, count), minlength=count)
        if not drawn.sum() > 0:
            continue
        for name, value in scores(rows, drawn).items():
            resampled.setdefault(name, []).append(value)
    ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    bounds = {}
    for name, values in resampled.items():
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            low, high = np.percentile(finite, ends)
            bounds[name] = float(low), float(high)
    return bounds, samples


def reliability(rows: Rows) -> tuple[Host, Host, Host]:
    """Return the mean probability, the share that came true, and the weight of the rows, of each interval.

    Of two classes it is the probability of the second; of more, that of the most probable one.
    """
    assert rows.probabilities is not None
    if rows.probabilities.shape[1] == 2:
        probability, true = rows.probabilities[:, 1], rows.targets == 1
    else:
        probability, true = rows.probabilities.max(axis=1), rows.targets == rows.chosen()
    bins = np.minimum((probability * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    weight = np.bincount(bins, rows.weights, RELIABILITY_BINS)
    nonempty = weight > 0
    sums = (np.bincount(bins, rows.weights * each, RELIABILITY_BINS)[nonempty] for each in (probability, true))
    mean, share = (each / weight[nonempty] for each in sums)
    return mean, share, weight[nonempty]


def importance(rows: Rows, seed: int) -> dict[str, tuple[float, float]]:
    """Return by how much the error rises where a column is permuted: mean and standard deviation, largest first.

    The error is the log-loss, or the RMSE (of several targets their mean). Columns are those of raw rows, so what was
    encoded together is permuted together (Breiman 2001).
    """
    rows = sample(rows, IMPORTANCE_ROWS, seed)
    before = error(rows)
    rises_of = {}
    for number, name in enumerate(rows.columns[:MAX_COLUMNS]):
        draws = generator(seed, REPORT, 1, number)
        rises = []
        for _ in range(IMPORTANCE_REPEATS):
            rises.append(error(_with_cells(rows, name, draws.permutation(len(rows)))) - before)
        rises_of[name] = float(np.mean(rises)), float(np.std(rises))
    return dict(sorted(rises_of.items(), key=lambda item: -item[1][0]))


def error(rows: Rows) -> float:
    """Return the log-loss of rows, or their RMSE."""
    metrics = scores(rows, rows.weights)
    return metrics["rmse"] if rows.probabilities is None else metrics["log_loss"]


@dataclass(frozen=True)
class Dependence:
    """What a model predicts on average where all rows have one value of a column.

    Parameters
    ----------
    values
        (n,) numbers, or texts.
    means
        (n, C) mean probability of each class, or (n, T) mean prediction of each target.
    """

    column: str
    values: Host | tuple[str, ...]
    means: Host


def dependence(rows: Rows, column: str, seed: int) -> Dependence:
    """Return the partial dependence on a column, over values that rows have (Friedman 2001)."""
    assert isinstance(rows.source, Frame)
    cells, values = _grid(rows.source, column, rows.model.encoder)
    some = sample(rows, DEPENDENCE_ROWS, seed)
    means = []
    for cell in cells:
        changed = _with_cells(some, column, np.full(len(some), cell), rows.source)
        answers = changed.numbers()[0] if changed.probabilities is None else changed.probabilities
        means.append(np.average(answers, axis=0, weights=some.weights + 1e-300))
    return Dependence(column, values, np.array(means))


def _grid(source: Frame, column: str, encoder: Encoder) -> tuple[list[int], Host | tuple[str, ...]]:
    """Return rows whose cells are the points of a partial dependence, and these cells."""
    dates = {each.name: each for each in encoder.inputs.dates} if isinstance(encoder.inputs, TableInputs) else {}
    if column in dates:
        numbers: Host | None = 1970.0 + dates[column].days(source) / CYCLES["year"]  # as a year with decimals
    else:
        numbers = None if column in encoder.texts else source.try_numbers(column)
    if numbers is not None and not np.isnan(numbers).all():
        order = np.argsort(numbers, kind="stable")[: int((~np.isnan(numbers)).sum())]
        ranks = np.linspace(0.02, 0.98, GRID) * (len(order) - 1)
        chosen = order[np.unique(ranks.round().astype(np.int64))]
        _, first = np.unique(numbers[chosen], return_index=True)
        return chosen[first].tolist(), numbers[chosen[first]]
    written = source.column(column)
    frequent = np.argsort(-np.bincount(written.codes, minlength=len(written.texts)), kind="stable")[:MAX_CATEGORIES]
    cells = [int(np.argmax(written.codes == code)) for code in frequent]
    return cells, tuple(str(written.texts[code]) or "missing" for code in frequent)


def sample(rows: Rows, count: int, seed: int) -> Rows:
    """Return at most this many of the rows, drawn without replacement."""
    if len(rows) <= count:
        return rows
    chosen = np.sort(generator(seed, REPORT, 2).choice(len(rows), count, replace=False))
    return Rows(
        rows.model,
        rows.source.take(chosen),
        rows.data.take(chosen),
        rows.outcome[chosen],
        None if rows.probabilities is None else rows.probabilities[chosen],
    )


def _with_cells(rows: Rows, column: str, cells: Host, source: Frame | None = None) -> Rows:
    """Return the rows with other cells in a column: those of these rows of the source, predicted anew."""
    assert isinstance(rows.source, Frame)
    taken = (source or rows.source).columns[column].take(cells)
    changed = replace(rows.source, columns={**rows.source.columns, column: taken})
    data, _ = rows.model.encoder.encode(changed, targets=False)
    outcome, probabilities = _answers(rows.model, data.features)
    return replace(rows, source=changed, outcome=outcome, probabilities=probabilities)


def label_errors(probabilities: Host, targets: Host) -> Host:
    """Return |target - p| of labels, in the shape of both; 0 where a target is missing."""
    errors: Host = np.abs(np.where(np.isnan(targets), probabilities, targets) - probabilities)
    return errors


def worst(rows: Rows) -> tuple[Host, Host]:
    """Return the rows with the largest errors, (n,), and the error of all rows, (N,).

    The error of a class is 1 - p of the true one (p is 0 of one that training has not seen), of labels the largest of
    theirs; of numbers the distance, of several the largest of them in standard deviations of the targets. Errors that
    differ by rounding alone are equal, and the first row is the first then.
    """
    if rows.probabilities is not None and rows.model.encoder.labels:
        errors = label_errors(rows.probabilities, rows.targets).max(axis=1)
    elif rows.probabilities is not None:
        errors = 1.0 - np.where(rows.known, rows.probabilities[np.arange(len(rows)), rows.targets], 0.0)
    else:
        predicted, true = rows.numbers()
        errors = np.abs(predicted - true)
        if errors.shape[1] > 1:
            spread = np.nanstd(true, axis=0)
            errors = errors / np.where(spread > 0, spread, 1.0)
        errors = np.where(np.isnan(errors), 0.0, errors).max(axis=1)
    errors = np.where(rows.weights > 0, errors, 0.0)
    if rows.probabilities is not None:
        with np.errstate(divide="ignore"):
            losses = -np.log(1.0 - errors)
    else:
        losses = errors / (errors.max() or 1.0)
    return np.argsort(-np.round(losses, TIED_DECIMALS), kind="stable")[:WORST_ROWS], errors

"""How good a model is on a dataset: its loss, and metrics in the user's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpumlp import metrics
from gpumlp.autodiff import Tensor
from gpumlp.data import EncodedRows, Encoder, Features
from gpumlp.limits import beside
from gpumlp.nn import Loss, Model
from gpumlp.training.calibration import Temperature, pieces
from gpumlp.training.device_data import DeviceData, evaluated
from gpumlp.training.windows import Streamed

MAX_BATCH_ROWS, MAX_BATCH_OUTPUTS = 8192, 1 << 24
"""Rows that are computed at a time, and numbers that their answers have: with many classes, fewer rows."""


MAX_SEEN_BYTES = 1 << 24
"""Bytes of the last linear values of validation rows that are kept, so that they need not be computed again."""


@dataclass(frozen=True)
class Measured:
    """What a network has made of rows.

    Parameters
    ----------
    linear
        (N, K) last linear values.
    measured
        Loss and metrics of the task.
    """

    linear: metrics.Host
    measured: dict[str, float]

    def scored(self, data: EncodedRows, probabilities: Callable[[metrics.Host], metrics.Host]) -> dict[str, float]:
        """Return what :func:`measure` does of these rows, ``data``, which have classes."""
        scores = metrics.ProbabilityScores()
        assert data.targets is not None
        for start in range(0, len(data), batch := rows_at_once(self.linear.shape[1], data.features)):
            rows = slice(start, start + batch)
            weights = None if data.weights is None else data.weights[rows]
            scores.add(probabilities(self.linear[rows]), data.targets[rows], weights)
        return self.measured | scores.result()


MAX_BATCH_FEATURES = 1 << 25
"""Numbers that these rows have where categories become 0 and 1: with many values, fewer rows."""


def rows_at_once(outputs: int, features: Features | None = None) -> int:
    """Return how many rows a network with this many outputs computes at a time, of features such as these."""
    expanded = (
        MAX_BATCH_FEATURES // features.width if features is not None and features.has_categories else MAX_BATCH_ROWS
    )
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_OUTPUTS // outputs, expanded))


class Measurement:
    """How good a model is on rows that are on the device; to be called as often as it changes.

    Attributes
    ----------
    seen
        What was measured last; None where that takes more than ``MAX_SEEN_BYTES``.
    """

    def __init__(
        self, model: Model, loss: Loss, data: DeviceData | Streamed, encoder: Encoder, batch: int | None = None
    ) -> None:
        self.model, self.loss, self.encoder = model, loss, encoder
        self.device, self.batch = data, batch
        self.seen: Measured | None = None

    def __call__(self, *, log_loss: bool = False) -> dict[str, float]:
        """Return ``loss`` (in the units training uses) and the metrics of the task (in those of the target).

        Parameters
        ----------
        log_loss
            Whether to add that, after a temperature fitted to these rows.
        """
        log_loss = log_loss and bool(self.encoder.classes)
        fits_in_memory = 4 * len(self.device) * self.encoder.outputs <= MAX_SEEN_BYTES
        values: list[metrics.Host] | None = [] if log_loss or fits_in_memory else None
        blocks = self.device.blocks(self.model)
        measured = measure(self.model, self.loss, self.encoder, blocks, self.batch, linear=values)
        linear = None if values is None else np.concatenate(values)
        self.seen = None if linear is None else Measured(linear, measured)
        if not log_loss:
            return measured
        assert linear is not None
        return measured | {"log_loss": self._log_loss(linear)}

    def of(self, linear: metrics.Host, metric: str) -> float:
        """Return a metric of these rows, given what are taken for their last linear values, (N, K)."""
        if metric == "log_loss" and self.encoder.classes:
            return self._log_loss(linear)
        data, context = self.device.host, self.model.context
        outputs = Tensor(context.backend.asarray(linear, context.wide), context.backend)
        if metric != "loss":
            assert data.targets is not None
            return outcome_metrics(self.encoder, answers(self.model, outputs), data.targets, data.weights)[metric]
        sums, start = np.zeros(4), 0
        for block in self.device.blocks(self.model):
            rows = slice(start, start := start + len(block))
            _, targets, weights = block.arrays
            sums += context.backend.to_host(self.loss.evaluate(outputs[rows], targets, weights))
        return float(sums[0] / sums[1])

    def _log_loss(self, linear: metrics.Host) -> float:
        """Return the log-loss of these rows after a temperature fitted to them, given their last linear values."""
        data, scores = self.device.host, metrics.ProbabilityScores()
        assert data.targets is not None
        calibration = Temperature.fit(linear, data.targets, data.weights)
        for rows in pieces(linear):
            weights = None if data.weights is None else data.weights[rows]
            scores.add(calibration(linear[rows]), data.targets[rows], weights)
        return scores.result()["log_loss"]

    def linear(self) -> np.ndarray[Any, Any]:
        """Return the last linear values of these rows, (N, K)."""
        batch, parts = self.batch or rows_at_once(self.encoder.outputs, self.device.host.features), []
        for block in self.device.blocks(self.model):
            inputs = partial(block.inputs, self.model)
            parts += [each.numpy() for _, each in evaluated(self.model, len(block), inputs, batch)]
        return np.concatenate(parts)


def measure(
    model: Model,
    loss: Loss,
    encoder: Encoder,
    blocks: Iterable[DeviceData],
    batch: int | None = None,
    *,
    probabilities: Callable[[metrics.Host], metrics.Host] | None = None,
    linear: list[metrics.Host] | None = None,
) -> dict[str, float]:
    """Return the loss and the metrics of rows that come in blocks, of which only what is predicted is kept.

    The parameters are those of :func:`computed`.
    """
    return computed(model, loss, encoder, blocks, batch, probabilities=probabilities, linear=linear)()


def computed(
    model: Model,
    loss: Loss,
    encoder: Encoder,
    blocks: Iterable[DeviceData],
    batch: int | None = None,
    *,
    probabilities: Callable[[metrics.Host], metrics.Host] | None = None,
    linear: list[metrics.Host] | None = None,
) -> Callable[[], dict[str, float]]:
    """Compute the outputs of rows that come in blocks; return what makes their loss and metrics of them, on the host.

    Parameters
    ----------
    model
        The network.
    loss
        What it is trained by.
    encoder
        Encoder of the targets.
    blocks
        Rows with targets; their weights must be in the same units.
    batch
        Rows computed at a time.
    probabilities
        Makes them of last linear values, (N, K): of classes they are measured, too; None: they are not.
    linear
        Takes the last linear values of each batch, (n, K).
    """
    backend = model.context.backend
    sums, predicted, targets, weights = np.zeros(4), [], [], []
    scores, score = metrics.ProbabilityScores(), probabilities if encoder.classes else None
    scored: Callable[[], None] | None = None
    with beside() as begin:
        for block in blocks:
            _, block_targets, block_weights = block.arrays
            at_once = batch or rows_at_once(encoder.outputs, block.host.features)
            for rows, outputs in evaluated(model, len(block), partial(block.inputs, model), at_once):
                weight = None if block_weights is None else block_weights[rows]
                sums += backend.to_host(loss.evaluate(outputs, block_targets[rows], weight))
                if score is not None:
                    if scored is not None:
                        scored()  # no more than two batches are held
                    scored = begin(partial(_score, scores, score, outputs.numpy(), block.host, rows))
                if linear is not None:
                    linear.append(outputs.numpy())
                some = answers(model, outputs)
                predicted.append(_chosen(some) if encoder.classes and some.shape[1] > 1 else some)
            assert block.host.targets is not None
            targets.append(block.host.targets)
            weights.append(block.host.weights)

    def result() -> dict[str, float]:
        if scored is not None:
            scored()
        outcome, true = np.concatenate(predicted), np.concatenate(targets)
        each = [weight for weight in weights if weight is not None]
        weight = np.concatenate(each) if each else None
        mean = {"loss": float(sums[0] / sums[1]) if sums[1] else float("nan")}
        mean |= outcome_metrics(encoder, outcome, true, weight)
        return mean if score is None else mean | scores.result()

    return result


def _score(
    scores: metrics.ProbabilityScores,
    probabilities: Callable[[metrics.Host], metrics.Host],
    linear: metrics.Host,
    data: EncodedRows,
    rows: slice,
) -> None:
    """Add rows to the scores, given their last linear values."""
    assert data.targets is not None
    scores.add(probabilities(linear), data.targets[rows], None if data.weights is None else data.weights[rows])


def _chosen(shares: metrics.Host) -> metrics.Host:
    """Return the most probable class of each row, (n,); NaN of a row without any."""
    classes, lost = metrics.most_probable(shares), np.isnan(shares[:, 0])
    return np.where(lost, np.nan, classes) if lost.any() else classes


def answers(network: Model, linear: Tensor) -> metrics.Host:
    """Return what last linear values stand for, (n, K): probabilities, or scaled numbers.

    Sigmoids are computed in float64: in 32 bits those above 17 are all 1, which loses their ranks, and log(1 - p).
    """
    if network.link != "sigmoid":
        return network.answer(linear).numpy()
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-linear.numpy().astype(np.float64))))


def outcome_metrics(
    encoder: Encoder, outcome: metrics.Host, targets: metrics.Host, weights: metrics.Host | None
) -> dict[str, float]:
    """Return the metrics of what a network makes of N rows.

    Parameters
    ----------
    encoder
        Encoder of the targets.
    outcome
        (N, K) probabilities or (N,) class numbers; of numbers and labels (N, outputs).
    targets
        As encoded.
    weights
        (N,), or None for all alike.
    """
    if encoder.task != "regression" and np.isnan(outcome).any():  # it diverged: no row is taken for a class
        nothing = outcome_metrics(encoder, np.zeros_like(outcome), targets, weights)
        return dict.fromkeys(nothing, float("nan"))
    if encoder.task == "classification":
        return metrics.classification(outcome, targets, weights)
    if encoder.task == "multilabel":
        return metrics.labels(outcome, targets, encoder.target_names, weights)
    predicted, true = encoder.restore(outcome), encoder.decode(targets.astype(np.float64))
    if true.ndim == 1:
        values = metrics.regression(predicted, true, weights)
    else:
        values = metrics.regressions(predicted, true, encoder.target_names, weights)
    if len(encoder.levels) > 1:
        values["coverage"] = metrics.coverage(encoder.quantiles(outcome), true.reshape(len(true), -1), weights)
    return values


def constant_loss(model: Model, loss: Loss, data: EncodedRows, encoder: Encoder, batch: int | None = None) -> float:
    """Return the mean loss of one answer to all rows: the mean of the target, or the shares of classes or labels."""
    assert data.targets is not None
    answer = np.zeros(encoder.outputs)  # targets are standardised: 0 is their mean
    if loss.record.relative:
        answer = _means(data)
    if encoder.levels:
        count_of_rows = np.ones(len(data)) if data.weights is None else data.weights
        each = zip(data.targets.T, encoder.levels * len(encoder.target_names), strict=True)
        answer = np.array([metrics.quantile(values, count_of_rows, level) for values, level in each])
    if encoder.classes:
        counts = np.bincount(data.targets, data.weights, len(encoder.classes))
        logits = np.log(counts.clip(np.finfo(np.float32).tiny))
        answer = logits[1:] - logits[:1] if encoder.outputs == 1 else logits
    if encoder.labels:
        shares = _means(data).clip(1e-30, 1 - 1e-7)
        answer = np.log(shares) - np.log1p(-shares)
    backend, wide, sums = model.context.backend, model.context.wide, np.zeros(4)
    batch = batch or rows_at_once(encoder.outputs)
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        targets = data.targets[rows] if encoder.classes else data.targets[rows].astype(wide, copy=False)
        weights = None if data.weights is None else backend.asarray(data.weights[rows], wide)
        outputs = Tensor(backend.asarray(np.tile(answer.astype(wide), (len(targets), 1))), backend)
        sums += backend.to_host(loss.evaluate(outputs, backend.asarray(targets), weights))
    return float(sums[0] / sums[1])


def _means(data: EncodedRows) -> metrics.Host:
    """Return the mean of each target, (K,), of which some may be missing."""
    assert data.targets is not None
    weights = np.ones(len(data)) if data.weights is None else data.weights
    counts = ~np.isnan(data.targets) * weights[:, None]
    means: metrics.Host = np.nansum(counts * data.targets, axis=0) / counts.sum(axis=0).clip(1e-30)
    return means

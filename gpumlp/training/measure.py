"""How good a model is on a dataset: its loss, and metrics in the user's terms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from gpumlp import metrics
from gpumlp.autodiff import Tensor
from gpumlp.data import Dataset, Encoder
from gpumlp.nn import Loss, Model
from gpumlp.training.calibration import Temperature
from gpumlp.training.device_data import DeviceData, evaluated

MOST_ROWS, MOST_ANSWERS = 8192, 1 << 24
"""Rows that are computed at a time, and numbers that their answers have: with many classes, fewer rows."""


def rows_at_once(outputs: int) -> int:
    """Return how many rows a network with this many outputs computes at a time."""
    return max(1, min(MOST_ROWS, MOST_ANSWERS // outputs))


class Measurement:
    """How good a model is on rows that are on the device; to be called as often as it changes."""

    def __init__(
        self, model: Model, loss: Loss, data: DeviceData, encoder: Encoder, batch: int | None = None
    ) -> None:
        self.model, self.loss, self.encoder = model, loss, encoder
        self.device, self.batch = data, batch

    def __call__(self, *, tempered: bool = False) -> dict[str, float]:
        """Return ``loss`` (in the units training uses) and the metrics of the task (in those of the target).

        tempered : whether to add ``log_loss``, after a temperature fitted to these rows
        """
        return measure(self.model, self.loss, self.encoder, [self.device], self.batch, tempered=tempered)


def measure(
    model: Model,
    loss: Loss,
    encoder: Encoder,
    blocks: Iterable[DeviceData],
    batch: int | None = None,
    *,
    tempered: bool = False,
) -> dict[str, float]:
    """Return the loss and the metrics of rows that come in blocks, of which only what is predicted is kept.

    Parameters
    ----------
    blocks : rows with targets; their weights must be in the same units
    batch : rows computed at a time
    tempered : whether to add ``log_loss``, after a temperature fitted to these rows
    """
    backend, batch = model.context.backend, batch or rows_at_once(encoder.outputs)
    sums, predicted, targets, weights, linear = np.zeros(4), [], [], [], []
    for block in blocks:
        _, block_targets, block_weights = block.arrays
        for rows, outputs in evaluated(model, len(block), partial(block.inputs, model), batch):
            weight = None if block_weights is None else block_weights[rows]
            sums += backend.to_host(loss.evaluate(outputs, block_targets[rows], weight))
            if tempered:
                linear.append(outputs.numpy())
            answers = model.answer(outputs).numpy()
            predicted.append(metrics.most_probable(answers) if answers.shape[1] > 1 else answers)
        assert block.host.targets is not None
        targets.append(block.host.targets)
        weights.append(block.host.weights)
    outcome, wanted = np.concatenate(predicted), np.concatenate(targets)
    each = [weight for weight in weights if weight is not None]
    weight = np.concatenate(each) if each else None
    mean = {"loss": float(sums[0] / sums[1])}
    if tempered:
        values = np.concatenate(linear)
        mean["log_loss"] = metrics.log_loss(Temperature.fit(values, wanted, weight)(values), wanted, weight)
    if encoder.task == "classification":
        return mean | metrics.classification(outcome, wanted, weight)
    return mean | metrics.regression(encoder.restore(outcome), encoder.restore(wanted.astype(np.float64)), weight)


def constant_loss(model: Model, loss: Loss, data: Dataset, encoder: Encoder, batch: int | None = None) -> float:
    """Return the mean loss of one answer to all rows: the mean of the target, or the shares of the classes."""
    assert data.targets is not None
    answer = np.zeros(1)  # targets are standardised: 0 is their mean
    if encoder.classes:
        counts = np.bincount(data.targets, data.weights, len(encoder.classes))
        logits = np.log(counts.clip(np.finfo(np.float32).tiny))
        answer = logits[1:] - logits[:1] if encoder.outputs == 1 else logits
    backend, wide, sums = model.context.backend, model.context.wide, np.zeros(4)
    batch = batch or rows_at_once(encoder.outputs)
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        targets = data.targets[rows] if encoder.classes else data.targets[rows].astype(wide, copy=False)
        weights = None if data.weights is None else backend.asarray(data.weights[rows], wide)
        outputs = Tensor(backend.asarray(np.tile(answer.astype(wide), (len(targets), 1))), backend)
        sums += backend.to_host(loss.evaluate(outputs, backend.asarray(targets), weights))
    return float(sums[0] / sums[1])

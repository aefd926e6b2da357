"""How good a model is on a dataset: its loss, and metrics in the user's terms."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.data import Dataset, Encoder
from gpumlp.nn import Loss, Model
from gpumlp.training import metrics
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
        assert data.host.targets is not None
        self.model, self.loss, self.encoder = model, loss, encoder
        self.batch = batch or rows_at_once(encoder.outputs)
        self.device, self.targets, self.weights = data, data.host.targets, data.host.weights

    def __call__(self) -> dict[str, float]:
        """Return ``loss`` (in the units training uses) and the metrics of the task (in those of the target)."""
        loss, outputs = self._run()
        if self.encoder.task == "classification":
            return {"loss": loss, **metrics.classification(outputs, self.targets, self.weights)}
        restore = self.encoder.restore
        return {
            "loss": loss,
            **metrics.regression(restore(outputs), restore(self.targets.astype(np.float64)), self.weights),
        }

    def _run(self) -> tuple[float, np.ndarray[Any, Any]]:
        """Return the mean loss and the predictions, (N, 1), or of many classes the most probable ones, (N,)."""
        backend, (_, targets, weights) = self.model.context.backend, self.device.arrays
        sums, parts = np.zeros(4), []
        inputs = partial(self.device.inputs, self.model)
        for rows, outputs in evaluated(self.model, len(self.device), inputs, self.batch):
            sums += backend.to_host(
                self.loss.evaluate(outputs, targets[rows], None if weights is None else weights[rows])
            )
            answers = self.model.answer(outputs).numpy()
            parts.append(metrics.most_probable(answers) if answers.shape[1] > 1 else answers)
        return float(sums[0] / sums[1]), np.concatenate(parts)


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

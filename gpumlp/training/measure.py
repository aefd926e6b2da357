"""How good a model is on a dataset: its loss, and metrics in the user's terms."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.autodiff.tensor import as_dtype
from gpumlp.data import Dataset, Encoder
from gpumlp.nn import Loss, Model
from gpumlp.training import metrics
from gpumlp.training.trainer import DeviceData


class Measurement:
    """A dataset kept on the device, to be measured as often as asked."""

    def __init__(self, model: Model, loss: Loss, data: Dataset, encoder: Encoder, batch: int = 8192) -> None:
        assert data.targets is not None
        self.model, self.loss, self.encoder, self.batch = model, loss, encoder, batch
        self.device = DeviceData(model, data, encoder.input_scale)
        self.targets, self.weights = data.targets, data.weights

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
        """Return the mean loss and the predictions (N, K)."""
        backend, dtype, scale = self.model.context.backend, self.model.context.dtype, self.device.scale
        sums, parts = np.zeros(4), []
        inputs, targets, weights = self.device.arrays
        for start in range(0, len(inputs), self.batch):
            rows = slice(start, start + self.batch)
            if scale == 1.0:
                x = Tensor(backend.asarray(inputs[rows], dtype), backend)
            else:
                x = as_dtype(Tensor(backend.asarray(inputs[rows], self.model.context.wide), backend) * scale, dtype)
            outputs = self.model.forward(x)
            sums += backend.to_host(
                self.loss.evaluate(outputs, targets[rows], None if weights is None else weights[rows])
            )
            parts.append(self.model.answer(outputs).numpy())
        return float(sums[0] / sums[1]), np.concatenate(parts)


def constant_loss(model: Model, loss: Loss, data: Dataset, encoder: Encoder, batch: int = 8192) -> float:
    """Return the mean loss of one answer to all rows: the mean of the target, or the shares of the classes."""
    assert data.targets is not None
    answer = np.zeros(1)  # targets are standardised: 0 is their mean
    if encoder.classes:
        counts = np.bincount(data.targets, data.weights, len(encoder.classes))
        logits = np.log(counts.clip(np.finfo(np.float32).tiny))
        answer = logits[1:] - logits[:1] if encoder.outputs == 1 else logits
    backend, wide, sums = model.context.backend, model.context.wide, np.zeros(4)
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        targets = data.targets[rows] if encoder.classes else data.targets[rows].astype(wide, copy=False)
        weights = None if data.weights is None else backend.asarray(data.weights[rows], wide)
        outputs = Tensor(backend.asarray(np.tile(answer, (len(targets), 1)), wide), backend)
        sums += backend.to_host(loss.evaluate(outputs, backend.asarray(targets), weights))
    return float(sums[0] / sums[1])

"""The rows of a dataset where the backend computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.data import Dataset
from gpumlp.nn import Model
from gpumlp.ops.record import Array


class DeviceData:
    """A dataset on the device. Whoever computes on these rows shares this object, so that they are there once.

    host : the same rows in host memory
    arrays : inputs, targets, and row weights or None, on the device
    scale : what inputs that are bytes are multiplied by, batch by batch
    """

    def __init__(self, model: Model, data: Dataset, scale: float) -> None:
        backend, dtype, wide = model.context.backend, model.context.dtype, model.context.wide
        assert data.targets is not None
        targets = data.targets if data.targets.dtype.kind == "i" else data.targets.astype(wide, copy=False)
        weights = None if data.weights is None else data.weights.astype(wide, copy=False)
        host = (_floats(data.inputs, dtype), targets, weights)
        self.host, self.scale = data, scale
        self.arrays: tuple[Array, ...] = tuple(None if a is None else backend.asarray(a) for a in host)


def _floats(inputs: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """Bytes stay bytes: they are scaled batch by batch."""
    return inputs if inputs.dtype == np.uint8 else inputs.astype(dtype, copy=False)

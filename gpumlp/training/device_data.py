"""The rows of a dataset where the backend computes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.autodiff.coded import CodedRows
from gpumlp.autodiff.tensor import as_dtype, wrap
from gpumlp.data import EncodedRows, Features
from gpumlp.nn import Model
from gpumlp.ops.record import Array


class DeviceData:
    """A dataset on the device. Whoever computes on these rows shares this object, so that they are there once.

    Rows of class -1, which training has not seen, have no weight on the device: no loss is defined for them.

    Parameters
    ----------
    scale
        What inputs that are bytes are multiplied by, batch by batch.

    Attributes
    ----------
    host
        The same rows in host memory.
    arrays
        Features as they are stored, targets, and row weights or None, on the device.
    """

    def __init__(self, model: Model, data: EncodedRows, scale: float) -> None:
        backend = model.context.backend
        self.host, self.scale = data, scale
        self.arrays: tuple[Array, ...] = tuple(
            None if a is None else backend.asarray(a) for a in arrays_of(model, data)
        )

    def first(self, rows: EncodedRows) -> DeviceData:
        """Return the first of these rows, which are ``rows`` in host memory, without a copy of them."""
        part = copy.copy(self)
        part.host = rows
        part.arrays = tuple(None if a is None else a[: len(rows)] for a in self.arrays)
        return part

    def __len__(self) -> int:
        return len(self.arrays[0])

    def inputs(self, model: Model, rows: slice) -> Tensor:
        """Return what the network takes of some rows, (n, p)."""
        return network_inputs(model, self.host.features, self.arrays[0][rows], self.scale)

    def blocks(self, model: Model) -> Iterator[DeviceData]:
        """Yield the rows block by block: here all at once, since they are there."""
        yield self

    @property
    def size(self) -> int:
        """The rows that batches of the moment are drawn from: here all."""
        return len(self)

    def left(self, batch: int) -> int:
        """Return how many batches can be drawn before other rows are needed: here any number."""
        return sys.maxsize

    def go_to(self, epoch: int, batch: int) -> None:
        """Have the rows of a batch here: all always are."""

    def moved(self, count: int) -> None:
        """Take into account that so many batches were drawn."""

    def advance(self) -> None:
        """Let the clock that batches are drawn by go on: that of the network does by itself."""

    def drawn(self, clock: Array, first: int, stride: int, key: int) -> Drawn:
        """Return from where the rows of a batch are drawn that begin with ``first``."""
        return Drawn(clock, self.arrays, stride, first, key)


@dataclass(frozen=True)
class Drawn:
    """From where the rows of a batch are drawn, and in which order; see :data:`gpumlp.ops.GATHER`."""

    clock: Array
    arrays: tuple[Array, ...]
    stride: int
    first: int
    key: int


def arrays_of(model: Model, data: EncodedRows) -> tuple[np.ndarray[Any, Any] | None, ...]:
    """Return features, targets and weights as they are to be on the device."""
    wide = model.context.wide
    assert data.targets is not None
    targets = data.targets if data.targets.dtype.kind == "i" else data.targets.astype(wide, copy=False)
    weights = None if data.weights is None else data.weights.astype(wide, copy=False)
    if targets.dtype.kind == "i" and (unseen := targets < 0).any():
        targets = targets.clip(0)
        weights = np.where(unseen, 0, 1 if weights is None else weights).astype(wide)
    stored = data.features.stored
    if stored.dtype != np.uint8:  # bytes stay bytes, codes what counts beyond bfloat16
        stored = stored.astype(stored_dtype(model, data.features), copy=False)
    return stored, targets, weights


def network_inputs(model: Model, features: Features, stored: Array, scale: float) -> Tensor:
    """Return what the network takes of rows that are stored on the device.

    Parameters
    ----------
    model
        Whose precision the inputs are to have.
    features
        What the rows are from, for their layout.
    stored
        (n, d + q) on the device.
    scale
        What inputs that are bytes are multiplied by.
    """
    array = model.context.backend.asarray(stored, input_dtype(model, features, scale))
    return computed_inputs(model, features, array, scale)


def input_dtype(model: Model, features: Features, scale: float) -> Any:
    """Return the dtype that what the network takes is computed from."""
    return model.context.wide if scale != 1.0 else stored_dtype(model, features)


def stored_dtype(model: Model, features: Features) -> Any:
    """Return the dtype that rows are stored in which are not bytes."""
    return model.context.wide if features.has_categories else model.input_dtype


def computed_inputs(model: Model, features: Features, array: Array, scale: float) -> Tensor:
    """Return what :func:`network_inputs` does, of rows in the dtype that :func:`input_dtype` returns."""
    context = model.context
    if features.has_categories:
        return coded(model, features, array)
    x = wrap(array, context.backend)
    return x if scale == 1.0 else as_dtype(x * scale, model.input_dtype)


def coded(model: Model, features: Features, stored: Array) -> CodedRows:
    """Return stored rows with a feature for each category, (n, p)."""
    return CodedRows(stored, features.dense, features.width, model.input_dtype, model.context.backend)


def outputs(model: Model, features: Features, scale: float, batch: int) -> Iterator[Tensor]:
    """Yield the last linear values, (n, K), of features in host memory, ``batch`` rows at a time."""
    backend = model.context.backend

    def inputs(rows: slice) -> Tensor:
        return network_inputs(model, features, backend.asarray(features.stored[rows]), scale)

    for _, linear in evaluated(model, len(features), inputs, batch):
        yield linear


def evaluated(
    model: Model, count: int, inputs: Callable[[slice], Tensor], batch: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows with their last linear values (n, K); one empty block where there is no row.

    Inside the network a block has ``batch`` rows: those of all members, where each has rows of its own.
    """
    rows_of_each = max((layer.rows_of_each for layer in model.layers().values()), default=1)
    batch = max(1, batch // rows_of_each)
    for start in range(0, max(count, 1), batch):
        rows = slice(start, start + batch)
        yield rows, model.forward(inputs(rows))

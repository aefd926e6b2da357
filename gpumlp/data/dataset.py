"""Encoded rows: features, targets and weights, ready for the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.features import Features

Targets = NDArray[np.int32 | np.float32]


class EncodedRows(Protocol):
    """Encoded rows, in memory or on disk, with targets and weights as of a :class:`Dataset`."""

    @property
    def features(self) -> Features:
        """How features are laid out; in memory also what they are."""

    @property
    def targets(self) -> Targets | None:
        """The targets, (N,) or (N, outputs)."""

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """The weights, (N,)."""

    @property
    def nbytes(self) -> int:
        """The bytes of memory that these rows take."""

    def __len__(self) -> int: ...

    def take(self, rows: Any) -> EncodedRows:
        """Return some rows, by their numbers."""

    def blocks(self) -> Iterator[Dataset]:
        """Yield the rows some at a time, in their order."""

    def some(self) -> Dataset:
        """Return rows that stand for all, where these are too many for memory."""

    def add_to(self, digest: Any) -> None:
        """Add all rows to a checksum."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows ready for the network.

    Parameters
    ----------
    features
        What the network sees; an array (N, p) where there are no categories.
    targets
        (N,) int32 class numbers, or (N, outputs) float32: standardised values, or labels 0 and 1, NaN where one of
        several is missing; None if not asked for.
    weights
        (N,) float32, at least 0, the largest in [1/2, 1); None if every row counts the same.
    """

    features: Features
    targets: Targets | None
    weights: NDArray[np.float32] | None

    def __init__(
        self,
        features: Features | NDArray[np.float32 | np.uint8],
        targets: Targets | None,
        weights: NDArray[np.float32] | None,
    ) -> None:
        mapped = features if isinstance(features, Features) else Features.of_array(features)
        for name, value in (("features", mapped), ("targets", targets), ("weights", weights)):
            object.__setattr__(self, name, value)

    @property
    def inputs(self) -> NDArray[np.float32 | np.uint8]:
        """All features, (N, p) float32 or uint8, to be multiplied by the encoder's ``input_scale``.

        Where there are categories this makes a matrix; whoever has many rows takes ``features``.
        """
        return self.features.expanded()

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Any) -> Dataset:
        """Return some rows: a slice, or their numbers."""
        targets = None if self.targets is None else self.targets[rows]
        return Dataset(self.features[rows], targets, None if self.weights is None else self.weights[rows])

    @property
    def nbytes(self) -> int:
        """The bytes of memory that these rows take."""
        arrays = (self.features.stored, self.targets, self.weights)
        return sum(array.nbytes for array in arrays if array is not None)

    def blocks(self) -> Iterator[Dataset]:
        """Yield the rows some at a time, in their order: here all at once."""
        yield self

    def some(self) -> Dataset:
        """Return rows that stand for all, where these are too many for memory: here all."""
        return self

    def add_to(self, digest: Any) -> None:
        """Add all rows to a checksum."""
        for array in (self.features.stored, self.targets, self.weights):
            digest.update(b"none" if array is None else f"{array.dtype.str}{array.shape}".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)

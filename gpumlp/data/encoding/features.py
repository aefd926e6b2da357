"""The features of rows as they are stored: numbers, and behind them, for each column of categories, which it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_WIDTH = 2**24
"""Features at the most: their numbers are stored as float32, which is exact up to here."""


@dataclass(frozen=True, eq=False)
class Features:
    """What the network sees of N rows: p numbers each, most of which are 0 where there are categories.

    Parameters
    ----------
    stored
        (N, d + q) float32 or uint8, C-contiguous: the first d features as they are, then q numbers that say which of
        the features d to p - 1 are 1, p standing for none.
    dense
        Number of features as they are, d.
    width
        The number of features, p.
    shape
        Axes of a row where it was read, whose product is p; by default one.

    Notes
    -----
    The codes are floats, so that a row is one piece of memory and one gather brings all of it to a batch.
    """

    stored: NDArray[np.float32 | np.uint8]
    dense: int
    width: int
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.shape or (self.width,))

    @classmethod
    def of_array(cls, array: NDArray[np.float32 | np.uint8], shape: tuple[int, ...] = ()) -> Features:
        """Return features without categories, given (N, p) numbers, and the axes that a row had."""
        return cls(array, array.shape[1], array.shape[1], shape)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> Features:
        """Return the features of some rows: a slice, or their numbers."""
        return Features(self.stored[rows], self.dense, self.width, self.shape)

    @property
    def has_categories(self) -> bool:
        """True where some features are stored as codes."""
        return bool(self.stored.shape[1] > self.dense)

    def expanded(self) -> NDArray[np.float32 | np.uint8]:
        """Return all features, (N, p)."""
        if not self.has_categories:
            return self.stored
        from_codes = np.zeros((len(self), self.width + 1), self.stored.dtype)
        from_codes[:, : self.dense] = self.stored[:, : self.dense]
        np.put_along_axis(from_codes, self.stored[:, self.dense :].astype(np.int64), 1, axis=1)
        return np.ascontiguousarray(from_codes[:, : self.width])

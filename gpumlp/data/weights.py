"""Weights of rows: what a row counts in training, and in the statistics that decide about the encoding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.read import Source
from gpumlp.errors import DataError

MAX_COPIES = 16
"""Largest mean weight of rows that are counted as often as their weights say."""

STATISTIC_ROWS = 200_000
"""Rows that statistics of numbers are computed from where weights are no multiples of each other, copies included."""

MIN_COPIES = 2
"""Copies of a row of mean weight in such statistics, at least."""


def weights_of(source: Source, name: str) -> NDArray[np.float32]:
    """Return the row weights, (N,) float32, all divided by the power of two that brings the largest below 1.

    Only their ratios count; as they are, their sum may be beyond 32-bit floats, or each of them below.

    Raises
    ------
    DataError
        If one is missing or negative, or all are 0.
    """
    values = source.numbers(source.resolve(name))
    bad = ~(values >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        message = "a weight is missing" if np.isnan(values[row]) else f"the weight {values[row]:g} is negative"
        raise DataError(message, where=source.where(row))
    if not values.any():
        raise DataError(f"all weights in {name!r} are 0", where=source.path)
    weights: NDArray[np.float32] = np.ldexp(values, -np.frexp(values.max())[1]).astype(np.float32)
    return weights


def deciding_rows(source: Source, weights: str | None) -> tuple[Source, NDArray[np.int64] | None]:
    """Return the rows that decide about the encoding, and which of them statistics of numbers take, if not each once.

    A row of weight 3 is the same as three rows, and one of weight 0 as none, where all weights are whole numbers, or
    whole multiples of the smallest. Otherwise all rows with a weight decide, and statistics take each as often as is
    nearest to its share.
    """
    if weights is None:
        return source, None
    weights_of(source, weights)
    counts = source.numbers(source.resolve(weights))
    for times in (counts, counts / counts[counts > 0].min()):
        whole = np.rint(times)
        if np.allclose(times, whole, rtol=1e-12, atol=0) and whole.sum() <= MAX_COPIES * len(whole):
            rows = np.repeat(np.arange(len(whole)), whole.astype(np.int64))
            return (source if np.array_equal(rows, np.arange(len(whole))) else source.take(rows)), None
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present] / counts.max())
    copies = max(MIN_COPIES, STATISTIC_ROWS // len(present))
    ends = np.rint(ends * (copies * len(present) / ends[-1])).astype(np.int64)
    return source.take(present), np.repeat(np.arange(len(present)), np.diff(ends, prepend=0))


def rows_with_weight(source: Source, weights: str | None, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the rows whose weight is not 0, which decide nothing."""
    if weights is None:
        return rows
    weights_of(source, weights)
    return rows[source.numbers(source.resolve(weights))[rows] > 0]

"""Columns that give the target away: most often they are known only with it, and a model is of no use then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.columns import remarks_on
from gpumlp.data.source.cells import Floats
from gpumlp.data.source.frame import Frame, Numbers
from gpumlp.errors import Note

MIN_ROWS, MAX_ROWS = 50, 2_000
"""Fewest training rows that say something, and most that are looked at."""

MIN_OTHERS = 20
"""Fewest rows that are not of the most frequent class: with fewer, a column may decide them by chance."""

MAX_ERROR = 0.01
"""Share of these that a column may get wrong and still gives the class away."""

MAX_REST = 1e-4
"""Share of the variance of a target that a line through a column may leave: one minus R²."""

_HINT = "if it is known only with the target, list it under data.drop"


def leaks(
    train: Frame, numeric: Sequence[str], others: Sequence[str], targets: Sequence[str], task: str
) -> list[Note]:
    """Return notes on columns that give a target away, each alone.

    Parameters
    ----------
    train
        The training rows.
    numeric, others
        The input columns: those of numbers, and of categories and dates.
    targets
        Names of the targets.
    task
        Classification, regression or multilabel.
    """
    if len(train) < MIN_ROWS or len(numeric) + len(others) < 2:  # of one column it is what is to be learned
        return []
    rows = train.take(np.linspace(0, len(train) - 1, min(len(train), MAX_ROWS)).astype(np.int64))
    notes: list[Note] = []
    for target in targets:
        if task == "regression":
            remarks = _lines(rows, numeric, rows.numbers(target))
        else:
            remarks = _deciding(rows, (*numeric, *others), _codes(rows, target)[0])
        of_target = f"the target {target!r}" if len(targets) > 1 else "the target"
        notes += remarks_on((name, f"gives {of_target} away: {remark}; {_HINT}") for name, remark in remarks)
    return notes


def _lines(rows: Frame, names: Sequence[str], target: Floats) -> Iterator[tuple[str, str]]:
    """Yield the columns through which a line predicts a target, with a remark."""
    for name in names:
        values = rows.numbers(name)
        there = ~(np.isnan(values) | np.isnan(target))
        if np.count_nonzero(there) < max(MIN_ROWS, len(rows) / 2):
            continue
        x, y = (each[there] - each[there].mean() for each in (values, target))
        if (x @ x) * (y @ y) * (1.0 - MAX_REST) < (x @ y) ** 2:
            yield name, f"a line through it has R² above {1.0 - MAX_REST:g} on training rows"


def _deciding(rows: Frame, names: Sequence[str], labels: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Yield the columns whose value decides the class, with a remark."""
    if len(labels) - np.bincount(labels).max() < MIN_OTHERS:
        return
    for name in names:
        codes, missing = _codes(rows, name)
        if decides(codes, labels):
            yield name, "its value decides the class of nearly all training rows"
        elif decides(missing.astype(np.int64), labels):
            yield name, "whether it is missing decides the class of nearly all training rows"


def decides(values: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
    """Return whether the class of nearly every row is the most frequent one of the other rows of its value.

    So a value that one row has decides nothing, as those of an id.

    Parameters
    ----------
    values, labels
        (N,) numbers of values and of classes.
    """
    classes = int(labels.max()) + 1
    pairs, counts = np.unique(values * classes + labels, return_counts=True)
    order = np.lexsort((-counts, pairs // classes))
    of_value, counts = (pairs // classes)[order], counts[order]
    first = np.diff(of_value, prepend=-1) > 0
    following = np.where(np.append(first[1:], True), 0, np.append(counts[1:], 0))  # the second of the same value
    right = counts[first & (counts - 1 > following)].sum()
    return bool(len(labels) - right <= MAX_ERROR * (len(labels) - np.bincount(labels).max()))


def _codes(rows: Frame, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the numbers of the values of a column, and where they are missing, (N,) each."""
    column = rows.columns[name]
    if isinstance(column, Numbers):
        values = column.values
        return np.unique(values, return_inverse=True)[1].astype(np.int64), np.isnan(values)
    texts = rows.column(name)
    return texts.codes.astype(np.int64), (texts.texts == "")[texts.codes]

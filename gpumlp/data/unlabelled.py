"""Rows without a target, which are left out where a user allows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.roles import Task
from gpumlp.data.source.cells import Floats
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.read import Source
from gpumlp.errors import DataError, Note


def with_target(source: Source, task: Task, targets: Sequence[str]) -> tuple[Source, list[Note]]:
    """Return the rows that have a target, or one of several, and a note on the others."""
    missing = lacking_target(source, task, targets)
    if not missing.any():
        return source, []
    if missing.all():
        raise DataError("no row has a target", where=source.path, hint="check the name of the target")
    count = int(missing.sum())
    message = f"{count:,} of {len(missing):,} rows have no target and are left out (data.missing_target)"
    return source.take(np.flatnonzero(~missing)), [Note(message, ", ".join(targets))]


def lacking_target(source: Source, task: Task, targets: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows have no target, or none of several, (N,)."""
    lacking = []
    for target in targets:
        if task != "regression":
            labels = source.categories(source.resolve(target))
            lacking.append((labels.texts == "")[labels.codes])
        else:
            lacking.append(np.isnan(target_numbers(source, source.resolve(target))))
    lacking_all: NDArray[np.bool_] = np.logical_and.reduce(lacking)
    return lacking_all


def target_numbers(source: Source, target: str) -> Floats:
    """Return a target of numbers."""
    try:
        return source.numbers(target)
    except DataError as error:  # the usual way out, to drop the column, is none for a target
        hint = "correct the value; if the target names classes, set the task to classification"
        remedy = source.remedy(target) if isinstance(source, Frame) else None
        raise DataError(error.what, where=error.where, hint=remedy or hint) from None

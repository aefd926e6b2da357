"""Training on rows in memory, without a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from gpumlp.config import Settings, configure, guessed_task
from gpumlp.data import Kind, Prepared, Source, prepare, rows_of, with_columns
from gpumlp.data.roles import Task
from gpumlp.data.source.rows import plain_array, row_weights
from gpumlp.errors import ConfigError, DataError, Note, RunError
from gpumlp.runs.model import SavedModel
from gpumlp.runs.run import REMEDY
from gpumlp.runs.start import NEW_WEIGHTS, Start, start_of
from gpumlp.training.build import build, unsuitable
from gpumlp.training.loop import Diverged, Epoch
from gpumlp.training.members import loop_over

IN_MEMORY = "<rows>"
"""What stands for the path of rows in memory."""

TARGET, WEIGHTS = "y", "weights"
"""What target and weights are called that have no names."""


def fit(
    X: Any,
    y: Any,
    *,
    task: Task | None = None,
    weights: Any = None,
    validation: float | tuple[Any, ...] = 0.15,
    **settings: Any,
) -> SavedModel:
    """Train on rows in memory, and return the model with its best weights.

        model = gpumlp.fit(table, "species", model={"hidden": [64]}, training={"epochs": 50})
        model.predict(new_rows)

    Parameters
    ----------
    X
        DataFrame, mapping from names to columns, or array (N, p) of numbers.
    y
        (N,) texts or numbers; or the name of a column of ``X``; several targets, or labels of two values, as (N, T),
        NaN where one is missing.
    task
        Classification, regression or multilabel; None: what the target looks like.
    weights
        (N,) how much each row counts; or the name of a column of ``X``; None: all alike.
    validation
        Share of the rows by which the best epoch is chosen (0: the last one is), or other rows: (X, y) or (X, y,
        weights).
    settings
        Sections of a configuration, as for ``configure``.

    Returns
    -------
    SavedModel
        With the best weights.

    Raises
    ------
    ConfigError
        If a setting is wrong.
    DataError
        If the rows do not fit.
    RunError
        If training diverges.
    """
    source, target, counts = _source(X, y, weights)
    others: float | Source
    held: Any = validation
    if not (isinstance(held, Real) or (isinstance(held, tuple) and len(held) in (2, 3))):
        message = f"it is a share of the rows, or rows as (X, y) or (X, y, weights), not a {type(held).__name__}"
        raise ConfigError(message, where="validation")
    others = _source(*validation, names=(target, counts))[0] if isinstance(validation, tuple) else validation
    notes: tuple[Note, ...] = ()
    if task is None and isinstance(target, tuple):
        task, reason = _task_of_several(y)
        notes = (Note(f"task {task}: {reason}", ", ".join(target)),)
    elif task is None:
        assert isinstance(target, str)
        task, reason = guessed_task(source, target)
        notes = (Note(f"task {task}: {reason}", target),)
    data = dict(settings.pop("data", {}))
    if taken := sorted({"train", "query", "target", "weights", "split", "folder"} & data.keys()):
        raise ConfigError("rows in memory are given as arguments", where=f"data.{taken[0]}", hint="leave it out")
    held_out: Any = others if isinstance(others, int | float) else IN_MEMORY
    data |= {"train": IN_MEMORY, "target": target, "weights": counts, "split": {"validation": held_out, "test": 0.0}}
    loaded = configure(task=task, data=data, **settings)
    model = fit_source(loaded.settings, source, others, columns=category_columns(X), start=start_of(loaded))
    return replace(model, notes=(*notes, *model.notes))


def fit_source(
    settings: Settings,
    source: Source,
    validation: float | Source,
    *,
    columns: Mapping[str, Kind] | None = None,
    stop: Callable[[Mapping[str, Any]], bool] | None = None,
    start: Start = NEW_WEIGHTS,
) -> SavedModel:
    """Train on a source as the settings say, but for where its rows are.

    Parameters
    ----------
    settings
        All but where the rows are.
    source
        The training rows.
    validation
        Share of the rows, or other rows.
    columns
        What columns are, beside what the settings say.
    stop
        Is called with the row of each epoch; training ends where it returns True.
    start
        What ``start_of`` returns.

    Raises
    ------
    DataError
        If the rows do not fit.
    RunError
        If training diverges.
    """
    data = settings.data
    prepared = prepare(
        source,
        task=settings.task,
        target=data.target,
        validation=validation,
        test=0.0,
        scaling=data.scaling,
        drop=data.drop,
        weights=data.weights,
        columns={**data.kinds, **(columns or {})},
        missing_target=data.missing_target,
        goal=settings.goal,
        seed=settings.training.seed,
        dialect=data.dialect,
        encoder=start.encoder,
    )
    for setting, error in unsuitable(settings, prepared):
        raise DataError(error.what, where=setting, hint=error.hint)
    return _trained(settings, prepared, start, stop)


def category_columns(table: Any) -> dict[str, Kind]:
    """Return the columns of a DataFrame whose dtype says that they are categories."""
    if not hasattr(table, "columns") or not hasattr(table, "dtypes"):
        return {}
    dtypes = zip(table.columns, table.dtypes, strict=True)
    names = [name for name, dtype in dtypes if str(dtype).lower().startswith(("category", "categorical", "enum"))]
    return {str(name): Kind("category") for name in names}


def _trained(
    settings: Settings, prepared: Prepared, start: Start, stop: Callable[[Mapping[str, Any]], bool] | None
) -> SavedModel:
    parts = build(settings, prepared, weights=start.weights)
    loop = loop_over(parts)
    history: list[dict[str, Any]] = []
    for event in loop:
        if isinstance(event, Diverged):
            raise RunError(event.reason, hint=REMEDY)
        if isinstance(event, Epoch):
            history.append(event.row)
            if stop is not None and stop(event.row):
                break
    parts.model.load(loop.best)
    calibration, scores = loop.calibration(), loop.scores()
    notes = (*parts.notes, *loop.notes)
    return SavedModel(prepared.encoder, parts.model, parts.architecture, tuple(history), calibration, scores, notes)


def _source(
    X: Any, y: Any, weights: Any = None, *, names: tuple[str | tuple[str, ...], str | None] | None = None
) -> tuple[Source, str | tuple[str, ...], str | None]:
    """Return rows with their targets and weights, and how these are called."""
    more: dict[str, Any] = {}
    target, counts = (_names(y), WEIGHTS) if names is None else names
    if isinstance(y, str):
        target = y
    elif isinstance(target, tuple):
        more |= dict(zip(target, plain_array(y).reshape(len(y), len(target)).T, strict=True))
    else:
        more[target] = y
    if isinstance(weights, str):
        counts = weights
    elif weights is not None:
        counts = counts or WEIGHTS
        more[counts] = row_weights(weights)
    source = with_columns(rows_of(X), more)
    named = target if isinstance(target, tuple) else source.resolve(target)
    return source, named, None if weights is None else counts


def _task_of_several(y: Any) -> tuple[Task, str]:
    """Return what several targets, (N, T), look like, and why."""
    values = plain_array(y)
    if values.dtype.kind not in "biuf":
        return "multilabel", "the targets are texts"
    if np.isin(values, (0, 1)).any() and (np.isin(values, (0, 1)) | (values != values)).all():
        return "multilabel", "all targets are 0 or 1; if they are amounts: regression"
    return "regression", "the targets are numbers"


def _names(y: Any) -> str | tuple[str, ...]:
    """Return what a target, or each of several, is called."""
    shape: tuple[int, ...] = np.shape(y) if hasattr(y, "shape") else ()
    if len(shape) == 2 and shape[1] > 1:
        return tuple(map(str, getattr(y, "columns", [f"{TARGET}{i}" for i in range(shape[1])])))
    return str(getattr(y, "name", None) or TARGET)

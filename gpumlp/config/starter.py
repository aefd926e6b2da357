"""A configuration for a data file: what it holds, what of it can be learned from, and settings to begin with."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpumlp.config.model_settings import Numbers
from gpumlp.config.presets import PLAIN
from gpumlp.config.training_settings import Training
from gpumlp.config.yaml_text import render
from gpumlp.data import (
    ArrayTable,
    ColumnReport,
    Frame,
    Kind,
    Source,
    count_of,
    number_formats,
    read,
    remarks_on,
    survey,
)
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.targets import ClassTarget, NumberTarget
from gpumlp.data.images import are_images
from gpumlp.data.roles import Task
from gpumlp.data.splits import split
from gpumlp.data.survey import ID
from gpumlp.data.unlabelled import with_target
from gpumlp.errors import DataError, Note, listed
from gpumlp.nn import EMBEDDINGS

MAX_NUMBER_CLASSES = 20
"""Most different whole numbers that are taken for classes."""

MIN_ROWS_PER_CLASS = 5
"""Fewest rows per different number, on average, where numbers are taken for classes."""

HELD_OUT_SHARE = 0.15
"""Share of the rows for validation, and for test, where there are enough."""

ROWS_PER_NUMBER = 50
"""Rows for each column of numbers from which on these are embedded: with fewer it lost (docs/accuracy.md)."""

HIDDEN = ((1_000, [32]), (10_000, [64, 64]), (None, [256, 128]))
"""Hidden layers for fewer rows than these."""

SCHEMA = "gpumlp.schema.json"
"""Where editors look for the schema: ``gpumlp schema > gpumlp.schema.json`` writes it."""

BATCH_SIZE = 64

STEP_OVERHEAD_S, CPU_SPEED = 3e-5, 5e10
"""Seconds of a step besides its products, and multiplications and additions a second: of two cores without AMX.

Measured here it would be another number each time, by what else the machine does.
"""

BASE_BYTES = 120_000_000
"""Memory of a process that trains a small network."""

_LISTED_CLASSES = 10
_LISTED_COLUMNS = 5  # that a message names


def columns_of(path: Path) -> tuple[int, list[ColumnReport]]:
    """Return the number of rows of a data file, and what would become of each of its columns.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    source, _ = _read(path)
    return count_of(source), survey(source, source.names)


@dataclass(frozen=True)
class Starter:
    """A configuration to begin with.

    Attributes
    ----------
    text
        YAML with comments.
    notes
        On what it leaves out.
    """

    text: str
    notes: tuple[Note, ...]


def starter(path: Path, targets: str | Sequence[str], *, folder: Path, preset: str = PLAIN) -> Starter:
    """Return a configuration that trains on a data file as it is.

    Parameters
    ----------
    path
        The data file, or a pattern; relative to the working folder.
    targets
        The column to predict, by name or number, or several: numbers, or labels of two values each.
    folder
        Where the configuration will stand, which its paths start from.
    preset
        Whose settings it takes over; they are not written, except of the plain one.

    Raises
    ------
    DataError
        If the file cannot be read, or has no such target, or one that cannot be learned.
    """
    source, formats = _read(path)
    columns = [_column(source, each) for each in ([targets] if isinstance(targets, str) else targets)]
    names = [source.resolve(each) for each in columns]
    if len(set(names)) < len(names):
        raise DataError("a target is given twice", where=source.path)
    task, reason = guessed_task(source, names[0]) if len(names) == 1 else _guessed_tasks(source, names)
    source, lacking = with_target(source, task, names)
    labels, outputs = None, len(names)
    if len(names) == 1:
        about, labels = _about_target(source, names[0], task)
        target = [f"  {_line('target', columns[0])}  # {about}"]
        classes = 2 if labels is None else int(labels.max()) + 1
        outputs = classes if classes > 2 else 1
    else:
        each_target = zip(columns, names, strict=True)
        target = [
            "  target:",
            *(f"    - {_scalar(one)}  # {_about(source, name, task)}" for one, name in each_target),
        ]
    inputs = survey(source, [each for each in source.names if each not in names])
    if not any(each.used for each in inputs):
        message = "there is no column to learn from"
        hint = listed((f"{each.name}: {each.text}" for each in inputs), _LISTED_COLUMNS, "; ")
        raise DataError(message, where=source.path, hint=hint or None)
    count = count_of(source)
    share, remark = _share(count, labels)
    hidden = next(sizes for most, sizes in HIDDEN if most is None or count < most)
    numbers = sum(each.numbers for each in inputs if each.used)
    embedded = 0 < ROWS_PER_NUMBER * numbers <= count
    dropped = [each for each in inputs if not each.used]
    used = len(inputs) - len(dropped)
    train = os.path.relpath(path, folder)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# {_plain(path.name)}: {count:,} rows, {len(source.names)} columns; {used} of them"
        f" {'is used as an input' if used == 1 else 'are used as inputs'}.",
        *([f"# {_estimate(count, share, inputs, outputs, hidden, embedded)}"] if preset == PLAIN else []),
        "# gpumlp validate FILE --print-config shows the settings that are not here, with their defaults.",
        f"{_line('task', task)}  # {reason}",
        "data:",
        f"  {_line('train', train)}",
        *target,
    ]
    if lacking:
        lines += [f"  missing_target: drop  # {lacking[0].removesuffix(' (data.missing_target)')}"]
    if formats:
        lines += ["  columns:", *(f"    {_format(name, kind)}" for name, kind in formats.items())]
    if dropped:
        lines += ["  drop:  # without its line here a column is used"]
        lines += [f"    - {_scalar(each.name)}  # {_plain(each.text)}" for each in dropped]
    lines += ["  # inputs:"]
    lines += [f"  #   {_plain(each.name)}: {_plain(each.text)}" for each in inputs if each.used]
    lines += [
        f"  split: {{validation: {share:g}, test: {share:g}}}  # {remark}",
    ]
    if preset != PLAIN:
        lines += [f"preset: {preset}  # all other settings: gpumlp validate FILE --print-config", "training:"]
    else:
        lines += [
            f"# preset: {_better_preset(source, inputs)}, many times as long; in place of all below but seed",
            "model:",
            f"  hidden: {hidden}  # units of each hidden layer",
            *(["  numbers: ple  # bins of each number; none: numbers as they are, faster and plainer"] * embedded),
            "  activation: relu",
            "  dropout: 0.0  # 0.1 to 0.5 where the validation loss rises while the training loss still falls",
            "optimizer:",
            "  name: adamw",
            "  learning_rate: 0.003",
            "training:",
            "  epochs: null  # passes over the training rows; null: by their number",
            f"  batch_size: {BATCH_SIZE}",
        ]
    lines += ["  seed: 0  # of the split, the first weights, and the order of rows"]
    left_out = (
        (
            each.name,
            f"is left out: {each.text}" + "; to use it, set data.drop, such as --set data.drop=[]" * _is_id(each),
        )
        for each in dropped
    )
    return Starter("\n".join(lines) + "\n", remarks_on(left_out))


def _better_preset(source: Source, inputs: Sequence[ColumnReport]) -> str:
    """Return the preset for such inputs, and what it does."""
    if isinstance(source, ArrayTable):
        (array,) = (source.arrays[each.name] for each in inputs if each.used)
        if array.dtype == np.uint8 and are_images(array.shape[1:]):
            return "images  # batch norm, and images moved by a pixel: often more accurate"
    return "tabular  # RealMLP: often more accurate"


def _is_id(column: ColumnReport) -> bool:
    return column.text.startswith(ID)


def _read(path: Path) -> tuple[Source, dict[str, Kind]]:
    """Return the rows of a file, and how the numbers are written that are not written plainly."""
    source = read(path)
    formats = number_formats(source)
    return source.with_kinds(formats) if isinstance(source, Frame) else source, formats


def _format(name: str, kind: Kind) -> str:
    """Return an entry of ``data.columns``."""
    described = (f"{key}: {_quoted(value)}" for key, value in kind.to_state().items() if value is not None)
    return f"{_scalar(name)}: {{{', '.join(described)}}}"


def _quoted(value: str) -> str:
    return value if value.isalpha() else json.dumps(value, ensure_ascii=False)


def _estimate(
    count: int, share: float, inputs: Sequence[ColumnReport], outputs: int, hidden: Sequence[int], embedded: bool
) -> str:
    """Return a sentence on the size of the network, the time to train it and the memory that takes."""
    used_inputs = [each for each in inputs if each.used]
    width, numbers = (sum(getattr(each, name) for each in used_inputs) for name in ("width", "numbers"))
    ple = EMBEDDINGS["ple"].default_size
    sizes = [width + numbers * (ple - 1) * embedded, *hidden, outputs]
    parameters = sum((one + 1) * other for one, other in itertools.pairwise(sizes))
    parameters += numbers * ple * (Numbers.model_fields["bins"].default + 2) * embedded
    rows = round(count * (1 - 2 * share))
    batches = math.ceil(rows / BATCH_SIZE)
    epochs = Training(batch_size=BATCH_SIZE).epochs_over(rows)
    seconds = epochs * batches * (STEP_OVERHEAD_S + 6 * parameters * BATCH_SIZE / CPU_SPEED)
    columns = sum(each.used for each in inputs)
    used = BASE_BYTES + count * (4 * min(width, columns) + 16 * columns) + 24 * parameters
    duration = (
        "seconds" if seconds < 20 else f"about {seconds / 60:,.0f} minutes" if seconds > 90 else "about a minute"
    )
    return (
        f"Estimate: {parameters:,} parameters, at most {epochs:,} epochs of {batches:,} steps: {duration} on two "
        f"cores, {used / 1e9:.1f} GB of memory."
    )


def guessed_task(source: Source, target: str) -> tuple[Task, str]:
    """Return what a target looks like, and why.

    Texts, and few different whole numbers that come again and again, are classes; other numbers are amounts.

    Parameters
    ----------
    source
        The rows.
    target
        The name of a column or an array.
    """
    if isinstance(source, Frame):
        values = source.try_numbers(target)
    else:
        values = source.numbers(target) if source.arrays[target].dtype.kind in "iuf" else None
    if values is None:
        return "classification", "the target is text"
    different = np.unique(values[~np.isnan(values)])
    count = len(different)
    whole = bool((different == np.floor(different)).all())
    if whole and (count == 2 or (count <= MAX_NUMBER_CLASSES and count * MIN_ROWS_PER_CLASS <= len(values))):
        return "classification", f"the target has {count} different whole numbers; if they are amounts: regression"
    return "regression", f"the target has {count:,} different numbers; if they name classes: classification"


def _guessed_tasks(source: Source, names: Sequence[str]) -> tuple[Task, str]:
    """Return what several targets look like, and why. Raises DataError where they do not go together."""
    texts = {name: np.setdiff1d(source.categories(name).texts, [""]) for name in names}
    if all(len(each) <= 2 for each in texts.values()):
        return "multilabel", "each target has two values; if they are amounts: regression"
    for name in names:
        if (source.try_numbers(name) if isinstance(source, Frame) else source.numbers(name)) is None:
            message = f"{name!r} has {len(texts[name]):,} different texts, so it is no target beside others"
            hint = "several targets are all numbers, or all of two values; train a run for each of the others"
            raise DataError(message, where=source.path, hint=hint)
    return "regression", "all targets are numbers"


def _about(source: Source, name: str, task: Task) -> str:
    """Return a comment on one of several targets."""
    if task == "regression":
        values = source.numbers(name)
        NumberTarget.fit(values, source.where, gaps=True, name=name)
        there = values[~np.isnan(values)]
        about, gaps = f"{there.min():g} to {there.max():g}, mean {there.mean():g}", len(values) - len(there)
    else:
        cells = source.categories(name)
        LabelTargets.fit({name: cells}, source.where)
        counts = dict(zip(cells.texts.tolist(), np.bincount(cells.codes, minlength=len(cells.texts)), strict=True))
        gaps = int(counts.pop("", 0))
        about = ", ".join(f"{_plain(text)} ({size:,} rows)" for text, size in counts.items() if size)
    return f"{about}, {gaps:,} missing" if gaps else about


def _about_target(source: Source, name: str, task: Task) -> tuple[str, NDArray[np.int64] | None]:
    """Return a comment on the target, and the class number of each row. Raises DataError if it cannot be learned."""
    if task == "regression":
        values = source.numbers(name)
        NumberTarget.fit(values, source.where)
        return f"{values.min():g} to {values.max():g}, mean {values.mean():g}", None
    cells = source.categories(name)
    goal = ClassTarget.fit(cells, source.where)
    labels = goal.encode(cells, source.where).astype(np.int64)
    sizes = np.bincount(labels)
    counted = [f"{_plain(each)} ({size:,} rows)" for each, size in zip(goal.classes, sizes, strict=True)]
    return f"{len(counted)} classes: {listed(counted, _LISTED_CLASSES)}", labels


def _share(count: int, labels: NDArray[np.int64] | None) -> tuple[float, str]:
    """Return the share of the rows for validation and for test, and a comment."""
    try:
        parts = split(count, validation=HELD_OUT_SHARE, test=HELD_OUT_SHARE, seed=0, labels=labels)
    except DataError:
        return 0.0, "too few rows to keep some for measuring"
    return (
        HELD_OUT_SHARE,
        f"{len(parts.train):,} rows to train on, {len(parts.validation):,} and {len(parts.test):,} kept",
    )


def _column(source: Source, target: str) -> str | int:
    """Return the name of a column, or its number where no column has this name."""
    is_number = target.removeprefix("-").isdecimal()
    return int(target) if is_number and target not in source.names else target


def _line(key: str, value: str | int) -> str:
    return f"{key}: {_scalar(value)}"


def _scalar(value: str | int) -> str:
    """Return a value as YAML in one line."""
    text = render([value])[1:-2]
    return text if "\n" not in text else json.dumps(value)


def _plain(text: str) -> str:
    """Return a text as it can stand in a comment: in one line."""
    return text if text.isprintable() else repr(text)

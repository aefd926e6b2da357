"""From rows to the parts of a task: dividing them, fitting the encoding to those for training, encoding all."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.dataset import Dataset, EncodedRows
from gpumlp.data.encoder import AnyTarget, Encoder
from gpumlp.data.encoding.columns import ArrayInputs, TableInputs
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.scaling import SCALINGS
from gpumlp.data.encoding.targets import PLAIN, ClassTarget, Goal, NumberTarget, NumberTargets
from gpumlp.data.leaks import leaks
from gpumlp.data.roles import MisfitError, Roles, Target, Task, absent, is_of
from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.cache import SourceCache
from gpumlp.data.source.cells import Floats
from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.files import Files, all_files
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.kinds import Kind
from gpumlp.data.source.read import Source
from gpumlp.data.source.rows import rows_of
from gpumlp.data.splits import Fold, split
from gpumlp.data.unlabelled import target_numbers, with_target
from gpumlp.data.weights import deciding_rows, rows_with_weight
from gpumlp.errors import ConfigError, DataError, Note, choices, listed, shown
from gpumlp.limits import in_threads
from gpumlp.phases import phase

MissingTarget = Literal["error", "drop"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """The parts of a task, encoded alike, with notes for the user on what was found in the data."""

    train: EncodedRows
    validation: EncodedRows | None
    test: EncodedRows | None
    encoder: Encoder
    notes: tuple[Note, ...]
    sources: Mapping[str, Source] | None = None
    """The raw rows of each part, where they were to be kept."""
    window: int | None = None
    """Rows that are shuffled among each other where these are on disk."""

    @property
    def parts(self) -> dict[str, EncodedRows]:
        """The parts that there are, by name: train, validation, test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def nbytes(self) -> int:
        """The bytes of memory that all encoded rows take; of those on disk, two windows."""
        windows = 0 if self.window is None else 2 * min(self.window, len(self.train)) * self.encoder.row_bytes
        return windows + sum(part.nbytes for part in self.parts.values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """A checksum of all rows as they were encoded: equal for equal data, divided in the same way."""
        digest = hashlib.blake2b(digest_size=16)
        for name, part in self.parts.items():
            digest.update(name.encode())
            part.add_to(digest)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Divided:
    """The rows of a task as they were read, by part, and the encoding, which is fitted to those for training."""

    parts: Mapping[str, Source]
    encoder: Encoder
    notes: tuple[Note, ...]

    @property
    def nbytes(self) -> int:
        """The bytes that all rows take once they are encoded."""
        return self.encoder.row_bytes * sum(map(self.encoder.count, self.parts.values()))

    def encoded(self, *, keep_sources: bool = False) -> Prepared:
        """Return all parts, encoded in memory; with their rows as they were read if ``keep_sources``."""
        datasets: dict[str, Dataset] = {}
        notes = list(self.notes)
        for part, each in self.parts.items():
            datasets[part], more = self.encoder.encode(each, targets=True)
            notes += [note.of(part) for note in more]
        return Prepared(
            train=datasets["train"],
            validation=datasets.get("validation"),
            test=datasets.get("test"),
            encoder=self.encoder,
            notes=tuple(notes),
            sources=dict(self.parts) if keep_sources else None,
        )


def prepare(
    train: Any,
    *,
    task: Task,
    target: Target,
    validation: Any = 0.15,
    test: Any = 0.15,
    scaling: str | None = None,
    drop: Sequence[str | int] = (),
    weights: str | int | None = None,
    columns: Mapping[str, Kind] | None = None,
    missing_target: MissingTarget = "error",
    group: str | int | None = None,
    time: str | int | None = None,
    goal: Goal = PLAIN,
    seed: int = 0,
    dialect: Dialect = DETECT,
    encoder: Encoder | None = None,
    keep_sources: bool = False,
    encode: Callable[[Divided], Prepared] | None = None,
) -> Prepared:
    """Divide the rows of a task, fit the encoding to the training rows, encode all parts.

    Parameters
    ----------
    train
        The training rows: what ``read`` returned, or anything that ``rows_of`` takes.
    task
        Classification, regression or multilabel.
    target
        The column by name or number (negative: from the end), or the array by name; None is allowed for IDX files,
        which have only one; in regression also several.
    validation, test
        A share of the rows of ``train`` (0: no such part), or other rows; the test rows may be a ``Fold``, and then
        the share for validation is of the rows outside it, as it may be one of several folds.
    scaling
        A name in ``SCALINGS``; None means robust, but leaves bytes as they are.
    drop
        Columns, or arrays, to leave out.
    weights
        The column of row weights.
    columns
        What columns are, where that is not to be found out.
    missing_target
        What becomes of rows without a target: an error, or they are left out, with a note; of rows with some of
        several, these count.
    group
        A column whose equal values keep rows in the same part; it is not an input.
    time
        A column of numbers or ISO dates: the last rows are the test rows, those before them for validation.
    goal
        How numbers to predict are encoded.
    seed
        Decides which rows are drawn.
    dialect
        How files of text that come later are written, where ``train`` does not tell.
    encoder
        An encoding that was fitted before, to be used as it is.
    keep_sources
        Whether the raw rows of each part are wanted, too.
    encode
        What is done with the parts; None: they are encoded in memory.

    Raises
    ------
    MisfitError
        If ``target``, ``weights``, ``drop`` or ``columns`` (the names it uses) do not fit ``train``.
    DataError
        If rows do not fit the task.
    """
    _require_known("task", task, get_args(Task))
    _require_known("missing_target", missing_target, get_args(MissingTarget))
    _require_known("scaling", scaling, (None, *SCALINGS))
    train, seed = rows_of(train), _whole_seed(seed)
    columns = {name: Kind(kind) if isinstance(kind, str) else kind for name, kind in (columns or {}).items()}
    roles = Roles.find(train, target, weights, drop, columns or (), group, time)
    if isinstance(train, ArrayTable):
        train.require_same_rows([train.choose_inputs(exclude={*roles.named, *roles.dropped}), *roles.named])
    notes: list[Note] = []
    kinds = dict(columns or {}) if encoder is None else encoder.kinds
    if isinstance(train, Frame):
        dialect = train.dialect if train.dialect.separator else dialect  # None is found only in text
        notes += train.notes
        train = replace(train.with_kinds(kinds), notes=())
        kinds = train.kinds
    asked_shares = {"validation": validation, "test": test}
    sources = {part: rows_of(each) for part, each in asked_shares.items() if not isinstance(each, Real | Fold)}
    if missing_target == "drop":
        train, more = with_target(train, task, roles.targets)
        notes += more
        for part, each in sources.items():
            sources[part], more = with_target(each, task, roles.targets)
            notes += [note.of(part) for note in more]
    shares = asked_shares | dict.fromkeys(sources, 0.0)
    parts, fitted, more = _divide(train, task, roles, shares, seed, goal)
    notes += more
    if encoder is None:
        inputs, more = _fit_inputs(*deciding_rows(parts["train"], roles.weights), roles, scaling)
        notes += more
        if isinstance(inputs, TableInputs) and isinstance(parts["train"], Frame):
            notes += leaks(parts["train"], inputs.numeric, inputs.texts, roles.targets, task)
        used = {*inputs.names, *roles.named}
        encoder = Encoder(
            inputs=inputs,
            target=fitted,
            target_name=", ".join(roles.targets),
            weights_name=roles.weights,
            ignored=tuple(name for name in train.names if name not in used),
            dialect=dialect,
            kinds=kinds,
        )
    divided = Divided({**parts, **sources}, encoder, tuple(notes))
    return divided.encoded(keep_sources=keep_sources) if encode is None else encode(divided)


def prepare_files(
    train: Files | None = None,
    *,
    query: str | None = None,
    task: Task,
    target: Target,
    folder: str | Path,
    validation: float | Files | Fold = 0.15,
    test: float | Files | Fold = 0.15,
    scaling: str | None = None,
    dialect: Dialect = DETECT,
    drop: Sequence[str | int] = (),
    weights: str | int | None = None,
    columns: Mapping[str, Kind] | None = None,
    missing_target: MissingTarget = "error",
    group: str | int | None = None,
    time: str | int | None = None,
    goal: Goal = PLAIN,
    seed: int = 0,
    encoder: Encoder | None = None,
    keep_sources: bool = False,
    cache: SourceCache | None = None,
    encode: Callable[[Divided], Prepared] | None = None,
) -> Prepared:
    """Read the files of a task and prepare their rows, as :func:`prepare` does.

    Parameters
    ----------
    train
        The file of the training rows, relative to ``folder``; also a pattern, or several files.
    query
        One SELECT over data files, in place of ``train``; their paths, too, start from ``folder``.
    task, target, scaling, drop, weights, columns, group, time, goal, seed, encoder, keep_sources, encode
        As of :func:`prepare`.
    folder
        Where relative paths start.
    validation, test
        A share of the rows of ``train`` (0: no such part), a fold of them, or other files.
    dialect
        How the training file is written, if it is text; what is found out holds for the other files, too.
    missing_target
        What becomes of rows without a target: ``error`` or ``drop``.
    cache
        Cache of sources that have been read, and keeps those that are read now.

    Raises
    ------
    MisfitError
        If ``train``, ``split.validation``, ``split.test``, ``query``, ``target``, ``weights``, ``drop``,
        ``split.group``, ``split.time`` or ``columns`` (these are the names it uses) do not fit the files.
    DataError
        If a file cannot be read or does not fit the task.
    """
    if (train is None) == (query is None):
        raise TypeError("pass either train or query")
    cache = SourceCache() if cache is None else cache
    folder, splits = Path(folder), {"validation": validation, "test": test}
    names = {part: value for part, value in splits.items() if not isinstance(value, int | float | Fold)}
    located = {} if train is None else {"train": train}
    problems = absent(folder, located | {f"split.{part}": name for part, name in names.items()})
    if any(is_of("train", setting) for setting, _ in problems):
        raise MisfitError(problems)
    dialect, texts = (dialect, _texts(task, target, columns)) if encoder is None else (encoder.dialect, encoder.texts)
    if train is not None:
        source = cache.read(all_files(train, folder), dialect, texts)
    else:
        assert query is not None
        try:
            source = cache.query(query, folder, dialect, texts)
        except DataError as error:
            raise MisfitError([*problems, ("query", error)]) from None
    if problems:
        try:
            Roles.find(source, target, weights, drop, columns or (), group, time)
        except MisfitError as error:
            problems += error.problems
        raise MisfitError(problems)
    dialect_of_training = source.dialect if isinstance(source, Frame) and source.dialect.separator else dialect
    files: dict[str, Any] = {
        part: cache.read(all_files(name, folder), dialect_of_training, texts) for part, name in names.items()
    }
    return prepare(
        source,
        task=task,
        target=target,
        **{**splits, **files},
        scaling=scaling,
        drop=drop,
        weights=weights,
        columns=columns,
        missing_target=missing_target,
        group=group,
        time=time,
        goal=goal,
        seed=seed,
        dialect=dialect,
        encoder=encoder,
        keep_sources=keep_sources,
        encode=encode,
    )


def _texts(task: Task, target: Target, columns: Mapping[str, Kind] | None) -> list[str]:
    """Return the columns that are known to be texts before a file is read: classes are kept as they are written."""
    targets = target if isinstance(target, tuple | list) else (target,)
    classes = [] if task == "regression" else [name for name in targets if isinstance(name, str)]
    return classes + [name for name, kind in (columns or {}).items() if kind.type != "number"]


def _whole_seed(seed: Any) -> int:
    """Return a seed as a number. Raises ConfigError where it is not a whole one of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0:
        raise ConfigError(f"seed is {seed!r:.80}", hint="give a whole number, at least 0")
    return int(seed)


def _require_known(name: str, value: Any, allowed: Sequence[str | None]) -> None:
    """Raise ConfigError for a value that is not one of those allowed."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r:.80}", hint=choices(value, [each for each in allowed if each]))


@phase("fit")
def _divide(
    source: Source, task: Task, roles: Roles, shares: Mapping[str, Any], seed: int, goal: Goal
) -> tuple[dict[str, Source], AnyTarget, list[Note]]:
    """Return the parts that are shares of ``source``, the target fitted, and notes on it."""
    fitted: AnyTarget
    notes: list[Note] = []
    targets, validation, test = roles.targets, shares["validation"], shares["test"]
    by_fold = isinstance(test, Fold) or isinstance(validation, Fold)
    groups = None if roles.group is None else _groups(source, roles.group)
    times = None if roles.time is None else _times(source, roles.time)
    draw = functools.partial(split, validation=validation, test=test, seed=seed, groups=groups, times=times)
    if task == "classification":
        # Names of classes give nothing away, so they may be taken from all rows.
        (target,) = targets
        labels = source.categories(target)
        fitted = ClassTarget.fit(labels, source.where, source.type_of(target))
        codes = fitted.encode(labels, source.where).astype(np.int64)
        rows = draw(len(codes), labels=codes)
        sizes = np.bincount(codes)
        weighed = rows_with_weight(source, roles.weights, rows.train)
        trained = np.bincount(codes[weighed], minlength=len(sizes))
        if np.count_nonzero(trained) == 1 and len(weighed) < len(rows.train):
            message = f"every training row with a weight is of the class {shown(fitted.classes[trained.argmax()])}"
            raise DataError(f"{message}; a classifier needs at least two", where=source.path)
        if absent_classes := [name for name, size in zip(fitted.classes, trained, strict=True) if not size]:
            message = f"classes without a training row: {listed(absent_classes, 5)}"
            notes.append(Note(message, target))
        single = [name for name, size in zip(fitted.classes, sizes, strict=True) if size == 1 and not by_fold]
        if single and (validation or test):
            message = f"classes with one row, which is in the training part: {listed(single, 5)}"
            notes.append(Note(message, target))
        if isinstance(source, Frame):
            notes += [Note(doubt, target) for doubt in fitted.doubts(source.dialect.missing)]
    elif task == "multilabel":
        cells = {target: source.categories(target) for target in targets}
        fitted = LabelTargets.fit(cells, source.where, [source.type_of(target) for target in targets])
        rows = draw(len(next(iter(cells.values()))))
        weighed = rows_with_weight(source, roles.weights, rows.train)
        notes += _about_labels(fitted, fitted.encode(list(cells.values()), source.where)[weighed])
    else:
        for target in targets:
            values = target_numbers(source, target)
            if isinstance(source, Frame) and (remark := source.grouped(target)):
                notes.append(Note(f"column {target!r} {remark}", target))
            if len(targets) > 1 and (lacking := int(np.isnan(values).sum())):
                message = f"{lacking:,} of {len(values):,} rows have no value and count for the other targets alone"
                notes.append(Note(f"target {target!r}: {message}", target))
        rows = draw(len(values))
    parts: dict[str, Source] = {"train": source}
    if validation or test:
        drawn = {part: each for part, each in rows._asdict().items() if len(each)}
        parts = dict(zip(drawn, in_threads(source.take, drawn.values()), strict=True))
    if task == "regression":
        counted, often = deciding_rows(parts["train"], roles.weights)
        counted = counted if often is None else counted.take(often)
        numbers = {name: counted.numbers(name) for name in targets}
        if len(targets) == 1 and not goal.levels:
            fitted = NumberTarget.fit(numbers[targets[0]], counted.where, goal)
        else:
            fitted = NumberTargets.fit(numbers, counted.where, goal)
    return parts, fitted, notes


def _about_labels(fitted: LabelTargets, train: NDArray[np.float32]) -> list[Note]:
    """Return notes on labels that are the same in all training rows, or missing in some."""
    notes = []
    for name, column, values in zip(fitted.names, fitted.columns, train.T, strict=True):
        there = values[~np.isnan(values)]
        if not len(there) or np.ptp(there) == 0:
            one = f"{column.classes[int(there[0])]} in every training row" if len(there) else "in no training row"
            notes.append(Note(f"label {name!r} is {one}, so nothing can be learned of it", name))
        elif lacking := len(values) - len(there):
            message = (
                f"{lacking:,} of {len(values):,} training rows have no value and count for the other labels alone"
            )
            notes.append(Note(f"label {name!r}: {message}", name))
    return notes


def _groups(source: Source, name: str) -> NDArray[np.int64]:
    """Return the group number of each row, (N,)."""
    cells = source.categories(name)
    if (without := (cells.texts == "")[cells.codes]).any():
        row = int(np.argmax(without))
        hint = "give each row a group, or leave such rows out by data.query"
        raise DataError(f"column {name!r} has no group in this row", where=source.where(row), hint=hint)
    return cells.codes.astype(np.int64)


def _times(source: Source, name: str) -> Floats:
    """Return a number for each row that grows with its time, (N,) float64."""
    values = source.try_numbers(name) if isinstance(source, Frame) else source.numbers(name)
    if values is None:
        cells = source.categories(name)
        seconds = np.array([_seconds(text) for text in cells.texts.tolist()])
        values = seconds[cells.codes]
    if (without := np.isnan(values)).any():
        row = int(np.argmax(without))
        hint = "times are numbers, or dates such as 2024-05-31 or 2024-05-31 12:30:00; data.query can convert others"
        raise DataError(f"column {name!r} has no time in this row", where=source.where(row), hint=hint)
    return values


def _seconds(text: str) -> float:
    """Return an ISO date or time as seconds, NaN for any other text. Without a zone it is taken as UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


@phase("fit")
def _fit_inputs(
    train: Source, often: NDArray[np.int64] | None, roles: Roles, scaling: str | None
) -> tuple[TableInputs | ArrayInputs, list[Note]]:
    """Return the input encoding fitted to the training rows, statistics to ``often``, and the notes on it."""
    if isinstance(train, Frame):
        unused = {*roles.named, *roles.dropped}
        names = [name for name in train.names if name not in unused]
        return TableInputs.fit(train, names, scaling=scaling or "robust", rows=often)
    name = train.choose_inputs(exclude={*roles.named, *roles.dropped})
    return ArrayInputs.fit(train, name, scaling=scaling, rows=often)

"""From files to arrays that can be trained on: reading, dividing, fitting, encoding."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.columns import ArrayInputs, News, TableInputs
from gpumlp.data.encoding.features import Features
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.scaling import SCALINGS
from gpumlp.data.encoding.targets import PLAIN, ClassTarget, Goal, NumberTarget, NumberTargets
from gpumlp.data.leaks import leaks
from gpumlp.data.roles import MisfitError, Roles, Target, absent, is_of
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
from gpumlp.data.state import StateReader, prefixed
from gpumlp.errors import ConfigError, DataError, Note, choices, listed, shown
from gpumlp.limits import in_threads
from gpumlp.phases import phase

Task = Literal["classification", "regression", "multilabel"]
MissingTarget = Literal["error", "drop"]
Targets = NDArray[np.int32 | np.float32]
AnyTarget = ClassTarget | NumberTarget | NumberTargets | LabelTargets

_FORMAT = 1

MAX_COPIES = 16
"""Largest mean weight of rows that are counted as often as their weights say."""

STATISTIC_ROWS = 200_000
"""Rows that statistics of numbers are computed from where weights are no multiples of each other, copies included."""

MIN_COPIES = 2
"""Copies of a row of mean weight in such statistics, at least."""


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


@dataclass(frozen=True, eq=False)
class Encoder:
    """All that was learnt from the training file about how to turn a file into arrays, and back.

    Parameters
    ----------
    inputs, target
        Fitted to the training rows.
    target_name, weights_name
        Name of the column, or the array; None for no weights; several targets as one text.
    ignored
        Columns that may be there and are not used.
    dialect
        How the training file was written, by which others are to be read: ``read(path, encoder.dialect)``.
    kinds
        What columns are, where the user said so.
    """

    inputs: TableInputs | ArrayInputs
    target: AnyTarget
    target_name: str
    weights_name: str | None
    ignored: tuple[str, ...]
    dialect: Dialect
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What the target is: classes, numbers, or labels of which several may be true."""
        if isinstance(self.target, LabelTargets):
            return "multilabel"
        return "classification" if isinstance(self.target, ClassTarget) else "regression"

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the network's inputs."""
        return self.inputs.features

    @property
    def width(self) -> int:
        """The number of the network's inputs, p."""
        return self.inputs.width

    @property
    def numbers(self) -> int:
        """How many of these are numbers, not flags or categories: the first ones."""
        return self.inputs.numbers

    @property
    def flagged(self) -> tuple[int, ...]:
        """Which numbers, counted from 0, have a flag of missing values: those behind the numbers, in this order."""
        block = self.inputs.block
        return () if block is None else tuple(block.flagged.tolist())

    @property
    def category_values(self) -> tuple[int, ...]:
        """How many of these each column of categories has: the last ones."""
        return self.inputs.category_values

    @property
    def columns_of_features(self) -> tuple[int, ...]:
        """The column of the table that each input is of, (p,), counted from 0 in the order of first inputs."""
        return self.inputs.columns_of_features

    @property
    def row_bytes(self) -> int:
        """The bytes that a row takes once it is encoded."""
        targets = 4 * (1 if self.classes else self.outputs)
        return self.inputs.row_bytes + targets + 4 * (self.weights_name is not None)

    @property
    def input_scale(self) -> float:
        """What the encoded inputs are to be multiplied by: 1/255 for bytes, else 1."""
        return self.inputs.input_scale

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes; of two, the second is the positive one. None for numbers and for labels."""
        return self.target.classes if isinstance(self.target, ClassTarget) else None

    @property
    def class_values(self) -> NDArray[Any] | None:
        """The classes in the type of the target, (C,); None for numbers and for labels."""
        return self.target.values if isinstance(self.target, ClassTarget) else None

    @property
    def labels(self) -> LabelTargets | None:
        """The labels, of which several may be true of a row, each with its two classes; None for other tasks."""
        return self.target if isinstance(self.target, LabelTargets) else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of a file that are texts, even where all their cells are numbers."""
        inputs = self.inputs.texts if isinstance(self.inputs, TableInputs) else ()
        return inputs if self.task == "regression" else (*inputs, *self.target_names)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the targets, at least one."""
        return self.target.names if isinstance(self.target, NumberTargets | LabelTargets) else (self.target_name,)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the quantiles that are predicted of each target; () for none."""
        return self.target.levels if isinstance(self.target, NumberTargets) else ()

    @property
    def outputs(self) -> int:
        """The number of the network's outputs: 1 for two classes, else one for each class, number or label."""
        return self.target.outputs

    def restore(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return network outputs, (N, outputs), in units of the target, (N,), of T targets (N, T), float64.

        Raises
        ------
        TypeError
            If the task is not regression.
        """
        return self._numbers().restore(outputs)

    def decode(self, targets: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return encoded targets, (N, outputs), in units of the target, (N,), of T targets (N, T), float64.

        Raises
        ------
        TypeError
            If the task is not regression.
        """
        return self._numbers().decode(targets)

    def quantiles(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the quantiles that network outputs, (N, outputs), are of T targets, (N, T, levels), rising.

        Raises
        ------
        TypeError
            If there are no levels.
        """
        if not isinstance(self.target, NumberTargets) or not self.target.levels:
            raise TypeError("this model predicts no quantiles: they need the loss quantile")
        return self.target.quantiles(outputs)

    def _numbers(self) -> NumberTarget | NumberTargets:
        if isinstance(self.target, ClassTarget | LabelTargets):
            raise TypeError("only a regression has a target with a scale")
        return self.target

    @phase("encode")
    def encode(
        self, source: Any, *, targets: bool, news: News | None = None, unseen: bool = False
    ) -> tuple[Dataset, list[Note]]:
        """Encode a source of the same columns as the training file.

        The markers of missing values are those of the training, whichever the source was read with.

        Parameters
        ----------
        source
            What ``read`` returned, or anything that ``rows_of`` takes.
        targets
            Whether the target and the weights are wanted, and so must be there.
        news
            News of the blocks of a source before this one, which the notes are on, too.
        unseen
            Whether classes that training has not seen are class -1, with a note; else they are an error.

        Returns
        -------
        The dataset, and notes: plain sentences on what a user should know about this source.

        Raises
        ------
        DataError
            If the source does not fit.
        """
        source = self._as_in_training(source)
        news = News() if news is None else news
        inputs = self._encode_inputs(source, news)
        if not targets:
            return Dataset(inputs, None, None), news.notes()
        encoded, weights = self.encode_targets(source, news, unseen=unseen)
        for name, values in ((self.target_name, encoded), (self.weights_name, weights)):
            if values is not None and len(values) != len(inputs):
                message = f"array {name!r} has {len(values)} rows, but the inputs have {len(inputs)}"
                raise DataError(message, where=source.path)
        return Dataset(inputs, encoded, weights), news.notes()

    def encode_targets(
        self, source: Any, news: News, *, unseen: bool = False
    ) -> tuple[Targets, NDArray[np.float32] | None]:
        """Return the targets of a source as ``encode`` does, and its weights where there are any.

        Weights count by the largest of them, so they are encoded all at once, where inputs may come in blocks.
        """
        source = self._as_in_training(source)
        encoded = self._encode_target(source, news, unseen)
        return encoded, _weights(source, self.weights_name) if self.weights_name else None

    def count(self, source: Source) -> int:
        """Return how many rows a source has."""
        if isinstance(source, Frame):
            return len(source)
        return source.count(source.choose_inputs(preferred=self.inputs.names[0], exclude=self.others))

    @property
    def others(self) -> set[str]:
        """The names of what is not an input."""
        return {*self.target_names, *self.ignored, *([self.weights_name] if self.weights_name else [])}

    def _encode_inputs(self, source: Source, news: News) -> Features:
        others = self.others
        if self.dialect.header is False:
            self._require_places(source, {*self.inputs.names, *others})
        if isinstance(source, Frame):
            news.source = tuple(dict.fromkeys((*news.source, *source.notes)))
        inputs, _ = self.inputs.encode(source, others=others, news=news)
        return inputs

    def labelled(self, source: Any, news: News) -> Source | None:
        """Return the rows of a source that have a target, None where none has; ``news`` counts the others."""
        source = self._as_in_training(source)
        lacking = _lacking_target(source, self.task, self.target_names)
        news.rows += len(lacking)
        news.unlabelled += int(lacking.sum())
        if lacking.all():
            return None
        rows: Source = source.take(np.flatnonzero(~lacking)) if lacking.any() else source
        return rows

    def _as_in_training(self, source: Any) -> Source:
        rows: Source = rows_of(source)
        return rows.with_missing(self.dialect.missing).with_kinds(self.kinds) if isinstance(rows, Frame) else rows

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the fields (fit for JSON) and the arrays that ``from_state`` takes back."""
        fields, arrays = self.inputs.to_state()
        kinds = [{"name": name, **kind.to_state()} for name, kind in self.kinds.items()]
        described = {"columns": kinds} if kinds else {}
        return {
            "format": _FORMAT,
            "task": self.task,
            "source": "table" if isinstance(self.inputs, TableInputs) else "array",
            "inputs": fields,
            "target": {"name": self.target_name, **self.target.to_state()},
            "weights": self.weights_name,
            "ignored": list(self.ignored),
            "dialect": self.dialect.to_state(),
            **described,
        }, prefixed("inputs", arrays)

    @classmethod
    def from_state(cls, fields: object, arrays: dict[str, NDArray[Any]]) -> Encoder:
        """Restore an encoder exactly. Nothing in the state is trusted.

        Raises
        ------
        RunError
            If the state is damaged, or of another version.
        """
        state = StateReader(fields, arrays)
        state.count("format", largest=_FORMAT)
        task = state.text("task", allowed=get_args(Task))
        kind = state.text("source", allowed=("table", "array"))
        target = state.section("target")
        of_task: dict[str, Any] = {
            "classification": ClassTarget,
            "regression": NumberTargets if target.has("columns") else NumberTarget,
            "multilabel": LabelTargets,
        }
        inputs = state.section("inputs")
        described = state.sections("columns") if state.has("columns") else []
        return cls(
            inputs=(TableInputs if kind == "table" else ArrayInputs).from_state(inputs),
            target=of_task[task].from_state(target),
            target_name=target.text("name"),
            weights_name=state.optional_text("weights"),
            ignored=state.texts("ignored"),
            dialect=Dialect.from_state(state.section("dialect")),
            kinds={each.text("name"): Kind.from_state(each) for each in described},
        )

    def _require_places(self, source: Source, known: set[str]) -> None:
        """Check columns that are called by their places: where one before the last is left out, the others move up.

        Columns may be missing at the end only. As one that predicts leaves out the target, more than anything else,
        they count as missing there if the target does.
        """
        missing = known.difference(source.names)
        if missing and missing.isdisjoint(self.target_names):
            message = f"of {len(known)} columns without names, as in training, only {len(source.names)} are here"
            hint = (
                "keep each at its position (the target's may be empty): without names it is unclear which are missing"
            )
            raise DataError(message, where=source.path, hint=hint)

    def _encode_target(self, source: Source, news: News, unseen: bool) -> Targets:
        if isinstance(self.target, NumberTargets):
            values = [source.numbers(source.resolve(name)) for name in self.target.names]
            return self.target.encode(values, source.where)
        if isinstance(self.target, LabelTargets):
            cells = [source.categories(source.resolve(name)) for name in self.target.names]
            return self.target.encode(cells, source.where)
        name = source.resolve(self.target_name)
        if isinstance(self.target, ClassTarget):
            labels = source.categories(name)
            codes = self.target.encode(labels, source.where, unseen=unseen)
            if (new := np.flatnonzero(codes < 0)).size:
                count, example = news.unseen
                news.unseen = count + len(new), example or str(labels.texts[labels.codes[new[0]]])
            return codes
        return self.target.encode(source.numbers(name), source.where)


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
        inputs, more = _fit_inputs(*_counted(parts["train"], roles.weights), roles, scaling)
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


def with_target(source: Source, task: Task, targets: Sequence[str]) -> tuple[Source, list[Note]]:
    """Return the rows that have a target, or one of several, and a note on the others."""
    missing = _lacking_target(source, task, targets)
    if not missing.any():
        return source, []
    if missing.all():
        raise DataError("no row has a target", where=source.path, hint="check the name of the target")
    count = int(missing.sum())
    message = f"{count:,} of {len(missing):,} rows have no target and are left out (data.missing_target)"
    return source.take(np.flatnonzero(~missing)), [Note(message, ", ".join(targets))]


def _lacking_target(source: Source, task: Task, targets: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows have no target, or none of several, (N,)."""
    lacking = []
    for target in targets:
        if task != "regression":
            labels = source.categories(source.resolve(target))
            lacking.append((labels.texts == "")[labels.codes])
        else:
            lacking.append(np.isnan(_numbers(source, source.resolve(target))))
    lacking_all: NDArray[np.bool_] = np.logical_and.reduce(lacking)
    return lacking_all


def _counted(source: Source, weights: str | None) -> tuple[Source, NDArray[np.int64] | None]:
    """Return the rows that decide about the encoding, and which of them statistics of numbers take, if not each once.

    A row of weight 3 is the same as three rows, and one of weight 0 as none, where all weights are whole numbers, or
    whole multiples of the smallest. Otherwise all rows with a weight decide, and statistics take each as often as is
    nearest to its share.
    """
    if weights is None:
        return source, None
    _weights(source, weights)
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


def _with_weight(source: Source, weights: str | None, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the rows whose weight is not 0, which decide nothing."""
    if weights is None:
        return rows
    _weights(source, weights)
    return rows[source.numbers(source.resolve(weights))[rows] > 0]


def _numbers(source: Source, target: str) -> Floats:
    """Return a target of numbers."""
    try:
        return source.numbers(target)
    except DataError as error:  # the usual way out, to drop the column, is none for a target
        hint = "correct the value; if the target names classes, set the task to classification"
        remedy = source.remedy(target) if isinstance(source, Frame) else None
        raise DataError(error.what, where=error.where, hint=remedy or hint) from None


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
        weighed = _with_weight(source, roles.weights, rows.train)
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
        weighed = _with_weight(source, roles.weights, rows.train)
        notes += _about_labels(fitted, fitted.encode(list(cells.values()), source.where)[weighed])
    else:
        for target in targets:
            values = _numbers(source, target)
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
        counted, often = _counted(parts["train"], roles.weights)
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


def _weights(source: Source, name: str) -> NDArray[np.float32]:
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

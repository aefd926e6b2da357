"""The encoder: what the training rows say about how rows become arrays, and outputs become answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.dataset import Dataset, Targets
from gpumlp.data.encoding.columns import ArrayInputs, News, TableInputs
from gpumlp.data.encoding.features import Features
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.targets import ClassTarget, NumberTarget, NumberTargets
from gpumlp.data.roles import Task
from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.kinds import Kind
from gpumlp.data.source.read import Source
from gpumlp.data.source.rows import rows_of
from gpumlp.data.state import StateReader, prefixed
from gpumlp.data.unlabelled import lacking_target
from gpumlp.data.weights import weights_of
from gpumlp.errors import DataError, Note
from gpumlp.phases import phase

AnyTarget = ClassTarget | NumberTarget | NumberTargets | LabelTargets

_FORMAT = 1


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
        return encoded, weights_of(source, self.weights_name) if self.weights_name else None

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
        lacking = lacking_target(source, self.task, self.target_names)
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

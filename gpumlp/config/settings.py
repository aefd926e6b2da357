"""The settings of a run, in the order of the file: what each means, its unit, its range and its default."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_serializer, model_validator

from gpumlp.backend import BACKENDS
from gpumlp.config.presets import PLAIN, PRESETS, over_preset
from gpumlp.config.section import Choice, NameIn, OneOf, Problem, Section, Variant, refuse, section_of_count
from gpumlp.config.yaml_text import KeyPath
from gpumlp.data import (
    DECIMALS,
    FLOAT32_MAX,
    FLOAT32_TINY,
    QUOTES,
    SCALINGS,
    TRANSFORMS,
    USUAL_MISSING,
    Dialect,
    Fold,
    Goal,
    Kind,
    MisfitProblems,
    Missing,
    Packs,
    is_encoding,
    is_separator,
    misfits,
)
from gpumlp.data.dataset import Task
from gpumlp.data.source.room import Room, reading_into
from gpumlp.errors import choices
from gpumlp.limits import cache_folder, host_memory
from gpumlp.metrics import METRICS
from gpumlp.nn import INITIALIZERS, LOSSES, MAX_UNITS, NO_NORM, NORMS, PARAMETRIZATIONS, STANDARD
from gpumlp.nn.inputs import EMBEDDINGS, MAX_BINS
from gpumlp.nn.members import MEANS, SHARES
from gpumlp.nn.mlp import ALONE, MAX_MEMBERS, NO_EMBEDDING
from gpumlp.ops import ACTIVATIONS, Hyper
from gpumlp.ops.losses import Loss as LossRecord
from gpumlp.ops.precision import BFLOAT16, PRECISIONS
from gpumlp.ops.trees import is_power_of_two
from gpumlp.optim import FACTORS, OPTIMIZERS, SCHEDULES
from gpumlp.seeds import member_seed

VERSION = 1
"""Of the settings: one more when what a file says would no longer mean the same."""

FactorSchedule = Annotated[str, NameIn(FACTORS)]
Norm = Annotated[str, NameIn(NORMS, (NO_NORM,))]
Text = Annotated[str, Field(min_length=1)]
Column = Text | int
Share = Annotated[float, Field(ge=0, lt=1)]
Activation = Annotated[str, NameIn(ACTIVATIONS)]
# Strict tuples refuse lists, and YAML has no tuples; what is inside stays strict.
Targets = Annotated[tuple[Column, ...], Field(strict=False, min_length=1)]
Columns = Annotated[tuple[Column, ...], Field(strict=False)]
Files = Text | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Markers = Annotated[tuple[str, ...], Field(strict=False)]


def _separator(given: str) -> str:
    if not is_separator(given):
        what = f"got {given!r}, needs one character other than a letter, digit, quote or line break"
        refuse("Data", [Problem((), what, r"such as ',' or ';'; a tab is written as \"\t\"")])
    return given


def _encoding(given: str) -> str:
    if not is_encoding(given):
        hint = f"{choices(given, COMMON_ENCODINGS)}, or any other Python encoding"
        refuse("Data", [Problem((), f"unknown encoding {given!r}", hint)])
    return given


COMMON_ENCODINGS = (
    "utf-8",
    "utf-16",
    "latin-1",
    "cp1252",
    "cp1250",
    "iso8859-15",
    "mac_roman",
    "shift_jis",
    "gb18030",
)
Separator = Annotated[Text, AfterValidator(_separator), Field(json_schema_extra={"maxLength": 1})]
Encoding = Annotated[Text, AfterValidator(_encoding)]


class FoldSettings(Section):
    """Rows that are one of several folds of about the same size: gpumlp cv tests on each in turn."""

    fold: int = Field(default=1, ge=1, description="number of the fold that holds these rows, counted from 1")
    of: int = Field(default=5, ge=2, description="number of folds")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.fold > self.of:
            what = f"there is no fold {self.fold} of {self.of}"
            refuse("Fold", [Problem(("fold",), what, "folds are counted from 1")])
        return self


def _rows_of(given: float | tuple[str, ...] | str | FoldSettings) -> float | tuple[str, ...] | str | Fold:
    return Fold(given.fold, given.of) if isinstance(given, FoldSettings) else given


MEMORY_SHARE = 0.8
"""Of the memory of the machine that rows take, unless the settings say otherwise."""


class Split(Section):
    """Rows held out for validation and test: a share of the rows of data.train, or separate files."""

    validation: Share | Files | FoldSettings = Field(
        default=0.15,
        description="share or files of rows for early stopping and choosing the best epoch; 0: none; or one of "
        "several folds of the rows that are not test rows, as {fold: 1, of: 5}",
    )
    test: Share | Files | FoldSettings = Field(
        default=0.15,
        description="share or files of rows for the final metrics; 0: none; or one of several folds, as "
        "{fold: 1, of: 5}: the share for validation is then of the other rows",
    )
    group: Column | None = Field(
        default=None,
        description="column whose equal values keep rows in the same part, such as a patient; it is not an input; "
        "null: rows are drawn one by one",
    )
    time: Column | None = Field(
        default=None,
        description="column of numbers or ISO dates: the last rows are the test rows, those before them for "
        "validation; a fold is trained on the rows before it; null: rows are drawn at random",
    )

    @property
    def validated(self) -> float | Files | Fold:
        """Where the validation rows are from."""
        return _rows_of(self.validation)

    @property
    def tested(self) -> float | Files | Fold:
        """Where the test rows are from."""
        return _rows_of(self.test)

    @model_validator(mode="after")
    def _divide_in_one_way(self) -> Self:
        if self.group is not None and self.time is not None:
            what = "rows are divided by group or by time, not by both"
            refuse("Split", [Problem(("time",), what, "remove data.split.group or data.split.time")])
        return self

    @model_validator(mode="after")
    def _leave_training_rows(self) -> Self:
        shares = [part for part in (self.validation, self.test) if isinstance(part, float)]
        if sum(shares) >= 1:
            what = f"validation and test take {sum(shares):g} of all rows, so no rows are left for training"
            refuse("Split", [Problem(("test",), what, "the shares must add up to less than 1")])
        return self


TRAIN = (
    "training file: csv, tsv, txt, data, arff, jsonl, idx (each also as .gz), parquet or npz; several files as a "
    "list or a pattern such as part-*.csv"
)


def _one_source(train: tuple[str, ...] | str | None, info: ValidationInfo) -> tuple[str, ...] | str | None:
    """Check that there is a file of rows or a query, which is validated before, but not both."""
    if "query" in info.data and (train is None) == (info.data["query"] is None):
        if train is None:
            refuse("Data", [Problem((), "required, but missing", TRAIN)])
        refuse("Data", [Problem((), "data.query is set too", "remove data.train or data.query")])
    return train


class ColumnSettings(Section):
    """The type of a column, and the format of its numbers."""

    type: Literal["category", "number", "date"] = Field(
        description="category (even if all texts are numbers or dates), number or date"
    )
    thousands: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        default=None, description="thousands separator of the numbers; null: none"
    )
    unit: Text | None = Field(
        default=None, description="unit before or after each number, such as $ or %; null: none"
    )

    @model_validator(mode="after")
    def _describe_numbers(self) -> Self:
        if self.type != "number" and (self.thousands or self.unit):
            key = "thousands" if self.thousands else "unit"
            what = f"{'dates' if self.type == 'date' else 'categories'} have no number format"
            refuse("Column", [Problem((key,), what, f"set type: number, or remove {key}")])
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        own = {key: value for key, value in self if value is not None}
        return self.type if len(own) == 1 else own


def kind_of_column(given: object) -> object:
    """Let a bare type stand for a description."""
    return {"type": given} if isinstance(given, str) else given


class PackSettings(Section):
    """How rows that take more memory than they may are kept on disk, in blocks that training reads by windows."""

    folder: Text | None = Field(
        default=None,
        description="folder of packed rows, relative to the configuration file; null: packs in the cache of gpumlp",
    )
    max_size: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="GB that packed rows may take on disk; those used longest ago are deleted; null: what there is",
    )
    window: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="rows that are shuffled among each other at a time; if it is set, rows are packed in any case; "
        "null: they are packed if they take more than half of data.max_memory, and 524,288 are shuffled, or as many "
        "as an eighth of it holds",
    )


class Data(Section):
    """Where the rows come from and how they are prepared."""

    folder: Text | None = Field(
        default=None,
        description="base folder of relative paths in train and split, relative to the configuration file "
        "(as --set: to the working folder); null: the folder of the configuration file",
    )
    query: Text | None = Field(
        default=None,
        description="one SQL SELECT over data files, instead of train: select * from 'part-*.parquet'",
    )
    train: Annotated[Files | None, AfterValidator(_one_source)] = Field(default=None, description=TRAIN)
    target: Column | Targets = Field(
        description="column to predict, by name or index, or the name of an array; a list of several in regression "
        "and multilabel, in which values may be missing"
    )
    target_transform: Annotated[str, NameIn(TRANSFORMS)] = Field(
        default="none",
        description="what the network learns in place of a number, undone in predictions and metrics: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in TRANSFORMS.items()),
    )
    split: Split = Field(default=Split(), description="shares or files of rows for validation and test")
    scaling: Annotated[str, NameIn(SCALINGS)] | None = Field(
        default=None,
        description="scaling of numeric columns, fitted on the training rows; null: chosen from the data",
    )
    separator: Separator | None = Field(
        default=None,
        description="field separator of text files; a space matches any number of spaces; null: detected",
    )
    quote: Annotated[str, NameIn(QUOTES)] | None = Field(
        default=None, description="quote character around cells of text files; null: detected"
    )
    header: bool | None = Field(
        default=None,
        description="whether the first line of text files holds the column names (otherwise column_0, column_1, "
        "...); null: detected",
    )
    encoding: Encoding | None = Field(
        default=None, description="character encoding of text files, such as utf-8 or latin-1; null: detected"
    )
    decimal: Annotated[str, NameIn(dict.fromkeys(DECIMALS))] | None = Field(
        default=None, description="decimal separator of numbers in text files; null: detected"
    )
    missing: Markers | None = Field(
        default=None,
        description="cells treated as missing (empty cells always are); null: the defaults, "
        + " ".join(sorted(USUAL_MISSING.anywhere - {""}))
        + ", and in numeric columns "
        + " ".join(sorted(USUAL_MISSING.among_numbers)),
    )
    columns: dict[
        Text, Annotated[ColumnSettings, BeforeValidator(kind_of_column, json_schema_input_type=str | ColumnSettings)]
    ] = Field(
        default={},
        description="types of columns, by name, instead of those detected: category, number, date, or "
        "{type: number, thousands: ',', unit: $}",
    )
    missing_target: Literal["error", "drop"] = Field(
        default="error",
        description="rows without a target: error refuses them, drop leaves them out, with a note",
    )
    drop: Columns = Field(default=(), description="columns to ignore, by name or index")
    weights: Column | None = Field(
        default=None, description="column of row weights, each at least 0; null: all rows count the same"
    )

    max_memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="GB of memory that rows may take: half of it as they are read, half as they are encoded; what is "
        "beyond is kept on disk; null: 80 % of what this machine has",
    )
    pack: PackSettings = Field(default=PackSettings(), description="how rows are kept on disk")

    @property
    def memory(self) -> int | None:
        """Bytes of memory that rows may take; None where nobody knows what there is."""
        if self.max_memory is not None:
            return int(self.max_memory * 1e9)
        there_is = host_memory()
        return None if there_is is None else int(MEMORY_SHARE * there_is)

    @property
    def packs(self) -> Packs:
        """The folder of packed rows."""
        pack, memory = self.pack, self.memory
        folder = Path(cache_folder() or tempfile.gettempdir()) / "packs" if pack.folder is None else Path(pack.folder)
        limit = None if pack.max_size is None else int(pack.max_size * 1e9)
        return Packs(folder, limit, *(() if memory is None else (memory // 4,)))

    @property
    def room(self) -> Room:
        """Room for rows as they are read: half of their memory, then the folder of packed rows."""
        return Room() if self.memory is None else Room(self.packs.folder, self.memory // 2)

    @property
    def dialect(self) -> Dialect:
        """How the files of text are written, as far as the settings say."""
        return Dialect(
            separator=self.separator,
            quote=self.quote,
            header=self.header,
            encoding=self.encoding,
            decimal=self.decimal,
            missing=USUAL_MISSING if self.missing is None else Missing(frozenset(self.missing)),
        )

    @property
    def kinds(self) -> dict[str, Kind]:
        """What columns are, as far as the settings say."""
        return {name: Kind(each.type, each.thousands, each.unit) for name, each in self.columns.items()}

    @property
    def title(self) -> str:
        """What to call the rows in messages."""
        if self.train is None:
            return "query"
        return self.train if isinstance(self.train, str) else ", ".join(self.train)

    def misfits(self, start: Path) -> MisfitProblems:
        """Return the settings that name a file or a column that is not there; ``start`` is where folder starts."""
        parts = {"split.validation": self.split.validation, "split.test": self.split.test}
        with reading_into(self.room):
            found = misfits(
                start / os.path.expanduser(self.folder or ""),
                ({} if self.train is None else {"train": self.train})
                | {name: part for name, part in parts.items() if isinstance(part, str | tuple)},
                target=self.target,
                weights=self.weights,
                drop=self.drop,
                columns=self.columns,
                group=self.split.group,
                time=self.split.time,
                dialect=self.dialect,
                query=self.query,
            )
        return [(f"data.{setting}", error) for setting, error in found]

    @model_validator(mode="after")
    def _tell_decimals_from_cells(self) -> Self:
        if self.decimal is not None and self.decimal == self.separator:
            hint = "choose another separator, or remove both settings to have them detected"
            refuse("Data", [Problem(("decimal",), f"{self.decimal!r} is the separator too", hint)])
        return self


def block_of_width(given: object) -> object:
    """Let a bare width stand for a block."""
    return {"units": given} if isinstance(given, int) else given


Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Block(Section):
    """One hidden layer: linear, norm, activation, dropout. Settings left out are those of the model."""

    units: Units = Field(description="number of units")
    activation: Activation | None = Field(default=None, description="activation of this layer; null: the model's")
    dropout: Dropout | None = Field(default=None, description="dropout rate of this layer; null: the model's")
    norm: Norm | None = Field(default=None, description="normalization of this layer; null: the model's")

    @model_serializer
    def _short(self) -> int | dict[str, Any]:
        own = {key: value for key, value in self if value is not None}
        return self.units if len(own) == 1 else own


NUMBER_SETTINGS = {
    "size": tuple(EMBEDDINGS),
    "missing": tuple(EMBEDDINGS),
    "waves": ("pbld",),
    "frequency": ("pbld",),
    "bins": ("ple",),
}
"""The embeddings that a setting belongs to, by its name."""


class Numbers(Section):
    """How columns of numbers enter the network."""

    embedding: Annotated[str, NameIn(EMBEDDINGS, (NO_EMBEDDING,))] = Field(
        default=NO_EMBEDDING,
        description="what each number becomes: none (itself); "
        + "; ".join(f"{name} ({each.meaning})" for name, each in EMBEDDINGS.items()),
    )
    size: int | None = Field(
        default=None,
        ge=1,
        le=MAX_UNITS,
        description="values made of each number; null: "
        + ", ".join(f"{each.default_size} with {name}" for name, each in EMBEDDINGS.items()),
    )
    waves: int = Field(default=16, ge=1, le=MAX_UNITS, description="frequencies of each number (pbld)")
    frequency: float = Field(default=0.1, gt=0, description="standard deviation of the first frequencies (pbld)")
    bins: int = Field(
        default=48,
        ge=1,
        le=MAX_BINS,
        description="most bins of each number, between quantiles of training rows (ple)",
    )

    missing: Literal["flag", "vector"] = Field(
        default="flag",
        description="a value that is missing in a column where training rows have such: flag (the median, and a "
        "column of 0 or 1 beside the numbers) or vector (a trained vector in place of what is made of the number)",
    )

    @model_validator(mode="after")
    def _suit_the_embedding(self) -> Self:
        fields = type(self).model_fields
        changed = [name for name in sorted(self.model_fields_set) if getattr(self, name) != fields[name].default]
        problems = []
        for name in changed:
            users = NUMBER_SETTINGS.get(name, (self.embedding,))
            if self.embedding not in users:
                what = f"{name} is a setting of {' and '.join(users)}, and the embedding is {self.embedding}"
                problems.append(Problem((name,), what, f"remove it, or set embedding: {users[0]}"))
        refuse("Numbers", problems)
        return self


def numbers_by(given: object) -> object:
    """Return a name of an embedding as the section that it is short for."""
    return {"embedding": given} if isinstance(given, str) else given


class Categories(Section):
    """How columns of categories enter the network."""

    table_above: int | None = Field(
        default=None,
        ge=1,
        le=MAX_UNITS,
        description="categories of more values than this have a trained vector for each value, in place of a column "
        "of 0 or 1 (recipes say 8); null: columns for all",
    )
    size: int = Field(default=8, ge=1, le=MAX_UNITS, description="length of these vectors")
    scaled: bool = Field(
        default=False,
        description="scale columns of 0 and 1 as data.scaling robust does numbers, so that rare values weigh more; "
        "not those of values with vectors",
    )


class Model(Section):
    """The network: hidden layers, then an output layer whose width follows from the data."""

    hidden: Annotated[
        tuple[Annotated[Block, BeforeValidator(block_of_width, json_schema_input_type=Units | Block)], ...],
        Field(strict=False),
    ] = Field(
        default=(Block(units=64), Block(units=64)),
        description="hidden layers, first to last: a number of units, or a mapping of settings",
    )
    activation: Activation = Field(default="relu", description="activation of every hidden layer")
    dropout: Dropout = Field(default=0.0, description="dropout rate of the hidden layers")
    dropout_schedule: FactorSchedule = Field(
        default="constant", description="schedule that multiplies the dropout rates, step by step"
    )
    norm: Norm = Field(default=NO_NORM, description="normalization before each activation: layer or batch norm")
    initializer: Annotated[str, NameIn(INITIALIZERS, ("auto",))] = Field(
        default="auto",
        description="initializer of the weights; auto: chosen by the activation; data: fitted to training rows "
        "(each unit varies by 1 on them, and its bias puts 0 among them)",
    )
    parametrization: Annotated[str, NameIn(PARAMETRIZATIONS)] = Field(
        default=STANDARD,
        description="factors of the learning rate in each linear layer: "
        + "; ".join(f"{name} ({each.meaning})" for name, each in PARAMETRIZATIONS.items()),
    )
    input_factors: bool = Field(
        default=False,
        description="multiply each input by a trained factor, at 6 times the learning rate and the decay of weights",
    )
    trained_activation: bool = Field(
        default=False,
        description="mix each activation with the identity, z + a (f(z) - z), by a trained share a for each unit",
    )
    residual: bool = Field(
        default=False,
        description="add the input of a hidden layer to its output, where it is as wide as the one before",
    )
    clamp: bool = Field(
        default=False,
        description="in regression, keep predictions between the smallest and the largest training target",
    )
    numbers: Annotated[Numbers, BeforeValidator(numbers_by, json_schema_input_type=str | Numbers)] = Field(
        default=Numbers(), description="embedding of columns of numbers, by name or as a mapping of settings"
    )
    categories: Categories = Field(default=Categories(), description="how columns of categories enter the network")
    start_from: Text | None = Field(
        default=None,
        description="folder of a run with the same layers and columns: training starts from its best weights, with "
        "its encoding of the data (scaling, categories, classes), and with a new schedule; relative to the "
        "configuration file (as --set: to the working folder); null: new weights",
    )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The hidden layers with every setting filled in."""
        shared = {"activation": self.activation, "dropout": self.dropout, "norm": self.norm}
        return tuple(
            block.model_copy(update={k: v for k, v in shared.items() if getattr(block, k) is None})
            for block in self.hidden
        )


class LossSettings(Choice):
    """The loss that training minimizes."""

    table = LOSSES


class ClassificationLoss(LossSettings):
    """The loss that training minimizes, with class weights."""

    # Above, a batch could weigh more than a 32-bit float can hold, and would have no gradient.
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e27)]] | None = Field(
        default=None,
        description="class weights: balanced (inverse to class frequencies), or a mapping from class to weight; "
        "null: every class has weight 1",
    )


DEFAULT_LOSSES = {
    "classification": "cross_entropy",
    "regression": "squared_error",
    "multilabel": "binary_cross_entropy",
}
"""The losses that auto stands for, by the task."""


def _rising(levels: tuple[float, ...]) -> tuple[float, ...]:
    if list(levels) != sorted(set(levels)):
        refuse("Loss", [Problem((), f"got {list(levels)}, needs levels that rise", "such as [0.1, 0.5, 0.9]")])
    return levels


Level = Annotated[float, Field(gt=0, lt=1)]


class QuantileLoss(LossSettings):
    """The loss that training minimizes, with the levels of the quantiles."""

    levels: Annotated[tuple[Level, ...], Field(strict=False, min_length=1), AfterValidator(_rising)] = Field(
        default=(0.1, 0.5, 0.9),
        description="quantiles to predict of each target, rising; the one nearest to 0.5 is the prediction",
    )


AVERAGING = 0.999
"""Default decay of the moving average of the parameters."""


class OptimizerSettings(Choice):
    """The optimizer, and what it does to gradients and weights."""

    table = OPTIMIZERS
    learning_rate: float
    weight_decay: float
    decay_schedule: FactorSchedule = Field(
        default="constant", description="schedule that multiplies the weight decay, step by step"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="largest norm of the whole gradient; longer gradients are scaled down to it; null: no clipping",
    )
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=AVERAGING,
        description="decay of the moving average of the parameters, validated and kept, per step: over about "
        "1 / (1 - averaging) steps (0.97: 33, 0.999: 1,000); null: no averaging",
    )


class ScheduleSettings(Choice):
    """The learning rate schedule."""

    table = SCHEDULES
    warmup: Share = Field(default=0.0, description="share of all steps over which the learning rate rises from 0")


def _losses() -> dict[str, Variant]:
    bases: dict[str, type[LossSettings]] = {"classification": ClassificationLoss}
    return {
        name: Variant(QuantileLoss if spec.one.takes_levels else bases.get(spec.task, LossSettings), spec.hyper)
        for name, spec in LOSSES.items()
    }


class AveragingOptimizerSettings(OptimizerSettings):
    """The optimizer, and what it does to gradients and weights."""

    averaging: None = Field(default=None, description="it averages the weights by itself, always")


def _optimizers() -> dict[str, Variant]:
    rows = {}
    for name, spec in OPTIMIZERS.items():
        rate = Hyper(spec.learning_rate, "learning rate (step size)", gt=0)
        decay = Hyper(spec.weight_decay, "decoupled weight decay, multiplied by the learning rate in each step", ge=0)
        base = AveragingOptimizerSettings if spec.averages else OptimizerSettings
        rows[name] = Variant(base, {"learning_rate": rate, "weight_decay": decay, **spec.hyper})
    return rows


def _schedules() -> dict[str, Variant]:
    return {name: Variant(ScheduleSettings, spec.hyper) for name, spec in SCHEDULES.items()}


def _schedule_of(before: Mapping[str, Any]) -> str | None:
    """Return the schedule that goes with the optimizer."""
    optimizer = before.get("optimizer")
    return OPTIMIZERS[optimizer.name].schedule if isinstance(optimizer, OptimizerSettings) else None


MIN_PATIENCE, PATIENCE_SHARE = 10, 10
"""Default patience: the fewest epochs, and the part of all epochs."""


class EarlyStopping(Section):
    """Early stopping on the validation rows, by the metric that chooses the best epoch."""

    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="epochs without a better metric before training stops; null: a tenth of all epochs, but at least "
        f"{MIN_PATIENCE}",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="smallest improvement of the metric that resets patience; the best epoch is kept whatever it is",
    )


DEFAULT_STEPS, MIN_EPOCHS, MAX_EPOCHS = 20_000, 30, 1_000
"""Default length of a run in steps, and the fewest and most epochs that it comes to."""


MAX_SHARDS = 1024
"""Most shards of a batch."""


def _power_of_two(count: int) -> int:
    if not is_power_of_two(count):
        above = 1 << count.bit_length()
        hint = " or ".join(str(each) for each in (above // 2, above) if each <= MAX_SHARDS)
        refuse("Training", [Problem((), f"got {count}, needs a power of two", f"such as {hint}")])
    return count


class EpochsBySteps(Section):
    """Epochs that come to a number of steps, within bounds: fewer on more rows."""

    steps: int = Field(ge=1, description="steps that the run should come to")
    least: int = Field(default=MIN_EPOCHS, ge=1, description="fewest epochs")
    most: int = Field(default=MAX_EPOCHS, ge=1, description="most epochs")

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if self.least > self.most:
            what = f"the fewest epochs are {self.least}, the most {self.most}"
            refuse("Epochs", [Problem(("least",), what, "set least to at most the other")])
        return self


class Training(Section):
    """Epochs, batches, seed, early stopping and checkpoints."""

    epochs: Annotated[int, Field(ge=1)] | EpochsBySteps | None = Field(
        default=None,
        description="passes over the training rows, or {steps: 5000, least: 64, most: 256}: as many as come to this "
        f"number of steps; null: about {DEFAULT_STEPS:,} steps, but {MIN_EPOCHS} to {MAX_EPOCHS:,} epochs",
    )
    batch_size: int = Field(default=64, ge=1, description="rows per step")
    shards: Annotated[int, AfterValidator(_power_of_two), Field(ge=1, le=MAX_SHARDS)] | None = Field(
        default=None,
        description="fixed parts of each batch, a power of two: gradients are summed over them in a fixed order, and "
        "batch norm is of each; ranks share them, and their number changes no bit; null: one for each rank",
    )
    drop_last: bool = Field(
        default=False, description="leave out the last batch of an epoch where it has fewer rows than the others"
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="mix each row of a batch with another one, inputs and loss alike, by a share that each batch "
        "draws from the distribution Beta(mixup, mixup); 0: none",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="random seed of the split, initial weights, row order and dropout"
    )
    metric: Annotated[str, NameIn(METRICS, ("auto",))] = Field(
        default="auto",
        description="metric of the validation rows that chooses the best epoch; of equal ones the later is kept for "
        "accuracy, macro_f1 and auc; log_loss is measured after a temperature fitted to these rows; auto: loss",
    )
    calibration: Literal["auto", "none", "temperature", "isotonic"] = Field(
        default="auto",
        description="calibration of the probabilities, fitted on the validation rows: temperature (a factor of the "
        "last linear values, and a share 1 / (rows + 1) of equal probabilities), isotonic (a rising curve of each "
        "class behind it, for at least 10,000 validation rows; the class that is predicted stays) or none; auto: "
        "temperature where there are validation rows",
    )
    conformal: Share = Field(
        default=0.0,
        description="share of the validation rows that does not choose the best epoch, for gpumlp predict "
        "--interval; 0: no intervals",
    )
    early_stopping: EarlyStopping | Literal["auto"] | None = Field(
        default="auto",
        description="stop when the metric stops improving; auto: if there are validation rows; null: run all epochs",
    )
    checkpoint_every: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="steps between checkpoints, also within an epoch; null: at the ends of epochs, "
        "at most every two seconds",
    )

    @property
    def chosen_metric(self) -> str:
        """The key of ``METRICS`` that is meant."""
        return "loss" if self.metric == "auto" else self.metric

    def calibrates(self, validated: bool) -> str:
        """Return the calibration that is meant, or ``none``, given whether there are validation rows."""
        if self.calibration == "auto":
            return "temperature" if validated else "none"
        return self.calibration

    def stopping(self, epochs: int, *, validated: bool) -> tuple[int, float] | None:
        """Return patience and least improvement, or None where all epochs are run.

        Parameters
        ----------
        epochs
            Epochs of the whole run.
        validated
            Whether there are validation rows.
        """
        wanted = self.early_stopping
        if wanted is None or not validated:
            return None
        given = EarlyStopping() if wanted == "auto" else wanted
        return given.patience or max(MIN_PATIENCE, math.ceil(epochs / PATIENCE_SHARE)), given.min_delta

    def epochs_over(self, rows: int) -> int:
        """Return the number of epochs for this many training rows."""
        if isinstance(self.epochs, int):
            return self.epochs
        plan = self.epochs or EpochsBySteps(steps=DEFAULT_STEPS)
        size = min(self.batch_size, rows)
        batches = rows // size if self.drop_last else math.ceil(rows / size)
        return max(plan.least, min(math.ceil(plan.steps / batches), plan.most))


BEST = {"own": "each network's own", "joint": "the one at which their mean is best"}
"""Which epoch's weights are kept of each member."""


class Members(Section):
    """Networks trained side by side on the same rows, which predict by their mean."""

    count: int = Field(default=1, ge=1, le=MAX_MEMBERS, description="number of networks")
    share: Annotated[str, NameIn(SHARES)] = Field(
        default=ALONE,
        description="what they have in common: " + "; ".join(f"{name} ({what})" for name, what in SHARES.items()),
    )
    best: Annotated[str, NameIn(BEST)] = Field(
        default="own",
        description="epoch whose weights are kept: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in BEST.items()),
    )
    learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] | None = Field(
        default=None, description="learning rate of each network, a list; null: optimizer.learning_rate"
    )
    weight_decay: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] | None = Field(
        default=None, description="weight decay of each network, a list; null: optimizer.weight_decay"
    )
    dropout: Annotated[tuple[Dropout, ...], Field(strict=False)] | None = Field(
        default=None, description="dropout rate of all hidden layers of each network, a list; null: those of model"
    )

    @property
    def apart(self) -> int:
        """Number of networks that share nothing."""
        return self.count if self.share == ALONE else 1

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        problems = []
        if self.share != ALONE and self.count == 1:
            what = "one network has nothing to share"
            problems.append(Problem(("count",), what, "set members.count, or share: none"))
        if self.share != ALONE and self.best == "own" and "best" in self.model_fields_set:
            what = "networks that share layers have one best epoch"
            problems.append(Problem(("best",), what, "set best: joint, or share: none"))
        for name in ("learning_rate", "weight_decay", "dropout"):
            given = getattr(self, name)
            if given is not None and self.share != ALONE:
                what = f"networks that share layers have one {name.replace('_', ' ')}"
                problems.append(Problem((name,), what, "remove it, or set share: none"))
            elif given is not None and len(given) != self.count:
                values, networks = "value" + "s" * (len(given) != 1), "network" + "s" * (self.count != 1)
                what = f"{len(given)} {values} for {self.count} {networks}"
                problems.append(Problem((name,), what, "give one value for each, or set members.count"))
        refuse("Members", problems)
        return self

    @model_serializer
    def _short(self) -> int | dict[str, Any]:
        default = Members()
        own = {key: value for key, value in self if value != getattr(default, key)}
        return self.count if own.keys() <= {"count"} else {"count": self.count, **own}


SAMPLERS = {
    "keyed": "the grid in order, or random draws, each point a function of the seed and its number",
    "tpe": "each point by the results of those before (Optuna's tree-structured Parzen estimator; extra sweep)",
}
"""How gpumlp sweep chooses points."""


class SearchSettings(Section):
    """How gpumlp sweep chooses the points it tries. No other command uses it."""

    sampler: Annotated[str, NameIn(SAMPLERS)] = Field(
        default="keyed",
        description="; ".join(f"{name} ({meaning})" for name, meaning in SAMPLERS.items()),
    )
    storage: Text | None = Field(
        default=None,
        description="with tpe: address of the database of the study, such as postgresql://user@host/base or "
        "sqlite:///study.db; null: a file in the folder of the sweep",
    )
    pruning: Literal["median", "none"] = Field(
        default="median",
        description="with tpe: median ends a point whose validation metric is worse than the median of the others at "
        "the same epoch",
    )

    @model_validator(mode="after")
    def _storage_has_a_study(self) -> Self:
        if self.storage is not None and self.sampler != "tpe":
            what = f"sampler {self.sampler} has no study to keep"
            refuse("Search", [Problem(("storage",), what, "set sampler: tpe, or remove storage")])
        return self


MAX_FOLDS = 100
"""Most folds of a bag."""


def _all_defaults() -> Any:
    """Return a section with nothing set, for validation to fill in."""
    return {}


class Settings(Section):
    """All settings of a run."""

    task: Task = Field(
        description="classification (two or more classes), regression (numbers) or multilabel (several labels of two "
        "values each)"
    )
    preset: Annotated[str, NameIn(PRESETS)] = Field(
        default=PLAIN,
        description="settings that stand below those of the file: "
        + "; ".join(f"{name} ({each.meaning})" for name, each in PRESETS.items()),
    )
    data: Data = Field(description="the data: at least train (a file) and target (a column)")
    model: Model = Field(default=Model(), description="the network")
    loss: Annotated[LossSettings, OneOf(_losses, DEFAULT_LOSSES)] = Field(
        default_factory=_all_defaults, description="loss to minimize; auto: the default of the task"
    )
    optimizer: Annotated[OptimizerSettings, OneOf(_optimizers, "adamw")] = Field(
        default_factory=_all_defaults, description="optimizer"
    )
    schedule: Annotated[ScheduleSettings, OneOf(_schedules, "cosine", _schedule_of)] = Field(
        default_factory=_all_defaults, description="learning rate schedule; with schedule_free constant"
    )
    training: Training = Field(default=Training(), description="epochs, batches, seed and early stopping")
    members: Annotated[Members, BeforeValidator(section_of_count, json_schema_input_type=int | Members)] = Field(
        default=Members(), description="networks trained side by side, which predict by their mean: a number of them"
    )
    bag: int = Field(
        default=1,
        ge=1,
        le=MAX_FOLDS,
        description="folds of the rows that are not test rows: gpumlp train trains a network on the rows outside of "
        "each, chosen on its fold, and they predict by their mean; 1: one network",
    )
    time_limit: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="seconds of training, over all folds of a bag: it ends before an epoch that would last longer, "
        "with the best weights so far; null: no limit",
    )
    search: SearchSettings = Field(default=SearchSettings(), description="how gpumlp sweep chooses points")
    backend: Annotated[str, NameIn(BACKENDS, ("auto",))] = Field(
        default="auto", description="compute backend; auto: the fastest available"
    )
    device: int = Field(default=0, ge=0, description="GPU index, on machines with several")
    precision: Annotated[str, NameIn(PRECISIONS)] = Field(
        default="float32",
        description="number format: "
        + "; ".join(f"{name} ({precision.meaning})" for name, precision in PRECISIONS.items()),
    )
    version: int = Field(
        default=VERSION, ge=1, le=VERSION, description="version of the settings format; later versions are refused"
    )

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, given: object) -> object:
        return over_preset(given)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = []
        if LOSSES[self.loss.name].task != self.task:
            fitting = [name for name, spec in LOSSES.items() if spec.task == self.task]
            what = f"{self.loss.name} is not a loss for {self.task}"
            problems.append(Problem(("loss", "name"), what, "allowed: auto, " + ", ".join(fitting)))
        metric = self.training.metric
        if metric in METRICS and not METRICS[metric].fits(self.task):
            fitting = [name for name, each in METRICS.items() if each.fits(self.task)]
            what = f"{metric} is not a metric for {self.task}"
            problems.append(Problem(("training", "metric"), what, "allowed: auto, " + ", ".join(fitting)))
        fitted = {"temperature": "a temperature", "isotonic": "an isotonic curve"}.get(self.training.calibration)
        if fitted is not None and self.task != "classification":
            what = f"{fitted} is of probabilities, and a regression has none"
            if self.task == "multilabel":
                what = f"{fitted} is of classes, and labels have none"
            problems.append(Problem(("training", "calibration"), what, "set calibration: auto"))
        if self.model.clamp and (self.task != "regression" or LOSSES[self.loss.name].one.least is not None):
            counts = f"with the loss {self.loss.name} the network predicts logarithms, which are not clamped"
            what = "classes have no range to keep predictions in" if self.task != "regression" else counts
            problems.append(Problem(("model", "clamp"), what, "set clamp: false"))
        problems += self._about_target()
        if self.data.split.validation == 0:
            rows = "validation rows, but data.split.validation is 0"
            what = f"needs {rows}"
            hint = "set data.split.validation to a share or a file, or "
            if isinstance(self.training.early_stopping, EarlyStopping):
                path = ("training", "early_stopping")
                problems.append(Problem(path, f"early stopping {what}", f"{hint}set early_stopping: null"))
            if metric != "auto":
                path = ("training", "metric")
                problems.append(Problem(path, f"choosing the epoch by {metric} {what}", f"{hint}set metric: auto"))
            if fitted is not None:
                path = ("training", "calibration")
                problems.append(Problem(path, f"{fitted} {what}", f"{hint}set calibration: none"))
            if self.training.conformal:
                path = ("training", "conformal")
                problems.append(Problem(path, f"intervals need {rows}", f"{hint}set conformal: 0"))
            if SCHEDULES[self.schedule.name].watches:
                path = ("schedule", "name")
                problems.append(Problem(path, f"{self.schedule.name} {what}", f"{hint}choose another schedule"))
        shards = self.training.shards or 1
        if self.training.batch_size <= shards and any(
            NORMS[block.norm].mixes_rows for block in self.model.blocks if block.norm in NORMS
        ):
            what = "batch norm needs batches of at least 2 rows" + " for each shard" * (shards > 1)
            problems.append(Problem(("training", "batch_size"), what, "use a larger batch_size, or norm: layer"))
        if self.members.share != ALONE and not self.model.hidden:
            what = "without hidden layers there is nothing to share"
            problems.append(Problem(("members", "share"), what, "set model.hidden, or share: none"))
        widths = [block.units for block in self.model.hidden]
        if self.model.residual and not any(a == b for a, b in itertools.pairwise(widths)):
            what = "no hidden layer is as wide as the one before, so there is nothing to add"
            problems.append(Problem(("model", "residual"), what, "set residual: false, or equal widths"))
        if self.members.count > 1 and shards > 1:
            what = "several networks are not trained in shards"
            problems.append(Problem(("training", "shards"), what, "set shards: 1, or members: 1"))
        if self.model.trained_activation:
            for number, block in enumerate(self.model.blocks):
                if block.activation is not None and ACTIVATIONS[block.activation].of_rows:
                    own = self.model.hidden[number].activation is not None
                    path = ("model", *(("hidden", number) if own else ()), "activation")
                    what = f"{block.activation} works along rows and is not mixed with the identity"
                    problems.append(Problem(path, what, "set trained_activation: false, or another activation"))
        if self.members.count > 1 and LOSSES[self.loss.name].many.link not in MEANS:
            what = f"predictions of a network trained with {self.loss.name} have no mean"
            problems.append(Problem(("members",), what, "set members: 1, or choose another loss"))
        if self.model.numbers.embedding != NO_EMBEDDING and PRECISIONS[self.precision].stored == BFLOAT16:
            what = "embeddings of numbers need more digits than 16-bit floats have"
            problems.append(Problem(("model", "numbers"), what, "set precision: float32, or embedding: none"))
        if self.precision != "float64":
            problems += _beyond_float32(self.model_dump(mode="json"))
        problems += self._about_bag()
        refuse("Settings", problems)
        return self

    def _about_bag(self) -> Iterator[Problem]:
        """Yield what does not fit folds that are trained side by side."""
        if self.bag == 1:
            if PRESETS[self.preset].combines:
                what = f"preset {self.preset} weights its recipes on rows outside of folds"
                yield Problem(("bag",), what, "set bag to 2 or more, or choose another preset")
            return
        if not isinstance(self.data.split.validation, float):
            what = f"with bag: {self.bag} the folds are the validation rows"
            yield Problem(("data", "split", "validation"), what, "remove it, or set bag: 1")
        if self.data.split.time is not None:
            what = "the first rows in time would be in no fold"
            yield Problem(("bag",), what, "set bag: 1, or remove data.split.time")
        if self.training.conformal:
            what = "folds that predict by their mean have no intervals"
            yield Problem(("training", "conformal"), what, "set conformal: 0, or bag: 1")

    def _about_target(self) -> Iterator[Problem]:
        """Yield what does not fit the target."""
        transform = self.data.target_transform
        if self.task == "multilabel" and not isinstance(self.data.target, tuple):
            hint = f"write [{self.data.target}], or set the task to classification"
            yield Problem(("data", "target"), "multilabel has a list of labels", hint)
        if self.task == "multilabel" and self.training.conformal:
            what = "intervals are of one target, not of labels"
            yield Problem(("training", "conformal"), what, "set conformal: 0")
        if self.task != "regression":
            if self.task == "classification" and isinstance(self.data.target, tuple) and len(self.data.target) > 1:
                hint = "name one column, or set the task to multilabel (labels of two values each)"
                yield Problem(("data", "target"), "classification has one target", hint)
            if transform != "none":
                hint = "set it to none, or the task to regression"
                yield Problem(("data", "target_transform"), "classes have no transform", hint)
        elif transform != "none" and (self._record.least is not None or self._record.relative):
            what = f"the loss {self.loss.name} predicts the target itself"
            yield Problem(("data", "target_transform"), what, "set it to none, or choose another loss")

    @property
    def goal(self) -> Goal:
        """How numbers to predict are encoded."""
        record = self._record
        levels = self.loss.levels if isinstance(self.loss, QuantileLoss) else ()
        return Goal(self.data.target_transform, record.least is not None, levels, record.relative)

    @property
    def _record(self) -> LossRecord:
        return LOSSES[self.loss.name].one


def settings_of_member(settings: Settings, member: int) -> Settings:
    """Return the settings that one network of several is trained with; ``member`` counts from 0."""
    members, optimizer, model = settings.members, {}, settings.model
    for name in ("learning_rate", "weight_decay"):
        if (each := getattr(members, name)) is not None:
            optimizer[name] = each[member]
    if members.dropout is not None:
        hidden = tuple(block.model_copy(update={"dropout": None}) for block in model.hidden)
        model = model.model_copy(update={"dropout": members.dropout[member], "hidden": hidden})
    training = settings.training.model_copy(update={"seed": member_seed(settings.training.seed, member)})
    return settings.model_copy(
        update={
            "model": model,
            "optimizer": settings.optimizer.model_copy(update=optimizer),
            "training": training,
            "members": Members(),
        }
    )


def _beyond_float32(value: object, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield a problem for each number that a 32-bit float cannot hold."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _beyond_float32(each, (*path, key))
    elif isinstance(value, float) and not (value == 0 or FLOAT32_TINY <= abs(value) <= FLOAT32_MAX):
        limit = f"at most {FLOAT32_MAX:.3g}" if abs(value) > 1 else f"at least {FLOAT32_TINY:.3g}"
        yield Problem(path, f"got {value:g}, outside the range of float32 ({limit})", "or set precision: float64")

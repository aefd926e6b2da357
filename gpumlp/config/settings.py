"""The settings of a run, in the order of the file: what each means, its unit, its range and its default."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_serializer, model_validator

from gpumlp.backend import BACKENDS
from gpumlp.config.section import Choice, NameIn, OneOf, Problem, Row, Section, refuse
from gpumlp.config.yaml_text import KeyPath
from gpumlp.data import (
    DECIMALS,
    FLOAT32_MAX,
    FLOAT32_TINY,
    QUOTES,
    SCALINGS,
    USUAL_MISSING,
    Dialect,
    Kind,
    MisfitProblems,
    Missing,
    is_encoding,
    is_separator,
    misfits,
)
from gpumlp.data.dataset import Task
from gpumlp.errors import choices
from gpumlp.nn import INITIALIZERS, LOSSES, MAX_UNITS, NO_NORM, NORMS
from gpumlp.ops import ACTIVATIONS, Hyper
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import OPTIMIZERS, SCHEDULES

VERSION = 1
"""Of the settings: one more when what a file says would no longer mean the same."""

Norm = Annotated[str, NameIn(NORMS, (NO_NORM,))]
Text = Annotated[str, Field(min_length=1)]
Column = Text | int
Share = Annotated[float, Field(ge=0, lt=1)]
Activation = Annotated[str, NameIn(ACTIVATIONS)]
# Strict tuples refuse lists, and YAML has no tuples; what is inside stays strict.
Columns = Annotated[tuple[Column, ...], Field(strict=False)]
Files = Text | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Markers = Annotated[tuple[str, ...], Field(strict=False)]


def _separator(given: str) -> str:
    if not is_separator(given):
        what = f"got {given!r}, needs one character that is no letter, digit, quote or line end"
        refuse("Data", [Problem((), what, r"such as ',' or ';'; a tab is written as \"\t\"")])
    return given


def _encoding(given: str) -> str:
    if not is_encoding(given):
        hint = f"{choices(given, COMMON_ENCODINGS)}, or any other that Python knows"
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


class Split(Section):
    """Which rows are kept from training: each part is a share of the rows of data.train, or in files."""

    validation: Share | Files = Field(
        default=0.15, description="rows that early stopping and the choice of the best epoch look at; 0 for none"
    )
    test: Share | Files = Field(default=0.15, description="rows for the one estimate at the end; 0 for none")

    @model_validator(mode="after")
    def _leave_training_rows(self) -> Self:
        shares = [part for part in (self.validation, self.test) if isinstance(part, float)]
        if sum(shares) >= 1:
            what = f"validation and test take {sum(shares):g} of all rows, so none is left to train on"
            refuse("Split", [Problem(("test",), what, "the shares must add up to less than 1")])
        return self


TRAIN = (
    "file of rows: csv, tsv, txt, data, arff, jsonl or idx, also packed (.gz), parquet or npz; or several: a list, "
    "or a pattern such as part-*.csv"
)


def _one_source(train: tuple[str, ...] | str | None, info: ValidationInfo) -> tuple[str, ...] | str | None:
    """Check that there is a file of rows or a query, which is validated before, but not both."""
    if "query" in info.data and (train is None) == (info.data["query"] is None):
        if train is None:
            refuse("Data", [Problem((), "required, but missing", TRAIN)])
        refuse("Data", [Problem((), "there is a query already", "leave out data.train or data.query")])
    return train


class ColumnSettings(Section):
    """What a column is, and how its numbers are written."""

    type: Literal["category", "number"] = Field(description="category (even if all texts are numbers) or number")
    thousands: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        default=None, description="of numbers: mark between thousands; null: none"
    )
    unit: Text | None = Field(
        default=None, description="of numbers: what stands before or after each, such as $ or %; null: nothing"
    )

    @model_validator(mode="after")
    def _describe_numbers(self) -> Self:
        if self.type == "category" and (self.thousands or self.unit):
            key = "thousands" if self.thousands else "unit"
            refuse(
                "Column",
                [Problem((key,), "a category is kept as it is written", "set type: number, or leave it out")],
            )
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        own = {key: value for key, value in self if value is not None}
        return self.type if len(own) == 1 else own


def kind_of_column(given: object) -> object:
    """Let a bare type stand for a description."""
    return {"type": given} if isinstance(given, str) else given


class Data(Section):
    """Where the rows come from and how they are prepared."""

    folder: Text | None = Field(
        default=None,
        description="folder that the paths of train and split start from, itself relative to the folder of "
        "the configuration; null for just that folder",
    )
    query: Text | None = Field(
        default=None,
        description="one SELECT of SQL over data files, in place of train: select * from 'part-*.parquet'",
    )
    train: Annotated[Files | None, AfterValidator(_one_source)] = Field(default=None, description=TRAIN)
    target: Column = Field(description="what to predict: a column's name or index, or an array's name")
    split: Split = Field(default=Split(), description="shares or files of rows for validation and test")
    scaling: Annotated[str, NameIn(SCALINGS)] | None = Field(
        default=None,
        description="how numeric columns are scaled, fitted on the training rows; null: what suits them",
    )
    separator: Separator | None = Field(
        default=None,
        description="character between the cells of a text file, a blank for any number of them; null: found",
    )
    quote: Annotated[str, NameIn(QUOTES)] | None = Field(
        default=None, description="marks around a cell, inside which a separator is plain text; null: found"
    )
    header: bool | None = Field(
        default=None,
        description="whether the first line of a text file holds the column names (else they are column_0, "
        "column_1, ...); null: found",
    )
    encoding: Encoding | None = Field(
        default=None, description="how letters are stored in a text file, such as utf-8 or latin-1; null: found"
    )
    decimal: Annotated[str, NameIn(dict.fromkeys(DECIMALS))] | None = Field(
        default=None, description="mark before the decimals of a number in a text file; null: found"
    )
    missing: Markers | None = Field(
        default=None,
        description="texts in a cell that mean: no value, as the empty cell always does; null: the usual ones, "
        + " ".join(sorted(USUAL_MISSING.anywhere - {""}))
        + ", and among numbers "
        + " ".join(sorted(USUAL_MISSING.among_numbers)),
    )
    columns: dict[
        Text, Annotated[ColumnSettings, BeforeValidator(kind_of_column, json_schema_input_type=str | ColumnSettings)]
    ] = Field(
        default={},
        description="what columns are, by name, where that is not to be found: category, number, or "
        "{type: number, thousands: ',', unit: $}",
    )
    missing_target: Literal["error", "drop"] = Field(
        default="error",
        description="rows without a target: error refuses them, drop leaves them out, with a note",
    )
    drop: Columns = Field(default=(), description="columns to leave out, by name or index")
    weights: Column | None = Field(
        default=None, description="column that says how much each row counts, at least 0; null: all alike"
    )

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
        found = misfits(
            start / os.path.expanduser(self.folder or ""),
            ({} if self.train is None else {"train": self.train})
            | {name: part for name, part in parts.items() if not isinstance(part, float)},
            target=self.target,
            weights=self.weights,
            drop=self.drop,
            columns=self.columns,
            dialect=self.dialect,
            query=self.query,
        )
        return [(f"data.{setting}", error) for setting, error in found]

    @model_validator(mode="after")
    def _tell_decimals_from_cells(self) -> Self:
        if self.decimal is not None and self.decimal == self.separator:
            hint = "choose another separator, or leave both out to have them found"
            refuse("Data", [Problem(("decimal",), f"{self.decimal!r} cannot be the separator too", hint)])
        return self


def block_of_width(given: object) -> object:
    """Let a bare width stand for a block."""
    return {"units": given} if isinstance(given, int) else given


Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Block(Section):
    """One hidden layer: linear, norm, activation, dropout. What is not set is as in the model."""

    units: Units = Field(description="width of the layer, in units")
    activation: Activation | None = Field(default=None, description="activation of this layer; null: the model's")
    dropout: Dropout | None = Field(default=None, description="share of units dropped here; null: the model's")
    norm: Norm | None = Field(default=None, description="normalization of this layer; null: the model's")

    @model_serializer
    def _short(self) -> int | dict[str, Any]:
        own = {key: value for key, value in self if value is not None}
        return self.units if len(own) == 1 else own


class Model(Section):
    """The network: hidden layers, then one linear layer whose width follows from the data."""

    hidden: Annotated[
        tuple[Annotated[Block, BeforeValidator(block_of_width, json_schema_input_type=Units | Block)], ...],
        Field(strict=False),
    ] = Field(
        default=(Block(units=64), Block(units=64)),
        description="hidden layers, first to last: a width in units, or a block of settings",
    )
    activation: Activation = Field(default="relu", description="activation of every hidden layer")
    dropout: Dropout = Field(default=0.0, description="share of each hidden layer's units dropped in training")
    norm: Norm = Field(default=NO_NORM, description="normalization before each activation: over a row, or a batch")
    initializer: Annotated[str, NameIn(INITIALIZERS, ("auto",))] = Field(
        default="auto", description="distribution of the first weights; auto: what suits the activation"
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
    """What training makes small."""

    table = LOSSES


class ClassificationLoss(LossSettings):
    """What training makes small, over classes."""

    # Above, a batch could weigh more than a 32-bit float can hold, and would have no gradient.
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e27)]] | None = Field(
        default=None,
        description="how much each class counts: balanced (as if all were equally frequent), or a mapping "
        "from class to weight; null: every row counts 1",
    )


class OptimizerSettings(Choice):
    """How the gradient moves the parameters."""

    table = OPTIMIZERS
    learning_rate: float
    weight_decay: float
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="norm of the whole gradient that a longer one is shortened to; null: never",
    )
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of the running mean of the parameters kept in each step; null: no mean"
    )


class ScheduleSettings(Choice):
    """How the learning rate changes from step to step."""

    table = SCHEDULES
    warmup: Share = Field(default=0.0, description="share of all steps in which the rate climbs to its full height")


def _losses() -> dict[str, Row]:
    bases: dict[str, type[LossSettings]] = {"classification": ClassificationLoss, "regression": LossSettings}
    return {name: Row(bases[spec.task], spec.hyper) for name, spec in LOSSES.items()}


def _optimizers() -> dict[str, Row]:
    rows = {}
    for name, spec in OPTIMIZERS.items():
        rate = Hyper(spec.learning_rate, "length of a step, as a factor of its direction", gt=0)
        decay = Hyper(spec.weight_decay, "share of each weight that a step of rate 1 takes away", ge=0)
        rows[name] = Row(OptimizerSettings, {"learning_rate": rate, "weight_decay": decay, **spec.hyper})
    return rows


def _schedules() -> dict[str, Row]:
    return {name: Row(ScheduleSettings, spec.hyper) for name, spec in SCHEDULES.items()}


class EarlyStopping(Section):
    """When to stop before the last epoch."""

    patience: int = Field(default=10, ge=1, description="epochs without a better validation loss before stopping")
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="by how much a loss must be lower for patience to start anew; the lowest of all is kept",
    )


ENOUGH, FEWEST, MOST = 20_000, 30, 1_000
"""Steps of a run where nobody says how long it is to be, and the least and the most that its epochs are then."""


class Training(Section):
    """How long, in what pieces, and from which seed."""

    epochs: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=f"passes over the training rows; null: what makes {ENOUGH:,} steps, but {FEWEST} to {MOST:,}",
    )
    batch_size: int = Field(default=64, ge=1, description="rows in one step")
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="start of all randomness: split, weights, order, dropout"
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="stop when the validation loss no longer falls; null: run all epochs"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="steps between two checkpoints, also in the middle of an epoch; null: at the end of epochs only, "
        "every two seconds",
    )

    def epochs_over(self, rows: int) -> int:
        """Return how many passes over so many training rows there are to be."""
        if self.epochs is not None:
            return self.epochs
        return max(FEWEST, min(math.ceil(ENOUGH / math.ceil(rows / self.batch_size)), MOST))


def _all_defaults() -> Any:
    """Return a section with nothing set, for validation to fill in."""
    return {}


class Settings(Section):
    """Everything that a run depends on."""

    task: Task = Field(description="what is predicted: one of several classes (two: binary), or numbers")
    data: Data = Field(description="the rows: at least train (a file) and target (a column)")
    model: Model = Field(default=Model(), description="the network")
    loss: Annotated[
        LossSettings, OneOf(_losses, {"classification": "cross_entropy", "regression": "squared_error"})
    ] = Field(default_factory=_all_defaults, description="what training makes small; auto: what suits the task")
    optimizer: Annotated[OptimizerSettings, OneOf(_optimizers, "adamw")] = Field(
        default_factory=_all_defaults, description="how the gradient moves the parameters"
    )
    schedule: Annotated[ScheduleSettings, OneOf(_schedules, "cosine")] = Field(
        default_factory=_all_defaults, description="how the learning rate changes from step to step"
    )
    training: Training = Field(default=Training(), description="epochs, batches, seed and early stopping")
    backend: Annotated[str, NameIn(BACKENDS, ("auto",))] = Field(
        default="auto", description="what computes; auto: the fastest there is"
    )
    device: int = Field(default=0, ge=0, description="number of the GPU that computes, where there are several")
    precision: Annotated[str, NameIn(PRECISIONS)] = Field(
        default="float32",
        description="what the network computes with: "
        + "; ".join(f"{name}: {precision.meaning}" for name, precision in PRECISIONS.items()),
    )
    version: int = Field(
        default=VERSION, ge=1, le=VERSION, description="of the meaning of these settings; a later one is refused"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = []
        if LOSSES[self.loss.name].task != self.task:
            fitting = [name for name, spec in LOSSES.items() if spec.task == self.task]
            what = f"{self.loss.name} is no loss for {self.task}"
            problems.append(Problem(("loss", "name"), what, "allowed: auto, " + ", ".join(fitting)))
        if self.data.split.validation == 0:
            what = "needs validation rows, but data.split.validation is 0"
            hint = "give data.split.validation a share of the rows or a file, or "
            if self.training.early_stopping:
                path = ("training", "early_stopping")
                problems.append(Problem(path, f"early stopping {what}", f"{hint}set early_stopping: null"))
            if SCHEDULES[self.schedule.name].watches:
                path = ("schedule", "name")
                problems.append(Problem(path, f"{self.schedule.name} {what}", f"{hint}choose another schedule"))
        if self.training.batch_size == 1 and any(
            NORMS[block.norm].mixes_rows for block in self.model.blocks if block.norm in NORMS
        ):
            what = "batch norm cannot learn from batches of 1 row: each would be its own mean"
            problems.append(Problem(("training", "batch_size"), what, "allowed: at least 2, or norm: layer"))
        if self.precision != "float64":
            problems += _beyond_float32(self.model_dump(mode="json"))
        refuse("Settings", problems)
        return self


def _beyond_float32(value: object, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield a problem for each number that a 32-bit float cannot hold."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _beyond_float32(each, (*path, key))
    elif isinstance(value, float) and not (value == 0 or FLOAT32_TINY <= abs(value) <= FLOAT32_MAX):
        limit = f"at most {FLOAT32_MAX:.3g}" if abs(value) > 1 else f"at least {FLOAT32_TINY:.3g}"
        yield Problem(path, f"got {value:g}, which no 32-bit float can hold ({limit})", "or set precision to float64")

"""Settings of the data: files, columns, and how rows are read, divided and kept in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_serializer, model_validator

from gpumlp.config.section import NameIn, Problem, Section, Share, Text, refuse
from gpumlp.data import (
    DECIMALS,
    QUOTES,
    SCALINGS,
    TRANSFORMS,
    USUAL_MISSING,
    Dialect,
    Fold,
    Kind,
    MisfitProblems,
    Missing,
    Packs,
    is_encoding,
    is_separator,
    misfits,
)
from gpumlp.data.source.room import Room, reading_into, usual_folder, usual_memory, usual_room
from gpumlp.errors import choices

Column = Text | int
# Strict tuples refuse lists, and YAML has no tuples; what is inside stays strict.
Targets = Annotated[tuple[Column, ...], Field(strict=False, min_length=1)]
Columns = Annotated[tuple[Column, ...], Field(strict=False)]
Files = Text | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Markers = Annotated[tuple[str, ...], Field(strict=False)]


def _separator(text: str) -> str:
    if not is_separator(text):
        message = f"got {text!r}, needs one character other than a letter, digit, quote or line break"
        refuse("Data", [Problem((), message, r"such as ',' or ';'; a tab is written as \"\t\"")])
    return text


def _encoding(name: str) -> str:
    if not is_encoding(name):
        hint = f"{choices(name, COMMON_ENCODINGS)}, or any other Python encoding"
        refuse("Data", [Problem((), f"unknown encoding {name!r}", hint)])
    return name


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
            message = f"there is no fold {self.fold} of {self.of}"
            refuse("Fold", [Problem(("fold",), message, "folds are counted from 1")])
        return self


def _rows_of(setting: float | tuple[str, ...] | str | FoldSettings) -> float | tuple[str, ...] | str | Fold:
    return Fold(setting.fold, setting.of) if isinstance(setting, FoldSettings) else setting


MAX_GIGABYTES = 1e9
"""Largest limit of memory or disk (GB)."""


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
            message = "rows are divided by group or by time, not by both"
            refuse("Split", [Problem(("time",), message, "remove data.split.group or data.split.time")])
        return self

    @model_validator(mode="after")
    def _leave_training_rows(self) -> Self:
        shares = [part for part in (self.validation, self.test) if isinstance(part, float)]
        if sum(shares) >= 1:
            message = f"validation and test take {sum(shares):g} of all rows, so no rows are left for training"
            refuse("Split", [Problem(("test",), message, "the shares must add up to less than 1")])
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
            message = f"{'dates' if self.type == 'date' else 'categories'} have no number format"
            refuse("Column", [Problem((key,), message, f"set type: number, or remove {key}")])
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        fields = {key: value for key, value in self if value is not None}
        return self.type if len(fields) == 1 else fields


def kind_of_column(setting: object) -> object:
    """Let a bare type stand for a description."""
    return {"type": setting} if isinstance(setting, str) else setting


class PackSettings(Section):
    """How rows that take more memory than they may are kept on disk, in blocks that training reads by windows."""

    folder: Text | None = Field(
        default=None,
        description="folder of packed rows, relative to the configuration file; null: packs in the cache of gpumlp",
    )
    max_size: Annotated[float, Field(gt=0, le=MAX_GIGABYTES)] | None = Field(
        default=None,
        description="GB that packed rows may take on disk; least recently used ones are deleted; null: no limit",
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
        default=None, description="one SQL SELECT over data files, instead of train: select * from 'part-*.parquet'"
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
        default="error", description="rows without a target: error refuses them, drop leaves them out, with a note"
    )
    drop: Columns = Field(default=(), description="columns to ignore, by name or index")
    weights: Column | None = Field(
        default=None, description="column of row weights, each at least 0; null: all rows count the same"
    )

    max_memory: Annotated[float, Field(gt=0, le=MAX_GIGABYTES)] | None = Field(
        default=None,
        description="GB of memory that rows may take: half of it as they are read, half as they are encoded; what is "
        "beyond is kept on disk; null: 80 % of what this machine has",
    )
    pack: PackSettings = Field(default=PackSettings(), description="how rows are kept on disk")

    @property
    def memory(self) -> int | None:
        """Bytes of memory that rows may take; None where nobody knows what there is."""
        return usual_memory() if self.max_memory is None else int(self.max_memory * 1e9)

    @property
    def packs(self) -> Packs:
        """The folder of packed rows."""
        memory, most = self.memory, self.pack.max_size
        limit = None if most is None else int(most * 1e9)
        return Packs(self._pack_folder, limit, *(() if memory is None else (memory // 4,)))

    @property
    def _pack_folder(self) -> Path:
        return usual_folder() if self.pack.folder is None else Path(self.pack.folder)

    @property
    def room(self) -> Room:
        """Room for rows as they are read: half of their memory, then the folder of packed rows."""
        return usual_room(self.memory, self._pack_folder)

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

    def misfits(self, start: Path, task: str | None = None) -> MisfitProblems:
        """Return the settings that name a file or a column that is not there, or whose first cells are wrong.

        Parameters
        ----------
        start
            Where folder starts.
        task
            What the target is, if that is known.
        """
        parts = {"split.validation": self.split.validation, "split.test": self.split.test}
        with reading_into(self.room):
            errors = misfits(
                start / os.path.expanduser(self.folder or ""),
                ({} if self.train is None else {"train": self.train})
                | {name: part for name, part in parts.items() if isinstance(part, str | tuple)},
                target=self.target,
                weights=self.weights,
                drop=self.drop,
                columns=self.kinds,
                group=self.split.group,
                time=self.split.time,
                dialect=self.dialect,
                query=self.query,
                task=task,
                gaps=self.missing_target == "drop",
            )
        return [(f"data.{setting}", error) for setting, error in errors]

    @model_validator(mode="after")
    def _tell_decimals_from_cells(self) -> Self:
        if self.decimal is not None and self.decimal == self.separator:
            hint = "choose another separator, or remove both settings to have them detected"
            refuse("Data", [Problem(("decimal",), f"{self.decimal!r} is the separator too", hint)])
        return self

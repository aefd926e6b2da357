"""What each column is for. All that does not fit the files is found at once, by the setting that it stands in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpumlp.data.encoding.columns import decide
from gpumlp.data.encoding.targets import require_labels, require_present
from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.files import Files, all_files, matched, title
from gpumlp.data.source.frame import Frame, require_bytes, require_memory
from gpumlp.data.source.kinds import Kind
from gpumlp.data.source.query import query_columns
from gpumlp.data.source.read import Source, read, read_start, readable, rows_at_most
from gpumlp.data.source.sniff import SAMPLE
from gpumlp.errors import DataError
from gpumlp.limits import gigabytes

Task = Literal["classification", "regression", "multilabel"]

Target = str | int | Sequence[str | int] | None
"""The column to predict by name or number, or several; None where an array is the only one."""

MisfitProblems = list[tuple[str, DataError]]
"""Settings, such as ``target`` or ``drop.0``, each with what is wrong with it."""


class MisfitError(DataError):
    """Settings that do not fit the files: a wrong file name, a wrong column name.

    Parameters
    ----------
    problems
        One or more, in the order of the settings.
    """

    def __init__(self, problems: MisfitProblems) -> None:
        self.problems = tuple(problems)
        first = problems[0][1]
        super().__init__(first.what, where=first.where, hint=first.hint)
        self.args = ("\n".join(str(error) for _, error in problems),)


@dataclass(frozen=True)
class Roles:
    """The columns of a table, or the arrays of a file, that are no inputs.

    Parameters
    ----------
    targets
        What is predicted, at least one.
    weights
        How much each row counts; None where all count the same.
    dropped
        What is left out; the column of groups is, too.
    group, time
        What rows are divided by; None where they are drawn one by one.
    """

    targets: tuple[str, ...]
    weights: str | None
    dropped: frozenset[str]
    group: str | None = None
    time: str | None = None

    @property
    def named(self) -> list[str]:
        """The targets, and the weights where there are any."""
        return [*self.targets] if self.weights is None else [*self.targets, self.weights]

    @classmethod
    def find(
        cls,
        source: Source,
        target: Target,
        weights: str | int | None,
        drop: Sequence[str | int],
        columns: Iterable[str] = (),
        group: str | int | None = None,
        time: str | int | None = None,
    ) -> Roles:
        """Find the columns in the training file.

        Raises
        ------
        MisfitError
            With all that are not there, or are meant to be two things.
        """
        names: dict[str, Any] = {}
        if isinstance(target, tuple | list) and target:
            names |= {f"target.{i}": name for i, name in enumerate(target)}
        else:
            names["target"] = target
        if weights is not None:
            names["weights"] = weights
        names |= {f"drop.{i}": name for i, name in enumerate(drop)}
        problems: MisfitProblems = []
        first_setting: dict[str, str] = {}  # the setting that each column was first named by
        for setting, name in names.items():
            try:
                column = source.resolve(name)
            except DataError as error:
                problems.append((setting, error))
                continue
            first = first_setting.setdefault(column, setting)
            if first != setting and not (first.startswith("drop") and setting.startswith("drop")):
                message = f"{column!r} is the {first.partition('.')[0]} already"
                problems.append((setting, DataError(message, where=source.path, hint="each column can be one thing")))
        divided: dict[str, str] = {}
        for setting, name in (("split.group", group), ("split.time", time)):
            if name is not None:
                try:
                    column = source.resolve(name)
                except DataError as error:
                    problems.append((setting, error))
                    continue
                divided[setting] = column
                if (
                    first_setting.get(column, "drop").partition(".")[0] != "drop"
                ):  # a column to divide by may be left out
                    message = f"{column!r} is the {first_setting[column]} already"
                    problems.append((setting, DataError(message, where=source.path, hint="choose another column")))
        for name in columns:
            try:
                if not isinstance(source, Frame):
                    raise DataError("only the columns of a table can be described, not arrays", where=source.path)
                source.resolve(name)
            except DataError as error:
                problems.append((f"columns.{name}", error))
        if problems:
            raise MisfitError(problems)
        by_setting = {setting: column for column, setting in first_setting.items()}
        dropped = frozenset(column for column, setting in first_setting.items() if setting.startswith("drop"))
        by_group, by_time = divided.get("split.group"), divided.get("split.time")
        if by_group is not None:
            dropped |= {by_group}
        targets = tuple(column for setting, column in by_setting.items() if is_of("target", setting))
        return cls(targets, by_setting.get("weights"), dropped, by_group, by_time)


def misfits(
    folder: Path,
    files: Mapping[str, Files],
    *,
    target: Target,
    weights: str | int | None,
    drop: Sequence[str | int],
    columns: Mapping[str, Kind],
    group: str | int | None = None,
    time: str | int | None = None,
    dialect: Dialect = DETECT,
    query: str | None = None,
    task: str | None = None,
    gaps: bool = True,
) -> MisfitProblems:
    """Return what does not fit, as far as names of files and first lines tell.

    Parameters
    ----------
    folder
        Where the paths of the files start.
    files
        By setting; ``train`` is the one that has the columns.
    target, weights, drop, columns, group, time
        The settings of these names: columns by name or number.
    dialect
        How the files are written, if they are text.
    query
        Which has the columns, in place of ``train``.
    task
        What the target is, if that is known: a regression's must be numbers.
    gaps
        Whether rows may be without a target.
    """
    problems = absent(folder, files)
    source = "train" if query is None else "query"
    if not any(is_of("train", setting) for setting, _ in problems):
        try:
            if query is None:
                paths = all_files(files["train"], folder)
                rows = _read_columns(paths[0], dialect)
                if isinstance(rows, ArrayTable):
                    size = max(map(rows.count, rows.names), default=0) * rows.row_bytes
                    require_bytes(size, f"the arrays in this file take {gigabytes(size)}", rows.path)
                require_memory(sum(map(rows_at_most, paths)), len(rows.names), title(paths))
            else:
                rows = query_columns(query, folder)
            roles = Roles.find(rows, target, weights, drop, columns, group, time)
            if isinstance(rows, Frame) and len(rows):
                problems += _wrong_cells(rows.with_kinds(columns), roles, task, source, gaps=gaps)
        except MisfitError as error:
            problems += error.problems
        except DataError as error:
            problems.append((source, error))
    return problems


def _wrong_cells(rows: Frame, roles: Roles, task: str | None, source: str, *, gaps: bool) -> MisfitProblems:
    """Return what is wrong with cells of the first rows, or of all where these are few, as training would find it."""
    problems: MisfitProblems = []
    is_whole = len(rows) < SAMPLE - 1
    must = {name: "target" for name in roles.targets if task == "regression"}
    must |= {roles.weights: "weights"} if roles.weights is not None else {}
    for name in rows.names:
        try:
            if name in must:
                values = rows.numbers(name)
                if roles.targets == (name,) and not gaps:
                    require_present(np.isnan(values), rows.where)
            elif roles.targets == (name,) and task == "classification" and not gaps:
                require_labels(rows.categories(name), rows.where)
            elif name not in {*roles.named, *roles.dropped, roles.time}:
                decide(name, rows)
        except DataError as error:
            must |= {name: "target"} if name in roles.targets else {}
            # A few words in the first rows may be many in all, and then categories; other cells remain wrong.
            if is_whole or name in must or name in rows.kinds or rows.remedy(name):
                problems.append((must.get(name, source), error))
    return problems


def _read_columns(path: Path, dialect: Dialect) -> Source:
    """Read a file as far as its columns are told; all of it where the first lines seem wrong, as within a cell."""
    try:
        return read_start(path, dialect)
    except DataError:
        return read(path, dialect)


def is_of(name: str, setting: str) -> bool:
    """Return whether a setting is the one of this name, or an item of it."""
    return setting == name or setting.startswith(f"{name}.")


def absent(folder: Path, files: Mapping[str, Files]) -> MisfitProblems:
    """Return the settings whose file is not there, or of an unknown kind."""
    problems: MisfitProblems = []
    for setting, named in files.items():
        one = isinstance(named, str | Path)
        for number, name in enumerate([named] if isinstance(named, str | Path) else named):
            try:
                for path in matched(folder / name):
                    readable(path)
            except DataError as error:
                problems.append((setting if one else f"{setting}.{number}", error))
    return problems

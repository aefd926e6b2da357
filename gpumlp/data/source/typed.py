"""Sources whose columns have types: Parquet files, JSON lines, queries. The engine reads all of them alike."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data.source.cells import WHOLE_BELOW
from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.engine import (
    MAX_LINE_BYTES,
    EngineRefusalError,
    Scan,
    engine,
    engine_threads,
    identifier,
    literal,
)
from gpumlp.data.source.files import existing, open_binary, plain_copy
from gpumlp.data.source.frame import Column, Frame, Nested, require_memory
from gpumlp.errors import DataError

_WHOLE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
_REAL = re.compile(r"(HALF_?)?FLOAT\d*|REAL|DOUBLE|DECIMAL\(.*\)|INTERVAL|DURATION\(\d+\)")
_DURATION = re.compile(r"DURATION\((\d+)\)")
_PARQUET, _PARQUET_FACTS, _PARQUET_SCHEMA = "read_parquet(", "parquet_file_metadata(", "parquet_schema("
_PARQUET_EXTRAS, _ARROW_SCHEMA = "parquet_kv_metadata(", "ARROW:schema"
_JSON = "JSON lines"
_NO_DURATIONS: Mapping[str, int] = {}
_OBJECTS = 'each line is one object, such as {"a": 1, "b": "x"}'
_NESTED = re.compile(r".*\]|(STRUCT|MAP|UNION|LIST|ARRAY|VARIANT)\b.*", re.DOTALL)

MIN_SHARED_CELLS = 2_000_000
"""Cells from which on several engines read a Parquet file: to open one takes as long as to read half of these."""


@dataclass(frozen=True)
class TypedCells:
    """Expressions over columns of their own names.

    Parameters
    ----------
    types
        Types of each column, as the engine calls it; ``DURATION(n)`` for integers that count n parts of a second.
    called
        What the engine calls each column: of two names that differ in case alone, one has another.
    """

    types: Mapping[str, str]
    called: Mapping[str, str]
    has_nan = True

    def number(self, name: str) -> str:
        """Return the value as DOUBLE, a time that passed in seconds.

        One of 32 bits is what its shortest text stands for, as in a CSV file: 0.1, not 0.10000000149.
        """
        column = self._value(name)
        shortest = f"CAST({column} AS VARCHAR)" if self.types[name] == "FLOAT" else column
        return f"CAST({shortest} AS DOUBLE)"

    def text(self, name: str) -> str:
        """Return the value as a CSV file would have it: whole numbers without a point, NULL for NULL and NaN."""
        column = self._value(name)
        text = f"({column} ->> '$')" if self.types[name] == "JSON" else f"CAST({column} AS VARCHAR)"
        if not _REAL.fullmatch(self.types[name]):
            return f"nullif({text}, '')"
        whole = f"CAST(CAST({column} AS BIGINT) AS VARCHAR)"
        is_whole = f"abs({column}) < {WHOLE_BELOW!r}::DOUBLE AND {column} = trunc({column})"
        return f"CASE WHEN isnan({column}::DOUBLE) THEN NULL WHEN {is_whole} THEN {whole} ELSE {text} END"

    def _value(self, name: str) -> str:
        column = identifier(self.called[name])
        if duration := _DURATION.fullmatch(self.types[name]):
            return f"(CAST({column} AS DOUBLE) / {duration[1]})"
        return f"epoch({column})" if self.types[name] == "INTERVAL" else column


def read_parquet(path: Path, dialect: Dialect = DETECT, *, texts: Collection[str] = ()) -> Frame:
    """Read a Parquet file. Rows are counted from 1 in messages.

    Of the dialect only the markers of missing values matter; it is kept for a file of text that comes later.

    Parameters
    ----------
    path
        The file.
    dialect
        Its markers of missing values.
    texts
        Columns that are texts, even where their type is numeric.

    Raises
    ------
    DataError
        If the file is damaged or has no rows.
    """
    return read_typed(parquet_rows(path), [str(path)], f"{path}", dialect, texts=texts, kind="Parquet")


def read_json_lines(path: Path, dialect: Dialect = DETECT, *, texts: Collection[str] = ()) -> Frame:
    """Read a file with a JSON object in each line, as ``read_parquet`` does.

    Raises
    ------
    DataError
        If the file is damaged or has no rows.
    """
    source = _JsonSource(path)
    try:
        frame = read_typed(
            source.rows, [str(source.plain)], str(path), dialect, texts=texts, kind=_JSON, locate=source.locate
        )
    except DataError as error:
        _require_objects(source.plain, path)
        raise error from None
    if frame.names == ("json",):  # the engine may have taken values that are not objects for a column of this name
        _require_objects(source.plain, path)
    return frame


def json_blocks(path: Path, dialect: Dialect, *, texts: Collection[str] = ()) -> Iterator[Frame]:
    """Yield a file with a JSON object in each line, as ``read_json_lines`` reads it, some rows at a time.

    Raises
    ------
    DataError
        As ``read_json_lines`` does; rows before a line that is wrong may have been yielded.
    """
    source = _JsonSource(path)
    blocks = typed_blocks(
        source.rows, [str(source.plain)], str(path), dialect, texts=texts, kind=_JSON, locate=source.locate
    )
    try:
        for number, frame in enumerate(blocks):
            if not number and frame.names == ("json",):
                _require_objects(source.plain, path)
            yield frame
    except DataError as error:
        _require_objects(source.plain, path)
        raise error from None


@dataclass(frozen=True, eq=False)
class _JsonSource:
    """A file of JSON lines: itself, or a copy without packing, which goes with this object."""

    path: Path
    plain: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", plain_copy(existing(self.path), self))

    @property
    def rows(self) -> str:
        """What stands behind FROM."""
        return (
            f"read_json({literal(os.path.abspath(self.plain))}, format = 'newline_delimited', sample_size = -1, "
            f"maximum_object_size = {MAX_LINE_BYTES})"
        )

    def locate(self, row: int) -> str:
        """Return the file and line of a row."""
        with open_binary(self.plain) as lines:
            numbers = (number for number, line in enumerate(lines, 1) if line.strip())
            return f"{self.path}:{next(islice(numbers, row, None))}"


def _require_objects(plain: Path, path: Path) -> None:
    """Raise the error for the first line that is not a JSON object, if there is one."""
    with open_binary(plain) as lines:
        for number, line in enumerate(lines, 1):
            try:
                if not line.strip() or isinstance(json.loads(line), dict):
                    continue
                message = "this line is not a JSON object"
            except (ValueError, RecursionError) as error:
                message = f"this line is not JSON: {error}"
            raise DataError(message, where=f"{path}:{number}", hint=_OBJECTS)


def read_typed(
    rows: str,
    paths: Sequence[str],
    name: str,
    dialect: Dialect,
    *,
    texts: Collection[str],
    kind: str,
    locate: Callable[[int], str] | None = None,
    table: Any = None,
    durations: Mapping[str, int] = _NO_DURATIONS,
) -> Frame:
    """Read what stands behind FROM.

    Parameters
    ----------
    rows
        A table function, or a query in brackets.
    paths
        The files that may be read.
    name
        What to call the source in messages.
    dialect
        The markers of missing values.
    texts
        Columns that are texts, even where their type is numeric.
    kind
        Kind of the source, for messages.
    locate
        Returns where a row starts; None for ``name:row``, counted from 1.
    table
        An Arrow table, where ``rows`` is ``TABLE``.
    durations
        Its columns of integers that are times that passed, each with the parts of a second that they count.

    Raises
    ------
    DataError
        If the engine cannot read it, or there are no rows.
    """
    try:
        cells, about, groups = _layout(rows, paths, table, durations)
        require_memory(about, len(cells.types), name)
        scan = replace(_scan(rows, paths, cells, dialect, texts), about=about, table=table)
        if groups and about * len(scan.kinds) >= MIN_SHARED_CELLS:
            scan = replace(scan, shares=min(max(1, engine_threads() // groups), len(scan.kinds)))
        columns: dict[str, Column] = dict(scan.columns()) if scan.kinds else {}
    except EngineRefusalError as error:
        raise DataError(f"cannot be read as {kind}: {_first_line(error)}", where=name) from None
    count = len(next(iter(columns.values()))) if columns else 0
    if columns and not count:
        raise _no_rows(name, kind)
    every = _with_nested(columns, cells.types, name, count)
    return Frame(name, every, locate or _numbered(name), replace(dialect, decimal=None), types=_value_types(cells))


def parquet_blocks(path: Path, dialect: Dialect, *, texts: Collection[str] = ()) -> Iterator[Frame]:
    """Yield a Parquet file, as ``read_parquet`` reads it, some rows at a time.

    Raises
    ------
    DataError
        If the file is damaged or has no rows.
    """
    return typed_blocks(parquet_rows(path), [str(path)], str(path), dialect, texts=texts, kind="Parquet")


def typed_blocks(
    rows: str,
    paths: Sequence[str],
    name: str,
    dialect: Dialect,
    *,
    texts: Collection[str],
    kind: str,
    locate: Callable[[int], str] | None = None,
) -> Iterator[Frame]:
    """Yield what ``read_typed`` reads, some rows at a time.

    Raises
    ------
    DataError
        As ``read_typed`` does.
    """
    start = None
    try:
        cells, *_ = _layout(rows, paths)
        types = _value_types(cells)
        for start, columns in _scan(rows, paths, cells, dialect, texts).blocks():
            count = len(next(iter(columns.values())))
            every = _with_nested(columns, cells.types, name, count)
            numbers = np.arange(start, start + count)
            where, written = locate or _numbered(name), replace(dialect, decimal=None)
            yield Frame(name, every, where, written, rows=numbers, types=types)
    except EngineRefusalError as error:
        raise DataError(f"cannot be read as {kind}: {_first_line(error)}", where=name) from None
    if start is None:
        raise _no_rows(name, kind)


def _no_rows(name: str, kind: str) -> DataError:
    if kind == _JSON:
        return DataError("the file is empty", where=name, hint=_OBJECTS)
    return DataError("there are column names but no rows", where=name)


def _with_nested(
    columns: Mapping[str, Column], types: Mapping[str, str], name: str, count: int
) -> dict[str, Column | Nested]:
    """Return all columns in their order: those that were read, and those that hold more than one value a row."""
    return {
        column: columns.get(column) or Nested(column, _nested_kind(type_), name, count)
        for column, type_ in types.items()
    }


def _nested_kind(type_: str) -> str:
    """Return what the values of a type of the engine are called, such as ``STRUCT(a BIGINT)[]``."""
    if type_.endswith("]") or type_.startswith(("LIST", "ARRAY")):
        return "lists"
    return "mappings" if type_.startswith("MAP") else "records" if type_.startswith("STRUCT") else "nested values"


def _numbered(name: str) -> Callable[[int], str]:
    """Return what calls a row by its number, counted from 1."""
    return lambda row: f"{name}:{row + 1}"


def _scan(rows: str, paths: Sequence[str], cells: TypedCells, dialect: Dialect, texts: Collection[str]) -> Scan:
    """Return how the columns that are not nested are read."""
    plainly = {column: type_ for column, type_ in cells.types.items() if not _NESTED.fullmatch(type_)}
    kinds = {column: _is_number(type_) and column not in texts for column, type_ in plainly.items()}
    return Scan(tuple(paths), rows, cells, kinds, dialect.missing)


def parquet_rows(path: Path) -> str:
    """Return the rows of a Parquet file, for FROM."""
    return f"{_PARQUET}{literal(os.path.abspath(path))})"


def _first_line(error: Exception) -> str:
    """Return the engine's message without its class, its advice and its picture of the query."""
    line = str(error).splitlines()[0]
    return re.sub(r"^(C Data interface error: )?(\w+ )*Error: ", "", line)


def row_count(path: Path) -> int:
    """Return the number of rows of a Parquet file, 0 where it cannot be read."""
    try:
        return _layout(parquet_rows(path), [str(path)])[1]
    except EngineRefusalError:
        return 0


def _layout(
    rows: str, paths: Sequence[str], table: Any = None, durations: Mapping[str, int] = _NO_DURATIONS
) -> tuple[TypedCells, int, int]:
    """Return the columns with their types, and how many rows and groups of rows there are.

    The two are 0 where only reading tells.
    """
    with engine(paths, table=table) as connection:
        described = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
        count, groups = 0 if table is None else table.num_rows, 0
        called = written = [str(name) for name, *_ in described]
        if rows.startswith(_PARQUET):
            file = rows.removeprefix(_PARQUET)
            query = f"SELECT sum(num_rows), sum(num_row_groups) FROM {_PARQUET_FACTS}{file}"
            ((count, groups),) = connection.execute(query).fetchall()
            nodes = connection.execute(f"SELECT name, num_children FROM {_PARQUET_SCHEMA}{file}").fetchall()
            written = _first_level(nodes[1:])
            if len({*written}) != len(called):  # a name that stands there twice has the engine's
                written = called
            query = f"SELECT value FROM {_PARQUET_EXTRAS}{file} WHERE key = {literal(_ARROW_SCHEMA)}"
            for (schema,) in connection.execute(query).fetchall():
                from gpumlp.data.source.arrow_schema import durations_of  # no other file needs it

                durations = durations_of(schema)
    types = {name: str(type_) for name, (_, type_, *_) in zip(written, described, strict=True)}
    types |= {name: f"DURATION({parts})" for name, parts in durations.items() if types.get(name) == "BIGINT"}
    return TypedCells(types, dict(zip(written, called, strict=True))), int(count), int(groups)


def _first_level(nodes: Sequence[tuple[str, int | None]]) -> list[str]:
    """Return the names of the columns, of all nodes below the root, each before its children."""
    names, below = [], 0
    for name, children in nodes:
        if not below:
            names.append(name)
        below += (children or 0) - bool(below)
    return names


def _value_types(cells: TypedCells) -> dict[str, str]:
    """Return the types of the values of each column, as a ``Frame`` has them."""

    def of(type_: str) -> str:
        if _WHOLE.fullmatch(type_):
            return "integer"
        return "number" if _REAL.fullmatch(type_) else "boolean" if type_ == "BOOLEAN" else "text"

    return {name: of(type_) for name, type_ in cells.types.items()}


def _is_number(type_: str) -> bool:
    return bool(_WHOLE.fullmatch(type_) or _REAL.fullmatch(type_))

"""Files read by DuckDB, as typed columns: numbers as float64, texts as codes.

The engine reads what is well-formed, in several threads and without holding the file. What it refuses raises
``EngineRefusalError``; the caller finds out where and why.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import Missing, parse_numbers
from gpumlp.data.source.frame import Codes, Column, Numbers, merged
from gpumlp.limits import host_memory
from gpumlp.limits import threads as available_threads

MAX_THREADS = 8
MEMORY_PER_THREAD = 150
"""MB that the engine may hold for each thread."""
MAX_STRANGE_TEXTS = 10_000
"""Different texts of a column of numbers that are looked at, to find out whether all of them mean "no value"."""

EMPTY = "-8.98846567431158e307"
"""What stands for an empty cell between numbers, in SQL: -2^1023, far beyond the numbers that can be used."""
NO_MISSING = Missing(frozenset())

MAX_LINE_BYTES = 1 << 24
"""The longest line of a text file that is read; what is longer is not a table."""

SAMPLE_ROWS = 10_000
_PIECE_BYTES = 1 << 22
_UNKNOWN = 2**32 - 1  # the code of a text that is not in the dictionary yet


class EngineRefusalError(Exception):
    """The engine could not read the file: damaged, ragged, not UTF-8, or beyond its limits."""


class Expressions(Protocol):
    """How the values of a column are computed from the file, in SQL."""

    def number(self, name: str) -> str:
        """Return an expression of type DOUBLE: ``EMPTY`` where empty, infinite or NaN where it is not a number."""

    def text(self, name: str) -> str:
        """Return an expression of type VARCHAR: NULL where empty."""


@dataclass(frozen=True)
class Scan:
    """Columns of one file or query, read as often as asked.

    Parameters
    ----------
    paths : the files that may be read
    rows : what stands behind FROM
    expressions : by column
    kinds : True for each column to be read as numbers, False for texts; the others are not read
    samples : texts of some columns that are likely to occur, so that these are numbered by the engine
    missing : which texts mean "no value"
    parse : texts to numbers, or None where one of them is not a number
    """

    paths: tuple[str, ...]
    rows: str
    expressions: Expressions
    kinds: Mapping[str, bool]
    samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: Missing = NO_MISSING
    decimal: str = "."

    def columns(self) -> dict[str, Column]:
        """Return all rows.

        Raises
        ------
        EngineRefusalError : if the engine cannot read them
        """
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self.kinds}
        texts = self._dictionaries()
        for block in self._blocks(texts):
            for name, values in block.items():
                parts[name].append(values)
        columns: dict[str, Column] = {}
        strange = []
        for name in self.kinds:
            blocks = parts.pop(name)  # its parts are freed before the next column is put together
            empty = np.empty(0, np.float64 if self.kinds[name] else np.uint32)
            joined: NDArray[Any] = np.concatenate(blocks) if blocks else empty
            if not self.kinds[name]:
                columns[name] = merged(list(texts[name]), joined)
                continue
            columns[name] = Numbers(joined, self._rewrite(name))
            if self._blank(joined):
                strange.append(name)
        columns |= self._settled(strange, columns)
        return columns

    def blocks(self) -> Iterator[tuple[int, dict[str, Column]]]:
        """Yield the rows block by block, each with the number of its first row.

        Raises
        ------
        EngineRefusalError : if the engine cannot read them
        """
        texts = self._dictionaries()
        strange: dict[str, Column] = {}  # what became of one infinite value, for each column that has any
        start = 0
        for block in self._blocks(texts):
            columns: dict[str, Column] = {}
            for name, values in block.items():
                if not self.kinds[name]:
                    columns[name] = merged(list(texts[name]), values)
                    continue
                rows = np.arange(start, start + len(values))
                if self._blank(values) and name not in strange:
                    strange |= self._settled([name], {name: Numbers(np.array([np.inf]), self._rewrite(name))})
                verdict = strange.get(name)
                if isinstance(verdict, Codes):
                    columns[name] = verdict.take(rows)
                    continue
                markers: tuple[str, ...] = ()
                if isinstance(verdict, Numbers):
                    values[np.isinf(values)] = verdict.source[0]
                    markers = verdict.markers
                columns[name] = Numbers(values, _Rows(self._rewrite(name), rows), markers)
            yield start, columns
            start += len(next(iter(block.values())))

    def codes(self, names: Sequence[str]) -> dict[str, Codes]:
        """Return columns as texts, whatever they are read as."""
        as_texts = Scan(self.paths, self.rows, self.expressions, dict.fromkeys(names, False), self.samples)
        return {name: column.written() for name, column in as_texts.columns().items()}

    def _rewrite(self, name: str) -> Callable[[], Codes]:
        return lambda: self.codes([name])[name]

    def _blank(self, values: NDArray[np.float64]) -> bool:
        """Put NaN for empty cells and for numbers that mean "no value", and infinity for all that is not a number.

        Return whether there is any of the last.
        """
        strange = ~np.isfinite(values)
        for marker in (float(EMPTY), *self.missing.values):
            values[values == marker] = np.nan
        found = bool(strange.any())
        if found:
            values[strange] = np.inf
        return found

    def _settled(self, names: Sequence[str], columns: Mapping[str, Column]) -> dict[str, Column]:
        """Return columns of numbers in which some cells are not: numbers where these mean "no value", else texts."""
        if not names:
            return {}
        settled: dict[str, Column] = {}
        words = []
        for name, texts in zip(names, self._strange_texts(names), strict=True):
            column = columns[name]
            assert isinstance(column, Numbers)
            stripped = {text.strip() for text in texts}
            if len(texts) <= MAX_STRANGE_TEXTS and all(text in self.missing for text in stripped):
                column.values[np.isinf(column.values)] = np.nan
                markers = tuple(sorted(stripped & self.missing.among_numbers))
                settled[name] = Numbers(column.values, column.rewritten, markers)
            elif self._only_large(texts):
                settled[name] = column  # infinite or beyond float64, which is found where the column is used
            else:
                words.append(name)
        return settled | (dict(self.codes(words)) if words else {})

    def _only_large(self, texts: Sequence[str]) -> bool:
        values = parse_numbers(np.array([text.strip() for text in texts], object), self.decimal)
        return values is not None and bool(np.isinf(values).all())

    def _strange_texts(self, names: Sequence[str]) -> list[list[str]]:
        """Return the texts of each column that are not finite numbers, a few more than are looked at where many."""
        with engine(self.paths) as connection:
            found = []
            for name in names:
                number, text = self.expressions.number(name), self.expressions.text(name)
                query = (
                    f"SELECT DISTINCT {text} FROM {self.rows} WHERE {text} IS NOT NULL AND NOT isfinite({number}) "
                    f"LIMIT {MAX_STRANGE_TEXTS + 1}"
                )
                found.append([str(text) for (text,) in connection.execute(query).fetchall()])
            return found

    def _dictionaries(self) -> dict[str, dict[str, int]]:
        """Return the texts of each column of texts that are known beforehand, numbered; the empty text is 0."""
        known = {}
        for name, number in self.kinds.items():
            if not number:
                texts = [text for text in self.samples.get(name, ()) if text and "\0" not in text]
                known[name] = {text: code for code, text in enumerate(["", *dict.fromkeys(texts)])}
        return known

    def _blocks(self, texts: Mapping[str, dict[str, int]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield float64 values or uint32 codes of each column; texts that are new join their dictionary."""
        selected, types = [], []
        enumerated: dict[str, int] = {}
        for i, (name, number) in enumerate(self.kinds.items()):
            if number:
                selected.append(f"{self.expressions.number(name)} AS v{i}")
                continue
            text, members = self.expressions.text(name), list(texts[name])[1:]
            enumerated[name] = len(members)
            known = "NULL"
            if members:
                types.append(f"CREATE TYPE e{i} AS ENUM ({', '.join(map(literal, members))})")
                known = f"enum_code(TRY_CAST({text} AS e{i}))::UINTEGER + 1"
            code = f"CASE WHEN {text} IS NULL THEN 0 ELSE coalesce({known}, {_UNKNOWN}) END::UINTEGER"
            new = f"CASE WHEN {known} IS NULL THEN {text} END" if members else text
            selected += [f"{code} AS v{i}", f"{new} AS t{i}"]
        with engine(self.paths) as connection:
            for statement in types:
                connection.execute(statement)
            for batch in _batches(connection, f"SELECT {', '.join(selected)} FROM {self.rows}"):
                block, at = {}, 0
                for name, number in self.kinds.items():
                    values = batch[at]
                    at += 1
                    if not number:
                        values = _numbered(values, batch[at], texts[name])
                        at += 1
                    block[name] = values
                yield block


@dataclass(frozen=True)
class _Rows:
    """Some rows of a column that is read again when it is called."""

    column: Callable[[], Codes]
    rows: NDArray[np.int64]

    def __call__(self) -> Codes:
        return self.column().take(self.rows)


def _batches(connection: Any, query: str) -> Iterator[list[Any]]:
    """Yield the columns of each batch of a result: NumPy arrays of numbers, Arrow arrays of text."""
    from arro3.core import RecordBatchReader

    with refusals():
        batches = iter(RecordBatchReader.from_arrow(connection.sql(query)))
    while True:
        try:
            batch = next(batches, None)
        except MemoryError:
            raise
        except Exception as error:  # the reader has no class for what the engine says in the middle of a result
            raise EngineRefusalError(str(error)) from error
        if batch is None:
            return
        columns = [batch.column(i) for i in range(batch.num_columns)]
        yield [column if "Utf8" in str(column.type) else np.array(column) for column in columns]


def _numbered(codes: NDArray[np.uint32], texts: Any, known: dict[str, int]) -> NDArray[np.uint32]:
    """Return the codes with those of the texts that the engine did not know filled in."""
    if texts.null_count == len(texts):
        return codes
    rows = np.flatnonzero(codes == _UNKNOWN)
    new = texts.to_pylist()
    for row in rows.tolist():
        codes[row] = known.setdefault(new[row], len(known))
    return codes


def sampled(paths: Sequence[str], rows: str, texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the different texts that columns have in the first rows.

    Parameters
    ----------
    texts : an expression by column

    Raises
    ------
    EngineRefusalError : if the engine cannot read them
    """
    if not texts:
        return {}
    lists = ", ".join(f"list(DISTINCT v{i}) FILTER (v{i} IS NOT NULL)" for i in range(len(texts)))
    first = ", ".join(f"{text} AS v{i}" for i, text in enumerate(texts.values()))
    with engine(paths) as connection:
        query = f"SELECT {lists} FROM (SELECT {first} FROM {rows} LIMIT {SAMPLE_ROWS})"
        found = connection.execute(query).fetchall()[0]
    return {name: sorted(each or ()) for name, each in zip(texts, found, strict=True)}


def packed_lines(path: Path) -> Iterator[list[str | None]]:
    """Yield the lines of a UTF-8 file packed by Zstandard, without their ends, some at a time; None for an empty one.

    Raises
    ------
    EngineRefusalError : if it is damaged or not UTF-8
    """
    rows = (
        f"read_csv({literal(os.path.abspath(path))}, auto_detect = false, header = false, delim = '', quote = '', "
        "escape = '', columns = {'line': 'VARCHAR'}, compression = 'zstd', strict_mode = false, "
        f"maximum_line_size = {MAX_LINE_BYTES})"
    )
    with engine([str(path)]) as connection:
        for (lines,) in _batches(connection, f"SELECT line FROM {rows}"):
            yield lines.to_pylist()


@contextlib.contextmanager
def engine(paths: Sequence[str], *, for_query: bool = False) -> Iterator[Any]:
    """Open an engine that reads these files and no others, loads nothing and keeps its settings.

    Parameters
    ----------
    paths : absolute or from the working folder; these could be written, too
    for_query : for a query of the user: errors are JSON, and half of the machine's memory may be taken

    Raises
    ------
    EngineRefusalError : for any error of the engine inside
    """
    import duckdb

    threads = min(available_threads(), MAX_THREADS)
    memory = MEMORY_PER_THREAD * max(threads, 2)
    if for_query:
        memory = max(memory, (host_memory() or 0) // 2_000_000)
    settings: dict[str, Any] = {
        "threads": threads,
        "memory_limit": f"{memory}MB",
        "errors_as_json": for_query,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        allowed = ", ".join(literal(os.path.abspath(path)) for path in paths)
        for statement in (
            f"SET allowed_paths = [{allowed}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            connection.execute(statement)
        with refusals():
            yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn errors of the engine into ``EngineRefusalError``."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise EngineRefusalError(str(error)) from error


def literal(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class TextCells:
    """Expressions over the columns of a text file, all of which the engine reads as VARCHAR, named c0, c1, ....

    Parameters
    ----------
    numbers : of each column by its name
    decimal : the decimal mark
    odd : what ``odd_marks`` found in the file
    """

    numbers: Mapping[str, int]
    decimal: str
    odd: tuple[str, ...]

    def text(self, name: str) -> str:
        """Return the cell, NULL where empty."""
        return f"c{self.numbers[name]}"

    def number(self, name: str) -> str:
        """Return the number as Python's ``float`` reads it.

        The engine takes ``1_000`` and ``+-1`` for numbers, which are codes here (``cells.parse_numbers``).
        """
        cell = self.text(name)
        value = f"TRY_CAST({cell} AS DOUBLE)"
        odd = [f"contains({cell}, {literal(mark)})" for mark in self.odd]
        if self.decimal == ",":
            odd.append(f"contains({cell}, '.')")
            value = f"TRY_CAST(replace({cell}, ',', '.') AS DOUBLE)"
        number = f"coalesce({value}, CASE WHEN {cell} IS NULL THEN {EMPTY} ELSE 'inf'::DOUBLE END)"
        return f"CASE WHEN {' OR '.join(odd)} THEN 'inf'::DOUBLE ELSE {number} END" if odd else number


def odd_marks(path: Path) -> tuple[str, ...]:
    """Return which of the marks stand somewhere in a file that make a code of what the engine takes for a number."""
    marks = {"_", "+-"}
    found: set[str] = set()
    with path.open("rb") as stream:
        last = b""
        while marks != found and (piece := stream.read(_PIECE_BYTES)):
            found |= {mark for mark in marks - found if mark.encode() in piece or mark.encode() in last + piece[:1]}
            last = piece[-1:]
    return tuple(sorted(found))


def has_blank_lines(path: Path) -> bool:
    """Return whether two ends of lines follow each other, and then something else."""
    with path.open("rb") as stream:
        last = b""
        while piece := stream.read(_PIECE_BYTES):
            joined = last + piece
            for two in (b"\n\n", b"\n\r\n"):
                at = joined.find(two)
                if at >= 0 and (joined[at:].strip() or any(rest.strip() for rest in iter(stream.readline, b""))):
                    return True
            last = piece[-2:]
    return False


def delimited_rows(path: Path, width: int, *, separator: str, quote: str | None, skip: int) -> str:
    """Return the rows of a delimited UTF-8 file, for FROM: columns c0, c1, ... of VARCHAR.

    Parameters
    ----------
    skip : lines before the first row
    """
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
    mark = literal(quote or "")
    return (
        f"read_csv({literal(os.path.abspath(path))}, auto_detect = false, header = false, skip = {skip}, "
        f"delim = {literal(separator)}, quote = {mark}, escape = {mark}, columns = {{{columns}}}, "
        "compression = 'none', strict_mode = true, null_padding = false)"
    )

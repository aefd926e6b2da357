"""Files read by DuckDB, as typed columns: numbers as float64, texts as codes.

The engine reads what is well-formed, in several threads and without holding the file. What it refuses raises
``EngineRefusalError``; the caller finds out where and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import Missing, parse_numbers
from gpumlp.data.source.frame import Codes, Column, Numbers, merged
from gpumlp.data.source.room import room
from gpumlp.limits import host_memory, in_threads, return_freed_memory
from gpumlp.limits import threads as available_threads

MAX_THREADS = 8
MEMORY_PER_THREAD = 150
"""MB that the engine may hold for each thread."""
MAX_STRANGE_TEXTS = 10_000
"""Different texts of a column of numbers that are looked at, to find out whether all of them mean "no value"."""

MAX_KEPT_TEXTS = 1 << 17
"""Different texts of a column that are remembered from one block of rows to the next."""

SLOTS_PER_TEXT, MAX_SLOT_BITS = 16, 20
"""Slots of the table by which texts are found, for each of them, and the logarithm of the most there are."""

FIRST_ROWS = 2000
"""Rows of a column of text that are looked at first: most have all their texts in them."""

AHEAD_MB = 32
"""MB of a result that the engine may compute before they are asked for, so that nobody waits for anybody."""

TABLE = "arrow_table"
"""What an Arrow table is called in SQL."""
NO_MISSING = Missing(frozenset())

BUFFER_BYTES = 1 << 22
"""Bytes of a text file that the engine reads at a time, twice the longest line that it takes.

With eight times as many it needs 100 MB more, and is no faster.
"""

MAX_LINE_BYTES = 1 << 24
"""The longest line of a text file that is read; what is longer is not a table."""

_PIECE_BYTES, _CACHED_BYTES, _PART_BYTES = 1 << 22, 1 << 19, 1 << 24


class EngineRefusalError(Exception):
    """The engine could not read the file: damaged, ragged, not UTF-8, or beyond its limits."""


class Expressions(Protocol):
    """How the values of a column are computed from the file, in SQL.

    Attributes
    ----------
    has_nan
        Whether a number that is NaN is missing; else the cell is not a number.
    """

    has_nan: bool

    def number(self, name: str) -> str:
        """Return an expression of type DOUBLE: NULL where empty, infinite or NaN where it is not a number."""

    def text(self, name: str) -> str:
        """Return an expression of type VARCHAR: NULL where empty."""


@dataclass(frozen=True)
class Scan:
    """Columns of one file or query, read as often as asked.

    Parameters
    ----------
    paths
        The files that may be read.
    rows
        What stands behind FROM.
    expressions
        By column.
    kinds
        True for each column to be read as numbers, False for texts; the others are not read.
    missing
        Which texts mean "no value".
    decimal
        The decimal mark of numbers in texts.
    parsed
        The same rows in a faster form, which the engine refuses where a cell of some columns is not a number.
    about
        How many rows there may be: memory for so many is kept ready.
    table
        An Arrow table that is called ``TABLE``.
    shares
        How many readers the columns are divided among, each with an engine of its own: of a Parquet file the engine
        gives one thread to each group of rows, and many files have one.
    """

    paths: tuple[str, ...]
    rows: str
    expressions: Expressions
    kinds: Mapping[str, bool]
    missing: Missing = NO_MISSING
    decimal: str = "."
    parsed: tuple[str, Expressions] | None = None
    about: int = 0
    table: Any = None
    shares: int = 1

    def columns(self) -> dict[str, Column]:
        """Return all rows.

        Raises
        ------
        EngineRefusalError
            If the engine cannot read them.
        """
        space = room()
        texts = {name: _Dictionary() for name, number in self.kinds.items() if not number}
        growing = {
            name: space.growing(np.float64 if number else np.int32, self.about) for name, number in self.kinds.items()
        }

        def read(names: Sequence[str]) -> set[str]:
            """Read some columns to their ends; return those of numbers in which some cells are not."""
            strange: set[str] = set()
            part = self if len(names) == len(self.kinds) else replace(self, kinds={n: self.kinds[n] for n in names})
            for block in part._blocks(texts):
                if ended.is_set():
                    break
                for name, (values, has_strange) in block.items():
                    growing[name].extend(values)
                    if has_strange:
                        strange.add(name)
            return strange

        every, ended = list(self.kinds), threading.Event()
        # The file of the room is written by one thread.
        shares = 1 if any(each.is_in_file for each in growing.values()) else self.shares
        with ThreadPoolExecutor(shares) as pool:
            try:
                sets = pool.map(read, [every[i::shares] for i in range(shares)]) if shares > 1 else [read(every)]
                strange = set().union(*sets)
            except BaseException:
                ended.set()
                raise
        columns: dict[str, Column] = {}
        for name, number in self.kinds.items():
            whole = growing.pop(name).whole()
            columns[name] = (
                Numbers(whole, self._rewrite(name)) if number else merged(texts[name].texts, whole).in_room()
            )
        columns |= self._settled([name for name in every if name in strange], columns)
        return columns

    def blocks(self) -> Iterator[tuple[int, dict[str, Column]]]:
        """Yield the rows block by block, each with the number of its first row.

        Raises
        ------
        EngineRefusalError
            If the engine cannot read them.
        """
        texts = {name: _Dictionary() for name, number in self.kinds.items() if not number}
        strange: dict[str, Column] = {}  # what became of one infinite value, for each column that has any
        start = 0
        for block in self._blocks(texts):
            columns: dict[str, Column] = {}
            for name, (values, has_strange) in block.items():
                if not self.kinds[name]:
                    columns[name] = merged(texts[name].texts, values)
                    if len(texts[name].texts) > MAX_KEPT_TEXTS:  # as of names, which are no use for the next block
                        texts[name].clear()
                    continue
                rows = np.arange(start, start + len(values))
                if has_strange and name not in strange:
                    strange |= self._settled([name], {name: Numbers(np.array([np.inf]), self._rewrite(name))})
                verdict = strange.get(name)
                if isinstance(verdict, Codes):
                    columns[name] = verdict.take(rows)
                    continue
                markers: tuple[str, ...] = ()
                if isinstance(verdict, Numbers):
                    markers = verdict.markers
                    if has_strange:
                        values[np.isinf(values)] = verdict.source[0]
                columns[name] = Numbers(values, _Rows(self._rewrite(name), rows), markers)
            yield start, columns
            start += _length(block)

    def codes(self, names: Sequence[str]) -> dict[str, Codes]:
        """Return columns as texts, whatever they are read as."""
        as_texts = Scan(self.paths, self.rows, self.expressions, dict.fromkeys(names, False), table=self.table)
        return {name: column.written() for name, column in as_texts.columns().items()}

    def matching(self, pattern: str, mark: str) -> list[str]:
        """Return the columns in which all texts match, but for those that mean "no value", and some hold a mark.

        Parameters
        ----------
        pattern
            Pattern that blanks may surround.
        mark
            What some of the texts have in them.

        Raises
        ------
        EngineRefusalError
            If the engine cannot read them.
        """
        missing = ", ".join(map(literal, sorted({"", *self.missing.anywhere, *self.missing.among_numbers})))
        conditions = []
        for name in self.kinds:
            text = f"trim({self.expressions.text(name)})"
            fits = f"bool_and({text} IN ({missing}) OR regexp_full_match({text}, {literal(pattern)}))"
            conditions.append(f"coalesce({fits} AND bool_or(contains({text}, {literal(mark)})), false)")
        with engine(self.paths, table=self.table) as connection:
            (flags,) = connection.execute(f"SELECT {', '.join(conditions)} FROM {self.rows}").fetchall()
        return [name for name, matches in zip(self.kinds, flags, strict=True) if matches]

    def _rewrite(self, name: str) -> Callable[[], Codes]:
        return lambda: self.codes([name])[name]

    def _cleared(self, values: NDArray[Any], gaps: NDArray[np.bool_] | None) -> tuple[NDArray[Any], bool]:
        """Put NaN for empty cells and for numbers that mean "no value", and infinity for all that is not a number.

        Return the numbers, and whether there is any of the last.
        """
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))  # NaN where there is any
        markers = self.missing.values
        if gaps is None and np.isfinite((low, high)).all() and not any(low <= marker <= high for marker in markers):
            return values, False
        values = values.copy()
        if gaps is not None:
            values[gaps] = 0.0
        strange = np.isinf(values) if self.expressions.has_nan else ~np.isfinite(values)
        for marker in markers:
            values[values == marker] = np.nan
        if gaps is not None:
            values[gaps] = np.nan
        has_strange = bool(strange.any())
        if has_strange:
            values[strange] = np.inf
        return values, has_strange

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
        with engine(self.paths, table=self.table) as connection:
            texts_of = []
            for name in names:
                number, text = self.expressions.number(name), self.expressions.text(name)
                query = (
                    f"SELECT DISTINCT {text} FROM {self.rows} WHERE {text} IS NOT NULL AND NOT isfinite({number}) "
                    f"LIMIT {MAX_STRANGE_TEXTS + 1}"
                )
                texts_of.append([str(text) for (text,) in connection.execute(query).fetchall()])
            return texts_of

    def _blocks(self, texts: Mapping[str, _Dictionary]) -> Iterator[dict[str, tuple[NDArray[Any], bool]]]:
        """Yield float64 values or int32 codes of each column; texts that are new join their dictionary.

        With them comes whether there is infinity for what is not a number.
        """
        done = 0
        if self.parsed is not None:
            try:
                for block in self._selected(*self.parsed, texts):
                    yield block
                    done += _length(block)
                return
            except EngineRefusalError:
                pass  # a cell that is not a number, or a file that is refused below, too
        for block in self._selected(self.rows, self.expressions, texts):
            count = _length(block)
            if done < count:
                yield {name: (values[done:], strange) for name, (values, strange) in block.items()}
            done = max(done - count, 0)

    def _selected(
        self, rows: str, expressions: Expressions, texts: Mapping[str, _Dictionary]
    ) -> Iterator[dict[str, tuple[NDArray[Any], bool]]]:
        selected = []
        for i, (name, number) in enumerate(self.kinds.items()):
            if number:
                selected.append(f"{expressions.number(name)} AS v{i}")
            else:
                text = expressions.text(name)
                selected += [f"hash({text}) AS v{i}", f"{text} AS t{i}"]
        with engine(self.paths, table=self.table) as connection:
            batches = _batches(connection, f"SELECT {', '.join(selected)} FROM {rows}")
            with contextlib.closing(_ahead(batches)) as batches:
                for batch in batches:
                    columns = iter(batch)
                    yield {
                        name: self._cleared(*_cells(next(columns), np.float64))
                        if number
                        else (texts[name].codes(_cells(next(columns), np.uint64)[0], next(columns)), False)
                        for name, number in self.kinds.items()
                    }


def _length(block: Mapping[str, tuple[NDArray[Any], bool]]) -> int:
    """Return the rows of a block."""
    return len(next(iter(block.values()))[0])


class _Exported(ctypes.Structure):
    """The start of an array in Arrow's C interface.

    References
    ----------
    https://arrow.apache.org/docs/format/CDataInterface.html
    """

    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    )


_in_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _cells(column: Any, dtype: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the numbers of an Arrow array as they lie in its memory, and which of them are NULL; None for none.

    The array's own conversion makes a copy, and has no place for NULL.
    """
    _, capsule = column.__arrow_c_array__()
    exported = _Exported.from_address(_in_capsule(capsule, b"arrow_array"))
    start, end = exported.offset, exported.offset + exported.length
    if start == end:
        return np.empty(0, dtype), None

    def buffer(number: int, size: int) -> Any:
        memory: Any = (ctypes.c_char * size).from_address(exported.buffers[number])
        memory.owner = capsule
        return memory

    values = np.frombuffer(buffer(1, end * np.dtype(dtype).itemsize), dtype)[start:]
    values.flags.writeable = False
    if not column.null_count:
        return values, None
    there = np.unpackbits(np.frombuffer(buffer(0, -(-end // 8)), np.uint8), count=end, bitorder="little")
    return values, there[start:] == 0


def _ahead(batches: Iterator[list[Any]]) -> Generator[list[Any]]:
    """Yield batches, each of which a thread makes while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _arrow(values: NDArray[Any]) -> Any:
    from arro3.core import Array

    return Array.from_numpy(values)


class _Dictionary:
    """The texts of a column, numbered as they come, found by the hashes of 64 bits that the engine gives them.

    Two of n texts share a hash with a probability of n² / 2^65: of a million texts, 3e-8.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all texts."""
        self.texts: list[str] = []
        self._learn(np.empty(0, np.uint64), np.empty(0, np.int32))

    def _learn(self, hashes: NDArray[np.uint64], codes: NDArray[np.int32]) -> None:
        """Take the hashes of all texts, sorted, and their codes."""
        self._hashes, self._codes = hashes, codes
        # Most are found in one step, where the first bits of a hash lead; of two with the same ones, one is.
        bits = min(max(8, (SLOTS_PER_TEXT * len(hashes)).bit_length()), MAX_SLOT_BITS)
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(1 << bits, np.int64)
        self._slots[hashes >> self._shift] = np.arange(len(hashes))

    def codes(self, hashes: NDArray[np.uint64], texts: Any) -> NDArray[np.int32]:
        """Return the code of each row, (n,), given the hashes of the rows and the texts as an Arrow array."""
        if not len(self._hashes):
            self._add(hashes, np.arange(min(len(hashes), FIRST_ROWS)), texts)
        slots, unknown = self._slots_of(hashes)
        if len(unknown):
            self._add(hashes, unknown, texts)
            slots, _ = self._slots_of(hashes)
        codes: NDArray[np.int32] = self._codes[slots]
        return codes

    def _add(self, hashes: NDArray[np.uint64], rows: NDArray[np.int64], texts: Any) -> None:
        """Learn the texts of some rows, none of which is known."""
        new, first = np.unique(hashes[rows], return_index=True)
        new, first = new[order := np.argsort(first)], first[order]  # as ``merged`` numbers them
        codes = np.arange(len(self.texts), len(self.texts) + len(new), dtype=np.int32)
        self.texts += [text or "" for text in texts.take(_arrow(rows[first].astype(np.uint64))).to_pylist()]
        joined = np.concatenate([self._hashes, new])
        order = np.argsort(joined)
        self._learn(joined[order], np.concatenate([self._codes, codes])[order])

    def _slots_of(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the hashes stand among the known ones, and the rows of those that are not known."""
        slots: NDArray[np.int64] = self._slots[(hashes >> self._shift).view(np.int64)]
        astray = np.flatnonzero(self._hashes[slots] != hashes)
        if len(astray):
            others = hashes[astray]
            nearest = np.searchsorted(self._hashes, others).clip(max=len(self._hashes) - 1)
            slots[astray] = nearest
            astray = astray[self._hashes[nearest] != others]
        return slots, astray


@dataclass(frozen=True)
class _Rows:
    """Some rows of a column that is read again when it is called."""

    column: Callable[[], Codes]
    rows: NDArray[np.int64]

    def __call__(self) -> Codes:
        return self.column().take(self.rows)


def _batches(connection: Any, query: str) -> Iterator[list[Any]]:
    """Yield the columns of each batch of a result, Arrow arrays."""
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
        yield [batch.column(i) for i in range(batch.num_columns)]


def packed_lines(path: Path) -> Iterator[list[str | None]]:
    """Yield the lines of a UTF-8 file packed by Zstandard, without their ends, some at a time; None for an empty one.

    Raises
    ------
    EngineRefusalError
        If it is damaged or not UTF-8.
    """
    with engine([str(path)]) as connection:
        for (lines,) in _batches(connection, f"SELECT line FROM {_packed_rows(path)}"):
            yield lines.to_pylist()


def packed_line_count(path: Path) -> int:
    """Return how many lines a packed file has.

    Raises
    ------
    EngineRefusalError
        If it is damaged or not UTF-8.
    """
    with engine([str(path)]) as connection:
        ((count,),) = connection.execute(f"SELECT count(*) FROM {_packed_rows(path)}").fetchall()
    return int(count)


def _packed_rows(path: Path) -> str:
    """Return the lines of a packed UTF-8 file, for FROM: one column, ``line``."""
    return (
        f"read_csv({literal(os.path.abspath(path))}, auto_detect = false, header = false, delim = '', quote = '', "
        "escape = '', columns = {'line': 'VARCHAR'}, strict_mode = false, "
        f"compression = '{'zstd' if path.name.lower().endswith('.zst') else 'gzip'}', "
        f"maximum_line_size = {MAX_LINE_BYTES})"
    )


def engine_threads() -> int:
    """Return how many threads an engine reads with."""
    return min(available_threads(), MAX_THREADS)


@contextlib.contextmanager
def engine(paths: Sequence[str], *, for_query: bool = False, table: Any = None) -> Iterator[Any]:
    """Open an engine that reads these files and no others, loads nothing and keeps its settings.

    Parameters
    ----------
    paths
        Absolute or from the working folder; these could be written, too.
    for_query
        For a query of the user: errors are JSON, and half of the machine's memory may be taken.
    table
        An Arrow table, to be called ``TABLE``.

    Raises
    ------
    EngineRefusalError
        For any error of the engine inside.
    """
    import duckdb

    threads = engine_threads()
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
            "SET disable_parquet_prefetching = true",
            "SET TimeZone = 'UTC'",  # else times with a zone are written by the clock of the machine
            f"SET streaming_buffer_size = '{AHEAD_MB}MB'",
            "SET lock_configuration = true",
        ):
            connection.execute(statement)
        with refusals():
            if table is not None:
                connection.register(TABLE, table)
            yield connection
    finally:
        connection.close()
        return_freed_memory()  # a hundred megabytes, after a large file


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn errors of the engine into ``EngineRefusalError``."""
    import duckdb

    try:
        with interruptions():
            yield
    except duckdb.Error as error:
        raise EngineRefusalError(str(error)) from error


@contextlib.contextmanager
def interruptions() -> Iterator[None]:
    """Raise KeyboardInterrupt where a signal ended a call of the engine, which replaces what our handler raised."""
    import duckdb

    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None


def by_thread(connection: Any, call: Callable[[], object]) -> None:
    """Call what may take any time in a thread: a signal interrupts the engine at once.

    In the main thread the engine looks for signals between its tasks, one of which may take hours (a join).
    """
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(call)
        try:
            done.result()
        except BaseException:
            connection.interrupt()
            raise


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
    numbers
        Numbers of each column by its name.
    decimal
        The decimal mark.
    odd
        As in ``TextFacts``.
    """

    numbers: Mapping[str, int]
    decimal: str
    odd: tuple[str, ...]
    has_nan = False

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
        number = f"coalesce({value}, CASE WHEN {cell} IS NULL THEN NULL ELSE 'inf'::DOUBLE END)"
        return f"CASE WHEN {' OR '.join(odd)} THEN 'inf'::DOUBLE ELSE {number} END" if odd else number


@dataclass(frozen=True)
class ParsedCells:
    """Expressions over the columns of a text file of which the engine reads some as DOUBLE, refusing other cells.

    Parameters
    ----------
    cells
        The expressions where all columns are read as VARCHAR.
    parsed
        Columns that are read as DOUBLE.
    """

    cells: TextCells
    parsed: Collection[str]
    has_nan = False

    def text(self, name: str) -> str:
        """Return the cell of a column that is read as VARCHAR, NULL where empty."""
        return self.cells.text(name)

    def number(self, name: str) -> str:
        """Return the number as ``TextCells`` does."""
        return self.cells.text(name) if name in self.parsed else self.cells.number(name)


@dataclass(frozen=True)
class TextFacts:
    """What the bytes of a text file tell.

    Parameters
    ----------
    odd
        The marks among ``_`` and ``+-`` that stand somewhere: they make codes of what the engine takes for numbers.
    lines
        How many lines there are; the last may have no end.
    """

    odd: tuple[str, ...]
    lines: int


def text_facts(path: Path) -> TextFacts:
    """Look through a file once, at the speed of memory."""
    status = path.stat()
    return _text_facts(path, status.st_size, status.st_mtime_ns)


@lru_cache(4)
def _text_facts(path: Path, size: int, changed: int) -> TextFacts:
    def look(start: int) -> tuple[set[str], int]:
        """Return which marks begin in a part of the file, and how many lines end there, or with the file."""
        odd, ends, last, left = set(), 0, b"", _PART_BYTES
        buffer, is_end = bytearray(_CACHED_BYTES), np.empty(_CACHED_BYTES, bool)  # both lie in a cache
        with path.open("rb", buffering=0) as stream:
            stream.seek(start)
            while left > 0 and (count := stream.readinto(memoryview(buffer)[:left])):
                piece = buffer if count == len(buffer) else buffer[:count]
                ends += int(np.count_nonzero(np.equal(np.frombuffer(piece, np.uint8), 10, out=is_end[:count])))
                if b"_" in piece:
                    odd.add("_")
                if (b"+" in piece and b"+-" in piece) or last + piece[:1] == b"+-":
                    odd.add("+-")
                last, left = bytes(piece[-1:]), left - count
            following = stream.read(1)
            if last + following == b"+-":
                odd.add("+-")
            ends += not following and last not in (b"", b"\n")
        return odd, ends

    odd, ends = zip(*in_threads(look, range(0, max(size, 1), _PART_BYTES)), strict=True)
    return TextFacts(tuple(sorted(set().union(*odd))), sum(ends))


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


def delimited_rows(
    path: Path, width: int, *, separator: str, quote: str | None, skip: int, doubles: Collection[int] = ()
) -> str:
    """Return the rows of a delimited UTF-8 file, for FROM: columns c0, c1, ... of VARCHAR.

    Parameters
    ----------
    path
        The file.
    width
        Columns of each row.
    separator
        Between cells, one character.
    quote
        Around cells; None for no quoting.
    skip
        Lines before the first row.
    doubles
        Numbers of columns that are DOUBLE instead; the engine refuses a file with another cell there.
    """
    columns = ", ".join(f"'c{i}': '{'DOUBLE' if i in doubles else 'VARCHAR'}'" for i in range(width))
    mark = literal(quote or "")
    return (
        f"read_csv({literal(os.path.abspath(path))}, auto_detect = false, header = false, skip = {skip}, "
        f"delim = {literal(separator)}, quote = {mark}, escape = {mark}, columns = {{{columns}}}, "
        f"compression = 'none', strict_mode = true, null_padding = false, buffer_size = {BUFFER_BYTES})"
    )

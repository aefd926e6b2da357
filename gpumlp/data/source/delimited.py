"""Delimited text: perhaps a line of column names, then one row per line. How it is written is found out."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import Floats, Missing, parse_numbers
from gpumlp.data.source.dialect import DETECT, QUOTES, Dialect
from gpumlp.data.source.engine import (
    MAX_LINE_BYTES,
    NO_MISSING,
    EngineRefusalError,
    ParsedCells,
    Scan,
    TextCells,
    delimited_rows,
    has_blank_lines,
    text_facts,
)
from gpumlp.data.source.files import COPY_BYTES, open_binary, plain_copy, unpacked_name
from gpumlp.data.source.frame import Codes, Column, Frame, Numbers, merged, require_memory
from gpumlp.data.source.room import room
from gpumlp.data.source.sniff import (
    DECIMAL_COMMA,
    SAMPLE,
    Blanks,
    Row,
    find_decimal,
    find_separator,
    single_blanks,
    sniffed,
    split_rows,
)
from gpumlp.errors import DataError, Note, shown

# Rows become columns in portions of this size: the whole file is never held as lists of cells.
_PORTION, _PORTION_CELLS = 8192, 1 << 21

START_CELLS = 20_000
"""Cells that are read here to find out what the columns hold."""

START_BYTES = 50
"""Bytes for each of these cells that a short file has at most, which is read here while the engine would load."""

PACKED_BYTES = 8
"""Bytes of a short file that are one once it is packed."""

BLOCK_CELLS = 2_000_000
"""Cells of a block of rows that is read here."""

MAX_COLUMNS = 100_000
"""Columns of a table at the most."""

ENGINE_COLUMNS = 1000
"""Columns of a text file that the engine reads: above, its time grows with their square."""

SAMPLE_CHARS = 1 << 20
"""Characters of the first lines that are looked at, a little more: lines may be long."""

MAX_NAME = 2000
"""Characters of a column name at the most."""

_GUESSED_FROM = 100  # different texts of a column

# What a text is that is not UTF-8, more often than anything else.
_FALLBACK = "cp1252"

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip

_SEPARATOR_LINE = re.compile(r"sep=([^\w\s\"']|\t)\r?\n", re.IGNORECASE)

_OTHER_KINDS = {b"\x1f\x8b": "gzip data, perhaps packed twice", b"\x28\xb5\x2f\xfd": "Zstandard data",
                b"PAR1": "a Parquet file", b"PK\3\4": "a ZIP archive, as of a spreadsheet"}  # fmt: skip

Opened = Callable[[], AbstractContextManager[IO[bytes]]]
Again = Callable[[Sequence[str]], dict[str, Codes]]


def read_delimited(
    path: Path, dialect: Dialect = DETECT, *, limit: int | None = None, texts: Collection[str] = ()
) -> Frame:
    """Read a delimited file, gzip if its name ends in ``.gz``; ``.tsv`` is separated by tabs unless told otherwise.

    In ``.data`` and ``.test``, which are C4.5 files, a line that begins with ``|`` is a comment, and a point at the
    end of a line is no part of the last cell (Quinlan 1993, C4.5).

    Parameters
    ----------
    path
        Path of the file.
    dialect
        How it is written, as far as that is known.
    limit
        Lines to read; None for all.
    texts
        Columns that are texts, even where all of them are numbers.

    Raises
    ------
    DataError
        If the file cannot be read as a table; the message names the line.
    """
    return _of_its_kind(path, dialect).read(limit=limit, texts=texts)


def delimited_blocks(path: Path, dialect: Dialect, *, texts: Collection[str] = ()) -> Iterator[Frame]:
    """Yield a delimited file, as ``read_delimited`` reads it, some rows at a time.

    Raises
    ------
    DataError
        As ``read_delimited`` does; rows before a line that is wrong may have been yielded.
    """
    return _of_its_kind(path, dialect).blocks(texts=texts)


def _of_its_kind(path: Path, dialect: Dialect) -> TextFile:
    """Return a file whose name tells how it is written."""
    name = unpacked_name(path)
    if name.endswith(".tsv") and dialect.separator is None:
        dialect = replace(dialect, separator="\t")
    return text_file(path, dialect, clean=_c45 if name.endswith((".data", ".test")) else iter)


def read_bytes(content: bytes, dialect: Dialect = DETECT, *, name: str = "standard input") -> Frame:
    """Read a table from the bytes of a delimited file.

    Raises
    ------
    DataError
        As ``read_delimited`` does.
    """
    return TextFile(name, lambda: contextlib.nullcontext(io.BytesIO(content)), dialect).read()


def stream_blocks(stream: IO[bytes], dialect: Dialect, *, texts: Collection[str] = ()) -> Iterator[Frame]:
    """Yield the rows of standard input some at a time; what is long goes to a temporary file first.

    Raises
    ------
    DataError
        As ``delimited_blocks`` does.
    """
    name, start = "standard input", stream.read(COPY_BYTES)
    if len(start) < COPY_BYTES:
        yield read_bytes(start, dialect, name=name)
        return
    descriptor, copied = tempfile.mkstemp(suffix=".csv", prefix="gpumlp-")
    path = Path(copied)
    try:
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(start)
            shutil.copyfileobj(stream, copy, COPY_BYTES)
        yield from TextFile(name, lambda: open_binary(path), dialect, path=path).blocks(texts=texts)
    finally:
        path.unlink(missing_ok=True)


def read_lines(lines: Iterable[str], dialect: Dialect = DETECT, *, name: str = "standard input") -> Frame:
    r"""Read a table from lines of text with their ends, each ``\n`` or ``\r\n``.

    Raises
    ------
    DataError
        If the lines are not a table.
    """
    return _Start(lines, dialect, name).whole()


def text_file(
    path: Path,
    dialect: Dialect,
    *,
    clean: Callable[[Iterable[str]], Iterator[str]] = iter,
    names: tuple[str, ...] | None = None,
) -> TextFile:
    """Return a delimited file, to be opened as often as it is looked at.

    Raises
    ------
    DataError
        If it is packed by Zstandard and damaged.
    """
    if not path.name.lower().endswith(".zst"):
        return TextFile(str(path), lambda: open_binary(path), dialect, clean, path, names)
    owner = _Owner()
    copy = plain_copy(path, owner)
    return TextFile(str(path), lambda: open_binary(copy), dialect, clean, copy, names, owner)


class _Owner:
    """Something that a temporary file lives as long as."""


@dataclass(frozen=True)
class TextFile:
    """A delimited text, opened as often as it is looked at.

    Parameters
    ----------
    name
        What to call it in messages.
    opened
        Opens its bytes.
    dialect
        How it is written, as far as that is known.
    clean
        Turns its lines into those of a plain file, as many as there were.
    path
        Where it lies; None if it is not a file.
    names
        Names of the columns; None where the file tells them.
    owner
        Owner of the temporary file that ``path`` is, if it is one.
    """

    name: str
    opened: Opened
    dialect: Dialect
    clean: Callable[[Iterable[str]], Iterator[str]] = iter
    path: Path | None = None
    names: tuple[str, ...] | None = None
    owner: object = None

    def read(self, *, limit: int | None = None, texts: Collection[str] = ()) -> Frame:
        """Decode and read: by the encoding that is given, or by its mark, or as UTF-8, or else as what is usual.

        What was found is not kept for later files: unlike a header, each of them tells its own.

        Raises
        ------
        DataError
            If this is not a table; the message names the line.
        """
        with self.opened() as stream:
            start = stream.read(4)
        if kind := next((kind for mark, kind in _OTHER_KINDS.items() if start.startswith(mark)), None):
            raise DataError(
                f"this is {kind}, not text",
                where=self.name,
                hint="unpack it, or name it by its content, as in a.csv.gz",
            )
        marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")
        encoding = self.dialect.encoding or marked
        try:
            frame = self._attempt(encoding, limit, texts)
            return replace(frame, notes=(*frame.notes, *_doubts(self.opened, self.name, encoding)))
        except UnicodeError as error:
            undecodable = _undecodable(self.opened, self.name, encoding, error)
            if self.dialect.encoding or marked != "utf-8":
                raise undecodable from error
        try:
            frame = self._attempt(_FALLBACK, limit, texts)
        except UnicodeError as error:
            raise undecodable from error
        why = f"{undecodable.where}: {undecodable.what}, so the file is read as {_FALLBACK}"
        return replace(frame, notes=(*frame.notes, Note(f"{why}; set data.encoding if that is wrong")))

    @contextlib.contextmanager
    def lines(self, encoding: str) -> Iterator[Iterator[str]]:
        """Open the file as lines of text."""
        with self.opened() as stream, io.TextIOWrapper(stream, encoding, newline="\n") as lines:
            yield self.clean(_bounded(lines, self.name))

    def _attempt(self, encoding: str, limit: int | None, texts: Collection[str]) -> Frame:
        with self.lines(encoding) as lines:
            start = self._start(islice(lines, limit))
            narrow = 1 < len(start.names) <= ENGINE_COLUMNS
            if self.path is None or limit is not None or start.is_whole or not narrow:
                again = None if self.path is None or limit is not None else partial(self._again, encoding)
                frame = start.whole(again, texts)
                return replace(frame, notes=(*frame.notes, *self._skipped(start.blanks.count)))
            try:
                return self._by_engine(start, encoding, texts)
            except EngineRefusalError:
                with self.lines(encoding) as anew:  # most files that it refuses are ragged: this finds the line
                    _Start(anew, self.dialect, self.name, self.names).check()
                return start.whole()

    def _start(self, lines: Iterable[str]) -> _Start:
        """Return the start of the table, all of it where it is short."""
        short = False
        if self.path is not None:
            packed = PACKED_BYTES if self.path.name.lower().endswith(".gz") else 1
            short = packed * self.path.stat().st_size <= START_CELLS * START_BYTES
        return _Start(lines, self.dialect, self.name, self.names, short=short)

    def _again(self, encoding: str, names: Sequence[str]) -> dict[str, Codes]:
        """Read some columns from the start, as they are written."""
        with self.lines(encoding) as lines:
            return _Start(lines, self.dialect, self.name, self.names).written(names)

    def blocks(self, *, texts: Collection[str] = ()) -> Iterator[Frame]:
        """Yield the rows, some at a time; a short file at once.

        Raises
        ------
        DataError
            If this is not a table; the message names the line.
        """
        encoding = self.dialect.encoding or self._encoding()
        if encoding is None:  # only all bytes tell
            yield self.read(texts=texts)
            return
        with self.lines(encoding) as lines:
            start = self._start(lines)
            by_engine = self.path is not None and not start.is_whole and 1 < len(start.names) <= ENGINE_COLUMNS
            if self.dialect.decimal is None and not (by_engine and self._has_decimal_points(start, encoding)):
                yield self.read(texts=texts)
                return
            done = 0
            if by_engine:
                try:
                    scan, where = self._scan(start, encoding, texts, self.dialect.decimal or ".")
                    dialect = replace(start.dialect, decimal=scan.decimal)
                    notes = _notes_on(self.name, self.dialect, dialect, len(start.names))
                    for first, columns in scan.blocks():
                        rows = np.arange(first, first + len(next(iter(columns.values()))))
                        yield Frame(self.name, columns, where, dialect, () if first else notes, rows)
                        done = int(rows[-1]) + 1
                    return
                except EngineRefusalError:
                    with self.lines(encoding) as again:
                        _Start(again, self.dialect, self.name, self.names).check()
            yield from start.blocks(done)

    def _has_decimal_points(self, start: _Start, encoding: str) -> bool:
        """Return whether in no column all cells may be numbers with a decimal comma, some of them clearly."""
        with contextlib.suppress(EngineRefusalError):
            scan, _ = self._scan(start, encoding, (), ".")
            return find_decimal([c.texts for c in start.sample.values()], start.dialect.missing) == "." and not (
                scan.matching(DECIMAL_COMMA.pattern, ",")
            )
        return False

    def _encoding(self) -> str | None:
        """Return the encoding by the file's mark, or UTF-8 where all of it is; None for anything else."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self.opened() as stream:
            piece = stream.read(COPY_BYTES)
            if marked := next((encoding for mark, encoding in _MARKS.items() if piece.startswith(mark)), None):
                return marked
            try:
                while piece:
                    decoder.decode(piece)
                    piece = stream.read(COPY_BYTES)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                return None
        return "utf-8"

    def _scan(
        self, start: _Start, encoding: str, texts: Collection[str], decimal: str
    ) -> tuple[Scan, Callable[[int], str]]:
        """Return how the engine reads the file, having seen its start, and what finds the line of a row."""
        dialect, names = start.dialect, start.names
        assert dialect.separator is not None
        assert dialect.quote is not None
        path = self._plain(encoding, dialect)
        rows = partial(
            delimited_rows,
            path,
            len(names),
            separator=dialect.separator,
            quote=QUOTES[dialect.quote],
            skip=start.lines[0] - 1,
        )
        sample = start.sample
        numeric = {name: _seems_numeric(column, dialect.missing, decimal) for name, column in sample.items()}
        kinds = {name: number and name not in texts for name, number in numeric.items()}
        facts = text_facts(path)
        about = facts.lines - start.lines[0] + 1
        cells = TextCells({name: i for i, name in enumerate(names)}, decimal, facts.odd)
        parsed = None
        if decimal == "." and not cells.odd:
            doubles = {name: i for i, name in enumerate(names) if kinds[name] and _is_plain(sample[name])}
            parsed = rows(doubles=doubles.values()), ParsedCells(cells, doubles)

        def where(row: int) -> str:
            with self.lines(encoding) as lines:
                return f"{self.name}:{_Start(lines, self.dialect, self.name, self.names).line(row)}"

        scan = Scan((str(path),), rows(), cells, kinds, dialect.missing, decimal, parsed, about)
        return scan, where

    def _by_engine(self, start: _Start, encoding: str, texts: Collection[str]) -> Frame:
        """Read the whole file with the engine, having seen its start."""
        start_dialect, sample = start.dialect, start.sample
        decimal = start_dialect.decimal or find_decimal(
            [column.texts for column in sample.values()], start_dialect.missing
        )
        while True:
            scan, where = self._scan(start, encoding, texts, decimal)
            require_memory(scan.about, len(start.names), self.name)
            columns = scan.columns()
            settled = start_dialect.decimal or _decimal(decimal, columns, sample, start_dialect.missing)
            if settled == decimal:
                break
            decimal = settled
        dialect = replace(start_dialect, decimal=decimal)
        notes = _notes_on(self.name, self.dialect, dialect, len(start.names))
        path, rows = Path(scan.paths[0]), len(next(iter(columns.values())))
        count = text_facts(path).lines - (start.first_line - 1)
        if count != rows + bool(dialect.header) and has_blank_lines(path):  # cells may have ends of lines, too
            with self.lines(encoding) as lines:
                notes += self._skipped(_Start(lines, self.dialect, self.name, self.names).check())
        return Frame(self.name, columns, where, dialect, notes, start=sample)

    def _skipped(self, blanks: int) -> tuple[Note, ...]:
        """Return a note on blank lines between rows; in files with comments these are such lines, too."""
        if not blanks or self.clean is not iter:
            return ()
        return (Note(f"{self.name}: {blanks} blank line{'s' * (blanks > 1)} between rows skipped"),)

    def _plain(self, encoding: str, dialect: Dialect) -> Path:
        """Return a file of UTF-8 with one character between cells: this one, or a temporary copy.

        What is packed is unpacked here, since the engine does not look at checksums.
        """
        assert self.path is not None
        is_utf8 = (
            self.clean is iter and dialect.separator != " " and codecs.lookup(encoding).name in ("utf-8", "ascii")
        )
        if is_utf8:
            return plain_copy(self.path, self)
        descriptor, name = tempfile.mkstemp(suffix=".csv", prefix="gpumlp-")
        weakref.finalize(self, Path(name).unlink, missing_ok=True)
        copy = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        with copy, self.lines(encoding) as lines:
            copy.writelines(single_blanks(lines) if dialect.separator == " " else lines)
        return Path(name)


def _bounded(lines: IO[str], name: str) -> Iterator[str]:
    """Yield the lines. Raises DataError for one that is longer than any of a table, before it takes more memory."""
    for number in count(1):
        line = lines.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            message = f"this line has more than {MAX_LINE_BYTES:,} characters"
            raise DataError(message, where=f"{name}:{number}", hint="a table has a line for each row; is this one?")
        yield line


class _Start:
    """The start of a table: how it is written, what its columns are called, its first rows; and the rest on demand.

    Parameters
    ----------
    lines
        Lines of the table, with their ends.
    given
        How it is written, as far as that is known.
    name
        What to call it in messages.
    names
        Names of the columns; None where the lines tell them.
    short
        Whether all of it is its start.

    Raises
    ------
    DataError
        If this is not the start of a table.
    """

    def __init__(
        self,
        lines: Iterable[str],
        settings: Dialect,
        name: str,
        names: tuple[str, ...] | None = None,
        *,
        short: bool = False,
    ) -> None:
        self.name, self.settings = name, settings
        lines = iter(lines)
        head: list[str] = []
        while len(head) < SAMPLE and sum(map(len, head)) < SAMPLE_CHARS and (line := next(lines, None)) is not None:
            head.append(line)
        if head:
            head[0] = head[0].removeprefix("\ufeff")
            if match := _SEPARATOR_LINE.fullmatch(head[0]):  # of Excel
                settings, head[0] = replace(settings, separator=settings.separator or match[1]), "\n"
            _require_narrow(head[0], settings, name)
        if "\0" in "".join(head):
            hint = "give data.encoding, such as utf-16, if it is text"
            message = "there are NUL characters, so this is not text, or in another encoding"
            raise DataError(message, where=name, hint=hint)
        self.dialect = sniffed(head, settings)
        self.blanks = Blanks()
        rows = split_rows(chain(head, lines), self.dialect, name, self.blanks)
        first = next((row for row in rows if any(cell.strip() for cell in row[1])), None)
        if first is None:
            raise DataError("the file is empty", where=name, hint="a table has a line of column names, then rows")
        self.first_line, self.blanks.count = first[0], 0
        if self.dialect.header:
            self.names = _column_names(first[1], f"{name}:{first[0]}")
        else:
            self.names = names or tuple(f"column_{i}" for i in range(len(first[1])))
            rows = chain([first], rows)
        if len(self.names) == 1 and settings.separator is not None:
            _require_separator(head, self.dialect, f"{name}:{first[0]}")
        self._rows = _even(rows, len(self.names), name, has_names=bool(self.dialect.header) or names is not None)
        self._columns = _Columns(len(self.names))
        self._columns.read(self._rows, None if short else START_CELLS // len(self.names) + 1)
        self._next = next(self._rows, None)
        if not self.lines:
            hint = "if they are a row, set data.header to false"
            raise DataError("there are column names but no rows", where=name, hint=hint)

    @property
    def is_whole(self) -> bool:
        """True where the table ends with its start."""
        return self._next is None

    @property
    def lines(self) -> array[int]:
        """The line on which each row starts that was read, counted from 1."""
        return self._columns.lines

    def columns(self) -> list[Codes]:
        """Return the columns as far as they were read."""
        return self._columns.columns()

    @cached_property
    def sample(self) -> dict[str, Codes]:
        """The columns, by name, as far as they were read before anything else was."""
        return dict(zip(self.names, self.columns(), strict=True))

    def whole(self, again: Again | None = None, texts: Collection[str] = ()) -> Frame:
        """Read on to the end and return all rows.

        Parameters
        ----------
        again
            Reads columns from the start, so that those of numbers are not kept as they are written; None: all are.
        texts
            Columns that are kept as they are written.

        Raises
        ------
        DataError
            If the lines are not a table.
        """
        dialect, sample, named = self.dialect, self.sample, list(enumerate(self.names))
        if again is not None and not self.is_whole:
            decimal = dialect.decimal or find_decimal([column.texts for column in sample.values()], dialect.missing)
            numeric = [i for i, name in named if decimal == "." and name not in texts and _is_plain(sample[name])]
            self._columns.make_numbers(numeric, dialect.missing)
        self._columns.read(self._rest())
        lines = np.array(self.lines)
        columns: dict[str, Column] = {name: self._columns.column(i) for i, name in named if self._columns.has(i)}
        if again is not None:
            numbers = self._columns.numbers
            columns |= {
                self.names[i]: Numbers(room().keep(v), partial(_one, again, self.names[i])) for i, v in numbers
            }
            if mixed := [name for name in self.names if name not in columns]:
                columns |= again(mixed)
        columns = {name: columns[name] for name in self.names}
        if dialect.decimal is None:
            decimal = _decimal(".", columns, sample, dialect.missing)
            dialect = replace(dialect, decimal=decimal)
            if decimal == ",":
                columns = {name: column.written() for name, column in columns.items()}
        return Frame(
            path=self.name,
            columns=columns,
            locate=lambda row: f"{self.name}:{lines[row]}",
            dialect=dialect,
            notes=_notes_on(self.name, self.settings, dialect, len(self.names)),
            start=sample,
        )

    def written(self, names: Sequence[str]) -> dict[str, Codes]:
        """Read on to the end and return some columns.

        Raises
        ------
        DataError
            If the lines are not a table.
        """
        self._columns.keep([self.names.index(name) for name in names])
        self._columns.read(self._rest())
        return {name: self._columns.column(self.names.index(name)) for name in names}

    def blocks(self, skipped: int = 0) -> Iterator[Frame]:
        """Yield the rows some at a time, but for the first ones, of a file whose decimal mark is known.

        Raises
        ------
        DataError
            If the lines are not a table.
        """
        rows, most, first = self._rest(), BLOCK_CELLS // len(self.names) + 1, 0
        portion = self._columns
        while portion.lines:
            columns, lines, end = portion.columns(), np.array(portion.lines), first + len(portion.lines)
            if end > skipped:
                notes = () if first else _notes_on(self.name, self.settings, self.dialect, len(self.names))
                where = partial(_line_of, self.name, lines)
                named = dict(zip(self.names, columns, strict=True))
                frame = Frame(self.name, named, where, self.dialect, notes)
                yield frame.take(np.arange(max(skipped - first, 0), end - first))
            portion, first = _Columns(len(self.names)), end
            portion.read(rows, most)

    def check(self) -> int:
        """Look at all rows; return how many blank lines are between them.

        Raises
        ------
        DataError
            If one has another number of cells than the first.
        """
        for _ in self._rest():
            pass
        return self.blanks.count

    def line(self, row: int) -> int:
        """Return the line on which a row starts, which may be one that was not read yet."""
        if row < len(self.lines):
            return self.lines[row]
        return next(islice(self._rest(), row - len(self.lines), None))[0]

    def _rest(self) -> Iterator[Row]:
        return self._rows if self._next is None else chain([self._next], self._rows)


def _line_of(name: str, lines: NDArray[np.int64], row: int) -> str:
    return f"{name}:{lines[row]}"


def _undecodable(opened: Opened, name: str, encoding: str, error: UnicodeError) -> DataError:
    """Return the error that names the first byte that cannot be decoded, by its line and its place in the file."""
    with opened() as stream:
        content = stream.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as found:
        start = found.start
        where = f"{name}:{content.count(10, 0, start) + 1}"
        message = f"byte {start} (0x{content[start]:02x}) is not {encoding.upper()}"
        return DataError(message, where=where, hint=f"save the file as {encoding.upper()}, or set data.encoding")
    except UnicodeError:
        pass
    return DataError(f"the text is not {encoding.upper()} ({error})", where=name, hint="set data.encoding")


def _doubts(opened: Opened, name: str, encoding: str) -> tuple[Note, ...]:
    """Return a note where bytes beyond ASCII make sense as UTF-8, which hardly any other text does by chance."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return ()
    with opened() as stream:
        content = stream.read()
    try:
        if content.isascii() or not content.decode("utf-8"):
            return ()
    except UnicodeDecodeError:
        return ()
    return (Note(f"{name}: the file seems to be UTF-8, but is read as {encoding}, by data.encoding"),)


def _c45(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a C4.5 file: comments blank, the point at the end of a line cut off."""
    for line in lines:
        body = line.rstrip()
        yield "\n" if body.startswith("|") else body.removesuffix(".") + "\n"


def _require_separator(head: list[str], dialect: Dialect, where: str) -> None:
    """Raise the error for lines that are not separated as was said, but evidently otherwise."""
    assert dialect.separator is not None
    seems = find_separator(head, dialect)
    if seems != dialect.separator and seems in head[0]:
        message = f"the cells are not separated by {dialect.separator!r} but, it seems, by {seems!r}"
        raise DataError(
            message, where=where, hint="set data.separator; a run reads files with the separator of its training file"
        )


def _notes_on(name: str, asked_for: Dialect, dialect: Dialect, width: int) -> tuple[Note, ...]:
    """Return what a user should know of what was found: nothing, for a file as most are."""
    remarks = []
    if asked_for.header is None and not dialect.header:
        remarks.append(f"no line of column names, so they are column_0 to column_{width - 1} (data.header)")
    if asked_for.decimal is None and dialect.decimal == ",":
        remarks.append("decimal commas (data.decimal)")
    if asked_for.quote is None and dialect.quote == "single":
        remarks.append("single quotes (data.quote)")
    return (Note(f"{name}: found " + "; ".join(remarks)),) if remarks else ()


def _column_names(header: list[str], where: str) -> tuple[str, ...]:
    """Check the header. A nameless column, such as the row names that R writes, is called by its index."""
    names = [name.strip() or f"column_{index}" for index, name in enumerate(header)]
    seen: set[str] = set()
    for name in names:
        if len(name) > MAX_NAME:
            hint = "if this line is a row, set data.header to false"
            raise DataError(f"a column name has {len(name):,} characters: {shown(name)}", where=where, hint=hint)
        if name in seen:
            first, second = [i for i, each in enumerate(names, 1) if each == name][:2]
            hint = "rename one of them in the file; if this line is a row, set data.header to false"
            message = f"two columns are called {name!r}, the {first}. and the {second}."
            raise DataError(message, where=where, hint=hint)
        seen.add(name)
    return tuple(names)


class _Texts(dict[str, int]):
    """Numbers texts in the order in which they are first looked up."""

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self)
        return number


def _require_narrow(line: str, dialect: Dialect, name: str) -> None:
    """Raise the error for a first line of more columns than a table may have."""
    most = max(line.count(mark) for mark in ([dialect.separator] if dialect.separator else "\t;|,"))
    if most >= MAX_COLUMNS:
        message = f"there are {most + 1:,} columns, and a table has at most {MAX_COLUMNS:,}"
        raise DataError(message, where=f"{name}:1", hint="put this many numbers into an array: .npz, or .npy")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + "s" * (number != 1)


def _even(rows: Iterable[Row], width: int, where: str, *, has_names: bool) -> Iterator[Row]:
    """Yield the rows. Raises DataError where one has another number of cells than the first."""
    for number, (start, row) in enumerate(rows):
        if len(row) != width:
            hint = "a cell that holds the separator needs quotes"
            if not number and has_names:
                hint = (
                    f"each column needs one name; if the first row is a title or a comment, take it out; else {hint}"
                )
                message = f"{_count(width, 'column name')} for a row of {_count(len(row), 'cell')}"
                raise DataError(message, where=f"{where}:{start}", hint=hint)
            message = f"expected {width} cell{'s' * (width > 1)}, as in the first row, but found {len(row)}"
            raise DataError(message, where=f"{where}:{start}", hint=hint)
        yield start, row


class _Columns:
    """Columns in the making: each distinct text once, and for each row which it is; or numbers alone."""

    def __init__(self, width: int) -> None:
        self._texts = {i: _Texts() for i in range(width)}
        self._codes = {i: array("i") for i in range(width)}
        self._numbers: dict[int, list[Floats]] = {}
        self._missing: Missing = NO_MISSING
        self._width = width
        self.lines = array("q")

    def keep(self, columns: Iterable[int]) -> None:
        """Forget all other columns."""
        self._texts = {i: self._texts[i] for i in columns}
        self._codes = {i: self._codes[i] for i in columns}

    def make_numbers(self, columns: Iterable[int], missing: Missing) -> None:
        """Read columns as numbers, all of which they had so far; a column is left out once it has something else."""
        self._missing = missing
        for i in columns:
            values = _plain_numbers([*self._texts.pop(i)], missing)
            codes = np.array(self._codes.pop(i), np.int32)
            if values is not None:
                self._numbers[i] = [values[codes]]

    def read(self, rows: Iterator[Row], most: int | None = None) -> None:
        """Take so many rows, or all; ``lines`` gets the line that each starts on."""
        rows = islice(rows, most)
        while portion := list(islice(rows, min(_PORTION, _PORTION_CELLS // self._width + 1))):
            self.lines.extend(start for start, _ in portion)
            for i, cells in enumerate(zip(*(row for _, row in portion), strict=True)):
                if i in self._codes:
                    self._codes[i].extend(map(self._texts[i].__getitem__, cells))
                elif i in self._numbers:
                    values = _plain_numbers(cells, self._missing)
                    if values is None:
                        del self._numbers[i]
                    else:
                        self._numbers[i].append(values)

    def has(self, column: int) -> bool:
        """Return whether a column is kept as it is written."""
        return column in self._codes

    def column(self, column: int) -> Codes:
        """Return a column, blanks cut off at both ends of its texts."""
        return _stripped([*self._texts[column]], np.array(self._codes[column], np.int32))

    @property
    def numbers(self) -> Iterator[tuple[int, Floats]]:
        """Columns of numbers, NaN where the value is missing."""
        return ((i, np.concatenate(parts)) for i, parts in self._numbers.items())

    def columns(self) -> list[Codes]:
        """Return the columns, blanks cut off at both ends of their texts."""
        return [self.column(i) for i in self._codes]


def _plain_numbers(cells: Sequence[str], missing: Missing) -> Floats | None:
    """Return cells as numbers, NaN where the value is missing; None if another one is not a finite number."""
    texts = np.array(cells, object)
    values = parse_numbers(texts)
    if values is None or not np.isfinite(values).all():
        gaps = np.array([not text or text in missing.anywhere for text in map(str.strip, cells)], bool)
        values = parse_numbers(np.where(gaps, "nan", texts))
        if values is None or not (np.isfinite(values) | gaps).all():
            return None
    for marker in missing.values:
        values[values == marker] = np.nan
    return values


def _one(again: Again, name: str) -> Codes:
    return again([name])[name]


def _stripped(texts: list[str], codes: NDArray[np.int32]) -> Codes:
    """Return a column of texts that stand in the order in which they first occur, each once, without outer blanks."""
    return Codes(np.array(texts, object), codes) if list(map(str.strip, texts)) == texts else merged(texts, codes)


def _seems_numeric(sample: Codes, missing: Missing, decimal: str) -> bool:
    """Return whether most of the different texts are numbers: a guess, by which the engine reads the column."""
    texts = [text for text in sample.texts if text not in missing]
    numbers = sum(parse_numbers(np.array([text], object), decimal) is not None for text in texts[:_GUESSED_FROM])
    return 2 * numbers >= len(texts[:_GUESSED_FROM])


def _is_plain(sample: Codes) -> bool:
    """Return whether all cells that are not empty are numbers, so that most likely all others are."""
    return parse_numbers(sample.texts[sample.texts != ""]) is not None


def _decimal(guess: str, columns: Mapping[str, Column], sample: Mapping[str, Codes], missing: Missing) -> str:
    """Return the decimal mark by all rows, which were read with a guess by the first of them.

    Columns that were read as numbers have no other mark than the guess, and some of them have it in their first rows.
    Only where these and the columns of texts contradict the guess are all columns looked at as they are written.
    """
    texts = [column.texts if isinstance(column, Codes) else sample[name].texts for name, column in columns.items()]
    if find_decimal(texts, missing) == guess:
        return guess
    return find_decimal([column.written().texts for column in columns.values()], missing)

"""ARFF files of Weka and OpenML: a header of ``@attribute`` lines, then rows as in a CSV file, ``?`` for missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from gpumlp.data.source.delimited import Opened, text_file
from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.files import existing
from gpumlp.data.source.frame import Frame
from gpumlp.data.source.kinds import CATEGORY, NUMBER
from gpumlp.errors import DataError

_ATTRIBUTE = re.compile(
    r"""@attribute\s+(?P<name>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{]+)\s*(?P<kind>.+)""", re.I
)
_NUMERIC = ("numeric", "real", "integer")
_KINDS = (*_NUMERIC, "string", "date", "{")
_CELL = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,\t'"]*?)(?:\s*,|[^\S\t]*\t)""")
_WEIGHT = re.compile(r"\s*[,\t]\s*\{[^{}'\"]*\}$")


def read_arff(path: Path, dialect: Dialect = DETECT, *, texts: Collection[str] = ()) -> Frame:
    """Read an ARFF file. Nominal attributes are categories, even where their values are numbers.

    Of the dialect only encoding and markers of missing values matter; it is kept for a file of text that comes later.

    Parameters
    ----------
    path
        The file.
    dialect
        Its encoding and its markers of missing values.
    texts
        Columns that are texts, even where all of them are numbers.

    Raises
    ------
    DataError
        If the header is damaged, the rows are sparse, or they cannot be read as a table.
    """
    arff_dialect = replace(dialect, separator=",", quote="double", header=False, decimal=".")
    file = text_file(existing(path), arff_dialect, clean=partial(_rows, str(path)))
    kinds = _attributes(str(path), file.opened)
    as_text = [name for name, kind in kinds.items() if not kind.startswith(_NUMERIC)]
    frame = replace(file, names=tuple(kinds)).read(texts={*texts, *as_text})
    known = {name: CATEGORY if name in as_text else NUMBER for name in kinds}
    return replace(frame, dialect=replace(dialect, decimal=None), kinds=known)


def _attributes(path: str, opened: Opened) -> dict[str, str]:
    """Return the kind of each attribute, in small letters, by name."""
    kinds: dict[str, str] = {}
    with opened() as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()
            word = line.partition(" ")[0].partition("\t")[0].lower()
            if word == "@data":
                if kinds:
                    return kinds
                break
            if word != "@attribute":
                continue
            match = _ATTRIBUTE.fullmatch(line)
            if match is None:
                message = "not an attribute of an ARFF file"
                raise DataError(message, where=f"{path}:{number}", hint="as in: @attribute height numeric")
            name = re.sub(r"\\(.)", r"\1", match["name"].strip("'\""))
            if name in kinds:
                raise DataError(f"two attributes are called {name!r}", where=f"{path}:{number}")
            kinds[name] = match["kind"].lower()
            if not kinds[name].startswith(_KINDS):
                message = f"attributes of type {match['kind'].split()[0]} cannot be read"
                raise DataError(
                    message, where=f"{path}:{number}", hint="they may be " + ", ".join(_KINDS[:-1]) + " or {...}"
                )
    hint = "an ARFF file has @attribute lines, then @data, then the rows"
    raise DataError("there is no @data line after @attribute lines", where=path, hint=hint)


def _rows(path: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield as many lines as there are: the rows, with header and comments blank."""
    header = True
    for number, line in enumerate(lines, 1):
        start = line.lstrip()
        if header or not start or start.startswith("%"):
            header = header and not start.lower().startswith("@data")
            yield "\n"
            continue
        if start.startswith("{"):
            hint = "write each row with all its values, separated by commas"
            raise DataError("sparse rows cannot be read", where=f"{path}:{number}", hint=hint)
        plain = not any(mark in line for mark in "'\"\\\t{")
        yield line if plain else _plainly(line.strip(), f"{path}:{number}")


def _plainly(line: str, where: str) -> str:
    """Return a row as a CSV file has it, without its weight."""
    line, cells, at = _WEIGHT.sub("", line) + ",", [], 0
    while at < len(line):
        match = _CELL.match(line, at)
        if match is None:
            hint = "a value with commas or quotes is written as 'it\\'s'"
            raise DataError("broken quoting", where=where, hint=hint)
        cell, at = match[1], match.end()
        if cell[:1] in ("'", '"'):
            cell = re.sub(r"\\(.)", lambda escaped: " " if escaped[1] in "nrt" else escaped[1], cell[1:-1])
        cells.append('"' + cell.replace('"', '""') + '"')
    return ",".join(cells) + "\n"

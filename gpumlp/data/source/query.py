"""Rows from a query: one SELECT of SQL over data files, run by the engine with everything else forbidden."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.engine import EngineRefusalError, by_thread, engine, literal
from gpumlp.data.source.files import existing, is_pattern, matched, temporary, unpacked_name
from gpumlp.data.source.frame import Codes, Frame
from gpumlp.data.source.typed import read_typed
from gpumlp.errors import DataError, Note, nearest
from gpumlp.phases import phase

_TEXT = (".csv", ".tsv", ".txt", ".dat", ".jsonl", ".ndjson", ".json")
ENDINGS = (".parquet", *(ending + packed for ending in _TEXT for packed in ("", ".gz", ".zst")))
"""The endings of file names that a query can read."""

NAME = "query"
"""What a query is called in messages."""

_READERS = re.compile(r"(read_)?(csv|csv_auto|parquet|json|json_auto|ndjson|ndjson_auto)|parquet_scan")
_EXPLAIN = b"EXPLAIN "
_QUOTED = re.compile(rb"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


@dataclass(frozen=True)
class _Reference:
    """A file or pattern that a query names, in place of a table, as an argument, or as an item of a list.

    Parameters
    ----------
    start
        Where it stands, as a byte of the text.
    """

    start: int
    name: str
    role: Literal["table", "argument", "item"]

    def located(self, paths: list[str], is_several: bool) -> str:
        """Return what is to stand there: the engine is not to look for the files of a pattern by itself."""
        listed = ", ".join(map(literal, paths))
        if self.role == "item" or not is_several:
            return listed
        if self.role == "argument":
            return f"[{listed}]"
        plain = unpacked_name(Path(self.name))
        reader = "parquet" if plain.endswith(".parquet") else "json" if "json" in Path(plain).suffix else "csv"
        return f"read_{reader}([{listed}])"


@dataclass(frozen=True)
class _Plan:
    """A query that is known to be one SELECT, with the files that it names.

    Parameters
    ----------
    text
        Text of the query as the user wrote it.
    tree
        As the engine parsed it.
    files
        Files that may be read.
    located
        The query with absolute paths, UTF-8.
    shifts
        Bytes of ``located`` at which a path ends, each with how much longer it is than what the user wrote.
    """

    text: str
    tree: dict[str, Any]
    files: tuple[str, ...]
    located: bytes
    shifts: tuple[tuple[int, int], ...]

    def locate(self, position: int) -> str:
        """Return the line and column of the user's text for a byte of the query that was run."""
        moved = sum(longer for end, longer in self.shifts if end <= position)
        before = self.text.encode()[: max(position - moved, 0)].decode(errors="ignore")
        return f"{NAME}, line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


@phase("read")
def read_query(text: str, folder: Path, dialect: Dialect = DETECT, *, texts: Collection[str] = ()) -> Frame:
    """Run a query and return its rows. It is run once, and its rows are kept in a temporary file.

    Parameters
    ----------
    text
        One SELECT; files stand in quotes, as in ``FROM 'sales/*.parquet'`` or ``read_csv('a.txt', delim = ';')``.
    folder
        Where relative paths start.
    dialect
        Dialect of which only the markers of missing values matter.
    texts
        Columns that are texts, even where their type is numeric.

    Raises
    ------
    DataError
        If it is not one SELECT, cannot be run, or returns no rows.
    """
    plan = _plan(text, folder)

    def locate(row: int) -> str:
        return f"{NAME}, row {row + 1}"

    name, written = temporary(locate)
    _run(plan, name, written)
    rows = f"read_parquet({literal(name)})"
    frame = read_typed(rows, [name], NAME, dialect, texts=texts, kind="rows of the query", locate=locate)
    return replace(frame, notes=_notes(plan.tree))


def query_files(text: str, folder: Path) -> tuple[str, ...]:
    """Return the files that a query reads.

    Raises
    ------
    DataError
        If it is not one SELECT, or names what is not there.
    """
    return _plan(text, folder).files


def query_columns(text: str, folder: Path) -> Frame:
    """Return a frame of the columns that a query has, without its rows.

    Raises
    ------
    DataError
        If it is not one SELECT, or names what is not there.
    """
    names = _run(_plan(text, folder), None, [])
    empty = Codes(np.empty(0, object), np.empty(0, np.int32))
    return Frame(NAME, dict.fromkeys(names, empty), lambda row: NAME, DETECT)


def _run(plan: _Plan, output: str | None, written: list[str]) -> list[str]:
    """Write the rows to a Parquet file, if one is named; return the names of the columns."""
    try:
        with engine([*plan.files, *written], for_query=True) as connection:
            connection.execute(_EXPLAIN.decode() + plan.located.decode())  # for errors with their positions
            relation = connection.sql(plan.located.decode())
            if output:
                by_thread(connection, lambda: relation.write_parquet(output))
            return [str(name) for name in relation.columns]
    except EngineRefusalError as error:
        raise _refused(error, plan, before=len(_EXPLAIN)) from None


def _plan(text: str, folder: Path) -> _Plan:
    tree = _tree(text)
    _require_select(tree)
    files: list[str] = []
    located, at = b"", 0
    written = text.encode()
    shifts: list[tuple[int, int]] = []
    for reference in sorted(set(_references(tree)), key=lambda each: each.start):
        quoted = _QUOTED.match(written, reference.start)
        if quoted is None:
            continue  # without quotes it is not a file
        path, where = Path(os.path.abspath(folder / os.path.expanduser(reference.name))), _at(text, reference.start)
        if not path.name.lower().endswith(ENDINGS):
            message = f"a query reads data files only, and {reference.name!r} has another ending"
            raise DataError(message, where=where, hint="it must end in one of: " + " ".join(ENDINGS))
        try:
            paths = [str(existing(each)) for each in matched(path)]
        except DataError as error:
            raise DataError(f"{error.where}: {error.what}", where=where, hint=error.hint) from None
        files += paths
        new = reference.located(paths, is_pattern(path)).encode()
        located += written[at : quoted.start()] + new
        at = quoted.end()
        shifts.append((len(located), len(new) - len(quoted[0])))
    return _Plan(text, tree, tuple(files), located + written[at:], tuple(shifts))


def _at(text: str, start: int) -> str:
    return _Plan(text, {}, (), b"", ()).locate(start)


def _tree(text: str) -> dict[str, Any]:
    """Return the only statement of a query, parsed."""
    message = "a query must be one SELECT"
    hint = "such as: select * from 'sales/*.parquet' where year > 2020 order by id"
    try:
        with engine([], for_query=True) as connection:
            statements = connection.extract_statements(text)
            kinds = [str(each.type).rpartition(".")[2] for each in statements]
            if kinds != ["SELECT"]:
                kind = f"{len(kinds)} statements" if len(kinds) != 1 else kinds[0]
                raise DataError(f"{message}, and this is {kind}", where=NAME, hint=hint)
            (serialized,) = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    except EngineRefusalError as error:
        raise _refused(error, _Plan(text, {}, (), text.encode(), ())) from None
    tree = json.loads(serialized)
    if tree.get("error") or len(tree["statements"]) != 1:
        raise DataError(f"{message}, and this is another kind of statement", where=NAME, hint=hint)
    statement: dict[str, Any] = tree["statements"][0]
    return statement


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(child)


def _require_select(tree: dict[str, Any]) -> None:
    """Raise the error for a SELECT with a statement in it that changes something."""
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_QUERY_NODE"):
            message = f"a query only reads, and there is {kind.removesuffix('_QUERY_NODE')} in this one"
            raise DataError(message, where=NAME)


def _references(tree: Any) -> Iterator[_Reference]:
    """Yield the files that are named: in place of a table, or as the first argument of a function that reads."""
    named_by_with = {
        each["key"] for node in _nodes(tree) for each in (node.get("cte_map") or {}).get("map", ())
    }  # by WITH
    for node in _nodes(tree):
        if (
            node.get("type") == "BASE_TABLE"
            and not node.get("schema_name")
            and node["table_name"] not in named_by_with
        ):
            yield _Reference(node["query_location"], node["table_name"], "table")
        if node.get("type") == "TABLE_FUNCTION" and _READERS.fullmatch(node["function"]["function_name"].lower()):
            for first in node["function"].get("arguments", [])[:1]:
                is_one = first["expression"]["class"] == "CONSTANT"
                for constant in (each for each in _nodes(first) if each.get("class") == "CONSTANT"):
                    if constant["literal"]["kind"] == "STRING":
                        yield _Reference(
                            constant["query_location"], constant["literal"]["text"], "argument" if is_one else "item"
                        )


def _refused(error: EngineRefusalError, plan: _Plan, *, before: int = 0) -> DataError:
    """Return the engine's error with the place in the user's text, and its suggestions as the hint.

    ``before`` is how many bytes stood before the query when it was run.
    """
    match = re.search(r"Error: (\{.*\})\s*$", str(error), re.DOTALL)
    fields: dict[str, str] = {}
    if match:
        try:
            fields = json.loads(match[1])
        except ValueError:
            fields = {}
    message = fields.get("exception_message", str(error))
    where = plan.locate(int(fields["position"]) - before) if fields.get("position", "").isdigit() else NAME
    if fields.get("exception_type") == "Permission":
        named = re.search(r'"([^"]*)"', message)
        refusal = f"a query may not read {named[1]!r}" if named else "this is not permitted in a query"
        hint = "name data files in quotes: FROM 'part-*.csv', or read_csv('part-*.csv', delim = ';')"
        return DataError(refusal, where=where, hint=hint)
    first, *others = message.splitlines() or [message]
    first = next((line for line in others if "onvert" in line), first)  # of a cell; before it stands which
    candidates = [each.strip() for each in fields.get("candidates", "").split(",") if each.strip()]
    close = nearest(fields.get("name", ""), candidates) if candidates else None
    advice = f"did you mean {close!r}?" if close else (f"nearest: {', '.join(candidates)}" if candidates else None)
    return DataError(f"the query cannot be run: {first}", where=where, hint=advice or (others[0] if others else None))


def _notes(tree: dict[str, Any]) -> tuple[Note, ...]:
    """Return a note where the engine may return the rows in another order the next time."""
    node = tree["node"]
    if any(each.get("type") == "ORDER_MODIFIER" for each in node.get("modifiers", ())):
        return ()
    mixed = any(
        each.get("type") in ("JOIN", "DISTINCT_MODIFIER")
        or each.get("group_expressions")
        or (each.get("type") == "SET_OPERATION_NODE" and not each.get("setop_all"))
        for each in _nodes(node)
    )
    if not mixed:
        return ()
    message = "without ORDER BY at its end the order of the rows, and so the split, may change from run to run"
    return (Note(f"{NAME}: {message}"),)

"""Rows that are in memory: arrays, columns by name, DataFrames, Arrow tables. No package of theirs is imported."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.cells import USUAL_MISSING, WHOLE_BELOW, Missing, number_text
from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.engine import TABLE
from gpumlp.data.source.frame import Codes, Column, Frame, Numbers, as_written, merged, type_of_dtype
from gpumlp.data.source.typed import read_typed
from gpumlp.errors import DataError, has_mask, listed

NAME = "rows"
"""What rows from Python are called in messages."""

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Parts of a second, by the unit of a time that passed."""

INPUTS, TARGET = "x", "y"
"""The names that arrays get."""


MAX_PLAIN_CELLS = 200_000
"""Cells of an Arrow table up to which Python is as fast as the engine."""

# Not numbers of 32 bits: which text the engine gives them is its own.
_PLAIN_TYPE = re.compile(r"(?<=<)(U?Int(8|16|32|64)|Float64|Boolean|(Large)?Utf8(View)?|Dictionary\(.*Utf8\))(?=>)")


def rows_of(rows: Any, y: Any = None, *, missing: Missing = USUAL_MISSING) -> Frame | ArrayTable:
    """Return rows from Python as a source: what ``read`` returns of a file.

        prepared = prepare(rows_of(frame), task="regression", target="price")
        prepared = prepare(rows_of(X, y), task="classification", target="y")

    Parameters
    ----------
    rows
        An array (N, ...) of numbers, which is called ``x``; a mapping from names to columns, (N,) each; a pandas or
        polars DataFrame, an Arrow table, or whatever has ``__arrow_c_stream__``; a source is returned as it is.
    y
        The target, (N,), if it is not among the columns; it is called ``y``.
    missing
        Texts, and numbers, that mean "no value"; None, NaN and null always do.

    Raises
    ------
    DataError
        If these are not rows, or columns have different lengths.
    """
    if isinstance(rows, Frame | ArrayTable):
        return rows
    if isinstance(rows, np.ndarray):
        rows = plain_array(rows)
        arrays = {INPUTS: rows} if y is None else {INPUTS: rows, TARGET: plain_array(y)}
        if rows.ndim < 2:
            raise DataError(f"expected an array (rows, columns), found shape {rows.shape}", where=NAME)
        return ArrayTable(NAME, arrays, target=TARGET)
    frame = None
    if not isinstance(rows, Mapping) and hasattr(rows, "__arrow_c_stream__"):
        try:
            frame = _from_arrow(rows, missing)
        except ImportError:  # pandas gives its columns to Arrow with pyarrow only
            rows = {name: rows[name] for name in rows.columns}
    if frame is None:
        if not isinstance(rows, Mapping):
            hint = "give an array, a mapping from names to columns, a DataFrame or an Arrow table"
            raise DataError(f"a {type(rows).__name__} has no rows that can be read", where=NAME, hint=hint)
        columns = {str(name): _column(str(name), values, missing) for name, values in rows.items()}
        if len(columns) < len(rows):
            raise DataError("two columns have the same name once it is text", where=NAME, hint="rename one of them")
        frame = _framed(columns, missing)
    if y is not None:
        if TARGET in frame.columns:
            raise DataError(
                f"there is a column {TARGET!r} already", where=NAME, hint="name it as the target instead of y"
            )
        target = _framed({TARGET: _column(TARGET, y, missing)}, missing)
        frame = _with(frame, target)
    lengths = {name: len(column) for name, column in frame.columns.items()}
    if len(set(lengths.values())) > 1:
        listing = listed((f"{name} {length}" for name, length in lengths.items()), 5)
        raise DataError(f"the columns differ in their number of rows: {listing}", where=NAME)
    if not lengths or not next(iter(lengths.values())):
        raise DataError("there are no rows", where=NAME)
    return frame


def with_columns(source: Frame | ArrayTable, columns: Mapping[str, Any]) -> Frame | ArrayTable:
    """Return a source with further columns, (N,) each.

    Raises
    ------
    DataError
        If a name is taken, or a column has another length.
    """
    if not columns:
        return source
    if taken := [name for name in columns if name in source.names]:
        hint = "pass the name of the column in place of its values, or rename it"
        raise DataError(f"there is a column {taken[0]!r} already", where=source.path, hint=hint)
    new = rows_of(columns)
    assert isinstance(new, Frame)
    if isinstance(source, Frame):
        if len(new) != len(source):
            message = f"there are {len(source)} rows, but {len(new)} values for {next(iter(columns))!r}"
            raise DataError(message, where=source.path)
        return _with(source, new)
    arrays = {name: _array(column, columns[name]) for name, column in new.columns.items()}
    table = replace(source, arrays={**source.arrays, **arrays}, types={**source.types, **new.types})
    table.require_same_rows(table.names)
    return table


def _framed(columns: Mapping[str, tuple[Column, str]], missing: Missing) -> Frame:
    """Return columns, each with the type of its values, as a frame."""
    types = {name: type_ for name, (_, type_) in columns.items()}
    plain = {name: column for name, (column, _) in columns.items()}
    return Frame(NAME, plain, _locate, Dialect(missing=missing), types=types)


def _with(frame: Frame, more: Frame) -> Frame:
    """Return a frame with the columns of another one, too."""
    return replace(frame, columns={**frame.columns, **more.columns}, types={**frame.types, **more.types})


def _array(column: Column, values: Any) -> NDArray[Any]:
    """Return a column as an array: whole numbers as they were given, which may be beyond 2^53, numbers, or texts."""
    if isinstance(column, Numbers):
        plain = _as_array("", values) if isinstance(values, list | tuple) else plain_array(values)
        plain = np.asarray(plain.tolist()) if plain.dtype.kind == "O" else plain
        return plain if plain.dtype.kind in "iu" else column.values
    texts = column.written()
    return texts.texts.astype(np.str_)[texts.codes]


def _locate(row: int) -> str:
    return f"{NAME}, row {row}"


def _from_arrow(rows: Any, missing: Missing) -> Frame:
    """Return an Arrow stream as a frame: a short one of plain columns as it is, any other by the engine."""
    from arro3.core import DataType, Field, Table

    durations: dict[str, int] = {}
    checks: Any = DataType  # in its stubs, the bool that is returned is a method of the class
    try:
        table = Table.from_arrow(rows)
        for i, name in enumerate(table.column_names):
            type_ = table.schema.field(i).type
            if checks.is_float16(type_):  # which the engine does not read
                column = table.column(i).cast(DataType.float32())
            elif checks.is_duration(type_):  # the engine refuses some, by what stands where one is missing
                column = table.column(i).cast(DataType.int64())
                durations[name] = UNITS[str(type_.time_unit)]
            else:
                continue
            table = table.set_column(i, Field(name, column.type), column)
    except Exception as error:  # of whoever makes the stream, such as pandas by pyarrow
        reason = "; ".join(map(str, error.args)) or type(error).__name__
        message = f"the rows cannot be read as an Arrow table: {reason:.200}"
        raise DataError(message, where=NAME, hint="give each column one type: numbers or texts") from error
    if 0 < table.num_rows * table.num_columns <= MAX_PLAIN_CELLS:
        columns = {
            name: _plain_column(str(table.schema.field(i).type), table.column(i), missing, durations.get(name))
            for i, name in enumerate(table.column_names)
        }
        plain = {name: column for name, column in columns.items() if column is not None}
        if len(plain) == table.num_columns:
            return _framed(plain, missing)
    dialect = Dialect(missing=missing)
    return read_typed(
        TABLE,
        [],
        NAME,
        dialect,
        texts=(),
        kind="an Arrow table",
        locate=_locate,
        table=table,
        durations=durations,
    )


def _plain_column(type_: str, column: Any, missing: Missing, parts: int | None = None) -> tuple[Column, str] | None:
    """Return an Arrow column as the engine, which takes longer to start, would, and its type; None for others.

    Integers that count parts of a second are times that passed.
    """
    kind = _PLAIN_TYPE.search(type_)
    if kind is None:
        return None
    cells = column.to_pylist()
    if parts is not None:
        cells = [None if cell is None else float(cell) / parts for cell in cells]
    if "Utf8" in kind[0] or kind[0] == "Boolean":
        texts = ["" if cell is None else str(cell).lower() if cell in (True, False) else cell for cell in cells]
        return merged(texts, np.arange(len(cells))), "boolean" if kind[0] == "Boolean" else "text"
    numbers = np.array([np.nan if cell is None else cell for cell in cells], np.float64)
    for marker in missing.values:
        numbers[numbers == marker] = np.nan
    return Numbers(numbers, partial(_number_texts, cells)), "integer" if "Int" in kind[
        0
    ] and parts is None else "number"


def _number_texts(cells: Sequence[float | None]) -> Codes:
    """Return numbers as the engine writes them."""
    texts = ["" if cell is None else _text(cell) for cell in cells]
    return merged(texts, np.arange(len(cells)))


def _column(name: str, values: Any, missing: Missing) -> tuple[Column, str]:
    """Return a column of numbers or texts, and the type of its values."""
    if has_mask(values):
        values = _as_array(name, values.tolist())
    elif not isinstance(values, np.ndarray):
        values = _as_numpy(name, values)
    if values.ndim != 1:
        raise DataError(f"column {name!r} must have one axis, but its shape is {values.shape}", where=NAME)
    if values.dtype.kind == "m":
        values = values / np.timedelta64(1, "s")  # a time that passed, in seconds; NaT is NaN
    if values.dtype.kind == "T":
        values = values.astype(object)
    if values.dtype.kind == "O":
        if any(isinstance(value, list | dict | np.ndarray) for value in values.tolist()):
            hint = "leave it out, or make columns of its parts"
            raise DataError(f"column {name!r} holds lists or records, not single values", where=NAME, hint=hint)
        return _of_objects(values, missing)
    type_ = type_of_dtype(values.dtype) or "text"
    if values.dtype.kind in "iuf":
        return _of_numbers(_doubles(values), lambda: as_written(values), missing), type_
    if values.dtype.kind == "b":
        return _texts(np.where(values, "true", "false")), type_
    if values.dtype.kind == "M":
        values = values.astype("M8[s]") if values.dtype in ("M8[h]", "M8[m]") else values
        column = _texts(np.where(np.isnat(values), "", values.astype(str)))
        return merged(list(map(_time_text, column.texts)), column.codes), type_
    if values.dtype.kind in "U":
        return _texts(values), type_
    message = f"column {name!r} holds {values.dtype}, not numbers or texts"
    raise DataError(message, where=NAME, hint="leave the column out, or make one of numbers or texts of it")


def _as_numpy(name: str, values: Any) -> NDArray[Any]:
    """Return a column that is no array as one."""
    if not hasattr(values, "to_numpy"):
        return np.asarray(_as_array(name, values))
    try:
        return np.asarray(values.to_numpy())
    except Exception as error:  # of the library whose column it is, such as polars for integers of 128 bits
        message = f"column {name!r} cannot be read as an array: {error!s:.200}"
        raise DataError(message, where=NAME, hint="make one of numbers or texts of it") from error


def _doubles(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers as new float64; those of 32 bits and fewer as their shortest texts stand for, as in a file."""
    if values.dtype.kind != "f" or values.dtype.itemsize > 4:
        return values.astype(np.float64)
    from arro3.core import Array, DataType

    texts = Array.from_numpy(np.ascontiguousarray(values, np.float32)).cast(DataType.utf8())
    return np.array(texts.cast(DataType.float64()))


def _of_numbers(numbers: NDArray[np.float64], written: Callable[[], Codes], missing: Missing) -> Numbers:
    """Return a column of new numbers, NaN in place of those that mean "no value"."""
    for marker in missing.values:
        numbers[numbers == marker] = np.nan
    return Numbers(numbers, written)


def plain_array(values: Any) -> NDArray[Any]:
    """Return values as an array, NaN in place of numbers that a mask hides."""
    if not (has_mask(values) and np.ma.is_masked(values)):
        return np.asarray(values)
    return np.asarray(values.astype(np.result_type(values.dtype, np.float64)).filled(np.nan))


def row_weights(values: Any) -> Any:
    """Return weights of rows; a truth value counts as 1 or 0."""
    plain = plain_array(values)
    return plain.astype(np.float64) if plain.dtype.kind == "b" else values


def _as_array(name: str, values: Any) -> NDArray[Any]:
    """Return a list as an array; of objects where there are texts, of which NumPy would make each as long as any."""
    if not isinstance(values, list | tuple) or not any(isinstance(each, str) for each in values):
        try:
            array = np.asarray(values)
        except ValueError:  # lists in it, of different lengths
            raise DataError(f"column {name!r} must have one axis, but has lists in it", where=NAME) from None
        if array.dtype.kind == "f" and all(isinstance(each, int) for each in values):  # rounded: some are beyond 2^63
            with contextlib.suppress(OverflowError):
                return np.array(values, np.uint64)
        elif array.dtype.kind not in "UO" or array.ndim != 1:
            return array
    return np.fromiter(values, object, len(values))


def _of_objects(objects: NDArray[np.object_], missing: Missing) -> tuple[Column, str]:
    """Return numbers where all objects are numbers or missing, else texts, the empty one where a value is missing."""
    values = [value.total_seconds() if isinstance(value, timedelta) else value for value in objects.tolist()]
    absent = [_is_absent(value) for value in values]
    texts = ["" if gone else _text(value) for value, gone in zip(values, absent, strict=True)]
    codes = partial(merged, texts, np.arange(len(values)))
    if all(gone or _is_number(value) for value, gone in zip(values, absent, strict=True)):
        numbers = [np.nan if gone else _float(value) for value, gone in zip(values, absent, strict=True)]
        whole = all(gone or isinstance(value, Integral) for value, gone in zip(values, absent, strict=True))
        return _of_numbers(np.array(numbers, np.float64), codes, missing), "integer" if whole else "number"
    truths = all(gone or _is_truth(value) for value, gone in zip(values, absent, strict=True))
    return codes(), "boolean" if truths else "text"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | Decimal) and not _is_truth(value)


def _float(value: Any) -> float:
    try:
        return float(number_text(value) if isinstance(value, np.float16 | np.float32) else value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _is_absent(value: Any) -> bool:
    """Return whether an object is no value: None, NaN, or one that does not compare with itself, as pandas.NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _text(value: Any) -> str:
    if _is_truth(value):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        return number_text(value)
    if isinstance(value, Decimal) and abs(value) < WHOLE_BELOW and value == int(value):
        return str(int(value))
    if isinstance(value, datetime) and value.tzinfo is not None:
        with contextlib.suppress(OverflowError):  # of the first and the last day that there is
            value = value.astimezone(UTC)
    return _time_text(str(value)) if isinstance(value, datetime | time | np.datetime64) else str(value)


def _time_text(text: str) -> str:
    """Return a time as the engine writes it: without T and zeros at the end of its decimals, and UTC as +00."""
    text = text.replace("T", " ")
    plain = text.removesuffix("+00:00")
    decimals = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return decimals if plain == text else decimals + "+00"


def _texts(values: NDArray[np.str_]) -> Codes:
    distinct, codes = np.unique(values, return_inverse=True)
    return merged(distinct.tolist(), codes.reshape(-1))

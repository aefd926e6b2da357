"""Predictions as files: CSV, Parquet, JSON lines or NPY, written block by block as they are made."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from gpumlp.data import Encoder, Frame, Source, in_parts
from gpumlp.data.source.engine import interruptions
from gpumlp.errors import ConfigError, DataError
from gpumlp.runs.predictor import Predictions
from gpumlp.store.atomic import replacing
from gpumlp.store.formats import writing

RESERVED = ("prediction", "lower", "upper", "set")
"""Columns of predictions, beside those of the probabilities."""

MAX_OUTPUTS = 1 << 22
"""Probabilities, or other outputs, of the rows that are predicted together."""

MIN_GROUP_ROWS, MAX_GROUP_ROWS, MAX_GROUP_CELLS = 2048, 122_880, 1 << 25
"""Rows of a group of a Parquet file (the first two are those of the engine), and its cells: it is kept in memory."""

Block = dict[str, NDArray[Any]]
"""Some rows of what is written: arrays of numbers or of texts (dtype object), by the name of their column."""


def pieces(sources: Iterable[Source], outputs: int) -> Iterator[Source]:
    """Yield raw rows, so many at a time that what a model makes of them does not take much memory."""
    size = max(1, MAX_OUTPUTS // outputs)
    for source in sources:
        count = _rows_of(source)
        yield from in_parts(source, size if count is None else count, size)


def _rows_of(source: Source) -> int | None:
    """Return the number of rows, None where it depends on which of several arrays are the inputs."""
    if isinstance(source, Frame):
        return len(source)
    counts = {source.count(name) for name, each in source.arrays.items() if each.ndim > 1}
    return counts.pop() if len(counts) == 1 else None


def write_predictions(path: Path, blocks: Iterable[Block]) -> None:
    """Write blocks to a file in the format that its name ends in. The file is whole or not there.

    Raises
    ------
    ConfigError
        If the ending is not in ``FORMATS``.
    WriteError
        If the file cannot be written.
    """
    write = FORMATS[ending_of(path)]
    with writing(path):
        if path.exists() and not path.is_file():  # a pipe or a device
            with path.open("wb") as stream:
                write(blocks, stream, path)
            return
        with replacing(Path(os.path.realpath(path))) as (beside, stream):
            write(blocks, stream, beside)


def ending_of(path: Path) -> str:
    """Return the ending of a file's name that tells its format.

    Raises
    ------
    ConfigError
        If it is not in ``FORMATS``.
    """
    known = next((ending for ending in FORMATS if path.name.lower().endswith(ending)), None)
    if known is None and path.exists() and not path.is_file():
        return ".csv"
    if known is None:
        raise ConfigError(
            f"cannot tell the format from the name {path.name!r}",
            where="--output",
            hint="the name must end in one of: " + " ".join(FORMATS),
        )
    return known


def columns_of(predictions: Predictions, encoder: Encoder, *, proba: bool, margin: float | None = None) -> Block:
    """Return predictions as columns: ``prediction``, and with ``proba`` one named for each class.

    Of several targets or labels there is a ``prediction`` of each; of quantiles a column for each level. With a
    ``margin`` there are also ``lower`` and ``upper``, or ``set``: the names of the classes within it, between bars.
    """
    classes = encoder.classes
    within = None if margin is None else predictions.within(margin)
    if encoder.labels is not None:
        words = encoder.labels.words(predictions.values)
        columns = {f"prediction {name}": each for name, each in zip(encoder.target_names, words.T, strict=True)}
        if proba and (shares := predictions.probabilities) is not None:
            columns |= {f"probability {name}": p for name, p in zip(encoder.target_names, shares.T, strict=True)}
        return columns
    if classes is None:
        return _numbers(predictions, encoder) | (
            {} if within is None else {"lower": within[:, 0], "upper": within[:, 1]}
        )
    columns = {"prediction": np.array(classes, object)[predictions.values]}
    if within is not None:
        different, each = np.unique(within, axis=0, return_inverse=True)
        names = ["|".join(itertools.compress(classes, row)) for row in different]
        columns["set"] = np.array(names, object)[each.reshape(-1)]
    if proba and predictions.probabilities is not None:
        columns |= {f"probability {name}": p for name, p in zip(classes, predictions.probabilities.T, strict=True)}
    return columns


def _numbers(predictions: Predictions, encoder: Encoder) -> Block:
    """Return the predictions of a regression as columns."""
    names = encoder.target_names
    ends = [""] if len(names) == 1 else [f" {name}" for name in names]
    values = predictions.values.reshape(len(predictions.values), len(names))
    columns = {f"prediction{end}": values[:, i] for i, end in enumerate(ends)}
    if predictions.quantiles is not None:
        for i, end in enumerate(ends):
            for k, level in enumerate(encoder.levels):
                columns[f"quantile {level:g}{end}"] = predictions.quantiles[:, i, k]
    return columns


def kept_columns(source: Source, names: Sequence[str]) -> Block:
    """Return columns of the source as they were written, to stand before the predictions.

    Parameters
    ----------
    source
        The rows that are predicted.
    names
        Names of the columns; ``all`` for every one.

    Raises
    ------
    DataError
        If there is no such column, the source has arrays, or a name is taken by the predictions.
    """
    if not names:
        return {}
    if not isinstance(source, Frame):
        raise DataError("columns are kept from tables, and this file holds arrays", where=source.path)
    chosen = source.names if tuple(names) == ("all",) and "all" not in source.columns else names
    columns = {}
    for name in chosen:
        written = source.columns[source.resolve(name)].written()
        if name in RESERVED or name.startswith(("prediction ", "probability ", "quantile ")):
            message = f"the column {name!r} cannot be kept: the predictions have a column of this name"
            raise DataError(message, where=source.path)
        columns[name] = written.texts[written.codes]
    return columns


def write_csv(blocks: Iterable[Block], stream: TextIO | io.TextIOBase) -> None:
    """Write blocks as CSV with a line of names."""
    writer = csv.writer(stream, lineterminator="\n")
    for number, block in enumerate(blocks):
        if not number:
            writer.writerow(block)
        writer.writerows(zip(*(column.tolist() for column in block.values()), strict=True))


def _csv(blocks: Iterable[Block], stream: IO[bytes], _: Path) -> None:
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    write_csv(blocks, text)
    text.detach()


def _packed_csv(blocks: Iterable[Block], stream: IO[bytes], path: Path) -> None:
    # Without a name and a time, so that the same predictions are the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=4, mtime=0) as packed:
        _csv(blocks, packed, path)  # type: ignore[arg-type]  # typeshed does not call GzipFile an IO


def _json_lines(blocks: Iterable[Block], stream: IO[bytes], _: Path) -> None:
    for block in blocks:
        rows = zip(*(column.tolist() for column in block.values()), strict=True)
        lines = (json.dumps(dict(zip(block, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        stream.write("".join(lines).encode())


def _npy(blocks: Iterable[Block], stream: IO[bytes], _: Path) -> None:
    """Write one array, (N,) of one column or (N, columns): the numbers as float64, or class names as text."""
    columns = [list(block.values()) for block in blocks]
    arrays = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
    if len(arrays) == 1:
        array = arrays[0] if arrays[0].dtype.kind == "f" else arrays[0].astype(str)
    else:
        numbers = [each for each in arrays if each.dtype.kind == "f"]
        array = np.stack(numbers or [each.astype(str) for each in arrays], axis=1)
    np.save(stream, array, allow_pickle=False)


def _parquet(blocks: Iterable[Block], _: IO[bytes], path: Path) -> None:
    import duckdb
    from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema

    failures: list[BaseException] = []

    def batches(first: Block, rest: Iterable[Block]) -> Iterator[Any]:
        try:
            for block in itertools.chain([first], rest):
                columns = [
                    Array(column.tolist(), DataType.utf8())
                    if column.dtype == object
                    else Array.from_numpy(np.ascontiguousarray(column))
                    for column in block.values()
                ]
                yield RecordBatch.from_arrays(columns, schema=schema)
        except BaseException as error:  # the engine would make an error of its own of it
            failures.append(error)
            raise

    rest = iter(blocks)
    first = next(rest)
    types = {"f4": DataType.float32(), "f8": DataType.float64(), "i4": DataType.int32(), "i8": DataType.int64()}
    schema = Schema(
        [
            Field(name, DataType.utf8() if column.dtype == object else types[column.dtype.str[1:]])
            for name, column in first.items()
        ]
    )
    connection = duckdb.connect(":memory:", config={"threads": 1})
    try:
        connection.register("predictions", RecordBatchReader.from_batches(schema, batches(first, rest)))
        target = str(path).replace("'", "''")
        with interruptions():
            rows = max(MIN_GROUP_ROWS, min(MAX_GROUP_ROWS, MAX_GROUP_CELLS // len(first)))
            options = f"FORMAT parquet, USE_TMP_FILE false, ROW_GROUP_SIZE {rows}"
            connection.execute(f"COPY (SELECT * FROM predictions) TO '{target}' ({options})")
    except duckdb.Error as error:
        if failures:
            raise failures[0] from None
        raise OSError(str(error).splitlines()[0]) from None
    finally:
        connection.close()


FORMATS: dict[str, Callable[[Iterable[Block], IO[bytes], Path], None]] = {
    ".csv": _csv,
    ".csv.gz": _packed_csv,
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".npy": _npy,
}
"""What writes a file, by the ending of its name."""

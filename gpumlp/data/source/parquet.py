"""Parquet files, read by pyarrow, which is in the extra ``parquet``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data.source.dialect import DETECT, Dialect
from gpumlp.data.source.table import Column, Table
from gpumlp.errors import DataError


def read_parquet(path: Path, dialect: Dialect = DETECT) -> Table:
    """Read a Parquet file as a table of text, as a CSV would give it. Rows are counted from 1 in messages.

    Numbers become the shortest text that stands for them, so none is changed; null is the empty text. Of the dialect
    only the markers of missing values matter; it is kept for a file of text that comes later.

    Raises
    ------
    DataError : if pyarrow is not installed, the file is damaged, or a column is nested
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "reading Parquet needs pyarrow", where=str(path), hint="pip install 'gpumlp[parquet]'"
        ) from None
    try:
        table = parquet.read_table(path)
        if len(set(table.column_names)) < len(table.column_names):
            raise DataError("two columns have the same name", where=str(path))
        for field in table.schema:
            if pa.types.is_nested(field.type):
                raise DataError(f"column {field.name!r} holds {field.type}, not single values", where=str(path))
        columns = {name: _column(table.column(name).combine_chunks(), pa) for name in table.column_names}
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot be read as Parquet: {reason}", where=str(path)) from None
    if not table.num_rows:
        raise DataError("there are column names but no rows", where=str(path))
    lines = np.arange(1, table.num_rows + 1)
    return Table(path=str(path), columns=columns, lines=lines, dialect=replace(dialect, decimal=None))


def _column(array: Any, pa: Any) -> Column:
    """Return an Arrow array as numbered texts."""
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    texts = [(text or "").strip() for text in encoded.dictionary.cast(pa.string()).to_pylist()] + [""]
    distinct, renumbered = np.unique(np.array(texts, dtype=object), return_inverse=True)
    codes = encoded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
    return Column(distinct, renumbered.astype(np.int32)[codes]).take(np.arange(len(codes)))

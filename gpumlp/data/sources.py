"""Reading a data file: which reader, by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from gpumlp.data.arrays import ArrayTable, read_npy, read_npz
from gpumlp.data.cells import DEFAULT_MISSING
from gpumlp.data.delimited import Table, read_delimited
from gpumlp.data.files import existing
from gpumlp.data.idx import read_idx
from gpumlp.data.parquet import read_parquet
from gpumlp.errors import DataError

Source = Table | ArrayTable

_ARRAY_READERS: dict[str, Callable[[Path], ArrayTable]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    "-ubyte": read_idx,
    "-ubyte.gz": read_idx,
    ".idx": read_idx,
    ".idx.gz": read_idx,
    ".idx1": read_idx,
    ".idx1.gz": read_idx,
    ".idx3": read_idx,
    ".idx3.gz": read_idx,
}
_TABLE_READERS: dict[str, Callable[..., Table]] = {
    ".csv": read_delimited,
    ".csv.gz": read_delimited,
    ".tsv": read_delimited,
    ".tsv.gz": read_delimited,
    ".parquet": read_parquet,
}

ENDINGS: tuple[str, ...] = (*_TABLE_READERS, *_ARRAY_READERS)
"""The endings of file names that can be read."""


def read(path: str | Path, *, missing: Iterable[str] = DEFAULT_MISSING) -> Source:
    """Read a data file.

    Parameters
    ----------
    path : a file whose name ends in one of ``ENDINGS``
    missing : the cells of a text file that mean "no value"

    Raises
    ------
    DataError : if the file is absent, of an unknown kind, or damaged
    """
    path = Path(path)
    ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), None)
    if ending is None:
        raise DataError(
            f"cannot tell the kind of file from the name {path.name!r}",
            where=str(path),
            hint="the name must end in one of: " + " ".join(ENDINGS),
        )
    existing(path)
    if ending in _TABLE_READERS:
        return _TABLE_READERS[ending](path, missing=missing)
    return _ARRAY_READERS[ending](path)

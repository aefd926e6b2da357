"""Opening data files: plain or gzip, with every failure of the file turned into a ``DataError``."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gpumlp.errors import DataError, nearest


def existing(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises
    ------
    DataError : if there is none, with the closest name in the same folder as the hint
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError("this is a folder, not a data file", where=str(path))
    if not path.parent.is_dir():
        raise DataError("no such file", where=str(path), hint=f"the folder {path.parent} does not exist")
    close = nearest(path.name, (each.name for each in path.parent.iterdir() if each.is_file()))
    hint = f"did you mean {close!r}?" if close else None
    raise DataError("no such file", where=str(path), hint=hint)


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for reading bytes, unpacking it if its name ends in ``.gz``.

    Raises
    ------
    DataError : if the file cannot be read, or its gzip data is damaged or cut short
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            yield cast(IO[bytes], stream)  # typeshed does not call GzipFile an IO
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"the gzip data is damaged or cut short ({error})",
            where=str(path),
            hint="copy or download the file again",
        ) from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=str(path)) from error

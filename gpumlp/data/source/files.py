"""Finding data files by name or pattern, and opening them: plain or packed, every failure as a ``DataError``."""

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gpumlp.data.source.engine import EngineRefusalError, packed_lines
from gpumlp.errors import DataError, nearest

Files = str | Path | Sequence[str | Path]
"""A file, a pattern such as ``part-*.csv``, or a list of these."""

COPY_BYTES = 1 << 20


def is_pattern(path: Path) -> bool:
    """Return whether a path with ``*``, ``?`` or ``[...]`` in it means all files that match; not if it exists."""
    return glob.has_magic(str(path)) and not os.path.exists(path)


def matched(path: Path) -> list[Path]:
    """Return the files that a pattern stands for, sorted by name, or the path itself where it is not a pattern.

    Raises
    ------
    DataError
        If no file matches.
    """
    if not is_pattern(path):
        return [path]
    paths = sorted(each for each in map(Path, glob.glob(str(path), recursive=True)) if each.is_file())
    if not paths:
        raise DataError("no file matches this pattern", where=str(path), hint=_beside(path))
    return paths


def all_files(files: Files, folder: Path | None = None) -> list[Path]:
    """Return the files that are meant, each pattern replaced by its matches.

    Parameters
    ----------
    files
        A path or pattern, or several.
    folder
        Where relative paths start; None for the working folder.

    Raises
    ------
    DataError
        If nothing matches a pattern, or a file is named twice.
    """
    named = [files] if isinstance(files, str | Path) else files
    paths = [each for name in named for each in matched((folder or Path()) / name)]
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            raise DataError("this file is named twice", where=str(path), hint="its rows would count twice")
        seen.add(path)
    return paths


def title(files: Sequence[Path]) -> str:
    """Return what to call several files in messages."""
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def existing(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises
    ------
    DataError
        If there is none, with the closest name in the same folder as the hint.
    """
    # Unlike the methods of paths, these take a name that is too long for the system as one that is not there.
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        raise DataError("this is a folder, not a data file", where=str(path))
    raise DataError("no such file", where=str(path), hint=_beside(path))


def _beside(path: Path) -> str | None:
    """Return a hint for a file that is not there: the closest name in its folder."""
    if not os.path.isdir(path.parent):
        return None if glob.has_magic(str(path.parent)) else f"the folder {path.parent} does not exist"
    close = nearest(path.name, (each.name for each in path.parent.iterdir() if each.is_file()))
    return f"did you mean {close!r}?" if close else None


def unpacked_name(path: Path) -> str:
    """Return the name of a file in small letters, without the ending of its packing."""
    return path.name.lower().removesuffix(".gz").removesuffix(".zst")


def temporary(owner: object) -> tuple[str, list[str]]:
    """Return the path of an empty Parquet file that goes when ``owner`` does, and all names it has while written."""
    descriptor, name = tempfile.mkstemp(suffix=".parquet", prefix="gpumlp-")
    os.close(descriptor)
    weakref.finalize(owner, Path(name).unlink, missing_ok=True)
    return name, [name, str(Path(name).with_name(f"tmp_{Path(name).name}"))]


def plain_copy(path: Path, owner: object) -> Path:
    """Return a file without packing: the file itself, or a temporary copy that goes when ``owner`` does.

    The engine could unpack by itself, but does not compare the checksums of gzip.

    Raises
    ------
    DataError
        If the packed data are damaged.
    """
    if not path.name.lower().endswith((".gz", ".zst")):
        return path
    descriptor, name = tempfile.mkstemp(suffix="-" + unpacked_name(path)[-100:], prefix="gpumlp-")
    weakref.finalize(owner, Path(name).unlink, missing_ok=True)
    with os.fdopen(descriptor, "wb") as copy:
        if path.name.lower().endswith(".zst"):
            _unpack_zstd(path, copy)
        else:
            with open_binary(path) as stream:
                shutil.copyfileobj(stream, copy, COPY_BYTES)
    return Path(name)


def _unpack_zstd(path: Path, copy: IO[bytes]) -> None:
    r"""Write the lines of a text file packed by Zstandard, each ended by ``\n``."""
    from gpumlp.data.source.zstd import require_whole

    try:
        with open_binary(existing(path)) as stream:
            require_whole(stream)
        for lines in packed_lines(path):
            copy.write("".join(f"{line or ''}\n" for line in lines).encode())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (EngineRefusalError, ValueError) as error:
        message = f"the zstd data is damaged, cut short or not UTF-8 text ({str(error).splitlines()[0]})"
        raise DataError(message, where=str(path), hint="copy or download the file again") from None


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for reading bytes, unpacking it if its name ends in ``.gz``.

    Raises
    ------
    DataError
        If the file cannot be read, or its gzip data is damaged or cut short.
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
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that cannot be read, or of which no temporary copy can be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        message = f"there is no room in {tempfile.gettempdir()} for a temporary copy of this file ({error.strerror})"
        return DataError(message, where=str(path), hint="name another folder by the environment variable TMPDIR")
    return DataError(f"the file cannot be read ({error.strerror or error})", where=str(path))

"""Where the columns of a source lie while it is prepared: in memory, and beyond so many bytes in a file."""

from __future__ import annotations

import mmap
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.errors import DataError
from gpumlp.limits import cache_folder, gigabytes, host_memory

MEMORY_SHARE = 0.8
"""Of the memory of the machine, what rows may take."""
_ALIGNED = 4096  # bytes that the start of an array in the file is a multiple of


class Room:
    """Room for the columns of a source, each an array that grows at its end.

    The file has no name, so nothing is left of it when the process ends, however it ends. The system keeps as much of
    it in memory as there is to spare.

    Parameters
    ----------
    folder
        Where the file is to lie.
    limit
        Bytes of arrays in memory; None for any number.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self._folder, self._limit = folder, limit
        self._held = self._end = 0
        self._file: Any = None
        self._map: mmap.mmap | None = None

    def holds(self, count: int) -> bool:
        """Return whether so many bytes have a place besides memory. Raises DataError where they have not."""
        if self._limit is None or self._folder is None:
            return False
        require_disk(self._folder, count - self._limit, "the columns of the data")
        return True

    def growing(self, dtype: Any, about: int) -> Growing:
        """Return an array that is empty and may grow to about so many elements."""
        return Growing(self, np.dtype(dtype), about)

    def keep(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return these values, in the file where memory is full."""
        if self._limit is None:
            return values
        growing = self.growing(values.dtype, len(values))
        if not growing.is_in_file:
            return values
        growing.extend(values)
        return growing.whole()

    def take(self, count: int) -> bool:
        """Take so many bytes of memory; return whether they are there."""
        if self._limit is not None and self._held + count > self._limit:
            return False
        self._held += count
        return True

    def give_back(self, count: int) -> None:
        """Give back so many bytes of memory."""
        self._held -= count

    def extent(self, count: int) -> int:
        """Return where so many bytes of the file begin that nobody else has. Untouched, they take no disk."""
        if self._file is None:
            assert self._folder is not None
            with _disk(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives as long
                weakref.finalize(self, self._file.close)
        start, self._end = self._end, -(-(self._end + count) // _ALIGNED) * _ALIGNED
        with _disk(self._folder):
            self._file.truncate(self._end)
        return start

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write values at a place of the file."""
        with _disk(self._folder):
            self._file.seek(start)
            rest = np.ascontiguousarray(values).data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]

    def array(self, start: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """Return an array in the file."""
        if count == 0:
            return np.empty(0, dtype)
        if self._map is None or len(self._map) < start + count * dtype.itemsize:
            self._map = mmap.mmap(self._file.fileno(), self._end)
            if hasattr(self._map, "madvise"):
                self._map.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(self._map, dtype, count, start)


class Growing:
    """An array that grows at its end. What is not filled yet takes no memory, since it was never touched."""

    def __init__(self, room: Room, dtype: np.dtype[Any], about: int) -> None:
        self._room, self._dtype, self._count, self._size = room, dtype, 0, max(about, 1)
        self._array: NDArray[Any] | None = None
        self._start = 0
        if room.take(self._size * dtype.itemsize):
            self._array = np.empty(self._size, dtype)
        else:
            self._start = room.extent(self._size * dtype.itemsize)

    @property
    def is_in_file(self) -> bool:
        """Whether there was no memory for it."""
        return self._array is None

    def extend(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        end = self._count + len(values)
        if end > self._size:
            self._enlarge(max(2 * self._size, end))
        if self._array is None:
            self._room.write(self._start + self._count * self._dtype.itemsize, values.astype(self._dtype, copy=False))
        else:
            self._array[self._count : end] = values
        self._count = end

    def whole(self) -> NDArray[Any]:
        """Return all values, as a view."""
        if self._array is None:
            return self._room.array(self._start, self._dtype, self._count)
        return self._array[: self._count]

    def _enlarge(self, size: int) -> None:
        before, itemsize = self.whole(), self._dtype.itemsize
        if self._array is not None and self._room.take((size - self._size) * itemsize):
            self._array = np.empty(size, self._dtype)
            self._array[: self._count] = before
        else:
            if self._array is not None:
                self._room.give_back(self._size * itemsize)
            self._array, self._start = None, self._room.extent(size * itemsize)
            self._room.write(self._start, before)
        self._size = size


_room: ContextVar[Room] = ContextVar("room")
_UNBOUNDED = Room()


def room() -> Room:
    """Return the room that sources are read into: memory alone, unless :func:`reading_into` says otherwise."""
    return _room.get(_UNBOUNDED)


def usual_memory() -> int | None:
    """Return the bytes of memory that rows may take; None where nobody knows what there is."""
    there_is = host_memory()
    return None if there_is is None else int(MEMORY_SHARE * there_is)


def usual_folder() -> Path:
    """Return the folder of what does not fit there, unless ``data.pack.folder`` says otherwise."""
    return Path(cache_folder() or tempfile.gettempdir()) / "packs"


def usual_room(memory: int | None = None, folder: Path | None = None) -> Room:
    """Return room for rows as they are read: half of their memory, then a folder."""
    memory = usual_memory() if memory is None else memory
    return Room() if memory is None else Room(folder or usual_folder(), memory // 2)


@contextmanager
def reading_into(room: Room) -> Iterator[None]:
    """Read sources into a room meanwhile, in this thread."""
    token = _room.set(room)
    try:
        yield
    finally:
        _room.reset(token)


def is_in_file(values: NDArray[Any]) -> bool:
    """Return whether an array lies in the file of a room."""
    return _mapping(values) is not None


def gathered(values: NDArray[Any], rows: NDArray[np.int64] | None) -> NDArray[Any]:
    """Return some rows of an array, None for all.

    Of one in a file, the part that has them is asked of the disk at once, and no more: a system that reads ahead of
    each column throws out of memory what it has read ahead of the others.
    """
    ask_for(values, rows)
    return values if rows is None else values.take(rows)


def ask_for(values: NDArray[Any], rows: NDArray[np.int64] | None) -> None:
    """Have the disk bring the part of an array that has some rows, if it lies in a file."""
    mapped = _mapping(values)
    if mapped is not None and len(values) and (rows is None or len(rows)) and hasattr(mapped, "madvise"):
        first, last = (0, len(values) - 1) if rows is None else (int(rows.min()), int(rows.max()))
        begin = values.ctypes.data - np.frombuffer(mapped, np.uint8, 1).ctypes.data + first * values.itemsize
        aligned = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, aligned, begin - aligned + (last + 1 - first) * values.itemsize)


def _mapping(values: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapped file that an array lies in, None for one in memory."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, mmap.mmap) else None


@contextmanager
def _disk(folder: Path | None) -> Iterator[None]:
    """Turn what the system says against writing columns into a DataError."""
    try:
        yield
    except OSError as error:
        message = f"the columns of the data cannot be kept here: {error.strerror or error}"
        raise DataError(message, where=str(folder), hint="choose another folder by data.pack.folder") from None


def require_disk(folder: Path, needed: int, content: str) -> None:
    """Raise DataError unless a disk has room for so many bytes."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        short = f"{content} take {gigabytes(needed)}, and this disk has {gigabytes(free)}"
        raise DataError(short, where=str(folder), hint="choose a folder on another disk by data.pack.folder")

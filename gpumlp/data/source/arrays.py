"""Array files: ``.npz`` and ``.npy``, and the source that they and IDX files become."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import FLOAT32_MAX, Floats
from gpumlp.data.source.frame import Codes, as_written, type_of_dtype
from gpumlp.data.source.room import ask_for, is_in_file, room
from gpumlp.errors import QUOTED, DataError, choices
from gpumlp.limits import gigabytes, host_memory

MAX_HEADER = 10_000
"""Characters of the header of an array: Python's parser takes memory by them."""

# What decides where several arrays could be the inputs.
_INPUT_NAMES = ("x", "inputs", "images")

_NUMBERS = "biuf"

PIECE_BYTES = 64 << 20
"""Bytes of an array that go to disk at once."""


@dataclass(frozen=True, eq=False)
class Member:
    """An array of an ``.npz`` file, which is read when its values are needed.

    Parameters
    ----------
    path
        Path of the file.
    name
        Name of the member, with its ending.
    shape, dtype
        By its header.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @functools.cached_property
    def values(self) -> NDArray[Any]:
        """The array.

        Raises
        ------
        DataError
            If the member is damaged or holds pickled objects.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as stream:
                array = _read_array(stream, self.path)
                stream.read()  # to its end, where the checksum is compared
        except DataError:
            raise
        except Exception as error:  # of zipfile, zlib, NumPy, or the tokenizer that NumPy reads headers with
            raise _damaged(self.path, error) from error
        return array


@dataclass(frozen=True, eq=False)
class ArrayTable:
    """Named arrays whose first axis counts the rows.

    Parameters
    ----------
    path
        What to call the source in messages.
    arrays
        The arrays by name, each of at least one axis.
    target
        The array that is the target unless another is named.
    hint
        What to add to the message when an array is asked for that is not there.
    rows
        The rows of the arrays that belong to this table; None means all of them.
    types
        Types of the values of arrays, one of ``TYPES``, where they are other than their dtype.
    """

    path: str
    arrays: Mapping[str, NDArray[Any] | Member]
    target: str | None = None
    hint: str | None = None
    rows: NDArray[np.int64] | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self.arrays)

    def count(self, name: str) -> int:
        """Return how many rows an array has."""
        return len(self.arrays[name]) if self.rows is None else len(self.rows)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the axes of a row of an array."""
        return self.arrays[name].shape[1:]

    def width(self, name: str) -> int:
        """Return how many columns an array has, all axes but the first made one."""
        return math.prod(self.shape(name))

    @property
    def row_bytes(self) -> int:
        """The bytes of a row of all arrays."""
        return sum(self.width(name) * array.dtype.itemsize for name, array in self.arrays.items())

    def is_in_file(self, name: str) -> bool:
        """Return whether an array lies on disk, column by column, as it is too large for memory."""
        return is_in_file(self._values(name))

    def type_of(self, name: str) -> str | None:
        """Return the type of the values of an array, one of ``TYPES``; None where it has none of them."""
        return self.types.get(name) or type_of_dtype(self.arrays[name].dtype)

    def ask_for(self) -> None:
        """Have the disk bring what lies there of these rows."""
        for array in self.arrays.values():
            values = array.__dict__.get("values") if isinstance(array, Member) else array
            if values is not None and values.ndim == 2 and is_in_file(values):
                for column in values.T:
                    ask_for(column, self.rows)

    def take(self, rows: NDArray[np.int64]) -> ArrayTable:
        """Return the table of these rows; nothing is copied until an array is asked for."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def where(self, row: int) -> str:
        """Return the file and the row in it, counted from 0 as NumPy does."""
        return f"{self.path}, row {row if self.rows is None else self.rows[row]}"

    def resolve(self, name: str | int | None) -> str:
        """Return the name of an array, the default target for None.

        Raises
        ------
        DataError
            If there is no such array.
        """
        name = self.target if name is None else name
        if isinstance(name, str) and name in self.arrays:
            return name
        if name is None or isinstance(name, int):
            message = "the target of an array file is another array, given by its name"
            raise DataError(message, where=self.path, hint=f"it holds {self._listing()}")
        hint = self.hint or choices(name, self.arrays)
        raise DataError(f"there is no array {name!r}", where=self.path, hint=hint)

    def choose_inputs(self, *, preferred: str | None = None, exclude: Collection[str] = ()) -> str:
        """Return the name of the array of inputs: ``preferred``, the only candidate, or by its name.

        Raises
        ------
        DataError
            If no array, or more than one, can be meant.
        """
        tables = [name for name, each in self.arrays.items() if each.ndim > 1 and name not in exclude]
        if preferred in tables:
            return preferred
        named = [name for name in tables if name.lower() in _INPUT_NAMES]
        for candidates in (tables, named):
            if len(candidates) == 1:
                return candidates[0]
        message = "several arrays could be the inputs" if tables else "there is no array of inputs (rows, columns)"
        hint = f"it holds {self._listing()}; call one of them 'x', or drop the others"
        raise DataError(message, where=self.path, hint=hint)

    def require_same_rows(self, names: Iterable[str]) -> None:
        """Check that these arrays have as many rows as each other.

        Raises
        ------
        DataError
            If they do not.
        """
        counts = {name: len(self.arrays[name]) for name in names}
        if len(set(counts.values())) > 1:
            listing = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(f"the arrays differ in their number of rows: {listing}", where=self.path)

    def block(self, name: str, columns: slice = slice(None)) -> NDArray[Any]:
        """Return an array with all axes but the first made one, (N, p), in its own dtype (truth as float32).

        Parameters
        ----------
        name
            Name of the array.
        columns
            Those that are wanted; by default all.

        Raises
        ------
        DataError
            If it does not hold real numbers, or holds nothing.
        """
        self._require_numbers(name)
        whole = self._values(name)
        if self.count(name) == 0 or whole.size == 0:
            shape = (self.count(name), *self.arrays[name].shape[1:])
            raise DataError(f"array {name!r} is empty, shape {shape}", where=self.path)
        values = whole.reshape(len(whole), -1)[:, columns]
        values = values if self.rows is None else values[self.rows]
        return values.astype(np.float32) if values.dtype.kind == "b" else values

    def categories(self, name: str) -> Codes:
        """Return an array as text, (N,): whole numbers without a point, NaN as the empty text.

        Raises
        ------
        DataError
            If it is not one value per row.
        """
        dtype = self._plain(name).dtype
        if dtype.kind not in "fbiuU":
            raise DataError(f"array {name!r} of {dtype} cannot be classes", where=self.path)
        return as_written(self._one_per_row(name))

    def numbers(self, name: str) -> Floats:
        """Return an array as numbers, (N,) float64, NaN where the value is missing.

        Raises
        ------
        DataError
            If it is not one number per row, or a number is beyond the range of 32-bit floats.
        """
        self._require_numbers(name)
        values = self._one_per_row(name).astype(np.float64)
        bad = np.abs(values) > FLOAT32_MAX
        if bad.any():
            row = int(np.argmax(bad))
            message = f"array {name!r} has {values[row]}, which is not a finite 32-bit float"
            raise DataError(message, where=self.where(row))
        return values

    def _plain(self, name: str) -> NDArray[Any] | Member:
        """Return an array that is not of objects, which would have to be unpickled."""
        array = self.arrays[name]
        if isinstance(array, Member) and array.dtype.hasobject:
            raise _pickled(array.path)
        return array

    def _values(self, name: str) -> NDArray[Any]:
        array = self.arrays[name]
        return array.values if isinstance(array, Member) else array

    def _require_numbers(self, name: str) -> None:
        dtype = self._plain(name).dtype
        if dtype.kind not in _NUMBERS:
            message = f"array {name!r} holds {dtype}, not real numbers"
            raise DataError(message, where=self.path)

    def _one_per_row(self, name: str) -> NDArray[Any]:
        shape = self.arrays[name].shape
        if int(np.prod(shape[1:])) != 1:
            message = f"array {name!r} must hold one value per row, but its shape is {shape}"
            raise DataError(message, where=self.path)
        values = self._values(name)
        return (values if self.rows is None else values[self.rows]).reshape(-1)

    def _listing(self) -> str:
        return ", ".join(f"{name} {each.shape}" for name, each in self.arrays.items()) or "no arrays"


def read_npz(path: Path) -> ArrayTable:
    """Return the arrays of an ``.npz`` file, of which only those are read that are used; single numbers are left out.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [_member(path, archive, each) for each in archive.infolist() if each.filename.endswith(".npy")]
            if len({each.name for each in members}) < len(members):
                raise ValueError("two arrays have the same name")
    except Exception as error:  # of zipfile, zlib, NumPy, or the tokenizer that NumPy reads headers with
        raise _damaged(path, error) from error
    return ArrayTable(str(path), {each.name.removesuffix(".npy"): each for each in members if each.ndim})


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Member:
    """Return an array by its header alone. Raises ValueError if it is not as long as the header says."""
    with archive.open(member) as stream:
        shape, _, dtype = _header(stream)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and member.file_size != stream.tell() + size:
            message = f"the header of {member.filename} says {size:,} bytes, but {member.file_size - stream.tell():,}"
            raise ValueError(f"{message} follow")
    return Member(path, member.filename, shape, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape of the array that begins here, whether it lies column by column, and its dtype.

    Raises ValueError where there can be no such array.
    """
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, turned, dtype = read_header(stream, max_header_size=MAX_HEADER)
    except ValueError as error:
        if "max_header_size" in str(error):  # its advice is to allow pickled objects
            raise ValueError(f"its header has more than {MAX_HEADER:,} characters") from None
        raise
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    return shape, turned, dtype


def require_array_memory(path: Path, needed: int) -> None:
    """Check that an array fits into memory, before any of it is taken.

    Raises
    ------
    DataError
        If it does not.
    """
    there_is = host_memory()
    if there_is is not None and needed > there_is:
        message = f"an array of {gigabytes(needed)} is in this file; this machine has {gigabytes(there_is)} of memory"
        raise DataError(message, where=str(path), hint="train on fewer rows")


def _read_array(stream: IO[bytes], path: Path) -> NDArray[Any]:
    """Return the array of a file of NumPy's: on disk, column by column, where memory is full."""
    shape, turned, dtype = _header(stream)
    is_plain = dtype.kind in _NUMBERS and len(shape) > 0 and not (turned and len(shape) > 2)
    size = math.prod(shape) * dtype.itemsize
    if is_plain and not room().take(size):
        return on_disk(stream.read, shape, dtype, turned=turned)
    require_array_memory(path, size)
    stream.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def on_disk(
    read: Callable[[int], bytes], shape: tuple[int, ...], dtype: np.dtype[Any], *, turned: bool = False
) -> NDArray[Any]:
    """Return an array in the file of the room, with all axes but the first made one, from a stream.

    It lies there column by column, as a table does, since it is fitted to by columns.

    Parameters
    ----------
    read
        Returns the next bytes, up to so many.
    shape, dtype
        Of the array.
    turned
        Whether the stream has it column by column, too.

    Raises
    ------
    ValueError
        If the stream ends too early.
    DataError
        If the disk has no room for it.
    """
    count, width, native = shape[0], math.prod(shape[1:]), dtype.newbyteorder("=")
    lines, length = (width, count) if turned else (count, width)
    file, size = room(), dtype.itemsize
    file.holds(count * width * size)
    start, step = file.extent(count * width * size), max(1, PIECE_BYTES // max(1, length * size))
    for first in range(0, lines, step):
        block = _next(read, min(step, lines - first) * length * size)
        values = np.frombuffer(block, dtype).reshape(-1, length).astype(native, copy=False)
        if turned:
            file.write(start + first * length * size, values)
            continue
        for column in range(width):
            file.write(start + (column * count + first) * size, values[:, column])
    array = file.array(start, native, count * width).reshape(width, count).T
    return array if len(shape) > 1 else array[:, 0]


def _next(read: Callable[[int], bytes], count: int) -> bytearray:
    """Return so many bytes of a stream. Raises ValueError where it has fewer."""
    content = bytearray()
    while len(content) < count:
        if not (some := read(count - len(content))):
            raise ValueError(f"it ends {count - len(content):,} bytes too early")
        content += some
    return content


def read_npy(path: Path) -> ArrayTable:
    """Read the array of an ``.npy`` file, which is called ``inputs``: it has no room for a target.

    Raises
    ------
    DataError
        If the file is damaged, holds pickled objects or a single number.
    """
    try:
        with path.open("rb") as stream:
            shape, _, dtype = _header(stream)
            size, follow = math.prod(shape) * dtype.itemsize, path.stat().st_size - stream.tell()
            if not dtype.hasobject and size != follow:
                raise ValueError(f"the header says {size:,} bytes, but {follow:,} follow")
            stream.seek(0)
            array = _read_array(stream, path)
    except DataError:
        raise
    except Exception as error:  # of NumPy, or the tokenizer that it reads headers with
        raise _damaged(path, error) from error
    if array.ndim < 2:
        raise DataError(f"expected an array (rows, columns), found shape {array.shape}", where=str(path))
    return ArrayTable(
        str(path), {"inputs": array}, hint="an .npy file holds inputs only; put both arrays in an .npz file"
    )


def _pickled(path: Path) -> DataError:
    hint = "save plain numbers or texts: gpumlp never unpickles data"
    return DataError("the file holds pickled Python objects", where=str(path), hint=hint)


def _damaged(path: Path, error: BaseException) -> DataError:
    if "allow_pickle" in str(error):
        return _pickled(path)
    detail = str(error)[:QUOTED] or type(error).__name__
    return DataError(f"the array file is damaged or of another kind ({detail})", where=str(path))

"""The blocks of one part of the data: how they lie in files, how they are written and read.

Each array of a part is a file: numbers, codes of categories, targets, weights. Block b is the rows from b · size on
in each of them, little-endian, without anything between, so that what is read is what training gathers from. The
checksums of the blocks stand in the index of the pack.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.dataset import Dataset
from gpumlp.data.encoding.features import MAX_WIDTH, Features
from gpumlp.data.state import StateReader
from gpumlp.errors import DataError, RunError
from gpumlp.store.atomic import open_regular

BLOCK_ROWS, BLOCK_BYTES = 8192, 1 << 23
"""Rows of a block, and bytes of its features: of wide rows, fewer."""

SOME_BYTES = 1 << 26
"""Bytes of rows that stand for all, such as for where bins begin."""

NUMBERS, CODES, TARGETS, WEIGHTS = "numbers", "codes", "targets", "weights"
_ALLOWED = {NUMBERS: ("<f4", "|u1"), CODES: ("|u1", "<u2", "<u4"), TARGETS: ("<i4", "<f4"), WEIGHTS: ("<f4",)}
_MOST_ROWS = 1 << 40

HINT = "delete this folder: the rows are packed anew from the data"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class BlockLayout:
    """How the rows of a part lie in its files.

    Parameters
    ----------
    count, size
        Rows, and those of a block; the last block may have fewer.
    dense, width
        As of :class:`gpumlp.data.Features`.
    arrays
        Dtype and columns of each array; 0 columns for one number a row.
    """

    count: int
    size: int
    dense: int
    width: int
    arrays: Mapping[str, tuple[str, int]]

    @classmethod
    def of(cls, count: int, sample: Dataset) -> BlockLayout:
        """Return the layout of so many rows like these."""
        features = sample.features
        codes = np.min_scalar_type(features.width)
        arrays: dict[str, tuple[str, int]] = {}
        if features.dense:
            arrays[NUMBERS] = _little(features.stored.dtype), features.dense
        if features.has_categories:
            arrays[CODES] = _little(codes), features.stored.shape[1] - features.dense
        assert sample.targets is not None
        arrays[TARGETS] = _little(sample.targets.dtype), 0 if sample.targets.ndim == 1 else sample.targets.shape[1]
        if sample.weights is not None:
            arrays[WEIGHTS] = _little(sample.weights.dtype), 0
        size = BLOCK_BYTES // max(1, features.stored.itemsize * features.stored.shape[1])
        return cls(count, max(1, min(BLOCK_ROWS, size)), features.dense, features.width, arrays)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.size)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row in all files together."""
        return sum(self.bytes_of(name) for name in self.arrays)

    def rows(self, block: int) -> range:
        """Return the rows of a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def bytes_of(self, name: str) -> int:
        """Return the bytes of a row in one file."""
        dtype, columns = self.arrays[name]
        return np.dtype(dtype).itemsize * max(columns, 1)

    def empty(self, name: str, count: int) -> NDArray[Any]:
        """Return memory for so many rows of an array."""
        dtype, columns = self.arrays[name]
        return np.empty((count, columns) if columns else count, dtype)

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        arrays = {name: list(each) for name, each in self.arrays.items()}
        return {"count": self.count, "size": self.size, "dense": self.dense, "width": self.width, "arrays": arrays}

    @classmethod
    def from_state(cls, fields: Mapping[str, Any]) -> BlockLayout:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        state = StateReader(fields, {})
        count, size = state.count("count", largest=_MOST_ROWS), state.count("size", largest=BLOCK_ROWS)
        width, dense, arrays = state.count("width", largest=MAX_WIDTH), fields.get("dense"), fields.get("arrays")
        if not isinstance(dense, int) or not 0 <= dense <= width or not isinstance(arrays, dict):
            raise state.wrong("", "has no layout")
        columns_of: dict[str, tuple[str, int]] = {}
        for name, each in arrays.items():
            dtype, columns = each if isinstance(each, list) and len(each) == 2 else (None, None)
            if dtype not in _ALLOWED.get(name, ()) or not isinstance(columns, int) or not 0 <= columns <= MAX_WIDTH:
                raise state.wrong(f"arrays.{name}", "is not an array of a pack")
            columns_of[name] = str(dtype), columns
        if TARGETS not in columns_of or columns_of.get(NUMBERS, ("", 0))[1] != dense:
            raise state.wrong("arrays", "lacks an array")
        return cls(count, size, dense, width, columns_of)


class Writer:
    """Writes the rows of a part to their blocks, in any order of blocks.

    Parameters
    ----------
    folder, name
        Where, and what the part is called.
    layout
        Layout of the rows.
    block_of
        (count,) the block that each row goes to, as many to each as it has rows; None: as they come.
    """

    def __init__(
        self, folder: Path, name: str, layout: BlockLayout, block_of: NDArray[np.int32] | None = None
    ) -> None:
        self.layout, self._block_of = layout, block_of
        self._files: dict[str, FileIO] = {}
        weakref.finalize(self, _close, self._files)
        for array in layout.arrays:
            self._files[array] = path_of(folder, name, array).open("xb", buffering=0)
        self._filled = np.zeros(layout.blocks, np.int64)
        self._done = 0
        self.checksums = {array: [0] * layout.blocks for array in layout.arrays}

    def add(self, rows: Dataset) -> None:
        """Add the rows that come next."""
        span = slice(self._done, self._done + len(rows))
        numbers = np.arange(span.start, span.stop)
        blocks = numbers // self.layout.size if self._block_of is None else self._block_of[span]
        order = np.argsort(blocks, kind="stable")
        present, starts = np.unique(blocks[order], return_index=True)
        arrays = {array: self._of(array, rows)[order] for array in self.layout.arrays}
        for block, start, end in zip(present.tolist(), starts, [*starts[1:], len(order)], strict=True):
            row = block * self.layout.size + int(self._filled[block])
            for array, values in arrays.items():
                content = values[start:end].data.cast("B")
                self.checksums[array][block] = zlib.crc32(content, self.checksums[array][block])
                file = self._files[array]
                file.seek(row * self.layout.bytes_of(array))
                while content:
                    content = content[file.write(content) :]
            self._filled[block] += end - start
        self._done = span.stop

    def flush(self) -> None:
        """Have all on the disk."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def _of(self, array: str, rows: Dataset) -> NDArray[Any]:
        """Return the values of an array, as its file has them."""
        stored, dense = rows.features.stored, self.layout.dense
        whole = {NUMBERS: stored[:, :dense], CODES: stored[:, dense:], TARGETS: rows.targets, WEIGHTS: rows.weights}
        values = whole[array]
        assert values is not None
        return np.ascontiguousarray(values, self.layout.arrays[array][0])


class PackedRows:
    """The rows of a part on disk. It stands where a :class:`gpumlp.data.Dataset` does, but for its features.

    Files are open as long as this is, so that one who deletes them disturbs nobody.

    Parameters
    ----------
    folder, name
        Where, and what the part is called.
    layout
        Layout of the rows.
    checksums
        Checksums of each array and block.
    rows
        (n,) rising numbers of those that count; None for all.

    Attributes
    ----------
    features
        How features are laid out, without a row.
    targets, weights
        As of a ``Dataset``; the system brings them to memory where they are looked at.
    bytes_read
        So far.
    """

    nbytes = 0

    def __init__(
        self,
        folder: Path,
        name: str,
        layout: BlockLayout,
        checksums: Mapping[str, Sequence[int]],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.folder, self.name, self.layout, self.checksums, self.rows = folder, name, layout, checksums, rows
        self._lock = threading.Lock()
        self.bytes_read = 0
        self._files: dict[str, FileIO] = {}
        weakref.finalize(self, _close, self._files)
        try:
            for array in layout.arrays:
                self._files[array] = FileIO(open_regular(path_of(folder, name, array)))
                if hasattr(os, "posix_fadvise"):  # blocks are visited in any order: nothing is worth reading ahead
                    os.posix_fadvise(self._files[array].fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            targets = self._map(TARGETS)
            weights = self._map(WEIGHTS) if WEIGHTS in layout.arrays else None
        except (OSError, ValueError) as error:
            raise DataError(f"the packed rows cannot be read: {error}", where=str(folder), hint=HINT) from None
        dtype = np.uint8 if layout.arrays.get(NUMBERS, ("", 0))[0] == "|u1" else np.float32
        columns = layout.dense + layout.arrays.get(CODES, ("", 0))[1]
        self.features = Features(np.empty((0, columns), dtype), layout.dense, layout.width)
        self.targets = targets if rows is None else targets[rows]
        self.weights = weights if rows is None or weights is None else weights[rows]

    def __len__(self) -> int:
        return self.layout.count if self.rows is None else len(self.rows)

    def __deepcopy__(self, memo: object) -> Self:
        return self  # rows on disk do not change, and the files stay open

    def read(self, block: int) -> Dataset:
        """Return the rows of a block.

        Raises
        ------
        DataError
            If they are not as they were written.
        """
        layout, count = self.layout, len(self.layout.rows(block))
        arrays = {name: self._read(name, block, count) for name in layout.arrays}
        stored = arrays.get(NUMBERS)
        if CODES in arrays:
            stored = np.empty((count, self.features.stored.shape[1]), np.float32)
            if layout.dense:
                stored[:, : layout.dense] = arrays[NUMBERS]
            stored[:, layout.dense :] = arrays[CODES]
        assert stored is not None
        return Dataset(Features(stored, layout.dense, layout.width), arrays[TARGETS], arrays.get(WEIGHTS))

    def blocks(self) -> Iterator[Dataset]:
        """Yield the rows block by block, while the next block is read.

        Raises
        ------
        DataError
            If they are not as they were written.
        """
        if self.rows is None:
            yield from ahead(self.read, range(self.layout.blocks))
            return
        block_of = self.rows // self.layout.size
        numbers, starts = np.unique(block_of, return_index=True)  # the rows rise: those of a block are neighbours
        parts = np.split(self.rows, starts[1:])
        for block, row_numbers, rows in zip(numbers, parts, ahead(self.read, numbers.tolist()), strict=True):
            yield rows.take(row_numbers - block * self.layout.size)

    def some(self) -> Dataset:
        """Return rows that stand for all: the first blocks, to which rows were dealt at random."""
        count = max(1, SOME_BYTES // max(1, self.layout.row_bytes * self.layout.size))
        return joined([self.read(block) for block in range(min(count, self.layout.blocks))])

    def take(self, rows: NDArray[np.int64]) -> PackedRows:
        """Return some rows, by their numbers, which must rise."""
        return PackedRows(self.folder, self.name, self.layout, self.checksums, rows)

    def add_to(self, digest: Any) -> None:
        """Add what tells these rows from others to a checksum."""
        digest.update(repr((self.layout.to_state(), {name: list(c) for name, c in self.checksums.items()})).encode())

    def _map(self, name: str) -> NDArray[Any]:
        dtype, columns = self.layout.arrays[name]
        shape = (self.layout.count, columns) if columns else (self.layout.count,)
        return np.memmap(self._files[name], np.dtype(dtype), "r", shape=shape)

    def _read(self, name: str, block: int, count: int) -> NDArray[Any]:
        values = self.layout.empty(name, count)
        rest = content = values.data.cast("B")
        with self._lock:
            try:
                self._files[name].seek(block * self.layout.size * self.layout.bytes_of(name))
                while rest and (read := self._files[name].readinto(rest)):
                    rest = rest[read:]
            except OSError as error:
                raise self._damaged(name, block, f"cannot be read: {error.strerror}") from None
            self.bytes_read += len(content) - len(rest)
        if rest:
            raise self._damaged(name, block, "ends too early")
        if zlib.crc32(content) != self.checksums[name][block]:
            raise self._damaged(name, block, "is damaged: it does not match its checksum")
        return values

    def _damaged(self, name: str, block: int, problem: str) -> DataError:
        where = path_of(self.folder, self.name, name)
        return DataError(f"block {block + 1} of {self.layout.blocks} {problem}", where=str(where), hint=HINT)


def _close(files: Mapping[str, FileIO]) -> None:
    for file in files.values():
        with contextlib.suppress(OSError):  # flushed before, or given up
            file.close()


def path_of(folder: Path, part: str, array: str) -> Path:
    """Return the file of an array."""
    return folder / f"{part}.{array}"


def joined(blocks: Sequence[Dataset]) -> Dataset:
    """Return the rows of blocks, one after the other."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    stored = np.concatenate([each.features.stored for each in blocks])
    targets = np.concatenate([each.targets for each in blocks if each.targets is not None])
    weights = [each.weights for each in blocks if each.weights is not None]
    features = Features(stored, first.features.dense, first.features.width)
    return Dataset(features, targets, np.concatenate(weights) if weights else None)


def ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield ``function`` of each item; that of the next one is computed by a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[_Result] | None = None
        for item in items:
            before, coming = coming, pool.submit(function, item)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()


def checked_checksums(layout: BlockLayout, fields: object) -> dict[str, list[int]]:
    """Return checksums from an index. Raises RunError where they are not those of the blocks."""
    if isinstance(fields, dict) and fields.keys() == layout.arrays.keys():
        lists = list(fields.values())
        if all(isinstance(c, list) and len(c) == layout.blocks and all(isinstance(x, int) for x in c) for c in lists):
            return dict(fields)
    raise RunError("damaged pack: checksums are missing", where="index")


def _little(dtype: np.dtype[Any]) -> str:
    """Return what a dtype is called in the index."""
    return dtype.newbyteorder("<").str

"""IDX files: the format of MNIST and its relatives, images and labels in two files side by side."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.arrays import ArrayTable, on_disk, require_array_memory
from gpumlp.data.source.files import open_binary
from gpumlp.data.source.room import room
from gpumlp.errors import DataError

# Two zero bytes, the type (8: unsigned byte), the number of axes.
_IMAGES, _LABELS = 2051, 2049

_AGAIN = "copy or download the file again"

# Gzip packs no more bytes into one.
_MOST_PACKED = 1032


def read_idx(path: Path) -> ArrayTable:
    """Read a file of images with the labels beside it, or a file of labels alone.

    ``train-images-idx3-ubyte.gz`` gives ``images``, (N, rows, columns) uint8, and, if
    ``train-labels-idx1-ubyte.gz`` is in the same folder, ``labels``, (N,) uint8.

    Raises
    ------
    DataError
        If a file is not IDX of unsigned bytes, or is not as long as it says.
    """
    first = _read(path)
    if first.ndim == 1:
        return ArrayTable(str(path), {"labels": first}, target="labels")
    arrays = {"images": first}
    sibling = _labels_of(path)
    if sibling != path and sibling.is_file():
        arrays["labels"] = _read(sibling)
        if arrays["labels"].ndim != 1:
            raise DataError("this should be a file of labels, but it holds images", where=str(sibling))
    hint = f"its target is called 'labels'; they were looked for in {sibling.name}, in the same folder"
    return ArrayTable(str(path), arrays, target="labels", hint=hint)


def beside(path: Path) -> list[Path]:
    """Return the file of labels that is read with a file of images, if there is one."""
    sibling = _labels_of(path)
    return [sibling] if sibling != path and sibling.is_file() else []


def _labels_of(path: Path) -> Path:
    return path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))


def _read(path: Path) -> NDArray[np.uint8]:
    with open_binary(path) as stream:
        magic = int.from_bytes(stream.read(4), "big")
        axes = {_IMAGES: 3, _LABELS: 1}.get(magic, 0)
        head = stream.read(4 * axes)
        if not axes or len(head) < 4 * axes:
            raise DataError(
                f"not an IDX file of images ({_IMAGES}) or labels ({_LABELS}): it starts with {magic}",
                where=str(path),
            )
        shape = struct.unpack(f">{axes}I", head)
        count = math.prod(shape)
        if path.stat().st_size * _MOST_PACKED >= count and not room().take(count):
            try:
                pixels = on_disk(stream.read, shape, np.dtype(np.uint8))
            except ValueError as error:
                raise DataError(f"the file is damaged: {error}", where=str(path), hint=_AGAIN) from None
            if stream.read(1):
                raise DataError("the file is damaged: there are bytes after its end", where=str(path), hint=_AGAIN)
            return pixels
        require_array_memory(path, min(count, path.stat().st_size * _MOST_PACKED))
        # Memory is taken for what the file can hold, and for one byte more than it should.
        content = stream.read(min(count, path.stat().st_size * _MOST_PACKED) + 1)
    if len(content) == count:
        return np.frombuffer(content, np.uint8).reshape(shape)
    is_packed = path.name.lower().endswith(".gz")
    follow = (
        f"{len(content)}{' or more' * (len(content) > count)}" if is_packed else path.stat().st_size - 4 - 4 * axes
    )
    raise DataError(
        f"the header says {' x '.join(map(str, shape))} bytes = {count}, but {follow} follow",
        where=str(path),
        hint=_AGAIN,
    )

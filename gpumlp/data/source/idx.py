"""IDX files: the format of MNIST and its relatives, images and labels in two files side by side."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.arrays import ArrayTable
from gpumlp.data.source.files import open_binary
from gpumlp.errors import DataError

# Two zero bytes, the type (8: unsigned byte), the number of axes.
_IMAGES, _LABELS = 2051, 2049


def read_idx(path: Path) -> ArrayTable:
    """Read a file of images with the labels beside it, or a file of labels alone.

    ``train-images-idx3-ubyte.gz`` gives ``images``, (N, rows * columns) uint8, and, if
    ``train-labels-idx1-ubyte.gz`` is in the same folder, ``labels``, (N,) uint8.

    Raises
    ------
    DataError : if a file is not IDX of unsigned bytes, or is not as long as it says
    """
    first = _read(path)
    if first.ndim == 1:
        return ArrayTable(str(path), {"labels": first}, target="labels")
    arrays = {"images": first.reshape(len(first), math.prod(first.shape[1:]))}
    sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if sibling != path and sibling.is_file():
        arrays["labels"] = _read(sibling)
        if arrays["labels"].ndim != 1:
            raise DataError("this should be a file of labels, but it holds images", where=str(sibling))
    hint = f"its target is called 'labels'; they were looked for in {sibling.name}, in the same folder"
    return ArrayTable(str(path), arrays, target="labels", hint=hint)


def _read(path: Path) -> NDArray[np.uint8]:
    with open_binary(path) as stream:
        content = stream.read()
    magic = int.from_bytes(content[:4], "big")
    axes = {_IMAGES: 3, _LABELS: 1}.get(magic)
    start = 4 + 4 * (axes or 0)
    if axes is None or len(content) < start:
        raise DataError(
            f"not an IDX file of images ({_IMAGES}) or labels ({_LABELS}): it starts with {magic}",
            where=str(path),
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"the header says {' x '.join(map(str, shape))} bytes = {math.prod(shape)}, "
            f"but {len(content) - start} follow",
            where=str(path),
            hint="copy or download the file again",
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)

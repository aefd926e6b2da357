"""How a native product is made: by which function, from which numbers, and cut into which tasks.

How it is summed up follows from shapes, strides and dtypes alone. Threads have a say in the cut: it changes no sum.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from gpumlp.backend.geometry import ceil_div
from gpumlp.backend.host.builder import Function
from gpumlp.backend.kernels import TYPES, address
from gpumlp.ops.precision import is_narrow
from gpumlp.ops.record import Array

TASK_OPERATIONS = 4_000_000
"""Operations of one task of a product: some tens of microseconds."""
MAX_TASKS = 32
MIN_SLICE_COLUMNS, SLICE_COLUMNS, MAX_SLICE_COLUMNS = 32, 128, 512
"""Columns of the narrowest, the usual and the widest slice of a product."""
MAX_UNCOPIED_COLUMNS = 16
"""Most columns of a right matrix that is not copied, where the left one can be read by rows in its place."""
RUN_ROWS = 512
"""Fewest rows of a run where there are several: the slice of the right matrix is copied for each run."""
GROUP_ROWS = 32
"""Rows that tiles make at once."""
TILED_TASK_OPERATIONS = 1_000_000
"""Operations of one task of a product by tiles."""
TILED_SLICE_COLUMNS = 256
"""Columns of a slice that is multiplied by tiles, where there are several."""
MIN_TILED_SIZE = 48
"""Fewest rows, columns and terms of a sum for which tiles make up for packing float32 in parts."""


def takes(a: Array, b: Array, out: Array | None) -> bool:
    """Return whether there is a product of our own for two matrices, and for where it is wanted.

    Where memory is shared NumPy makes a copy first.
    """
    if not (a.ndim == b.ndim == 2 and a.dtype == b.dtype and a.shape[1] == b.shape[0] and a.size * b.size > 0):
        return False
    narrow = is_narrow(a.dtype)
    if not ((narrow or a.dtype.str in ("<f4", "<f8")) and a.flags.aligned and b.flags.aligned):
        return False
    return out is None or bool(
        out.shape == (a.shape[0], b.shape[1])
        and (out.dtype == a.dtype or (narrow and out.dtype == np.float32))
        and out.flags.behaved
        and out.strides[1] == out.itemsize
        and not np.may_share_memory(out, a)
        and not np.may_share_memory(out, b)
    )


def bound(
    a: Array, b: Array, out: Array, threads: int, parts: int, find: Callable[[str], Function]
) -> tuple[Function, array[int], int]:
    """Return the function that makes out = a @ b, its arguments and the number of its tasks.

    ``parts`` are those of a float32 where there are tiles, 1 where bfloat16 alone is multiplied so, 0 where nothing
    is (``Builder.most_parts``). ``find`` returns a product by its name (``builder.PLAIN``, ``builder.TILED``). The
    arguments are what it wants in its slots.
    """
    plain = _plain(a, out)
    tiled = _tiled(a, b, out, parts) if parts else None
    left, right, result = (b.T, a.T, out.T) if tiled is None and _is_better_turned(a, b) else (a, b, out)
    sizes = rows, cols, inner = left.shape[0], right.shape[1], left.shape[1]
    if tiled:
        runs, slices = cut_tiled(rows, cols, inner, threads)
    else:
        runs, slices = cut(rows, cols, inner, threads, by_columns=left.strides[0] == left.itemsize)
    matrices = left, right, result
    steps = [step // matrix.itemsize for matrix in matrices for step in matrix.strides]
    slots = array("q", [*map(address, matrices), *sizes, *steps, runs, slices, GROUP_ROWS if tiled else 1])
    if tiled and not is_narrow(a.dtype):
        slots.append(find(plain))  # for what does not come out finite
    return find(tiled or plain), slots, runs * slices


@lru_cache(1024)
def cut(rows: int, cols: int, inner: int, threads: int, by_columns: bool = False) -> tuple[int, int]:
    """Return into how many runs of rows and slices of columns a product is cut.

    Where the left matrix is stored by columns, the product is a gradient of weights: it is rather cut into runs, as
    the optimizer's pass over it will be, so that each thread finds there what it has written here. No number depends
    on the cut: each is summed as a whole.
    """
    tasks = max(1, min(2 * rows * cols * inner // TASK_OPERATIONS, MAX_TASKS))
    if by_columns and tasks > threads:
        slices = ceil_div(cols, MAX_SLICE_COLUMNS)
        runs = max(ceil_div(2 * threads, slices), min(rows // RUN_ROWS, MAX_TASKS // slices))
        if rows >= runs * SLICE_COLUMNS:
            return runs, slices
    slices = ceil_div(cols, SLICE_COLUMNS if rows < RUN_ROWS else 2 * SLICE_COLUMNS)
    runs = max(1, min(tasks // slices, rows // RUN_ROWS))
    if runs * slices < tasks:
        slices = min(ceil_div(cols, MIN_SLICE_COLUMNS), ceil_div(tasks, runs))
    return runs, slices


@lru_cache(1024)
def cut_tiled(rows: int, cols: int, inner: int, threads: int) -> tuple[int, int]:
    """Return the same for a product by tiles, whose tasks pack both of their matrices.

    A task is halved along its longer side, which is what packing costs least, until each thread has one.
    """
    tasks = max(1, min(2 * rows * cols * inner // TILED_TASK_OPERATIONS, threads))
    runs, slices = max(1, rows // RUN_ROWS), ceil_div(cols, TILED_SLICE_COLUMNS)
    while runs * slices < tasks:
        if rows // runs >= cols // slices:
            runs *= 2
        else:
            slices *= 2
    return min(runs, ceil_div(rows, GROUP_ROWS)), min(slices, ceil_div(cols, MIN_SLICE_COLUMNS))


def _plain(a: Array, out: Array) -> str:
    """Return the product by vectors."""
    if is_narrow(a.dtype):
        return "bfloat16_into_bfloat16" if is_narrow(out.dtype) else "bfloat16_into_float"
    return TYPES[a.dtype.str]


def _tiled(a: Array, b: Array, out: Array, parts: int) -> str | None:
    """Return the product by tiles, or None where that by vectors is faster or the only one there is."""
    if not _has_lines(a, b):
        return None
    if is_narrow(a.dtype):
        return f"{_plain(a, out)}_by_tiles"
    if parts > 1 and a.dtype.str == "<f4" and min(*a.shape, b.shape[1]) >= MIN_TILED_SIZE:
        return f"float_by_{parts}_parts"
    return None


def _has_lines(a: Array, b: Array) -> bool:
    """Return whether the numbers of the rows or of the columns of both matrices lie side by side."""
    return all(matrix.itemsize in matrix.strides for matrix in (a, b))


def _is_better_turned(a: Array, b: Array) -> bool:
    """Return whether the product is better made as (b.T @ a.T).T: the right matrix is copied, the left one is not."""
    (rows, inner), cols = a.shape, b.shape[1]
    if b.strides[1] != b.itemsize:
        return bool(4 * rows <= cols and inner > MIN_SLICE_COLUMNS)
    return bool(cols <= MAX_UNCOPIED_COLUMNS < rows and a.strides[0] == a.itemsize)

"""How a kernel is launched: on a GPU its grid and its blocks, on a CPU its parts, by the shape alone.

On a GPU a block is THREADS threads in teams (``kernels/prelude.cuh``): ``block = (lanes of a team, teams)``. A short
row has a few lanes, a longer one a warp, a long one the whole block. ``grid = (blocks, parts)``: what is summed over
rows is cut into parts, each of which leaves its sums in scratch memory. Their number depends on the shape alone, so
the order of every sum does too.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumlp.backend.kernels import SUMMED
from gpumlp.ops.record import Launch, Walk

THREADS = 256
WARP = 32
LONG_ROW = 1024
"""Columns beyond which a row has a whole block."""
MOST_BLOCKS = 2048
"""Enough to fill any device with blocks of 256 threads twice; more rows or elements are done in turns."""
MOST_PARTS = 512
PER_THREAD = 4
"""Elements that a thread takes at a time: 16 bytes of float32."""
SUMS = 4
"""Numbers of float64 that a part leaves behind: of a loss four, of a pair of column sums two for each column."""


@dataclass(frozen=True)
class Geometry:
    """The two dimensions of a launch: blocks and parts, lanes and teams."""

    grid: tuple[int, int] | tuple[int, int, int]
    block: tuple[int, int]


ONE_BLOCK = Geometry((1, 1), (WARP, THREADS // WARP))
"""Every kernel takes this one, whatever the shape: teams of a warp each."""


def geometry(walk: Walk, launch: Launch, rows: int, cols: int) -> Geometry:
    """Return the launch of one kernel, by its own walk and that of its direction, over an array of (rows, cols)."""
    tiles = ceil_div(cols, WARP)
    match walk:
        case "elementwise":
            return Geometry((min(ceil_div(rows * cols, THREADS * PER_THREAD), MOST_BLOCKS), 1), (THREADS, 1))
        case "rows":
            lanes = _lanes(cols)
            return Geometry((min(ceil_div(rows, THREADS // lanes), MOST_BLOCKS), 1), (lanes, THREADS // lanes))
        case "columns":
            return Geometry((min(tiles, MOST_BLOCKS), parts(launch, rows, cols)), (WARP, THREADS // WARP))
        case "total":
            lanes = _lanes(cols)
            return Geometry((1, parts(launch, rows, cols)), (lanes, THREADS // lanes))
        case "finish":
            return Geometry((min(tiles, MOST_BLOCKS) if launch != "total" else 1, 1), (WARP, THREADS // WARP))


def parts(launch: Launch, rows: int, cols: int) -> int:
    """Return into how many parts of the rows a sum is cut on a GPU."""
    if launch == "total":
        count = max(ceil_div(rows, THREADS // _lanes(cols)), rows * cols // (16 * THREADS))
        return min(count, MOST_PARTS)
    return max(1, min(ceil_div(rows, WARP), 2 * MOST_PARTS // ceil_div(cols, WARP)))


def scratch(launch: Launch, cols: int, pieces: int) -> int:
    """Return how many numbers of float64 the parts of a sum need."""
    return 0 if launch not in SUMMED else pieces * (SUMS if launch == "total" else 2 * cols)


def _lanes(cols: int) -> int:
    if cols > LONG_ROW:
        return THREADS
    return min(WARP, 1 << (cols - 1).bit_length())


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)

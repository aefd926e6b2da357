"""The native backend: the kernels' text, compiled for this processor by the machine's C++ compiler.

What has no kernel, or comes in a shape or dtype that its kernel does not take, runs in the reference's formula.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gpumlp.backend.base import Backend
from gpumlp.backend.builder import Builder
from gpumlp.backend.capture import Call
from gpumlp.backend.kernels import SUMMED, TYPES, address, arguments, shape_of, template_types
from gpumlp.backend.launch import kind, scratch
from gpumlp.backend.memory import Pool, aligned, owners, shaped, size_of
from gpumlp.backend.program import Program, joined, threads
from gpumlp.ops.record import Array, Op, Scalar

PART = 1 << 15
"""Elements of one part of a kernel's work: some ten microseconds."""
MOST_PARTS = 64
LONG_ROW = 64
"""Columns from which on a loop over them fills the widest vectors."""
TASK = 4_000_000
"""Operations of one part of a product: some tens of microseconds."""
MOST_TASKS = 32
PANEL, SLICE, WIDEST = 32, 128, 512
"""Columns of the narrowest, of a good and of the widest slice of a product."""
NARROW = 16
"""Columns of a right matrix that is not worth the copying, if the left one can be read by rows in its place."""
RUN = 512
"""Rows of a run where there are many: the slice of the right matrix is copied for each run."""
TOGETHER = 64
"""Steps that are one call where they are short: what is around a call, some µs of Python, is then nothing."""
DOUBLE, BITS = struct.Struct("<d"), struct.Struct("<q")


class NativeBackend(Backend):
    """Arrays on the host, operations and products compiled for its processor.

    A captured step is one call into compiled code. Threads share what is large; the order of every sum depends on the
    shape alone.

    Raises BackendError, with the mend, where there is no compiler or it fails.
    """

    name = "native"

    def __init__(self, builder: Builder | None = None) -> None:
        super().__init__()
        self._builder = builder or Builder()
        self._builder.check()
        self._run = self._builder.program()
        self.threads = threads()

    @property
    def seconds_building(self) -> float:
        return self._builder.seconds

    @property
    def together(self) -> int:
        return TOGETHER

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Array:
        size = size_of(shape, dtype)
        return shaped(self._pool.lend(size) if self.capturing and size else aligned(size), shape, dtype)

    @contextlib.contextmanager
    def _record(self) -> Iterator[list[Call]]:
        self._pool = Pool()
        with super()._record() as calls:
            yield calls

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        made = op.directions[direction]
        types = template_types(made, inputs, outputs) if _writeable(outputs) else None
        rows, cols = shape_of(made, inputs, outputs) if types else (0, 0)
        long = made.launch == "elementwise" or cols >= LONG_ROW
        functions = self._builder.find(op, direction, types, long) if types else {}
        if not functions:
            return super().bind(op, direction, inputs, outputs, params)
        parts = max(1, min(rows * cols // PART, MOST_PARTS, rows if made.launch == "columns" else MOST_PARTS))
        if made.launch not in SUMMED and parts > 1:  # the order of a sum must not depend on the threads
            parts = _ceil(parts, self.threads) * self.threads
        values = arguments(made, inputs, outputs, params)
        room = None
        if made.launch in SUMMED:
            room = np.empty(scratch(made.launch, cols, parts))
            values += [room, parts]
        slots = array("q", map(as_bits, values))
        place, nodes = slots.buffer_info()[0], array("q")
        for name, function in functions.items():
            nodes.extend((function, place, 1 if kind(name, made.launch) == "finish" else parts))
        return Program(self._run, self.threads, nodes, (slots, room, owners((*inputs, *outputs))))

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if not _is_plain(a, b) or not (out is None or _fits(out, a, b)):
            return super().matmul(a, b, out)
        if out is None:
            out = self.allocate((a.shape[0], b.shape[1]), a.dtype)
        left, right, result = a, b, out
        if _is_better_turned(a, b):
            left, right, result = b.T, a.T, out.T
        rows, cols, inner = left.shape[0], right.shape[1], left.shape[1]
        runs, slices = cut(rows, cols, inner, self.threads, by_columns=left.strides[0] == left.itemsize)
        steps = [step // a.itemsize for matrix in (left, right, result) for step in matrix.strides]
        values = [address(left), address(right), address(result), rows, cols, inner, *steps, runs, slices]
        slots = array("q", values)
        nodes = array("q", (self._builder.product(TYPES[a.dtype.str]), slots.buffer_info()[0], runs * slices))
        self._call("matmul", Program(self._run, self.threads, nodes, (slots, owners((a, b, out)))), (a, b))
        return out

    def _call(self, name: str, launch: Callable[[], None], inputs: Sequence[Any]) -> None:
        if not isinstance(launch, Program):
            super()._call(name, launch, inputs)
            return
        launch()  # compiled code warns of nothing
        self._note(name, launch, inputs)

    def joined(self, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]:
        return joined(launches)


def _writeable(outputs: Sequence[Array | None]) -> bool:
    """Tell whether a kernel may write here: it would do so unasked, or die of it."""
    return all(out is None or out.flags.writeable for out in outputs)


@lru_cache(1024)
def cut(rows: int, cols: int, inner: int, threads: int, by_columns: bool = False) -> tuple[int, int]:
    """Return into how many runs of rows and slices of columns a product is cut.

    Where the left matrix is stored by columns, the product is a gradient of weights: it is rather cut into runs, as
    the optimizer's pass over it will be, so that each thread finds there what it has written here. No number depends
    on the cut: each is summed as a whole.
    """
    wanted = max(1, min(2 * rows * cols * inner // TASK, MOST_TASKS))
    if by_columns and wanted > threads:
        slices = _ceil(cols, WIDEST)
        runs = max(_ceil(2 * threads, slices), min(rows // RUN, MOST_TASKS // slices))
        if rows >= runs * SLICE:
            return runs, slices
    slices = _ceil(cols, SLICE if rows < RUN else 2 * SLICE)
    runs = max(1, min(wanted // slices, rows // RUN))
    if runs * slices < wanted:
        slices = min(_ceil(cols, PANEL), _ceil(wanted, runs))
    return runs, slices


def _is_better_turned(a: Array, b: Array) -> bool:
    """Tell whether the product is better made as (b.T @ a.T).T: the right matrix is copied, the left one is not."""
    (rows, inner), cols = a.shape, b.shape[1]
    if b.strides[1] != b.itemsize:
        return bool(4 * rows <= cols and inner > PANEL)
    return bool(cols <= NARROW < rows and a.strides[0] == a.itemsize)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _is_plain(a: Array, b: Array) -> bool:
    """Tell whether two arrays are matrices that there is a product of our own for, with any steps."""
    return bool(
        a.ndim == b.ndim == 2
        and a.dtype == b.dtype
        and a.dtype.str in ("<f4", "<f8")
        and a.shape[1] == b.shape[0]
        and a.size * b.size > 0
        and a.flags.aligned
        and b.flags.aligned
    )


def _fits(out: Array, a: Array, b: Array) -> bool:
    """Tell whether a product can be written here. Where memory is shared NumPy makes a copy first."""
    return bool(
        out.shape == (a.shape[0], b.shape[1])
        and out.dtype == a.dtype
        and out.flags.carray
        and not np.may_share_memory(out, a)
        and not np.may_share_memory(out, b)
    )


def as_bits(value: Array | Scalar) -> int:
    """Return an argument as the eight bytes a kernel finds it in: an address, a whole number or a double."""
    if isinstance(value, np.ndarray):
        return address(value)
    if isinstance(value, float):
        bits: int = BITS.unpack(DOUBLE.pack(value))[0]
        return bits
    return int(value)

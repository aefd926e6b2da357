"""The native backend: the kernels' text, compiled for this processor by the machine's C++ compiler.

What has no kernel, or comes in a shape or dtype that its kernel does not take, runs in the reference's formula.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpumlp.backend.base import Backend, switched_on
from gpumlp.backend.capture import Call
from gpumlp.backend.geometry import ceil_div, scratch
from gpumlp.backend.host import products
from gpumlp.backend.host.builder import Builder
from gpumlp.backend.host.memory import Pool, aligned, owners, shaped, size_of
from gpumlp.backend.host.program import Program, joined
from gpumlp.backend.kernels import SUMMED, address, arguments, shape_of, template_types
from gpumlp.limits import threads as available_threads
from gpumlp.ops.record import Array, Op, Scalar

PART_ELEMENTS = 1 << 15
"""Elements of one part of a kernel's work: some ten microseconds."""
MOST_PARTS = 64
LONG_ROW_COLUMNS = 64
"""Columns from which a loop over them fills the widest vectors."""
MAX_STEPS_PER_CALL = 64
"""Most steps in one call: beside as many, what is around a call (some µs of Python) is little."""
DOUBLE, BITS = struct.Struct("<d"), struct.Struct("<q")


class NativeBackend(Backend):
    """Arrays on the host, operations and products compiled for its processor.

    A captured step is one call into compiled code. Threads share what is large; the order of every sum depends on the
    shape alone.

    Products of float32 go by the tile registers of processors that have them, in three parts of bfloat16, which is as
    exact, or in two where ``tf32`` is allowed. ``GPUMLP_TILES=0`` in the environment switches them off.

    Raises BackendError, with the mend, where there is no compiler or it fails.
    """

    name = "native"

    def __init__(self, builder: Builder | None = None, *, tf32: bool = False, threads: int | None = None) -> None:
        super().__init__()
        self._lent = threading.local()  # its pool: the memory of the step that a thread captures
        self._builder = builder or Builder()
        self._builder.check()
        self._run = self._builder.program()
        self.threads = threads or available_threads()
        most = self._builder.most_parts() if switched_on("TILES") else 0
        self.tf32 = tf32 and most > 1
        self._parts = 2 if self.tf32 else most

    @property
    def settings(self) -> dict[str, Any]:
        return {"tf32": self.tf32}

    def alone(self) -> NativeBackend:
        """Return a backend with the same kernels that computes in the thread that calls it, beside others."""
        return NativeBackend(self._builder, tf32=self._parts == 2, threads=1)

    @property
    def products(self) -> str:
        """What multiplies matrices."""
        ways = {0: "vectors", 1: "vectors, of bfloat16 by pairs (AVX512_BF16)"}
        return ways.get(self._parts, "tile registers (AMX)")

    @property
    def seconds_building(self) -> float:
        return self._builder.seconds

    @property
    def together(self) -> int:
        return MAX_STEPS_PER_CALL

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Array:
        size = size_of(shape, dtype)
        return shaped(self._lent.pool.lend(size) if self.capturing and size else aligned(size), shape, dtype)

    @contextlib.contextmanager
    def _record(self) -> Iterator[list[Call]]:
        self._lent.pool = Pool()
        with super()._record() as calls:
            yield calls

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        definition = op.directions[direction]
        types = template_types(definition, inputs, outputs) if _writeable(outputs) else None
        rows, cols = shape_of(definition, inputs, outputs) if types else (0, 0)
        long = definition.launch == "elementwise" or cols >= LONG_ROW_COLUMNS
        functions = self._builder.find(op, direction, types, long) if types else {}
        if not functions:
            return super().bind(op, direction, inputs, outputs, params)
        most = min(rows, MOST_PARTS) if definition.launch == "columns" else MOST_PARTS
        parts = max(1, min(rows * cols // PART_ELEMENTS, most))
        if definition.launch not in SUMMED and parts > 1:  # the order of a sum must not depend on the threads
            parts = ceil_div(parts, self.threads) * self.threads
        values = arguments(definition, inputs, outputs, params)
        room = None
        if definition.launch in SUMMED:
            room = np.empty(scratch(definition.launch, cols, parts))
            values += [room, parts]
        slots = array("q", map(as_bits, values))
        base, nodes = slots.buffer_info()[0], array("q")
        for stage, function in zip(definition.kernels, functions.values(), strict=True):
            nodes.extend((function, base, 1 if stage.walk == "finish" else parts))
        return Program(self._run, self.threads, nodes, (slots, room, self._memory(*inputs, *outputs)))

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.ndim == b.ndim == 3 and 0 < len(a) == len(b) and products.takes(a[0], b[0], None):
            out = self.allocate((len(a), a.shape[1], b.shape[2]), a.dtype) if out is None else out
            for each in zip(a, b, out, strict=True):
                self.matmul(*each)
            return out
        if not products.takes(a, b, out):
            return super().matmul(a, b, out)
        if out is None:
            out = self.allocate((a.shape[0], b.shape[1]), a.dtype)
        function, slots, tasks = products.bound(a, b, out, self.threads, self._parts, self._builder.product)
        nodes = array("q", (function, slots.buffer_info()[0], tasks))
        launch = Program(self._run, self.threads, nodes, (slots, self._memory(a, b, out)))
        self._call("matmul", launch, (a, b), multiplies=True)
        return out

    def _memory(self, *arrays: Array | None) -> Sequence[Any]:
        """Return what keeps the memory of arrays: in a captured step not they, for their memory is lent again."""
        return owners(arrays) if self.capturing else arrays

    def _call(
        self, name: str, launch: Callable[[], None], inputs: Sequence[Any], *, multiplies: bool = False
    ) -> None:
        if not isinstance(launch, Program):
            super()._call(name, launch, inputs, multiplies=multiplies)
            return
        launch()  # compiled code warns of nothing
        self._note(name, launch, inputs, multiplies)

    def joined(self, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]:
        return joined(launches)


def _writeable(outputs: Sequence[Array | None]) -> bool:
    """Return whether a kernel may write here: it would do so unasked, or die of it."""
    return all(out is None or out.flags.writeable for out in outputs)


def as_bits(value: Array | Scalar) -> int:
    """Return an argument as the eight bytes a kernel finds it in: an address, a whole number or a double."""
    if isinstance(value, np.ndarray):
        return address(value)
    if isinstance(value, float):
        bits: int = BITS.unpack(DOUBLE.pack(value))[0]
        return bits
    return int(value)

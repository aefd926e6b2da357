"""The native backend: the kernels' text, compiled for this processor by the machine's C++ compiler.

What has no kernel, or comes in a shape or dtype that its kernel does not take, runs in the reference's formula.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpumlp.backend.base import Backend
from gpumlp.backend.builder import Builder
from gpumlp.ops.record import Array, Direction, Op, Scalar

CTYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "uint8": "unsigned char"}
ALWAYS = {"sums": "float64", "totals": "float64", "clock": "int64", "order": "int64"}
"""Arrays whose dtype is the same in every kernel; the others have that of the array a kernel runs over."""


class NativeBackend(Backend):
    """Arrays on the host, operations by compiled kernels.

    Raises BackendError, with the mend, where there is no compiler or it fails.
    """

    name = "native"

    def __init__(self, builder: Builder | None = None) -> None:
        super().__init__()
        self._builder = builder or Builder()
        self._builder.check()

    @property
    def seconds_building(self) -> float:
        return self._builder.seconds

    def bind(
        self, op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
    ) -> Callable[[], None]:
        made = op.directions[direction]
        types = template_types(made, inputs, outputs)
        function = self._builder.find(op, direction, types) if types else None
        if function is None:
            return super().bind(op, direction, inputs, outputs, params)
        slots = np.array([as_bits(value) for value in arguments(made, inputs, outputs, params)], np.uint64)
        address = ctypes.c_void_p(slots.ctypes.data)

        def launch(kept: Any = (slots, inputs, outputs)) -> None:  # what the addresses point to must stay
            function(address, 0, 1)

        return launch


def arguments(
    made: Direction, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, Any]
) -> list[Array | Scalar]:
    """Return the arguments of a kernel: arrays (0 for one that is not given), rows and columns, then numbers."""
    over = _over(made, inputs, outputs)
    cols = over.shape[-1] if over.ndim else 1
    arrays = [0 if array is None else array for array in (*inputs, *outputs)]
    return [*arrays, over.size // cols, cols, *made.scalars(inputs, params)]


def as_bits(value: Array | Scalar) -> int:
    """Return an argument as the eight bytes a kernel finds it in: an address, a whole number or a double."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    number = np.float64(value) if isinstance(value, float) else np.int64(value)
    return int(number.view(np.uint64))


def template_types(made: Direction, inputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[str, ...] | None:
    """Return the C++ types that the kernel is to be made for, or None where it does not take these arrays."""
    over = _over(made, inputs, outputs)
    generic = made.types or (made.over or made.arrays[0],)
    if over.size == 0 or not made.accepts(inputs):
        return None
    arrays = dict(zip(made.arrays, (*inputs, *outputs), strict=True))
    for name, array in arrays.items():
        if array is None:
            continue
        source = name.removeprefix("batch_")  # a batch has the dtype of what it is gathered from
        free = name in generic or source in generic
        fits = array.dtype.name in CTYPES if free else array.dtype.name == ALWAYS.get(name, over.dtype.name)
        if not fits or not array.flags.c_contiguous:
            return None
    return tuple(CTYPES[arrays[name].dtype.name] for name in generic)


def _over(made: Direction, inputs: Sequence[Array], outputs: Sequence[Array]) -> Array:
    """Return the array that the kernel runs over."""
    return (*inputs, *outputs)[made.arrays.index(made.over)] if made.over else inputs[0]

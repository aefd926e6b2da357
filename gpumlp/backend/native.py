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
from gpumlp.backend.kernels import SUMMED, address, arguments, shape_of, template_types
from gpumlp.backend.launch import kind, scratch
from gpumlp.ops.record import Array, Op, Scalar

PART = 1 << 16
"""Elements of one part of a sum over rows."""


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
        functions = self._builder.find(op, direction, types) if types else {}
        if not functions:
            return super().bind(op, direction, inputs, outputs, params)
        values = arguments(made, inputs, outputs, params)
        pieces, room = 1, None
        if made.launch in SUMMED:
            rows, cols = shape_of(made, inputs, outputs)
            pieces = max(1, min(rows * cols // PART, 64))
            room = np.empty(scratch(made.launch, cols, pieces))
            values += [room, pieces]
        slots = np.array([as_bits(value) for value in values], np.uint64)
        place = ctypes.c_void_p(slots.ctypes.data)
        kept = (slots, inputs, outputs, room)  # what the addresses point to must stay
        calls = [
            (function, part, count)
            for name, function in functions.items()
            for count in [1 if kind(name, made.launch) not in SUMMED else pieces]
            for part in range(count)
        ]
        if len(calls) == 1:
            ((only, _, _),) = calls

            def launch_once(kept: Any = kept) -> None:
                only(place, 0, 1)

            return launch_once

        def launch(kept: Any = kept) -> None:
            for function, part, count in calls:
                function(place, part, count)

        return launch


def as_bits(value: Array | Scalar) -> int:
    """Return an argument as the eight bytes a kernel finds it in: an address, a whole number or a double."""
    if isinstance(value, np.ndarray):
        return address(value)
    number = np.float64(value) if isinstance(value, float) else np.int64(value)
    return int(number.view(np.uint64))

"""Whether a backend computes what the formulas say: one table of tolerances, and a look at every operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.backend.kernels import TYPES, Texts, made_for, over, shape_of, template_types
from gpumlp.checks.examples import directions, examples
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Array, Direction, Op

TOLERANCES = {
    "elementwise": (8.0, 16.0),
    "reduction": (64.0, 64.0),  # sums over up to a thousand elements
    "training": (500.0, 500.0),  # tens of steps, whose rounding errors feed each other
}
"""In units of the dtype's epsilon: absolute, and per |reference|."""

FLOATS = (np.float32, np.float64)
ROW_SUMS = ("db", "dgain", "dbias", "dw", "dV", "da", "dc", "dtable", "dW")
"""Outputs that are sums over all rows."""
SHAPES = ((1, 1), (3, 1), (1, 5), (7, 33), (5, 255), (3, 257), (2, 1025), (65, 64), (300, 40))
"""Rows and columns on both sides of where kernels change their way."""


GUARD = 64
"""Bytes in front of each array, and behind it, that nothing may write to."""

Shift = Callable[[int], int]
"""By how many elements an array is moved from an address that every vector takes, from its number."""


def allowance(dtype: Any, size: Any, kind: str, *, scale: float = 1.0) -> Any:
    """Return by how much a result of ``dtype`` may differ from a reference of absolute value ``size``.

    ``scale`` is the size of the values that entered, where the result is a small difference of large ones.
    """
    absolute, relative = TOLERANCES[kind]
    return float(np.finfo(dtype).eps) * (absolute * scale + relative * size)


def wrong(xp: Any, actual: Array, reference: Array, kind: str, *, scale: float = 1.0) -> Array:
    """Return where a result is not the reference, NaN and infinity included, to the tolerance of ``kind``."""
    exact, reference = actual.astype(xp.float64), reference.astype(xp.float64)
    with np.errstate(all="ignore"):
        near = xp.abs(exact - reference) <= allowance(actual.dtype, xp.abs(reference), kind, scale=scale)
        same = (exact == reference) | (xp.isnan(exact) & xp.isnan(reference))
    return ~(same | (xp.isfinite(reference) & near))


def fault(
    xp: Any,
    definition: Direction,
    inputs: Sequence[Array],
    results: Sequence[Array | None],
    expected: Sequence[Array | None],
) -> str:
    """Return what is wrong with the outputs of a direction, in a few words; nothing where they are as expected."""
    walked, (rows, cols) = over(definition, inputs, results).dtype, shape_of(definition, inputs, results)
    for name, got, want in zip(definition.outputs, results, expected, strict=True):
        if got is None or want is None:
            if got is not want:
                return f"{name} is {'missing' if got is None else 'there, and should not be'}"
        elif got.shape != want.shape:
            return f"{name} has the shape {got.shape}, not {want.shape}"
        elif want.dtype.kind != "f":
            if not bool((got == want).all()):
                return f"{name}: {int((got != want).sum())} of {got.size} differ"
        elif got.size:
            # The sums of a loss are kept in float64 and computed from values of the dtype that is walked over.
            computed = got.astype(walked) if walked.kind == "f" else got
            scale = max(_entered(name, rows, cols), float(xp.max(xp.abs(xp.nan_to_num(want)))))
            bad = wrong(xp, computed, want, "reduction", scale=scale)
            if bool(bad.any()):
                return f"{name}: {int(bad.sum())} of {got.size} differ"
    return ""


def _entered(name: str, rows: int, cols: int) -> float:
    """Return the size of the values that an output is made of, in an example of about standard normal numbers."""
    if name == "gradient":  # of a mean over rows and, in a regression, over columns
        return 1 / (rows * cols)
    return max(1.0, rows / 8) if name in ROW_SUMS else 1.0


# ---- one example -------------------------------------------------------------------------------------------------


def straight(number: int) -> int:
    """Leave every array at an address that the widest vectors take."""
    return 0


def alike(number: int) -> int:
    """Move every array by one element."""
    return 1


def askew(number: int) -> int:
    """Move arrays by none, one or two elements, in turn."""
    return number % 3


def has_kernel(op: Op, direction: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
    """Return whether a kernel takes these arrays; otherwise the formula computes."""
    return template_types(op.directions[direction], inputs, outputs) is not None and bool(
        Texts().stages(op, direction)
    )


def disagreement(
    backend: Backend,
    op: Op,
    direction: str,
    inputs: Sequence[Array | None],
    params: Mapping[str, Any],
    shift: Shift = straight,
) -> tuple[str, Sequence[Array | None]]:
    """Run a direction on one example, and return what is wrong, if anything, and what the reference makes of it.

    All arrays lie between guards, moved by ``shift`` of their number (elements). Outputs hold bytes 0xFF beforehand,
    so that what is not written shows. Inputs must not change.
    """
    operands = [None if a is None else np.ascontiguousarray(a) for a in inputs]
    expected = Backend().run(op, direction, operands, None, **params)
    count, definition = len(operands), op.directions[direction]
    sources = [None if a is None else _Guarded(backend, a, shift(i), a) for i, a in enumerate(operands)]
    guarded_outputs = [None if e is None else _Guarded(backend, e, shift(count + i)) for i, e in enumerate(expected)]
    arrays = [[None if each is None else each.array for each in side] for side in (sources, guarded_outputs)]
    outputs = backend.run(op, direction, arrays[0], arrays[1], **params)
    for name, guarded, is_output in zip(
        definition.arrays, [*sources, *guarded_outputs], [False] * count + [True] * len(guarded_outputs), strict=True
    ):
        if guarded is not None and guarded.is_overrun():
            return f"the memory around {name} is written to", expected
        if guarded is not None and not is_output and guarded.has_changed():
            return f"the input {name} is written to", expected
    results = [None if a is None else backend.to_host(a) for a in outputs]
    return fault(np, definition, operands, results, expected), expected


class _Guarded:
    """An array of a backend between two guards; without values it holds bytes 0xFF: NaN, or -1."""

    def __init__(self, backend: Backend, like: Array, shift: int, values: Array | None = None) -> None:
        size = like.size * like.itemsize
        first = GUARD + shift * like.itemsize
        memory = np.full(first + size + GUARD, 0xA5, np.uint8)
        memory[first : first + size] = 0xFF if values is None else np.frombuffer(values.tobytes(), np.uint8)
        self._backend, self._memory, self._span = backend, memory, slice(first, first + size)
        self._whole = backend.asarray(_aligned(memory))
        self.array = self._whole[self._span].view(like.dtype).reshape(like.shape)

    def is_overrun(self) -> bool:
        now, was = self._backend.to_host(self._whole), self._memory
        return bool(
            (now[: self._span.start] != was[: self._span.start]).any()
            or (now[self._span.stop :] != was[self._span.stop :]).any()
        )

    def has_changed(self) -> bool:
        return bool((self._backend.to_host(self._whole) != self._memory).any())


def _aligned(memory: Array) -> Array:
    """Return a copy that begins at a multiple of 64 bytes, as device memory does."""
    room = np.empty(memory.size + 64, np.uint8)
    first = -room.ctypes.data % 64
    room[first : first + memory.size] = memory
    return room[first : first + memory.size]


# ---- every example -----------------------------------------------------------------------------------------------


def faults(
    backend: Backend, only: str = "", shapes: Sequence[tuple[int, int]] = SHAPES, dtypes: Sequence[Any] = FLOATS
) -> Iterator[tuple[str, str]]:
    """Run every direction of every operation in each of its forms; yield its entry and what is wrong, if anything."""
    chosen = [(RECORDS[name], way) for name, way in directions() if only in RECORDS[name].entry(way)]
    backend.prepare(made_for((op for op, _ in chosen), [TYPES[np.dtype(dtype).str] for dtype in dtypes]))
    for op, direction in chosen:
        first_fault = ""
        for dtype in dtypes:
            for rows, cols in shapes:
                for inputs, params in examples(op, direction, rows, cols, dtype):
                    try:
                        wrong_with, _ = disagreement(backend, op, direction, inputs, params)
                    except BackendError as error:  # the next one may run
                        wrong_with = error.what
                    first_fault = first_fault or (wrong_with and f"{np.dtype(dtype)} ({rows}, {cols}): {wrong_with}")
        yield op.entry(direction), first_fault

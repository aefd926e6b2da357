"""Whether a backend computes what the formulas say: one table of tolerances, and a look at every operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.backend.kernels import over, shape_of
from gpumlp.checks.examples import directions, examples
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS
from gpumlp.ops.record import Array, Direction

TOLERANCES = {
    "elementwise": (8.0, 16.0),
    "reduction": (64.0, 64.0),  # sums over up to a thousand elements
    "training": (500.0, 500.0),  # tens of steps, whose rounding errors feed each other
}
"""In units of the dtype's epsilon: absolute, and per |reference|."""

FLOATS = (np.float32, np.float64)
ROW_SUMS = ("db", "dgain", "dbias")
"""Outputs that are sums over all rows."""
SHAPES = ((1, 1), (3, 1), (1, 5), (7, 33), (5, 255), (3, 257), (2, 1025), (65, 64), (300, 40))
"""Rows and columns on both sides of where kernels change their way."""


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
    made: Direction,
    inputs: Sequence[Array],
    found: Sequence[Array | None],
    expected: Sequence[Array | None],
) -> str:
    """Return what is wrong with the outputs of a direction, in a few words; nothing where they are as expected."""
    walked, (rows, cols) = over(made, inputs, found).dtype, shape_of(made, inputs, found)
    for name, got, want in zip(made.outputs, found, expected, strict=True):
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


def faults(
    backend: Backend, only: str = "", shapes: Sequence[tuple[int, int]] = SHAPES, dtypes: Sequence[Any] = FLOATS
) -> Iterator[tuple[str, str]]:
    """Run every direction of every operation in each of its forms; yield its entry and what is wrong, if anything.

    The judge is the reference backend. Outputs hold bytes 0xFF beforehand, so that what is not written shows.
    """
    reference = Backend()
    for name, direction in directions():
        op = RECORDS[name]
        if only not in op.entry(direction):
            continue
        made, found = op.directions[direction], ""
        for dtype in dtypes:
            for rows, cols in shapes:
                for inputs, params in examples(op, direction, rows, cols, dtype):
                    expected = reference.run(op, direction, inputs, None, **params)
                    try:
                        given = [None if a is None else backend.asarray(a) for a in inputs]
                        places = [None if e is None else backend.asarray(_poisoned(e)) for e in expected]
                        outputs = backend.run(op, direction, given, places, **params)
                        host = [None if a is None else backend.to_host(a) for a in outputs]
                        said = fault(np, made, inputs, host, expected)
                    except BackendError as error:  # the next one may run
                        said = error.what
                    found = found or (said and f"{np.dtype(dtype)} ({rows}, {cols}): {said}")
        yield op.entry(direction), found


def _poisoned(like: Array) -> Array:
    array = np.empty(like.shape, like.dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xFF
    return array

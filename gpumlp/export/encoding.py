"""What exported files know of an encoder: plain values, whatever the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.categories import OneHot
from gpumlp.data.encoding.columns import ArrayInputs, TableInputs
from gpumlp.data.encoding.labels import LabelTargets
from gpumlp.data.encoding.scaling import Scaling
from gpumlp.data.encoding.targets import ClassTarget, NumberTarget, NumberTargets
from gpumlp.data.source.kinds import Kind
from gpumlp.errors import RunError
from gpumlp.export.trace import INPUT, Application, UnwritableError, trace_function

INTERPOLATE = "interpolate"
"""A function of our own in a graph: ``numpy.interp`` of each column, by its knots and scores."""


@dataclass(frozen=True)
class Categories:
    """A column of texts.

    Parameters
    ----------
    codes
        The feature of each text, counted from 0; the empty text is a missing value.
    other
        The feature of all other texts; None where they have none.
    width
        Features.
    truths
        Whether capital letters do not count.
    """

    name: str
    codes: dict[str, int]
    other: int | None
    width: int
    truths: bool

    @classmethod
    def of(cls, one_hot: OneHot) -> Categories:
        """Return what a fitted encoding does."""
        other = one_hot.width - 1 if one_hot.rare else None
        return cls(one_hot.name, one_hot.codes, other, one_hot.width, one_hot.truths)


def rewritten(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return the kinds of columns of numbers that are written with marks between thousands or units."""
    return {name: kind for name, kind in kinds.items() if kind.thousands or kind.unit}


KNOWN: dict[type, tuple[str, ...]] = {
    TableInputs: ("numeric", "block", "one_hots", "dates"),
    ArrayInputs: ("name", "columns", "block"),
    ClassTarget: ("classes", "type"),
    LabelTargets: ("names", "columns"),
    NumberTarget: ("mean", "deviation", "transform", "counts"),
    NumberTargets: ("names", "columns", "levels"),
}
"""Encodings that all formats write, and the fields that they write of each."""


def require_known(encoding: Any) -> None:
    """Raise RunError for an encoding of inputs or of a target that no format writes, or not all of."""
    known = KNOWN.get(type(encoding))
    if known is None:
        raise RunError(f"an encoding by {type(encoding).__name__} cannot be exported")
    for each in fields(encoding):
        value = getattr(encoding, each.name)
        if each.name not in known and value not in (None, (), False):
            raise RunError(f"{each.name} of {type(encoding).__name__} cannot be exported")


def numbers_of(target: NumberTarget | NumberTargets, name: str) -> list[dict[str, Any]]:
    """Return how each number to predict is restored from an output of the network, as plain values by name."""
    names, columns = (target.names, target.columns) if isinstance(target, NumberTargets) else ((name,), (target,))
    return [
        {
            "name": each,
            "mean": column.mean,
            "deviation": column.deviation,
            "counts": column.counts,
            "transform": None if column.transform is None else column.transform.to_state(),
        }
        for each, column in zip(names, columns, strict=True)
    ]


def trace_scaling(scaling: Scaling, width: int) -> tuple[Application, Application]:
    """Return input and result of what a scaling does to (N, width) float64 without gaps.

    Raises
    ------
    RunError
        If it does what cannot be written down.
    """
    if set(scaling.fitted) == {"knots", "scores"}:
        start = Application(INPUT, (), {}, np.dtype(np.float64), (2, width))
        params: dict[str, NDArray[Any]] = dict(scaling.fitted)
        return start, Application(INTERPOLATE, (start,), params, start.dtype, start.shape)
    try:
        return trace_function(scaling.apply, width)
    except UnwritableError as error:
        raise RunError(f"the scaling {scaling.name} cannot be exported: it uses {error}") from None

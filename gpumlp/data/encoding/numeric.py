"""Columns of numbers as features: gaps filled, values scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.scaling import SCALINGS, Fitted, Ordered, Scaling, each_group
from gpumlp.data.source.cells import Floats
from gpumlp.data.state import Fields, StateReader, prefixed
from gpumlp.errors import DataError


@dataclass(frozen=True, eq=False)
class NumericBlock:
    """Numeric columns, encoded all at once: gaps filled, scaled, then the flags of gaps.

    Parameters
    ----------
    medians
        (p,) float64, of the training rows; they fill the gaps.
    flagged
        (f,) int64, the columns that had gaps in training; each gets a flag.
    scaling
        Fitted to the p columns.
    """

    medians: Floats
    flagged: NDArray[np.int64]
    scaling: Scaling

    @classmethod
    def fit(cls, count: int, column: Callable[[int], Floats], scaling: str) -> NumericBlock:
        """Fit to columns, each of which is asked for by its number.

        Parameters
        ----------
        count
            Count of the columns, p.
        column
            Returns one, (N,) float64, NaN for a gap, at least one value; called in several threads.
        scaling
            A name in ``SCALINGS``.
        """

        def fit(block: Floats) -> tuple[Floats, NDArray[np.bool_], Fitted]:
            ordered = Ordered.of(block)
            return ordered.medians(), ordered.gaps, SCALINGS[scaling].fit(block, ordered)

        medians, gaps, fitted = zip(*each_group(fit, count, column), strict=True)
        return cls(
            medians=np.concatenate(medians),
            flagged=np.flatnonzero(np.concatenate(gaps)),
            scaling=Scaling.joined(scaling, fitted),
        )

    @property
    def width(self) -> int:
        """Features made of the p columns: p + f."""
        return len(self.medians) + len(self.flagged)

    def features(self, names: Sequence[str]) -> list[str]:
        """Return the names of the features, given those of the p columns."""
        return [*names, *(f"{names[column]} is missing" for column in self.flagged)]

    def encode(
        self,
        block: NDArray[Any],
        out: NDArray[np.float32],
        *,
        where: Callable[[int], str],
        name: Callable[[int], str],
    ) -> list[int]:
        """Write the features of (N, p) real numbers to ``out``, (N, p + f) float32. Several copies of them are made.

        ``where`` and ``name`` give the place of a row and the name of a column, for messages. Returns the columns
        that have gaps, though in training they had none.

        Raises
        ------
        DataError
            If a value lies so far from the training values that its scaled value overflows.
        """
        p = len(self.medians)
        gaps = np.isnan(block)
        lacking = np.logical_or.reduce(gaps, axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # found below, and named
            out[:, :p] = self.scaling.apply(np.where(gaps, self.medians, block) if lacking.any() else block)
        out[:, p:] = gaps[:, self.flagged]
        finite = np.isfinite(out[:, :p])
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            message = f"column {name(column)!r}: {block[row, column]} is too far from the training values"
            raise DataError(message, where=where(row))
        lacking[self.flagged] = False
        new: list[int] = np.flatnonzero(lacking).tolist()
        return new

    def to_state(self) -> tuple[Fields, dict[str, NDArray[Any]]]:
        """Return the fields and arrays that ``from_state`` takes back."""
        fields, arrays = self.scaling.to_state()
        arrays_of_block = {"medians": self.medians, "flagged": self.flagged}
        return {"scaling": fields}, {**arrays_of_block, **prefixed("scaling", arrays)}

    @classmethod
    def from_state(cls, state: StateReader, width: int) -> NumericBlock:
        """Restore the block of ``width`` columns.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        flagged = state.array("flagged", np.int64, (None,))
        if (np.diff(flagged) <= 0).any() or (flagged < 0).any() or (flagged >= width).any():
            raise state.wrong("flagged", "must be sorted numbers of columns")
        medians = state.array("medians", np.float64, (width,))
        return cls(medians, flagged, Scaling.from_state(state.section("scaling"), width))

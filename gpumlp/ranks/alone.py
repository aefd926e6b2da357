"""One rank, which is all there are. It is the reference: more ranks do the same by messages."""

from __future__ import annotations

from typing import Any

import numpy as np


class Ranks:
    """The ranks of a run, as one of them sees them: here there is one.

    Attributes
    ----------
    number, size : its number, counted from 0, and how many there are
    wish : the signal that has asked this rank to end, or 0
    agreed : the signal that all ranks end by after the step at hand, or 0
    """

    number, size = 0, 1

    def __init__(self) -> None:
        self.wish = 0

    @property
    def agreed(self) -> int:
        return self.wish

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.number == 0

    def alltoall(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Send the i-th of ``size`` equal parts of ``source`` to rank i; fill ``out`` with what the ranks send."""
        out.reshape(-1)[...] = source.reshape(-1)
        return out

    def allgather(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Fill ``out`` with the ``source`` of every rank, in their order."""
        out.reshape(-1)[...] = source.reshape(-1)
        return out

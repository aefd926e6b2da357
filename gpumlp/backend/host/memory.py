"""Memory of the host for arrays: each begins with a line of the cache, and a captured step uses the same again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from gpumlp.backend.kernels import address
from gpumlp.ops.record import Array

LINE = 64
"""Bytes of a line of the cache, and of the longest vector: one that lies in two lines costs twice."""


VIEWS = (np.ndarray, memoryview)
PAGE, LARGE = 2 << 20, 4 << 20
"""Bytes of a large page, and of memory that NumPy asks the system to give in such pages."""


def aligned(size: int) -> np.ndarray[Any, Any]:
    """Return so many bytes, undefined, that begin with a line of the cache, or with a large page if they fill it."""
    unit = LINE if size < LARGE else PAGE
    room = np.empty(size + unit, np.uint8)
    start = -address(room) % unit
    return room[start : start + size]


def shaped(block: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: Any) -> Array:
    """Return bytes as an array."""
    return block.view(dtype).reshape(shape)


def size_of(shape: tuple[int, ...], dtype: Any) -> int:
    """Return the bytes of an array."""
    return int(math.prod(shape) * _itemsize(dtype))


@cache
def _itemsize(dtype: Any) -> int:
    return int(np.dtype(dtype).itemsize)


def owners(arrays: Iterable[Array | None]) -> list[Any]:
    """Return what holds the memory of arrays: who keeps these keeps the memory, and lets the arrays go."""
    owned = []
    for array in arrays:
        owner: Any = array
        while isinstance(owner, VIEWS):
            inner = owner.base if isinstance(owner, np.ndarray) else owner.obj
            if inner is None:
                break
            owner = inner
        owned.append(owner)
    return owned


class Pool:
    """The memory of one captured step.

    A replay makes the same calls in the same order, so an array that nobody held any more when a call was recorded is
    read by none after it: its memory is lent again. Gradients of activations, which live from one layer to the next,
    so need the memory of two or three layers, not of all.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray[Any, Any]] = []

    def lend(self, size: int) -> np.ndarray[Any, Any]:
        """Return so many bytes, undefined, in the smallest block that is free, or a new one.

        They are free again when neither they nor an array made from them is held.
        """
        fitting = [block for block in self._free if size <= block.size <= 2 * size]
        block = min(fitting, key=len) if fitting else aligned(size)
        self._free = [each for each in self._free if each is not block]
        # A view of a view holds the first array that does not view another: this one, which views a memoryview.
        lent = np.frombuffer(block.data, np.uint8, size)
        weakref.finalize(lent, self._give_back, block).atexit = False
        return lent

    def _give_back(self, block: np.ndarray[Any, Any]) -> None:
        self._free.append(block)

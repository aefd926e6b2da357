"""Whether the library's products are right, shape by shape: before anything is timed, or believed.

Matrices of ones have products that are known without computing them: every number is what was summed over, exactly,
in float32 up to 2^24. A library that drops the end of a sum, as is reported of products that several blocks of a GPU
sum up (triton-lang/triton pull request 2767), shows here. What ReLU makes of NaN and infinity is not documented, and
may differ from shape to shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from device import bfloat16

from gpumlp.backend import Backend
from gpumlp.ops import ACTIVATIONS

SIDES = (1, 2, 3, 7, 10, 16, 31, 32, 64, 100, 127, 128, 250, 255, 256, 512, 1000, 1024)
SUMMED = (1, 3, 17, 31, 61, 63, 64, 97, 127, 129, 255, 257, 511, 512, 784, 1000, 1023, 1025, 2047, 4097, 8191, 16385)
"""What is summed over: odd numbers above all, which no block divides."""
TALL = (64, 1000, 8191, 65537)
"""Rows of long batches: what a gradient of the weights sums over."""
REPEATS = 20


def shapes(count: int, seed: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield ``count`` products as rows, what is summed over, and columns: of steps of training, then any."""
    steps = [(rows, inputs, units) for rows in (32, 256, 1000) for inputs in (13, 784) for units in (10, 64, 256)]
    gradients = [(inputs, rows, units) for rows in TALL for inputs in (13, 64, 784) for units in (1, 10, 256)]
    some = [*gradients, *steps][:count]
    yield from some
    rng = np.random.default_rng(seed)
    for _ in range(count - len(some)):
        m, n = rng.choice(SIDES, 2)
        yield int(m), int(rng.choice(SUMMED)), int(n)


def dtypes() -> list[np.dtype[Any]]:
    """Return what products are tried in: bfloat16 where the host knows it."""
    narrow = bfloat16()
    return [np.dtype("f4"), np.dtype("f8"), *([narrow] if narrow else [])]


def sums(backend: Backend, count: int) -> Iterator[tuple[str, str]]:
    """Yield each product of ones by its name, with what is wrong of it, or nothing."""
    for dtype in dtypes():
        for m, k, n in shapes(count):
            a, b = (backend.asarray(np.ones(size, np.float32), dtype) for size in ((m, k), (k, n)))
            for name, left, right in (("", a, b), (" of transposes", _across(backend, m, k, dtype), b)):
                out = backend.empty((m, n), np.float32 if dtype.itemsize == 2 else dtype)
                found = backend.to_host(backend.matmul(left, right, out)).astype(np.float64)
                wrong = found[found != k]
                said = f"{wrong.size} of {found.size} numbers are not {k}, one is {wrong[0]:g}" if wrong.size else ""
                yield f"{dtype.name} {m} x {k} x {n}{name}", said


def _across(backend: Backend, m: int, k: int, dtype: Any) -> Any:
    return backend.asarray(np.ones((k, m), np.float32), dtype).T


def edges(backend: Backend, count: int) -> Iterator[tuple[str, str]]:
    """Yield each dense layer with ReLU by its shape, with what it makes of NaN and infinity where that is wrong."""
    relu = ACTIVATIONS["relu"]
    special = np.array([np.nan, -0.0, np.inf, -np.inf, 1.0, -1.0])
    for dtype in dtypes():
        for m, k, n in shapes(count, seed=1):
            x, W = (backend.asarray(np.zeros(size, np.float32), dtype) for size in ((m, k), (k, n)))
            bias = np.resize(special, n)
            y, _ = backend.dense(relu, x, W, backend.asarray(bias.astype(np.float32), dtype))
            found = backend.to_host(y).astype(np.float64)
            wanted = np.broadcast_to(np.where(np.isnan(bias), np.nan, np.maximum(bias, 0.0)), found.shape)
            alike = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
            said = "" if alike.all() else f"ReLU of {wanted[~alike][0]:g} is {found[~alike][0]:g}"
            yield f"{dtype.name} {m} x {k} x {n}", said


def repeats(backend: Backend, count: int) -> Iterator[tuple[str, str]]:
    """Yield each product of random numbers by its name, and whether it has the same bits each time."""
    rng = np.random.default_rng(2)
    for dtype in dtypes():
        for m, k, n in shapes(count):
            a, b = (backend.asarray(rng.standard_normal(size, np.float32), dtype) for size in ((m, k), (k, n)))
            out = backend.empty((m, n), dtype)
            first = backend.to_host(backend.matmul(a, b, out)).tobytes()
            bits = {backend.to_host(backend.matmul(a, b, out)).tobytes() for _ in range(REPEATS)}
            said = "" if bits == {first} else f"{len(bits | {first})} results of one product"
            yield f"{dtype.name} {m} x {k} x {n}", said


QUESTIONS: dict[str, tuple[Callable[[Backend, int], Iterator[tuple[str, str]]], int]] = {
    "sums": (sums, 2000),
    "edges": (edges, 200),
    "repeats": (repeats, 60),
}
"""What is asked, and of how many shapes in each dtype."""

"""A first layer over a column of categories: expand the codes of a batch, or look up rows of the weights.

    python benchmarks/codes.py [--rows 256] [--units 128] [--values 3 300 10000 100000] [--json FILE]

Both compute the same layer forward, and the gradient of its weights, on the native backend: 16 numbers and one column
of so many values. ``expand`` makes 0 and 1 of the codes and multiplies (`expand`, two products); ``look up``
multiplies the numbers alone and adds the rows of the weights that the codes name (`lookup` forward and backward).
They take turns; the table has medians in µs, and the bytes that either moves on a device (what is read and written
once, float32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from reader import until_reader_leaves

from gpumlp import backend as backends
from gpumlp.ops.batches import EXPAND
from gpumlp.ops.inputs import LOOKUP

NUMBERS = 16
SECONDS = 1.0
"""How long each size is measured."""


def measure(rows: int, units: int, values: int) -> dict[str, float]:
    """Return the microseconds and bytes of both ways for a column of ``values`` values."""
    backend, rng = backends.get("native"), np.random.default_rng(0)
    width = NUMBERS + values
    codes = rng.integers(0, values, rows)
    stored = rng.standard_normal((rows, NUMBERS + 1)).astype(np.float32)
    stored[:, NUMBERS] = NUMBERS + codes
    coded = stored.copy()
    coded[:, NUMBERS] = codes
    weights = rng.standard_normal((width, units)).astype(np.float32)
    dz = rng.standard_normal((rows, units)).astype(np.float32)
    x = np.ascontiguousarray(stored[:, :NUMBERS])
    starts = np.array([0, values], np.int64)
    table, dense = np.ascontiguousarray(weights[NUMBERS:]), np.ascontiguousarray(weights[:NUMBERS])

    def expand() -> None:
        (wide,) = backend.run(EXPAND, "forward", (stored,), dense=NUMBERS, width=width, dtype=np.dtype(np.float32))
        backend.matmul(wide, weights)
        backend.matmul(wide.T, dz)

    def look_up() -> None:
        (found,) = backend.run(LOOKUP, "forward", (coded, starts, table), first=NUMBERS)
        np.add(backend.matmul(x, dense), found[:, 0])
        backend.matmul(x.T, dz)
        backend.run(LOOKUP, "backward", (coded, starts, dz[:, None]), first=NUMBERS, rows=values)

    ways: dict[str, Callable[[], None]] = {"expand": expand, "look_up": look_up}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds["expand"]) < 3:
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    found = {name: 1e6 * statistics.median(each) for name, each in seconds.items()}
    # Either writes the gradient of all weights, and reads dz; the product reads the batch twice and all weights.
    gradient = 4 * (width * units + rows * units)
    expanded = 4 * (3 * rows * width + width * units + rows * units) + gradient
    looked_up = 4 * (2 * rows * NUMBERS + NUMBERS * units + 3 * rows * units) + gradient
    return found | {"expand_bytes": expanded, "look_up_bytes": looked_up}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--values", type=int, nargs="+", default=[3, 300, 10_000, 100_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {values: measure(options.rows, options.units, values) for values in options.values}
    print(f"{'values':>8}{'expand µs':>11}{'look up µs':>11}{'expand MB':>11}{'look up MB':>11}")
    for values, row in found.items():
        sizes = "".join(f"{row[name] / 1e6:11.2f}" for name in ("expand_bytes", "look_up_bytes"))
        print(f"{values:8}{row['expand']:11.0f}{row['look_up']:11.0f}{sizes}")
    if options.json:
        about = {"rows": options.rows, "units": options.units, "numbers": NUMBERS}
        options.json.write_text(json.dumps({"about": about, "values": found}, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)

"""A first layer over a column of categories: expand the codes of a batch, or read the weights by code.

    python benchmarks/codes.py [--rows 256] [--units 128] [--values 3 300 10000 100000] [--json FILE]

Both compute the same layer on the native backend, 16 numbers and one column of so many values: forward, and backward
the gradient of its weights. ``expand`` makes 0 and 1 of the codes and multiplies (`expand`, two products); ``by
code`` multiplies the numbers alone, adds the rows of the weights that the codes name, and adds to these rows backward
(`code_sum`), which is what training does. They take turns; the table has medians in µs, and the bytes that either
moves on a device (what is read and written once, float32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

from gpumlp import backend as backends
from gpumlp.autodiff.coded import CodedRows

NUMBERS = 16
SECONDS = 1.0
"""How long each size is measured."""


def measure(rows: int, units: int, values: int) -> dict[str, float]:
    """Return the microseconds and bytes of both ways, forward and backward, for a column of ``values`` values."""
    backend, rng = backends.get("native"), np.random.default_rng(0)
    width = NUMBERS + values
    stored = rng.standard_normal((rows, NUMBERS + 1)).astype(np.float32)
    stored[:, NUMBERS] = NUMBERS + rng.integers(0, values, rows)
    weights, gradient = (rng.standard_normal((width, units)).astype(np.float32) for _ in range(2))
    dz = rng.standard_normal((rows, units)).astype(np.float32)

    def coded() -> CodedRows:
        return CodedRows(stored, NUMBERS, width, np.dtype(np.float32), backend)

    def expand() -> Any:
        x = coded().array
        backend.matmul(x, weights)
        return x

    def expand_backward(x: Any) -> None:
        backend.matmul(x.T, dz, gradient)

    def by_code() -> Any:
        x = coded()
        x.times(weights)
        return x

    def by_code_backward(x: Any) -> None:
        x.product_backward(weights, dz, (False, gradient))

    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
        "expand": (expand, expand_backward),
        "by_code": (by_code, by_code_backward),
    }
    seconds: dict[str, list[float]] = {f"{name}{part}": [] for name in ways for part in ("", "_backward")}
    for forward, backward in ways.values():
        backward(forward())
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds["expand"]) < 3:
        for name, (forward, backward) in ways.items():
            started = time.perf_counter()
            x = forward()
            between = time.perf_counter()
            backward(x)
            seconds[f"{name}_backward"].append(time.perf_counter() - between)
            seconds[name].append(between - started)
    found = {name: 1e6 * statistics.median(each) for name, each in seconds.items()}
    row, layer, all_weights, numbers = rows * units, NUMBERS * units, width * units, rows * NUMBERS
    moved = {
        # the batch is read, written, and read by the product
        "expand": numbers + rows + 2 * rows * width + all_weights + row,
        "expand_backward": rows * width + row + all_weights,
        # the numbers likewise; the sum is read and written once more, beside a row of weights
        "by_code": 3 * numbers + rows + layer + row + 3 * row,
        # all of the gradient is cleared, and a row of it read and written for each code
        "by_code_backward": numbers + 2 * row + all_weights + rows + 2 * row,
    }
    return found | {f"{name}_bytes": 4 * count for name, count in moved.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--values", type=int, nargs="+", default=[3, 300, 10_000, 100_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {values: measure(options.rows, options.units, values) for values in options.values}
    print(f"{'':8}{'expand':^34}{'by code':^34}")
    print(f"{'values':>8}" + 2 * f"{'µs':>8}{'backward':>10}{'MB':>8}{'both µs':>8}")
    for values, row in found.items():
        print(f"{values:8}", end="")
        for way in ("expand", "by_code"):
            both = [row[way], row[f"{way}_backward"]]
            moved = row[f"{way}_bytes"] + row[f"{way}_backward_bytes"]
            print(f"{both[0]:8.0f}{both[1]:10.0f}{moved / 1e6:8.2f}{sum(both):8.0f}", end="")
        print()
    if options.json:
        about = {"rows": options.rows, "units": options.units, "numbers": NUMBERS}
        options.json.write_text(json.dumps({"about": about, "values": found}, indent=1) + "\n")


if __name__ == "__main__":
    until_reader_leaves(main)

"""How the time and the memory of training grow with rows, width, depth and epochs.

    python benchmarks/growth.py [--json FILE] [--plot FILE]

Each point is a process of its own: a network `inputs - width x depth - 10` with relu, batch 256, Adam, float32, on
random rows. `step` is the median time of a step; `memory` is what training took besides the rows, and `state` what a
step cannot do without: four numbers for each parameter (value, gradient and Adam's two) and two for each activation
of a batch (value and gradient). The last two lines are the same network after 2 and after 40 epochs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from peers import Work, gpumlp
from reader import until_reader_leaves

BATCH = 256


@dataclass(frozen=True)
class Point:
    """One network and its data."""

    rows: int = 16384
    inputs: int = 64
    width: int = 256
    depth: int = 2
    epochs: int = 4

    def widths(self) -> tuple[int, ...]:
        return (self.inputs, *[self.width] * self.depth, 10)

    def parameters(self) -> int:
        return sum((i + 1) * o for i, o in zip(self.widths(), self.widths()[1:], strict=False))


GROWTH: dict[str, Sequence[Point]] = {
    "rows": [Point(rows=rows) for rows in (4096, 16384, 65536, 262144, 1048576)],
    "width": [Point(width=width) for width in (32, 64, 128, 256, 512, 1024, 2048)],
    "depth": [Point(depth=depth) for depth in (1, 2, 4, 8, 16, 32)],
    "epochs": [Point(epochs=epochs) for epochs in (2, 40)],
}


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def train(point: Point) -> dict[str, float]:
    """Train in this process; return the seconds of a step and the bytes that it took."""
    gpumlp(Work(BATCH, (4, 4, 2), "relu", BATCH), "cpu")()  # loads and compiles what is the same for all
    before = resident()
    epoch = gpumlp(Work(point.rows, point.widths(), "relu", BATCH), "cpu")
    epoch()
    seconds = []
    for _ in range(point.epochs - 1):
        started = time.perf_counter()
        epoch()
        seconds.append((time.perf_counter() - started) / (point.rows // BATCH))
    data, activations = point.rows * (point.inputs + 1) * 4, BATCH * sum(point.widths()) * 4
    return {
        "step": statistics.median(seconds),
        "memory": resident() - before - data,
        "state": 4 * 4 * point.parameters() + 2 * activations,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw time and memory against each of rows, width and depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex="col")
    for column, name in enumerate(("rows", "width", "depth")):
        x = [point[name] for point in found[name]]
        panels[0, column].loglog(x, [1e6 * point["step"] for point in found[name]], "o-")
        panels[1, column].loglog(x, [max(point["memory"], 1) / 2**20 for point in found[name]], "o-", label="taken")
        panels[1, column].loglog(x, [point["state"] / 2**20 for point in found[name]], "--", label="state")
        panels[1, column].set_xlabel(name)
    panels[0, 0].set_ylabel("step, µs")
    panels[1, 0].set_ylabel("memory besides data, MB")
    panels[1, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--plot", type=Path, help="draw it here (.png, .svg)")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print(f"{'':8}{'':>10}{'step, µs':>12}{'memory, MB':>14}{'state, MB':>12}")
    for name, points in GROWTH.items():
        found[name] = []
        for point in points:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                result = pool.apply(train, (point,))
            found[name].append({**asdict(point), **result})
            step, memory, state = 1e6 * result["step"], result["memory"] / 2**20, result["state"] / 2**20
            print(f"{name:8}{getattr(point, name):10}{step:12.1f}{memory:14.1f}{state:12.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    until_reader_leaves(main)

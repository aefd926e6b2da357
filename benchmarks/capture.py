"""What capture saves: the time of a training step, defined anew each time against replayed.

    python benchmarks/capture.py [--repeats N]

Both are the same step on the same random rows with the same weights, and end with the same bits (checked first).
They are timed in turns; the median and the quartiles of the times per step are printed, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.optim import Optimizer

NETWORKS = {  # name: widths, activation, batch
    "tiny": ((64, 32, 10), "tanh", 32),
    "mnist": ((784, 256, 10), "relu", 128),
    "tabular": ((54, 256, 256, 256, 7), "relu", 256),
    "wide": ((784, 1024, 1024, 10), "relu", 1024),
}


class Case:
    """A network, a batch and the step on it."""

    def __init__(self, widths: tuple[int, ...], activation: str, batch: int) -> None:
        rng = np.random.default_rng(0)
        self.backend = Backend()
        hidden = [Dense(units, activation) for units in widths[1:-1]]
        self.model = Sequential([*hidden, Dense(widths[-1], "softmax")]).build(widths[0], backend=self.backend)
        self.loss = Loss("cross_entropy", self.model)
        self.optimizer = Optimizer("adam", self.model.parameters, self.model.context.clock)
        self.x = Tensor(rng.standard_normal((batch, widths[0]), np.float32), self.backend)
        self.y = self.backend.asarray(rng.integers(0, widths[-1], batch, np.int32))

    def step(self) -> None:
        parameters = self.model.parameters
        with GradientTape() as tape:
            value, _ = self.loss(self.model.forward(self.x, training=True), self.y)
        tape.gradient(value, list(parameters.variables.values()), into=parameters.views)
        self.optimizer.step()


def seconds(function: Callable[[], object], count: int) -> float:
    """Return the time of one of ``count`` calls."""
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timing (default: 9)")
    repeats = parser.parse_args().repeats
    print(f"{'network':10} {'defined, µs':>24} {'replayed, µs':>24} {'ratio':>6}")
    for name, description in NETWORKS.items():
        eager, captured = Case(*description), Case(*description)
        plan = captured.backend.capture(captured.step)
        eager.step()
        for _ in range(5):
            eager.step()
            plan()
        assert np.array_equal(eager.model.parameters.values, captured.model.parameters.values), name
        count = max(int(0.05 / seconds(plan, 3)), 2)
        pairs = [(seconds(eager.step, count), seconds(plan, count)) for _ in range(repeats)]
        columns = []
        for times in zip(*pairs, strict=True):
            low, middle, high = (1e6 * q for q in statistics.quantiles(times, n=4))
            columns.append(f"{middle:9.1f} ({low:.1f} to {high:.1f})")
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:10} {columns[0]:>24} {columns[1]:>24} {ratio:6.2f}")


if __name__ == "__main__":
    main()

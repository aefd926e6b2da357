"""What capture and compiled kernels save: the time of a training step, defined anew each time or replayed.

    python benchmarks/capture.py [--repeats N]

All are the same step on the same random rows with the same weights. On one backend, defined and replayed steps end
with the same bits; between backends the losses of the first step agree to rounding (both checked first; after it,
Adam's steps follow the signs of gradients that are all but 0, which are those of their rounding). They are timed in
turns; the median time of a step and its quartiles are printed, in microseconds, and the gain over NumPy replayed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from reader import until_reader_leaves

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend, NativeBackend
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

    def __init__(self, backend: Backend, widths: tuple[int, ...], activation: str, batch: int) -> None:
        rng = np.random.default_rng(0)
        self.backend = backend
        hidden = [Dense(units, activation) for units in widths[1:-1]]
        self.model = Sequential([*hidden, Dense(widths[-1], "softmax")]).build(widths[0], backend=backend)
        self.loss = Loss("cross_entropy", self.model)
        self.optimizer = Optimizer("adam", self.model.parameters, self.model.context.clock)
        self.x = Tensor(rng.standard_normal((batch, widths[0]), np.float32), backend)
        self.y = backend.asarray(rng.integers(0, widths[-1], batch, np.int32))

    def step(self) -> Tensor:
        parameters = self.model.parameters
        with GradientTape() as tape:
            value, _ = self.loss(self.model.forward(self.x, training=True), self.y)
        parameters.collect(tape, value)
        self.optimizer.step()
        return value


def seconds(function: Callable[[], object], count: int) -> float:
    """Return the time of one of ``count`` calls."""
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count


def steps(description: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """Return the ways of making a step, after having checked that they do the same."""
    found: dict[str, Callable[[], object]] = {}
    losses = {}
    for make in (NativeBackend, Backend):
        eager, captured = Case(make(), *description), Case(make(), *description)
        name = eager.backend.name
        plan = captured.backend.capture(captured.step)
        losses[name] = float(eager.step())
        for _ in range(5):
            eager.step()
            plan()
        assert np.array_equal(eager.model.parameters.values, captured.model.parameters.values), name
        found |= {f"{name}, defined": eager.step, f"{name}, replayed": plan}
    assert np.allclose(list(losses.values()), losses["numpy"], rtol=1e-4), losses
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timing, at least 2 (default: 9)")
    repeats = parser.parse_args().repeats
    if repeats < 2:
        parser.error("quartiles need at least 2 repeats")
    for name, description in NETWORKS.items():
        ways = steps(description)
        count = max(int(0.05 / seconds(ways["numpy, replayed"], 3)), 2)
        rounds = [{way: seconds(function, count) for way, function in ways.items()} for _ in range(repeats)]
        print(f"{name}: {' - '.join(map(str, description[0]))} {description[1]}, batch {description[2]}")
        for way in ways:
            low, middle, high = (1e6 * q for q in statistics.quantiles([times[way] for times in rounds], n=4))
            gain = statistics.median(times["numpy, replayed"] / times[way] for times in rounds)
            print(f"  {way:17} {middle:9.1f} µs  ({low:.1f} to {high:.1f})  {gain:5.2f} x")


if __name__ == "__main__":
    until_reader_leaves(main)

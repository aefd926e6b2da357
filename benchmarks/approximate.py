"""Training many small networks side by side, against one after the other: python benchmarks/approximate.py

The networks of one activation of `gpumlp approximate`, by default 21 of seven widths, take the same steps both ways.
Compiling kernels and capturing the step are no part of the times of either way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from reader import until_reader_leaves

from gpumlp import backend as backends
from gpumlp.approximation import TARGETS, grid, starts
from gpumlp.approximation.activations import OFFERED, activation_of
from gpumlp.approximation.members import Members
from gpumlp.approximation.network import Network
from gpumlp.approximation.study import POINTS, RESTARTS, SIZES, Kind
from gpumlp.backend import BACKENDS, Backend
from gpumlp.errors import BackendError
from gpumlp.seeds import generator

KINDS: tuple[Kind, ...] = ("width", "depth")


def networks(kind: Kind, activation: str, target: str) -> list[Network]:
    """Return the networks that a study of the default sizes starts from."""
    x = grid(TARGETS[target].inputs, POINTS[TARGETS[target].inputs])
    start = starts.wide if kind == "width" else starts.deep
    return [
        start(generator(0, restart, size), activation_of(activation), x, size)
        for size in SIZES[kind]
        for restart in range(RESTARTS)
    ]


def seconds(groups: list[list[Network]], target: str, backend: Backend, steps: int) -> float:
    """Return how long the steps of all groups take, one group after the other; a group trains in one pass."""
    x = grid(TARGETS[target].inputs, POINTS[TARGETS[target].inputs])
    y, total = TARGETS[target](x), 0.0
    for group in groups:
        for count, sign in ((steps + 1, 1.0), (1, -1.0)):  # the first step captures: it is taken off again
            members = Members(group, backend)
            began = time.perf_counter()
            members.train(x, y, count)
            total += sign * (time.perf_counter() - began)
    return total


def main() -> None:
    """Print the time of a step of all networks both ways, median and quartiles, and the gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="sine", choices=TARGETS)
    parser.add_argument("--activation", default="tanh", choices=OFFERED)
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    parser.add_argument("--steps", type=int, default=200, help="steps in a round (default: 200)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timing, at least 2 (default: 7)")
    given = parser.parse_args()
    if given.repeats < 2 or given.steps < 1:
        parser.error("quartiles need at least 2 repeats, and a round at least 1 step")
    try:
        backend = backends.get(given.backend)
    except BackendError as error:
        sys.exit(f"error: {error}")
    for kind in KINDS:
        every = networks(kind, given.activation, given.target)
        ways = {"side by side": [every], "one by one": [[network] for network in every]}
        for groups in ways.values():
            seconds(groups, given.target, backend, 2)  # kernels are compiled, memory is warm
        rounds = [
            {way: seconds(groups, given.target, backend, given.steps) for way, groups in ways.items()}
            for _ in range(given.repeats)
        ]
        print(f"{kind}: {len(every)} networks, {given.activation}, {given.target}, {backend.name}")
        for way in ways:
            times = [1e6 * found[way] / given.steps for found in rounds]
            low, middle, high = statistics.quantiles(times, n=4)
            print(f"  {way:12} {middle:9.1f} µs a step of all  ({low:.1f} to {high:.1f})")
        gain = statistics.median(found["one by one"] / found["side by side"] for found in rounds)
        print(f"  {gain:.2f} times as fast side by side")


if __name__ == "__main__":
    until_reader_leaves(main)

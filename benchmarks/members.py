"""What it saves to train many small networks side by side, beside one alone, PyTorch's vmap and scikit-learn.

    python benchmarks/members.py [--members 64] [--rounds 3] [--json FILE]

All are the same networks on as many random rows: ReLU, cross-entropy, Adam, float32. What is compared is the time
of a step of one network, without the first epochs: here alone, here among others, in PyTorch (one step of all, by
vmap over their parameters, on all cores), in scikit-learn (MLPClassifier, a process on each core). They take turns
within a round, so that ratios are of the same minutes; the median of the rounds is printed. A peer that is not
installed is left out.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

from gpumlp.backend import NativeBackend
from gpumlp.bench.machine import facts
from gpumlp.config import configure
from gpumlp.data import prepare, rows_of, with_columns
from gpumlp.limits import threads
from gpumlp.store.formats import to_json
from gpumlp.training import Epoch, Loop
from gpumlp.training.build import build
from gpumlp.training.members import loop_over

NETWORKS: dict[str, tuple[tuple[int, ...], int, float]] = {  # name: widths, batch, goal over one alone
    "32-64-64-16, batch 128": ((32, 64, 64, 16), 128, 1.9),
    "32-64-64-16, batch 32": ((32, 64, 64, 16), 32, 2.2),
    "64-32-10, batch 32": ((64, 32, 10), 32, 2.6),
}
GOALS = {"vmap": 3.0, "scikit-learn": 10.0}
"""How many times as fast as the peers."""
BATCHES = 128
"""Steps of an epoch."""
PEER_STEPS = 20
"""Steps of all networks that PyTorch is timed for."""

Timer = Callable[[], float]


def rows(widths: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    """Return random inputs, (N, p) float32, and classes, (N,)."""
    rng = np.random.default_rng(0)
    count = batch * BATCHES
    return rng.standard_normal((count, widths[0]), np.float32), rng.integers(0, widths[-1], count)


def ours(widths: tuple[int, ...], batch: int, members: int) -> Timer:
    """Return what measures a step of one network, in seconds, while the training of several goes on."""
    loop = begun(widths, batch, members)
    epochs(loop, 4 if members > 1 else 20)
    return lambda: statistics.median(epochs(loop, 5 if members > 1 else 40)) / BATCHES / members


def begun(widths: tuple[int, ...], batch: int, members: int, backend: str = "auto") -> Loop:
    """Return a loop over several networks, or one."""
    x, y = rows(widths, batch)
    source = with_columns(rows_of(x), {"y": np.array([f"class {each}" for each in y], object)})
    settings = configure(
        task="classification",
        backend=backend,
        data={"train": "<rows>", "target": "y", "split": {"validation": 0.0, "test": 0.0}},
        model={"hidden": list(widths[1:-1]), "activation": "relu"},
        optimizer={"name": "adam"},
        training={"epochs": 1_000_000, "batch_size": batch},
        members=members,
    ).settings
    data = prepare(source, task="classification", target="y", validation=0.0, test=0.0, seed=0)
    return loop_over(build(settings, data))


def epochs(loop: Loop, count: int) -> list[float]:
    """Return the seconds of the next epochs of a loop."""
    seconds = (event.row["seconds"] for event in loop if isinstance(event, Epoch))
    return list(itertools.islice(seconds, count))


def vmapped(widths: tuple[int, ...], batch: int, members: int) -> Timer:
    """Return the same for PyTorch: gradients of all networks by vmap, Adam over their stacked parameters."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    torch.set_num_threads(threads())

    def make() -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for inputs, units in itertools.pairwise(widths):
            layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    network = make()
    parameters, _ = stack_module_state([make() for _ in range(members)])
    optimizer = torch.optim.Adam(parameters.values(), foreach=True)
    x, y = (torch.from_numpy(each) for each in rows(widths, batch))

    def loss(own: Any, inputs: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(functional_call(network, own, (inputs,)), targets)

    gradients = vmap(grad(loss), in_dims=(0, 0, 0))

    def step() -> None:
        chosen = torch.randint(len(x), (members, batch))
        found = gradients(parameters, x[chosen], y[chosen])
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        optimizer.step()

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(PEER_STEPS):
            step()
        return (time.perf_counter() - started) / PEER_STEPS / members

    measure()
    return measure


def fit_in_scikit_learn(given: tuple[tuple[int, ...], int, int]) -> None:
    """Train one network for an epoch."""
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    warnings.simplefilter("ignore")
    widths, batch, seed = given
    x, y = rows(widths, batch)
    hidden = widths[1:-1]
    MLPClassifier(hidden, batch_size=batch, max_iter=1, random_state=seed, n_iter_no_change=99).fit(x, y)


def in_processes(widths: tuple[int, ...], batch: int, pool: Any) -> Timer:
    """Return the same for scikit-learn, a process on each core; an epoch of as many networks."""
    import sklearn.neural_network  # noqa: F401

    def measure() -> float:
        count = threads()
        started = time.perf_counter()
        pool.map(fit_in_scikit_learn, [(widths, batch, seed) for seed in range(count)], chunksize=1)
        return (time.perf_counter() - started) / BATCHES / count

    measure()
    return measure


def compare(name: str, members: int, rounds: int, pool: Any) -> dict[str, Any]:
    """Return the times of a step of one network by each way, and the ratios, and print them."""
    widths, batch, goal = NETWORKS[name]
    ways = {"alone": ours(widths, batch, 1), "together": ours(widths, batch, members)}
    peers: dict[str, Callable[[], Timer]] = {
        "vmap": partial(vmapped, widths, batch, members),
        "scikit-learn": partial(in_processes, widths, batch, pool),
    }
    for peer, make in peers.items():
        try:
            ways[peer] = make()
        except ImportError as error:
            print(f"  {peer} is left out: {error}")
    times = [{way: measure() for way, measure in ways.items()} for _ in range(rounds)]
    print(name)
    result: dict[str, Any] = {"members": members, "seconds": {}, "ratios": {}}
    for way in ways:
        seconds = statistics.median(each[way] for each in times)
        ratio = statistics.median(each[way] / each["together"] for each in times)
        result["seconds"][way] = seconds
        text = f"  {way:13} {1e6 * seconds:9.2f} µs a step of one network"
        if way != "together":
            result["ratios"][way] = {"reached": ratio, "goal": GOALS.get(way, goal)}
            text += f", {ratio:5.2f} times as long (goal: {GOALS.get(way, goal):g})"
        print(text)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64, help="networks that are trained together (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing (default: 3)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(threads()) as pool:
        found = {name: compare(name, given.members, given.rounds, pool) for name in NETWORKS}
    if given.json:
        given.json.write_text(
            to_json({"machine": facts(NativeBackend()), "networks": found}) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    until_reader_leaves(main)

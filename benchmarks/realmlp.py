"""How long a training step of RealMLP takes, here by the preset ``tabular``, in PyTorch and in pytabkit.

    OMP_NUM_THREADS=1 python benchmarks/realmlp.py [--numbers 8] [--rounds 7] [--json FILE]

The network of the paper (3 x 256 units, batches of 256 rows) with embeddings of 8 numbers, for regression, and the
preset as it is, which has bins beside the waves of each number, and averages weights. PyTorch
has a plain network of the same operations, trained by its fused AdamW with a group for each factor of the rate. The
authors' own package, where it is installed (pip install pytabkit pytorch-lightning torchmetrics), fits as many rows
twice, for 2 and 6 epochs, and the difference is a step's: what a fit takes beside its epochs does not count. They
take turns within a round, so that ratios are of the same minutes; the median of the rounds is printed, of wall clock
and of CPU time, each for a step. First, the network here and the one in PyTorch compute the loss of the same weights
and rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reader import until_reader_leaves

from gpumlp.autodiff import Tensor
from gpumlp.backend import NativeBackend
from gpumlp.bench.machine import facts
from gpumlp.config import configure
from gpumlp.data import prepare, rows_of
from gpumlp.limits import threads
from gpumlp.nn import Sequential
from gpumlp.store.formats import to_json
from gpumlp.training.build import Parts, build

BATCH, STEPS, DROPOUT = 256, 20, 0.15
"""Rows of a batch, and steps of a round."""
GOAL = 10.6 / 4
"""How many times as fast as PyTorch."""
EPOCHS = 2, 6
"""Of the two fits in pytabkit."""
GROUPS = {"inputfactors": 6.0, "mix": 0.1, "periodicembedding": 0.1}
"""Factors of the learning rate by layer."""


PUBLISHED: dict[str, Any] = {"model": {"numbers": "pbld"}, "optimizer": {"averaging": None}}
"""Settings of the preset by which its network is that of the paper."""


def ours(numbers: int, **settings_of_network: Any) -> Parts:
    """Return what trains the preset, but for some of its settings, on random rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH * STEPS, numbers))
    frame = pd.DataFrame({f"x{i}": column for i, column in enumerate(x.T)} | {"y": np.sin(x).sum(axis=1)})
    data = {"train": "rows", "target": "y", "split": {"validation": 0, "test": 0}}
    training = {"epochs": 1_000_000, "metric": "auto", "snapshots": 1}
    settings = configure(
        task="regression", preset="tabular", data=data, training=training, **settings_of_network
    ).settings
    scaling = settings.data.scaling
    rows = prepare(rows_of(frame), task=settings.task, target="y", validation=0.0, test=0.0, scaling=scaling)
    return build(settings, rows)


def theirs(parts: Parts) -> tuple[Callable[[], None], Callable[[], float]]:
    """Return what takes ``STEPS`` steps in PyTorch, from the same weights, and what computes the loss of all rows."""
    import torch

    torch.set_num_threads(threads())
    at = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in parts.model.arrays().items()}
    at = {name: p for name, p in at.items() if "clamp" not in name}
    groups: dict[float, list[Any]] = {}
    for name, p in at.items():
        layer = name.split("_")[0]
        rate = GROUPS.get(layer, 0.1 if name.endswith("b") else len(p) ** -0.5)
        groups.setdefault(rate, []).append(p)
    listed = [{"params": each, "lr": 1e-3 * rate, "weight_decay": 0.02} for rate, each in groups.items()]
    optimizer = torch.optim.AdamW(listed, betas=(0.9, 0.95), fused=True)
    train = parts.data.train
    assert train.targets is not None
    x, y = (torch.from_numpy(np.asarray(each)) for each in (train.features.expanded(), train.targets))
    w, b, V, c = (at[f"periodicembedding_1.{name}"] for name in "wbVc")

    def loss(x: Any, y: Any, rate: float) -> Any:
        numbers = x.T[:, :, None]
        e = torch.cos(2 * math.pi * numbers * w[:, None] + b[:, None]) @ V.mT + c[:, None]
        h = torch.cat([e, numbers], 2).transpose(0, 1).flatten(1) * at["inputfactors_1.s"]
        for i in (1, 2, 3):
            z = torch.addmm(at[f"dense_{i}.b"], h, at[f"dense_{i}.W"])
            h = z + at[f"mix_{i}.a"] * (torch.nn.functional.mish(z) - z)
            h = torch.nn.functional.dropout(h, rate, training=rate > 0)
        return (torch.addmm(at["dense_4.b"], h, at["dense_4.W"]) - y).square().mean()

    def take() -> None:
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss(x[chosen], y[chosen], DROPOUT).backward()
            optimizer.step()

    return take, lambda: float(loss(x, y, 0.0).detach())


def authors(numbers: int) -> Callable[[], tuple[float, float]]:
    """Return what fits in pytabkit, and returns seconds of wall clock and of CPU time for ``STEPS`` steps."""
    import torch
    from pytabkit import RealMLP_TD_Regressor

    torch.set_num_threads(threads())
    x = np.random.default_rng(0).standard_normal((BATCH * (STEPS + 1), numbers)).astype(np.float32)
    y, validation = np.sin(x).sum(axis=1), np.arange(BATCH * STEPS, len(x))  # a batch of rows, where it needs some

    def fit(epochs: int) -> tuple[float, float]:
        more = {"n_epochs": epochs, "batch_size": BATCH, "n_threads": threads(), "random_state": 0, "verbosity": 0}
        network = RealMLP_TD_Regressor(device="cpu", n_cv=1, n_refit=0, **more)
        before = time.perf_counter(), time.process_time()
        network.fit(x, y, val_idxs=validation)
        return time.perf_counter() - before[0], time.process_time() - before[1]

    def take() -> tuple[float, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few, many = map(fit, EPOCHS)
        return (many[0] - few[0]) / (EPOCHS[1] - EPOCHS[0]), (many[1] - few[1]) / (EPOCHS[1] - EPOCHS[0])

    return take


def timed(take: Callable[[], Any]) -> Callable[[], tuple[float, float]]:
    """Return what takes steps, and returns the seconds of wall clock and of CPU time for them."""

    def taken() -> tuple[float, float]:
        before = time.perf_counter(), time.process_time()
        take()
        return time.perf_counter() - before[0], time.process_time() - before[1]

    return taken


def check(parts: Parts, peer: float) -> None:
    """Compare the losses of the same weights on the same rows. Raises SystemExit where they differ."""
    value = Tensor(parts.data.train.features.expanded(), parts.model.context.backend)
    assert isinstance(parts.model, Sequential)
    for layer in parts.model.chain[:-1]:  # but the clamp; nothing is dropped out
        value = layer(value)
    own = float(np.square(value.numpy() - parts.data.train.targets).mean())
    if abs(own - peer) > 1e-4 * peer:
        raise SystemExit(f"the losses differ: {own} here, {peer} in PyTorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, default=8, help="columns of numbers [8]")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts [7]")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    parts = ours(options.numbers, **PUBLISHED)
    take, loss = theirs(parts)
    check(parts, loss())
    preset = ours(options.numbers)
    takers = {"here": timed(parts.trainer.run_epoch), "preset": timed(preset.trainer.run_epoch)}
    takers["pytorch"] = timed(take)
    if importlib.util.find_spec("pytabkit"):
        takers["pytabkit"] = authors(options.numbers)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in takers}
    for number in range(options.rounds + 2):
        for name, each in takers.items():
            taken = each()
            if number > 1:  # the first ones capture the step
                found[name].append((taken[0] / STEPS, taken[1] / STEPS))
    wall, cpu = ({n: statistics.median(s[i] for s in each) for n, each in found.items()} for i in (0, 1))
    for name in takers:
        print(f"{name:<10}{1e3 * wall[name]:7.2f} ms a step {1e3 * cpu[name]:7.2f} ms of CPU time")
    for name in list(takers)[2:]:
        ratios = f"{wall[name] / wall['here']:.2f} times as fast as {name}, by CPU time {cpu[name] / cpu['here']:.2f}"
        print(f"{ratios} (goal {GOAL:.2f}), {threads()} threads")
    if options.json:
        figures = {"numbers": options.numbers, "batch": BATCH, "threads": threads(), "seconds": found}
        options.json.write_text(to_json({"machine": facts(NativeBackend()), **figures}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    until_reader_leaves(main)

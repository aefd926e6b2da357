"""How long a training step of TabM-mini takes, here and in PyTorch.

    python benchmarks/tabm.py [--members 32] [--bins 128] [--rounds 5] [--json FILE]

The network of the paper (2 x 512 units, 32 members, batches of 256 rows), on as many inputs as 8 numbers have in
embeddings of 16; with ``--bins`` on 8 numbers, which both embed by so many bins of each (PLE), PyTorch as the package
of the paper's authors does. Both train it by AdamW with a clipped gradient: here in each precision, in PyTorch in
float32 and by autocast in bfloat16, on all cores. They take turns within a round, so that ratios are of the same
minutes; the median of the rounds is printed. First, both compute the loss of the same weights and rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reader import until_reader_leaves

from gpumlp import backend as backends
from gpumlp.autodiff import Tensor
from gpumlp.backend import NativeBackend
from gpumlp.bench.machine import facts
from gpumlp.data import Dataset
from gpumlp.limits import threads
from gpumlp.nn import Architecture, BinnedEmbedding, Hidden, Loss, mlp
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.store.formats import to_json
from gpumlp.training.trainer import Trainer

NUMBERS, SIZE, UNITS, BATCH, CLASSES, DROPOUT = 8, 16, (512, 512), 256, 2, 0.1
STEPS = 4
"""Steps of a round."""
GOAL = 2.0
"""How many times as fast as PyTorch, each in its faster precision."""

Step = Callable[[], None]


def rows(bins: int) -> tuple[Any, Any]:
    """Return random inputs, (N, p) float32, and classes, (N,): with bins, numbers that are to be embedded."""
    rng, inputs = np.random.default_rng(0), NUMBERS if bins else NUMBERS * SIZE
    return rng.standard_normal((BATCH * STEPS, inputs), np.float32), rng.integers(0, CLASSES, BATCH * STEPS)


def ours(members: int, bins: int, name: str) -> tuple[Step, Any]:
    """Return what takes ``STEPS`` steps of ours in a precision, and the model."""
    precision = PRECISIONS[name]
    backend = backends.get("auto", tf32=precision.tf32)
    hidden = tuple(Hidden(units, "relu", DROPOUT) for units in UNITS)
    embedding: dict[str, Any] = {"embedding": "ple", "numbers": NUMBERS, "embedding_size": SIZE, "bins": bins}
    architecture = Architecture(hidden, heads=members, share="hidden", **(embedding if bins else {}))
    x, y = rows(bins)
    model = mlp(architecture, CLASSES, "softmax").build(x.shape[1], backend=backend, dtype=precision.dtype)
    for layer in model.chain:
        if isinstance(layer, BinnedEmbedding):
            layer.set_bins(x)
            V = layer.weights["V"]  # zeros at first, by which no sum of bins could be wrong
            V.assign(np.random.default_rng(1).standard_normal(V.shape))
    data = Dataset(x, y.astype(np.int32), None)
    optimizer = Optimizer("adamw", model.parameters, model.context.clock, weight_decay=3e-4, clip_norm=1.0)
    schedule = Schedule("constant", learning_rate=2e-3)
    trainer = Trainer(
        model, Loss("cross_entropy", model), optimizer, schedule, data, epochs=1_000_000, batch_size=BATCH
    )

    def take() -> None:
        trainer.run_epoch()

    return take, model


def theirs(model: Any, bins: int, bfloat16: bool) -> tuple[Step, Callable[[], float]]:
    """Return what takes ``STEPS`` steps in PyTorch, from the same weights, and what computes the loss of all rows."""
    import torch

    torch.set_num_threads(threads())
    arrays = {name: torch.from_numpy(array) for name, array in model.arrays().items()}
    weights = {name: torch.nn.Parameter(array) for name, array in arrays.items() if name not in model.state}
    optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, weight_decay=3e-4)
    x, y = (torch.from_numpy(each) for each in rows(bins))
    order = torch.Generator().manual_seed(0)
    if bins:
        edges, scales = (arrays[f"binnedembedding_1.{name}"] for name in ("edges", "scales"))
        a, c, V = (weights[f"binnedembedding_1.{name}"] for name in ("a", "c", "V"))

    def embedded(inputs: Any) -> Any:
        v = torch.addcmul(-edges * scales, scales, inputs[:, :, None])
        first, middle, last = v[:, :, :1].clamp_max(1.0), v[:, :, 1:-1].clamp(0.0, 1.0), v[:, :, -1:].clamp_min(0.0)
        of_bins = torch.cat([first, middle, last], dim=-1).transpose(0, 1) @ V
        return (torch.addcmul(c, a, inputs[:, :, None]) + of_bins.transpose(0, 1)).flatten(1)

    def loss(inputs: Any, targets: Any, rate: float) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            h = (embedded(inputs) if bins else inputs)[:, None] * weights["memberscale_1.factors"]
            for layer in ("dense_1", "dense_2"):
                h = torch.relu(torch.nn.functional.linear(h, weights[f"{layer}.W"].T, weights[f"{layer}.b"]))
                h = torch.nn.functional.dropout(h, rate, training=rate > 0)
            z = torch.einsum("nkp,kpc->nkc", h, weights["memberheads_1.W"]) + weights["memberheads_1.b"]
        labels = targets.repeat_interleave(z.shape[1])
        return torch.nn.functional.cross_entropy(z.float().reshape(-1, CLASSES), labels)

    def take() -> None:
        for chosen in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss(x[chosen], y[chosen], DROPOUT).backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()

    return take, lambda: float(loss(x, y, 0.0).detach())


def check(model: Any, bins: int, loss: Callable[[], float]) -> None:
    """Compare the losses of the same weights on the same rows. Raises SystemExit where they differ."""
    x, y = rows(bins)
    value = Tensor(x, model.context.backend)
    *before, last = model.chain
    for layer in before:  # nothing is dropped out
        value = layer(value)
    own = float(Loss("cross_entropy", model)(last.linear(value, training=True), y.astype(np.int32))[0].numpy())
    if abs(own - (peer := loss())) > 1e-5 * peer:
        raise SystemExit(f"the losses differ: {own} here, {peer} in PyTorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=32, help="members that share the hidden layers [32]")
    parser.add_argument("--bins", type=int, default=0, help="bins by which numbers are embedded; 0: they are [0]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts [5]")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    takers: dict[str, Step] = {}
    for name in PRECISIONS:
        if name != "float64":
            takers[name], model = ours(options.members, options.bins, name)
            if name == "float32":
                takers["pytorch float32"], loss = theirs(model, options.bins, bfloat16=False)
                takers["pytorch bfloat16"], _ = theirs(model, options.bins, bfloat16=True)
                check(model, options.bins, loss)
    seconds: dict[str, list[float]] = {name: [] for name in takers}
    for number in range(options.rounds + 1):
        for name, take in takers.items():
            started = time.perf_counter()
            take()
            if number:  # the first captures the step
                seconds[name].append((time.perf_counter() - started) / STEPS)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, value in medians.items():
        spread = (max(seconds[name]) - min(seconds[name])) / value
        print(f"{name:<18}{1e3 * value:8.1f} ms a step   {spread:4.0%} between the slowest and the fastest round")
    own, peer = (min(v for k, v in medians.items() if k.startswith("pytorch") is at) for at in (False, True))
    same = medians["pytorch float32"] / medians["float32"]
    print(f"fastest here over PyTorch's fastest: {peer / own:.2f} times as fast (goal {GOAL:g}); float32 {same:.2f}")
    if options.json:
        network = {"members": options.members, "inputs": NUMBERS * SIZE, "bins": options.bins, "units": UNITS}
        figures = {**network, "batch": BATCH, "seconds": seconds}
        options.json.write_text(to_json({"machine": facts(NativeBackend()), **figures}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    until_reader_leaves(main)

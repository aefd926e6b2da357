"""How long a training step of TabM-mini takes, here and in PyTorch.

    python benchmarks/tabm.py [--members 32] [--rounds 5] [--json FILE]

The network of the paper (2 x 512 units, 32 members, batches of 256 rows), on as many inputs as 8 numbers have in
embeddings of 16. Both train it by AdamW with a clipped gradient: here in each precision, in PyTorch in float32 and by
autocast in bfloat16, on all cores. They take turns within a round, so that ratios are of the same minutes; the median
of the rounds is printed. First, both compute the loss of the same weights and rows.
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
from gpumlp.nn import Architecture, Hidden, Loss, mlp
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import Optimizer, Schedule
from gpumlp.store.formats import to_json
from gpumlp.training.trainer import Trainer

INPUTS, UNITS, BATCH, CLASSES, DROPOUT = 8 * 16, (512, 512), 256, 2, 0.1
STEPS = 4
"""Steps of a round."""
GOAL = 2.0
"""How many times as fast as PyTorch, each in its faster precision."""

Step = Callable[[], None]


def rows() -> tuple[Any, Any]:
    """Return random inputs, (N, p) float32, and classes, (N,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH * STEPS, INPUTS), np.float32), rng.integers(0, CLASSES, BATCH * STEPS)


def ours(members: int, name: str) -> tuple[Step, Any]:
    """Return what takes ``STEPS`` steps of ours in a precision, and the model."""
    precision = PRECISIONS[name]
    backend = backends.get("auto", tf32=precision.tf32)
    hidden = tuple(Hidden(units, "relu", DROPOUT) for units in UNITS)
    model = mlp(Architecture(hidden, heads=members, share="hidden"), CLASSES, "softmax")
    model.build(INPUTS, backend=backend, dtype=precision.dtype)
    x, y = rows()
    data = Dataset(x, y.astype(np.int32), None)
    optimizer = Optimizer("adamw", model.parameters, model.context.clock, weight_decay=3e-4, clip_norm=1.0)
    schedule = Schedule("constant", learning_rate=2e-3)
    trainer = Trainer(
        model, Loss("cross_entropy", model), optimizer, schedule, data, epochs=1_000_000, batch_size=BATCH
    )

    def take() -> None:
        trainer.run_epoch()

    return take, model


def theirs(model: Any, bfloat16: bool) -> tuple[Step, Callable[[], float]]:
    """Return what takes ``STEPS`` steps in PyTorch, from the same weights, and what computes the loss of all rows."""
    import torch

    torch.set_num_threads(threads())
    weights = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in model.arrays().items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, weight_decay=3e-4)
    x, y = (torch.from_numpy(each) for each in rows())
    order = torch.Generator().manual_seed(0)

    def loss(inputs: Any, targets: Any, rate: float) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            h = inputs[:, None] * weights["memberscale_1.factors"]
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


def check(model: Any, loss: Callable[[], float]) -> None:
    """Compare the losses of the same weights on the same rows. Raises SystemExit where they differ."""
    x, y = rows()
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
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts [5]")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    takers: dict[str, Step] = {}
    for name in PRECISIONS:
        if name != "float64":
            takers[name], model = ours(options.members, name)
            if name == "float32":
                takers["pytorch float32"], loss = theirs(model, bfloat16=False)
                takers["pytorch bfloat16"], _ = theirs(model, bfloat16=True)
                check(model, loss)
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
        figures = {"members": options.members, "inputs": INPUTS, "units": UNITS, "batch": BATCH, "seconds": seconds}
        options.json.write_text(to_json({"machine": facts(NativeBackend()), **figures}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    until_reader_leaves(main)

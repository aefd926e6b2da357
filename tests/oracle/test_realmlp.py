"""The preset ``tabular`` against RealMLP-TD in PyTorch, written from the formulas of the paper (arXiv:2407.04491).

Both start from the same weights and see the same rows in the same order: inputs, network, loss, schedules, factors of
rate and decay, and updates are then the same, step by step. Dropout is switched off, since its masks would differ;
Adam's epsilon is as good as 0, since it is added to another scale of gradients here (W / √p in place of W).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

import torch
from torch import Tensor
from torch.nn import functional

from gpumlp.config import configure
from gpumlp.data import prepare, rows_of
from gpumlp.ops.random import permute
from gpumlp.training.build import Parts, build

ROWS, BATCH, EPOCHS, EPSILON = 230, 32, 6, 1e-30
TASKS = {"regression": 0, "two": 2, "three": 3}


def table(task: str) -> pd.DataFrame:
    """Return rows with numbers, one of them with gaps, a truth value, and categories of 3 and of 11 values."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3)) * [1.0, 50.0, 1e-3]
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1] ** 3, "c": x[:, 2]})
    frame["rare"] = np.where(rng.random(ROWS) < 0.2, "yes", "no")
    frame["few"] = rng.choice(["u", "v", "w"], ROWS, p=[0.4, 0.4, 0.2])
    frame["many"] = rng.choice(list("abcdefghijk"), ROWS)
    score = np.sin(2 * x[:, 0]) + (frame["rare"] == "yes") + (frame["many"] < "d") + 0.3 * rng.normal(size=ROWS)
    frame.loc[::9, "c"] = np.nan
    count = TASKS[task]
    frame["y"] = score if not count else pd.qcut(score, count, labels=list("klm")[:count]).astype(str)
    return frame


def ours(task: str, precision: str, smoothing: float) -> tuple[Parts, pd.DataFrame, pd.DataFrame]:
    """Return the parts of a run of the preset as it is published, and its training and validation rows.

    The preset itself smooths no labels, has bins beside waves, averages weights, and predicts by the mean of epochs.
    """
    smoothed = {"loss": {"label_smoothing": smoothing}} if smoothing else {}
    frame = table(task)
    train, validation = frame[: ROWS - 40], frame[ROWS - 40 :]
    settings = configure(
        task="regression" if task == "regression" else "classification",
        preset="tabular",
        precision=precision,
        backend="numpy" if precision == "float64" else "auto",
        data={"train": "rows", "target": "y"},
        model={"hidden": [24, 16, 12], "dropout": 0.0, "numbers": "pbld"},
        optimizer={"epsilon": EPSILON, "averaging": None},
        training={"epochs": EPOCHS, "batch_size": BATCH, "seed": 5, "snapshots": 1},
        **smoothed,
    ).settings
    more = {"task": settings.task, "target": "y", "scaling": settings.data.scaling}
    data = prepare(rows_of(train), validation=rows_of(validation), test=0.0, **more)
    return build(settings, data), train, validation


FACTORS = {
    "periodicembedding": (0.1, 0.1),
    "inputfactors": (6.0, 6.0),
    "mix": (0.1, 0.1),
    "bias": (0.1, 0.0),
    "weight": (1.0, 1.0),
    "categorytables": (1.0, 1.0),
}
"""By what the learning rate and the weight decay of a kind of parameter are multiplied."""


class RealMLP:
    """The network in its own form, z = x V / √p + b, with two logits for two classes, from the weights ours has."""

    def __init__(self, start: dict[str, np.ndarray[Any, Any]], task: str) -> None:
        self.function = functional.mish if task == "regression" else functional.selu
        self.parameters: dict[str, torch.nn.Parameter] = {}
        for name, array in start.items():
            layer, key = name.split(".")
            if layer.startswith("dense"):
                array, layer = (array * len(array) ** 0.5, "weight") if key == "W" else (array, "bias")
                if task == "two" and array.shape[-1] == 1:
                    array = np.concatenate([-array, array], axis=-1) / 2
            self.parameters[name] = torch.nn.Parameter(torch.tensor(array))
            kind = layer.split("_")[0]
            self.parameters[name].rate, self.parameters[name].decay = FACTORS[kind]

    def __call__(self, numbers: Tensor, ones: Tensor, codes: Tensor) -> Tensor:
        at = self.parameters
        w, b, V, c = (at[f"periodicembedding_1.{name}"] for name in "wbVc")
        e = torch.einsum("nfk,fdk->nfd", torch.cos(2 * math.pi * numbers[:, :, None] * w + b), V) + c
        table = at["categorytables_1.table_3"]
        x = torch.cat([torch.cat([e, numbers[:, :, None]], 2).flatten(1), ones, table[codes]], 1)
        x = x * at["inputfactors_1.s"]
        for i in range(1, 5):
            x = x @ at[f"dense_{i}.W"] / x.shape[1] ** 0.5 + at[f"dense_{i}.b"]
            if i < 4:
                x = x + at[f"mix_{i}.a"] * (self.function(x) - x)
        return x


def robust(values: np.ndarray[Any, Any], train: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return columns of numbers without gaps, scaled by those of training rows and clipped."""
    low, median, high = np.quantile(train, [0.25, 0.5, 0.75], axis=0)
    spread = np.where(high > low, high - low, (train.max(axis=0) - train.min(axis=0)) / 2)
    scaled = (values - median) / spread
    return scaled / np.sqrt(1 + (scaled / 3) ** 2)


def inputs(frame: pd.DataFrame, train: pd.DataFrame) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs of rows: numbers, columns of 0 and 1, and codes of the category with a table."""
    numbers, flags = [], []
    for each in (frame, train):
        known = each[["a", "b", "c"]]
        numbers.append(known.fillna(train[["a", "b", "c"]].median()).to_numpy())
        columns = [known["c"].isna()]
        columns += [each[name] == value for name, values in CATEGORIES.items() for value in values]
        flags.append(np.stack(columns, axis=1).astype(float))
    gaps = train[["a", "b", "c"]].to_numpy()  # which do not count for the quartiles
    scaled = [robust(numbers[0][:, [i]], gaps[~np.isnan(gaps[:, i])][:, [i]]) for i in range(3)]
    codes = pd.Categorical(frame["many"], sorted(train["many"].unique())).codes.astype(np.int64)
    stored = np.hstack(scaled).astype(np.float32).astype(np.float64)  # as they are stored
    return torch.tensor(stored), torch.tensor(robust(*flags)), torch.tensor(codes)


CATEGORIES = {"rare": ("no", "yes"), "few": ("u", "v", "w")}


def coslog(t: float) -> float:
    return 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * t)))


def flat_cos(t: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (max(1.0, 2 * t) - 1)))


def run_theirs(parts: Parts, task: str, train: pd.DataFrame, smoothing: float) -> tuple[RealMLP, list[float]]:
    """Train in PyTorch on the rows of each batch of ours; return the network and the loss of each step."""
    start = {k: v for k, v in parts.model.arrays().items() if not k.startswith(("scaledflags", "clamp"))}
    network, x, count = RealMLP(start, task), inputs(train, train), TASKS[task]
    dtype = next(iter(network.parameters.values())).dtype
    x = tuple(each.to(dtype) if each.is_floating_point() else each for each in x)
    if count:
        labels = torch.tensor(pd.Categorical(train["y"]).codes.astype(np.int64))
        y = functional.one_hot(labels, count).to(dtype) * (1 - smoothing) + smoothing / count
    else:
        scaled = ((train["y"] - train["y"].mean()) / train["y"].std(ddof=0)).to_numpy(np.float32)  # as it is stored
        y = torch.tensor(scaled, dtype=dtype)[:, None]
    groups = [{"params": [p]} for p in network.parameters.values()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=EPSILON)
    key, losses, steps = parts.trainer._key, [], len(train) // BATCH
    for epoch in range(EPOCHS):
        for batch in range(steps):
            t = (epoch * steps + batch) / (EPOCHS * steps)
            for group in optimizer.param_groups:
                (p,) = group["params"]
                group["lr"] = (0.04 if count else 0.2) * coslog(t) * p.rate
                group["weight_decay"] = 0.02 * flat_cos(t) * p.decay
            places = np.arange(batch * BATCH, (batch + 1) * BATCH)
            chosen = torch.tensor(permute(np, places, len(train), np.array([epoch]), key).astype(np.int64))
            z = network(*(each[chosen] for each in x))
            each = -(y[chosen] * torch.log_softmax(z, 1)).sum(1) if count else (z - y[chosen]).square().mean(1)
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
            losses.append(float(each.detach().mean()))
    return network, losses


def run_ours(parts: Parts) -> list[float]:
    """Train; return the loss of each step."""
    losses, trainer = [], parts.trainer
    for _ in range(EPOCHS):
        before = np.zeros(4)
        while trainer.batch < trainer.batches:
            trainer.advance(until=trainer.batch + 1)
            sums = parts.backend.to_host(trainer.totals)
            losses.append(float((sums - before)[0] / (sums - before)[1]))
            before = np.array(sums)
        trainer.end_epoch()
    return losses


CASES = [("regression", "float64", 1e-9), ("two", "float64", 1e-9), ("three", "float64", 1e-9)]
CASES += [("regression", "float32", 3e-4), ("two", "float32", 1e-5)]


@pytest.mark.parametrize(("task", "precision", "tolerance"), CASES)
def test_the_preset_is_realmlp(task: str, precision: str, tolerance: float) -> None:
    smoothing = 0.0 if task == "regression" else 0.1
    parts, train, validation = ours(task, precision, smoothing)
    network, theirs = run_theirs(parts, task, train, smoothing)
    np.testing.assert_allclose(run_ours(parts), theirs, rtol=tolerance)
    assert theirs[-1] < 0.8 * theirs[0], "it has learnt"

    assert parts.data.validation is not None
    found = parts.model.predict(parts.data.validation.features.expanded())
    dtype = next(iter(network.parameters.values())).dtype
    with torch.no_grad():
        z = network(*(each if each.dtype == torch.int64 else each.to(dtype) for each in inputs(validation, train)))
    if task == "regression":
        y = (train["y"] - train["y"].mean()) / train["y"].std(ddof=0)
        expected = z.clamp(y.min(), y.max())
    else:
        expected = torch.softmax(z, 1)
        found = np.hstack([1 - found, found]) if task == "two" else found
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=10 * tolerance)


def test_without_smoothing_it_is_realmlp_too() -> None:
    parts, train, _ = ours("three", "float64", 0.0)
    _, theirs = run_theirs(parts, "three", train, 0.0)
    np.testing.assert_allclose(run_ours(parts), theirs, rtol=1e-9)

"""Mixup against steps of a linear model written out in NumPy, and what it leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.config import Loaded
from gpumlp.data import Dataset
from gpumlp.errors import ConfigError
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops.random import permute
from gpumlp.optim import Optimizer, Schedule
from gpumlp.seeds import MIXUP, ORDER, generator
from gpumlp.training.trainer import Trainer

ROWS, BATCH, RATE, ALPHA, SEED = 50, 16, 0.3, 0.4, 7


def trainer_of(backend: str, loss: str, x: Any, y: Any, weights: Any, **more: Any) -> Trainer:
    outputs = 3 if loss == "cross_entropy" else 2
    link = "softmax" if loss == "cross_entropy" else "identity"
    model = Sequential([Dense(outputs, link)]).build(4, backend=backends.get(backend), dtype=np.float64, seed=1)
    data = Dataset(x, y, weights)
    optimizer = Optimizer("sgd", model.parameters, model.context.clock)
    schedule = Schedule(learning_rate=RATE)
    options = {"epochs": 4, "batch_size": BATCH, "seed": SEED, **more}
    return Trainer(model, Loss(loss, model), optimizer, schedule, data, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_written_out(backend: str, loss: str, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 4)).astype(np.float32)
    labels = rng.integers(0, 3, ROWS).astype(np.int32)
    numbers = rng.standard_normal((ROWS, 2)).astype(np.float32)
    y = labels if loss == "cross_entropy" else numbers
    w = rng.uniform(0.5, 2.0, ROWS).astype(np.float32) if weighted else None
    trainer = trainer_of(backend, loss, x, y, w, mixup=ALPHA)
    arrays = trainer.model.arrays()
    W, b = arrays["dense_1.W"].copy(), arrays["dense_1.b"].copy()
    keys = [int(generator(SEED, purpose).integers(2**32)) for purpose in (ORDER, MIXUP)]
    goals = np.eye(3)[labels] if loss == "cross_entropy" else numbers.astype(np.float64)
    mass = np.ones(ROWS) if w is None else w.astype(np.float64)
    for epoch in range(2):
        drawn = generator(SEED, MIXUP, epoch).beta(ALPHA, ALPHA, 4)
        for batch in range(4):
            share = max(drawn[batch], 1 - drawn[batch])
            places = np.arange(batch * BATCH, min((batch + 1) * BATCH, ROWS))
            own, other = (permute(np, places, ROWS, np.array([epoch]), key) for key in keys)
            mixed = share * x[own].astype(np.float64) + (1 - share) * x[other]
            z = mixed @ W + b
            if loss == "cross_entropy":
                p = np.exp(z - z.max(axis=1, keepdims=True))
                z = p / p.sum(axis=1, keepdims=True)
            slope = np.zeros_like(z)
            for part, rows in ((share, own), (1 - share, other)):
                each = mass[rows] / mass[rows].sum()
                slope += part * each[:, None] * (z - goals[rows])
            W -= RATE * mixed.T @ slope
            b -= RATE * slope.sum(axis=0)
        trainer.run_epoch()
    found = trainer.model.arrays()
    np.testing.assert_allclose(found["dense_1.W"], W, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["dense_1.b"], b, rtol=1e-6, atol=1e-9)


def test_without_it_nothing_changes_and_with_it_much() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, 4)).astype(np.float32), rng.integers(0, 3, ROWS).astype(np.int32)
    ends = []
    for options in ({}, {"mixup": 0.0}, {"mixup": ALPHA}):
        trainer = trainer_of("numpy", "cross_entropy", x, y, None, **options)
        trainer.run_epoch()
        ends.append(trainer.model.arrays()["dense_1.W"])
    assert np.array_equal(ends[0], ends[1])
    assert not np.allclose(ends[0], ends[2])


def test_a_mixed_batch_in_shards_is_the_same_batch(task: Callable[..., Loaded]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, 4)).astype(np.float32), rng.integers(0, 3, ROWS).astype(np.int32)
    ends = []
    for shards in (1, 4):
        trainer = trainer_of("numpy", "cross_entropy", x, y, None, mixup=ALPHA, shards=shards)
        for _ in range(2):
            report = trainer.run_epoch()
        ends.append((trainer.model.arrays()["dense_1.W"], report.loss if report else 0.0))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-12)
    assert ends[0][1] == pytest.approx(ends[1][1])
    with pytest.raises(ConfigError, match="mixup"):
        task("training.mixup=-1")

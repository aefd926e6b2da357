"""Batches in shards: what they are worth beside whole batches, and that ranks change no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ranks.threads import by_threads
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.data import Dataset
from gpumlp.nn import BatchNorm, Dense, Dropout, Loss, Sequential
from gpumlp.ops.random import permute
from gpumlp.optim import OPTIMIZERS, Optimizer, Schedule
from gpumlp.ranks import Ranks
from gpumlp.training.trainer import Trainer


def train(
    ranks: Ranks | None = None,
    backend: str = "numpy",
    *,
    shards: int = 4,
    rows: int = 50,
    batch: int = 16,
    dropout: float = 0.2,
    norm: bool = True,
    weights: str = "",
    optimizer: str = "adamw",
    dtype: Any = np.float32,
    epochs: int = 2,
    **options: Any,
) -> tuple[Any, ...]:
    """Return weights, state and average, losses and hits after two epochs on random rows."""
    rng = np.random.default_rng(3)
    counts = rng.random(rows, np.float32) if "rows" in weights else None
    labels = rng.integers(0, 3, rows).astype(np.int32)
    data = Dataset(rng.standard_normal((rows, 5)).astype(np.float32), labels, counts)
    layers = [Dense(8, "tanh"), Dropout(dropout), *([BatchNorm()] if norm else []), Dense(3, "softmax")]
    made = Backend() if backend == "numpy" else backends.get(backend)
    model = Sequential(layers).build(5, backend=made, dtype=dtype)
    loss = Loss("cross_entropy", model, class_weights=[0.5, 1.0, 3.0] if "classes" in weights else None)
    update = Optimizer(optimizer, model.parameters, model.context.clock, **options)
    schedule = Schedule("cosine", learning_rate=1e-2, warmup=0.1)
    more = {"epochs": epochs, "batch_size": batch, "shards": shards, "ranks": ranks}
    trainer = Trainer(model, loss, update, schedule, data, **more)
    reports = [trainer.run_epoch() for _ in range(epochs)]
    losses = [(report.loss, report.accuracy) for report in reports if report]
    kept = model.arrays() | {name: made.to_host(array) for name, array in update.state.items()}
    return losses, {name: array.tobytes() for name, array in kept.items()}, kept


CASES: dict[str, dict[str, Any]] = {
    "short last batch": {},
    "fewer rows than shards": {"rows": 3, "norm": False},
    "last batch of fewer rows than shards": {"rows": 34},
    "last batch with a shard of one row": {"rows": 37},
    "row weights": {"weights": "rows"},
    "class weights": {"weights": "classes"},
    "both weights, clipping and averages": {"weights": "rows, classes", "clip_norm": 0.05, "averaging": 0.9},
    "a batch that does not divide": {"batch": 13},
    "eight shards": {"shards": 8, "batch": 24},
    "float64": {"dtype": np.float64},
    "bfloat16": {"dtype": "bfloat16"},
    **{name: {"optimizer": name} for name in OPTIMIZERS},
}


@pytest.mark.parametrize("case", CASES)
def test_ranks_change_no_bit(case: str) -> None:
    if CASES[case].get("dtype") == "bfloat16":
        pytest.importorskip("ml_dtypes")
    losses, bits, _ = train(**CASES[case])
    assert np.isfinite(losses).all()
    for size in (2, 4):
        for other in by_threads(size, lambda ranks: train(ranks, **CASES[case])):
            assert other[:2] == (losses, bits)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_shards(backend: str) -> None:
    """A captured step replays what the first one did, and other backends agree with NumPy."""
    losses, bits, kept = train(backend=backend, epochs=3)
    expected = train(epochs=3)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    for name, array in kept.items():
        np.testing.assert_allclose(array, expected[2][name], rtol=1e-3, atol=1e-5)
    if backend == "native":
        assert [other[:2] for other in by_threads(2, lambda ranks: train(ranks, backend, epochs=3))] == [
            (losses, bits)
        ] * 2


@pytest.mark.parametrize("case", [name for name, options in CASES.items() if "dtype" not in options])
def test_shards_are_worth_what_the_batch_is(case: str) -> None:
    """In exact arithmetic the gradient is the same; only batch norm, of each shard, is another."""
    options = CASES[case] | {"norm": False, "dtype": np.float64}
    losses, _, kept = train(**options)
    expected, _, wanted = train(**options | {"shards": 1})
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for name, array in kept.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [16, 14, 13])
def test_batch_norm_remembers_the_mean_of_the_shards(rows: int) -> None:
    """A shard counts by its rows; one of a single row, which has no variance, for nothing."""
    model = Sequential([BatchNorm(momentum=1.0), Dense(1)]).build(3, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((rows, 3))
    update = Optimizer("sgd", model.parameters, model.context.clock)
    loss, schedule = Loss("squared_error", model), Schedule("constant", learning_rate=0.1)
    trainer = Trainer(model, loss, update, schedule, Dataset(x, x[:, 0], None), epochs=1, batch_size=16, shards=4)
    order = permute(np, np.arange(rows), rows, np.array([0]), trainer._key)
    assert trainer.shards is not None
    parts = [x[order[part]] for part in trainer.shards.parts(rows) if len(part) > 1]
    trainer.run_epoch()
    share = [len(part) / sum(map(len, parts)) for part in parts]
    mean = sum(s * part.mean(axis=0) for s, part in zip(share, parts, strict=True))
    variance = sum(s * part.var(axis=0, ddof=1) for s, part in zip(share, parts, strict=True))
    np.testing.assert_allclose(model.arrays()["batchnorm_1.mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(model.arrays()["batchnorm_1.variance"], variance, rtol=1e-12)

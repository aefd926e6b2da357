"""First weights that are fitted to rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.config import Loaded
from gpumlp.nn import NORMS, Architecture, Hidden, Sequential, fit_start, mlp
from gpumlp.nn.start import MAX_START_ROWS, draw_rows
from gpumlp.training.build import build, load_data

SHAPE = Architecture((Hidden(30, "selu", dropout=0.5), Hidden(20, "mish")), "data", "ntk", trained_activation=True)


def started(rows: np.ndarray, shape: Architecture = SHAPE, seed: int = 0, **how: Any) -> Sequential:
    """Return a network whose first weights are fitted to rows."""
    model = mlp(shape, 3, "softmax").build(rows.shape[1], seed=seed, **how)
    fit_start(model, mlp(shape, 3, "softmax").build(rows.shape[1], seed=seed, dtype=np.float64), rows, seed)
    return model


def before(model: Sequential, rows: np.ndarray) -> list[np.ndarray]:
    """Return what each linear layer makes of the rows without its bias: the reference, in plain NumPy."""
    arrays = {name: array.astype(np.float64) for name, array in model.arrays().items()}
    x, found = rows, []
    for number, function in enumerate((selu, mish, None), 1):
        u = x @ arrays[f"dense_{number}.W"]
        found.append(u)
        z = u + arrays[f"dense_{number}.b"]
        x = z if function is None else function(z)
    return found


def selu(z: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0)))


def mish(z: np.ndarray) -> np.ndarray:
    return z * np.tanh(np.logaddexp(0, z))


ROWS = np.random.default_rng(0).normal(3.0, [0.1, 1, 10, 1, 1], (400, 5))


def test_each_unit_varies_by_one_and_its_kink_is_among_the_rows() -> None:
    model = started(ROWS)
    arrays = model.arrays()
    for number, u in enumerate(before(model, ROWS), 1):
        np.testing.assert_allclose(u.std(axis=0), 1.0, rtol=1e-4)
        kink = -arrays[f"dense_{number}.b"]
        assert (kink > u.min(axis=0)).all()
        assert (kink < u.max(axis=0)).all()
        assert len(np.unique(kink)) == len(kink)
    # Shares of five rows, exponential and normalised: the mean of the rows, and of variance Σ λ² = 2 / (5 + 1).
    u = before(many := started(ROWS, Architecture((Hidden(4000, "selu"), Hidden(1, "mish")), "data")), ROWS)[0]
    place = (-many.arrays()["dense_1.b"] - u.mean(axis=0)) / u.std(axis=0)
    assert place.mean() == pytest.approx(0.0, abs=0.04)
    assert place.var() == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_starts_equal(name: str) -> None:
    one, other = started(ROWS), started(ROWS, backend=backends.get(name))
    for key, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[key])
    again, another = started(ROWS, seed=5), started(ROWS, seed=6)
    assert not np.array_equal(again.arrays()["dense_2.b"], another.arrays()["dense_2.b"])


@pytest.mark.parametrize("norm", NORMS)
def test_rows_without_any_variation(norm: str) -> None:
    rows = np.repeat(ROWS[:1], 7, axis=0)
    for some in (rows, rows[:1], 0 * rows):
        shape = Architecture((Hidden(6, "relu", norm=norm), Hidden(4)), "data", input_factors=True)
        model = started(some, shape)
        plain = mlp(shape, 3, "softmax").build(5).arrays()
        for name, array in model.arrays().items():
            assert np.isfinite(array).all()
            if name.endswith(".W"):
                np.testing.assert_allclose(array, plain[name], rtol=1e-6)


def test_a_constant_input_counts_for_nothing() -> None:
    rows = np.column_stack([ROWS, np.full(len(ROWS), 1e6)])
    model = started(rows)
    np.testing.assert_allclose(before(model, rows)[0].std(axis=0), 1.0, rtol=1e-3)


def test_rows_are_drawn_by_the_seed() -> None:
    some = np.arange(0, 3 * MAX_START_ROWS, 3)
    np.testing.assert_array_equal(draw_rows(some, 1), some)
    drawn = draw_rows(np.arange(10 * MAX_START_ROWS), 1)
    assert len(np.unique(drawn)) == MAX_START_ROWS
    assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(drawn, draw_rows(np.arange(10 * MAX_START_ROWS), 2))


def test_a_run_starts_from_its_training_rows(task: Callable[..., Loaded]) -> None:
    loaded = task("model.initializer=data", "model.hidden=[30, 20]", "data.weights=w", "data.drop=[]")
    data = load_data(loaded)
    parts = build(loaded.settings, data)
    inputs = data.train.features.expanded().astype(np.float64)
    arrays = parts.model.arrays()
    np.testing.assert_allclose((inputs @ arrays["dense_1.W"]).std(axis=0), 1.0, rtol=1e-4)
    assert (arrays["dense_3.b"] != 0).all()
    # Rows of no weight count for nothing.
    weights = np.where(np.arange(len(inputs)) % 2, 0.0, data.train.weights).astype(np.float32)
    object.__setattr__(data.train, "weights", weights)
    W = build(loaded.settings, data).model.arrays()["dense_1.W"]
    np.testing.assert_allclose((inputs[::2] @ W).std(axis=0), 1.0, rtol=1e-4)

"""First weights that depend on rows: each unit varies by 1 on them, and its kink lies among them.

Source: Holzmüller et al. 2024, "RealMLP", arXiv:2407.04491, section "data-dependent initialization" ("he+5").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.nn.initializers import Values
from gpumlp.nn.layers import Dense
from gpumlp.nn.model import Sequential
from gpumlp.seeds import START, generator

MAX_START_ROWS = 2048
"""Rows that are looked at: the deviation of a unit is then known to 2 %."""
ROWS_OF_A_BIAS = 5
MIN_DEVIATION_SHARE = 1e-12
"""Deviation of a unit, as a share of its largest value, below which it counts as constant."""


def draw_rows(candidates: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Return the numbers of the rows that first weights are fitted to, rising: all, or ``MAX_START_ROWS``."""
    if len(candidates) <= MAX_START_ROWS:
        return candidates
    return np.sort(generator(seed, START).choice(candidates, MAX_START_ROWS, replace=False))


def fit_start(model: Sequential, twin: Sequential, rows: Values, seed: int) -> None:
    """Give the linear layers of a model first weights and biases that suit the rows.

    Parameters
    ----------
    model
        A built network that has not been trained.
    twin
        The same network, built in float64 on the reference backend: it computes, so that every backend starts equal.
    rows : (n, p) float64
        Inputs, as the network takes them.
    seed
        Seed of what is drawn.
    """
    twin.load(model.arrays())
    x = Tensor(rows, twin.context.backend)
    outputs = twin.outputs(x)
    for index, layer in enumerate(twin.chain):
        if isinstance(layer, Dense):
            _fit(layer, x.numpy(), generator(seed, START, index))
        x = next(outputs)
    model.load(twin.arrays())


def _fit(layer: Dense, x: Values, rng: np.random.Generator) -> None:
    W = layer.weights["W"].numpy()
    values = x @ W
    deviation = values.std(axis=0)
    deviation = np.where(deviation > MIN_DEVIATION_SHARE * np.abs(values).max(axis=0, initial=0.0), deviation, 1.0)
    deviation /= 2.0**0.5 if layer.of_two else 1.0
    layer.weights["W"].assign(W / deviation)
    if "b" in layer.offsets:
        chosen = rng.integers(len(x), size=(ROWS_OF_A_BIAS, layer.units))
        shares = rng.exponential(size=chosen.shape)
        shares /= shares.sum(axis=0)
        layer.offsets["b"].assign(-(shares * np.take_along_axis(values / deviation, chosen, axis=0)).sum(axis=0))

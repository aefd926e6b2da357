"""Networks in bfloat16 against PyTorch's: weights in float32, read as bfloat16, activations bfloat16.

PyTorch adds a bias before it rounds a product, and rounds the gradients of weights, which are float32 here. Both
round what they store by at most u = 2^-8 of its size. What a gradient goes through is stored two or three times on
either side, with errors of any sign, so that two gradients differ by a few u of their size. Where the slope of an
activation jumps, at the kink of relu, rounding may turn a unit on or off; there only whole runs are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

import torch

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.optim import Optimizer

U = 2.0**-8
ROWS, WIDTHS, ACTIVATIONS = (
    64,
    (20, 48, 32, 6),
    {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "relu": torch.relu},
)


def data(steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(11)
    centres = rng.standard_normal((WIDTHS[-1], WIDTHS[0]))
    labels = rng.integers(0, WIDTHS[-1], (steps, ROWS))
    return [((centres[y] + rng.standard_normal((ROWS, WIDTHS[0]))).astype(np.float32), y) for y in labels]


def ours(activation: str, dtype: Any) -> Sequential:
    layers = [*(Dense(width, activation) for width in WIDTHS[1:-1]), Dense(WIDTHS[-1])]
    return Sequential(layers).build(WIDTHS[0], dtype=dtype, seed=4)


def gradients(model: Sequential, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    p = model.parameters
    with GradientTape() as tape:
        value, _ = Loss("cross_entropy", model)(model.forward(Tensor(x.astype(model.context.dtype))), y)
    p.collect(tape, value)
    return float(value), [view.copy() for view in p.views]


def theirs(model: Sequential) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.from_numpy(a.copy())) for name, a in model.arrays().items()}


def loss_of(parameters: dict[str, torch.nn.Parameter], activation: str, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    h = torch.from_numpy(x).bfloat16()
    for number in range(1, len(WIDTHS)):
        W, b = (parameters[f"dense_{number}.{part}"].bfloat16() for part in ("W", "b"))
        h = torch.nn.functional.linear(h, W.T, b)
        h = ACTIVATIONS[activation](h) if number < len(WIDTHS) - 1 else h
    return torch.nn.functional.cross_entropy(h.float(), torch.from_numpy(y))


def apart(one: Any, other: Any) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_gradients(activation: str) -> None:
    ((x, y),) = data(1)
    model, exact = ours(activation, "bfloat16"), ours(activation, np.float64)
    # What both begin with is rounded already: it is what is computed from it that is compared.
    exact.load({n: v.shadow.astype(np.float64) for n, v in model.parameters.variables.items()})
    model.load(exact.arrays())
    parameters = theirs(model)
    loss_of(parameters, activation, x, y).backward()
    _, found = gradients(model, x, y)
    _, wanted = gradients(exact, x.astype(model.context.dtype), y)
    for name, one, best in zip(model.parameters.variables, found, wanted, strict=True):
        torchs = parameters[name].grad.numpy()
        assert apart(one, best) < 3 * U
        assert apart(one, torchs) < 4 * U
        assert apart(one, best) < 1.5 * apart(torchs, best)  # what is not rounded again is rather nearer
        assert apart(one, best) > U / 100


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training(activation: str) -> None:
    steps = data(40)
    model = ours(activation, "bfloat16")
    parameters = theirs(model)
    optimizer = Optimizer("adam", model.parameters, model.context.clock, learning_rate=3e-3)
    judge = torch.optim.Adam(parameters.values(), lr=3e-3)
    found, expected = [], []
    for x, y in steps:
        found.append(gradients(model, x, y)[0])
        optimizer.step()
        judge.zero_grad()
        loss = loss_of(parameters, activation, x, y)
        loss.backward()
        judge.step()
        expected.append(loss.item())
    np.testing.assert_allclose(found, expected, rtol=4 * U)
    assert found[-1] < 0.5 * found[0]
    for name, array in model.arrays().items():
        assert apart(array, parameters[name].detach().numpy()) < 8 * U

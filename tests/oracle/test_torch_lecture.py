"""The lecture's two examples of a gradient tape, and weights to and from PyTorch, with PyTorch as the judge."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

import torch

import gpumlp as gp
from gpumlp import convert
from gpumlp.backend import Backend
from gpumlp.nn import Activation, BatchNorm, Dense, LayerNorm, Sequential

RNG = np.random.default_rng(0)
x = RNG.standard_normal((10, 3))
W_values, V_values = RNG.standard_normal((3, 3)), RNG.standard_normal((3, 3))
b_values, c_values = RNG.standard_normal(3), RNG.standard_normal(3)
WEIGHTS = RNG.standard_normal((10, 3))
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def theirs(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def compare(ours: list[gp.Tensor], sources: list[torch.Tensor], total: torch.Tensor) -> None:
    for a, b in zip(ours, torch.autograd.grad(total, sources), strict=True):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.numpy(), b.numpy(), **EXACT)


def test_one_layer_as_written() -> None:
    W = gp.Variable(W_values)
    b = gp.Variable(b_values)
    with gp.GradientTape() as tape:
        f = gp.softmax(x @ W + b)
    dW, db = tape.gradient(f, [W, b])

    W_, b_ = theirs(W_values, b_values)
    compare([dW, db], [W_, b_], torch.softmax(torch.tensor(x) @ W_ + b_, dim=-1).sum())
    # The rows of a softmax add up to 1 whatever W and b are, so these gradients are 0: no proof by themselves.
    np.testing.assert_allclose(dW.numpy(), 0, atol=1e-14)


@pytest.mark.parametrize("what", ["sum", "first class", "weighted"])
def test_one_layer(backend: Backend, what: str) -> None:
    W, b = gp.Variable(W_values, backend), gp.Variable(b_values, backend)
    W_, b_ = theirs(W_values, b_values)
    f_ = torch.softmax(torch.tensor(x) @ W_ + b_, dim=-1)
    with gp.GradientTape() as tape:
        f = gp.softmax(x @ W + b)
        first = f[:, 0]
    assert f.shape == (10, 3)
    np.testing.assert_allclose(f.numpy(), f_.detach().numpy(), **EXACT)
    if what == "sum":
        compare(tape.gradient(f, [W, b]), [W_, b_], f_.sum())
    elif what == "first class":
        compare(tape.gradient(first, [W, b]), [W_, b_], f_[:, 0].sum())
    else:
        weights = gp.Tensor(WEIGHTS, backend)
        compare(tape.gradient(f, [W, b], weights), [W_, b_], (f_ * torch.tensor(WEIGHTS)).sum())


@pytest.mark.parametrize("last", ["identity", "softmax"])
def test_two_layers_with_relu(backend: Backend, last: str) -> None:
    W, b = gp.Variable(W_values, backend), gp.Variable(b_values, backend)
    V, c = gp.Variable(V_values, backend), gp.Variable(c_values, backend)
    with gp.GradientTape() as tape:
        h = gp.relu(x @ W + b)
        z = h @ V + c
        f = z if last == "identity" else gp.softmax(z)
    sources = theirs(W_values, b_values, V_values, c_values)
    W_, b_, V_, c_ = sources
    h_ = torch.relu(torch.tensor(x) @ W_ + b_)
    z_ = h_ @ V_ + c_
    if last == "identity":
        compare(tape.gradient(f, [W, b, V, c]), sources, z_.sum())
    else:
        total = (torch.softmax(z_, dim=-1) * torch.tensor(WEIGHTS)).sum()
        compare(tape.gradient(f, [W, b, V, c], gp.Tensor(WEIGHTS, backend)), sources, total)
    assert 0 < (h.numpy() == 0).sum() < h.size  # both sides of the kink


def test_the_same_with_the_layers_of_gpumlp_in_float32(backend: Backend) -> None:
    """x (10, 3) as a list of lists, as in a notebook; the tape watches what a Dense layer makes."""
    layer = Dense(3, "softmax")
    layer(gp.Tensor(x.tolist(), backend))
    W, b = layer.weights["W"], layer.offsets["b"]
    with gp.GradientTape() as tape:
        f = layer(gp.Tensor(x.tolist(), backend))
        target = f[:, 1]
    assert f.dtype == np.float32
    W_, b_ = theirs(W.numpy(), b.numpy())
    f_ = torch.softmax(torch.tensor(x, dtype=torch.float32) @ W_ + b_, dim=-1)
    for a, e in zip(tape.gradient(target, [W, b]), torch.autograd.grad(f_[:, 1].sum(), [W_, b_]), strict=True):
        np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=1e-5, atol=1e-6)


# ---- weights there and back ----------------------------------------------------------------------


def test_a_state_dict_there_and_back(backend: Backend) -> None:
    nn = torch.nn
    torch.manual_seed(0)
    judge = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(),
        nn.Linear(5, 3),
    ).double()  # fmt: skip
    rows = torch.tensor(RNG.standard_normal((20, 4)))
    judge(rows)  # gives batch norm averages that are not 0 and 1
    judge.eval()
    layers = [Dense(6), BatchNorm(), Activation("relu"), Dense(5), LayerNorm(), Activation("tanh"), Dense(3)]
    model = Sequential(layers).build(4, backend=backend, dtype=np.float64)
    convert.read(model, judge.state_dict(), "pytorch")
    outputs = judge(rows).detach().numpy()
    np.testing.assert_allclose(model(rows.numpy()).numpy(), outputs, rtol=1e-11, atol=1e-13)

    other = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)
    )
    written = convert.write(model, "pytorch", layers=["0", "1", "3", "4", "6"])
    other.double().load_state_dict({name: torch.from_numpy(array) for name, array in written.items()})
    np.testing.assert_array_equal(other.eval()(rows).detach().numpy(), outputs)


def test_parameters_that_still_belong_to_a_graph_are_refused_with_the_mend() -> None:
    layer = torch.nn.Linear(4, 3)
    with pytest.raises(gp.convert.ShapeError, match=r"weight of 'fc' cannot be read as an array.*detach"):
        convert.read(
            Sequential([Dense(3)]).build(4), {f"fc.{name}": p for name, p in layer.named_parameters()}, "pytorch"
        )

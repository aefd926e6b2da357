"""Whole training runs, captured, against PyTorch from the same weights and batches.

In float64 the two agree to 1e-11 over fifty steps: the mathematics is the same. In float32 only rounding
differs (another order of sums, another library of exp and tanh); it is fed back through fifty steps, and a loss
is compared to 2e-5 of its size. Each run asserts that the loss moved, too.

One thing cannot be compared in float32: a bias before a batch norm has no influence and a gradient of pure
rounding, which Adam, dividing by its size, turns into steps of full length. The loss does not see it, but the
running mean does; see ``test_norms``.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'oracle': pip install gpumlp[oracle]")

import torch

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.nn import Activation, BatchNorm, Dense, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS
from gpumlp.optim import OPTIMIZERS, Optimizer

STEPS, ROWS, WIDTH, CLASSES = 50, 16, 6, 4
TOLERANCES = {np.float64: 1e-11, np.float32: 2e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES)

TORCH_ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "leaky_relu": lambda: torch.nn.LeakyReLU(0.01),
    "elu": torch.nn.ELU,
    "selu": torch.nn.SELU,
    "gelu": torch.nn.GELU,  # exact, not the tanh approximation
    "silu": torch.nn.SiLU,
    "mish": torch.nn.Mish,
    "sigmoid": torch.nn.Sigmoid,
    "tanh": torch.nn.Tanh,
    "softplus": torch.nn.Softplus,
    "softmax": lambda: torch.nn.Softmax(dim=-1),
}
DECAY = 0.05
TORCH_OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.02),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(
        [
            {"params": [v for v in p if v.ndim == 2], "weight_decay": DECAY},
            {"params": [v for v in p if v.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    ),
}


class TorchMuon:
    """Muon in the dtype of the parameters (PyTorch's own multiplies in bfloat16), and AdamW for the rest."""

    def __init__(self, parameters, rate=0.01, momentum=0.95, others=0.1, decay=0.01):
        matrices = [p for p in parameters if p.ndim == 2]
        self.hidden, self.rate, self.momentum, self.decay = matrices[:-1], rate, momentum, decay
        self.velocity = [torch.zeros_like(p) for p in self.hidden]
        rest = [p for p in parameters if all(p is not each for each in self.hidden)]
        groups = [{"params": [p for p in rest if p.ndim == n], "weight_decay": decay * (n == 2)} for n in (1, 2)]
        self.adamw = torch.optim.AdamW(groups, lr=rate * others)
        self.param_groups = [{"lr": rate}]

    def zero_grad(self):
        for p in self.hidden:
            p.grad = None
        self.adamw.zero_grad()

    @torch.no_grad()
    def step(self):
        self.adamw.step()
        for p, velocity in zip(self.hidden, self.velocity, strict=True):  # (outputs, inputs)
            velocity.lerp_(p.grad, 1 - self.momentum)
            x = p.grad.lerp(velocity, self.momentum)
            x = x / (x.norm() + 1e-7)
            x = x.T if len(p) > p.shape[1] else x
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
            x = x.T if len(p) > p.shape[1] else x
            p.mul_(1 - self.rate * self.decay).sub_(self.rate * max(1, len(p) / p.shape[1]) ** 0.5 * x)


class TorchScheduleFree:
    """Schedule-free AdamW (Defazio et al. 2024) by its three sequences; PyTorch has none."""

    def __init__(self, parameters, rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, decay=0.01):
        self.y, self.rate, self.decay = parameters, rate, decay
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.x, self.z = ([p.detach().clone() for p in parameters] for _ in range(2))
        self.v = [torch.zeros_like(p) for p in parameters]
        self.steps = 0
        self.param_groups = [{"lr": rate}]

    def zero_grad(self):
        for p in self.y:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for y, x, z, v in zip(self.y, self.x, self.z, self.v, strict=True):
            v.lerp_(y.grad**2, 1 - self.beta2)
            d = y.grad / ((v / (1 - self.beta2**self.steps)).sqrt() + self.epsilon)
            z.sub_(self.rate * (d + self.decay * (y.ndim == 2) * y))
            x.lerp_(z, 1 / self.steps)  # c = rate² / the sum of all of them
            y.copy_((1 - self.beta1) * z + self.beta1 * x)


TORCH_OPTIMIZERS["muon"] = TorchMuon
TORCH_OPTIMIZERS["schedule_free"] = TorchScheduleFree


def ours(activation, norm, outputs):
    """Two hidden layers; the normalisation stands between the first product and its activation."""
    norms = {None: [], "layer": [LayerNorm()], "batch": [BatchNorm()]}[norm]
    return Sequential([Dense(12), *norms, Activation(activation), Dense(10, activation), Dense(outputs)])


def theirs(model, activation, norm, outputs, dtype):
    """The same network in PyTorch, with our weights."""
    function = TORCH_ACTIVATIONS[activation]
    norms = {None: [], "layer": [torch.nn.LayerNorm(12)], "batch": [torch.nn.BatchNorm1d(12)]}[norm]
    layers = [torch.nn.Linear(WIDTH, 12), *norms, function(), torch.nn.Linear(12, 10), function()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(10, outputs)).to(getattr(torch, np.dtype(dtype).name))
    arrays = model.arrays()
    linears = [m for m in network if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for number, linear in enumerate(linears, 1):
            linear.weight.copy_(torch.from_numpy(arrays[f"dense_{number}.W"].T.copy()))
            linear.bias.copy_(torch.from_numpy(arrays[f"dense_{number}.b"]))
    return network


def batches(dtype, kind, outputs):
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((CLASSES, WIDTH)) * 1.5
    made = []
    for _ in range(5):
        labels = rng.integers(0, CLASSES, ROWS)
        x = centres[labels] + rng.standard_normal((ROWS, WIDTH))
        y = {
            "labels": labels,
            "binary": (rng.random((ROWS, outputs)) < 0.3 + 0.4 * (labels[:, None] > 1)).astype(dtype),
            "numbers": (np.sin(x[:, :outputs]) * 2 + rng.standard_normal((ROWS, outputs))).astype(dtype),
        }[kind]
        made.append((x.astype(dtype), y))
    return made


def run_ours(model, loss, optimizer, data):
    backend, parameters = model.context.backend, model.parameters

    def step(x, y):
        with GradientTape() as tape:
            value, _ = loss(model.forward(Tensor(x, backend), training=True), y)
        parameters.collect(tape, value)
        optimizer.step()
        return value

    plan = backend.capture(step, *data[0])
    losses = [float(plan.result)]
    losses += [float(plan(*data[t % len(data)])) for t in range(1, STEPS)]
    return np.array(losses)


def run_theirs(network, loss, optimizer, data, clip=None):
    losses = []
    for t in range(STEPS):
        x, y = (torch.from_numpy(a) for a in data[t % len(data)])
        optimizer.zero_grad()
        value = loss(network(x), y)
        value.backward()
        if clip is not None:  # as clip_grad_norm_, which adds 1e-6 to the norm
            gradients = [p.grad for p in network.parameters()]
            norm = torch.linalg.vector_norm(torch.cat([g.ravel() for g in gradients]))
            for g in gradients:
                g.mul_(min(1.0, clip / norm.item()))
        optimizer.step()
        losses.append(value.item())
    return np.array(losses)


def compare(
    dtype, *, activation="tanh", optimizer="adam", norm=None, loss="cross_entropy", torch_loss=None, kind="labels",
    outputs=CLASSES, clip=None, **settings,
):  # fmt: skip
    """Train both, compare the losses of all steps and the weights at the end; return our model and theirs."""
    model = ours(activation, norm, outputs).build(WIDTH, backend=Backend(), dtype=dtype, seed=3)
    network = theirs(model, activation, norm, outputs, dtype)
    decay = {"weight_decay": DECAY} if optimizer == "adamw" else {}
    their_optimizer = TORCH_OPTIMIZERS[optimizer](list(network.parameters()))
    rate = their_optimizer.param_groups[0]["lr"]
    our_optimizer = Optimizer(
        optimizer, model.parameters, model.context.clock, learning_rate=rate, clip_norm=clip, **decay
    )
    data = batches(dtype, kind, outputs)
    a = run_ours(model, Loss(loss, model, **settings), our_optimizer, data)
    b = run_theirs(network, torch_loss or torch.nn.functional.cross_entropy, their_optimizer, data, clip)
    assert len(a) == STEPS
    assert abs(b[-5:].mean() - b[:5].mean()) > 1e-3 * b[0]  # something was learned
    np.testing.assert_allclose(a, b, rtol=TOLERANCES[dtype])
    return model, network


def test_the_maps_are_complete():
    assert set(TORCH_ACTIVATIONS) == set(ACTIVATIONS)
    assert set(TORCH_OPTIMIZERS) == set(OPTIMIZERS)


@DTYPES
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer, dtype):
    compare(dtype, optimizer=optimizer)


@DTYPES
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_with_clipping(optimizer, dtype):
    compare(dtype, optimizer=optimizer, clip=0.3)


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    compare(dtype, activation=activation, optimizer="momentum")


@DTYPES
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms(norm, optimizer, dtype):
    model, network = compare(dtype, norm=norm, optimizer=optimizer)
    tolerance = {"rtol": TOLERANCES[dtype] * 10, "atol": TOLERANCES[dtype] * 10}
    arrays = model.arrays()
    theirs = next(m for m in network if isinstance(m, torch.nn.LayerNorm | torch.nn.BatchNorm1d))
    name = f"{norm}norm_1"
    np.testing.assert_allclose(arrays[f"{name}.gain"], theirs.weight.detach(), **tolerance)
    if norm == "batch" and (optimizer, dtype) != ("adamw", np.float32):
        np.testing.assert_allclose(arrays[f"{name}.mean"], theirs.running_mean, **tolerance)
        np.testing.assert_allclose(arrays[f"{name}.variance"], theirs.running_var, **tolerance)
        network.eval()
        x, _ = batches(dtype, "labels", CLASSES)[0]
        with torch.no_grad():
            outputs = model.forward(Tensor(x, model.context.backend)).numpy()
            np.testing.assert_allclose(outputs, network(torch.from_numpy(x)), **tolerance)


CLASS_WEIGHTS = [0.5, 1.0, 2.0, 4.0]


def _torch_weights(z):
    return torch.tensor(CLASS_WEIGHTS, dtype=z.dtype)


LOSSES = {
    "cross entropy, smoothed": (
        {"label_smoothing": 0.1},
        lambda z, y: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1),
    ),
    "cross entropy, weighted": (
        {"class_weights": CLASS_WEIGHTS},
        lambda z, y: torch.nn.functional.cross_entropy(z, y, weight=_torch_weights(z)),
    ),
    "cross entropy, both": (
        # PyTorch divides by the weight of each row's class alone, we by all mass, smoothed mass included
        {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.1},
        lambda z, y: (
            torch.nn.functional.cross_entropy(z, y, weight=_torch_weights(z), label_smoothing=0.1, reduction="sum")
            / (0.9 * _torch_weights(z)[y] + 0.1 * _torch_weights(z).mean()).sum()
        ),
    ),
    "binary": (
        {"outputs": 1, "kind": "binary"},
        torch.nn.functional.binary_cross_entropy_with_logits,
    ),
    "binary, weighted": (
        {"outputs": 1, "kind": "binary", "class_weights": [1.0, 3.0]},
        lambda z, y: (
            torch.nn.functional.binary_cross_entropy_with_logits(
                z, y, pos_weight=torch.tensor(3.0, dtype=z.dtype), reduction="sum"
            )
            / (1 + 2 * y).sum()
        ),
    ),
    "squared": ({"loss": "squared_error", "outputs": 3, "kind": "numbers"}, torch.nn.functional.mse_loss),
    "absolute": ({"loss": "absolute_error", "outputs": 3, "kind": "numbers"}, torch.nn.functional.l1_loss),
    "huber": (
        {"loss": "huber", "outputs": 3, "kind": "numbers", "delta": 0.7},
        lambda z, y: torch.nn.functional.huber_loss(z, y, delta=0.7),
    ),
    "quantile": (
        {"loss": "quantile", "outputs": 3, "kind": "numbers", "levels": [0.1, 0.5, 0.8]},
        lambda z, y: torch.maximum(
            (q := torch.tensor([0.1, 0.5, 0.8], dtype=z.dtype)) * (y - z), (q - 1) * (y - z)
        ).mean(),
    ),
}


@DTYPES
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, dtype):
    settings, torch_loss = LOSSES[name]
    compare(dtype, torch_loss=torch_loss, optimizer="momentum", **settings)

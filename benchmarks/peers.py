"""The same training step here and in other libraries: what `benchmarks/train.py` compares.

Each peer takes a workload and the kind of device ("cpu" or "gpu"), and returns a function that trains for one epoch
and returns its mean loss. Float32 but for `bf16`, Adam with rate 1e-3, the same rows and first weights, an order anew
in each epoch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp import backend
from gpumlp.data import Dataset
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops.precision import BFLOAT16
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training import Trainer

RATE = 1e-3
SEED = 0
"""Of the orders of rows: an unlucky one moves the loss of a second epoch by a third."""


@dataclass(frozen=True)
class Work:
    """A network and its data. ``widths`` are inputs, hidden layers, classes."""

    rows: int
    widths: tuple[int, ...]
    activation: str
    batch: int

    def data(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return normal inputs, and labels that a random linear rule gives them."""
        rng = np.random.default_rng(0)
        rows = self.rows // self.batch * self.batch
        x = rng.standard_normal((rows, self.widths[0]), np.float32)
        rule = rng.standard_normal((self.widths[0], self.widths[-1]), np.float32)
        return x, (x @ rule).argmax(axis=1).astype(np.int32)


WORK = {
    "tiny": Work(1797, (64, 32, 10), "tanh", 32),
    "mnist": Work(60000, (784, 256, 10), "relu", 128),
    "tabular": Work(100000, (54, 256, 256, 256, 7), "relu", 256),
    "wide": Work(16384, (784, 1024, 1024, 10), "relu", 1024),
    "optimizer": Work(4096, (784, 1024, 1024, 10), "relu", 64),
}

Epoch = Callable[[], float]
"""Trains for one epoch and returns its mean training loss."""


def weights(work: Work) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return Glorot-uniform weights and zero biases of each layer."""
    rng = np.random.default_rng(1)
    made = []
    for i, o in zip(work.widths, work.widths[1:], strict=False):
        limit = (6.0 / (i + o)) ** 0.5
        made.append((rng.uniform(-limit, limit, (i, o)).astype(np.float32), np.zeros(o, np.float32)))
    return made


def gpumlp(work: Work, device: str, dtype: str = "float32") -> Epoch:
    x, y = work.data()
    hidden = [Dense(units, work.activation) for units in work.widths[1:-1]]
    model = Sequential([*hidden, Dense(work.widths[-1], "softmax")])
    model.build(work.widths[0], backend=backend.get("cupy" if device == "gpu" else "auto"), dtype=dtype)
    for number, (W, b) in enumerate(weights(work), 1):
        model.parameters.variables[f"dense_{number}.W"].assign(W)
        model.parameters.variables[f"dense_{number}.b"].assign(b)
    trainer = Trainer(
        model,
        Loss("cross_entropy", model),
        Optimizer("adam", model.parameters, model.context.clock, learning_rate=RATE),
        Schedule("constant", learning_rate=RATE),
        Dataset(x, y, None),
        epochs=10**6,
        batch_size=work.batch,
    )

    def run() -> float:
        report = trainer.run_epoch()
        assert report is not None  # nobody pauses it
        return report.loss

    return run


def plain(work: Work, device: str) -> Epoch:
    os.environ["GPUMLP_TILES"] = "0"
    return gpumlp(work, device)


def bf16(work: Work, device: str) -> Epoch:
    return gpumlp(work, device, BFLOAT16)


def _set_up_jax(device: str) -> None:
    """Choose the device, and float32 for products of float32: on a GPU, JAX rounds their operands to TF32 unasked."""
    os.environ.setdefault("JAX_PLATFORMS", "cuda" if device == "gpu" else "cpu")
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"


def jax(work: Work, device: str) -> Epoch:
    _set_up_jax(device)
    import jax
    import jax.numpy as jnp

    act = {"tanh": jnp.tanh, "relu": jax.nn.relu}[work.activation]
    x, y = (jnp.asarray(a) for a in work.data())

    def loss(parameters: Any, xb: Any, yb: Any) -> Any:
        h = xb
        for W, b in parameters[:-1]:
            h = act(h @ W + b)
        W, b = parameters[-1]
        logits = h @ W + b
        top = jax.nn.logsumexp(logits, axis=1)
        return jnp.mean(top - jnp.take_along_axis(logits, yb[:, None], axis=1)[:, 0])

    def step(state: Any, rows: Any) -> Any:
        parameters, m, v, t = state
        value, g = jax.value_and_grad(loss)(parameters, x[rows], y[rows])
        t = t + 1
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        rate, root = RATE / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
        parameters = jax.tree.map(lambda p, a, b: p - rate * a / (jnp.sqrt(b) * root + 1e-8), parameters, m, v)
        return (parameters, m, v, t), value

    def epoch(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x)).reshape(-1, work.batch)
        state, losses = jax.lax.scan(step, state, order)
        return state, jnp.mean(losses)

    compiled = jax.jit(epoch, donate_argnums=0)
    parameters = [(jnp.asarray(W), jnp.asarray(b)) for W, b in weights(work)]
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state: Any = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(0))
    count = 0

    def run() -> float:
        nonlocal state, count
        count += 1
        state, value = compiled(state, jax.random.key(count))
        return float(value)

    return run


def _torch_model(work: Work, device: str) -> tuple[Any, Any, Any]:
    """Return the network, and the inputs and labels on the device."""
    import torch

    torch.manual_seed(SEED)
    place = "cuda" if device == "gpu" else "cpu"
    x, y = (torch.from_numpy(a).to(place) for a in work.data())
    act = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[work.activation]
    layers: list[Any] = []
    for W, b in weights(work):
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, act()]
    return torch.nn.Sequential(*layers[:-1]).to(place), x, y.long()


def _torch_epoch(work: Work, x: Any, step: Callable[[Any], Any]) -> Epoch:
    import torch

    def run() -> float:
        total = torch.zeros((), device=x.device)
        for rows in torch.randperm(len(x), device=x.device).split(work.batch):
            total += step(rows)
        return float(total) * work.batch / len(x)

    return run


def pytorch(work: Work, device: str) -> Epoch:
    import torch

    model, x, y = _torch_model(work, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def step(rows: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        value.backward()
        optimizer.step()
        return value.detach()

    return _torch_epoch(work, x, step)


def compiled(work: Work, device: str) -> Epoch:
    import torch

    model, x, y = _torch_model(work, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    mode = "max-autotune" if device == "gpu" else None
    loss = torch.compile(lambda rows: torch.nn.functional.cross_entropy(model(x[rows]), y[rows]), mode=mode)

    def step(rows: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = loss(rows)
        value.backward()
        optimizer.step()
        return value.detach().clone()

    return _torch_epoch(work, x, step)


def graph(work: Work, device: str) -> Epoch:
    import torch

    model, x, y = _torch_model(work, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True, capturable=True)
    rows, value = torch.zeros(work.batch, dtype=torch.int64, device=x.device), torch.zeros((), device=x.device)
    kept = [p.detach().clone() for p in model.parameters()]

    def work_once() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        value.copy_(loss.detach())

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture wants everything to have run before, beside the default stream
        for _ in range(3):
            work_once()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        work_once()
    with torch.no_grad():  # back to where all peers start
        for p, first in zip(model.parameters(), kept, strict=True):
            p.copy_(first)
        for state in optimizer.state.values():
            for slot in state.values():
                slot.zero_()

    def step(order: Any) -> Any:
        rows.copy_(order)
        captured.replay()
        return value

    return _torch_epoch(work, x, step)


def keras(work: Work, device: str) -> Epoch:
    os.environ["KERAS_BACKEND"] = "jax"
    _set_up_jax(device)
    import keras

    keras.utils.set_random_seed(SEED)
    x, y = work.data()
    hidden = [keras.layers.Dense(units, activation=work.activation) for units in work.widths[1:-1]]
    model = keras.Sequential([keras.Input((work.widths[0],)), *hidden, keras.layers.Dense(work.widths[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.set_weights([array for pair in weights(work) for array in pair])
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss)
    return lambda: float(model.fit(x, y, batch_size=work.batch, epochs=1, verbose=0).history["loss"][0])


def sklearn(work: Work, device: str) -> Epoch:
    from sklearn.neural_network import MLPClassifier

    x, y = work.data()
    model = MLPClassifier(
        work.widths[1:-1],
        activation=work.activation,
        batch_size=work.batch,
        alpha=0.0,
        learning_rate_init=RATE,
        random_state=SEED,
    )

    def run() -> float:
        model.partial_fit(x, y, classes=np.arange(work.widths[-1]))
        return float(model.loss_)

    return run


@dataclass(frozen=True)
class Peer:
    """A library to compare with: the module it needs, where it runs."""

    make: Callable[[Work, str], Epoch]
    module: str
    devices: tuple[str, ...] = ("cpu", "gpu")


PEERS = {
    "gpumlp": Peer(gpumlp, "gpumlp"),
    "plain": Peer(plain, "gpumlp", ("cpu",)),
    "bf16": Peer(bf16, "ml_dtypes", ("cpu",)),
    "jax": Peer(jax, "jax"),
    "pytorch": Peer(pytorch, "torch"),
    "compiled": Peer(compiled, "torch"),
    "graph": Peer(graph, "torch", ("gpu",)),
    "keras": Peer(keras, "keras"),
    "sklearn": Peer(sklearn, "sklearn", ("cpu",)),
}

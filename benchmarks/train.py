"""An epoch of training, here and in other libraries: the same networks, batches and optimizer, on one machine.

    pip install -e '.[bench]'
    python benchmarks/train.py [--rounds N] [--only NAME ...] [--json FILE]

Every peer trains float32 networks with Adam (rate 1e-3) on the same random rows, shuffled anew in each epoch, from
the same weights (scikit-learn: drawn alike). Rows are cut to whole batches, so that all take the same steps. After a
warm-up of two epochs, in which anything is compiled, all losses must agree to a quarter: the orders differ, and some
losses fall by half in an epoch. Then epochs are timed in turns, each peer in a process of its own, so that none meets
the threads of another; the median is printed with the ratio to gpumlp. A peer that is not installed is left out.

    gpumlp     the backend `auto`, one captured step replayed
    jax        one jitted lax.scan over the whole epoch
    pytorch    eager, fused Adam
    keras      model.fit on the JAX backend, verbose=0
    sklearn    MLPClassifier.partial_fit
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp import backend
from gpumlp.data import Dataset
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.optim import Optimizer, Schedule
from gpumlp.training import Trainer

RATE = 1e-3


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


def gpumlp(work: Work) -> Epoch:
    x, y = work.data()
    hidden = [Dense(units, work.activation) for units in work.widths[1:-1]]
    model = Sequential([*hidden, Dense(work.widths[-1], "softmax")])
    model.build(work.widths[0], backend=backend.get("auto"))
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
    return lambda: trainer.run_epoch().loss


def jax(work: Work) -> Epoch:
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
    box = {"state": (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(0)), "count": 0}

    def run() -> float:
        box["count"] += 1
        box["state"], value = compiled(box["state"], jax.random.key(box["count"]))
        return float(value)

    return run


def pytorch(work: Work) -> Epoch:
    import torch

    x, y = (torch.from_numpy(a) for a in work.data())
    y = y.long()
    act = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[work.activation]
    layers: list[Any] = []
    for W, b in weights(work):
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, act()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def run() -> float:
        total = torch.zeros(())
        order = torch.randperm(len(x))
        for rows in order.split(work.batch):
            optimizer.zero_grad(set_to_none=True)
            value = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            value.backward()
            optimizer.step()
            total += value.detach()
        return float(total) * work.batch / len(x)

    return run


def keras(work: Work) -> Epoch:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    x, y = work.data()
    hidden = [keras.layers.Dense(units, activation=work.activation) for units in work.widths[1:-1]]
    model = keras.Sequential([keras.Input((work.widths[0],)), *hidden, keras.layers.Dense(work.widths[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.set_weights([array for pair in weights(work) for array in pair])
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss)
    return lambda: float(model.fit(x, y, batch_size=work.batch, epochs=1, verbose=0).history["loss"][0])


def sklearn(work: Work) -> Epoch:
    from sklearn.neural_network import MLPClassifier

    x, y = work.data()
    model = MLPClassifier(
        work.widths[1:-1], activation=work.activation, batch_size=work.batch, alpha=0.0, learning_rate_init=RATE
    )

    def run() -> float:
        model.partial_fit(x, y, classes=np.arange(work.widths[-1]))
        return float(model.loss_)

    return run


PEERS = {"gpumlp": gpumlp, "jax": jax, "pytorch": pytorch, "keras": keras, "sklearn": sklearn}
MODULES = {"pytorch": "torch"}


def serve(name: str, work: Work, pipe: Connection) -> None:
    """Train in a process of one's own: an epoch for each message, answered by its seconds and its loss."""
    epoch = PEERS[name](work)
    while pipe.recv():
        started = time.perf_counter()
        loss = epoch()
        pipe.send((time.perf_counter() - started, loss))


def measure(work: Work, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each peer's epochs, taken in turns."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in PEERS:
        if importlib.util.find_spec(MODULES.get(name, name)) is not None:
            pipes[name], end = context.Pipe()
            context.Process(target=serve, args=(name, work, end), daemon=True).start()

    def epoch(name: str) -> tuple[float, float]:
        pipes[name].send(True)
        return pipes[name].recv()

    losses = {name: [epoch(name), epoch(name)][-1][1] for name in pipes}
    own = losses["gpumlp"]
    assert all(abs(loss - own) <= 0.25 * own for loss in losses.values()), losses
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name in pipes:
            times[name].append(epoch(name)[0])
    for pipe in pipes.values():
        pipe.send(False)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs of each peer (default: 7)")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), help="these workloads only")
    parser.add_argument("--json", type=Path, help="write all times here")
    options = parser.parse_args()
    found = {}
    print(f"{'seconds an epoch':16}" + "".join(f"{name:>22}" for name in PEERS))
    for name in options.only:
        times = found[name] = measure(WORK[name], options.rounds)
        own = statistics.median(times["gpumlp"])
        cells = []
        for peer in PEERS:
            middle = statistics.median(times[peer]) if peer in times else float("nan")
            cells.append(f"{middle:.4f} ({middle / own:.2f} x)" if peer in times else "–")
        print(f"{name:16}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "seconds": found}
        options.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()

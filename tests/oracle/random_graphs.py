"""The tape against PyTorch on random graphs: values, first and second derivatives, in float64.

    python -m tests.oracle.random_graphs [--count N] [--seed S]

Each graph is a few operations on a few leaves, drawn from a seed. Values are used again and again, in several places
and twice in one. Half of the numbers of a leaf are zeros of both signs or small whole numbers, so that comparisons
tie and kinks are hit. Where gpumlp documents another choice at a tie than PyTorch makes (the larger of two equal
numbers, the curvature of ELU at 0), PyTorch gets a formula that chooses as gpumlp does.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Variable, fused

F = torch.nn.functional
Array = np.ndarray[Any, np.dtype[np.float64]]
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.0])
MOST = 1e3
"""Values beyond this are brought back by tanh: rounding is to be compared, and not overflow."""
TOLERANCE = 1e-9
"""Relative to the largest number of a result, and at least to 1."""


def _elu(x: Any, alpha: float = 1.0) -> Any:
    below = torch.where(x > 0, torch.zeros_like(x), x)
    return torch.where(x > 0, x, alpha * torch.expm1(below))


def _huber(z: Any, t: Any) -> Any:
    r = z - t
    return torch.where(r.abs() < 1.0, 0.5 * r * r, r.abs() - 0.5).mean()


def _hinge(z: Any, labels: Any) -> Any:  # multi_margin_loss, which has no second derivative in PyTorch
    margins = F.relu(1 - torch.gather(z, -1, labels[:, None]) + z)
    return (margins * (1 - F.one_hot(labels, z.shape[-1]))).mean()


def _focal(logarithm: Any, of_others: Any, gamma: float) -> Any:
    return -(torch.exp(gamma * of_others) * logarithm).mean()


def _focal_of_classes(z: Any, labels: Any, gamma: float) -> Any:
    logarithm = torch.gather(F.log_softmax(z, -1), -1, labels[:, None])
    if z.shape[-1] == 1:
        return z.sum() * 0.0
    return -((-torch.expm1(logarithm)) ** gamma * logarithm).mean()


_LAMBDA, _ALPHA = 1.0507009873554805, 1.6732632423543772
Pair = tuple[Callable[..., Any], Callable[..., Any]]

UNARY: dict[str, Pair] = {
    "neg": (lambda x: -x, lambda x: -x),
    "abs": (ad.abs, torch.abs),
    "exp": (lambda x: ad.exp(ad.minimum(x, 3.0)), lambda x: torch.exp(torch.where(x < 3.0, x, 3.0))),
    "expm1": (lambda x: ad.expm1(x * 0.25), lambda x: torch.expm1(x * 0.25)),
    "log": (lambda x: ad.log(x * x + 1.0), lambda x: torch.log(x * x + 1.0)),
    "log1p": (lambda x: ad.log1p(ad.abs(x)), lambda x: torch.log1p(x.abs())),
    "sqrt": (lambda x: ad.sqrt(x * x + 0.5), lambda x: torch.sqrt(x * x + 0.5)),
    "square": (lambda x: x * x, lambda x: x * x),
    "cube": (lambda x: x**3, lambda x: x**3),
    "inverse": (lambda x: 1.0 / (2.0 + x * x), lambda x: 1.0 / (2.0 + x * x)),
    "power of 2": (lambda x: 2.0 ** (x * 0.25), lambda x: 2.0 ** (x * 0.25)),
    "softmax": (fused.FUSED["softmax"], lambda x: torch.softmax(x, -1)),
    "relu": (fused.FUSED["relu"], torch.relu),
    "leaky_relu": (fused.FUSED["leaky_relu"], lambda x: F.leaky_relu(x, 0.01)),
    "elu": (fused.FUSED["elu"], _elu),
    "selu": (fused.FUSED["selu"], lambda x: _LAMBDA * _elu(x, _ALPHA)),
    "gelu": (fused.FUSED["gelu"], F.gelu),
    "silu": (fused.FUSED["silu"], F.silu),
    "mish": (fused.FUSED["mish"], F.mish),
    "sigmoid": (fused.FUSED["sigmoid"], torch.sigmoid),
    "tanh": (fused.FUSED["tanh"], torch.tanh),
    "softplus": (fused.FUSED["softplus"], lambda x: F.softplus(x, threshold=40)),
    "identity": (fused.FUSED["identity"], lambda x: x * 1.0),
    "double": (lambda x: x + x, lambda x: x + x),
}
BINARY: dict[str, Pair] = {
    "add": (ad.add, torch.add),
    "sub": (ad.sub, torch.sub),
    "mul": (ad.mul, torch.mul),
    "div": (lambda a, b: a / (b * b + 1.0), lambda a, b: a / (b * b + 1.0)),
    # PyTorch's own power has the mixed derivative 0 where the exponent is 0, for 1 / a.
    "power": (
        lambda a, b: ad.power(a * a + 0.5, b * 0.25),
        lambda a, b: torch.exp(b * 0.25 * torch.log(a * a + 0.5)),
    ),
    "maximum": (ad.maximum, lambda a, b: torch.where(a > b, a, b)),
    "minimum": (ad.minimum, lambda a, b: torch.where(b > a, a, b)),
    "where >": (lambda a, b: ad.where(a > b, a * b, b), lambda a, b: torch.where(a > b, a * b, b)),
    "where ==": (lambda a, b: ad.where(a == b, a * 2.0, b), lambda a, b: torch.where(a == b, a * 2.0, b)),
    "where mask": (
        lambda a, b: ad.where(~(a >= b) | (b == 0), a, a - b),
        lambda a, b: torch.where(~(a >= b) | (b == 0), a, a - b),
    ),
}
REDUCTIONS: dict[str, Pair] = {
    "sum": (lambda x, **k: ad.sum(x, **k), lambda x, axis, keepdims: x.sum(axis, keepdim=keepdims)),
    "mean": (lambda x, **k: ad.mean(x, **k), lambda x, axis, keepdims: x.mean(axis, keepdim=keepdims)),
    "max": (lambda x, **k: ad.max(x, **k), lambda x, axis, keepdims: x.amax(axis, keepdim=keepdims)),
}
LAYERS: dict[str, Pair] = {
    **{
        f"dense {name}": (
            lambda x, W, b, name=name: ad.dense(x, W, b, name),
            lambda x, W, b, name=name: UNARY[name][1](x @ W + b),
        )
        for name in ("identity", "relu", "tanh", "gelu", "elu", "softplus", "softmax")
    },
    "matmul": (lambda x, W, b: x @ W, lambda x, W, b: x @ W),
    "layer_norm": (
        lambda x, W, b: ad.layer_norm(x @ W, b, b),
        lambda x, W, b: F.layer_norm(x @ W, b.shape, b, b),
    ),
    **{
        f"mix {name}": (
            lambda x, W, b, name=name: ad.mixed(name, x @ W, b),
            lambda x, W, b, name=name: (x @ W) + b * (UNARY[name][1](x @ W) - x @ W),
        )
        for name in ("tanh", "silu")
    },
    "batch_norm": (
        lambda x, W, b: ad.batch_norm(x @ W, b, b)[0],
        lambda x, W, b: F.batch_norm(x @ W, None, None, b, b, training=True) if len(x) > 1 else x @ W * 0.0 + b,
    ),
}
LOSSES: dict[str, Pair] = {
    "squared_error": (lambda z, t: fused.FUSED["squared_error"](z, t), lambda z, t: F.mse_loss(z, t)),
    "absolute_error": (lambda z, t: fused.FUSED["absolute_error"](z, t), lambda z, t: F.l1_loss(z, t)),
    "huber": (lambda z, t: fused.FUSED["huber"](z, t), _huber),
    "quantile": (
        lambda z, t: fused.FUSED["quantile"](z, t),
        lambda z, t: F.l1_loss(z, t) / 2,
    ),
    "poisson": (
        lambda z, t: fused.FUSED["poisson"](ad.minimum(z, 3.0), abs(t)),
        lambda z, t: F.poisson_nll_loss(torch.where(z < 3.0, z, 3.0), t.abs()),
    ),
    "binary_cross_entropy": (
        lambda z, t: fused.FUSED["binary_cross_entropy"](z, (t > 0) * 1.0),
        lambda z, t: F.binary_cross_entropy_with_logits(z, (t > 0).double()),
    ),
    "absolute_percentage_error": (
        lambda z, t: fused.FUSED["absolute_percentage_error"](z, t, floor=0.5),
        lambda z, t: ((z - t).abs() / t.abs().clamp_min(0.5)).mean(),
    ),
    "binary_hinge": (
        lambda z, t: fused.FUSED["binary_hinge"](z, (t > 0) * 1.0),
        lambda z, t: F.relu(1 - torch.where(t > 0, z, -z)).mean(),
    ),
    "hinge": (
        lambda z, t: fused.FUSED["hinge"](z, t.argmax(-1)),
        lambda z, t: _hinge(z, t.argmax(-1)),
    ),
    "binary_focal": (
        lambda z, t: fused.FUSED["binary_focal"](z, (t > 0) * 1.0, gamma=1.5),
        lambda z, t: _focal(F.logsigmoid(torch.where(t > 0, z, -z)), F.logsigmoid(torch.where(t > 0, -z, z)), 1.5),
    ),
    "focal": (
        lambda z, t: fused.FUSED["focal"](z, t.argmax(-1), gamma=1.5),
        lambda z, t: _focal_of_classes(z, t.argmax(-1), 1.5),
    ),
    "softmax_cross_entropy": (
        lambda z, t: fused.FUSED["softmax_cross_entropy"](z, t.argmax(-1), label_smoothing=0.1),
        lambda z, t: F.cross_entropy(z, t.argmax(-1), label_smoothing=0.1),
    ),
}


@dataclass(frozen=True)
class Step:
    """One value of a graph: a function, here and there, of earlier values; without functions the next leaf."""

    name: str
    taken: tuple[int, ...] = ()
    ours: Callable[..., Any] | None = None
    theirs: Callable[..., Any] | None = None


@dataclass
class Graph:
    """A random graph: its leaves, and the steps that make values of earlier ones."""

    leaves: list[Array] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def operations(self) -> list[Step]:
        return [step for step in self.steps if step.ours]

    @property
    def uses(self) -> Counter[int]:
        """How often each value is taken."""
        return Counter(i for step in self.steps for i in step.taken)

    def run(self, leaves: Sequence[Any], side: str) -> Any:
        """Return half the sum over all values that nothing takes, on one side: ``ours`` or ``theirs``."""
        values: list[Any] = []
        following = iter(leaves)
        for step in self.steps:
            function = getattr(step, side)
            values.append(function(*(values[i] for i in step.taken)) if function else next(following))
        total: Any = 0.0
        for value in (value for i, value in enumerate(values) if i not in self.uses):
            total = total + (ad.sum(value * 0.5) if side == "ours" else (value * 0.5).sum())
        return total


class Drawing:
    """A graph in the making; ``made`` are its values, by PyTorch, to know their shapes and sizes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([7, seed])
        self.graph, self.made = Graph(), list[Any]()

    def numbers(self, *shape: int) -> Array:
        """Return random numbers, of which half are edges."""
        edges = self.rng.random(shape) < 0.5
        return np.where(edges, self.rng.choice(EDGES, shape), self.rng.standard_normal(shape))

    def leaf(self, *shape: int) -> int:
        """Add a leaf and return its number."""
        self.graph.leaves.append(self.numbers(*shape))
        self.graph.steps.append(Step("leaf"))
        self.made.append(torch.from_numpy(np.asarray(self.graph.leaves[-1])))
        return len(self.made) - 1

    def add(self, name: str, taken: tuple[int, ...], pair: Pair) -> None:
        """Add an operation, unless it leaves what is finite."""
        value = pair[1](*(self.made[i] for i in taken))
        if not torch.isfinite(value).all():
            return
        self.graph.steps.append(Step(name, taken, *pair))
        self.made.append(value)
        if value.numel() and value.abs().max() > MOST:
            self.add("tanh", (len(self.made) - 1,), UNARY["tanh"])

    def choose(self, names: Iterable[str]) -> str:
        return str(self.rng.choice(list(names)))

    def operation(self) -> None:
        """Add one random operation on random values, where it fits them."""
        kind = self.rng.choice(["unary", "binary", "reduction", "shape", "layer"], p=[0.34, 0.3, 0.12, 0.14, 0.1])
        i = int(self.rng.integers(len(self.made)))
        x = self.made[i]
        if kind == "unary":
            name = self.choose(UNARY)
            if name != "softmax" or x.ndim:
                self.add(name, (i,), UNARY[name])
        elif kind == "binary":
            j = i if self.rng.random() < 0.2 else int(self.rng.integers(len(self.made)))
            name = self.choose(BINARY)
            with contextlib.suppress(ValueError):
                np.broadcast_shapes(x.shape, self.made[j].shape)
                self.add(name, (i, j), BINARY[name])
        elif kind == "reduction" and x.ndim:
            name = self.choose(REDUCTIONS)
            params = {"axis": int(self.rng.integers(-1, x.ndim)), "keepdims": bool(self.rng.integers(2))}
            function, reference = REDUCTIONS[name]
            self.add(name, (i,), (partial(function, **params), partial(reference, **params)))
        elif kind == "shape" and x.ndim:
            name, pair = _shaped(self.rng, x)
            self.add(name, (i,), pair)
        elif kind == "layer" and x.ndim == 2:
            units = int(self.rng.integers(1, 4))
            name = self.choose(LAYERS)
            self.add(name, (i, self.leaf(x.shape[1], units), self.leaf(units)), LAYERS[name])

    def loss(self) -> None:
        """Add a loss of the last value that is a matrix."""
        last = next((i for i in reversed(range(len(self.made))) if self.made[i].ndim == 2), None)
        if last is None:
            return
        name, target = self.choose(LOSSES), self.numbers(*self.made[last].shape)
        function, reference = LOSSES[name]
        self.add(name, (last,), (lambda z: function(z, target), lambda z: reference(z, torch.from_numpy(target))))


def draw(seed: int) -> Graph:
    """Return the graph of a seed."""
    drawing = Drawing(seed)
    rows, cols = (int(n) for n in drawing.rng.integers(1, 5, 2))
    shapes = [(rows, cols), (cols,), (rows, 1), ()]
    drawing.leaf(rows, cols)
    for i in drawing.rng.integers(0, len(shapes), 2):
        drawing.leaf(*shapes[i])
    for _ in range(int(drawing.rng.integers(4, 13))):
        drawing.operation()
    if drawing.rng.random() < 0.5:
        drawing.loss()
    return drawing.graph


def _shaped(rng: np.random.Generator, x: Any) -> tuple[str, Pair]:
    """Return an operation that moves, repeats or joins elements, by name."""
    name = str(rng.choice(["transpose", "reshape", "slice", "reverse", "take", "concat", "stack", "broadcast"]))
    n = x.shape[0]
    if name == "transpose":
        return name, (ad.transpose, lambda v: v.transpose(-1, -2) if v.ndim > 1 else v)
    if name == "reshape":
        return name, (lambda v: v.reshape(-1), lambda v: v.reshape(-1))
    if name == "slice":
        start = int(rng.integers(0, n))
        return name, (lambda v: v[start:], lambda v: v[start:])
    if name == "reverse":
        return name, (lambda v: v[::-1], lambda v: v.flip(0))
    if name == "take":
        index = rng.integers(0, n, 3)
        return name, (lambda v: v[index], lambda v: v[torch.from_numpy(index)])
    if name == "concat":
        return name, (lambda v: ad.concat([v, v * 2.0]), lambda v: torch.cat([v, v * 2.0], -1))
    if name == "stack":
        return name, (lambda v: ad.stack([v, v * v], axis=-1), lambda v: torch.stack([v, v * v], -1))
    shape = (2, *x.shape)
    return name, (lambda v: ad.broadcast_to(v, shape=shape), lambda v: v.broadcast_to(shape))


Results = tuple[list[Array], list[Array], list[Array]]


def weights_of(graph: Graph) -> list[Array]:
    """Return what the first derivatives are weighted by for the second ones."""
    rng = np.random.default_rng(len(graph.steps))
    return [rng.standard_normal(x.shape) for x in graph.leaves]


def ours(graph: Graph) -> Results:
    """Return the value, the gradients and the Hessian times the weights, by the tape."""
    leaves = [Variable(x) for x in graph.leaves]
    with GradientTape() as outer:
        with GradientTape() as inner:
            total = graph.run(leaves, "ours")
        first = inner.gradient(total, leaves)
        parts = [ad.sum(g * w) for g, w in zip(first, weights_of(graph), strict=True) if g is not None]
        moved = ad.sum(ad.stack(parts)) if parts else total * 0.0
    second = outer.gradient(moved, leaves)
    return [total.numpy()], _filled(first, graph), _filled(second, graph)


def theirs(graph: Graph) -> Results:
    """Return the same by PyTorch."""
    leaves = [torch.from_numpy(x).requires_grad_() for x in graph.leaves]
    total = graph.run(leaves, "theirs")
    first = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    moved = sum(
        ((g * torch.from_numpy(w)).sum() for g, w in zip(first, weights_of(graph), strict=True) if g is not None),
        start=0.0 * total,
    )
    second = torch.autograd.grad(moved, leaves, allow_unused=True)
    return [total.detach().numpy()], _filled(first, graph), _filled(second, graph)


def _filled(found: Sequence[Any], graph: Graph) -> list[Array]:
    """Return derivatives as arrays, zeros where there is none."""
    return [
        np.zeros(x.shape) if g is None else (g.detach() if isinstance(g, torch.Tensor) else g).numpy()
        for g, x in zip(found, graph.leaves, strict=True)
    ]


def error(a: Sequence[Array], b: Sequence[Array]) -> float:
    """Return the largest difference, relative to the largest number and to 1; infinite where one is not finite."""
    whole = [np.concatenate([np.ravel(x) for x in side]) for side in (a, b)]
    if not all(np.isfinite(side).all() for side in whole):
        return float("inf")
    return float(np.abs(whole[0] - whole[1]).max() / max(1.0, np.abs(whole[1]).max()))


@dataclass
class Report:
    """What a number of graphs came to."""

    graphs: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    zeros: int = 0
    repeated: int = 0
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    failed: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)


def compare(seeds: Sequence[int]) -> Report:
    """Compare the graphs of these seeds."""
    report = Report()
    for seed in seeds:
        graph = draw(seed)
        errors = tuple(error(a, b) for a, b in zip(ours(graph), theirs(graph), strict=True))
        report.graphs += 1
        report.operations.update(step.name for step in graph.operations)
        report.zeros += any((x == 0).any() for x in graph.leaves)
        report.repeated += any(n > 1 for n in graph.uses.values())
        report.errors = tuple(map(max, report.errors, errors))  # type: ignore[assignment]
        if max(errors) > TOLERANCE:
            report.failed.append((seed, errors))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="graphs (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report = compare(range(given.seed, given.seed + given.count))
    print(f"{report.graphs} graphs of {sum(report.operations.values())} operations of {len(report.operations)} kinds")
    print(f"{report.zeros} with zeros, {report.repeated} with values used more than once")
    for name, value in zip(("values", "first derivatives", "second derivatives"), report.errors, strict=True):
        print(f"largest relative difference of {name}: {value:.1e}")
    for seed, errors in report.failed:
        print(f"seed {seed} differs: {', '.join(f'{e:.1e}' for e in errors)}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

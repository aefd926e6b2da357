"""The two experiments: one layer that grows wider, and layers of a fixed width that grow in number.

Width is Cybenko's theorem (1989; Hornik 1991; Leshno et al. 1993): one hidden layer comes as near to any continuous
function on a cube as one likes, if it is wide enough and the activation is no polynomial. Depth is Kidger and Lyons'
(2020, arXiv:1905.08539): p + K + 2 units in each layer suffice, if there are enough layers and the activation is not
affine (and somewhere has a continuous slope that is not 0). Both say that such weights exist, not that training
finds them. So what is shown is an upper bound for each size: the best of several starts, after Adam on all weights
and then a solve of the output layer alone, for the smallest largest error on the grid of training. Errors are the
largest on a grid four times as fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpumlp.approximation import starts
from gpumlp.approximation.activations import DEGREES, activation_of
from gpumlp.approximation.lawson import nearest, polynomials
from gpumlp.approximation.members import Members
from gpumlp.approximation.network import Network
from gpumlp.approximation.targets import Target, Values, grid
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, RunError
from gpumlp.ops.record import Activation
from gpumlp.seeds import generator

Kind = Literal["width", "depth"]

ACTIVATIONS: dict[Kind, tuple[str, ...]] = {
    "width": ("sigmoid", "tanh", "relu", "square", "cube"),
    "depth": ("tanh", "relu", "identity"),
}
SIZES: dict[Kind, tuple[int, ...]] = {"width": (1, 2, 4, 8, 16, 32, 64), "depth": (1, 2, 4, 8, 16)}
LARGEST: dict[Kind, int] = {"width": 2048, "depth": 64}
RESTARTS, STEPS = 3, 3000
POINTS = {1: 513, 2: 33}  # of the training grid along each axis, by the number of inputs
ROUNDS = 500  # of the search for the best polynomial, which may be slow to settle
FINER = 4  # the grid that errors are measured on has this many steps for each one of training


@dataclass(frozen=True)
class Fit:
    """The best network of one size, and its sup-norm errors: ``trained`` is that before the output was solved."""

    size: int
    network: Network
    error: float
    trained: float
    restart: int

    @property
    def parameters(self) -> int:
        return self.network.parameters


@dataclass(frozen=True)
class Curve:
    """One activation over all sizes. ``floor``: below it no network of any size can come, None where nothing is."""

    activation: str
    fits: tuple[Fit, ...]
    floor: float | None
    degree: int | None
    networks: int
    seconds: float  # of training, without building kernels


@dataclass(frozen=True)
class Study:
    """What one experiment found for one target."""

    kind: Kind
    target: Target
    curves: tuple[Curve, ...]


def study(
    kind: Kind,
    target: Target,
    backend: Backend,
    *,
    sizes: Iterable[int] | None = None,
    activations: Sequence[str] | None = None,
    seed: int = 0,
    restarts: int = RESTARTS,
    steps: int = STEPS,
    listener: Callable[[Curve], None] = lambda curve: None,
) -> Study:
    """Train networks of all sizes with each activation; ``listener`` is told of each as it is done.

    The networks of one activation, ``restarts`` of each size, train side by side in one pass.
    Raises ConfigError for an unknown activation or a size that cannot be had, RunError where training diverges.
    """
    chosen = check_sizes(kind, SIZES[kind] if sizes is None else sizes)
    records = [activation_of(name) for name in dict.fromkeys(activations or ACTIVATIONS[kind])]
    curves = []
    for record in records:
        curve = _curve(kind, target, record, backend, chosen, seed, restarts, steps)
        listener(curve)
        curves.append(curve)
    return Study(kind, target, tuple(curves))


def check_sizes(kind: Kind, sizes: Iterable[int]) -> list[int]:
    """Return the sizes in order, each once. Raises ConfigError for none at all, or one that cannot be had."""
    chosen = sorted(set(sizes))
    wrong = [size for size in chosen if not 1 <= size <= LARGEST[kind]]
    if wrong or not chosen:
        message = f"{kind} {wrong[0]} is out of range" if wrong else f"no {kind} to try"
        raise ConfigError(message, where=f"{kind}s", hint=f"allowed: whole numbers from 1 to {LARGEST[kind]}")
    return chosen


def _curve(
    kind: Kind,
    target: Target,
    activation: Activation,
    backend: Backend,
    sizes: Sequence[int],
    seed: int,
    restarts: int,
    steps: int,
) -> Curve:
    points = POINTS[target.inputs]
    x, fine = grid(target.inputs, points), grid(target.inputs, FINER * (points - 1) + 1)
    y, truth = target(x), target(fine)
    start = starts.wide if kind == "width" else starts.deep
    runs = [(size, restart) for size in sizes for restart in range(restarts)]
    members = Members([start(generator(seed, restart, size), activation, x, size) for size, restart in runs], backend)
    began = time.perf_counter() - backend.seconds_building
    members.train(x, y, steps)
    seconds = time.perf_counter() - backend.seconds_building - began
    best: dict[int, Fit] = {}
    for (size, restart), network in zip(runs, members.trained(), strict=True):
        fit = _measured(size, restart, network, (x, y), (fine, truth))
        if size not in best or fit.error < best[size].error:
            best[size] = fit
    degree = fixed_degree(kind, activation.name)
    # What no polynomial can do on these points none can on the whole cube, so the bound from below is sure.
    floor = None if degree is None else nearest(polynomials(x, degree), y, ROUNDS).below
    return Curve(activation.name, tuple(best.values()), floor, degree, len(runs), seconds)


def fixed_degree(kind: Kind, activation: str) -> int | None:
    """Return the degree of the polynomials that networks of this activation are, whatever their size, or None.

    Layers multiply degrees, so in depth only an affine activation has a degree that stays.
    """
    degree = DEGREES.get(activation)
    return degree if kind == "width" or degree == 1 else None


def _measured(
    size: int, restart: int, network: Network, training: tuple[Values, Values], fine: tuple[Values, Values]
) -> Fit:
    x, truth = fine
    with np.errstate(all="ignore"):
        trained = np.abs(network(x) - truth).max()
    if not np.isfinite(trained):
        raise RunError(
            f"training diverged with {network.activation.name}",
            hint="a network that overflows stops all that are trained together: try fewer layers",
        )
    solved = network.solved(*training)
    return Fit(size, solved, float(np.abs(solved(x) - truth).max()), float(trained), restart)

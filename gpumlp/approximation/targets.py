"""The functions to be approximated, by name: a formula, the number of its inputs, and whether it is smooth.

All live on the cube [-1, 1]^p and are continuous: the theorems speak of no others. A jump is at least half its
height away from every continuous function, however many units that has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError, choices

Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Target:
    """A function of ``inputs`` numbers; ``function`` takes them as arrays of one shape and returns that shape."""

    name: str
    formula: str
    inputs: int
    smooth: bool
    function: Callable[..., Values]

    def __call__(self, x: Values) -> Values:
        """Return the values ``(N,)`` at the points ``(N, inputs)``."""
        return self.function(*x.T)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("sine", "sin(πx)", 1, True, lambda x: np.sin(np.pi * x)),
        Target("bump", "exp(-8x²)", 1, True, lambda x: np.exp(-8.0 * x**2)),
        Target("runge", "1 / (1 + 25x²)", 1, True, lambda x: 1.0 / (1.0 + 25.0 * x**2)),
        Target("step", "1 / (1 + exp(-40x)), steep but no jump", 1, True, lambda x: 0.5 + 0.5 * np.tanh(20.0 * x)),
        Target("abs", "|x|", 1, False, np.abs),
        Target("hill", "exp(-2(x² + y²))", 2, True, lambda x, y: np.exp(-2.0 * (x**2 + y**2))),
        Target("waves", "sin(πx) cos(πy)", 2, True, lambda x, y: np.sin(np.pi * x) * np.cos(np.pi * y)),
    )
}


def target_of(name: str) -> Target:
    """Return a target by name. Raises ConfigError, with the nearest name, where there is none."""
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}", hint=choices(name, TARGETS))
    return TARGETS[name]


def grid(inputs: int, points: int) -> Values:
    """Return the points of an even grid over [-1, 1]^inputs, ``(points^inputs, inputs)``, ends included."""
    axes = np.meshgrid(*[np.linspace(-1.0, 1.0, points)] * inputs, indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, inputs)

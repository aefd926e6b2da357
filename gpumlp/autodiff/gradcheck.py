"""Check gradients against finite differences, one random direction at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff.differences import central
from gpumlp.autodiff.tape import GradientTape
from gpumlp.autodiff.tensor import Tensor, Variable, sum
from gpumlp.backend.base import Backend
from gpumlp.errors import TapeError


@dataclass(frozen=True)
class GradientCheck:
    """The outcome: the derivative along a random direction by the tape and by central differences."""

    taped: float
    numeric: float
    error: float  # |taped - numeric| / max(1, |taped|, |numeric|)

    def passed(self, tolerance: float = 1e-6) -> bool:
        """Return whether the error is at most a tolerance."""
        return self.error <= tolerance  # NaN does not pass


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    backend: Backend | None = None,
    seed: int = 0,
    step: float = 1e-5,
    tolerance: float = 1e-6,
) -> GradientCheck:
    """Compare the gradient of ``Σ w·function(*inputs)``, w random, with a central difference in float64.

    Every floating-point input is moved at once along one random direction v, so one number checks them all:
    ⟨∇f, v⟩ against (f(x + h v) - f(x - h v)) / 2h, whose error is of order h². Inputs of another dtype (labels)
    stay as they are. Source of the idea: the vjp check of HIPS/autograd.

    Raises TapeError where the two differ by more than ``tolerance``, relative to the larger and to 1.

    Parameters
    ----------
    function
        Takes tensors and returns one.
    inputs
        Arrays, as they are given to the function; floats are widened to float64.
    backend
        Where the function is computed.
    seed
        Seed of the weights w and of the direction v.
    step
        h, the step of the differences.
    tolerance
        Largest error, relative to the larger of the two and to 1.

    Returns
    -------
    GradientCheck
        Both derivatives, and the error.
    """
    rng = np.random.default_rng(seed)
    values = [np.asarray(value) for value in inputs]
    values = [v.astype(np.float64) if v.dtype.kind == "f" else v for v in values]
    moves = [rng.standard_normal(v.shape) if v.dtype.kind == "f" else None for v in values]
    weights: list[np.ndarray[Any, Any]] = []

    def scalar(arguments: Sequence[Any]) -> Tensor:
        y = function(*arguments)
        if not weights:
            weights.append(rng.standard_normal(y.shape))
        return sum(y * Tensor(weights[0], y.backend))

    def shifted(h: float) -> float:
        moved = [v if m is None else v + h * m for v, m in zip(values, moves, strict=True)]
        return float(scalar([Tensor(v, backend) for v in moved]))

    arguments = [
        Tensor(v, backend) if m is None else Variable(v, backend) for v, m in zip(values, moves, strict=True)
    ]
    sources = [a for a in arguments if isinstance(a, Variable)]
    with GradientTape() as tape:
        target = scalar(arguments)
    gradients = iter(tape.gradient(target, sources))
    taped = 0.0
    for move in moves:
        if move is not None:
            gradient = next(gradients)
            taped += 0.0 if gradient is None else float(np.vdot(gradient.numpy(), move))
    numeric = central(shifted, step)
    check = GradientCheck(taped, numeric, abs(taped - numeric) / max(1.0, abs(taped), abs(numeric)))
    if not check.passed(tolerance):
        raise TapeError(
            f"the gradient is wrong: along a random direction the tape gives {taped:.10g}, "
            f"finite differences {numeric:.10g} (relative error {check.error:.2g})",
            hint=f"tolerance {tolerance:g}; a function with a kink close to an input fails too",
        )
    return check

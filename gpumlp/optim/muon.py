"""Muon: the momentum of a matrix, made orthogonal by products, in place of each hidden matrix's own gradient.

    M ← μ M + (1 - μ) G,  N = (1 - μ) G + μ M
    X = N / (‖N‖ + ε), five times  A = X Xᵀ,  X ← 3.4445 X + (-4.775 A + 2.0315 A²) X
    W ← W (1 - η λ) - η √max(1, outputs / inputs) X

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from gpumlp.backend import Backend
from gpumlp.backend.base import written
from gpumlp.ops.batches import BATCH, at_batch
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.record import Array

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of a step that brings singular values towards 1: close to it in few steps, and not exactly to it."""
STEPS = 5
EPSILON = 1e-7
"""Added to the norm that the momentum is divided by."""
MEANING = (
    "of the matrix of each layer but the last m ← μ m + (1 - μ) g, n = (1 - μ) g + μ m, "
    "d = √max(1, outputs / inputs) times n made orthogonal (Jordan et al. 2024)"
)

HYPER = {
    "momentum": Hyper(0.95, "decay of the moving average of a matrix's gradients", ge=0.0, lt=1.0),
    "others": Hyper(0.1, "learning rate of all that is not a hidden matrix, which adamw updates, as a share", ge=0.0),
}


class _Group(Protocol):
    @property
    def rate(self) -> float: ...
    @property
    def decay(self) -> float: ...


class _Parameters(Protocol):
    backend: Backend
    values: Array
    gradients: Array
    hidden: Mapping[str, _Group]

    def view(self, name: str, buffer: Array) -> Array: ...


class Muon:
    """Updates the hidden matrices of a flat buffer of parameters.

    Parameters
    ----------
    parameters
        Whose ``hidden`` are the names of the matrices.
    momentum
        μ.

    Attributes
    ----------
    velocity
        M of all matrices, in the layout of the parameters.
    """

    def __init__(self, parameters: _Parameters, momentum: float) -> None:
        self.parameters, self.momentum = parameters, momentum
        self.velocity = parameters.backend.zeros(parameters.values.shape, parameters.values.dtype)

    def step(
        self,
        rates: Array,
        decays: Array | None,
        clock: Array,
        norm: Array | None,
        *,
        weight_decay: float,
        clip_norm: float | None,
    ) -> None:
        """Update all hidden matrices; the clock is advanced, and ``norm`` is that of the whole gradient."""
        p, backend = self.parameters, self.parameters.backend
        for name, group in p.hidden.items():
            W, M, G = (p.view(name, buffer) for buffer in (p.values, self.velocity, p.gradients))
            if norm is not None:
                G = backend.compute("muon clip", _clipped, G, norm, xp=backend.xp, most=clip_norm)
            backend.compute("muon momentum", _mix, M, G, share=1 - self.momentum, out=M)
            X = orthogonal(backend, backend.compute("muon momentum", _mix, G, M, share=self.momentum))
            backend.compute(
                "muon",
                _stepped,
                *(W, X, rates, decays, clock),
                xp=backend.xp,
                rate=group.rate,
                decay=weight_decay * group.decay,
                scale=math.sqrt(max(1.0, W.shape[1] / W.shape[0])),
                out=W,
            )


def orthogonal(backend: Backend, N: Array) -> Array:
    """Return a matrix (n, m) with the singular vectors of N, and singular values near 1."""
    tall = N.shape[0] > N.shape[1]
    X = backend.compute("muon norm", _normed, N, xp=backend.xp)
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        A = backend.matmul(X.T, X) if tall else backend.matmul(X, X.T)
        B = backend.compute("muon step", _sum, A, backend.matmul(A, A), first=b, second=c)
        product = backend.matmul(X, B) if tall else backend.matmul(B, X)
        X = backend.compute("muon step", _sum, X, product, first=a, second=1.0)
    return X


def _mix(x: Array, y: Array, *, share: float, out: Array | None) -> Array:
    """Return (1 - share) x + share y."""
    return written((1.0 - share) * x + share * y, out)


def _sum(x: Array, y: Array, *, first: float, second: float, out: Array | None) -> Array:
    """Return first x + second y."""
    return written(first * x + second * y, out)


def _clipped(g: Array, norm: Array, *, xp: Any, most: float, out: Array | None) -> Array:
    return written(g * xp.where(norm > most, most / norm, 1.0).astype(g.dtype), out)


def _normed(x: Array, *, xp: Any, out: Array | None) -> Array:
    exact = x.astype(xp.float64)  # a square may be beyond float32 where its root is not
    norm = xp.sqrt(xp.sum(exact * exact)) + EPSILON
    return written((exact / norm).astype(x.dtype), out)


def _stepped(
    W: Array,
    X: Array,
    rates: Array,
    decays: Array | None,
    clock: Array,
    *,
    xp: Any,
    rate: float,
    decay: float,
    scale: float,
    out: Array | None,
) -> Array:
    """Return W after a step of length η along X, by the rate and the decay of the batch that was counted last."""
    batch = clock[BATCH : BATCH + 1] - 1
    eta = rate * at_batch(xp, rates, batch)
    shrink = 1.0 - eta * (decay if decays is None else decay * at_batch(xp, decays, batch))
    return written((shrink * W - (eta * scale) * X).astype(W.dtype), out)

"""A small network as plain numbers, float64 on the host: what is put into training, taken out of it, and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpumlp.approximation.lawson import nearest
from gpumlp.approximation.targets import Values
from gpumlp.ops.record import Activation

ROUNDS = 20
"""How often the output layer is solved with new weights; later rounds gain little."""


@dataclass(frozen=True)
class Network:
    """f(x) = h_D(x)·v + c, with h_l = activation(h_{l-1} W_l + b_l) and h_0 = x.

    Parameters
    ----------
    layers
        (W_l, b_l), (inputs, units) and (units,).
    v, c
        The output layer, (units,) and a number.
    """

    activation: Activation
    layers: tuple[tuple[Values, Values], ...]
    v: Values
    c: float

    @property
    def parameters(self) -> int:
        """How many numbers the network has: (p + 1) H + (H + 1) with one hidden layer."""
        return sum(W.size + b.size for W, b in self.layers) + self.v.size + 1

    def hidden(self, x: Values) -> Values:
        """Return the last hidden layer ``(N, units)`` at points ``(N, p)``."""
        for W, b in self.layers:
            x = self.activation.function(np, x @ W + b)
        return x

    def __call__(self, x: Values) -> Values:
        """Return the values ``(N,)`` at points ``(N, p)``."""
        return self.hidden(x) @ self.v + self.c

    def solved(self, x: Values, y: Values) -> Network:
        """Return the network with the output layer that is nearest to ``y`` at ``x`` in the sup norm; the rest stays.

        Nearest as far as a few rounds of least squares come, which never end behind the first one.
        """
        rows = np.column_stack([self.hidden(x), np.ones(len(x))])
        coefficients = nearest(rows, y, ROUNDS).coefficients
        return replace(self, v=coefficients[:-1], c=float(coefficients[-1]))

"""The multilayer perceptron as a description: what a configuration asks for and a model file remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpumlp.nn.initializers import default_initializer
from gpumlp.nn.layer import Layer, count_trained
from gpumlp.nn.layers import NORMS, Activation, Dense, Dropout
from gpumlp.nn.model import Sequential

MAX_UNITS = 2**31 - 1
"""The widest layer: none that could be meant is wider, and a damaged file must not ask for all memory."""

NO_NORM = "none"


@dataclass(frozen=True)
class Hidden:
    """A hidden layer: ``units`` values through ``activation``, normalised before and dropped after it if asked.

    ``norm`` is a name of ``NORMS``, or ``none``.
    """

    units: int
    activation: str = "relu"
    dropout: float = 0.0
    norm: str = NO_NORM


def count_parameters(hidden: Sequence[Hidden], inputs: int, outputs: int) -> int:
    """Return how many numbers are trained in the network that :func:`mlp` returns, without making any of them."""
    return count_trained(mlp(hidden, outputs, "identity").declare(inputs).values())


def mlp(hidden: Sequence[Hidden], outputs: int, link: str, *, initializer: str = "auto") -> Sequential:
    """Return the network of these hidden layers and ``outputs`` outputs through ``link``; not built yet."""
    layers: list[Layer] = []
    for h in hidden:
        if h.norm == NO_NORM:
            layers.append(Dense(h.units, h.activation, initializer=initializer))
        else:
            # The signal still goes through h.activation, so that is what the first weights must suit.
            suited = default_initializer(h.activation) if initializer == "auto" else initializer
            norm = NORMS[h.norm]()
            # Of a bias that is taken away again the gradient would be rounding alone, which Adam turns into steps.
            bias = not norm.cancels_bias
            layers += [Dense(h.units, initializer=suited, bias=bias), norm, Activation(h.activation)]
        if h.dropout:
            layers.append(Dropout(h.dropout))
    return Sequential([*layers, Dense(outputs, link, initializer=initializer)])

"""The multilayer perceptron as a description: what a configuration asks for and a model file remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpumlp.nn.initializers import default_initializer
from gpumlp.nn.layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from gpumlp.nn.model import Sequential

Norm = Literal["none", "layer", "batch"]


@dataclass(frozen=True)
class Hidden:
    """A hidden layer: ``units`` values through ``activation``, normalised before and dropped after it if asked."""

    units: int
    activation: str = "relu"
    dropout: float = 0.0
    norm: Norm = "none"


def mlp(hidden: Sequence[Hidden], outputs: int, link: str, *, initializer: str = "auto") -> Sequential:
    """Return the network of these hidden layers and ``outputs`` outputs through ``link``; not built yet."""
    layers: list[Layer] = []
    for h in hidden:
        if h.norm == "none":
            layers.append(Dense(h.units, h.activation, initializer=initializer))
        else:
            # The signal still goes through h.activation, so that is what the first weights must suit.
            suited = default_initializer(h.activation) if initializer == "auto" else initializer
            norm = LayerNorm() if h.norm == "layer" else BatchNorm()
            # Batch norm takes every bias away: its gradient would be rounding alone, which Adam turns into steps.
            bias = h.norm != "batch"
            layers += [Dense(h.units, initializer=suited, bias=bias), norm, Activation(h.activation)]
        if h.dropout:
            layers.append(Dropout(h.dropout))
    return Sequential([*layers, Dense(outputs, link, initializer=initializer)])

"""The multilayer perceptron as a description: what a configuration asks for and a model file remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpumlp.nn.initializers import default_initializer
from gpumlp.nn.layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from gpumlp.nn.model import Sequential

MAX_UNITS = 2**31 - 1
"""The widest layer: none that could be meant is wider, and a damaged file must not ask for all memory."""

Norm = Literal["none", "layer", "batch"]


@dataclass(frozen=True)
class Hidden:
    """A hidden layer: ``units`` values through ``activation``, normalised before and dropped after it if asked."""

    units: int
    activation: str = "relu"
    dropout: float = 0.0
    norm: Norm = "none"


def count_parameters(hidden: Sequence[Hidden], inputs: int, outputs: int) -> int:
    """Return how many numbers are trained in the network that :func:`mlp` returns, without making any of them."""
    offsets = {"none": 1, "layer": 3, "batch": 2}  # of each unit: bias, gain and shift, or these two
    count = 0
    for h in hidden:
        count += (inputs + offsets[h.norm]) * h.units
        inputs = h.units
    return count + (inputs + 1) * outputs


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

"""Where training begins. Weights for data in general leave all bends of a small network in one place; these do not.

``wide`` scatters the bends of one hidden layer over the cube. ``deep`` builds a narrow network as the theorem's proof
does (Kidger and Lyons 2020, arXiv:1905.08539): some units of each layer carry the inputs on, one carries the sum so
far, and the others compute something new, so that depth D begins as a layer of D times as many units, written
downwards. A random start of such a net loses the inputs after a few layers; this one cannot.
"""

from __future__ import annotations

import numpy as np

from gpumlp.approximation.network import Network
from gpumlp.approximation.targets import Values
from gpumlp.ops.record import Activation

SLOPES = (1.0, 4.0)  # a unit crosses its bend over a few tenths of the cube
CARRY = 0.2  # what carriers multiply by, to stay where the activation is nearly straight
FRESH = 2  # units of a deep layer that compute something new


def width_of_deep(inputs: int) -> int:
    """Return p + K + 2, the width at which depth alone suffices; K = 1 output."""
    return inputs + 1 + FRESH


def wide(rng: np.random.Generator, activation: Activation, x: Values, units: int) -> Network:
    """Return a network of one hidden layer whose bends are spread over the cube; ``x`` (N, p) are points of it."""
    W, b = _bends(rng, x.shape[1], units)
    return Network(activation, ((W, b),), _outputs(rng, activation, x @ W + b, units), 0.0)


def deep(rng: np.random.Generator, activation: Activation, x: Values, depth: int) -> Network:
    """Return a network of ``depth`` hidden layers of p + 3 units.

    A carrier computes r = f(a + CARRY q) for the number q it carries, near f(a) + f'(a) CARRY q, so the next layer
    reads q = (r - f(a)) / (CARRY f'(a)): exactly with relu, nearly with the others. Units are, in this order, p
    carriers of the inputs, the carrier of the sum, and the fresh ones.
    """
    p = x.shape[1]
    units = width_of_deep(p)
    a, value, slope = _straight_place(activation)
    scale = 1.0 / (CARRY * slope)
    layers: list[tuple[Values, Values]] = []
    sums = np.zeros(FRESH)
    for index in range(depth):
        bends, offsets = _bends(rng, p, FRESH)
        read = np.eye(p) if index == 0 else np.eye(p) * scale  # from what the layer gets to the inputs of the net
        ground = 0.0 if index == 0 else -value * scale
        W, b = np.zeros((p if index == 0 else units, units)), np.full(units, a)
        W[:p, :p], b[:p] = CARRY * read, a + CARRY * ground
        W[:p, p + 1 :], b[p + 1 :] = read @ bends, offsets + ground * bends.sum(axis=0)
        if index > 0:
            W[p, p], W[p + 1 :, p] = CARRY * scale, CARRY * sums
            b[p] = a + CARRY * ground
        layers.append((W, b))
        sums = _outputs(rng, activation, x @ bends + offsets, depth * FRESH)
    return Network(activation, tuple(layers), np.concatenate([np.zeros(p), [scale], sums]), -value * scale)


def _bends(rng: np.random.Generator, inputs: int, units: int) -> tuple[Values, Values]:
    """Return weights (inputs, units) of random direction and slope, and biases that put 0 at a random point."""
    W = rng.standard_normal((inputs, units))
    W *= rng.uniform(*SLOPES, units) / np.linalg.norm(W, axis=0)
    return W, -np.sum(W * rng.uniform(-1.0, 1.0, (inputs, units)), axis=0)


def _outputs(rng: np.random.Generator, activation: Activation, z: Values, terms: int) -> Values:
    """Return output weights for the units of ``z`` (N, units), such that ``terms`` of them sum to about 1/2."""
    size: Values = np.abs(activation.function(np, z)).max(axis=0)
    draws: Values = 0.5 * rng.standard_normal(z.shape[1])
    return np.asarray(draws / (np.sqrt(terms) * np.maximum(size, 1e-3)))


def _straight_place(activation: Activation) -> tuple[float, float, float]:
    """Return a point a near which the activation is straight but not level, and its value and slope there."""

    def tangent(a: float) -> tuple[float, float]:
        at = np.array([a])
        value = activation.function(np, at)
        saved = value if activation.saves == "output" else at
        (slope,) = activation.directions["backward"].formula(np, saved, np.ones(1))
        return float(value[0]), float(slope[0])

    def bent(a: float) -> float:
        """Return how far the activation leaves its tangent, as a share of the step."""
        value, slope = tangent(a)
        steps = np.array([-CARRY, CARRY])
        away = activation.function(np, a + steps) - value - slope * steps
        return float(np.abs(away).max() / abs(CARRY * slope)) if slope else np.inf

    a = min((0.0, 1.0), key=bent)
    return a, *tangent(a)

"""Where weights start: drawn on the host by a seeded generator, so that every backend starts equal.

``fan_in`` and ``fan_out`` are the numbers of inputs and outputs of the layer; weights are (fan_in, fan_out).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpumlp.ops import Activation, record_of

Values = np.ndarray[Any, np.dtype[np.float64]]
Initializer = Callable[[np.random.Generator, int, int], Values]


def _uniform(limit: Callable[[int, int], float]) -> Initializer:
    return lambda rng, i, o: rng.uniform(-limit(i, o), limit(i, o), (i, o))


def _normal(deviation: Callable[[int, int], float]) -> Initializer:
    return lambda rng, i, o: rng.normal(0.0, deviation(i, o), (i, o))


def _orthogonal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Values:
    """Rows or columns orthonormal, whichever are fewer (Saxe et al. 2013, arXiv:1312.6120)."""
    q, r = np.linalg.qr(rng.standard_normal((max(fan_in, fan_out), min(fan_in, fan_out))))
    q *= np.sign(np.diag(r))  # makes the draw uniform over all orthogonal matrices
    return q if fan_in >= fan_out else np.ascontiguousarray(q.T)


FITTED = "data"

INITIALIZERS: dict[str, Initializer] = {
    # Glorot and Bengio 2010: variance 2 / (fan_in + fan_out), for tanh and sigmoid
    "glorot_uniform": _uniform(lambda i, o: math.sqrt(6.0 / (i + o))),
    "glorot_normal": _normal(lambda i, o: math.sqrt(2.0 / (i + o))),
    # He et al. 2015, arXiv:1502.01852: variance 2 / fan_in, for relu and its smooth relatives
    "he_uniform": _uniform(lambda i, o: math.sqrt(6.0 / i)),
    "he_normal": _normal(lambda i, o: math.sqrt(2.0 / i)),
    # LeCun et al. 1998: variance 1 / fan_in, for selu
    "lecun_uniform": _uniform(lambda i, o: math.sqrt(3.0 / i)),
    "lecun_normal": _normal(lambda i, o: math.sqrt(1.0 / i)),
    "orthogonal": _orthogonal,
    "normal": _normal(lambda i, o: 0.05),
    "uniform": _uniform(lambda i, o: 0.05),
    # as lecun_normal, then fitted to the training rows (gpumlp.nn.start)
    FITTED: _normal(lambda i, o: math.sqrt(1.0 / i)),
    "zeros": lambda rng, i, o: np.zeros((i, o)),
}


def default_initializer(activation: str | Activation) -> str:
    """Return the name of the initializer that keeps the variance of signals through this activation."""
    return record_of(activation).initializer

"""Dropout: zero a share of the elements and scale the rest, with a mask that is never stored.

Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"
(inverted form: the scaling is done in training, so that inference needs none).

The rate may follow a schedule: ``factors`` has a factor of it for each batch of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpumlp.ops.batches import BATCH, at_batch
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.random import uniform_words
from gpumlp.ops.record import Array, Direction, Op, Scalar, like


def _apply(
    xp: Any,
    x: Array,
    clock: Array,
    factors: Array | None,
    *,
    rate: float,
    stream: int,
    key: tuple[int, int],
    first: int = 0,
) -> tuple[Array, ...]:
    limit, scale = limit_and_scale(xp, x, clock, factors, rate)
    return (xp.where(words_of(xp, x, clock, stream, key, first) >= limit, x * scale, 0.0),)


def words_of(xp: Any, x: Array, clock: Array, stream: int, key: tuple[int, int], first: int = 0) -> Array:
    """Return the word of each element of ``x``, the first row of which is row ``first`` of the batch."""
    words = uniform_words(xp, math.prod(x.shape), clock[:1], stream, key, _elements(x, first))
    result: Array = words.reshape(x.shape)
    return result


def limit_and_scale(xp: Any, x: Array, clock: Array, factors: Array | None, rate: float) -> tuple[Array, Array]:
    """Return the least word that keeps an element, and what is kept is multiplied by.

    A word below rate·2³² drops its element: an exact integer comparison, the same on every backend.
    """
    if factors is None:
        return xp.uint32(min(round(rate * 2**32), 2**32 - 1)), 1.0 / (1.0 - rate)
    now = rate * at_batch(xp, factors, clock[BATCH : BATCH + 1])
    limit = xp.minimum(xp.rint(now * 2.0**32), 2.0**32 - 1).astype(xp.uint32)
    return limit, (1.0 / (1.0 - now)).astype(x.dtype)


def _elements(x: Array, rows: int) -> int:
    """Return how many elements so many rows have."""
    count: int = rows * math.prod(x.shape[1:])
    return count


def scalars(shaped: int, factors: int) -> Callable[[Sequence[Array], Mapping[str, Any]], Sequence[Scalar]]:
    """Return the numbers that kernels with a mask take, by the inputs that have its shape and the factors."""
    return lambda inputs, params: (
        float(params.get("rate", 0.0)),
        0 if inputs[factors] is None else inputs[factors].shape[0],
        params.get("stream", 0),
        *params.get("key", (0, 0)),
        _elements(inputs[shaped], params.get("first", 0)),
    )


RATE = Hyper(0.0, "share of the elements that become 0", ge=0.0, lt=1.0)
_direction = Direction(
    _apply,
    ("x", "clock", "factors?"),
    ("y",),
    like(0),
    "elementwise",
    narrow=True,
    scalars=scalars(0, 2),
)

DROPOUT = Op(
    "dropout",
    "y = x / (1 - rate) where the word of (key, stream, step, position in the batch) is at least rate·2³², else 0",
    {"forward": _direction, "backward": _direction},
)

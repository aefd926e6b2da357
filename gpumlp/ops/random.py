"""Randomness as a pure function of (key, position): the same bits on every backend, nothing to store.

All arithmetic is on unsigned 32-bit arrays and wraps around, as it does in a kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gpumlp.ops.record import Array

ROUNDS = 6


def philox(xp: Any, counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Return four arrays of uniform 32-bit words for each counter: Philox4x32-10.

    ``counter`` is four uint32 arrays of one shape, ``key`` two 32-bit numbers. Source: Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3".
    """
    c0, c1, c2, c3 = (c.astype(xp.uint64) for c in counter)
    k0, k1 = key
    low = 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return tuple(c.astype(xp.uint32) for c in (c0, c1, c2, c3))


def uniform_words(xp: Any, size: int, step: Array, stream: int, key: tuple[int, int], first: int = 0) -> Array:
    """Return ``size`` uniform uint32 words from position ``first`` on, functions of (key, stream, step, position).

    ``step`` is an int64 array of shape (1,). Word ``i`` is word ``i % 4`` of Philox at the counter
    (i // 4, stream, step modulo 2³², step // 2³²).
    """
    block = xp.arange(first // 4, (first + size + 3) // 4, dtype=xp.uint32)
    zero = xp.zeros_like(block)
    low, high = (step & 0xFFFFFFFF).astype(xp.uint32), (step >> 32).astype(xp.uint32)
    words = philox(xp, (block, zero + xp.uint32(stream), zero + low, zero + high), key)
    return xp.stack(words, axis=-1).reshape(-1)[first % 4 :][:size]


def mix(x: Array) -> Array:
    """Scramble 32-bit words: the finaliser of MurmurHash3 (Appleby), a bijection."""
    x = x ^ (x >> 16)
    x = x * 0x85EBCA6B
    x = x ^ (x >> 13)
    x = x * 0xC2B2AE35
    return x ^ (x >> 16)


@lru_cache(4)
def _mixed_in(bits: int, epoch: int, key: int) -> np.ndarray[Any, Any]:
    """Return what the network of an epoch mixes into one half for each value of the other: int64, a row a round."""
    wide, narrow = bits - bits // 2, bits // 2
    seed = mix(mix(np.array([epoch], np.uint32)) + np.uint32(key))
    keys = mix(seed + np.arange(1, ROUNDS + 1, dtype=np.uint32) * np.uint32(0x9E3779B9))
    tables: np.ndarray[Any, Any] = mix(np.arange(1 << wide, dtype=np.uint32) ^ keys[:, None]).astype(np.int64)
    tables[0::2] &= (1 << narrow) - 1
    tables[1::2] &= (1 << wide) - 1
    tables.setflags(write=False)
    return tables


def permute(xp: Any, positions: Array, n: int, epoch: Array, key: int) -> Array:
    """Send each position in [0, n) to another: a permutation keyed by (key, epoch).

    A Feistel network on the smallest power of two that holds ``n``, walked until it lands inside [0, n)
    (cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). The halves may differ
    by a bit, so the domain is smaller than 2n and a walk takes under two steps on average. A kernel mixes anew for
    each position; here all that a round can mix in, some √n numbers, is made once an epoch.

    ``positions`` int64 ``(m,)``, ``epoch`` int64 ``(1,)``, ``n`` <= 2³¹, ``key`` 32 bits. Returns int64 ``(m,)``.
    """
    bits = max(n - 1, 0).bit_length()
    wide = bits - bits // 2
    tables = xp.asarray(_mixed_in(bits, int(epoch[0]) & 0xFFFFFFFF, key))

    def network(x: Array) -> Array:
        left, right = x >> wide, x & ((1 << wide) - 1)
        for r in range(0, ROUNDS, 2):
            left = left ^ tables[r][right]
            right = right ^ tables[r + 1][left]
        return (left << wide) | right

    result = network(positions)
    (outside,) = (result >= n).nonzero()
    while outside.size:
        result[outside] = walked = network(result[outside])
        outside = outside[walked >= n]
    return result

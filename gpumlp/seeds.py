"""Random numbers on the host: every purpose that they are drawn for, and the one generator that draws them."""

from __future__ import annotations

import numpy as np

WEIGHTS = 0
"""Initial weights: one generator for each layer, by its place."""
DROPOUT = 1
"""The key of the dropout masks."""
ORDER = 2
"""The key of the order in which batches visit the rows."""
START = 0x57A7
"""Rows and shares that first weights are fitted to, by the place of the layer."""
MEMBER = 3
"""The seeds of networks that are trained beside the first."""
MIXUP = 0x3175
"""The key of the rows that batches are mixed with, and the shares of an epoch."""
CONFORMAL = 0xC0F0
"""Division of the validation rows into those that choose the epoch and those kept for intervals."""
SPLIT = 0x5917
"""Division of the rows into training, validation and test rows."""
FOLDS = 0xF01D
"""Division of the rows into folds."""
SEARCH = 0x5EA6
"""A point of a random search, by its number."""
PACK = 0xB10C
"""Dealing of the training rows to blocks on disk, and the key of the order in which blocks are visited."""
REPORT = 0x4E90
"""Samples of rows and permutations of columns in a report."""


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return a generator that depends on the seed and the purpose alone, not on what was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=purpose))


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a member: of the first, counted from 0, that of the run itself."""
    return seed if member == 0 else int(generator(seed, MEMBER, member).integers(2**63))

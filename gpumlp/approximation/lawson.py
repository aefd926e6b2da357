"""The smallest sup-norm error that a linear combination of given functions has, on given points."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from gpumlp.approximation.targets import Values

CONDITION = 1e-12
"""Directions in which the functions vary less than this share of their largest are left out."""
CLOSE = 1e-3  # relative gap between the bounds at which the search ends


class Nearest(NamedTuple):
    """The combination found, and bounds of the least error there is: ``above`` is that of the combination."""

    coefficients: Values
    below: float
    above: float


def nearest(basis: Values, y: Values, rounds: int) -> Nearest:
    """Return the combination of the columns of ``basis`` (N, k) that is nearest to ``y`` (N,) in the sup norm.

    Lawson's algorithm (Lawson 1961; Cline 1972): least squares with weights that are multiplied by the residuals,
    over and over. Each round gives both bounds: no combination has a largest error below the weighted root mean
    square that the best one for these weights has; and that one's own largest error can be reached.
    """
    weights = np.full(len(y), 1.0 / len(y))
    best = Nearest(np.zeros(basis.shape[1]), 0.0, np.inf)
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * basis, root * y, rcond=CONDITION)[0].astype(np.float64)
        residuals = np.abs(y - basis @ coefficients)
        below, above = float(np.sqrt(weights @ residuals**2)), float(residuals.max())
        closest, bound = (coefficients, above) if above < best.above else (best.coefficients, best.above)
        best = Nearest(closest, max(below, best.below), bound)
        weights = weights * residuals
        if best.above - best.below <= CLOSE * best.above or not weights.any():
            break
        weights /= weights.sum()
    return best


def polynomials(x: Values, degree: int) -> Values:
    """Return a basis of the polynomials up to a degree at points ``(N, p)``, in orthonormal columns."""
    padded = np.column_stack([np.ones(len(x)), x])  # a product of `degree` factors, each a coordinate or 1
    columns = combinations_with_replacement(range(padded.shape[1]), degree)
    monomials = np.stack([padded[:, list(chosen)].prod(axis=1) for chosen in columns], axis=1)
    return np.linalg.qr(monomials)[0]

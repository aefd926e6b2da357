"""Square images in rows of bytes, moved by some pixels: more rows to train on."""

from __future__ import annotations

import math

import numpy as np

from gpumlp.data.dataset import Dataset, EncodedRows
from gpumlp.data.encoding.features import Features

MIN_SIDE = 16
"""Smallest side (pixels) of images that are moved without being asked: of smaller ones a pixel is too much."""


def side_of(rows: EncodedRows, *, flat: bool = False) -> int | None:
    """Return the side of the square images of one plane that rows in memory are, None where they are something else.

    ``flat`` takes rows of side * side bytes for such images, too, which nothing but their number says.
    """
    if not isinstance(rows, Dataset) or rows.features.stored.dtype != np.uint8 or rows.features.has_categories:
        return None
    shape = rows.features.shape
    side = math.isqrt(rows.features.width)
    return side if are_images(shape) or (flat and shape == (side * side,)) else None


def are_images(shape: tuple[int, ...]) -> bool:
    """Return whether rows of a shape are square images of one plane."""
    side = math.isqrt(math.prod(shape))
    return shape in ((side, side), (side, side, 1), (1, side, side))


def copies_moved_by(pixels: int) -> int:
    """Return how many rows each row becomes where it is moved by up to so many pixels."""
    return 1 + 4 * pixels


def moved(rows: Dataset, pixels: int) -> Dataset:
    """Return all rows, and behind them all moved down, up, right and left by 1 to ``pixels`` pixels.

    Pixels that come in from outside are 0. Targets and weights stay those of the row.

    Parameters
    ----------
    rows
        Square images of bytes, (N, side * side).
    pixels
        The farthest that they are moved, less than their side.
    """
    side = side_of(rows, flat=True)
    assert side is not None
    images = rows.features.stored.reshape(-1, side, side)
    count = copies_moved_by(pixels)
    shifted = np.zeros((count, *images.shape), np.uint8)
    shifted[0] = images
    for by in range(1, pixels + 1):
        down, up, right, left = shifted[4 * by - 3 : 4 * by + 1]
        down[:, by:], up[:, :-by] = images[:, :-by], images[:, by:]
        right[:, :, by:], left[:, :, :-by] = images[:, :, :-by], images[:, :, by:]
    targets, weights = (
        None if each is None else np.concatenate([each] * count) for each in (rows.targets, rows.weights)
    )
    return Dataset(Features.of_array(shifted.reshape(-1, side * side), rows.features.shape), targets, weights)

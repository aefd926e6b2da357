"""Cells of data: when text is a number, when it is missing, how large a number may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Strings = NDArray[np.object_]
Floats = NDArray[np.float64]

DEFAULT_MISSING: tuple[str, ...] = ("", "?", "NA", "N/A", "NaN", "nan", "null")
"""Cells that mean "no value", compared after blanks at both ends are cut off."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


def parse_numbers(cells: Strings) -> Floats | None:
    """Return the cells as numbers, or None if any of them is not written as one.

    Python would read ``1_2`` as 12; here it is text, because in data it is a code and not a number.
    """
    try:
        values = cells.astype(np.float64)
    except ValueError:
        return None
    return None if "_" in "".join(cells) else values

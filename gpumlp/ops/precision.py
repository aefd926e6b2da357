"""What numbers are stored as and computed in: the precisions a run may choose, and what goes with bfloat16.

bfloat16 is the upper half of a float32: its range, and the first seven bits of its fraction (Kalamkar et al. 2019,
arXiv:1905.12322). It is a way to store what products read and write. Whatever is trained, remembered or summed up is
wider, and so is all arithmetic: a result is rounded once, when it is stored. NumPy has no such dtype; ml_dtypes has.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError

BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Precision:
    """What a run computes with.

    Parameters
    ----------
    stored
        The name of the dtype of inputs, activations and the weights that products read.
    tf32
        Products may round their operands to ten bits of fraction or more, where that is faster.
    """

    name: str
    meaning: str
    stored: str
    tf32: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of ``stored``. Raises ConfigError where the package that it takes is missing."""
        return dtype_of(self.stored)

    @property
    def trained(self) -> np.dtype[Any]:
        """The dtype of parameters, their gradients and what an optimizer keeps, for which no package is missing."""
        return np.dtype(np.float32 if self.stored == BFLOAT16 else self.stored)


PRECISIONS = {
    record.name: record
    for record in (
        Precision("float32", "32-bit floats throughout", "float32"),
        Precision("float64", "64-bit floats throughout, for gradient checks", "float64"),
        Precision(
            "tf32",
            "float32, with operands of matrix products rounded to 10 or more fraction bits where that is faster",
            "float32",
            tf32=True,
        ),
        Precision(
            "bf16",
            "activations and products in 16 bits; embeddings of numbers, weights, sums and optimizer in float32",
            BFLOAT16,
        ),
    )
}


def dtype_of(dtype_like: Any) -> np.dtype[Any]:
    """Return a dtype, given by itself or by name, bfloat16 among them.

    Raises ConfigError for anything that is not a dtype of real numbers, and where the package that bfloat16 takes is
    missing.
    """
    if isinstance(dtype_like, str) and dtype_like == BFLOAT16:
        try:
            importlib.import_module("ml_dtypes")  # makes the name known to NumPy
        except ImportError:
            raise ConfigError(
                "bfloat16 needs the package ml_dtypes",
                where="precision",
                hint="pip install 'gpumlp[bf16]', or set precision: float32",
            ) from None
    try:
        dtype: np.dtype[Any] = np.dtype(dtype_like)
    except TypeError:
        raise ConfigError(f"unknown dtype {dtype_like!r:.80}", hint="use float32 or float64") from None
    if dtype.kind not in "biuf" and not is_narrow(dtype):
        raise ConfigError(f"a tensor takes real numbers, not dtype {dtype}", hint="use float32 or float64")
    return dtype


@cache
def is_narrow(dtype: Any) -> bool:
    """Return whether a dtype is only stored in, and not computed in."""
    resolved: np.dtype[Any] = np.dtype(dtype)
    return resolved.kind == "V" and resolved.name == BFLOAT16


@cache
def wide(dtype: Any) -> np.dtype[Any]:
    """Return the dtype that numbers stored as ``dtype`` are computed, trained and summed up in."""
    return np.dtype(np.float32) if is_narrow(dtype) else np.dtype(dtype)


@cache
def is_floating(dtype: Any) -> bool:
    """Return whether a dtype is floating point, which bfloat16 does not say of itself."""
    return np.dtype(dtype).kind == "f" or is_narrow(dtype)

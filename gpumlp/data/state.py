"""Reading back the state of an encoder, which may come from a file made by a stranger.

Everything is checked before it is used: whatever is wrong with a state, the only exception is ``RunError``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.errors import RunError

Fields = dict[str, Any]
"""The part of a state that goes into JSON."""


def prefixed(key: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a section under the names that the section's reader looks for."""
    return {f"{key}.{name}": array for name, array in arrays.items()}


class StateReader:
    """A section of a saved state: JSON-like fields, and the arrays whose names start with its prefix.

    Every method raises ``RunError`` if the entry is absent or not what it should be.
    """

    def __init__(self, fields: object, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
        self._prefix = prefix
        self._arrays = arrays
        if not isinstance(fields, dict):
            raise self.wrong("", "must be a mapping")
        self._fields = fields

    def wrong(self, key: str, problem: str) -> RunError:
        """Return the error that says what is wrong with an entry."""
        name = (self._prefix + key).rstrip(".")
        return RunError(f"damaged model: {name or 'the state'} {problem}", where="encoder")

    def section(self, key: str) -> StateReader:
        """Return the section under ``key``."""
        return StateReader(self._get(key), self._arrays, f"{self._prefix}{key}.")

    def optional_section(self, key: str) -> StateReader | None:
        """Return the section under ``key``, or None if that is None."""
        return None if self._get(key) is None else self.section(key)

    def has(self, key: str) -> bool:
        """Return whether there is such an entry."""
        return key in self._fields

    def sections(self, key: str) -> list[StateReader]:
        """Return a list of sections."""
        return [StateReader(each, self._arrays, f"{self._prefix}{key}.") for each in self._list(key)]

    def text(self, key: str, *, allowed: tuple[str, ...] | None = None) -> str:
        """Return a text, one of ``allowed`` if that is given."""
        value = self._get(key)
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            raise self.wrong(key, f"must be {'one of ' + ', '.join(allowed) if allowed else 'a text'}")
        return value

    def optional_text(self, key: str, *, allowed: tuple[str, ...] | None = None) -> str | None:
        """Return a text or None."""
        return None if self._get(key) is None else self.text(key, allowed=allowed)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return texts, no two of them equal."""
        values = self._list(key)
        if not all(isinstance(each, str) for each in values) or len(set(values)) < len(values):
            raise self.wrong(key, "must be a list of distinct texts")
        return tuple(values)

    def flag(self, key: str) -> bool:
        """Return a truth value."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def optional_flag(self, key: str) -> bool | None:
        """Return a truth value or None."""
        return None if self._get(key) is None else self.flag(key)

    def count(self, key: str, *, largest: int) -> int:
        """Return a whole number from 1 to ``largest``."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise self.wrong(key, f"must be a whole number from 1 to {largest}")
        return value

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self._get(key)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self.wrong(key, "must be a finite number")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        values = self._list(key)
        if not all(isinstance(each, float) and math.isfinite(each) for each in values):
            raise self.wrong(key, "must be a list of finite numbers")
        return tuple(values)

    def array(self, key: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Return a finite array of this dtype and shape; a None in the shape allows any length."""
        value = self._arrays.get(self._prefix + key)
        fits = (
            isinstance(value, np.ndarray)
            and value.dtype == dtype
            and value.ndim == len(shape)
            and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
            and bool(np.isfinite(value).all())
        )
        if not fits:
            raise self.wrong(key, f"must be a finite array of {np.dtype(dtype)}, shape {shape}")
        assert value is not None
        return value

    def _get(self, key: str) -> Any:
        if key not in self._fields:
            raise self.wrong(key, "is missing")
        return self._fields[key]

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "must be a list")
        return value

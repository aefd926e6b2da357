"""Backends by name. A backend is an object that is passed in; there is no global one."""

from __future__ import annotations

from collections.abc import Callable

from gpumlp.backend.base import Backend
from gpumlp.backend.capture import Call, Plan
from gpumlp.errors import BackendError, ConfigError, choices

BACKENDS: dict[str, Callable[[], Backend]] = {"numpy": Backend}
PLANNED = ("native", "cupy")


def get(name: str) -> Backend:
    """Return a new backend: ``numpy``, or ``auto`` for the fastest this machine has.

    Raises ConfigError for an unknown name, BackendError for one that this version does not have yet.
    """
    if name in PLANNED:
        raise BackendError(
            f"the backend {name!r} is not in this version of gpumlp",
            where="backend",
            hint="use 'numpy', or 'auto' for the fastest there is",
        )
    if name == "auto":
        name = next(iter(BACKENDS))
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}", where="backend", hint=choices(name, ["auto", *BACKENDS]))
    return BACKENDS[name]()


__all__ = ["BACKENDS", "PLANNED", "Backend", "Call", "Plan", "get"]

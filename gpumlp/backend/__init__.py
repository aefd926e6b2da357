"""Backends by name. A backend is an object that is passed in; there is no global one."""

from __future__ import annotations

import logging

from gpumlp.backend.base import Backend
from gpumlp.backend.capture import Call, Plan
from gpumlp.backend.gpu import CupyBackend
from gpumlp.backend.native import NativeBackend
from gpumlp.errors import BackendError, ConfigError, choices

BACKENDS: dict[str, type[Backend]] = {"cupy": CupyBackend, "native": NativeBackend, "numpy": Backend}
"""The fastest first: ``auto`` takes the first that this machine can have."""


def get(name: str, *, tf32: bool = False) -> Backend:
    """Return a new backend: ``cupy``, ``native``, ``numpy``, or ``auto`` for the fastest this machine has.

    ``tf32`` lets products of float32 round their operands where the device is faster so; a CPU is not.

    Raises ConfigError for an unknown name, BackendError for one that this machine does not have. Where ``auto``
    passes over a backend whose package is installed, the reason is logged.
    """
    if name == "auto":
        return _fastest()
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}", where="backend", hint=choices(name, ["auto", *BACKENDS]))
    return BACKENDS[name]()


def _fastest() -> Backend:
    for name, make in BACKENDS.items():
        if not make.is_installed():
            continue
        try:
            return make()
        except BackendError as error:
            logging.getLogger("gpumlp").warning("not computing with %s: %s", name, error.what)
    raise BackendError("no backend can be had")


__all__ = ["BACKENDS", "Backend", "Call", "CupyBackend", "NativeBackend", "Plan", "get"]

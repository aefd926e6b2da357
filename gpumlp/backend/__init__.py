"""Backends by name. A backend is an object that is passed in; there is no global one."""

from __future__ import annotations

import logging

from gpumlp.backend.base import Backend
from gpumlp.backend.capture import Call, Plan
from gpumlp.backend.cuda.gpu import CupyBackend
from gpumlp.backend.host.native import NativeBackend
from gpumlp.errors import BackendError, ConfigError, choices

BACKENDS: dict[str, type[Backend]] = {"cupy": CupyBackend, "native": NativeBackend, "numpy": Backend}
"""The fastest first: ``auto`` takes the first that this machine can have."""


def get(name: str, *, device: int = 0, tf32: bool = False, small: bool = False, turn: int = 0) -> Backend:
    """Return a new backend: ``cupy``, ``native``, ``numpy``, or ``auto`` for the fastest this machine has.

    ``device`` is the number of the GPU that computes; a backend of the host has only 0. ``tf32`` lets products of
    float32 round their operands to ten bits of fraction or more where that is faster; elsewhere it is float32. The
    fastest for what is ``small`` is the CPU, where it has kernels. ``turn`` counts GPUs on from ``device``, and the
    first follows the last: processes of one machine take them in turn.

    Raises ConfigError for an unknown name, BackendError for a backend or a device that this machine does not have.
    Where ``auto`` passes over a backend whose package is installed, the reason is logged.
    """
    if name == "auto" and device == 0:
        return _fastest(tf32, small, turn)
    if name not in ("auto", *BACKENDS):
        raise ConfigError(f"unknown backend {name!r}", where="backend", hint=choices(name, ["auto", *BACKENDS]))
    if name == "auto":  # who asks for another device means a GPU
        try:
            return CupyBackend(device, tf32=tf32, turn=turn)
        except BackendError as error:
            message = f"device {device} asks for a GPU: {error.what}"
            raise BackendError(message, where=error.where, hint=error.hint) from error
    if name == CupyBackend.name:
        return CupyBackend(device, tf32=tf32, turn=turn)
    if device != 0:
        raise BackendError(
            f"{name} computes on the CPU: there is no device {device}", where="device", hint="choose backend: cupy"
        )
    kind = BACKENDS[name]
    return kind(tf32=tf32) if issubclass(kind, NativeBackend) else kind()


def _fastest(tf32: bool, small: bool, turn: int) -> Backend:
    for name in sorted(BACKENDS, key=lambda name: small and name != NativeBackend.name):
        if not BACKENDS[name].is_installed():
            continue
        try:
            return get(name, tf32=tf32, turn=turn)
        except BackendError as error:
            logging.getLogger("gpumlp").warning("not computing with %s: %s", name, error.what)
    raise BackendError("no backend is available")


__all__ = ["BACKENDS", "Backend", "Call", "CupyBackend", "NativeBackend", "Plan", "get"]

"""The machine that a time was taken on: its processor or device, cores, caches, memory, versions, and the date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpumlp.backend import Backend
from gpumlp.backend.host.builder import compiler, version
from gpumlp.limits import cores

PACKAGES = ("numpy", "cupy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax")
USUAL_CACHE, USUAL_MEMORY = 32 << 20, 4 << 30
"""Bytes of last-level cache, and of free memory, where the system does not tell."""


def on_device(backend: Backend) -> bool:
    """Return whether the arrays of a backend live on a CUDA device."""
    return backend.xp.__name__ == "cupy"


def last_cache(backend: Backend) -> int:
    """Return the bytes of the last cache before the memory that the backend's arrays live in."""
    if on_device(backend):
        return int(_device(backend)["l2CacheSize"])
    sizes = [file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=USUAL_CACHE)


def memory(backend: Backend) -> int:
    """Return the bytes of memory that are free for arrays of the backend."""
    if on_device(backend):
        return int(backend.xp.cuda.runtime.memGetInfo()[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # a system without sysconf, or without the name, as macOS
        return USUAL_MEMORY


def facts(backend: Backend) -> dict[str, Any]:
    """Return what a reader needs to know beside a time."""
    machine: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend.name,
        "processor": _processor(),
        "cores": cores(),
        "cores of the machine": os.cpu_count(),
        "last cache, bytes": last_cache(backend),
        "free memory, bytes": memory(backend),
        "load of the last minute": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "threads": {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
    }
    if on_device(backend):
        device, runtime = _device(backend), backend.xp.cuda.runtime
        machine["device"] = device["name"].decode()
        machine["multiprocessors"] = device["multiProcessorCount"]
        machine["compute capability"] = f"{device['major']}.{device['minor']}"
        machine["driver"], machine["runtime"] = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    elif command := compiler():
        machine["compiler"] = version(command).partition("\n")[0]
    return machine


def name(backend: Backend) -> str:
    """Return what the arrays live on: the name of the device, or of the processor."""
    return str(_device(backend)["name"].decode() if on_device(backend) else _processor())


def _device(backend: Backend) -> dict[str, Any]:
    runtime = backend.xp.cuda.runtime
    properties: dict[str, Any] = runtime.getDeviceProperties(runtime.getDevice())
    return properties


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", flags=re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

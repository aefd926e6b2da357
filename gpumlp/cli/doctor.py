"""What gpumlp finds on this machine, each finding with a mend where something is amiss."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import gpumlp
from gpumlp import backend
from gpumlp.backend.builder import cache_folder, compiler
from gpumlp.backend.kernels import folder
from gpumlp.backend.native import NativeBackend
from gpumlp.errors import BackendError


@dataclass(frozen=True)
class Finding:
    """One line of the page: what was looked for, what was found, what to do if that is not good."""

    name: str
    text: str
    mend: str = ""


def examine() -> list[Finding]:
    """Return all findings. None of them raises; what cannot be found out is said."""
    return [
        Finding("gpumlp", f"{gpumlp.__version__} in {os.path.dirname(gpumlp.__file__)}"),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("cores", _cores()),
        Finding("packages", ", ".join(_versions())),
        Finding("numpy's BLAS", _blas()),
        Finding("BLAS threads", _threads()),
        _kernels(),
        _compiler(),
        Finding("kernel cache", str(cache_folder() or "none: there is no home folder; set GPUMLP_CACHE to have one")),
        _cupy(),
        Finding("backends", f"{', '.join(backend.BACKENDS)}; auto takes {backend.get('auto').name}"),
    ]


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()} may be used"


def _versions() -> Iterator[str]:
    for name in ("numpy", "click", "pyyaml", "pydantic", "rich", "safetensors"):
        yield f"{name} {importlib.metadata.version(name)}"


def _blas() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _threads() -> str:
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return ", ".join(given) if given else "one for each core (set OMP_NUM_THREADS to change it)"


def _kernels() -> Finding:
    place = folder()
    return (
        Finding("kernel files", str(place)) if place else Finding("kernel files", "not found", "install gpumlp again")
    )


def _compiler() -> Finding:
    found = compiler()
    if found is None:
        return Finding("C++ compiler", "none: operations run in NumPy", "install g++ or clang for the backend native")
    try:
        NativeBackend()
    except BackendError as error:
        return Finding("C++ compiler", f"{' '.join(found)}, but {error.what}", error.hint or "")
    return Finding("C++ compiler", f"{' '.join(found)}; kernels compile and load")


def _cupy() -> Finding:
    found = importlib.util.find_spec("cupy") is not None
    return Finding("CuPy", f"{'installed' if found else 'not installed'} (not used by this version)")

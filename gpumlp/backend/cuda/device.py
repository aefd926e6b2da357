"""CuPy, the driver and a device: what there is, and what to do about whatever is missing or fails.

CuPy is imported here and nowhere else, and only when somebody asks for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gpumlp.errors import BackendError

PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
INSTALL = "pip install 'gpumlp[gpu]' (CUDA 12) or 'gpumlp[gpu13]' (CUDA 13)"
INSTEAD = "backend: native computes on the CPU"

HINTS: dict[tuple[str, ...], tuple[str, str]] = {
    ("OutOfMemoryError", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED"): (
        "the device has no memory left",
        "lower training.batch_size or the widths of model.hidden, or set precision: bf16; nvidia-smi shows whether "
        "another program holds the memory",
    ),
    ("cannot open source file", "could not open source file", "Failed to find CUDA headers"): (
        "the headers of CUDA, which CuPy compiles with, are missing",
        f"{INSTALL} brings them, or let CUDA_PATH name a CUDA toolkit",
    ),
    ("libnvrtc", "nvrtc64"): (
        "NVRTC, which compiles the kernels, is missing",
        f"{INSTALL} brings it, or let CUDA_PATH name a CUDA toolkit",
    ),
    ("NcclError", "NCCL_ERROR"): (
        "NCCL, which exchanges gradients between GPUs, has failed",
        "NCCL_DEBUG=INFO shows why; GPUMLP_NCCL=0 exchanges through the memory of the hosts",
    ),
    ("libcublas", "cublas64"): (
        "cuBLAS, which multiplies matrices, is missing",
        f"{INSTALL} brings it, or let CUDA_PATH name a CUDA toolkit",
    ),
    ("CompileException", "NVRTCError"): (
        "a kernel does not compile",
        f"gpumlp doctor shows the versions of CuPy, NVRTC and the driver; {INSTEAD}",
    ),
    ("cudaErrorInsufficientDriver", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "cudaErrorSystemDriverMismatch"): (
        "the NVIDIA driver is too old for this CuPy",
        "update the driver, or exchange CuPy: 'gpumlp[gpu]' (CUDA 12) runs on older drivers than 'gpumlp[gpu13]'",
    ),
    ("cudaErrorNoDevice",): (
        "the NVIDIA driver finds no device",
        "nvidia-smi lists the devices; CUDA_VISIBLE_DEVICES may hide them; a container is started with --gpus all",
    ),
    ("cudaErrorDevicesUnavailable", "cudaErrorDeviceUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE"): (
        "the device is busy, or kept for another program",
        "nvidia-smi shows who holds it; CUDA_VISIBLE_DEVICES chooses another",
    ),
    ("cudaErrorInitializationError", "cudaErrorUnknown", "cudaErrorSystemNotReady"): (
        "the device does not answer",
        "does nvidia-smi work? After a fork, start the other process with 'spawn'",
    ),
}
"""What CuPy's errors mean, by parts of their names and messages, and what to do. The first that fits is shown."""


def is_installed() -> bool:
    """Return whether there is a CuPy, without importing it."""
    return importlib.util.find_spec("cupy") is not None


def packages() -> list[str]:
    """Return the installed packages that bring CuPy, with their versions: one, if all is well."""
    names = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            names.append(f"{name} {importlib.metadata.version(name)}")
    return names


def has_driver() -> bool:
    """Return whether NVIDIA's driver library is there: in microseconds, where importing CuPy takes a second."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def load() -> ModuleType:
    """Return the module ``cupy``. Raises BackendError, with the mend, where it cannot be had or used."""
    if not is_installed():
        raise BackendError("CuPy is not installed", where="backend cupy", hint=INSTALL)
    if len(installed := packages()) > 1:
        message = f"these packages overwrite each other: {', '.join(installed)}"
        names = " ".join(each.split()[0] for each in installed)
        raise BackendError(message, where="backend cupy", hint=f"pip uninstall {names}, then {INSTALL}")
    if not has_driver():
        raise BackendError(
            f"there is no NVIDIA driver: {DRIVER} is not found",
            where="backend cupy",
            hint="install the driver of the device (a container is started with --gpus all)",
        )
    if cache := os.environ.get("GPUMLP_CACHE"):
        os.environ.setdefault("CUPY_CACHE_DIR", os.path.join(cache, "cupy"))
    try:
        return importlib.import_module("cupy")
    except Exception as error:  # whatever a broken installation raises
        message = f"CuPy is installed, but cannot be imported: {_first_line(error)}"
        hint = f"pip uninstall {installed[0].split()[0] if installed else 'cupy'}, then {INSTALL}"
        raise BackendError(message, where="backend cupy", hint=hint) from error


def choose(xp: Any, number: int, turn: int = 0) -> Any:
    """Return CuPy's device of that number, or so many behind it, once it has answered.

    Raises BackendError where there is none.
    """
    with explained("backend cupy"):
        count = xp.cuda.runtime.getDeviceCount()
        if not 0 <= number < count:
            hint = f"devices here: {', '.join(map(str, range(count)))}"
            raise BackendError(f"there is no device {number}", where="backend cupy", hint=hint)
        device = xp.cuda.Device((number + turn) % count)
        with device:
            xp.cuda.runtime.memGetInfo()
        return device


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what CuPy raises in this context into a BackendError that says what to do."""
    try:
        yield
    except Exception as error:
        if (known := explain(error, where)) is None:
            raise
        raise known from error


def explain(error: Exception, where: str) -> BackendError | None:
    """Return what an error of CuPy means, or None where it is not CuPy's."""
    kind, message = type(error), _first_line(error)
    text = f"{kind.__name__} {error}"
    from_cupy = kind.__module__.split(".")[0] in ("cupy", "cupy_backends", "cuda")
    if not from_cupy and not isinstance(error, ImportError | RuntimeError | OSError):
        return None
    # The rest of a message may list everything that was looked for.
    if known := meant(f"{kind.__name__} {message}", where, message) or meant(text, where, message):
        return known
    if not from_cupy:
        return None
    return BackendError(f"the device failed: {message}", where=where, hint=f"gpumlp doctor tests it; {INSTEAD}")


def meant(text: str, where: str, message: str = "") -> BackendError | None:
    """Return what a message of CUDA's libraries means by the signs in it, or None for one that has none."""
    for signs, (meaning, hint) in HINTS.items():
        if any(sign in text for sign in signs):
            return BackendError(f"{meaning} ({message or text})", where=where, hint=hint)
    return None


def _first_line(error: BaseException) -> str:
    lines = (line.strip(" =") for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)

"""What gpumlp finds on this machine, each finding with a mend where something is amiss."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpumlp
from gpumlp import backend
from gpumlp.backend.cuda import device
from gpumlp.backend.cuda.cublaslt import version
from gpumlp.backend.cuda.gpu import CupyBackend
from gpumlp.backend.cuda.graph import CudaGraph
from gpumlp.backend.host import prebuilt
from gpumlp.backend.host.builder import compiler
from gpumlp.backend.host.native import NativeBackend
from gpumlp.backend.kernels import folder
from gpumlp.errors import BackendError, GpumlpError
from gpumlp.limits import cache_folder, cores, gigabytes, threads

PACKAGES = (
    *("numpy", "duckdb", "arro3-core", "click", "pyyaml", "pydantic", "rich", "safetensors"),
    *("ml_dtypes", "matplotlib", "scikit-learn", "onnx", "optuna", "mpi4py", "tensorboardX", "mlflow-skinny"),
)
"""What gpumlp is installed with, then what its extras bring."""
MEMORY = Path("/proc/meminfo")
DRIVER = Path("/proc/driver/nvidia/version")


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
        Finding("cores", f"{cores()} of {os.cpu_count()} may be used"),
        Finding("memory", _memory()),
        Finding("packages", ", ".join(_versions())),
        Finding("numpy's BLAS", _blas()),
        Finding("threads", _threads()),
        _kernels(),
        _compiler(),
        Finding("kernel cache", str(cache_folder() or "none: there is no home folder; set GPUMLP_CACHE to have one")),
        *_gpu(),
        Finding("backends", _or_error(_backends)),
    ]


def _or_error(find: Callable[[], str]) -> str:
    """Return what a question to the machine brings, or that it has no answer: a page with a gap is still a page."""
    try:
        return find()
    except Exception as error:
        return f"cannot be found out ({type(error).__name__})"


def _backends() -> str:
    usable = [name for name in backend.BACKENDS if _can_be_had(name)]
    missing = [name for name in backend.BACKENDS if name not in usable]
    here = f"{', '.join(usable)} can be used here" + (f", {', '.join(missing)} cannot" if missing else "")
    return f"{here}; auto takes {backend.get('auto').name}"


def _can_be_had(name: str) -> bool:
    try:
        return backend.get(name).name == name
    except Exception:
        return False


def _memory() -> str:
    def find() -> str:
        sizes = {key: int(kilo) << 10 for key, kilo in re.findall(r"^(\w+): +(\d+) kB", MEMORY.read_text(), re.M)}
        return _free(sizes["MemAvailable"], sizes["MemTotal"])

    return _or_error(find)


def _free(free: int, total: int) -> str:
    return f"{gigabytes(free)} of {gigabytes(total)} free"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {name}"


def _blas() -> str:
    def find() -> str:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()

    return _or_error(find)


def _threads() -> str:
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    variables = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    blas = ", ".join(variables) if variables else "one for each core (set OMP_NUM_THREADS to change it)"
    return f"kernels {threads()}; BLAS {blas}"


def _kernels() -> Finding:
    kernel_folder = folder()
    return (
        Finding("kernel files", str(kernel_folder))
        if kernel_folder
        else Finding("kernel files", "not found", "install gpumlp again")
    )


def _compiler() -> Finding:
    command, carried = compiler(), prebuilt.folder()
    if command is None and carried is None:
        return Finding("C++ compiler", "none: operations run in NumPy", "install g++ or clang for the backend native")
    name = " ".join(command) if command else "none"
    try:
        backend = NativeBackend()
    except BackendError as error:
        return Finding("C++ compiler", f"{name}, but {error.what}", error.hint or "")
    products = f"products by {backend.products}"
    if command or carried is None:
        return Finding("C++ compiler", f"{name}; kernels compile and load, {products}")
    return Finding("C++ compiler", f"none; kernels that came with gpumlp load, made for {carried.name}, {products}")


# ---- the GPU -----------------------------------------------------------------------------------------------------


def _gpu() -> Iterator[Finding]:
    driver = device.has_driver()
    version = re.search(r"Module[^\n]*?  (\d[\d.]+)", DRIVER.read_text()) if DRIVER.exists() else None
    yield Finding("NVIDIA driver", (version[1] if version else "found") if driver else "none")
    if not device.is_installed():
        yield Finding("CuPy", "not installed", f"to compute on the GPU: {device.INSTALL}" if driver else "")
        return
    yield Finding("CuPy", ", ".join(device.packages()) or "found, but no package brought it")
    try:
        backend = CupyBackend()
    except GpumlpError as error:
        yield Finding("GPU", error.what, error.hint or "")
        return
    except Exception as error:  # the page goes on, whatever a broken driver does
        yield Finding("GPU", f"{type(error).__name__}: {error}", device.INSTEAD)
        return
    yield Finding("CUDA", _or_error(lambda: _cuda(backend.xp)))
    yield Finding(
        "NVRTC", _or_error(lambda: f"{_dotted(backend.xp.cuda.nvrtc.getVersion())}; kernels compile and run")
    )
    yield Finding("cuBLASLt", _or_error(lambda: _products(backend)))
    for number in range(backend.xp.cuda.runtime.getDeviceCount()):
        yield Finding(f"GPU {number}", _or_error(lambda number=number: _device(backend.xp, number)))  # type: ignore[misc]
    yield Finding("CuPy's cache", os.environ.get("CUPY_CACHE_DIR") or str(Path("~/.cupy/kernel_cache").expanduser()))


def _cuda(xp: Any) -> str:
    driver, runtime = (xp.cuda.runtime.driverGetVersion(), xp.cuda.runtime.runtimeGetVersion())
    return f"driver for {driver // 1000}.{driver % 1000 // 10}, runtime {runtime // 1000}.{runtime % 1000 // 10}"


def _products(backend: CupyBackend) -> str:
    """Multiply twice as a captured step would; say what came of it."""
    a = backend.zeros((16, 16), "float32")
    plan = backend.capture(lambda: backend.matmul(backend.matmul(a, a), a))
    if backend.lt is None:
        return "not there: CuPy multiplies, in float32 and between the graphs"
    graphs = "works inside a CUDA graph" if isinstance(plan.runs[0], CudaGraph) else "works, but without CUDA graphs"
    nan = "passes" if backend.trials.keeps_nan(a, a, a[0]) else "does not pass"
    return f"{version(backend.lt.library)}; {graphs}; NaN {nan} its ReLU"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _device(xp: Any, number: int) -> str:
    properties = xp.cuda.runtime.getDeviceProperties(number)
    capability = xp.cuda.Device(number).compute_capability
    with xp.cuda.Device(number):
        free, total = xp.cuda.runtime.memGetInfo()
    return (
        f"{properties['name'].decode()}, compute capability {capability[:-1]}.{capability[-1]}, "
        f"{properties['multiProcessorCount']} multiprocessors, {_free(free, total)}"
    )

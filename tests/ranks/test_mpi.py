"""Ranks that are processes: the same bits, and one that fails ends all with a message."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gpumlp.config import load
from gpumlp.runs import train
from ranks import processes
from ranks.cases import written
from ranks.test_runs import SETTINGS, config

__all__ = ["config"]  # a fixture

pytest.importorskip("mpi4py")
pytestmark = pytest.mark.skipif(processes.mpirun() is None, reason="there is no mpirun")

OVERRIDES = [part for setting in SETTINGS for part in ("--set", setting)]
LONG = ["--set", "training.epochs=100000", "--set", "training.early_stopping=null"]


def test_stopped_by_a_signal_and_resumed_on_another_number(config: Path, tmp_path: Path) -> None:
    """One rank of four is asked to end; two go on, and end as one rank does."""
    settings = ("training.epochs=40", "training.early_stopping=null")
    loaded, folder = load(config, [*SETTINGS, *settings]), tmp_path / "run"
    arguments = [config, *OVERRIDES, "--set", settings[0], "--set", settings[1], "--run-dir", folder]
    slow = "import time; from gpumlp.optim import Optimizer; step = Optimizer.step; "
    slow += "Optimizer.step = lambda *given: (time.sleep(0.02), step(*given))[1]"
    run = processes.start(4, *arguments, code=slow)
    processes.wait_for(lambda: any(folder.glob("checkpoints/step-*")))
    os.kill(processes.process_of(run, 3), signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143, err
    assert out == ""
    assert err.count("interrupted; resume from the last checkpoint with") == 1
    assert not (folder / "model").exists()
    run = processes.start(2, *arguments, "--resume", "-q")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert err == ""
    assert out.count("completed after 40 epochs") == 1
    train(loaded, tmp_path / "1")
    assert written(folder) == written(tmp_path / "1")


def test_a_rank_that_stands_still_is_named(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = processes.start(2, config, *OVERRIDES, *LONG, "--run-dir", folder, "-q", timeout=1)
    processes.wait_for(lambda: any(folder.glob("checkpoints/step-*")))
    os.kill(process := processes.process_of(run, 1), signal.SIGSTOP)
    try:
        _, err = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.kill(process, signal.SIGKILL)
            run.kill()
    assert run.returncode == 1
    assert "error: rank 0 (host " in err
    assert "waited 1 s for rank 1 (host " in err
    assert err.count("error: ") == 1


def test_a_rank_that_fails_alone_ends_all(config: Path, tmp_path: Path) -> None:
    """In the middle of training, where the other one waits for it."""
    code = "from gpumlp.optim import Optimizer; step = Optimizer.step; Optimizer.step = lambda *given: "
    code += "1 / 0 if rank == 1 and given[0].parameters.backend.capturing else step(*given)"
    run = processes.start(2, config, *OVERRIDES, "--run-dir", tmp_path / "run", "-q", code=code, timeout=3)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    assert "error: rank 1 (host " in err
    assert "ZeroDivisionError" in err


def test_what_all_ranks_find_wrong_is_printed_once(config: Path, tmp_path: Path) -> None:
    run = processes.start(2, config, "--set", "training.epocs=3", "--run-dir", tmp_path / "run")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    assert err.count("error: ") == 1
    assert "did you mean 'epochs'?" in err or "epochs" in err


@pytest.mark.parametrize("limit", [60, 1])
def test_a_rank_that_is_slow_changes_no_bit_or_is_named(config: Path, tmp_path: Path, limit: float) -> None:
    code = "import time; from gpumlp.training.trainer import Trainer; advance = Trainer.advance; "
    code += "Trainer.advance = lambda self, **more: (time.sleep(2.5 * (rank == 1 and self.steps == 9)), "
    code += "advance(self, **more))[1]"
    settings = ("--set", "training.epochs=3")
    run = processes.start(
        2, config, *OVERRIDES, *settings, "--run-dir", tmp_path / "2", "-q", code=code, timeout=limit
    )
    _, err = run.communicate(timeout=60)
    if limit == 1:
        assert run.returncode == 1
        assert "waited 1 s for rank 1 (host " in err
        return
    assert run.returncode == 0, err
    train(load(config, [*SETTINGS, settings[1]]), tmp_path / "1")
    assert written(tmp_path / "2") == written(tmp_path / "1")

"""What goes wrong with files and signals while a run is trained: one clear error each, and nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import gc
import gzip
import json
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.data.source import engine as engines
from gpumlp.data.source import query
from gpumlp.data.source.engine import engine
from gpumlp.errors import RunError, SignalError
from gpumlp.ranks import Ranks
from gpumlp.runs import load_model, train
from gpumlp.runs.folder import RunFolder
from gpumlp.runs.signals import signals
from gpumlp.store.formats import read_arrays
from gpumlp.training import trainer
from runs.killed import Stop
from tests.command import run
from tests.proof import MAKING, failing

Task = Callable[..., Loaded]
SETTINGS = ("training.epochs=3", "training.checkpoint_every=5", "model.norm=batch", "optimizer.averaging=0.9")


def model(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


# ---- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("batches", [1, 3, 7, 9])
def test_a_signal_ends_the_step_and_saves_it(
    task: Task, tmp_path: Path, number: signal.Signals, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "REPLAY_BUDGET_S", 0.0)  # step by step
    settings = SETTINGS[2:]
    train(task(*settings), tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(SignalError) as caught:
        train(task(*settings), tmp_path / "cut", listener=Stop(number, batches))
    assert caught.value.number == number
    assert signal.getsignal(number) is before
    assert [p.name for p in RunFolder(tmp_path / "cut").checkpoints()] == [f"step-{batches:09d}.safetensors"]
    train(task(*settings), tmp_path / "cut", resume=True)
    assert model(tmp_path / "cut") == model(tmp_path / "whole")


@pytest.mark.parametrize("batches", [3, 7, 9])
def test_a_signal_within_steps_that_are_one_call(
    task: Task, tmp_path: Path, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "REPLAY_BUDGET_S", math.inf)
    monkeypatch.setattr(Backend, "together", 4)
    train(task(*SETTINGS[2:]), tmp_path / "whole")
    with pytest.raises(SignalError):
        train(task(*SETTINGS[2:]), tmp_path / "cut", listener=Stop(signal.SIGINT, batches))
    (checkpoint,) = RunFolder(tmp_path / "cut").checkpoints()
    assert batches <= int(checkpoint.stem.removeprefix("step-")) < batches + 4
    train(task(*SETTINGS[2:]), tmp_path / "cut", resume=True)
    assert model(tmp_path / "cut") == model(tmp_path / "whole")


def test_a_second_signal_does_not_wait(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SignalError):
        train(task(*SETTINGS[2:]), tmp_path / "cut", listener=Stop(signal.SIGINT, 3, again=True))
    assert RunFolder(tmp_path / "cut").checkpoints() == []


def test_a_signal_in_the_last_step_lets_the_run_end(task: Task, tmp_path: Path) -> None:
    result = train(task("training.epochs=1"), tmp_path / "run", listener=Stop(signal.SIGTERM, 7))
    assert result.summary["status"] == "completed"


def test_what_is_ignored_stays_ignored(task: Task, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(task(), tmp_path / "run", listener=Stop(signal.SIGINT, 3)).summary["status"] == "completed"
    finally:
        signal.signal(signal.SIGINT, before)


HOURS = "select p.* from 'points.csv' p, 'points.csv' a, 'points.csv' b, 'points.csv' c, 'points.csv' d"
"""A query that would take very long."""


@contextmanager
def signal_when_the_engine_works(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> Iterator[None]:
    """Send a signal soon after the engine of the data has begun with a query."""
    timers: list[threading.Timer] = []

    @contextmanager
    def begun(*arguments: Any, **options: Any) -> Iterator[Any]:
        with engine(*arguments, **options) as connection:
            if arguments[0]:  # it reads files
                timers.append(threading.Timer(0.1, os.kill, (os.getpid(), number)))
                timers[-1].start()
            yield connection

    monkeypatch.setattr(query, "engine", begun)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_engine_reads(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (tmp_path / "left").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "left"))
    began = time.monotonic()
    with signal_when_the_engine_works(monkeypatch, number), pytest.raises(SignalError) as caught:
        train(task("data.train=null", f"data.query={HOURS}"), tmp_path / "run")
    assert caught.value.number == number
    assert time.monotonic() - began < 20
    assert not (tmp_path / "run").exists()
    del caught  # its frames keep the temporary file
    gc.collect()
    assert list((tmp_path / "left").iterdir()) == []


def test_an_error_of_the_engine_that_a_signal_ended() -> None:
    with pytest.raises(KeyboardInterrupt), engines.refusals():
        raise RuntimeError("Query interrupted")
    with pytest.raises(KeyboardInterrupt), engines.refusals():
        raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
    with pytest.raises(RuntimeError, match="another"), engines.refusals():
        raise RuntimeError("another")


def test_a_signal_whose_error_a_library_has_replaced() -> None:
    @contextmanager
    def replaced() -> Iterator[None]:
        try:
            yield
        except SignalError:
            raise KeyboardInterrupt from None

    with pytest.raises(SignalError) as caught, signals(Ranks()), replaced():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_ctrl_c_while_the_engine_reads_without_a_run(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task()
    with signal_when_the_engine_works(monkeypatch, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        query.read_query(HOURS, tmp_path)


def test_sigterm_outside_a_run_leaves_no_temporary_file(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task()
    (tmp_path / "left").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "left"))
    header, *rows = (tmp_path / "points.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(header + b"".join(rows) * 600, compresslevel=0))
    unpacked: list[Path] = []

    @contextmanager
    def killed(*arguments: Any, **options: Any) -> Iterator[Any]:
        unpacked.extend((tmp_path / "left").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        with engine(*arguments, **options) as connection:
            yield connection

    monkeypatch.setattr(engines, "engine", killed)
    result = run("init", tmp_path / "packed.csv.gz", code=143)
    assert result.stderr == "error: interrupted\n"
    assert unpacked
    gc.collect()
    assert list((tmp_path / "left").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on(task: Task, tmp_path: Path, number: signal.Signals, code: int) -> None:
    task()
    arguments = ["train", str(tmp_path / "points.yaml"), "--run-dir", str(tmp_path / "run"), "--set"]
    command = [sys.executable, "-m", "gpumlp", *arguments, "training={epochs: 1000000, checkpoint_every: 50}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not RunFolder(tmp_path / "run").checkpoints():
        assert process.poll() is None
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert told.splitlines()[-1].startswith("interrupted; resume from the last checkpoint with: gpumlp train ")
    assert told.splitlines()[-1].endswith("--resume")
    assert "Traceback" not in told


# ---- a disk that is full, a folder that is read-only ---------------------------------------------------


def is_whole(folder: Path) -> None:
    """Check that each file there is what it should be: none is cut, none is temporary."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".part")
        if path.suffix == ".safetensors":
            read_arrays(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line)["epoch"] for line in path.read_text().splitlines())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_an_error_at_each_write(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which is slow, and changes nothing here
    settings = ("training.epochs=2", *SETTINGS[1:])
    train(task(*settings), tmp_path / "whole")
    error: RunError | None
    at, names = 0, set[str]()
    while True:
        at += 1
        folder = tmp_path / str(at)
        with failing(at, code, for_good=True, changes=MAKING) as calls:
            try:
                train(task(*settings), folder)
                break
            except RunError as caught:
                error = caught
        assert os.strerror(code) in str(error)
        assert error.exit_code == 1
        if RunFolder(folder).is_run:
            assert f"--run-dir {folder} --resume" in str(error)
        else:
            assert not folder.exists()
        is_whole(tmp_path)
        train(task(*settings), folder, resume=True)
        assert model(folder) == model(tmp_path / "whole"), f"after an error at write {at}, {calls[at - 1]}"
        names.add(calls[at - 1])
    assert names == {"write", "fsync", "replace", "mkdir"}
    assert at > 25


def test_only_what_can_be_written_is_brought_to_the_disk(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to flush a file that is open for reading."""
    fcntl = pytest.importorskip("fcntl", reason="the system itself refuses it")
    flushed = 0

    def strict(handle: int) -> None:
        nonlocal flushed
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        assert is_folder or fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flushed += 1

    monkeypatch.setattr(os, "fsync", strict)
    train(task(*SETTINGS), tmp_path / "run")
    assert flushed > 10


def test_a_file_that_the_system_lets_grow_no_further(task: Task, tmp_path: Path) -> None:
    """Not simulated: the system refuses to write beyond a size, in the middle of a file."""
    resource = pytest.importorskip("resource", reason="there is no limit on the size of files")
    train(task(*SETTINGS), tmp_path / "whole")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    few = 64  # bytes: the times that a file tells of are longer or shorter by some digits in another run
    for number, size in enumerate({1, sizes[len(sizes) // 2] - few, sizes[-1] - few}):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(RunError, match="File too large"):
                train(task(*SETTINGS), tmp_path / str(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        is_whole(tmp_path)
        train(task(*SETTINGS), tmp_path / str(number), resume=True)
        assert model(tmp_path / str(number)) == model(tmp_path / "whole")


# ---- bytes that are not what they were -----------------------------------------------------------------


def flipped(path: Path, step: int = 1) -> Iterator[int]:
    """Yield each ``step``-th position of a file while the byte there is another; afterwards it is as it was."""
    whole = path.read_bytes()
    for position in range(0, len(whole), step):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        yield position
    path.write_bytes(whole)


def test_a_flipped_byte_of_a_checkpoint_is_seen(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SignalError):
        train(task(*SETTINGS), tmp_path / "run", listener=Stop(signal.SIGTERM, 9))
    path = RunFolder(tmp_path / "run").checkpoints()[0]
    whole, meta = read_arrays(path)
    for position in flipped(path, 3):
        found: list[Any] = []
        with contextlib.suppress(RunError):
            found += read_arrays(path)
        if not found:
            with pytest.raises(RunError, match="damaged"):
                read_arrays(path)
            continue
        # The last of the 17 digits of a time may be another one of the same number.
        same = found[1] == meta and all(np.array_equal(found[0][name], array) for name, array in whole.items())
        assert same, f"byte {position} of {path.name}"


def test_a_cut_checkpoint_is_seen(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SignalError):
        train(task(*SETTINGS), tmp_path / "run", listener=Stop(signal.SIGTERM, 9))
    path = RunFolder(tmp_path / "run").checkpoints()[0]
    content = path.read_bytes()
    for length in range(0, len(content), 31):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match="damaged"):
            read_arrays(path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_flipped_byte_of_a_model_is_seen(task: Task, tmp_path: Path, name: str) -> None:
    """Unless it is a blank between two items of JSON, and means nothing."""
    folder = train(task(*SETTINGS), tmp_path / "run").folder / "model"
    path = folder / name
    meant = path.read_bytes()
    for position in flipped(path, 3):
        if name == "model.json" and _means_the_same(path, json.loads(meant)):
            continue
        with pytest.raises(RunError, match=r"damaged|do not belong|not a model|cannot be read|update gpumlp|format"):
            pytest.fail(f"byte {position} of {name}: {load_model(folder, Backend())}")
    load_model(folder, Backend())


def _means_the_same(path: Path, meant: object) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == meant)
    except ValueError:
        return False


def test_with_every_checkpoint_damaged_a_run_begins_again(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(task(*SETTINGS), tmp_path / "whole")
    with pytest.raises(SignalError):
        train(task(*SETTINGS), tmp_path / "cut", listener=Stop(signal.SIGTERM, 16))
    checkpoints = RunFolder(tmp_path / "cut").checkpoints()
    assert len(checkpoints) == 3
    for path in checkpoints:
        path.write_bytes(b"")
    with caplog.at_level("INFO", "gpumlp"):
        train(task(*SETTINGS), tmp_path / "cut", resume=True)
    assert [r.levelname for r in caplog.records if "checkpoint" in r.message] == ["WARNING"] * 3 + ["INFO"]
    assert model(tmp_path / "cut") == model(tmp_path / "whole")


def test_a_history_that_was_lost_counts_as_damage(task: Task, tmp_path: Path) -> None:
    """As after a power cut, when the disk had not kept what a program had written."""
    train(task(*SETTINGS), tmp_path / "whole")
    with pytest.raises(SignalError):
        train(task(*SETTINGS), tmp_path / "cut", listener=Stop(signal.SIGTERM, 9))
    (tmp_path / "cut" / "metrics.jsonl").write_text("")
    train(task(*SETTINGS), tmp_path / "cut", resume=True)
    assert model(tmp_path / "cut") == model(tmp_path / "whole")
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 3

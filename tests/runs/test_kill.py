"""A run that is killed at any moment and resumed ends with the very bytes of one that was left alone.

Runs are processes forked from a server that has everything imported, so that twenty of them start in seconds. They
flush nothing: a killed process, unlike a power cut, takes nothing along that has been given to the system.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from gpumlp.config import Loaded, load
from gpumlp.errors import SignalError
from gpumlp.runs import train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

MOMENTS = 20
SETTINGS = (
    "training.epochs=4",
    "training.checkpoint_every=4",
    "optimizer={name: adam, averaging: 0.9, clip_norm: 0.5}",
    "model={hidden: [8], norm: batch, dropout: 0.3}",
    "schedule={name: plateau, patience: 1}",
    "training.early_stopping={patience: 3}",
)


SEVERAL = (*SETTINGS, "members={count: 3, learning_rate: [0.01, 0.03, 1e38]}")
"""Three networks, of which one stops early, and the last diverges."""


def run(folder: Path, *, resume: bool, fatal: int | None = None, settings: tuple[str, ...] = SETTINGS) -> None:
    """Train in this process; die at the ``fatal``-th call that changes what is on the disk."""
    os.fsync = lambda handle: None
    if fatal is not None:
        left = fatal

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return wrapped

        for owner, name in CHANGES:
            setattr(owner, name, dying(getattr(owner, name)))
    try:
        train(load(folder.parent / "points.yaml", settings), folder, resume=resume)
    except SignalError as error:
        sys.exit(128 + error.number)


CHANGES = ((os, "fsync"), (os, "replace"), (Path, "mkdir"), (Path, "unlink"))


@pytest.fixture(scope="module")
def start() -> Callable[..., BaseProcess]:
    """Return a function that starts a run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpumlp.runs", "numpy.ma", "pytest"])

    def start(folder: Path, **options: Any) -> BaseProcess:
        process = context.Process(target=run, args=(folder,), kwargs=options)
        process.start()
        return process

    return start


@pytest.fixture
def whole(task: Callable[..., Loaded], tmp_path: Path) -> dict[str, bytes]:
    """The model of a run that was left alone, and never paused for a checkpoint either."""
    train(task(*SETTINGS, "training.checkpoint_every=null"), tmp_path / "whole")
    return model(tmp_path / "whole")


def model(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def seen(process: BaseProcess, folder: Path) -> float:
    """Wait until a run has its folder; return when that was."""
    while not folder.exists() and process.is_alive():
        time.sleep(1e-4)
    return time.perf_counter()


def finish(start: Callable[..., BaseProcess], folder: Path, **options: Any) -> dict[str, bytes]:
    process = start(folder, resume=True, **options)
    process.join()
    assert process.exitcode == 0
    assert not list(folder.rglob("*.part"))
    return model(folder)


def test_killed_at_random_moments(start: Callable[..., BaseProcess], whole: dict[str, bytes], tmp_path: Path) -> None:
    """Twenty kills that hit, each by SIGKILL, from the moment on at which there is a folder."""
    random_ = random.Random(6)
    start(tmp_path / "first", resume=False).join()  # starts the server, too
    process = start(tmp_path / "timed", resume=False)
    began = seen(process, tmp_path / "timed")
    process.join()
    span = time.perf_counter() - began
    places: set[int] = set()
    kills = runs = 0
    while kills < MOMENTS:
        runs += 1
        folder = tmp_path / str(runs)
        process = start(folder, resume=False)
        seen(process, folder)
        time.sleep(random_.uniform(0.0, span))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            places.add(max((int(p.stem[5:]) for p in folder.glob("checkpoints/step-*")), default=0))
        assert finish(start, folder) == whole, f"after {kills} kills"
    assert len(places) > 3, f"the kills hit too few places: {sorted(places)}"


def test_several_networks_killed_at_random_moments(
    start: Callable[..., BaseProcess], task: Callable[..., Loaded], tmp_path: Path
) -> None:
    """Some of them have ended already: what a run remembers of each of them goes through the checkpoint."""
    train(task(*SEVERAL, "training.checkpoint_every=null"), tmp_path / "whole")
    whole, random_ = model(tmp_path / "whole"), random.Random(7)
    start(tmp_path / "first", resume=False, settings=SEVERAL).join()
    process = start(tmp_path / "timed", resume=False, settings=SEVERAL)
    began = seen(process, tmp_path / "timed")
    process.join()
    span, kills = time.perf_counter() - began, 0
    while kills < 4:
        folder = tmp_path / str(random_.random())
        process = start(folder, resume=False, settings=SEVERAL)
        seen(process, folder)
        time.sleep(random_.uniform(0.0, span))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert finish(start, folder, settings=SEVERAL) == whole, f"after {kills} kills"


def test_killed_before_every_change_on_the_disk(
    start: Callable[..., BaseProcess], whole: dict[str, bytes], tmp_path: Path
) -> None:
    fatal, survived = 0, False
    while not survived:
        fatal += 1
        folder = tmp_path / str(fatal)
        process = start(folder, resume=False, fatal=fatal)
        process.join()
        survived = process.exitcode == 0
        assert survived or process.exitcode == -signal.SIGKILL
        assert finish(start, folder) == whole, f"killed before change {fatal}"
    assert fatal > 30

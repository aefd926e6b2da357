"""What all tests share. This file also puts its folder on the path, so that every test finds ``support``."""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpumlp import backend as backends
from gpumlp.backend import BACKENDS, Backend
from gpumlp.config import Loaded, load
from gpumlp.errors import BackendError
from gpumlp.training import trainer

os.environ.setdefault("MKL_NUM_THREADS", "1")  # of PyTorch, whose threads wait for each other in small operations
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background is started without
trainer.REPLAY_BUDGET_S = math.inf  # on a machine however busy, as many steps are replayed together


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Search for no garbage while the modules of all tests are imported, which stay: a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


LONGEST = (
    "backend/test_nvrtc.py",
    "backend/test_edges.py",
    "test_docs.py",
    "test_setup.py",
    "runs/test_kill.py",
    "data/test_engine.py",
    "cli/test_cli.py",
    "runs/test_proof.py",
    "mutants/test_mutants.py",
    "runs/test_run.py",
    "runs/test_faults.py",
    "bench/test_gpu.py",
    "backend/test_agreement.py",
    "backend/test_checked.py",
    "backend/test_blocks.py",
    "bench/test_scripts.py",
    "test_sklearn.py",
    "ranks/test_mpi.py",
)
"""Files that take the longest: a worker that begins one of them last would work alone at the end.

The edges come long before the agreement, for which they leave the kernels compiled.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, in the order of ``LONGEST``."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(params=[*BACKENDS])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that this machine can have."""
    try:
        return backends.get(request.param)
    except BackendError as error:
        pytest.skip(f"no backend {request.param} here: {error.what}")


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Loaded]:
    """Return a function that writes a small task with three classes and loads its configuration."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    labels = rng.integers(0, 3, 150)
    points = centres[labels] + rng.standard_normal((150, 2))
    rows = [
        f"{a:.4f},{b:.4f},{i % 3 + 1},{'xyz'[c]}" for i, ((a, b), c) in enumerate(zip(points, labels, strict=True))
    ]
    (tmp_path / "points.csv").write_text("\n".join(["a,b,w,class", *rows]) + "\n")
    (tmp_path / "points.yaml").write_text(
        "task: classification\n"
        "data: {train: points.csv, target: class, drop: [w]}\n"
        "model: {hidden: [8], activation: tanh}\n"
        "optimizer: {name: adam, learning_rate: 1e-2, averaging: null}\n"
        "training: {epochs: 6, batch_size: 16, early_stopping: null}\n"
    )

    def make(*overrides: str) -> Loaded:
        return load(tmp_path / "points.yaml", overrides)

    return make

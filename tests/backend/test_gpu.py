"""What only a device can show. Its kernels agree with their formulas in `test_agreement.py`; here it trains.

Run with ``pytest -m gpu`` on a machine where one answers; skipped, with the reason, everywhere else.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.test_native import training_run
from gpumlp.backend import Backend, CupyBackend
from gpumlp.config import load
from gpumlp.errors import BackendError
from gpumlp.ops import LOSS_RECORDS, RECORDS
from gpumlp.optim import OPTIMIZERS
from gpumlp.training import train

pytestmark = pytest.mark.gpu

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture(scope="module")
def cupy() -> CupyBackend:
    try:
        return CupyBackend()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_agrees_with_the_reference_and_replays_bit_for_bit(cupy: CupyBackend, optimizer: str) -> None:
    eager, parameters = training_run(cupy, optimizer, captured=False)
    assert training_run(cupy, optimizer, captured=True) == (eager, parameters)
    reference, _ = training_run(Backend(), optimizer, captured=True)
    np.testing.assert_allclose(eager, reference, rtol=1e-4)


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "diabetes"])
def test_a_whole_run_ends_as_on_the_processor(cupy: CupyBackend, name: str, tmp_path: Path) -> None:
    found = {}
    for backend in ("cupy", "numpy"):
        settings = [f"backend={backend}", "training.epochs=3", "training.early_stopping=null"]
        summary = train(load(CONFIGS / f"{name}.yaml", settings), tmp_path / backend).summary
        found[backend] = summary["metrics"]["train"]["loss"]
    assert found["cupy"] == pytest.approx(found["numpy"], rel=1e-3)


@pytest.mark.parametrize(("rows", "cols"), [(1000, 10), (300, 5000), (20000, 3)])
def test_the_same_bits_every_time(cupy: CupyBackend, rows: int, cols: int) -> None:
    """Sums of many parts, twenty times over."""
    rng = np.random.default_rng(0)
    z = cupy.asarray(rng.standard_normal((rows, cols)).astype(np.float32))
    labels = cupy.asarray(rng.integers(0, cols, rows).astype(np.int32))
    runs: list[tuple[Any, tuple[Any, ...]]] = [
        (LOSS_RECORDS["softmax_cross_entropy"], (z, labels, None, None)),
        (RECORDS["gradient_norm"], (z.reshape(-1),)),
    ]
    for op, inputs in runs:
        results = {b"".join(cupy.to_host(a).tobytes() for a in cupy.run(op, "forward", inputs)) for _ in range(20)}
        assert len(results) == 1
    pairs = {
        tuple(cupy.to_host(a).tobytes() for a in cupy.run(RECORDS["tanh"], "bias_backward", (z, z)))
        for _ in range(20)
    }
    assert len(pairs) == 1


def test_a_plan_keeps_its_memory(cupy: CupyBackend) -> None:
    """Memory that is freed goes to the next who asks: nothing that a plan touches may be among it."""
    x = cupy.asarray(np.linspace(-1, 1, 6000, dtype=np.float32).reshape(60, 100))
    plan = cupy.capture(lambda: cupy.run(RECORDS["tanh"], "bias_backward", (x, x)))
    before = [cupy.to_host(a) for a in plan.result]
    gc.collect()
    junk = [cupy.asarray(np.full(n, np.nan, np.float32)) for n in (100, 200, 400, 6000) for _ in range(50)]
    for got, want in zip(plan(), before, strict=True):
        np.testing.assert_array_equal(cupy.to_host(got), want)
    del junk


def test_more_memory_than_there_is(cupy: CupyBackend) -> None:
    with pytest.raises(BackendError, match="no memory left"):
        cupy.empty((1 << 50,), np.float32)
    assert cupy.to_host(cupy.zeros((2,), np.float32)).tolist() == [0, 0]

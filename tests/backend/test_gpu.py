"""What only a device can show. Its kernels agree with their formulas in `test_agreement.py`; here it trains.

Run with ``pytest -m gpu`` on a machine where one answers; skipped, with the reason, everywhere else.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.test_cublaslt import ORDERS, VIEWS, check_views
from backend.test_graph import state, trainer
from backend.test_native import training_run
from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.cuda.cublaslt import Epilogue
from gpumlp.backend.cuda.graph import CudaGraph, LaunchNode
from gpumlp.config import load
from gpumlp.errors import BackendError
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS
from gpumlp.optim import OPTIMIZERS
from gpumlp.runs import train

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


# ---- cuBLASLt and graphs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lt(cupy: CupyBackend) -> CupyBackend:
    if cupy.lt is None:
        pytest.skip("there is no cuBLASLt")
    return cupy


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 3, 4), (33, 17, 8), (128, 784, 256), (257, 64, 10)])
@pytest.mark.parametrize("order", ORDERS)
def test_products(lt: CupyBackend, order: str, m: int, k: int, n: int, dtype: str) -> None:
    """Whole numbers, so that every type and every order of summing is exact."""
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-2, 3, shape).astype(kind) for shape in ((m, k), (k, n)))
    left, right = ORDERS[order](a, b)
    given = [lt.asarray(each) if each.flags.c_contiguous else lt.asarray(each.T).T for each in (left, right)]
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    for narrow in (kind, np.float32) if dtype == "bfloat16" else (kind,):
        out = lt.asarray(np.full((m, n), np.nan, narrow))
        assert lt.lt is not None
        assert lt.lt.product(*given, out) is not None, "cuBLASLt has no algorithm"
        lt.matmul(*given, out=out)
        np.testing.assert_array_equal(lt.to_host(out).astype(np.float64), wanted.astype(narrow).astype(np.float64))


@pytest.mark.parametrize("view", VIEWS)
def test_products_of_views(lt: CupyBackend, view: str) -> None:
    check_views(lt, view)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(16, 16, 16), (64, 64, 64), (256, 256, 256), (1024, 784, 1024), (33, 5, 10)]
)
def test_nan_and_zeros_through_the_relu_of_cublaslt(lt: CupyBackend, m: int, k: int, n: int, dtype: Any) -> None:
    """NaN must come through as it does through ours; only then is the epilogue used at all."""
    assert lt.lt is not None
    bias = np.resize(np.array([np.nan, -0.0, np.inf, -np.inf, 1.0, -1.0], dtype), n)
    x, W = lt.zeros((m, k), dtype), lt.zeros((k, n), dtype)
    b = lt.asarray(bias)
    product = lt.lt.product(x, W, lt.zeros((m, n), dtype), Epilogue.RELU_BIAS, b)
    if product is None:
        pytest.skip("this epilogue is not offered")
    with lt.quiet():
        product()
    if not lt.trials.keeps_nan(x, W, b):
        pytest.skip("cuBLASLt drops NaN here, so its ReLU is not used")
    np.testing.assert_array_equal(lt.to_host(product.out), np.broadcast_to(np.maximum(bias, 0), (m, n)))


@pytest.mark.parametrize("name", ["relu", "identity"])
@pytest.mark.parametrize(("m", "k", "n"), [(7, 5, 3), (64, 64, 64), (1024, 784, 1024)])
def test_a_layer_in_one_launch_is_one_in_two(lt: CupyBackend, name: str, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [lt.asarray(rng.integers(-2, 3, shape).astype(np.float32)) for shape in ((m, k), (k, n), (n,))]
    two, _ = Backend.dense(lt, ACTIVATIONS[name], *arrays)
    one, _ = lt.dense(ACTIVATIONS[name], *arrays)
    np.testing.assert_array_equal(lt.to_host(one), lt.to_host(two))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["relu", "identity", "tanh"])
@pytest.mark.parametrize(("m", "k", "n"), [(7, 5, 3), (64, 64, 64), (1024, 784, 1024)])
def test_gradients_of_a_layer_are_the_same_either_way(
    lt: CupyBackend, name: str, m: int, k: int, n: int, dtype: str
) -> None:
    """Of narrow operands, too, whose dW and db are float32: cuBLASLt takes a vector of the type of its result."""
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    x, W, dy = (lt.asarray(rng.integers(-2, 3, shape).astype(kind)) for shape in ((m, k), (k, n), (m, n)))
    saved = lt.asarray(rng.integers(-1, 2, (m, n)).astype(kind))
    places = [lt.asarray(np.full(shape, np.nan, np.float32)) for shape in ((k, n), (n,))]
    one = lt.dense_backward(ACTIVATIONS[name], x, W, saved, dy, [True, *places], np.dtype(np.float32))
    two = Backend.dense_backward(lt, ACTIVATIONS[name], x, W, saved, dy, [True] * 3, np.dtype(np.float32))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(lt.to_host(a), lt.to_host(b))


def test_tf32_is_nearly_float32(lt: CupyBackend) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(2))
    fast, exact = CupyBackend(lt.device.id, tf32=True), a.astype(np.float64) @ b
    errors = [
        np.linalg.norm(each.to_host(each.matmul(each.asarray(a), each.asarray(b))) - exact) / np.linalg.norm(exact)
        for each in (lt, fast)
    ]
    assert errors[0] < 1e-6
    assert errors[1] < 1e-3


def test_a_step_is_one_graph(lt: CupyBackend, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gpumlp"):
        plan = trainer(lt).captured()
    assert not caplog.records
    assert [type(run) for run in plan.runs] == [CudaGraph]


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_epochs_end_in_the_same_bits_each_way(lt: CupyBackend, activation: str) -> None:
    """One graph a step, many steps a graph, no graph; twice."""
    found = set()
    for graphs, together in ((True, 16), (True, 1), (False, 1), (True, 16)):
        own = trainer(CupyBackend(lt.device.id, graphs=graphs), activation=activation, together=together)
        for _ in range(3):
            own.run_epoch()
        found.add(tuple(state(own)))
    assert len(found) == 1


def test_graphs_of_two_plans_take_turns(lt: CupyBackend) -> None:
    mixed, apart = ([trainer(lt, activation=name) for name in ("relu", "tanh")] for _ in range(2))
    for own in apart:
        own.run_epoch()
    for _ in range(mixed[0].batches):
        for own in mixed:
            own.advance(every=1)
    assert [state(own) for own in mixed] == [state(own) for own in apart]


def test_a_capture_that_fails_leaves_the_backend_usable(cupy: CupyBackend, caplog: pytest.LogCaptureFixture) -> None:
    """CuPy's own product may not be captured; nor may memory be made."""
    x = cupy.asarray(np.eye(8, dtype=np.float32))

    class Refused(LaunchNode):
        def __init__(self, act: Any) -> None:
            self.act, self.reads, self.writes = act, (), ()

        def put(self, stream: Any = None) -> None:
            self.act()

    for act in (lambda: cupy.xp.matmul(x, x), lambda: cupy.xp.empty(5000), lambda: cupy.xp.asnumpy(x)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gpumlp"):
            plan = cupy.capture(lambda act=act: [cupy._call("refused", Refused(act), ()) for _ in range(2)])  # type: ignore[misc]
        assert len(caplog.records) == 1
        plan()
        (y,) = cupy.capture(lambda: [cupy.run(RECORDS["tanh"], "forward", (x,))[0] for _ in range(2)][:1])()
        np.testing.assert_allclose(cupy.to_host(y), np.tanh(np.eye(8)), rtol=1e-6)

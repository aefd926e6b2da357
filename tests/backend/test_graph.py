"""Steps as CUDA graphs, on a fake that captures: what is in them, what stays between, what happens if one fails."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import bits

from backend import fake_cupy
from backend.fake_cupy import CUDARuntimeError, Cupy, OutOfMemoryError, installed
from backend.test_native import training_run
from gpumlp import backend as backends
from gpumlp.autodiff import Tensor
from gpumlp.backend import Backend, CupyBackend, Plan
from gpumlp.backend.base import written
from gpumlp.backend.cuda import gpu
from gpumlp.backend.cuda.graph import ArrayCall, CudaGraph, Launch, LaunchNode, arrays_in
from gpumlp.backend.host import builder
from gpumlp.config import load
from gpumlp.data import Dataset
from gpumlp.errors import BackendError, ConfigError
from gpumlp.nn import Dense, Loss, Sequential
from gpumlp.ops import ACTIVATIONS
from gpumlp.optim import OPTIMIZERS, Optimizer, Schedule
from gpumlp.runs import Listener, train
from gpumlp.training.trainer import Trainer

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")

CONFIGS = Path(__file__).parent.parent.parent / "configs"
TANH = ACTIVATIONS["tanh"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


def trainer(
    backend: Backend,
    *,
    activation: str = "relu",
    rows: int = 50,
    dtype: str = "float32",
    clip: float | None = 1.0,
    weights: bool = False,
    **options: Any,
) -> Trainer:
    """Return a trainer of a plain network on random rows, in batches of 8; the last has 2."""
    rng = np.random.default_rng(3)
    inputs, targets = rng.standard_normal((rows, 5)), rng.integers(0, 3, rows)
    counts = rng.uniform(0.5, 2.0, rows).astype(np.float32) if weights else None
    data = Dataset(inputs.astype(np.float32), targets.astype(np.int32), counts)
    layers = [Dense(16, activation), Dense(8, activation), Dense(3, "softmax")]
    model = Sequential(layers).build(5, backend=backend, dtype=dtype)
    optimizer = Optimizer("adamw", model.parameters, model.context.clock, clip_norm=clip, averaging=0.9)
    schedule = Schedule("cosine", learning_rate=1e-2, warmup=0.1)
    return Trainer(model, Loss("cross_entropy", model), optimizer, schedule, data, epochs=4, batch_size=8, **options)


def state(given: Trainer) -> list[bytes]:
    backend = given.backend
    arrays = (given.model.parameters.values, *given.optimizer.state.values(), given.totals, given.model.context.clock)
    return [bits(backend.to_host(array)) for array in arrays]


# ---- what a graph holds ------------------------------------------------------------------------------------------


def test_a_whole_step_is_one_graph(fake: Cupy) -> None:
    """Gather, three layers forward, the loss, three back, the norm, the update, the clock, the sums: in this order.

    The first layer has no gradient of its inputs.
    """
    own = trainer(CupyBackend())
    plan = own.captured()
    (graph,) = plan.runs
    assert isinstance(graph, CudaGraph)
    assert graph._graph.names == [
        "gather_forward<float, float, int>",
        *("product", "product", "product"),
        *(f"softmax_cross_entropy_forward{stage}<float, int>" for stage in ("", "_loss", "_finish")),
        *("product", "product"),
        *("relu_backward<float>", "product", "product", "relu_backward<float>", "product"),
        "advance_forward<long long>",
        *("gradient_norm_forward<float>", "gradient_norm_forward_finish<float>"),
        *("adam_forward<float>", "accumulate_forward<double>"),
    ]
    assert plan.names()[1:8] == [
        *("dense_relu", "dense_relu", "dense_identity", "softmax_cross_entropy_forward"),
        *("matmul", "dense_gradients", "relu_backward"),
    ]


@pytest.mark.parametrize(("dtype", "compute"), [("float32", 77), ("float64", 70), ("bfloat16", 68)])
def test_a_step_of_any_precision_is_one_graph(fake: Cupy, dtype: str, compute: int) -> None:
    """With TF32 where products are of float32; the gradients of what is bfloat16 are summed up in float32."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    runs = [trainer(CupyBackend(tf32=True, graphs=graphs), dtype=dtype) for graphs in (True, False)]
    assert fake.lt is not None
    for own in runs:
        own.run_epoch()
    assert len({tuple(state(own)) for own in runs}) == 1
    assert {epilogue for epilogue, found in fake.lt.products if found == compute} == {1, 4, 6, 256}
    assert [type(run) for run in runs[0].captured().runs] == [CudaGraph]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_products_go_through_padded_copies_with_the_same_bits(
    fake: Cupy, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 features and 3 classes; rows of 8 and 16 units lie well already."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    assert fake.lt is not None
    size = {"float32": 4, "float64": 8, "bfloat16": 2}[dtype]
    runs, askew = [], []
    for asked in ("0", "1"):
        monkeypatch.setenv("GPUMLP_PADDING", asked)
        before = set(fake.lt.made)
        runs.append(trainer(CupyBackend(), dtype=dtype))
        runs[-1].run_epoch()
        new = [made for number, made in fake.lt.made.items() if number not in before and len(made.arguments) == 4]
        sizes = [(cols, ld * (4 if kind == 0 else size)) for kind, _, cols, ld in (made.arguments for made in new)]
        askew.append([pitch for cols, pitch in sizes if cols > 1 and pitch % 16])
    plain, padded = runs
    assert state(plain) == state(padded)
    assert askew[0]
    assert not askew[1]
    assert [type(run) for run in padded.captured().runs] == [CudaGraph]


def test_a_replay_is_one_call_on_the_backends_own_stream(fake: Cupy) -> None:
    own = trainer(CupyBackend())
    plan = own.captured()
    stream, *beside = [each for each in fake.streams if each.ptr]
    assert all(each.non_blocking for each in (stream, *beside))
    fake.launched.clear()
    stream.used.clear()
    for _ in range(3):
        plan()
    assert stream.used == ["graph"] * 3
    assert not any(each.used for each in beside)
    assert len(fake.graphs) == 3
    assert fake.launched == []


def test_nothing_runs_on_any_other_stream(fake: Cupy, tmp_path: Path) -> None:
    settings = ["backend=cupy", "training.epochs=2", "model.dropout=0.1", "training.early_stopping=null"]
    train(load(CONFIGS / "breast_cancer.yaml", settings), tmp_path / "run")
    assert fake.streams[0].used == []
    assert {"graph", "asnumpy"} <= set(fake.streams[1].used)


def test_a_given_array_is_waited_for_on_the_stream_of_who_gives_it(fake: Cupy) -> None:
    backend = CupyBackend()
    x = fake.zeros(3, np.float32)
    backend.stream.waited.clear()
    backend.asarray(x)
    assert backend.stream.waited == [("event", 0)]
    with backend.quiet():
        backend.asarray(x)
    assert backend.stream.waited[1:] == [("event", backend.stream.ptr)]


def test_an_array_that_is_copied_is_its_givers_again_once_it_is_read(fake: Cupy) -> None:
    """A captured step's new input, say: it may be made on another stream, and its memory be another's right after."""
    backend = CupyBackend()
    plan = backend.capture(lambda x: backend.run(TANH, "forward", (x,)), fake.zeros(3, np.float32))
    backend.stream.waited.clear()
    fake.streams[0].waited.clear()
    plan(fake.zeros(3, np.float32))
    assert backend.stream.waited == [("event", 0)]
    assert fake.streams[0].waited == [("event", backend.stream.ptr)]


def test_what_makes_memory_stays_between_the_graphs(fake: Cupy) -> None:
    backend = CupyBackend()
    x, z = (backend.asarray(np.ones((4, 6), np.float32)) for _ in range(2))

    def step() -> Any:
        (y,) = backend.run(TANH, "forward", (x,))
        (y,) = backend.run(TANH, "forward", (y,), (y,))
        doubled = backend.compute("add", backend.xp.add, y, y)
        (alone,) = backend.run(TANH, "forward", (doubled,))
        backend.run(TANH, "forward", (alone.T,))  # a view: no kernel takes it
        backend.copy(alone, z)
        (last,) = backend.run(TANH, "forward", (z,))
        return last

    plan = backend.capture(step)
    tanh = "tanh_forward<float>"
    assert [run._graph.names if isinstance(run, CudaGraph) else isinstance(run, Launch) for run in plan.runs] == [
        [tanh, tanh, "add", tanh],
        False,
        ["copy", tanh],
    ]
    backend.write(x, np.full((4, 6), 0.5))
    wanted = np.tanh(np.tanh(2 * np.tanh(np.tanh(np.float32(0.5)))))
    np.testing.assert_allclose(backend.to_host(plan()), np.full((4, 6), wanted), rtol=1e-6)


def twice(x: Any, *, out: Any) -> Any:
    """Return 2 x, by an array of its own."""
    return written(x + x, out)


def test_a_function_of_cupy_is_tried_and_only_what_refuses_stays_out(fake: Cupy) -> None:
    backend = CupyBackend()
    x, target = backend.asarray(np.arange(6.0).reshape(2, 3)), backend.zeros((3, 4), np.float32)
    ones = backend.asarray(np.ones((4, 1), np.float32))

    def step() -> Any:
        backend.clear(target)
        backend.copy(x.T, target[:, 1:3])
        sums = backend.compute("add", backend.xp.add, target, target)
        doubled = backend.compute("twice", twice, sums)
        product = backend.compute("matmul", backend.xp.matmul, doubled, ones)
        backend.copy(product, target[:, :1])
        backend.copy(product, target[:, 3:])
        return target

    plan = backend.capture(step)
    kinds = [run._graph.names if isinstance(run, CudaGraph) else type(run) for run in plan.runs]
    assert kinds == [["setitem", "setitem", "add"], ArrayCall, ArrayCall, ["setitem", "setitem"]]
    backend.write(x, np.ones((2, 3)))
    for _ in range(2):
        np.testing.assert_array_equal(backend.to_host(plan()), [[8, 1, 1, 8]] * 3)


def test_what_other_processes_take_part_in_is_not_captured(fake: Cupy) -> None:
    backend = CupyBackend()
    x, y = (backend.zeros((2, 2), np.float32) for _ in range(2))
    plan = backend.capture(lambda: [backend.exchange("all", backend.xp.sqrt, *pair) for pair in ((x, y), (y, x))])
    assert not any(isinstance(run, Launch) for run in plan.runs)


def test_arrays_are_found_however_deep_they_lie() -> None:
    a, b, c = (np.zeros(n) for n in (1, 2, 3))
    value = ([a, (2, b)], {"index": (slice(1), c), "axis": -1, "none": None})
    assert [each.size for each in arrays_in(value, lambda each: isinstance(each, np.ndarray))] == [1, 2, 3]


# ---- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_graphs_and_without_them_and_eagerly_bit_for_bit(fake: Cupy, optimizer: str) -> None:
    eager = training_run(CupyBackend(), optimizer, captured=False)
    assert training_run(CupyBackend(), optimizer, captured=True) == eager
    assert fake.graphs
    count = len(fake.graphs)
    assert training_run(CupyBackend(graphs=False), optimizer, captured=True) == eager
    assert len(fake.graphs) == count


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_an_epoch_in_graphs_of_many_steps_is_one_step_at_a_time(fake: Cupy, activation: str) -> None:
    runs = [
        trainer(CupyBackend(graphs=graphs), activation=activation, together=together)
        for graphs, together in ((True, 16), (True, 4), (True, 1), (False, 1))
    ]
    for _ in range(3):
        reports = [own.run_epoch() for own in runs]
        assert len({(r.loss, r.accuracy) for r in reports if r}) == 1
        assert len({tuple(state(own)) for own in runs}) == 1


def test_an_epoch_is_a_few_launches(fake: Cupy) -> None:
    """Two, where there are as many steps in a graph as whole batches: theirs, and that of the short one."""
    own = trainer(CupyBackend(), rows=8 * 64 + 2, together=64)
    own.run_epoch()
    fake.graphs.clear()
    for _ in range(2):
        own.run_epoch()
    nodes = len(own.captured().runs[0]._graph.nodes)  # type: ignore[attr-defined]
    assert [len(graph.nodes) // nodes for graph in fake.graphs] == [64, 1] * 2


@pytest.mark.parametrize("name", ["GRAPHS", "EPILOGUES", "CUBLASLT"])
def test_switches_in_the_environment(fake: Cupy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"GPUMLP_{name}", "0")
    backend = CupyBackend()
    assert backend.together == (1 if name == "GRAPHS" else gpu.MAX_STEPS_PER_GRAPH)
    plan = trainer(backend).captured()
    graphs = sum(isinstance(run, CudaGraph) for run in plan.runs)
    assert graphs == {"GRAPHS": 0, "EPILOGUES": 1}.get(name, graphs)
    assert ("dense_relu" in plan.names()) == (name == "GRAPHS")
    if name == "CUBLASLT":
        assert 1 < graphs < len(plan.runs) < len(plan.calls)


# ---- ownership ---------------------------------------------------------------------------------------------------


def test_a_plan_owns_what_its_graph_touches(fake: Cupy) -> None:
    """Every other reference goes, the memory is used again, and the graph still computes the same."""
    backend = CupyBackend()

    def made(x: Tensor) -> Plan:
        inputs = [backend.asarray(np.full((8, 4), n, np.float32)) for n in range(3)]
        square, bias = backend.asarray(np.eye(4, dtype=np.float32)), backend.asarray(np.ones(4, np.float32))

        def step(x: Tensor) -> list[Any]:
            hidden = [backend.run(TANH, "bias_backward", (each, x.array))[0] for each in inputs]
            return [backend.dense(ACTIVATIONS["relu"], each, square, bias)[0] for each in hidden]

        return backend.capture(step, x)

    plan = made(Tensor(np.ones((8, 4), np.float32), backend))
    first = [backend.to_host(y) for y in plan.result]
    fake.launched.clear()  # it holds the arguments of each launch
    gc.collect()
    junk = [np.full(n, np.nan, np.float32) for n in (4, 16, 32, 64) for _ in range(200)]
    for _ in range(2):
        again = plan(np.ones((8, 4), np.float32))
        for y, wanted in zip(again, first, strict=True):
            np.testing.assert_array_equal(backend.to_host(y), wanted)
    del junk


def test_the_fake_notices_a_graph_that_outlives_its_arrays(fake: Cupy) -> None:
    """What the test before relies on."""
    backend = CupyBackend()
    x = backend.zeros((4, 4), np.float32)
    plan = backend.capture(lambda: [backend.run(TANH, "forward", (x,))[0] for _ in range(2)])
    graph = plan.runs[0]._graph  # type: ignore[attr-defined]
    graph.launch(backend.stream)
    fake.launched.clear()
    del plan
    gc.collect()
    with pytest.raises(AssertionError, match="belong to no array"):
        graph.launch(backend.stream)


def test_two_plans_take_turns(fake: Cupy) -> None:
    backend = CupyBackend()
    mixed = [trainer(backend, activation=name) for name in ("relu", "tanh")]
    apart = [trainer(CupyBackend(), activation=name) for name in ("relu", "tanh")]
    for own in apart:
        own.run_epoch()
    while any(own.batch < own.batches for own in mixed):
        for own in mixed:
            if own.batch < own.batches:
                own.advance(every=1)
    assert [state(own) for own in mixed] == [state(own) for own in apart]


# ---- failures ----------------------------------------------------------------------------------------------------


class Broken(LaunchNode):
    """A launch that does while it is captured what it must not."""

    reads = writes = ()

    def __init__(self, backend: CupyBackend, act: str) -> None:
        self.backend, self.act = backend, act

    def put(self, stream: Any = None) -> None:
        if not self.backend.stream.is_capturing():
            return
        if self.act == "allocates":
            self.backend.xp.zeros(3, np.float32)
        if self.act == "multiplies":
            self.backend.xp.matmul(self.backend.xp.zeros, 1)
        if self.act == "reads":
            self.backend.xp.asnumpy(None)
        if self.act == "fails":
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        if self.act == "has a defect":
            raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("allocates", "4096 bytes were asked for while a graph was captured"),
        ("multiplies", "4096 bytes were asked for"),
        ("reads", "RuntimeError: the current stream is capturing"),
        ("fails", "the device failed: cudaErrorStreamCaptureUnsupported"),
        ("has a defect", "ZeroDivisionError: division by zero"),
        ("ends badly", "the device failed: cudaErrorStreamCaptureInvalidated"),
        ("has no room", "the device has no memory left"),
    ],
)
def test_a_capture_that_fails(fake: Cupy, caplog: pytest.LogCaptureFixture, act: str, message: str) -> None:
    """One message; the plan runs piece by piece, to the same bits; the next capture is as if nothing had been."""
    fake.capture_error = {
        "ends badly": CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error"),
        "has no room": OutOfMemoryError("Out of memory allocating 4,096 bytes"),
    }.get(act)
    backend = CupyBackend()
    x = backend.asarray(np.full((4, 4), 0.5, np.float32))

    def step() -> Any:
        (y,) = backend.run(TANH, "forward", (x,))
        backend._call("broken", Broken(backend, act), ())
        return backend.run(TANH, "forward", (y,))[0]

    with caplog.at_level(logging.WARNING, "gpumlp"):
        plan = backend.capture(step)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"no CUDA graph, so each step is launched piece by piece: {message}")
    assert len(plan.runs) == 3
    assert not backend.stream.is_capturing()
    backend.write(x, np.ones((4, 4)))
    np.testing.assert_array_equal(backend.to_host(plan()), backend.to_host(step()))
    fake.capture_error = None
    good = backend.capture(lambda: [backend.run(TANH, "forward", (x,))[0] for _ in range(3)])
    assert isinstance(good.runs[0], CudaGraph)
    good()


def test_an_interrupt_leaves_the_stream_usable(fake: Cupy) -> None:
    backend = CupyBackend()

    class Interrupted(LaunchNode):
        reads = writes = ()

        def put(self, stream: Any = None) -> None:
            if backend.stream.is_capturing():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.capture(lambda: [backend._call("slow", Interrupted(), ()) for _ in range(2)])
    assert not backend.stream.is_capturing()
    assert not backend.capturing
    assert backend.to_host(backend.zeros((2,), np.float32)).tolist() == [0, 0]


def test_the_allocator_is_what_it_was(fake: Cupy) -> None:
    before = fake.allocator
    trainer(CupyBackend()).run_epoch()
    assert fake.allocator == before


# ---- memory ------------------------------------------------------------------------------------------------------


class Full(Listener):
    """Takes the device's memory away after an epoch."""

    def __init__(self, fake: Cupy, epoch: int) -> None:
        self.fake, self.at = fake, epoch

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        if row["epoch"] == self.at:
            self.fake.memory_left = 0


def test_a_run_that_has_no_memory_left_loses_nothing(fake: Cupy, tmp_path: Path) -> None:
    settings = ["backend=cupy", "training.epochs=4", "training.early_stopping=null", "training.checkpoint_every=3"]
    task = load(CONFIGS / "breast_cancer.yaml", settings)
    whole = train(task, tmp_path / "whole")
    hint = r"no memory left(.|\n)*batch_size or the widths of model.hidden, or set precision: bf16"
    with pytest.raises(BackendError, match=hint) as caught:
        train(task, tmp_path / "cut", listener=Full(fake, 2))
    assert caught.value.exit_code == 1
    assert len((tmp_path / "cut/metrics.jsonl").read_text().splitlines()) == 2
    assert list((tmp_path / "cut/checkpoints").iterdir())
    fake.memory_left = 1
    resumed = train(task, tmp_path / "cut", resume=True)
    for name in ("model/weights.safetensors", "model/model.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert resumed.summary["metrics"] == whole.summary["metrics"]


def test_what_the_summary_says_of_the_device(fake: Cupy, tmp_path: Path) -> None:
    settings = ["backend=cupy", "training.epochs=2", "training.early_stopping=null"]
    summary = train(load(CONFIGS / "breast_cancer.yaml", settings), tmp_path / "run").summary
    assert summary["device"] == "Fake 0"
    assert 32 << 20 < summary["device_memory"] <= fake.held
    assert 0 < summary["seconds_per_step"] < summary["seconds"]


def test_a_device_is_got_by_its_number(fake: Cupy, caplog: pytest.LogCaptureFixture) -> None:
    fake.devices = 2
    for name in ("cupy", "auto"):
        made = backends.get(name, device=1, tf32=True)
        assert isinstance(made, CupyBackend)
        assert (made.device.id, made.tf32) == (1, True)
        with pytest.raises(BackendError, match=r"there is no device 2\n  devices here: 0, 1"):
            backends.get(name, device=2)
    for name in ("native", "numpy"):
        assert backends.get(name, tf32=True).name == name
        with pytest.raises(BackendError, match=f"{name} computes on the CPU: there is no device 1"):
            backends.get(name, device=1)
    with pytest.raises(ConfigError, match="unknown backend 'cuda'"):
        backends.get("cuda", device=1)
    fake.device_error = CUDARuntimeError("cudaErrorNoDevice: none")
    assert backends.get("auto", tf32=True).name == "native"
    with pytest.raises(BackendError, match=r"backend cupy: device 1 asks for a GPU: .* finds no device"):
        backends.get("auto", device=1)


def test_a_run_on_another_device(fake: Cupy, tmp_path: Path) -> None:
    fake.devices = 2
    settings = ["backend=cupy", "device=1", "training.epochs=1", "training.early_stopping=null"]
    assert train(load(CONFIGS / "breast_cancer.yaml", settings), tmp_path / "run").summary["device"] == "Fake 1"
    assert fake.current == 0
    assert fake_cupy.PLACES


def test_the_host_is_never_more_than_two_calls_ahead(
    fake: Cupy,
) -> None:
    cupy = CupyBackend()
    events = cupy._paces
    for launched, waited in enumerate([0, 0, 1, 2, 3], 1):
        cupy.keep_pace()
        assert sum(event.waits for event in events) == waited, launched
    assert {event.stream for event in events} == {cupy.stream.ptr}
    assert not any(event.timed for event in events)


def test_a_run_keeps_pace(fake: Cupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(CupyBackend, "keep_pace", lambda self: calls.append(self))
    settings = ["backend=cupy", "training.epochs=2", "training.batch_size=64", "training.early_stopping=null"]
    train(load(CONFIGS / "breast_cancer.yaml", settings), tmp_path / "run")
    assert len(calls) >= 2 * 2


def test_a_large_array_comes_in_pieces(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through two buffers: a piece is written into one only when the copy of what it held before has been made."""
    cupy = CupyBackend()
    monkeypatch.setattr("gpumlp.backend.cuda.gpu.MAX_COPY_BYTES", 1000)
    values = np.random.default_rng(0).standard_normal((333, 7))
    for dtype in (None, np.float32):
        fake.asked = 0
        made = cupy.asarray(values, dtype)
        assert fake.asked == -(-made.nbytes // (1000 // (made.nbytes // 333) * (made.nbytes // 333)))
        assert not fake.pinned
        np.testing.assert_array_equal(cupy.to_host(made), values.astype(dtype or values.dtype))
    row = np.arange(5000.0)[None]  # one row is a piece, however large
    np.testing.assert_array_equal(cupy.to_host(cupy.asarray(row)), row)
    turned = values.T[:, ::2]
    np.testing.assert_array_equal(cupy.to_host(cupy.asarray(turned)), turned)


def test_two_buffers_are_all_the_pinned_memory_there_is(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a copy fails: they go when what was asked for before has been copied from them."""
    cupy = CupyBackend()
    monkeypatch.setattr("gpumlp.backend.cuda.gpu.MAX_COPY_BYTES", 1000)
    most, copy = [], fake.cuda.runtime.memcpyAsync

    def fail(*given: Any) -> None:
        most.append(sum(map(len, fake.pinned.values())))
        copy(*given)
        if len(most) == 5:
            raise CUDARuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(fake.cuda.runtime, "memcpyAsync", fail)
    with pytest.raises(BackendError, match="the device failed"):
        cupy.asarray(np.ones((100, 100)))
    assert max(most) <= 2 * 1000
    assert not fake.waiting


def test_what_is_launched_elsewhere_is_refused(fake: Cupy) -> None:
    """CuPy launches on the device and the stream of the moment: on those of somebody else, silently."""
    fake.devices = 2
    cupy = CupyBackend(1)
    x = cupy.zeros((4, 4), np.float32)
    plan = cupy.capture(lambda: [cupy.run(ACTIVATIONS["relu"], "forward", (x,)) for _ in range(3)])
    (graph,) = plan.runs
    for launch in (plan.calls[0].launch, graph):
        with pytest.raises(AssertionError, match="outside of its backend's quiet"):
            launch()
        with cupy.quiet():
            launch()
    with cupy.device, fake.cuda.Stream(), pytest.raises(AssertionError, match="relu_forward is launched outside"):
        plan.calls[0].launch()


def test_nothing_is_freed_while_a_graph_is_captured(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = CupyBackend()
    import gc

    seen = []
    capture = CudaGraph._capture
    monkeypatch.setattr(CudaGraph, "_capture", lambda *rest: seen.append(gc.isenabled()) or capture(*rest))
    x = cupy.zeros((4, 4), np.float32)
    cupy.capture(lambda: [cupy.run(ACTIVATIONS["relu"], "forward", (x,)) for _ in range(3)])
    assert seen == [False]
    assert gc.isenabled()

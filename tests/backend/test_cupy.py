"""The whole host side of the CuPy backend, on a fake CuPy: what is launched, with what, and what is said."""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FLOATS, assert_close, bits, directions, examples

from backend import fake_cupy
from backend.fake_cupy import CompileException, CUDARuntimeError, Cupy, OutOfMemoryError, installed
from backend.test_native import FORMULA_ONLY, training_run
from gpumlp import backend as backends
from gpumlp.autodiff import Tensor, Variable
from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.cuda import device as devices
from gpumlp.backend.cuda import launcher
from gpumlp.backend.geometry import scratch
from gpumlp.backend.host import builder
from gpumlp.backend.kernels import Texts, made_for, shared_text
from gpumlp.config import load
from gpumlp.errors import BackendError, CaptureError
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS
from gpumlp.optim import OPTIMIZERS
from gpumlp.runs import train

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


@pytest.fixture
def cupy(fake: Cupy) -> CupyBackend:
    backend = CupyBackend()
    fake.launched.clear()
    return backend


def on_device(backend: Backend, values: Any) -> Any:
    return None if values is None else backend.asarray(np.ascontiguousarray(values))


# ---- what is launched --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "direction"), list(directions()))
def test_every_direction_launches_its_kernels_and_computes_what_the_formula_does(
    fake: Cupy, cupy: CupyBackend, name: str, direction: str, dtype: Any
) -> None:
    op, reference, launched = RECORDS[name], Backend(), set()
    for inputs, params in examples(op, direction, 37, 40, dtype):
        expected = reference.run(op, direction, inputs, None, **params)
        found = cupy.run(op, direction, tuple(on_device(cupy, a) for a in inputs), None, **params)
        launched |= {one.kernel.partition("<")[0] for one in fake.launched}
        for got, want in zip(found, expected, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                scale = max(1.0, float(np.abs(want).max()))
                assert_close(cupy.to_host(got).astype(dtype), want.astype(np.float64), "reduction", scale=scale)
    assert launched == set(Texts().stages(op, direction))
    assert launched or op.entry(direction) in FORMULA_ONLY


F, D, I64 = np.float32, np.float64, np.int64
LAUNCHES = [  # record, direction, inputs, params; kernels with grid and block; arguments: p array, 0 null, numbers
    (
        "tanh", "forward", [((65, 100), F)], {},
        [("tanh_forward<float>", (7, 1), (256, 1))],
        ["p", "p", 65, 100],
    ),
    (
        "gelu", "bias_forward", [((65, 100), D), ((100,), D)], {},
        [("gelu_bias_forward<double>", (9, 1), (32, 8))],
        ["p", "p", "p", "p", 65, 100],
    ),
    (
        "tanh", "bias_forward", [((65, 3), F), ((3,), F)], {},
        [("tanh_bias_forward<float>", (2, 1), (4, 64))],
        ["p", "p", "p", 0, 65, 3],
    ),
    (
        "relu", "bias_backward", [((65, 100), F), ((65, 100), F)], {},
        [("relu_bias_backward<float>", (4, 3), (32, 8)), ("relu_bias_backward_finish<float>", (4, 1), (32, 8))],
        ["p", "p", "p", "p", 65, 100, "p", 3],
    ),
    (
        "softmax_cross_entropy", "evaluate", [((64, 10), F), ((64,), I64), None, ((10,), F)], {"label_smoothing": 0},
        [
            ("softmax_cross_entropy_evaluate<float, long long>", (1, 4), (16, 16)),
            ("softmax_cross_entropy_evaluate_loss<float, long long>", (1, 4), (16, 16)),
            ("softmax_cross_entropy_evaluate_finish<float, long long>", (1, 1), (32, 8)),
        ],
        ["p", "p", 0, "p", "p", "p", 64, 10, 0.0, 0.0, 0.0, "p", 4],
    ),
    (
        "gather", "forward", [((3,), I64), ((50, 2000), np.uint8), ((50, 2), F), None],
        {"rows": 8, "stride": 8, "key": 7, "scale": 2, "dtype": "<f4"},
        [("gather_forward<float, unsigned char, float>", (8, 1), (256, 1))],
        ["p", "p", "p", 0, "p", "p", 0, 8, 2000, 2, 50, 8, 0, 7, 2.0],
    ),
    (
        "huber", "forward", [((9, 2), F), ((9, 2), F), ((9,), F), None], {"delta": 1},
        None,
        ["p", "p", "p", 0, "p", "p", "p", 9, 2, 1.0, 0.0, 0.0, "p", 1],
    ),
    (
        "sgd", "forward", [((9,), F), ((9,), F), ((2,), F), None, ((2, 3), D), ((3,), I64), ((1,), F), None, None],
        {"averaging": None, "clip_norm": 1, "weight_decay": 0},
        [("sgd_forward<float>", (1, 1), (256, 1))],
        ["p", "p", "p", 0, "p", "p", "p", 0, 0, "p", 0, 0, 1, 9, 2, 0, 2, 0.0, 1.0, 0.0],
    ),
    (
        "dropout", "backward", [((9, 2), F), ((3,), I64), None], {"rate": 0, "stream": 3, "key": (5, 6)},
        [("dropout_backward<float>", (1, 1), (256, 1))],
        ["p", "p", 0, "p", 9, 2, 0.0, 0, 3, 5, 6, 0],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "direction", "inputs", "params", "kernels", "arguments"), LAUNCHES)
def test_a_launch_by_hand(
    fake: Cupy,
    cupy: CupyBackend,
    name: str,
    direction: str,
    inputs: Any,
    params: dict[str, Any],
    kernels: Any,
    arguments: list[Any],
) -> None:
    """Names, grids, blocks and arguments, written out; a whole number given for a double becomes a double."""
    cupy.run(RECORDS[name], direction, [None if i is None else cupy.zeros(*i) for i in inputs], None, **params)
    if kernels is not None:
        assert [(one.kernel, one.grid, one.block) for one in fake.launched] == kernels
    for one in fake.launched:
        found = ["p" if isinstance(a, fake_cupy.ndarray) else a.item() for a in one.arguments]
        assert found == arguments
        assert [type(a) for a in found] == [type(a) for a in arguments]


def test_a_module_is_the_shared_texts_and_the_records_own(fake: Cupy, cupy: CupyBackend) -> None:
    fake.modules.clear()
    x = {dtype: cupy.zeros((4, 4), dtype) for dtype in FLOATS}
    for dtype in (F, F, D):
        cupy.run(ACTIVATIONS["tanh"], "forward", (x[dtype],))
        cupy.run(ACTIVATIONS["tanh"], "backward", (x[dtype], x[dtype]))
    assert [module.names[0] for module in fake.modules] == ["tanh_forward<float>", "tanh_forward<double>"]
    for module in fake.modules:
        assert module.code == f"{shared_text()}\n{Texts().text('tanh')}"
        assert module.options == ("-std=c++17", "--device-as-default-execution-space")
        assert len(module.names) == 5
    assert cupy.seconds_building > 0


def test_scratch_memory_is_made_once_for_each_bound_call(fake: Cupy) -> None:
    cupy = CupyBackend(graphs=False)
    fake.launched.clear()
    x = cupy.asarray(np.ones((65, 100), F))
    plan = cupy.capture(lambda: cupy.run(ACTIVATIONS["relu"], "bias_backward", (x, x)))
    for _ in range(3):
        plan()
    rooms = {one.arguments[6] for one in fake.launched}
    assert len(fake.launched) == 8
    (room,) = rooms
    assert room.dtype == D
    assert room.size == scratch("columns", 100, 3)


def test_what_no_kernel_takes_runs_in_the_formula_on_the_device(fake: Cupy, cupy: CupyBackend) -> None:
    tanh, x = ACTIVATIONS["tanh"], np.arange(12, dtype=F).reshape(3, 4)
    y = cupy.asarray(x)
    for given, host in ((y.T, x.T), (y[:, ::2], x[:, ::2]), (y.astype(np.float16), x.astype(np.float16))):
        (found,) = cupy.run(tanh, "forward", (given,))
        np.testing.assert_array_equal(cupy.to_host(found), np.tanh(host))
    assert cupy.run(tanh, "forward", (cupy.zeros((0, 4), F),))[0].shape == (0, 4)
    (found,) = cupy.run(ACTIVATIONS["softmax"], "bias_forward", (y, y[0]))[:1]
    assert_close(cupy.to_host(found).sum(axis=-1), np.ones(3))
    assert fake.launched == []


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_agrees_with_the_reference_and_replays_bit_for_bit(cupy: CupyBackend, optimizer: str) -> None:
    eager, parameters = training_run(cupy, optimizer, captured=False)
    assert training_run(cupy, optimizer, captured=True) == (eager, parameters)
    reference, _ = training_run(Backend(), optimizer, captured=True)
    np.testing.assert_allclose(eager, reference, rtol=1e-5)


def test_a_whole_run(fake: Cupy, tmp_path: Path) -> None:
    """From the configuration to the report, nothing is read on the host but what backends are asked for."""
    found = {}
    for name in ("cupy", "numpy"):
        settings = [f"backend={name}", "training.epochs=3", "model.dropout=0.1", "training.early_stopping=null"]
        result = train(load(CONFIGS / "breast_cancer.yaml", settings), tmp_path / name)
        assert result.summary["backend"] == name
        found[name] = result.summary["metrics"]["train"]["loss"]
    assert found["cupy"] == pytest.approx(found["numpy"], rel=1e-4)
    assert {"gather_forward", "adam_forward"} <= {one.kernel.partition("<")[0] for one in fake.launched}


def test_capture_refuses_a_read_on_the_host(cupy: CupyBackend) -> None:
    v = Variable(np.array([1.0, 2.0]), cupy)
    with pytest.raises(CaptureError, match="a read on the host"):
        cupy.capture(lambda: (v * 2.0).numpy())
    plan = cupy.capture(lambda x: Tensor(x, cupy) * v, cupy.asarray([1.0, 2.0]))
    assert plan(cupy.asarray([3.0, 4.0])).numpy().tolist() == [3, 8]


def test_services(cupy: CupyBackend) -> None:
    a = cupy.asarray([[1, 2], [3, 4]], F)
    assert cupy.owns(a)
    assert not cupy.owns(np.zeros(2))
    assert cupy.asarray(a.T).flags.c_contiguous
    assert cupy.asarray(2.5).shape == ()
    copy = cupy.asarray(a, copy=True)
    cupy.write(a, [[0, 0], [0, 1]])
    assert cupy.to_host(a).tolist() == [[0, 0], [0, 1]]
    assert cupy.to_host(copy).tolist() == [[1, 2], [3, 4]]
    assert cupy.to_host(cupy.matmul(copy, copy)).tolist() == [[7, 10], [15, 22]]
    assert bits(cupy.to_host(cupy.empty((2, 0), F))) == b""


# ---- guards and messages -----------------------------------------------------------------------------------------


def test_arrays_from_elsewhere_are_refused_by_name(fake: Cupy) -> None:
    fake.devices = 2
    here, there = CupyBackend(), CupyBackend(device=1)
    x = there.asarray([1.0, 2.0])
    assert (x.device.id, here.zeros((1,), F).device.id, fake.current) == (1, 0, 0)
    for act, name in (
        (lambda: here.run(ACTIVATIONS["tanh"], "forward", (x,)), "tanh_forward"),
        (lambda: here.matmul(x, x), "matmul"),
        (lambda: here.asarray(x), "asarray"),
    ):
        with pytest.raises(BackendError, match=rf"device 0: {name} is given an array \(2,\) that lies on device 1"):
            act()
    with pytest.raises(BackendError, match=r"tanh_forward is given an array \(3,\) that lies on the host"):
        here.run(ACTIVATIONS["tanh"], "forward", (np.zeros(3, F),))
    assert_close(there.to_host(there.run(ACTIVATIONS["tanh"], "forward", (x,))[0]), np.tanh([1.0, 2.0]))


MEMORY = r"the device has no memory left .*\n  lower training.batch_size or the widths of model.hidden"


def test_the_memory_is_the_device_s(cupy: CupyBackend) -> None:
    assert cupy.memory == 80 << 30


def test_out_of_memory_is_told_with_what_to_lower(fake: Cupy, cupy: CupyBackend) -> None:
    x = cupy.zeros((4, 4), F)
    plan = cupy.capture(lambda: cupy.run(ACTIVATIONS["tanh"], "forward", (x,)))
    error = OutOfMemoryError("Out of memory allocating 4,096 bytes (allocated so far: 1,024 bytes).")
    fake.launch_error = error
    for again in (plan, lambda: cupy.run(ACTIVATIONS["tanh"], "forward", (x,))):
        with pytest.raises(BackendError, match=f"kernel tanh_forward: {MEMORY}"):
            again()
    fake.launch_error, fake.memory_left = None, 0
    for act in (
        lambda: cupy.empty((4,), F),
        lambda: cupy.zeros((4,), F),
        lambda: cupy.asarray([1.0]),
        lambda: cupy.write(x, np.ones((4, 4))),
        lambda: cupy.matmul(x, x),
        lambda: cupy.bind(ACTIVATIONS["tanh"], "bias_backward", (x, x), (x, x[0]), {}),
        lambda: Tensor(x, cupy).ones_like(),
    ):
        with pytest.raises(BackendError, match=f"device 0: {MEMORY}"):
            act()
    fake.memory_left = 1
    cupy.zeros((4,), F)


def test_an_error_of_a_formula_is_not_disguised(cupy: CupyBackend) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        cupy.run(ACTIVATIONS["softmax"], "bias_forward", (cupy.zeros((2, 3), F), cupy.zeros((2,), F)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CompileException("x.cu(1): error: identifier"), "kernels of advance: a kernel does not compile .*identif"),
        (CompileException('cannot open source file "cuda_fp16.h"'), "headers of CUDA.*gpumlp.gpu."),
        (
            RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers"),
            "headers of CUDA.*gpumlp.gpu.",
        ),
        (RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: no such file"), "NVRTC, which .*gpumlp.gpu."),
        (OSError('Failure finding "libnvrtc.so.13"'), "NVRTC, which compiles the kernels, is missing"),
        (OSError('Failure finding "libcublas.so.13"\n  listdir: libnvrtc.so.13'), "cuBLAS, .* is missing"),
        (CUDARuntimeError("cudaErrorNoKernelImageForDevice: none"), "the device failed: cudaErrorNoKernel"),
    ],
)
def test_what_stands_in_the_way_of_compiling(fake: Cupy, error: Exception, message: str) -> None:
    fake.compile_error = error
    with pytest.raises(BackendError, match=f"(?s){message}"):
        CupyBackend()


def test_an_error_that_is_not_cupys_goes_through(fake: Cupy) -> None:
    fake.compile_error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        CupyBackend()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("cudaErrorInsufficientDriver: CUDA driver version is insufficient", "driver is too old .*exchange CuPy"),
        ("cudaErrorNoDevice: no CUDA-capable device is detected", "finds no device .*CUDA_VISIBLE_DEVICES"),
        ("cudaErrorDevicesUnavailable: busy or unavailable", "the device is busy.*nvidia-smi"),
        ("cudaErrorMemoryAllocation: out of memory", "no memory left.*another program"),
        ("cudaErrorUnknown: unknown error", "does not answer.*nvidia-smi"),
        ("cudaErrorECCUncorrectable: uncorrectable ECC error", "the device failed: cudaErrorECC.*backend: native"),
    ],
)
def test_what_stands_in_the_way_of_a_device(fake: Cupy, error: str, message: str) -> None:
    fake.device_error = CUDARuntimeError(error)
    with pytest.raises(BackendError, match=f"(?s)backend cupy: .*{message}"):
        CupyBackend()


def test_a_device_that_is_not_there(fake: Cupy) -> None:
    with pytest.raises(BackendError, match=r"there is no device 1\n  devices here: 0"):
        CupyBackend(device=1)
    fake.devices = 3
    with pytest.raises(BackendError, match=r"there is no device -1\n  devices here: 0, 1, 2"):
        CupyBackend(device=-1)


def test_without_cupy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(devices, "is_installed", lambda: False)
    with pytest.raises(BackendError, match=r"backend cupy: CuPy is not installed\n  pip install 'gpumlp\[gpu\]'"):
        backends.get("cupy")
    assert backends.get("auto").name == "native"
    assert not caplog.records


def test_cupy_without_a_driver_is_not_imported(
    fake: Cupy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    with caplog.at_level(logging.WARNING, "gpumlp"):
        assert backends.get("auto").name == "native"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"not computing with cupy: there is no NVIDIA driver: {devices.DRIVER} is not found"


def test_auto_takes_the_device_that_answers(fake: Cupy) -> None:
    assert backends.get("auto").name == "cupy"


def test_two_packages_of_cupy(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "packages", lambda: ["cupy-cuda12x 14.2.0", "cupy-cuda13x 14.2.0"])
    with pytest.raises(
        BackendError, match=r"overwrite each other.*\n  pip uninstall cupy-cuda12x cupy-cuda13x, then"
    ):
        CupyBackend()


def test_a_broken_cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('\\n====\\nlibcudart is damaged\\n====')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "packages", lambda: ["cupy-cuda13x 14.2.0"])
    wanted = "cannot be imported: libcudart is damaged\n  pip uninstall cupy-cuda13x, then pip install"
    with pytest.raises(BackendError, match=wanted):
        CupyBackend()


def test_the_caches_are_kept_together(fake: Cupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", "")
    monkeypatch.delenv("CUPY_CACHE_DIR")
    monkeypatch.setenv("GPUMLP_CACHE", str(tmp_path))
    assert devices.load() is fake
    assert devices.os.environ["CUPY_CACHE_DIR"] == str(tmp_path / "cupy")


def test_importing_gpumlp_imports_no_cupy() -> None:
    code = "import sys, gpumlp.backend, gpumlp.config; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_fake_has_nothing_that_cupy_lacks() -> None:
    real = pytest.importorskip("cupy")
    for name in (*fake_cupy.FUNCTIONS, *fake_cupy.DTYPES, "asnumpy", "RawModule", "ndarray"):
        assert hasattr(real, name), name
    for name in ("astype", "copy", "reshape", "transpose", "all", "any", "sum", "T", "flags", "data", "device"):
        assert hasattr(real.ndarray, name), name
    for name in fake_cupy.FROM_HOST:  # without a driver it fails, but not because of what it was given
        with contextlib.suppress(real.cuda.runtime.CUDARuntimeError):
            getattr(real, name)(np.zeros((2, 3), np.float32), order="C")
    assert hasattr(real.add, "at")
    for name in ("nbytes", "strides", "itemsize"):
        assert hasattr(real.ndarray, name), name
    for name in ("begin_capture", "end_capture", "is_capturing", "synchronize", "record", "wait_event", "__enter__"):
        assert hasattr(real.cuda.Stream, name), name
    for name in ("using_allocator", "get_current_stream", "Graph"):
        assert hasattr(real.cuda, name), name
    assert hasattr(real.cuda.MemoryPool, "total_bytes")
    assert hasattr(real, "get_default_memory_pool")
    assert real.cuda.runtime.memcpyDeviceToDevice == 3
    assert real.cuda.runtime.memcpyAsync.__doc__.startswith(
        "memcpyAsync(intptr_t dst, intptr_t src, size_t size, int"
    )
    assert real.cuda.runtime.memcpy2DAsync.__doc__.startswith(
        "memcpy2DAsync(intptr_t dst, size_t dpitch, intptr_t src, size_t spitch, size_t width, size_t height, "
        "MemoryKind kind, intptr_t stream)"
    )


def test_losses_of_extreme_logits_on_the_device(cupy: CupyBackend) -> None:
    z, labels = np.array([[-np.inf, 3], [1e30, -1e30], [np.nan, 1]], F), np.array([1, 0, 1], np.int32)
    inputs = (z, labels, None, None)
    want = Backend().run(LOSS_RECORDS["softmax_cross_entropy"], "forward", inputs)
    got = cupy.run(LOSS_RECORDS["softmax_cross_entropy"], "forward", [on_device(cupy, a) for a in inputs])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(cupy.to_host(a), b, rtol=1e-5)


def test_kernels_are_compiled_in_threads(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are named beforehand: what one thread waits for another one does meanwhile."""
    cupy, seen = CupyBackend(), []
    both, make = threading.Barrier(2), fake.RawModule

    def compile_(**given: Any) -> Any:
        both.wait(10)
        seen.append((threading.current_thread() is threading.main_thread(), fake.current))
        return make(**given)

    monkeypatch.setattr(fake, "RawModule", compile_)
    monkeypatch.setattr(launcher, "threads", lambda: 2)
    ops = [RECORDS[name] for name in ("tanh", "sigmoid")]
    cupy.prepare(made_for(ops * 2, ("float",)))
    x = cupy.asarray(np.linspace(-2, 2, 9, dtype=np.float32))
    for op, function in zip(ops, (np.tanh, lambda v: 1 / (1 + np.exp(-v))), strict=True):
        (y,) = cupy.run(op, "forward", (x,))
        np.testing.assert_allclose(cupy.to_host(y), function(np.linspace(-2, 2, 9)), rtol=1e-6)
    assert seen == [(False, 0)] * 2
    cupy.prepare(made_for(ops, ("float",)))  # they are there
    assert len(seen) == 2


def test_who_takes_times_waits_for_the_threads(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, ended, make = CupyBackend(), [], fake.RawModule

    def compile_(**given: Any) -> Any:
        time.sleep(0.02)
        ended.append(given)
        return make(**given)

    monkeypatch.setattr(fake, "RawModule", compile_)
    monkeypatch.setattr(launcher, "threads", lambda: 1)
    cupy.prepare(made_for([RECORDS["tanh"], RECORDS["sigmoid"]], ("float",)), wait=True)
    assert len(ended) == 2


def test_the_end_of_a_process_waits_for_what_has_begun_alone(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, begun, go_on, make = CupyBackend(), threading.Event(), threading.Event(), fake.RawModule
    made = []

    def compile_(**given: Any) -> Any:
        begun.set()
        made.append(go_on.wait(10))
        return make(**given)

    monkeypatch.setattr(fake, "RawModule", compile_)
    monkeypatch.setattr(launcher, "threads", lambda: 1)
    cupy.prepare(made_for([RECORDS[name] for name in ("tanh", "sigmoid", "relu")], ("float",)))
    assert begun.wait(10)
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)  # as the interpreter does first of all
    go_on.set()
    cupy.prepare((), wait=True)
    assert made == [True]


def test_a_kernel_that_fails_in_a_thread_fails_by_its_name(fake: Cupy) -> None:
    """Whoever asks for it is told, each time; who asks for another one is not."""
    cupy = CupyBackend()
    fake.compile_error = CompileException("tanh.cu(3): error: expected a declaration")
    cupy.prepare(made_for([RECORDS["tanh"], RECORDS["sigmoid"]], ("float",)))
    x = cupy.asarray(np.ones((3,), np.float32))
    for _ in range(2):
        with pytest.raises(BackendError, match=r"kernel does not compile .*expected a declaration") as caught:
            cupy.run(RECORDS["tanh"], "forward", (x,))
        assert caught.value.where == "the kernels of tanh"
    fake.compile_error = None
    np.testing.assert_allclose(cupy.to_host(cupy.run(RECORDS["tanh"], "forward", (x,))[0]), np.tanh(1), rtol=1e-6)

"""The compiled kernels against the reference, and the ways in which they are built and kept."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FLOATS, assert_close, bits, directions, examples

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend, NativeBackend, builder
from gpumlp.backend.builder import Builder
from gpumlp.backend.kernels import Texts, folder, kernels_of, template_types
from gpumlp.errors import BackendError
from gpumlp.nn import BatchNorm, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS
from gpumlp.ops.record import activation
from gpumlp.optim import OPTIMIZERS, Optimizer

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")

FORMULA_ONLY = {"softmax_bias_forward", "softmax_bias_backward"}
"""Directions without a kernel: softmax inside a network is rare, and at its end it is not fused with a bias."""
SHAPES = [(1, 1), (3, 1), (1, 5), (2, 31), (31, 32), (5, 33), (7, 255), (3, 257), (3, 1023), (2, 1025), (65, 64)]
GUARD = 64  # bytes


@pytest.fixture(scope="module")
def native() -> NativeBackend:
    return NativeBackend()


def guarded(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return an array of 0xFF between two guards, and the bytes around it all."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.full(size + 2 * GUARD, 0xFF, np.uint8)
    memory[:GUARD] = memory[GUARD + size :] = 0xA5
    return memory[GUARD : GUARD + size].view(dtype).reshape(shape), memory


def has_kernel(native: NativeBackend, name: str, direction: str, inputs: Any, outputs: Any) -> bool:
    made = RECORDS[name].directions[direction]
    types = template_types(made, inputs, outputs)
    return types is not None and native._builder.find(RECORDS[name], direction, types) != {}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "direction"), list(directions()))
def test_a_kernel_agrees_with_the_formula(native: NativeBackend, name: str, direction: str, dtype: Any) -> None:
    """Values, dtypes and shapes; outputs wholly written, nothing around them, no input touched."""
    op, reference, ran = RECORDS[name], Backend(), 0
    for rows, cols in SHAPES:
        for inputs, params in examples(op, direction, rows, cols, dtype):
            arrays = [None if a is None else np.ascontiguousarray(a) for a in inputs]
            expected = reference.run(op, direction, arrays, None, **params)
            if not has_kernel(native, name, direction, arrays, expected):
                continue
            ran += 1
            before = [None if a is None else bits(a) for a in arrays]
            places = [None if e is None else guarded(e.shape, e.dtype) for e in expected]
            found = native.run(op, direction, arrays, [None if p is None else p[0] for p in places], **params)
            assert [None if a is None else bits(a) for a in arrays] == before
            for got, want, place in zip(found, expected, places, strict=True):
                if want is None:
                    assert got is None
                    continue
                memory = place[1]
                assert (memory[:GUARD] == 0xA5).all()
                assert (memory[-GUARD:] == 0xA5).all()
                if want.dtype.kind != "f":
                    np.testing.assert_array_equal(got, want)
                    continue
                scale = max(1.0, float(np.abs(want).max()), rows / 8)
                # The sums of a loss are kept in float64 and computed from values of `dtype`.
                assert_close(got.astype(dtype), want.astype(np.float64), "reduction", scale=scale)
    assert ran or op.entry(direction) in FORMULA_ONLY, "no example reached the kernel"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extreme_values(native: NativeBackend, name: str, dtype: Any) -> None:
    op, reference = ACTIVATIONS[name], Backend()
    x = np.array([[0.0, -0.0, 300, -300, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 20, -20]], dtype).T.copy()
    for direction in ("forward", "bias_forward", "backward"):
        saved = x if op.saves == "input" else reference.run(op, "forward", (x,))[0]
        inputs = {"forward": (x,), "bias_forward": (x, np.zeros(1, dtype))}.get(direction, (saved, np.ones_like(x)))
        got, want = (b.run(op, direction, inputs)[0] for b in (native, reference))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
        finite = np.isfinite(want)
        assert_close(got[finite], want[finite].astype(np.float64), "reduction")


@pytest.mark.parametrize("dtype", FLOATS)
def test_losses_of_extreme_logits(native: NativeBackend, dtype: Any) -> None:
    z = np.array([[0, 0], [1e4, 1e4], [-np.inf, 3], [1e30, -1e30], [np.nan, 1]], dtype)
    labels, reference = np.array([0, 1, 1, 0, 1], np.int32), Backend()
    op = LOSS_RECORDS["softmax_cross_entropy"]
    for rows in (slice(0, 4), slice(0, 5)):
        inputs = (z[rows], labels[rows], None, None)
        got, want = (b.run(op, "forward", inputs, None, label_smoothing=0.0) for b in (native, reference))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_allclose(a, b, rtol=1e-5 if dtype is np.float32 else 1e-12)


def test_what_a_kernel_does_not_take_the_formula_does(native: NativeBackend) -> None:
    tanh, entropy = ACTIVATIONS["tanh"], LOSS_RECORDS["softmax_cross_entropy"]
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(native.run(tanh, "forward", (x.T,))[0], np.tanh(x.T), rtol=1e-6)
    np.testing.assert_allclose(native.run(tanh, "forward", (x.astype(np.float16),))[0], np.tanh(x), rtol=1e-2)
    assert native.run(tanh, "forward", (np.zeros((0, 4), np.float32),))[0].shape == (0, 4)
    for labels in (
        np.array([0, 1, 2], np.uint8),
        np.array([0.0, 1.0, 2.0], np.float32),
        np.eye(3, 4, dtype=np.int64),
    ):
        got, want = (b.run(entropy, "forward", (x, labels, None, None)) for b in (native, Backend()))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)


def training_run(backend: Backend, optimizer: str, captured: bool) -> tuple[list[float], bytes]:
    """Train a network with everything in it for some steps; return the losses and the last parameters."""
    rng = np.random.default_rng(0)
    chain = [Dense(16, "tanh"), Dropout(0.2), LayerNorm(), Dense(8, "gelu"), BatchNorm(), Dense(3, "softmax")]
    model = Sequential(chain).build(5, backend=backend)
    loss = Loss("cross_entropy", model, label_smoothing=0.1, class_weights=[1.0, 2.0, 1.0])
    stepper = Optimizer(optimizer, model.parameters, model.context.clock, clip_norm=1.0, averaging=0.9)
    x = Tensor(rng.standard_normal((33, 5), np.float32), backend)
    y = rng.integers(0, 3, 33).astype(np.int32)
    losses: list[float] = []

    def step() -> Any:
        with GradientTape() as tape:
            value, _ = loss(model.forward(x, training=True), backend_labels)
        tape.gradient(value, list(model.parameters.variables.values()), into=model.parameters.views)
        stepper.step()
        return value

    backend_labels = backend.asarray(y)
    plan = None
    for _ in range(20):
        if captured:
            plan = plan or backend.capture(step)
            value = plan.result if not losses else plan()
        else:
            value = step()
        losses.append(float(value))
    return losses, bits(backend.to_host(model.parameters.values))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_agrees_with_the_reference_and_replays_bit_for_bit(native: NativeBackend, optimizer: str) -> None:
    eager, parameters = training_run(native, optimizer, captured=False)
    assert training_run(native, optimizer, captured=True) == (eager, parameters)
    reference, _ = training_run(Backend(), optimizer, captured=True)
    np.testing.assert_allclose(eager, reference, rtol=1e-5)
    assert eager[-1] < eager[0]


# ---- completeness ------------------------------------------------------------------------------------------------


def test_every_kernel_belongs_to_a_record_and_every_record_has_its_kernels() -> None:
    place, texts = folder(), Texts()
    assert place is not None
    found = {path.stem: kernels_of(path.read_text()) for path in place.glob("*.cu")}
    for name, kernels in found.items():
        op = RECORDS[name]
        stages = [stage for direction in op.directions for stage in texts.stages(op, direction)]
        assert sorted(stages) == sorted(kernels) != []
    without = {op.entry(d) for op in RECORDS.values() for d in op.directions if not texts.stages(op, d)}
    assert without == FORMULA_ONLY


def test_a_new_activation_is_a_record_and_a_device_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/kernels.md promises: two files, nothing else."""
    (tmp_path / "cube.cu").write_text(
        "// y = x³\n"
        "struct Cube {\n"
        "    static constexpr bool saves_input = true;\n"
        "    template <class T> __device__ static inline T forward(T x) { return x * x * x; }\n"
        "    template <class T> __device__ static inline T backward(T x, T d) { return d * (3 * x * x); }\n"
        "};\n"
        "ACTIVATION(cube, Cube)\n"
    )
    cube = activation("cube", "y = x³", lambda xp, x: x * x * x, lambda xp, x, dy: dy * (3.0 * x * x), saves="input")
    made = Builder(tmp_path)
    native = NativeBackend(made)
    x, b = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32), np.ones(6, np.float32)
    y, z = native.run(cube, "bias_forward", (x, b))
    np.testing.assert_allclose(y, (x + b) ** 3, rtol=1e-6)
    dx, db = native.run(cube, "bias_backward", (z, y))
    np.testing.assert_allclose(dx, 3 * z * z * y, rtol=1e-6)
    np.testing.assert_allclose(db, dx.sum(axis=0), rtol=1e-5)
    assert list(made.find(cube, "bias_forward", ("float",))) == ["cube_bias_forward"]


# ---- building ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUMLP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_kernel_is_compiled_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "gpumlp"):
        Builder().check()
    assert [r.getMessage() for r in caplog.records] == ["compiling kernels for this processor, once"]
    (kept,) = cache.iterdir()
    assert kept.name.startswith("program-")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    Builder().check()


def test_changed_text_is_compiled_anew(cache: Path, tmp_path: Path) -> None:
    place = folder()
    assert place is not None
    for change in ("", "// changed\n"):
        (tmp_path / "accumulate.cu").write_text(change + (place / "accumulate.cu").read_text())
        assert Builder(tmp_path).find(RECORDS["accumulate"], "forward", ("double",))
    assert len(list(cache.iterdir())) == 2


def _check(_: int) -> bool:
    Builder().check()
    return True


def test_two_processes_at_once(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_check, range(4)) == [True] * 4
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(builder, "compiler", lambda: None)
    with pytest.raises(BackendError, match=r"no C\+\+ compiler\n.*install g\+\+"):
        backends.get("native")
    assert backends.get("auto").name == "numpy"
    assert "not computing with native: there is no C++ compiler" in caplog.text


def test_a_compiler_that_fails(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "accumulate.cu").write_text(
        "template <class T> __global__ void accumulate_forward(T x) { nonsense }\n"
    )
    with pytest.raises(BackendError, match=r"accumulate does not compile(.|\n)*nonsense"):
        Builder(tmp_path).find(RECORDS["accumulate"], "forward", ("double",))
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="folders that are files are named otherwise there")
def test_where_nothing_can_be_kept_kernels_are_made_for_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(builder, "_private_folder", lambda: tmp_path / "private")
    for cache in (tmp_path / "file" / "cache", None):
        monkeypatch.setattr(builder, "cache_folder", lambda cache=cache: cache)
        Builder().check()
        (kept,) = (tmp_path / "private").iterdir()
        kept.unlink()
    assert caplog.text.count("GPUMLP_CACHE may name another folder") == 1


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:5000], lambda b: b[:-1] + b"x", lambda b: b + b"x"])
def test_a_damaged_library_is_made_again(cache: Path, damage: Any) -> None:
    """Loading half a library would kill the process, so it must not come to that."""
    Builder().check()
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # the loaded one stays mapped
    kept.write_bytes(damage(whole))
    Builder().check()
    assert builder._is_whole(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [("exit 1", "the compiler says\nnothing"), ("exit 0", "does not compile"), (None, "cannot be run")],
)
def test_a_compiler_that_is_none(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    fake = tmp_path / "cxx"
    fake.write_bytes(b"\x7fELFx" if text is None else f"#!/bin/sh\n{text}\n".encode())
    fake.chmod(0o755)
    monkeypatch.setattr(builder, "compiler", lambda: (str(fake),))
    with pytest.raises(BackendError, match=message):
        Builder().check()
    assert backends.get("auto").name == "numpy"


def test_denormals_are_flushed_in_kernels_and_nowhere_else(native: NativeBackend) -> None:
    """As on a GPU. The formula keeps them, and so does NumPy after a kernel has run."""
    tiny = np.full(40, 1e-40, np.float32)
    accumulate, tanh = RECORDS["accumulate"], RECORDS["tanh"]
    assert not native.run(tanh, "forward", (tiny,))[0].any()
    assert Backend().run(tanh, "forward", (tiny,))[0].all()
    assert (tiny * np.float32(2)).all()
    assert not native.run(accumulate, "forward", (tiny.astype(np.float64) * 1e-280, np.zeros(40)))[0].any()

"""The compiled kernels against the reference, and the ways in which they are built and kept."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import FORMULA_ONLY
from checked.machine import CheckedBackend, Machine
from support import bits

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend, NativeBackend
from gpumlp.backend.host import builder
from gpumlp.backend.host.builder import Builder
from gpumlp.backend.kernels import Texts, folder, kernels_of
from gpumlp.errors import BackendError
from gpumlp.nn import BatchNorm, Dense, Dropout, LayerNorm, Loss, Sequential
from gpumlp.ops import RECORDS
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.losses import loss
from gpumlp.ops.record import activation
from gpumlp.optim import OPTIMIZERS, Optimizer

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@pytest.fixture(scope="module")
def native() -> NativeBackend:
    return NativeBackend()


def training_run(backend: Backend, optimizer: str, captured: bool) -> tuple[list[float], bytes]:
    """Train a network with everything in it for some steps; return the losses and the last parameters."""
    rng = np.random.default_rng(0)
    chain = [Dense(16, "tanh"), Dropout(0.2), LayerNorm(), Dense(8, "gelu"), BatchNorm(), Dense(3, "softmax")]
    model = Sequential(chain).build(5, backend=backend)
    loss = Loss("cross_entropy", model, label_smoothing=0.1, class_weights=[1.0, 2.0, 1.0])
    averaging = None if OPTIMIZERS[optimizer].averages else 0.9
    stepper = Optimizer(optimizer, model.parameters, model.context.clock, clip_norm=1.0, averaging=averaging)
    x = Tensor(rng.standard_normal((33, 5), np.float32), backend)
    y = rng.integers(0, 3, 33).astype(np.int32)
    losses: list[float] = []

    def step() -> Any:
        with GradientTape() as tape:
            value, _ = loss(model.forward(x, training=True), backend_labels)
        model.parameters.collect(tape, value)
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


@pytest.mark.parametrize("kind", ["native", "checked"])
def test_a_new_loss_gets_all_its_settings_in_their_order(tmp_path: Path, kind: str) -> None:
    """Two numbers that mean different things: what each side of a quantile weighs, and where the line begins."""
    text = (
        "// l = weight (r - dead) where r = t - z is beyond dead on its side, else 0; set by upper and dead\n"
        "struct Band {\n"
        "    template <class T> __device__ static inline ElementLoss<T> at(T z, T t, Sides<T>, Settings set) {\n"
        "        T r = t - z, up = (T)set.first, dead = (T)set.second;\n"
        "        T loss = larger(up * (r - dead), larger(-r - dead, (T)0));\n"
        "        return {loss, r > dead ? -up : r < -dead ? (T)1 : (T)0, 1, 0};\n"
        "    }\n"
        "};\n"
        "ELEMENTWISE_LOSS(band, Band)\n"
    )
    (tmp_path / "band.cu").write_text(text)

    def rows(xp, outputs, targets, classes, *, upper=1.0, dead=0.0):  # type: ignore[no-untyped-def]
        r = targets - outputs
        losses = xp.maximum(upper * (r - dead), xp.maximum(-r - dead, 0.0))
        slopes = xp.where(r > dead, -upper, xp.where(r < -dead, 1.0, 0.0))
        return xp.mean(losses, axis=-1), xp.ones(len(r), r.dtype), (slopes / r.shape[1]).astype(r.dtype)

    hyper = {"upper": Hyper(1.0, "weight above"), "dead": Hyper(0.0, "where no loss is")}
    band = loss("band", "-", rows, link="identity", slope="-", hyper=hyper)
    rng = np.random.default_rng(0)
    z, t = (rng.standard_normal((7, 3)).astype(np.float32) for _ in range(2))
    with contextlib.ExitStack() as stack:
        if kind == "native":
            backend: Backend = NativeBackend(Builder(tmp_path))
            assert NativeBackend(Builder(tmp_path))._builder.find(band, "forward", ("float", "float"), False)
        else:
            machine = stack.enter_context(contextlib.closing(Machine(tmp_path, {"band.cu": text})))
            machine.texts = Texts(tmp_path)
            backend = CheckedBackend(machine)
        for settings in ({"upper": 3.0, "dead": 0.25}, {"dead": 0.25, "upper": 3.0}, {"dead": 0.5}, {}):
            got = backend.run(band, "forward", (z, t, None, None), None, **settings)
            want = Backend().run(band, "forward", (z, t, None, None), None, **settings)
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        assert got[0] != backend.run(band, "forward", (z, t, None, None), None, dead=0.5)[0]


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


def test_a_compiler_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ '")
    builder.compiler.cache_clear()
    try:
        with pytest.raises(BackendError, match="is not a command that can be run"):
            Builder().check()
    finally:
        builder.compiler.cache_clear()


def test_a_compiler_that_prints_bytes_that_are_not_utf_8(tmp_path: Path, cache: Path) -> None:
    script = tmp_path / "c++"
    script.write_bytes(b"#!/bin/sh\nprintf 'erreur \\351'\nprintf 'erreur \\351' >&2\nexit 1\n")
    script.chmod(0o755)
    assert "\ufffd" in builder._machine((str(script),))
    with pytest.raises(BackendError, match="does not compile"):
        builder.compile_library((str(script),), "add", "")


def test_a_compiler_that_fails(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "accumulate.cu").write_text(
        "template <class T> __global__ void accumulate_forward(T x) { nonsense }\n"
    )
    made = Builder(tmp_path)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"accumulate does not compile(.|\n)*nonsense"):
            made.find(RECORDS["accumulate"], "forward", ("double",))
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
    assert caplog.text.count("set GPUMLP_CACHE to another folder") == 1


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:5000], lambda b: b[:-1] + b"x", lambda b: b + b"x"])
def test_a_damaged_library_is_made_again(cache: Path, damage: Any) -> None:
    """Loading half a library would kill the process, so it must not come to that."""
    Builder().check()
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # the loaded one stays mapped
    kept.write_bytes(damage(whole))
    Builder().check()
    assert builder._load_cached(kept) is not None


@pytest.mark.skipif(os.name != "posix", reason="owners and permissions as POSIX has them")
class TestWhoCanWriteInTheCache:
    """A library is code: one that another user can have put there is not loaded."""

    @staticmethod
    def kept(cache: Path) -> Path:
        Builder().check()
        (path,) = cache.iterdir()
        return path

    def test_it_is_made_for_its_user(self, cache: Path) -> None:
        before = os.umask(0)
        try:
            path = self.kept(cache)
        finally:
            os.umask(before)
        assert cache.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
    def test_a_library_that_others_can_write_is_made_again(self, cache: Path, mode: int) -> None:
        path = self.kept(cache)
        before = path.stat().st_ino
        path.chmod(mode)
        assert builder._load_cached(path) is None
        Builder().check()
        assert path.stat().st_ino != before
        assert path.stat().st_mode & 0o777 == 0o644

    def test_others_lose_the_right_to_write_in_our_folder(self, cache: Path) -> None:
        path = self.kept(cache)
        cache.chmod(0o777)
        assert builder._load_cached(path) is not None
        assert cache.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("of", ["folder", "file"])
    def test_of_another_user(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, of: str
    ) -> None:
        path = self.kept(cache)
        monkeypatch.setattr(builder, "_private_folder", lambda: tmp_path / "private")
        if os.geteuid() == 0:
            os.chown(cache if of == "folder" else path, 4711, 4711)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert builder._load_cached(path) is None
        Builder().check()
        if of == "folder":
            assert "it belongs to another user, or is writable by others" in caplog.text
            assert len(list((tmp_path / "private").iterdir())) == 1

    def test_a_link_is_not_followed(self, cache: Path, tmp_path: Path) -> None:
        path = self.kept(cache)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert builder._load_cached(path) is None
        Builder().check()
        assert not path.is_symlink()

    def test_what_was_checked_is_what_is_loaded(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another file takes the name between the check and the loading."""
        path = self.kept(cache)
        load = ctypes.CDLL

        def swapped(name: str) -> ctypes.CDLL:
            other = path.with_name("other")
            other.write_bytes(b"not a library")
            os.replace(other, path)
            return load(name)

        if sys.platform != "linux":
            pytest.skip("files are loaded by their names there")
        monkeypatch.setattr(ctypes, "CDLL", swapped)
        library = builder._load_cached(path)
        assert library is not None
        assert library.gpumlp_run is not None

    def test_two_libraries_behind_one_number_are_two(self, cache: Path) -> None:
        """The system knows libraries by name, and numbers of open files come again."""
        made = Builder()
        made.check()
        made.product("float")
        for _ in range(3):
            libraries = [builder._load_cached(path) for path in sorted(cache.iterdir())]
            assert all(libraries)
            assert [hasattr(library, "gpumlp_run") for library in libraries] == [False, True]


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


def test_elsewhere_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On Windows, and where an address is no eight bytes: a kernel might bring the process down."""
    for name, value in (("platform", "win32"), ("maxsize", (1 << 31) - 1)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, value)
            with pytest.raises(BackendError, match="on 64-bit Linux and macOS only"):
                Builder().check()
            assert backends.get("auto").name == "numpy"
    assert caplog.text.count("not computing with native") == 2

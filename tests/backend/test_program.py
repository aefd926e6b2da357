"""Matrix products of our own, and the threads that run a native step."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FLOATS, assert_close, bits, poison

from gpumlp.backend import Backend, NativeBackend
from gpumlp.backend.host import builder, products
from gpumlp.backend.host.products import MAX_TASKS, cut
from gpumlp.backend.kernels import address
from gpumlp.ops import ACTIVATIONS, GATHER
from gpumlp.ops.random import permute
from gpumlp.ops.updates import GRADIENT_NORM

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")

SHAPES = [
    (1, 1, 1), (1, 10, 1), (2, 3, 5), (14, 32, 64), (15, 33, 65), (13, 16, 31), (29, 17, 1), (1, 513, 33),
    (128, 784, 256), (64, 1025, 10), (300, 10, 300), (257, 511, 130),
]  # fmt: skip


SECONDS = 120.0
"""What a test may take: many times what the slowest needs on a busy machine."""


@pytest.fixture(autouse=True)
def limit(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """End the tests, and say where they were, if one takes too long.

    A thread that waits for a part that was lost does so in compiled code, which no exception interrupts.
    """
    with capfd.disabled():
        terminal = os.dup(2)
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=terminal)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(terminal)


HANGS = """
import ctypes
from backend import test_program
from backend.test_program import limit
test_program.SECONDS = 0.2

def test_that_hangs():
    ctypes.CDLL(None).sleep(100)
"""


def test_a_test_that_hangs_is_ended(tmp_path: Path) -> None:
    (tmp_path / "test_hang.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in test_that_hangs" in done.stderr


WITHOUT_NATIVE = """#!/bin/sh
for each do
    shift
    case $each in -m*=native) ;; *) set -- "$@" "$each" ;; esac
done
exec {} "$@"
"""
"""A compiler that makes code for every processor of its kind."""


@pytest.fixture(scope="module", params=["tiles", "plain", "short vectors"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBackend]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUMLP_TILES", "1" if request.param == "tiles" else "0")
        if request.param == "short vectors":
            script = tmp_path_factory.mktemp("compiler") / "c++"
            script.write_text(WITHOUT_NATIVE.format(shlex.join(builder.compiler() or ())))
            script.chmod(0o755)
            patch.setattr(builder, "compiler", lambda: (str(script),))
        yield NativeBackend()


def with_threads(count: int) -> NativeBackend:
    backend = NativeBackend()
    backend.threads = count
    return backend


def matrices(rows: int, inner: int, cols: int, dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng([rows, inner, cols])
    return rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, cols)).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "inner", "cols"), SHAPES)
def test_a_product_in_every_layout(native: NativeBackend, rows: int, inner: int, cols: int, dtype: Any) -> None:
    a, b = matrices(rows, inner, cols, dtype)
    want = a.astype(np.float64) @ b.astype(np.float64)
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            out = poison((rows, cols), dtype)
            assert native.matmul(left, right, out) is out
            assert_close(out, want, "reduction", scale=inner**0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.booleans())
def test_a_product_of_any_shape(rows: int, inner: int, cols: int, turn_left: bool, turn_right: bool) -> None:
    a, b = matrices(rows, inner, cols, np.float64)
    left = np.asfortranarray(a) if turn_left else a
    right = np.asfortranarray(b) if turn_right else b
    memory = poison((rows * cols + 16,), np.float64)
    out = memory[8:-8].reshape(rows, cols)
    NativeBackend().matmul(left, right, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    assert bits(memory[:8]) == bits(memory[-8:]) == b"\xff" * 64


def test_views_with_steps_and_what_is_left_to_numpy(native: NativeBackend) -> None:
    a, b = matrices(40, 50, 60, np.float32)
    np.testing.assert_allclose(native.matmul(a[::2, 5:45], b[5:45, ::3]), a[::2, 5:45] @ b[5:45, ::3], rtol=1e-4)
    stack = np.stack([a, a])
    np.testing.assert_allclose(native.matmul(stack, b), stack @ b, rtol=1e-4, atol=1e-5)
    assert native.matmul(a[:0], b).shape == (0, 60)
    np.testing.assert_array_equal(native.matmul(a[:, :0], b[:0]), np.zeros((40, 60)))
    assert native.matmul(a.astype(np.float64), b).dtype == np.float64
    with pytest.raises(ValueError, match="mismatch"):
        native.matmul(a, a)


def test_steps_of_any_sign_and_size(native: NativeBackend) -> None:
    """Backwards, the same row again and again, a column that is one number, a field of a record."""
    a, b = matrices(40, 50, 60, np.float32)
    packed = np.zeros((50, 60), [("tag", "u1"), ("value", "<f4")])
    packed["value"] = b
    record = np.zeros((50, 60), [("tag", "<f4"), ("value", "<f4")])
    record["value"] = b
    row, column = np.broadcast_to(a[0], a.shape), np.broadcast_to(b[:, :1], b.shape)
    for left in (a, a[::-1, ::-1], np.asfortranarray(a)[:, ::-1], row):
        for right in (b, b[::-1], b[:, ::-1], column, packed["value"], record["value"]):
            want = left.astype(np.float64) @ right.astype(np.float64)
            assert_close(native.matmul(left, right), want, "reduction", scale=10)


def test_an_output_that_is_an_input_or_may_not_be_written(native: NativeBackend) -> None:
    """As NumPy has it: what is read is not overwritten first, and what is read-only is refused."""
    a, b = matrices(300, 300, 300, np.float64)
    memory = np.zeros((301, 300))
    for place, left, right in ((a.copy(), None, b), (b.copy(), a, None), (memory[1:], memory[:-1], b)):
        memory[:-1] = a
        want = (place if left is None else left) @ (place if right is None else right)
        native.matmul(place if left is None else left, place if right is None else right, place)
        np.testing.assert_allclose(place, want, rtol=1e-10, atol=1e-10)
    fixed = np.zeros((300, 300))
    fixed.flags.writeable = False
    for call in (
        lambda: native.matmul(a, b, fixed),
        lambda: native.run(ACTIVATIONS["tanh"], "forward", (a,), (fixed,)),
    ):
        with pytest.raises(ValueError, match="read-only"):
            call()
    assert not fixed.any()


def test_not_a_number_reaches_its_row_and_no_other(native: NativeBackend) -> None:
    a, b = matrices(20, 40, 50, np.float32)
    a[3, 7], a[5, 1] = np.nan, np.inf
    got, want = native.matmul(a, b), Backend().matmul(a, b)  # which warns of nothing
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_change_no_bit(dtype: Any) -> None:
    """Sums are cut by the shape, never by who computes them."""
    rng = np.random.default_rng(0)
    a, b = matrices(300, 700, 500, dtype)
    x, g = rng.standard_normal((3000, 130)).astype(dtype), rng.standard_normal(1_000_003).astype(dtype)
    found = set()
    for count in (1, 2, 3, 7):
        backend = with_threads(count)
        for _ in range(3):
            relu = backend.run(ACTIVATIONS["relu"], "bias_backward", (x, x))
            norm = backend.run(GRADIENT_NORM, "forward", (g,))
            found.add((bits(backend.matmul(a, b)), *map(bits, (*relu, *norm))))
    assert len(found) == 1
    np.testing.assert_allclose(norm[0], np.linalg.norm(g.astype(np.float64)), rtol=1e-6)


def test_many_short_steps_on_more_threads_than_cores() -> None:
    """Parts are handed out a hundred thousand times; none may be lost or done twice."""
    backend = with_threads(6)
    counter, one = np.zeros(200_000, np.float32), np.ones(200_000, np.float32)
    add = ACTIVATIONS["identity"]

    def step() -> None:
        backend.run(add, "bias_forward", (counter.reshape(-1, 1), one[:1]), (counter.reshape(-1, 1), None))

    plan = backend.capture(step)
    for _ in range(2000):
        plan()
    np.testing.assert_array_equal(counter, 2001)


def test_a_replay_is_one_call(native: NativeBackend) -> None:
    a, b = matrices(8, 9, 10, np.float32)
    out = np.empty((8, 10), np.float32)

    def step() -> None:
        native.matmul(a, b, out)
        native.run(ACTIVATIONS["tanh"], "forward", (out,), (out,))

    plan = native.capture(step)
    assert plan.names() == ["matmul", "tanh_forward"]
    assert len(plan.runs) == 1
    out[...] = np.nan
    plan()
    np.testing.assert_allclose(out, np.tanh(a @ b), rtol=1e-5)

    def mixed() -> None:
        step()
        native.compute("negative", np.negative, out, out=out)
        step()

    assert len(native.capture(mixed).runs) == 3


NO_THREADS = """
import threading
import numpy as np
from gpumlp.backend import NativeBackend
try:
    threading.Thread(target=int).start()
except RuntimeError:
    print("none")
backend = NativeBackend()
backend.threads = 4
a = np.ones((300, 300))
print(backend.matmul(a, a).sum())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a thread's stack is limited otherwise there")
def test_where_the_system_gives_no_threads_the_caller_does_it_all() -> None:
    """A stack of 64 TiB is one that no thread gets."""
    resource = pytest.importorskip("resource")

    def stack() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 46, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    variables = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS], capture_output=True, text=True, env=variables, preexec_fn=stack
    )
    assert (done.stdout, done.returncode) == ("none\n27000000.0\n", 0), done.stderr


def test_two_callers_at_once() -> None:
    """One has the threads, the other goes alone; both are right."""
    a, b = matrices(256, 256, 256, np.float32)
    backend, wrong = with_threads(3), []
    want = bits(backend.matmul(a, b))

    def call() -> None:
        wrong.extend(1 for _ in range(200) if bits(backend.matmul(a, b)) != want)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def _product(_: int) -> bytes:
    return bits(with_threads(3).matmul(*matrices(256, 256, 256, np.float32)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    here = _product(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_product, range(4)).get(timeout=60) == [here] * 4


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("by_columns", [False, True])
def test_how_a_product_is_cut(threads: int, by_columns: bool) -> None:
    assert cut(32, 32, 64, threads, by_columns) == (1, 1)
    for shape in ((128, 256, 784), (1024, 1024, 1024), (784, 1024, 1024), (60000, 10, 256), (4096, 4096, 8192)):
        runs, slices = cut(*shape, threads, by_columns)
        assert 2 <= runs * slices <= max(2 * MAX_TASKS, 4 * threads)
        assert shape[0] // runs >= 16


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF"])
def test_the_cut_changes_no_bit(dtype: Any, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = matrices(200, 1100, 150, dtype)
    a, b = np.asarray(a, order=order[0]), np.asarray(b, order=order[1])
    monkeypatch.setenv("GPUMLP_TILES", "0")
    found = set()
    for way in ((1, 1), (1, 3), (7, 1), (3, 2)):
        monkeypatch.setattr(products, "cut", lambda *_, way=way, **__: way)
        found.add(bits(with_threads(2).matmul(a, b)))
    assert len(found) == 1


@pytest.mark.parametrize("dtype", [*FLOATS, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (1000, 7)])
def test_memory_begins_with_a_line_of_the_cache(native: NativeBackend, shape: tuple[int, ...], dtype: Any) -> None:
    made = (
        native.empty(shape, dtype),
        native.zeros(shape, dtype),
        native.asarray(np.ones(shape, dtype), copy=True),
    )
    for array in made:
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.carray
        assert not array.size or address(array) % 64 == 0
    assert not made[1].any()
    np.testing.assert_array_equal(made[2], 1)


def test_a_batch_gathered_by_several_threads(native: NativeBackend) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5000, 90), np.float32), rng.integers(0, 3, 5000).astype(np.int32)
    order = permute(np, np.arange(5000), 5000, np.array([3]), 7)
    take = {"rows": 2000, "stride": 2000, "key": 7, "scale": 1.0, "dtype": "<f4"}
    got = with_threads(4).run(GATHER, "forward", (np.array([1, 1, 3]), x, y, None), **take)
    np.testing.assert_array_equal(got[0], x[order[2000:4000]])
    np.testing.assert_array_equal(got[1], y[order[2000:4000]])

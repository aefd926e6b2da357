"""The binding of cuBLASLt: on a fake that computes from the descriptions alone, and on the real library."""

from __future__ import annotations

import ctypes
import gc
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import byref, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpumlp.autodiff as ad
from backend.fake_cupy import Cupy, installed
from gpumlp.autodiff import GradientTape, Tensor, Variable, dense
from gpumlp.backend import Backend, CupyBackend
from gpumlp.backend.cuda import cublaslt
from gpumlp.backend.cuda.cublaslt import Epilogue, MatrixLayout, Owned, Product, layout, library_paths
from gpumlp.backend.host import builder
from gpumlp.errors import BackendError
from gpumlp.ops import ACTIVATIONS

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cupy]:
    with installed(monkeypatch) as module:
        yield module


@pytest.fixture
def cupy(fake: Cupy) -> CupyBackend:
    return CupyBackend()


# ---- layouts -----------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Callable[[Any], Any], int, int], Any]] = {
    "in one piece": lambda zeros, rows, cols: zeros((rows, cols)),
    "transposed": lambda zeros, rows, cols: zeros((cols, rows)).T,
    "some columns": lambda zeros, rows, cols: zeros((rows, cols + 3))[:, 1 : cols + 1],
    "some columns, transposed": lambda zeros, rows, cols: zeros((cols, rows + 5))[:, 2 : rows + 2].T,
    "every other row": lambda zeros, rows, cols: zeros((2 * rows, cols))[::2],
    "of a flat buffer": lambda zeros, rows, cols: zeros((rows * cols + 7,))[7:].reshape(rows, cols),
}
"""Matrices as views of other arrays, of an array module or a backend."""
NONE = {
    "every other column": np.zeros((4, 6))[:, ::2],
    "backwards": np.zeros((4, 6))[::-1],
    "one row for all": np.broadcast_to(np.zeros(6), (4, 6)),
    "overlapping rows": np.lib.stride_tricks.as_strided(np.zeros(20), (4, 6), (16, 8)),
    "empty": np.zeros((0, 3)),
    "of integers": np.zeros((2, 2), np.int64),
    "half": np.zeros((2, 2), np.float16),
    "four axes": np.zeros((2, 2, 2, 2)),
    "one matrix for all": np.broadcast_to(np.zeros((2, 3)), (4, 2, 3)),
    "matrices backwards": np.zeros((4, 2, 3))[::-1],
    "none of several": np.zeros((0, 2, 3)),
}


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1), (2, 7)])
@pytest.mark.parametrize("view", VIEWS)
def test_a_layout_by_columns_holds_the_transpose(view: str, shape: tuple[int, int]) -> None:
    """Every element is where the layout says, by the rule of cublasLt.h: (i, j) lies i + j ld behind the first."""
    array = VIEWS[view](np.zeros, *shape)
    array[...] = np.arange(array.size).reshape(shape)
    found = layout(array)
    assert found is not None
    assert found.ld >= found.rows
    steps = (array.itemsize, found.ld * array.itemsize)
    stored = np.lib.stride_tricks.as_strided(array, (found.rows, found.cols), steps)
    np.testing.assert_array_equal(stored if found.op == cublaslt.OP_N else stored.T, array.T)


@pytest.mark.parametrize("view", NONE)
def test_what_has_no_layout(view: str) -> None:
    assert layout(NONE[view]) is None


def test_layouts_by_hand() -> None:
    floats = np.zeros(64, np.float32)
    place = -floats.ctypes.data // 4 % 16  # elements up to a multiple of 64 bytes
    a = floats[place : place + 12].reshape(3, 4)
    found = layout(a)
    assert found is not None
    assert found == MatrixLayout(0, rows=4, cols=3, ld=4, op=0, alignment=found.alignment)
    assert found.alignment in (64, 128, 256)
    assert layout(a.T) == MatrixLayout(0, rows=4, cols=3, ld=4, op=1, alignment=found.alignment)
    assert layout(a[:, 1:]) == MatrixLayout(0, rows=3, cols=3, ld=4, op=0, alignment=4)
    assert layout(a[1:]) == MatrixLayout(0, rows=4, cols=2, ld=4, op=0, alignment=16)


# ---- products ----------------------------------------------------------------------------------------------------

ORDERS = {
    "forward": lambda a, b: (a, b),
    "gradient of x": lambda a, b: (a, np.ascontiguousarray(b.T).T),
    "gradient of W": lambda a, b: (np.ascontiguousarray(a.T).T, b),
    "both transposed": lambda a, b: (np.ascontiguousarray(a.T).T, np.ascontiguousarray(b.T).T),
}


@pytest.mark.parametrize(("m", "k", "n"), [(5, 3, 4), (1, 6, 2), (6, 1, 2), (4, 5, 1), (1, 1, 1), (33, 17, 8)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_product_is_numpys(fake: Cupy, cupy: CupyBackend, dtype: str, order: str, m: int, k: int, n: int) -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(kind) for shape in ((m, k), (k, n)))  # exact in every type
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    left, right = ORDERS[order](a, b)
    on_device = [
        cupy.asarray(each.T).T if not each.flags.c_contiguous else cupy.asarray(each) for each in (left, right)
    ]
    assert fake.lt is not None
    outs = [None, np.dtype(np.float32)] if dtype == "bfloat16" else [None]
    for narrow in outs:
        fake.lt.products.clear()
        out = None if narrow is None else cupy.empty((m, n), narrow)
        found = cupy.matmul(*on_device, out=out)
        assert found.dtype == (narrow or np.dtype(kind))
        np.testing.assert_array_equal(cupy.to_host(found).astype(np.float64), wanted.astype(found.dtype))
        assert fake.lt.products == [(1, 70 if dtype == "float64" else 68)]


@pytest.mark.parametrize("view", VIEWS)
def test_products_of_views(fake: Cupy, cupy: CupyBackend, view: str) -> None:
    check_views(cupy, view)
    assert fake.lt is not None
    assert len(fake.lt.products) == 2


def check_views(cupy: CupyBackend, view: str) -> None:
    """Multiply by a view from both sides. Whole numbers, so that every order of summing is exact."""
    rng = np.random.default_rng(0)
    values, others = rng.integers(-4, 5, (24, 40)), [rng.integers(-4, 5, shape) for shape in ((40, 8), (6, 24))]
    a = VIEWS[view](lambda shape: cupy.zeros(shape, np.float32), 24, 40)
    cupy.write(a, values)
    right, left = (cupy.asarray(each, np.float32) for each in others)
    np.testing.assert_array_equal(cupy.to_host(cupy.matmul(a, right)), values @ others[0])
    np.testing.assert_array_equal(cupy.to_host(cupy.matmul(left, a)), others[1] @ values)


def test_views_of_one_buffer(fake: Cupy, cupy: CupyBackend) -> None:
    """As parameters and gradients lie: at their places in a flat array, the gradient written where it belongs."""
    rng = np.random.default_rng(0)
    flat, gradients = cupy.asarray(rng.standard_normal(100)), cupy.zeros((100,), np.float64)
    W, dW = flat[16:64].reshape(6, 8), gradients[16:64].reshape(6, 8)
    x, dy = (cupy.asarray(rng.standard_normal(shape)) for shape in ((5, 6), (5, 8)))
    host = [cupy.to_host(each) for each in (x, W, dy)]
    np.testing.assert_allclose(cupy.to_host(cupy.matmul(x, W)), host[0] @ host[1], rtol=1e-12)
    np.testing.assert_allclose(cupy.to_host(cupy.matmul(dy, W.T)), host[2] @ host[1].T, rtol=1e-12)
    assert cupy.matmul(x.T, dy, out=dW) is dW
    expected = np.zeros(100)
    expected[16:64] = (host[0].T @ host[2]).ravel()
    np.testing.assert_allclose(cupy.to_host(gradients), expected, rtol=1e-12)
    assert fake.lt is not None
    assert len(fake.lt.products) == 3


MEMBERS = {
    "side by side": (lambda x: x, lambda x: x),
    "rows by turns": (lambda x: x.transpose(1, 0, 2), lambda x: np.ascontiguousarray(x.transpose(1, 0, 2))),
    "transposed": (lambda x: x.transpose(0, 2, 1), lambda x: np.ascontiguousarray(x.transpose(0, 2, 1))),
}
"""How several matrices lie, (count, rows, cols): their view of an array, and the array."""


@pytest.mark.parametrize(("count", "m", "k", "n"), [(3, 5, 4, 2), (2, 1, 6, 3), (1, 4, 3, 2), (4, 3, 1, 1)])
@pytest.mark.parametrize("right", ["side by side", "transposed"])
@pytest.mark.parametrize("left", MEMBERS)
def test_several_products_in_one_launch(
    fake: Cupy, cupy: CupyBackend, left: str, right: str, count: int, m: int, k: int, n: int
) -> None:
    """Into a new array, and into one whose results of a row stand side by side, as those of members do."""
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((count, m, k), (count, k, n)))
    on_device = [MEMBERS[order][0](cupy.asarray(MEMBERS[order][1](x))) for order, x in ((left, a), (right, b))]
    assert fake.lt is not None
    for out in (None, cupy.zeros((m, count, n), np.float32).transpose(1, 0, 2)):
        fake.lt.products.clear()
        np.testing.assert_array_equal(cupy.to_host(cupy.matmul(*on_device, out=out)), a @ b)
        assert fake.lt.products == [(1, 68)]


def test_members_stay_in_the_graph(cupy: CupyBackend) -> None:
    """Heads of several members, forward and back: no product falls out of a captured step."""
    x, W, b = (cupy.asarray(np.ones(shape, np.float32)) for shape in ((12, 5), (3, 5, 2), (3, 2)))
    heads = Variable(W, cupy), Variable(b, cupy)

    def step() -> list[Tensor | None]:
        with GradientTape() as tape:
            value = ad.sum(ad.member_dense(Tensor(x, cupy), *heads))
        return tape.gradient(value, [*heads])

    plan = cupy.capture(step)
    products = [call for call in plan.calls if call.multiplies]
    assert len(products) == 2
    assert all(isinstance(call.launch, Product) for call in products)


def test_an_algorithm_is_chosen_once_for_each_shape_and_alignment(fake: Cupy, cupy: CupyBackend) -> None:
    lt, x = fake.lt, cupy.zeros((4, 4), np.float32)
    assert lt is not None
    for _ in range(5):
        cupy.matmul(x, x)
    cupy.matmul(x, x.T)
    assert len(lt.chosen) == 2
    buffer = cupy.zeros((17,), np.float32)
    cupy.matmul(x, buffer[1:].reshape(4, 4))  # four bytes off: not every algorithm can
    assert len(lt.chosen) == 3
    assert len(lt.products) == 7


def test_tf32_is_for_float32_alone(fake: Cupy) -> None:
    cupy = CupyBackend(tf32=True)
    for dtype in (np.float32, np.float64, pytest.importorskip("ml_dtypes").bfloat16):
        cupy.matmul(cupy.zeros((2, 2), dtype), cupy.zeros((2, 2), dtype))
    assert fake.lt is not None
    assert [compute for _, compute in fake.lt.products] == [77, 70, 68]


@pytest.mark.parametrize(
    "given",
    [
        lambda b: (b.zeros((2, 3, 4), np.float32), b.zeros((4, 2), np.float32), None),
        lambda b: (b.zeros((0, 4), np.float32), b.zeros((4, 2), np.float32), None),
        lambda b: (b.zeros((4, 4), np.float32)[:, ::2], b.zeros((2, 2), np.float32), None),
        lambda b: (b.zeros((2, 4), np.float32), b.zeros((4, 2), np.float64), b.zeros((2, 2), np.float64)),
        lambda b: (b.zeros((2, 4), np.float16), b.zeros((4, 2), np.float16), None),
        lambda b: (b.zeros((2, 2), np.float32), b.zeros((2, 2), np.float32), b.zeros((2, 2), np.float32).T),
    ],
)
def test_what_cublaslt_does_not_take_is_cupys(fake: Cupy, cupy: CupyBackend, given: Any) -> None:
    a, b, out = given(cupy)
    found = cupy.matmul(a, b, out)
    assert found.shape == (*a.shape[:-1], b.shape[1])
    assert fake.lt is not None
    assert fake.lt.products == []


def test_a_product_into_its_own_operand_is_cupys(fake: Cupy, cupy: CupyBackend) -> None:
    a = cupy.asarray(np.arange(8.0).reshape(2, 4))
    cupy.matmul(a[:, :2], a[:, 2:], out=cupy.zeros((2, 2), np.float64))
    assert fake.lt is not None
    assert len(fake.lt.products) == 1
    square = cupy.asarray(np.arange(9.0).reshape(3, 3))
    cupy.matmul(square, square, out=square)
    assert len(fake.lt.products) == 1
    np.testing.assert_array_equal(cupy.to_host(square), np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3))


def test_products_by_cupy_are_the_same(fake: Cupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUMLP_CUBLASLT", "0")
    plain = CupyBackend()
    monkeypatch.delenv("GPUMLP_CUBLASLT")
    rng = np.random.default_rng(1)
    a, b = rng.integers(-8, 9, (7, 5)).astype(np.float32), rng.integers(-8, 9, (5, 3)).astype(np.float32)
    found = [
        backend.to_host(backend.matmul(backend.asarray(a), backend.asarray(b))) for backend in (plain, CupyBackend())
    ]
    np.testing.assert_array_equal(*found)
    assert plain.lt is None
    narrow = pytest.importorskip("ml_dtypes").bfloat16
    out = plain.zeros((7, 3), np.float32)
    plain.matmul(plain.asarray(a.astype(narrow)), plain.asarray(b.astype(narrow)), out=out)
    np.testing.assert_array_equal(plain.to_host(out), a @ b)


# ---- bias and ReLU in the same launch ----------------------------------------------------------------------------


def one_layer(
    backend: CupyBackend, name: str, dtype: Any = np.float32
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return what the backend makes of a small layer, and what NumPy does."""
    rng = np.random.default_rng(0)
    x, W, b = (rng.standard_normal(shape).astype(dtype) for shape in ((6, 5), (5, 4), (4,)))
    y, z = backend.dense(ACTIVATIONS[name], *(backend.asarray(each) for each in (x, W, b)))
    wanted = x.astype(np.float64) @ W + b
    assert (z is None) == (ACTIVATIONS[name].saves == "output")
    return backend.to_host(y), ACTIVATIONS[name].function(np, wanted)


@pytest.mark.parametrize(("name", "epilogue"), [("identity", 4), ("relu", 6), ("tanh", 1), ("gelu", 1)])
def test_a_layer_in_one_launch_where_there_is_an_epilogue(
    fake: Cupy, cupy: CupyBackend, name: str, epilogue: int
) -> None:
    lt = fake.lt
    assert lt is not None
    fake.launched.clear()
    for dtype in (np.float32, np.float64):
        found, wanted = one_layer(cupy, name, dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert lt.products[-1][0] == epilogue
    assert len(fake.launched) == (0 if epilogue > 1 else 2)


@pytest.mark.parametrize("name", ["identity", "relu", "tanh", "gelu"])
@pytest.mark.parametrize("wants", ["all", "no x", "no W", "no b", "new ones"])
def test_gradients_of_a_layer(fake: Cupy, cupy: CupyBackend, name: str, wants: str) -> None:
    """The sum that is the gradient of the bias is taken along by the product, if both are wanted."""
    op, reference = ACTIVATIONS[name], Backend()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((7, 5), (5, 4), (7, 4), (7, 4))]
    on_device = [cupy.asarray(each) for each in arrays]
    flat = cupy.zeros((64,), np.float32)
    places = [True, flat[16:36].reshape(5, 4), flat[48:52]] if wants != "new ones" else [True] * 3
    if wants.startswith("no"):
        places["xWb".index(wants[-1])] = False
    expected = reference.dense_backward(op, *arrays, [each is not False for each in places], np.dtype("f4"))
    found = cupy.dense_backward(op, *on_device, places, np.dtype("f4"))
    for got, want, place in zip(found, expected, places, strict=True):
        assert (got is None) == (want is None) == (place is False)
        assert got is place or isinstance(place, bool)
        if got is not None:
            np.testing.assert_allclose(cupy.to_host(got), want, rtol=1e-5, atol=1e-6)
    assert fake.lt is not None
    assert (256 in [epilogue for epilogue, _ in fake.lt.products]) == (wants not in ("no W", "no b"))


@pytest.mark.parametrize("reason", ["not offered", "switched off"])
def test_gradients_of_a_layer_without_the_epilogue(fake: Cupy, reason: str) -> None:
    assert fake.lt is not None
    fake.lt.offered -= {256} if reason == "not offered" else set()
    cupy = CupyBackend(epilogues=reason == "not offered")
    x = cupy.zeros((3, 3), np.float32)
    fake.launched.clear()
    cupy.dense_backward(ACTIVATIONS["relu"], x, x, x, x, [True] * 3, x.dtype)
    assert fake.launched[0].kernel == "relu_bias_backward<float>"
    assert [epilogue for epilogue, _ in fake.lt.products] == [1, 1]


def test_layers_of_one_shape_keep_their_own_bias(fake: Cupy, cupy: CupyBackend) -> None:
    """They share a description, in which the bias is set anew for each launch: in a graph, too."""
    x, W = cupy.asarray(np.eye(4, dtype=np.float32)), cupy.asarray(np.eye(4, dtype=np.float32))
    biases = [cupy.asarray(np.full(4, float(n), np.float32)) for n in range(3)]
    plan = cupy.capture(lambda: [cupy.dense(ACTIVATIONS["identity"], x, W, b)[0] for b in biases])
    assert len(plan.runs) == 1
    for n, y in enumerate(plan()):
        np.testing.assert_array_equal(cupy.to_host(y), np.eye(4, dtype=np.float32) + n)


@pytest.mark.parametrize("reason", ["switched off", "not offered", "drops NaN", "no library", "another dtype"])
def test_a_layer_in_two_launches_where_there_is_none(fake: Cupy, reason: str) -> None:
    assert fake.lt is not None
    if reason == "not offered":
        fake.lt.offered = {1}
    if reason == "drops NaN":
        fake.lt.keeps_nan = False
    if reason == "no library":
        fake.lt = None
    cupy = CupyBackend(epilogues=False) if reason == "switched off" else CupyBackend()
    fake.launched.clear()
    if reason == "another dtype":
        x, b = cupy.zeros((2, 2), np.float64), cupy.zeros((2,), np.float32)
        cupy.dense(ACTIVATIONS["identity"], x, x, b)
        assert all(epilogue == 1 for epilogue, _ in fake.lt.products)  # type: ignore[union-attr]
        return
    found, wanted = one_layer(cupy, "relu")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert [one.kernel for one in fake.launched] == ["relu_bias_forward<float>"]


def test_shapes_that_do_not_fit(fake: Cupy, cupy: CupyBackend) -> None:
    lt, square = cupy.lt, cupy.zeros((4, 4), np.float32)
    assert lt is not None
    for a, b, out in ((square[:2], square, square), (square, square[:2], square), (square, square[:, :2], square)):
        assert lt.product(a, b, cupy.zeros(out.shape, np.float32)) is None
    out = cupy.zeros((4, 4), np.float32)
    for vector in (square[0][:3], square[:, 0], cupy.zeros((4,), np.float64), square):
        assert lt.product(square, square, out, Epilogue.BIAS, vector) is None
    assert lt.product(square, square, out, Epilogue.BIAS, square[0]) is not None
    with pytest.raises(ValueError, match="matmul"):
        cupy.matmul(square, square[:2])


def test_a_layer_of_one_unit_takes_no_bias_along(fake: Cupy, cupy: CupyBackend) -> None:
    """Some versions of cuBLASLt add it to some of the rows only."""
    x, W, b = cupy.asarray(np.ones((3, 2))), cupy.asarray(np.ones((2, 1))), cupy.asarray([0.5])
    y, _ = cupy.dense(ACTIVATIONS["identity"], x, W, b)
    assert cupy.to_host(y).tolist() == [[2.5]] * 3
    assert fake.lt is not None
    assert [epilogue for epilogue, _ in fake.lt.products] == [1]


def test_nan_goes_through_a_layer_whatever_the_library_does(fake: Cupy) -> None:
    assert fake.lt is not None
    for keeps in (True, False):
        fake.lt.keeps_nan = keeps
        cupy = CupyBackend()
        x = cupy.asarray(np.array([[np.nan, 1.0], [-1.0, 2.0]], np.float32))
        W, b = cupy.asarray(np.eye(2, dtype=np.float32)), cupy.zeros((2,), "f4")
        y, _ = cupy.dense(ACTIVATIONS["relu"], x, W, b)
        assert np.isnan(cupy.to_host(y)).tolist() == [[True, True], [False, False]]


# ---- networks of layers ------------------------------------------------------------------------------------------


def hidden(
    backend: Backend,
    dtype: str = "float32",
    *,
    activation: str = "relu",
    use: Callable[[Any], Any] = lambda h: h,
    frozen: Sequence[str] = (),
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the gradients of a network of three layers; ``use`` is done with what the first gives the second.

    What is ``frozen`` has none.
    """
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    rng = np.random.default_rng(0)
    shapes = {"x": (7, 5), "W1": (5, 33), "b1": (33,), "W2": (33, 6), "b2": (6,), "W3": (6, 3), "b3": (3,)}
    values = {name: rng.integers(-2, 3, shape) for name, shape in shapes.items()}
    stored = "float32" if kind == dtype else kind
    v = {
        name: (Tensor if name in frozen else Variable)(value.astype(stored), backend)
        for name, value in values.items()
    }
    with GradientTape() as tape:
        h = use(dense(v["x"], v["W1"], v["b1"], activation))
        h = dense(h, v["W2"], v["b2"], activation)
        y = ad.sum(dense(h, v["W3"], v["b3"]))
    names = [name for name in v if name not in frozen]
    parts = tape.gradient(y, [v[name] for name in names])
    return {name: part.numpy() for name, part in zip(names, parts, strict=True) if part is not None}


def agrees(found: Mapping[str, np.ndarray[Any, Any]], dtype: str = "float32") -> None:
    """Check that gradients of the hidden network are those of the reference, to the bit."""
    for name, gradient in hidden(Backend(), dtype).items():
        np.testing.assert_array_equal(found[name].astype("f8"), gradient.astype("f8"), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_gradients_of_a_network_are_those_of_the_reference(fake: Cupy, cupy: CupyBackend, dtype: str) -> None:
    """With all that a product can take along, with nothing, and with a ReLU in a launch of its own."""
    assert fake.lt is not None
    for backend in (cupy, CupyBackend(epilogues=False)):
        agrees(hidden(backend, dtype), dtype)
    fake.lt.keeps_nan = False
    agrees(hidden(CupyBackend(), dtype), dtype)


USES: dict[str, Callable[[Any], Any]] = {
    "twice": lambda h: h + h,
    "beside itself": lambda h: h * ad.mean(h),
    "by another operation": lambda h: ad.exp(-h),
    "as it is": lambda h: h,
}


@pytest.mark.parametrize("use", USES)
def test_gradients_of_a_hidden_value_that_is_used_in_any_way(fake: Cupy, cupy: CupyBackend, use: str) -> None:
    found, wanted = hidden(cupy, use=USES[use]), hidden(Backend(), use=USES[use])
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("frozen", [["W1", "b1"], ["b1", "W2"], ["W1", "b1", "W2", "b2"]])
def test_gradients_of_a_network_of_which_a_part_is_frozen(fake: Cupy, cupy: CupyBackend, frozen: list[str]) -> None:
    found, wanted = hidden(cupy, frozen=frozen), hidden(Backend(), frozen=frozen)
    assert set(found) == set(wanted) == {"x", "W1", "b1", "W2", "b2", "W3", "b3"} - {*frozen}
    for name, gradient in wanted.items():
        np.testing.assert_array_equal(found[name], gradient, err_msg=name)


def test_who_asks_for_the_gradient_of_a_hidden_value_gets_it(fake: Cupy, cupy: CupyBackend) -> None:
    """That of the value, not that of what ReLU made it from; and a value that is the target has its own, too."""
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((4, 3)).astype("f4"), rng.standard_normal((3, 3)).astype("f4")
    found = []
    for backend in (cupy, Backend()):
        v, b = Variable(W, backend), np.zeros(3, "f4")
        with GradientTape(persistent=True) as tape:
            h = dense(Tensor(x, backend), v, b, "relu")
            y = dense(h, v, b, "relu")
        asked = [*tape.gradient(y, [h, v]), tape.gradient(h, v), *tape.gradient(y, [v, h], h * 2.0)]
        found.append([part.numpy() for part in asked if part is not None])
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_second_derivative_of_layers(fake: Cupy, cupy: CupyBackend) -> None:
    found = []
    for backend in (cupy, Backend()):
        x, W, b = Variable(np.array([[0.5, -1.0, 2.0]]), backend), np.eye(3) + 0.5, np.full(3, 0.1)
        with GradientTape() as outer:
            with GradientTape() as inner:
                h = dense(dense(x, W, b, "relu"), W, b, "relu")
                y = ad.sum(h * h * h)
            slope = inner.gradient(y, x)
            total = ad.sum(slope * slope)
        found.append(outer.gradient(total, x).numpy())
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_an_epilogue_that_the_library_fails_on_is_done_without(fake: Cupy) -> None:
    assert fake.lt is not None
    fake.lt.offered, fake.lt.unknown = {1}, dict.fromkeys((4, 6, 256), 14)
    found = hidden(CupyBackend())
    assert {epilogue for epilogue, _ in fake.lt.products} == {1}
    agrees(found)


@pytest.mark.parametrize("reason", ["refused when it is tried", "no algorithm for a trial"])
def test_a_trial_that_fails_counts_as_no(fake: Cupy, reason: str) -> None:
    assert fake.lt is not None
    if reason == "refused when it is tried":
        fake.lt.refused = {6: 13}
    else:
        fake.lt.offered -= {6}
    cupy = CupyBackend()
    square = cupy.zeros((4, 4), np.float32)
    assert not cupy.trials.keeps_nan(square, square, square[0])
    found = hidden(cupy)
    assert {epilogue for epilogue, _ in fake.lt.products} <= {1, 4, 256}
    agrees(found)


@pytest.mark.parametrize("captured", [False, True])
def test_gradients_of_layers_of_one_shape_share_a_description_but_no_bias(
    fake: Cupy, cupy: CupyBackend, monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    """Memory is aligned alike on a device; that of the fake is NumPy's, and is not."""
    monkeypatch.setattr(cublaslt, "aligned", lambda place: 16)
    rng = np.random.default_rng(0)
    x, *weights = (rng.integers(-2, 3, (6, 6)).astype("f4") for _ in range(5))
    found = []
    for backend in (cupy, Backend()):
        v = [Variable(W, backend) for W in weights]
        b = [Variable(np.arange(6, dtype="f4") - 6 * n, backend) for n in range(len(v))]
        places = [backend.zeros(each.shape, np.float32) for each in (*v, *b)]
        given = Tensor(x, backend)

        def step(given: Tensor = given, v: list[Any] = v, b: list[Any] = b, places: list[Any] = places) -> None:
            h = given
            with GradientTape() as tape:
                for W, bias in zip(v, b, strict=True):
                    h = dense(h, W, bias, "relu")
                total = ad.sum(h)
            tape.gradient(total, [*v, *b], into=places)

        if captured:
            plan = backend.capture(step)
            for place in places:
                backend.write(place, np.zeros(place.shape))
            plan()
        else:
            step()
        found.append([backend.to_host(place) for place in places])
    assert fake.lt is not None
    assert [shape[0] for shape in fake.lt.chosen if shape[2] == 6].count(6) == 1
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert wanted.any()


def test_the_same_product_by_every_algorithm(cupy: CupyBackend) -> None:
    lt, a = cupy.lt, cupy.asarray(np.arange(16, dtype="f4").reshape(4, 4))
    assert lt is not None
    product = lt.product(a, a, cupy.zeros((4, 4), "f4"), Epilogue.BIAS, cupy.asarray(np.ones(4, "f4")))
    assert product is not None
    for most, count in ((1, 1), (2, 2), (16, 3)):
        others = product.others(most)
        assert len(others) == count
        for other in others:
            cupy.write(product.out, np.zeros((4, 4)))
            with cupy.quiet():
                other()
            np.testing.assert_array_equal(cupy.to_host(other.out), cupy.to_host(a) @ cupy.to_host(a) + 1)


# ---- what can go wrong -------------------------------------------------------------------------------------------


def test_without_the_library_there_is_one_message(fake: Cupy, caplog: pytest.LogCaptureFixture) -> None:
    fake.lt = None
    cupy = CupyBackend()
    x = cupy.asarray(np.eye(3))
    with caplog.at_level(logging.WARNING, "gpumlp"):
        for _ in range(3):
            np.testing.assert_array_equal(cupy.to_host(cupy.matmul(x, x)), np.eye(3))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("cuBLASLt for CUDA 12 cannot be loaded: CuPy multiplies instead")


def test_a_shape_that_the_library_has_nothing_for(
    fake: Cupy, cupy: CupyBackend, caplog: pytest.LogCaptureFixture
) -> None:
    assert fake.lt is not None
    fake.lt.offered = set()
    x, room = cupy.asarray(np.eye(3)), cupy.empty((12,), np.float64)
    with caplog.at_level(logging.WARNING, "gpumlp"):
        for start in range(4):  # each of another alignment
            out = room[start : start + 9].reshape(3, 3)
            np.testing.assert_array_equal(cupy.to_host(cupy.matmul(x, x, out=out)), np.eye(3))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == "cuBLASLt has no product of float64 (3, 3) and (3, 3): CuPy's is used"


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("cublasLtMatmul", 13, "cuBLASLt failed: cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED"),
        ("cublasLtMatmul", 99, "cuBLASLt failed: cublasLtMatmul: status 99"),
        ("cublasLtMatmulAlgoGetHeuristic", 14, "CUBLAS_STATUS_INTERNAL_ERROR"),
        ("cublasLtMatmulDescSetAttribute", 7, "SetAttribute: CUBLAS_STATUS_INVALID_VALUE"),
        ("cublasLtMatrixLayoutCreate", 3, r"no memory left .*\n  lower training.batch_size"),
    ],
)
def test_a_function_that_fails_is_named(
    fake: Cupy, cupy: CupyBackend, function: str, status: int, message: str
) -> None:
    assert fake.lt is not None
    fake.lt.fails[function] = status
    x = cupy.zeros((3, 3), np.float32)
    with pytest.raises(BackendError, match=message):
        cupy.matmul(x, x)
    fake.lt.fails.clear()
    cupy.matmul(x, x)


def test_a_library_that_does_not_start_is_done_without(fake: Cupy, caplog: pytest.LogCaptureFixture) -> None:
    assert fake.lt is not None
    fake.lt.fails["cublasLtCreate"] = 1
    with caplog.at_level(logging.WARNING, "gpumlp"):
        assert CupyBackend().lt is None
    assert "CUBLAS_STATUS_NOT_INITIALIZED: CuPy multiplies" in caplog.text


def test_what_was_made_is_destroyed(fake: Cupy) -> None:
    assert fake.lt is not None
    cupy = CupyBackend()
    cupy.matmul(cupy.zeros((2, 2), np.float32), cupy.zeros((2, 2), np.float32))
    assert len(fake.lt.made) == 6  # the handle, a description, three layouts, a preference
    del cupy
    gc.collect()
    assert fake.lt.made == {}


def test_where_the_library_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("the names are those of Linux")
    monkeypatch.setenv("CUDA_PATH", "/opt/cuda")
    monkeypatch.setattr(
        cublaslt.importlib.util, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=["/w"])
    )
    found = [place for place in library_paths(13) if "pathfinder" not in place]
    assert found[-4:] == [
        "/w/cublas/lib/libcublasLt.so.13",
        "/w/cu13/lib/libcublasLt.so.13",
        "/opt/cuda/lib64/libcublasLt.so.13",
        "libcublasLt.so.13",
    ]
    monkeypatch.setattr(cublaslt, "library_paths", lambda major: [str(tmp_path / "none.so"), "libc.so.6"])
    with pytest.raises(BackendError, match=r"cuBLASLt for CUDA 12 cannot be loaded\n  pip install"):
        cublaslt.load(12)


def test_pathfinder_must_not_bring_that_of_another_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = SimpleNamespace(load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path=f"/x/lib{name}.so.13"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    assert next(iter(library_paths(13))) == "/x/libcublasLt.so.13"
    assert "/x/libcublasLt.so.13" not in library_paths(12)


# ---- the real one ------------------------------------------------------------------------------------------------


def test_sizes_of_structures() -> None:
    """As cublasLt.h has them: eight words; those, a size, a status, a float and four ints."""
    assert ctypes.sizeof(cublaslt.Algorithm) == 64
    assert ctypes.sizeof(cublaslt.Heuristic) == 96
    assert (cublaslt.Heuristic.workspace.offset, cublaslt.Heuristic.state.offset) == (64, 72)


@pytest.fixture(scope="module")
def real() -> ctypes.CDLL:
    """NVIDIA's library, which makes descriptions without a driver."""
    for major in (12, 13):
        try:
            return cublaslt.load(major)
        except BackendError:
            continue
    pytest.skip("there is no cuBLASLt here: pip install nvidia-cublas-cu12")


def read(library: ctypes.CDLL, owned: Owned, kind: str, attribute: int, value: Any) -> int:
    function, written = getattr(library, f"cublasLt{kind}GetAttribute"), c_size_t()
    function.argtypes = (c_void_p, c_int, c_void_p, c_size_t, ctypes.POINTER(c_size_t))
    assert function(owned.address, attribute, byref(value), ctypes.sizeof(value), byref(written)) == 0
    assert written.value == ctypes.sizeof(value)
    return int(value.value or 0)


def test_the_real_library_takes_the_descriptions(real: ctypes.CDLL) -> None:
    """Each attribute is set with the size that the library wants, and read back as it was meant."""
    for compute, scale in ((68, 0), (77, 0), (70, 1)):
        made = Owned(real, "MatmulDesc", compute, scale)
        assert read(real, made, "MatmulDesc", 0, c_int()) == compute
        assert read(real, made, "MatmulDesc", 1, c_int()) == scale
    for epilogue in Epilogue:
        made.set(cublaslt.DESC_EPILOGUE, c_uint32(epilogue))
        assert read(real, made, "MatmulDesc", 7, c_uint32()) == epilogue
    made.set(cublaslt.DESC_TRANSA, c_int(cublaslt.OP_T))
    made.set(cublaslt.DESC_BIAS_POINTER, c_void_p(1 << 40))
    assert [read(real, made, "MatmulDesc", at, c_int()) for at in (3, 4)] == [1, 0]
    assert read(real, made, "MatmulDesc", 8, c_uint64()) == 1 << 40
    for kind in (0, 1, 14):
        matrix = Owned(real, "MatrixLayout", kind, 3, 5, 7)
        values = [(0, c_uint32, kind), (1, c_int, 0), (2, c_uint64, 3), (3, c_uint64, 5), (4, c_int64, 7)]
        assert all(read(real, matrix, "MatrixLayout", at, number()) == wanted for at, number, wanted in values)
        matrix.set(cublaslt.LAYOUT_BATCH_COUNT, c_int(6))
        matrix.set(cublaslt.LAYOUT_BATCH_OFFSET, c_int64(1 << 33))
        assert read(real, matrix, "MatrixLayout", 5, c_int()) == 6
        assert read(real, matrix, "MatrixLayout", 6, c_int64()) == 1 << 33
    preference = Owned(real, "MatmulPreference")
    preference.set(cublaslt.PREF_MAX_WORKSPACE, c_uint64(cublaslt.WORKSPACE))
    assert read(real, preference, "MatmulPreference", 1, c_uint64()) == 32 << 20
    for attribute in cublaslt.PREF_MIN_ALIGNMENT:
        preference.set(attribute, c_uint32(16))
        assert read(real, preference, "MatmulPreference", attribute, c_uint32()) == 16


def test_the_real_library_refuses_a_wrong_size(real: ctypes.CDLL) -> None:
    made = Owned(real, "MatmulDesc", 68, 0)
    with pytest.raises(BackendError, match="MatmulDescSetAttribute: CUBLAS_STATUS_INVALID_VALUE"):
        made.set(cublaslt.DESC_TRANSA, c_uint64(1))


def test_the_real_header_has_these_numbers(real: ctypes.CDLL) -> None:
    """The wheel brings the header: names and numbers in it, as they are here."""
    library = next((Path(place) for place in (*library_paths(12), *library_paths(13)) if Path(place).is_file()), None)
    include = library and library.parent.parent / "include"
    if include is None or not (include / "cublasLt.h").exists():
        pytest.skip("there is no cublasLt.h beside the library")
    text = (include / "cublasLt.h").read_text() + (include / "cublas_api.h").read_text()
    for name, number in {
        "CUBLASLT_MATMUL_DESC_TRANSA": cublaslt.DESC_TRANSA,
        "CUBLASLT_MATMUL_DESC_TRANSB": cublaslt.DESC_TRANSB,
        "CUBLASLT_MATMUL_DESC_EPILOGUE": cublaslt.DESC_EPILOGUE,
        "CUBLASLT_MATMUL_DESC_BIAS_POINTER": cublaslt.DESC_BIAS_POINTER,
        "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": cublaslt.PREF_MAX_WORKSPACE,
        **{
            f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{side}_BYTES": number
            for side, number in zip("ABCD", cublaslt.PREF_MIN_ALIGNMENT, strict=True)
        },
        "CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT": cublaslt.LAYOUT_BATCH_COUNT,
        "CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET": cublaslt.LAYOUT_BATCH_OFFSET,
        "CUBLASLT_EPILOGUE_DEFAULT": Epilogue.DEFAULT,
        "CUBLASLT_EPILOGUE_BIAS": Epilogue.BIAS,
        "CUBLASLT_EPILOGUE_BGRADA": Epilogue.BGRADA,
        "CUBLAS_COMPUTE_32F": cublaslt.COMPUTE_32F,
        "CUBLAS_COMPUTE_64F": cublaslt.COMPUTE_64F,
        "CUBLAS_COMPUTE_32F_FAST_TF32": cublaslt.COMPUTE_32F_FAST_TF32,
        "CUBLAS_OP_N": cublaslt.OP_N,
        "CUBLAS_OP_T": cublaslt.OP_T,
        **{name: number for number, name in cublaslt.STATUS.items()},
    }.items():
        found = re.search(rf"\b{name}\s*=\s*(\d+)\b", text)
        assert found, name
        assert int(found[1]) == number, name
    assert "CUBLASLT_EPILOGUE_RELU_BIAS = (CUBLASLT_EPILOGUE_RELU | CUBLASLT_EPILOGUE_BIAS)" in text
    assert "CUBLASLT_EPILOGUE_RELU = 2," in text


@pytest.mark.parametrize(("asked", "schemes"), [("", 0), ("0", 0), ("1", 2)])
def test_sums_that_blocks_share_are_off_unless_asked_for(
    fake: Cupy, asked: str, schemes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUMLP_SPLIT_SUMS", asked)
    cupy = CupyBackend()
    square = cupy.zeros((4, 4), np.float32)
    cupy.matmul(square, square)
    made = fake.lt.made.values()  # type: ignore[union-attr]
    assert {each.attributes[3] for each in made if 5 in each.attributes} == {schemes}


def test_relu_is_asked_for_each_shape_and_alignment(
    fake: Cupy,
) -> None:
    """Another shape is another kernel of the library, which may drop NaN although the first one does not."""
    cupy = CupyBackend()
    assert fake.lt is not None
    relu = ACTIVATIONS["relu"]
    W, b = cupy.asarray(np.eye(4, 8, dtype=np.float32)), cupy.zeros((8,), np.float32)
    shapes, three, five = [], cupy.zeros((3, 4), np.float32), cupy.zeros((5, 4), np.float32)
    for x in (three, three, five):
        before = len(fake.lt.products)
        cupy.dense(relu, x, W, b)
        shapes.append(len(fake.lt.products) - before)
    assert shapes == [2, 1, 2]  # the trial, and the layer
    fake.lt.keeps_nan = False
    y, _ = cupy.dense(relu, cupy.zeros((6, 4), np.float32), W, cupy.asarray(np.full(8, np.nan, np.float32)))
    assert np.isnan(cupy.to_host(y)).all()


def test_nothing_of_the_library_is_destroyed_at_exit(cupy: CupyBackend) -> None:
    """CuPy and the driver may be gone by then: what is left goes with the process."""
    before = set(weakref.finalize._registry)  # type: ignore[attr-defined]
    x = cupy.zeros((4, 4), np.float32)
    cupy.matmul(x, x)
    made = set(weakref.finalize._registry) - before  # type: ignore[attr-defined]
    assert made
    assert not any(each.atexit for each in made)

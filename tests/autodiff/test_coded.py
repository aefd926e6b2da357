"""Weights that are read by code, against the product with the matrix of 0 and 1 that the codes stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Variable
from gpumlp.autodiff.coded import MIN_VALUES_PER_CODE, CodedRows, is_read_by_code
from gpumlp.autodiff.tensor import REFERENCE
from gpumlp.backend import get
from gpumlp.backend.base import Backend
from gpumlp.backend.host.builder import compiler
from gpumlp.backend.host.native import NativeBackend
from gpumlp.errors import ShapeError
from gpumlp.ops.batches import CODE_SUM

UNITS = 5
RNG = np.random.default_rng(7)


@pytest.fixture(params=["numpy", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "native" and compiler() is None:
        pytest.skip("there is no C++ compiler")
    return get(request.param)


def rows_of(count: int, dense: int, sizes: tuple[int, ...], dtype: Any = np.float64) -> tuple[np.ndarray, int]:
    """Return stored rows and their width; every fifth code is that of no feature, and some rows are alike."""
    starts = dense + np.cumsum([0, *sizes[:-1]])
    width = dense + sum(sizes)
    codes = starts + RNG.integers(0, sizes, (count, len(sizes)))
    codes[1:3] = codes[:1]
    codes.flat[::5] = width
    return np.concatenate([RNG.standard_normal((count, dense)), codes], axis=1).astype(dtype), width


def matrix_of(stored: np.ndarray, dense: int, width: int) -> np.ndarray:
    """Return all features, by a loop."""
    x = np.zeros((len(stored), width), stored.dtype)
    x[:, :dense] = stored[:, :dense]
    for row, codes in zip(x, stored[:, dense:].astype(int), strict=True):
        row[[code for code in codes if code < width]] = 1
    return x


@pytest.mark.parametrize(("activation", "bias"), [("identity", False), ("relu", True), ("gelu", True)])
@pytest.mark.parametrize(
    ("count", "dense", "sizes"),
    [(9, 4, (3, 60, 200)), (1, 4, (99,)), (7, 0, (1, 120)), (0, 2, (60,)), (6, 1, (5000, 1)), (300, 3, (70,))],
)
def test_a_layer_is_that_of_the_matrix(
    backend: Backend, count: int, dense: int, sizes: tuple[int, ...], bias: bool, activation: str
) -> None:
    torch = pytest.importorskip("torch")
    stored, width = rows_of(count, dense, sizes)
    x = CodedRows(backend.asarray(stored), dense, width, np.dtype(np.float64), backend)
    assert is_read_by_code(x)
    assert x.shape == (count, width)
    values = [RNG.standard_normal((width, UNITS)), RNG.standard_normal(UNITS)]
    W, b = (Variable(each, backend, dtype=np.float64) for each in values)
    slope = RNG.standard_normal((count, UNITS))
    with GradientTape() as tape:
        y = ad.dense(x, W, b if bias else None, activation)
    found = tape.gradient(y, [W, b] if bias else [W], slope)
    full = torch.tensor(matrix_of(stored, dense, width))
    theirs = [torch.tensor(each, requires_grad=True) for each in values]
    z = full @ theirs[0] + (theirs[1] if bias else 0)
    expected = {"identity": lambda z: z, "relu": torch.relu, "gelu": torch.nn.functional.gelu}[activation](z)
    expected.backward(torch.tensor(slope))
    np.testing.assert_allclose(y.numpy(), expected.detach(), rtol=1e-12, atol=1e-12)
    for mine, other in zip(found, theirs, strict=False):
        assert mine is not None
        np.testing.assert_allclose(mine.numpy(), other.grad, rtol=1e-12, atol=1e-12)
    assert x._features is None, "the matrix was made"


def test_a_gradient_is_written_where_it_is_wanted_over_whatever_was_there(backend: Backend) -> None:
    stored, width = rows_of(8, 3, (4, 130), np.float32)
    x = CodedRows(backend.asarray(stored), 3, width, np.dtype(np.float32), backend)
    W = Variable(RNG.standard_normal((width, UNITS)).astype(np.float32), backend)
    place = backend.asarray(np.full(W.shape, np.nan, np.float32))
    with GradientTape() as tape:
        y = ad.sum(ad.dense(x, W, None))
    tape.gradient(y, [W], into=[place])
    np.testing.assert_allclose(
        backend.to_host(place), matrix_of(stored, 3, width).sum(axis=0)[:, None].repeat(UNITS, 1), rtol=1e-5
    )


def test_differences_agree_with_first_and_second_derivatives() -> None:
    stored, width = rows_of(4, 2, (50,))
    x = CodedRows(stored, 2, width, np.dtype(np.float64), REFERENCE)
    for parts in (
        lambda W, b: ad.sum(ad.dense(x, W, b, "tanh") ** 2),
        lambda W, b: ad.sum(ad.dense(x, W, None) ** 3) + ad.sum(b),
    ):
        W, b = 0.3 * RNG.standard_normal((width, 2)), RNG.standard_normal(2)
        assert ad.gradcheck(parts, [W, b]).passed()

        def slope(W: Any, b: Any, parts: Any = parts) -> Any:
            with GradientTape() as tape:
                tape.watch(W)
                y = parts(W, b)
            return ad.sum(tape.gradient(y, W) ** 2)

        assert ad.gradcheck(slope, [W, b]).passed()


def test_features_have_a_gradient_too(backend: Backend) -> None:
    stored, width = rows_of(4, 2, (50,))
    W = Variable(RNG.standard_normal((width, 3)), backend, dtype=np.float64)
    x = CodedRows(backend.asarray(stored), 2, width, np.dtype(np.float64), backend)
    with GradientTape() as tape:
        tape.watch(x)
        y = ad.sum(ad.dense(x, W, None))
    found = tape.gradient(y, x)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), np.tile(W.numpy().sum(axis=1), (4, 1)), rtol=1e-12)


def test_everything_else_gets_the_matrix(backend: Backend) -> None:
    stored, width = rows_of(6, 3, (80,), np.float32)
    x = CodedRows(backend.asarray(stored), 3, width, np.dtype(np.float32), backend)
    expected = matrix_of(stored, 3, width)
    assert x.dtype == np.float32
    assert len(x) == 6
    np.testing.assert_array_equal((x * 2.0).numpy(), 2 * expected)
    np.testing.assert_array_equal(x[:, 2:].numpy(), expected[:, 2:])
    np.testing.assert_array_equal(ad.concat([x, x]).numpy(), np.concatenate([expected, expected], axis=1))


@pytest.mark.parametrize("code", [-1.0, 0.0, 2.0, 103.0, 110.0, 2.0**24, np.inf, -np.inf, np.nan])
def test_a_code_of_no_feature_reads_and_writes_nothing(backend: Backend, code: float) -> None:
    stored = backend.asarray(np.array([[1, 2, 3, code]], np.float32))
    W = backend.asarray(np.ones((103, 2), np.float32))
    z = backend.asarray(np.full((1, 2), 7, np.float32))
    (y,) = backend.run(CODE_SUM, "forward", (z, stored, W), dense=3)
    assert backend.to_host(y).tolist() == [[7, 7]]
    (dW,) = backend.run(CODE_SUM, "backward", (stored, z), dense=3, features=103)
    assert not backend.to_host(dW).any()


def test_only_rows_with_an_infinite_weight_see_it(backend: Backend) -> None:
    """In a product with 0 it would be NaN in every row."""
    stored = backend.asarray(np.array([[1.0, 1], [1, 2]], np.float32))
    W = np.zeros((101, 1), np.float32)
    W[2] = np.inf
    x = CodedRows(stored, 1, 101, np.dtype(np.float32), backend)
    assert ad.dense(x, Variable(W, backend), None).numpy().tolist() == [[0], [np.inf]]


def test_many_values_for_each_code_are_read_by_code() -> None:
    def rows(codes: int, width: int, dtype: Any = np.float32) -> CodedRows:
        return CodedRows(np.zeros((1, 2 + codes), np.float32), 2, width, np.dtype(dtype), get("numpy"))

    least = MIN_VALUES_PER_CODE
    assert is_read_by_code(rows(1, 2 + least))
    assert not is_read_by_code(rows(1, 1 + least))
    assert is_read_by_code(rows(3, 2 + 3 * least))
    assert not is_read_by_code(rows(3, 1 + 3 * least))
    assert not is_read_by_code(np.zeros((1, 3)))
    narrow = pytest.importorskip("ml_dtypes").bfloat16
    assert not is_read_by_code(rows(1, 5000, narrow))


def test_weights_of_another_shape_are_refused(backend: Backend) -> None:
    stored, width = rows_of(2, 3, (80,), np.float32)
    x = CodedRows(backend.asarray(stored), 3, width, np.dtype(np.float32), backend)
    for b in (None, np.zeros(4, np.float32)):
        with pytest.raises(ShapeError, match="do not fit"):
            ad.dense(x, np.zeros((width - 1, 4), np.float32), b)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_no_bit_depends_on_the_threads() -> None:
    stored, width = rows_of(500, 2, (3000, 3), np.float32)
    W, dz = (RNG.standard_normal((n, 64)).astype(np.float32) for n in (width, 500))
    found = []
    for threads in (1, 2, 5):
        backend = NativeBackend(threads=threads)
        x = CodedRows(stored, 2, width, np.dtype(np.float32), backend)
        found.append((x.times(W).tobytes(), x.product_backward(W, dz, (False, True))[1].tobytes()))
    assert found[0] == found[1] == found[2]


def test_a_captured_step_reads_the_codes_of_the_moment(backend: Backend) -> None:
    stored, width = rows_of(20, 3, (4, 130), np.float32)
    held = backend.asarray(stored, copy=True)
    W = Variable(RNG.standard_normal((width, UNITS)).astype(np.float32), backend)
    b = Variable(np.zeros(UNITS, np.float32), backend)
    places = [backend.zeros(each.shape, np.float32) for each in (W, b)]

    def step() -> None:
        x = CodedRows(held, 3, width, np.dtype(np.float32), backend)
        with GradientTape() as tape:
            y = ad.sum(ad.dense(x, W, b, "relu") ** 2)
        tape.gradient(y, [W, b], into=places)

    def found() -> list[bytes]:
        return [backend.to_host(place).tobytes() for place in places]

    plan = backend.capture(step)
    first = found()
    backend.write(held, rows_of(20, 3, (4, 130), np.float32)[0])
    plan()
    replayed = found()
    step()
    assert replayed == found() != first


@pytest.mark.parametrize("bias", [None, np.zeros(4, np.float32)])
def test_a_gradient_goes_to_an_array_of_another_dtype(bias: Any) -> None:
    backend = Backend()
    stored = backend.asarray(np.array([[1.0, 2, 3], [1, 2, 60]], np.float32))
    rows = CodedRows(stored, 2, 100, np.dtype(np.float32), backend)
    W, place = Variable(np.ones((100, 4)), backend, dtype="float32"), backend.asarray(np.full((100, 4), np.nan))
    with GradientTape() as tape:
        loss = ad.dense(rows, W, bias).sum()
    tape.gradient(loss, [W], into=[place])
    want = np.zeros((100, 4))
    want[[0, 1, 3, 60]] = [[2], [4], [1], [1]]
    np.testing.assert_array_equal(place, want)

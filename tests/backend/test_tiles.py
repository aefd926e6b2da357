"""Products by the tile registers of a processor: float32 in parts of bfloat16, held against float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bits, poison

from gpumlp import backend as backends
from gpumlp.backend import NativeBackend
from gpumlp.backend.host import products
from gpumlp.backend.host.builder import Builder, compiler

U = 2.0**-24
"""The largest relative error of one rounding to float32."""

pytestmark = pytest.mark.skipif(
    compiler() is None or Builder().most_parts() < 3, reason="needs a processor with AMX, a compiler that knows it"
)


@pytest.fixture(scope="module")
def tiled() -> NativeBackend:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GPUMLP_TILES", raising=False)
        return NativeBackend()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> NativeBackend:
    monkeypatch.setenv("GPUMLP_TILES", "0")
    return NativeBackend()


def matrices(rows: int, inner: int, cols: int) -> tuple[Any, Any]:
    rng = np.random.default_rng([rows, inner, cols])
    return rng.standard_normal((rows, inner), np.float32), rng.standard_normal((inner, cols), np.float32)


def errors(found: Any, a: Any, b: Any) -> Any:
    """Return how far a product is from the exact one, relative to the sum of its terms without their signs."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.abs(found - a @ b) / (np.abs(a) @ np.abs(b))


def uses_tiles(backend: NativeBackend, a: Any, b: Any) -> bool:
    names: list[str] = []
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    products.bound(a, b, out, 1, backend._parts, lambda name: names.append(name) or 0)  # type: ignore[func-returns-value]
    return any("parts" in name for name in names)


def test_what_goes_by_tiles_follows_from_shape_and_layout_alone(tiled: NativeBackend, plain: NativeBackend) -> None:
    a, b = matrices(64, 80, 96)
    for left, right in itertools.product((a, np.asfortranarray(a), a[:, :70]), (b, np.asfortranarray(b))):
        right = right[: left.shape[1]]
        assert uses_tiles(tiled, left, right)
        assert not uses_tiles(plain, left, right)
    assert not uses_tiles(tiled, a[:, ::2], b[::2])  # no numbers side by side in a
    assert not uses_tiles(tiled, a[:10], b)
    assert not uses_tiles(tiled, a, b[:, :10])
    assert not uses_tiles(tiled, a[:, :10], b[:10])


@pytest.mark.parametrize(("rows", "inner", "cols"), [(64, 64, 64), (128, 784, 256), (300, 1500, 130), (1000, 54, 49)])
@pytest.mark.parametrize("positive", [False, True])
def test_three_parts_are_as_exact_as_float32(
    tiled: NativeBackend, plain: NativeBackend, rows: int, inner: int, cols: int, positive: bool
) -> None:
    a, b = matrices(rows, inner, cols)
    if positive:
        a, b = np.abs(a), np.abs(b)
    found, other = errors(tiled.matmul(a, b), a, b), errors(plain.matmul(a, b), a, b)
    assert found.max() <= other.max()
    assert np.sqrt(np.mean(found**2)) <= 0.7 * np.sqrt(np.mean(other**2))
    assert np.mean(found**2) < np.mean(errors(a @ b, a, b) ** 2)  # NumPy's


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*[st.sampled_from([48, 49, 63, 64, 65, 80, 96, 97, 130, 600])] * 3),
    turned=st.tuples(st.booleans(), st.booleans()),
    spread=st.sampled_from([0, 3, 30]),
    threads=st.sampled_from([1, 2, 3]),
)
def test_a_product_of_any_shape_layout_and_scale(
    tiled: NativeBackend, shape: tuple[int, int, int], turned: tuple[bool, bool], spread: int, threads: int
) -> None:
    rows, inner, cols = shape
    rng = np.random.default_rng([*shape, spread])
    a, b = (x * np.exp2(rng.integers(-spread, spread + 1, x.shape)).astype(np.float32) for x in matrices(*shape))
    left, right = (np.asfortranarray(x) if turn else x for x, turn in zip((a, b), turned, strict=True))
    memory = poison((rows * cols + 32,), np.float32)
    out = memory[16:-16].reshape(rows, cols)
    before = tiled.threads, bits(left), bits(right)
    try:
        tiled.threads = threads
        assert uses_tiles(tiled, left, right)
        assert tiled.matmul(left, right, out) is out
    finally:
        tiled.threads = before[0]
    assert before[1:] == (bits(left), bits(right))
    assert (
        errors(out, a, b).max() <= (6 * (inner / 32 + 1) + 4) * U
    )  # six roundings every 32 terms, and what is left out
    assert bits(memory[:16]) == bits(memory[-16:]) == b"\xff" * 64


def test_a_number_is_the_sum_of_its_parts(tiled: NativeBackend) -> None:
    """Times 1 nothing is lost: of no bit of the mantissa, whatever the exponent."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**32, (200, 64), np.uint32).view(np.float32)
    a[~np.isfinite(a) | (np.abs(a) < 2.0**-100)] = 1 + 2.0**-23
    a[0, :6] = (2 - 2.0**-23, -(2 - 2.0**-23), 1 + 2.0**-8, 1 + 3 * 2.0**-9, np.finfo(np.float32).max, -(2.0**127))
    one = np.eye(64, dtype=np.float32)
    assert bits(tiled.matmul(a, one)) == bits(a)
    assert bits(tiled.matmul(one, np.ascontiguousarray(a.T))) == bits(np.ascontiguousarray(a.T))


def test_integers_of_24_bits_are_exact(tiled: NativeBackend) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-150, 150, shape).astype(np.float32) for shape in ((70, 400), (400, 90)))
    np.testing.assert_array_equal(tiled.matmul(a, b), a.astype(np.float64) @ b.astype(np.float64))


ALL_ONES = np.array(0x7FFFFFFF, np.uint32).view(np.float32)
LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan, ALL_ONES, -ALL_ONES, LARGEST, -LARGEST])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("inner", [64, 700])
@pytest.mark.parametrize("tf32", [False, True])
def test_what_is_not_finite_comes_out_as_without_tiles(
    plain: NativeBackend, odd: float, side: int, inner: int, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPUMLP_TILES")  # that `plain` was made with
    tiled = NativeBackend(tf32=tf32)
    a, b = matrices(70, inner, 90)
    (a, b)[side][33, 17] = odd
    b[:, 5], a[7] = 0, 0  # infinity times 0 is NaN, and only there
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
        want[np.abs(want) > LARGEST] *= np.inf
    for left, right in itertools.product((a, np.asfortranarray(a)), (b, np.asfortranarray(b))):
        found = tiled.matmul(left, right)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(want))
        np.testing.assert_array_equal(found[~np.isfinite(want)], want[~np.isfinite(want)])
        np.testing.assert_allclose(found, plain.matmul(left, right), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF"])
@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_neither_cut_nor_threads_change_a_bit(
    tiled: NativeBackend, order: str, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (np.asarray(x, order=each) for x, each in zip(matrices(200, 1100, 150), order, strict=True))
    a[70, 900], b[5, 90] = odd, odd
    found = set()
    for way in ((1, 1), (1, 3), (7, 1), (3, 2)):
        monkeypatch.setattr(products, "cut_tiled", lambda *_, way=way: way)
        found.add(bits(tiled.matmul(a, b)))
    assert len(found) == 1


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_how_a_product_by_tiles_is_cut(threads: int) -> None:
    assert products.cut_tiled(48, 48, 48, threads) == (1, 1)
    for rows, cols, inner in (
        (128, 256, 784),
        (1024, 1024, 1024),
        (784, 1024, 64),
        (60000, 48, 256),
        (100, 9000, 80),
    ):
        runs, slices = products.cut_tiled(rows, cols, inner, threads)
        most = -(-rows // products.RUN_ROWS) * -(-cols // products.TILED_SLICE_COLUMNS)
        assert min(threads, 32) <= runs * slices <= max(2 * threads, most)
        assert rows // runs >= 25
        assert cols // slices >= 32


def test_tf32_takes_two_parts(tiled: NativeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUMLP_TILES", raising=False)
    backend = backends.get("native", tf32=True)
    assert (backend.tf32, tiled.tf32) == (True, False)
    a, b = matrices(128, 300, 128)
    found = errors(backend.matmul(a, b), a, b)
    assert 4 * U < found.max() < 2.0**-16  # TF32 itself: 2^-11 for each of the two numbers


def test_without_tiles_nothing_is_rounded_unasked(plain: NativeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.get("native", tf32=True)
    assert not backend.tf32
    a, b = matrices(128, 300, 128)
    assert bits(backend.matmul(a, b)) == bits(plain.matmul(a, b))

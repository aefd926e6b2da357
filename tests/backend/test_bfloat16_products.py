"""Products of bfloat16 on a processor: by vectors of float32, by pairs (AVX512_BF16) and by tile registers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import bits, poison

from gpumlp.backend import NativeBackend
from gpumlp.backend.host import builder, products
from gpumlp.backend.host.builder import Builder, compiler
from gpumlp.ops.precision import dtype_of

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 on the host needs the package ml_dtypes")
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: install g++ or clang")
BF16 = dtype_of("bfloat16")
SHAPES = ((1, 1, 1), (1, 300, 1), (15, 33, 17), (16, 32, 32), (33, 31, 65), (100, 1, 47), (45, 1100, 70))
LAYOUTS = {
    "rows": lambda x: x,
    "columns": np.asfortranarray,
    "apart": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
}


@pytest.fixture(scope="module", params=["vectors", "pairs", "tiles"])
def backend(request: pytest.FixtureRequest) -> Iterator[NativeBackend]:
    """Return a backend for each way; pairs are what a compiler makes that knows of no tiles."""
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUMLP_TILES", "0" if request.param == "vectors" else "1")
        if request.param == "pairs":
            if "avx512_bf16" not in known:
                pytest.skip("needs a processor with AVX512_BF16")
            command = (*(compiler() or ()), "-mno-amx-bf16")
            patch.setattr(builder, "compiler", lambda: command)
            assert Builder().most_parts() == 1
        elif request.param == "tiles" and Builder().most_parts() < 3:
            pytest.skip("needs a processor with AMX, a compiler that knows it")
        yield NativeBackend()


def narrow(backend: NativeBackend) -> list[str]:
    """Return the products that are asked for, of bfloat16 into float32 and into bfloat16."""
    names: list[str] = []
    a = np.ones((40, 40), BF16)
    for dtype in (np.dtype(np.float32), BF16):
        products.bound(a, a, np.empty((40, 40), dtype), 1, backend._parts, lambda name: names.append(name) or 0)  # type: ignore[func-returns-value]
    return names


def test_each_way_is_taken(backend: NativeBackend, request: pytest.FixtureRequest) -> None:
    suffix = "" if "vectors" in request.node.name else "_by_tiles"
    assert narrow(backend) == [f"bfloat16_into_float{suffix}", f"bfloat16_into_bfloat16{suffix}"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_exact_and_rounded_once(backend: NativeBackend, shape: tuple[int, int, int]) -> None:
    """Whole numbers whose sums a float32 holds: nothing may differ from float64, in any layout or place."""
    rows, inner, cols = shape
    rng = np.random.default_rng(shape)
    a, b = rng.integers(-16, 17, (rows, inner)), rng.integers(-16, 17, (inner, cols))
    want = (a @ b).astype(np.float32)
    for left, right in itertools.product(LAYOUTS, LAYOUTS):
        x, y = LAYOUTS[left](a.astype(BF16)), LAYOUTS[right](b.astype(BF16))
        for dtype in (np.dtype(np.float32), BF16):
            memory = poison((rows, cols + 3), dtype)
            out = memory[:, :cols]
            assert backend.matmul(x, y, out) is out
            np.testing.assert_array_equal(out, want.astype(dtype), err_msg=f"{left} {right} {dtype}")
            assert bits(memory[:, cols:]) == bits(poison((rows, 3), dtype))


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan, -0.0, np.uint16(0x7FFF).view(BF16), 3e38])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_stays_where_it_is(backend: NativeBackend, odd: Any, side: int) -> None:
    rng = np.random.default_rng(side)
    a, b = (rng.standard_normal(shape).astype(BF16) for shape in ((33, 70), (70, 40)))
    (a, b)[side][20, 17] = odd
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
        want[np.abs(want) > np.finfo(np.float32).max] *= np.inf
    for dtype, rtol in ((np.dtype(np.float32), 2e-6), (BF16, 2.0**-8)):
        out = np.empty(want.shape, dtype)
        backend.matmul(a, b, out)
        np.testing.assert_allclose(out.astype(np.float64), want, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("large", "small", "rounded"),
    [(1, 2.0**-8, 1), (1 + 2.0**-7, 2.0**-8, 1 + 2.0**-6), (float(ml_dtypes.finfo(BF16).max), 1e36, np.inf)],
)
def test_rounding_is_to_the_nearest_even(backend: NativeBackend, large: float, small: float, rounded: float) -> None:
    """A sum in the middle of two numbers, or beyond the largest."""
    found = backend.matmul(np.array([[large, small]], BF16), np.ones((2, 1), BF16))
    assert float(found[0, 0]) == rounded


def test_neither_cut_nor_threads_change_a_bit(backend: NativeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(BF16) for shape in ((200, 600), (600, 150)))
    found = set()
    for way in ((1, 1), (1, 3), (7, 1), (3, 2)):
        monkeypatch.setattr(products, "cut_tiled", lambda *_, way=way: way)
        monkeypatch.setattr(products, "cut", lambda *_, way=way, **__: way)
        found.add(bits(backend.matmul(a, b)))
    assert len(found) == 1

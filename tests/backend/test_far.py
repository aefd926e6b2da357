"""Offsets beyond 2^31 and 2^32: single rows far down in arrays whose memory exists only where it is touched.

The kernels of the processor are called for one part of many, as a thread of a crew calls them: a part is a row here.
The loops of a GPU are read from their PTX, in ``test_nvrtc.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from agreement import FORMULA_ONLY, check_values
from support import (
    WITH_COMPILER,
    assert_close,
    decaying,
    directions,
    examples,
    permutation_reference,
    philox_reference,
)

from gpumlp.backend import Backend, NativeBackend
from gpumlp.backend.host.native import as_bits
from gpumlp.backend.kernels import SUMMED, arguments, template_types
from gpumlp.ops import RECORDS, UPDATES, Op

pytestmark = [WITH_COMPILER, pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux gives it")]

ROWS, COLS = 2**16 + 2, 2**16 + 4
FAR = {"2^31": 2**15, "2^32": ROWS - 1}
"""Rows that begin just behind that many elements."""
each_row = pytest.mark.parametrize("row", FAR.values(), ids=FAR)


@pytest.fixture(scope="module")
def native() -> NativeBackend:
    return NativeBackend()


class Sparse:
    """Arrays of zeros in memory that is the process's only where it is touched, until the block ends."""

    def __init__(self) -> None:
        self._given: list[mmap.mmap] = []

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            self._given.append(mmap.mmap(-1, size, flags=flags))
        except OSError as error:
            pytest.skip(f"no {size >> 30} GiB of addresses: {error}")
        return np.frombuffer(self._given[-1], dtype).reshape(shape)


@pytest.fixture
def sparse() -> Iterator[Sparse]:
    made = Sparse()
    yield made
    for each in made._given:
        with contextlib.suppress(BufferError):  # an array of a failed test still looks at it
            each.close()


def call(
    native: NativeBackend, op: Op, direction: str, inputs: Any, outputs: Any, params: Any, part: int, parts: int,
    scratch: Any = None, stages: Any = None,
) -> None:  # fmt: skip
    """Run the kernels of a direction for one part; those that finish a sum over few numbers, wholly."""
    made = op.directions[direction]
    types = template_types(made, inputs, outputs)
    assert types is not None
    values = arguments(made, inputs, outputs, params)
    if made.launch in SUMMED:
        values += [scratch, parts]
    slots = array("q", map(as_bits, values))
    for stage, function in zip(made.kernels, native._builder.find(op, direction, types).values(), strict=True):
        if stages is None or stage.ending in stages:
            run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong)(function)
            run(slots.buffer_info()[0], *((0, 1) if stage.walk == "finish" else (part, parts)))


def apart(op: Op) -> bool:
    """Return whether an operation is not one of rows: it has a test of its own, or never more than a few numbers."""
    return op.name in (
        "batch_norm",
        "dropout",
        "gather",
        "gradient_norm",
        "matrix_product",
        "add_square",
        "advance",
        "accumulate",
        "moving_average",
        "tree_sum",
    )


@each_row
def test_a_product_far_down(native: NativeBackend, sparse: Sparse, row: int) -> None:
    """A part is a run of tiles side by side, of four rows each."""
    op, inner, tile = RECORDS["matrix_product"], 3, row // 4
    rng, rows = np.random.default_rng(row), slice(4 * tile, min(4 * tile + 4, ROWS))
    a, b = sparse.zeros((ROWS, inner), np.float32), rng.standard_normal((inner, COLS)).astype(np.float32)
    a[rows] = rng.standard_normal(a[rows].shape)
    c = sparse.zeros((ROWS, COLS), np.float32)
    call(
        native,
        op,
        "forward",
        (a, b),
        (c,),
        {"turned": (False, False), "dtype": np.dtype(np.float32)},
        tile,
        -(-ROWS // 4),
    )
    assert_close(c[rows], a[rows].astype(np.float64) @ b, "reduction", scale=4.0)
    assert not c[rows.start - 1].any()


OVER_WEIGHTS = ("pbld_backward", "ple_backward", "lookup_backward", "code_sum_backward")
"""Directions whose teams go through all rows of a batch, for some weights each."""

BY_ROWS = [
    (name, direction)
    for name, direction in directions()
    if not apart(RECORDS[name])
    and name not in UPDATES
    and RECORDS[name].entry(direction) not in (*FORMULA_ONLY, *OVER_WEIGHTS)
    and not direction.startswith("mixed")  # which have a test of their own
]


@each_row
@pytest.mark.parametrize(("name", "direction"), BY_ROWS)
def test_a_row_far_down(native: NativeBackend, sparse: Sparse, name: str, direction: str, row: int) -> None:
    op = RECORDS[name]
    made = op.directions[direction]
    for inputs, params in examples(op, direction, 1, COLS, np.float32):
        expected = Backend().run(op, direction, inputs, None, **params)

        def long(a: Any, filled: bool = True) -> Any:
            if a is None or a.shape[:1] != (1,):
                return a if filled or a is None else np.empty_like(a)
            whole = sparse.zeros((ROWS, *a.shape[1:]), a.dtype)
            if filled:
                whole[row] = a[0]
            return whole

        left = {name for stage in made.kernels for name in stage.reads or () if name in made.outputs}
        given, places = [long(a) for a in inputs], [long(a, False) for a in expected]
        for place, name, want in zip(places, made.outputs, expected, strict=True):
            if name in left:  # by an earlier kernel, which is not called
                place[...] = want
        scratch, few = None, 4 if made.launch == "total" else 2 * COLS
        if made.launch in SUMMED:
            scratch = sparse.zeros((ROWS * few,), np.float64)
        # Sums down all columns would read all of scratch memory: their parts are looked at instead.
        stages = None if made.launch == "total" else ("", "_rows", "_columns")
        call(native, op, direction, given, places, params, row, ROWS, scratch, stages)
        for label, got, want in zip(made.outputs, places, expected, strict=True):
            if want is not None and got.shape[0:1] == (ROWS,):
                check_values(got[row : row + 1], want, np.float32, 1)
                assert not got[row - 1].any(), "the row before"
                assert row + 1 == ROWS or not got[row + 1].any(), "the row behind"
            elif want is not None and made.launch == "total":
                check_values(np.asarray(got), want, np.float32, 1)
            elif want is not None and scratch is not None:
                width = COLS if len(made.outputs) == 2 else 2 * COLS
                at = row * width + (COLS if label == "dbias" else 0)
                assert_close(scratch[at : at + COLS].astype(np.float32), want, "reduction")


@each_row
def test_a_row_far_down_of_batch_norm(native: NativeBackend, sparse: Sparse, row: int) -> None:
    op, rng = RECORDS["batch_norm"], np.random.default_rng(0)
    x, dy = (sparse.zeros((ROWS, COLS), np.float32) for _ in range(2))
    x[row], dy[row] = rng.standard_normal((2, COLS))
    gain, bias, mean, dgain, dbias = rng.standard_normal((5, COLS)).astype(np.float32)
    variance = rng.uniform(0.5, 2, COLS).astype(np.float32)
    scratch, out = sparse.zeros((2 * ROWS * COLS,), np.float64), sparse.zeros((ROWS, COLS), np.float32)
    m, v = mean[None], variance[None]
    call(native, op, "forward", (x, gain, bias), (out, m, v), {}, row, ROWS, scratch, ("", "_rows"))
    scale = 1 / np.sqrt(variance.astype(np.float64) + 1e-5)
    h = (x[row].astype(np.float64) - mean) * scale
    assert_close(out[row], h * gain + bias, "reduction")
    at = row * 2 * COLS
    assert_close(scratch[at : at + 2 * COLS].astype(np.float32), [*x[row], *np.zeros(COLS)])
    dx = sparse.zeros((ROWS, COLS), np.float32)
    outputs = (dx, dgain, dbias)
    call(native, op, "backward", (x, gain, m, v, dy), outputs, {}, row, ROWS, scratch, ("", "_rows"))
    inner = dy[row].astype(np.float64) - dbias / ROWS - h * (dgain / ROWS)
    assert_close(dx[row], scale * gain * inner, "reduction")
    assert_close(scratch[at : at + 2 * COLS].astype(np.float32), [*(dy[row] * h), *dy[row]], "reduction")


@each_row
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_mask_far_down(native: NativeBackend, sparse: Sparse, direction: str, row: int) -> None:
    x, y = (sparse.zeros((ROWS, COLS), np.float32) for _ in range(2))
    x[row] = 1
    params = {"rate": 0.25, "stream": 7, "key": (11, 12)}
    call(native, RECORDS["dropout"], direction, (x, np.array([3, 0, 0]), None), (y,), params, row, ROWS)
    for col in (100, 2**15, COLS - 100):  # a part begins and ends at a whole run of words
        at = row * COLS + col
        word = philox_reference((at // 4, 7, 3, 0), (11, 12))[at % 4]
        assert (y[row, col] != 0) == (word >= 2**30)


@each_row
@pytest.mark.parametrize("name", ["selu", "mish"])
def test_a_mixed_row_far_down(native: NativeBackend, sparse: Sparse, name: str, row: int) -> None:
    """Its parts are of whole runs of words, so those beside the row are computed, too."""
    op, rng = RECORDS[name], np.random.default_rng(row)
    x, y, z, dy, dx = (sparse.zeros((ROWS, COLS), np.float32) for _ in range(5))
    kept, scratch = sparse.zeros((ROWS, COLS), np.uint8), sparse.zeros((2 * ROWS * COLS,), np.float64)
    x[row], dy[row], a, b = rng.standard_normal((4, COLS)).astype(np.float32)
    params = {"rate": 0.25, "stream": 7, "key": (11, 12)}
    clock, factors = np.array([3, 0, 0]), np.ones(1)
    for part in range(row - 1, min(row + 2, ROWS)):
        call(native, op, "mixed_forward", (x, b, a, clock, factors), (y, z, kept), params, part, ROWS)
    one = slice(row, row + 1)
    mixed, linear, _ = Backend().run(op, "mixed_forward", (x[one], b, a, None, None), None)
    check_values(z[one], linear, np.float32, 1)
    check_values(y[one], np.where(kept[one] != 0, mixed / 0.75, 0), np.float32, 1)
    for col in (100, 2**15, COLS - 100):
        at = row * COLS + col
        assert (kept[row, col] != 0) == (philox_reference((at // 4, 7, 3, 0), (11, 12))[at % 4] >= 2**30)
    call(
        native, op, "mixed_backward", (z, a, dy, kept, clock, factors), (dx, a, b), params, row, ROWS, scratch, ("",)
    )
    given = (z[one], a, dy[one] * (kept[one] != 0) / np.float32(0.75), None, None, None)
    slopes, of_share, of_bias = Backend().run(op, "mixed_backward", given, None)
    check_values(dx[one], slopes, np.float32, 1)
    assert not dx[row - 1].any()
    at = row * 2 * COLS
    assert_close(scratch[at : at + 2 * COLS].astype(np.float32), [*of_share, *of_bias], "reduction")


@each_row
def test_a_gradient_far_down(native: NativeBackend, sparse: Sparse, row: int) -> None:
    gradient, scratch = sparse.zeros((ROWS * COLS,), np.float32), np.zeros(4 * ROWS)
    gradient[row * COLS : (row + 1) * COLS] = found = np.random.default_rng(0).standard_normal(COLS)
    norm = np.zeros(1, np.float32)
    call(native, RECORDS["gradient_norm"], "forward", (gradient,), (norm,), {}, row, ROWS, scratch)
    np.testing.assert_allclose(norm, np.linalg.norm(found), rtol=1e-6)


@each_row
@pytest.mark.parametrize("name", UPDATES)
def test_a_weight_far_down(native: NativeBackend, sparse: Sparse, name: str, row: int) -> None:
    """What decays ends far down, too: each part takes its share of what decays and of what does not."""
    op, count, decayed = UPDATES[name], ROWS * COLS, (ROWS - 1) * COLS
    hyper = {key: value.default for key, value in op.hyper.items()}
    settings = {"weight_decay": 0.1, "clip_norm": None, "averaging": 0.5, **hyper}
    rates, clock, rng = np.array([0.1], np.float32), np.array([3, 1, 0]), np.random.default_rng(0)
    long = [sparse.zeros((count,), np.float32) for _ in range(3 + len(op.slots))]
    parts = ROWS - 1  # of what decays: a row each
    pieces = {True: slice(row * COLS - COLS, row * COLS), False: slice(0, 0)}
    rest = [decayed + COLS * (row - 1 + k) // parts for k in (0, 1)]
    pieces[False] = slice(*rest)
    for piece in pieces.values():
        for a in long:
            a[piece] = rng.uniform(0.5, 1, piece.stop - piece.start)
    before = {decays: [a[piece].copy() for a in long] for decays, piece in pieces.items()}
    p, g, average, *slots = long
    outputs = (p, average, None, *slots)
    totals = [np.ones(1) for _ in op.totals]
    inputs = (p, g, rates, None, decaying(decayed, count), clock, None, average, None, *slots, *totals)
    call(native, op, "forward", inputs, outputs, settings, row - 1, parts)
    for decays, piece in pieces.items():
        own, gradient, mean, *state = before[decays]
        size = len(own)
        groups = decaying(size if decays else 0, size)
        inputs = (own, gradient, rates, None, groups, clock, None, mean, None, *state, *totals)
        expected = Backend().run(op, "forward", inputs, None, **settings)
        for got, want in zip(outputs, expected, strict=True):
            assert want is None or size == 0 or np.allclose(got[piece], want, rtol=1e-5)


def test_a_batch_from_rows_far_down(native: NativeBackend, sparse: Sparse) -> None:
    """2^31 rows of three bytes, of which a batch takes forty: most lie beyond 2^31 and some beyond 2^32 bytes."""
    n, count, key = 2**31, 40, 4_000_000_000
    inputs, targets = sparse.zeros((n, 3), np.uint8), sparse.zeros((n,), np.int32)
    weights = sparse.zeros((n,), np.float32)
    batch = n // count - 1
    chosen = [permutation_reference(batch * count + i, n, 5, key) for i in range(count)]
    assert max(chosen) * 3 > 2**32
    for i, at in enumerate(chosen):
        inputs[at], targets[at], weights[at] = (i, i + 1, 255 - i), i, i + 0.5
    params = {"rows": count, "stride": count, "key": key, "scale": 0.5, "dtype": "<f4"}
    given = np.array([0, batch, 5]), inputs, targets, weights
    for backend in (native, Backend()):
        x, y, s = backend.run(RECORDS["gather"], "forward", given, None, **params)
        assert x.tolist() == [[i / 2, (i + 1) / 2, (255 - i) / 2] for i in range(count)]
        assert y.tolist() == list(range(count))
        assert s.tolist() == [i + 0.5 for i in range(count)]


@each_row
def test_a_row_of_a_batch_far_down(native: NativeBackend, sparse: Sparse, row: int) -> None:
    inputs, targets, x, y = (sparse.zeros((ROWS, COLS), np.float32) for _ in range(4))
    at = permutation_reference(row, ROWS, 0, 1)
    inputs[at], targets[at] = np.random.default_rng(0).standard_normal((2, COLS))
    params = {"rows": ROWS, "stride": ROWS, "key": 1, "scale": 1.0, "dtype": "<f4"}
    given = (np.zeros(3, np.int64), inputs, targets, None)
    call(native, RECORDS["gather"], "forward", given, (x, y, None), params, row, ROWS)
    np.testing.assert_array_equal(x[row], inputs[at])
    np.testing.assert_array_equal(y[row], targets[at])

"""What surrounds a step: the clock, batches, running sums."""

from __future__ import annotations

import numpy as np
import pytest
from support import BACKENDS, FLOATS, run

from gpumlp import backend as backends
from gpumlp.ops import RECORDS
from gpumlp.ops.random import permute

GATHER = RECORDS["gather"]


ORDER = permute(np, np.arange(7), 7, np.array([1]), 11)


def gather(batch, *sources, rows=3, stride=3, scale=1.0, dtype="<f4"):
    take = {"rows": rows, "stride": stride, "key": 11, "scale": scale, "dtype": dtype}
    return run(GATHER, "forward", np.array([50, batch, 1]), *sources, **take)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gather_follows_the_order_from_the_batch_on_the_clock(dtype):
    x, y, w = np.arange(14.0).reshape(7, 2), np.arange(7, dtype=np.int32), np.arange(7, dtype=np.float32) / 10
    for batch in (0, 1):
        gx, gy, gw = gather(batch, x.astype(dtype), y, w, dtype=np.dtype(dtype).str)
        assert (gx.dtype, gy.dtype, gw.dtype) == (dtype, np.int32, np.float32)
        rows = ORDER[3 * batch : 3 * batch + 3]
        np.testing.assert_array_equal(gx, x[rows])
        np.testing.assert_array_equal(gy, rows)
        np.testing.assert_array_equal(gw, w[rows])


def test_the_last_batch_may_be_short_and_weights_absent():
    gx, gy, gw = gather(2, np.arange(7.0)[:, None], np.arange(7), None, rows=1)
    assert (gx.tolist(), gy.tolist(), gw) == ([[float(ORDER[6])]], [ORDER[6]], None)


@pytest.mark.parametrize("name", BACKENDS)
def test_beyond_the_last_row_the_order_begins_again(name):
    """A step that is replayed too often ends: the kernel's walk into the rows had no end there."""
    backend = backends.get(name)
    take = {"rows": 5, "stride": 5, "key": 11, "scale": 1.0, "dtype": "<f4"}
    for batch in (1, 3, 10**6):
        given = (np.array([50, batch, 1]), np.arange(7.0, dtype=np.float32)[:, None], np.arange(7), None)
        _, found, _ = backend.run(GATHER, "forward", given, **take)
        np.testing.assert_array_equal(found, ORDER[(5 * batch + np.arange(5)) % 7])


def test_bytes_are_scaled_on_the_way():
    image = np.arange(7, dtype=np.uint8)[:, None] * 40
    (gx, *_) = gather(0, image, np.arange(7), None, scale=1 / 255)
    assert gx.dtype == np.float32
    np.testing.assert_allclose(gx.ravel(), ORDER[:3] * 40 / 255, rtol=1e-7)


def test_the_clock_counts_steps_and_batches_and_leaves_the_epoch():
    assert run(RECORDS["advance"], "forward", np.array([3, 1, 2]))[0].tolist() == [4, 2, 2]


def test_sums_accumulate_in_float64():
    (totals,) = run(RECORDS["accumulate"], "forward", np.array([1e8, 2.0, 3.0]), np.array([1e-8, 5.0, 1.0]))
    assert totals.tolist() == [1e8 + 1e-8, 7.0, 4.0]


@pytest.mark.parametrize(("first", "rows"), [(0, 1), (1, 2), (2, 1)])
def test_a_shard_of_a_batch_is_that_part_of_it(first, rows):
    whole = gather(1, np.arange(14.0).reshape(7, 2), np.arange(7), np.arange(7, dtype=np.float32))
    take = {"rows": rows, "first": first, "stride": 3, "key": 11, "scale": 1.0, "dtype": "<f4"}
    sources = np.arange(14.0).reshape(7, 2), np.arange(7), np.arange(7, dtype=np.float32)
    for part, all_rows in zip(run(GATHER, "forward", np.array([50, 1, 1]), *sources, **take), whole, strict=True):
        np.testing.assert_array_equal(part, all_rows[first : first + rows])

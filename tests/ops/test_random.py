"""Philox, the keyed permutation, and dropout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import FLOATS, permutation_reference, philox_reference, run

from gpumlp import backend as backends
from gpumlp.errors import BackendError
from gpumlp.ops import RECORDS
from gpumlp.ops.random import permute, philox, uniform_words

ONES = 0xFFFFFFFF
WORD = st.integers(0, ONES)

# The known answers that Random123 comes with (tests/kat_vectors)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def one_block(counter, key):
    return [int(w[0]) for w in philox(np, tuple(np.array([c], np.uint32) for c in counter), key)]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, words):
    assert one_block(counter, key) == list(words) == philox_reference(counter, key)


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_philox_agrees_with_python_integers(counter, key):
    assert one_block(counter, key) == philox_reference(counter, key)


@pytest.mark.parametrize("step", [0, 7, 2**32 + 5])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 33])
def test_a_word_depends_on_its_position_and_not_on_the_size(size, step):
    words = uniform_words(np, size, np.array([step]), 3, (8, 9))
    blocks = [philox_reference((i, 3, step & ONES, step >> 32), (8, 9)) for i in range((size + 3) // 4)]
    assert words.dtype == np.uint32
    assert words.tolist() == [w for block in blocks for w in block][:size]


def permutation(n, epoch=0, key=0):
    return permute(np, np.arange(n), n, np.array([epoch]), key)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 10, 31, 32, 33, 65, 1000, 1023, 1024, 1025, 65536, 65537])
def test_permute_is_a_bijection(n):
    for epoch, key in ((0, 0), (1, 0), (3, ONES), (2**40, 17)):
        assert np.array_equal(np.sort(permutation(n, epoch, key)), np.arange(n))


@given(st.integers(1, 300), st.integers(0, 2**40), WORD)
def test_permute_is_a_bijection_for_any_key(n, epoch, key):
    got = permutation(n, epoch, key)
    assert got.dtype == np.int64
    assert sorted(got.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 16, 17, 1000])
def test_permute_agrees_with_python_integers(n):
    for epoch, key in ((0, 0), (2**32 + 3, ONES)):
        assert permutation(n, epoch, key).tolist() == [permutation_reference(i, n, epoch, key) for i in range(n)]


@pytest.mark.parametrize("n", [65536, 65537, 10**6, 2**31 - 1, 2**31])
def test_permute_agrees_with_python_integers_where_there_are_many(n):
    positions = np.append(np.random.default_rng(n).integers(0, n, 50), [0, n - 1])
    got = permute(np, positions, n, np.array([5]), 4_000_000_000)
    assert got.tolist() == [permutation_reference(i, n, 5, 4_000_000_000) for i in positions.tolist()]


def test_a_part_of_a_permutation_is_the_same_part_of_the_whole():
    whole = permute(np, np.arange(1000), 1000, np.array([4]), 5)
    part = permute(np, np.array([999, 3, 500]), 1000, np.array([4]), 5)
    assert part.tolist() == whole[[999, 3, 500]].tolist()


def test_permutations_differ_by_epoch_and_by_key():
    drawn = {permutation(50, epoch, key).tobytes() for epoch in range(20) for key in (1, 1000, 2**31)}
    assert len(drawn) == 60


@pytest.mark.parametrize("n", [10, 33, 50])
def test_each_position_goes_everywhere_equally_often(n):
    """χ² over (position, image): n² cells with (n - 1)² degrees of freedom, bounded at five deviations."""
    trials = 3000
    counts = np.zeros((n, n))
    for epoch in range(trials):
        counts[np.arange(n), permutation(n, epoch, key=123)] += 1
    expected = trials / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_handful_of_rows_is_shuffled_nearly_evenly(n):
    """A network of a few bits is not perfectly uniform; a row's share of the places is right to a sixth."""
    trials = 4000
    counts = np.zeros((n, n))
    for epoch in range(trials):
        counts[np.arange(n), permutation(n, epoch, key=123)] += 1
    assert np.abs(counts * n / trials - 1).max() < 1 / 6


def test_neighbours_do_not_stay_together():
    """The share of pairs (i, i + 1) that stay in order and adjacent is 1/n, not more."""
    n, epochs = 64, 300
    adjacent = sum(int((np.diff(permutation(n, e, 9)) == 1).sum()) for e in range(epochs))
    assert abs(adjacent / epochs - (n - 1) / n) < 0.3


def test_the_order_of_an_epoch_depends_on_the_epoch_and_not_on_the_step():
    rows, take = np.arange(100), {"rows": 25, "stride": 25, "key": 7, "scale": 1.0, "dtype": "<f4"}

    def batch(*clock):
        return run(RECORDS["gather"], "forward", np.array(clock), rows[:, None], rows, None, **take)[1].tolist()

    assert batch(0, 3, 2) == batch(55, 3, 2) == permutation(100, 2, 7)[75:].tolist()
    assert batch(0, 3, 2) != batch(0, 3, 3)


DROPOUT = RECORDS["dropout"]


def drop(x, direction="forward", *, rate=0.25, step=3, stream=1, key=(5, 6)):
    return run(DROPOUT, direction, x, np.array([step, 0, 0]), None, rate=rate, stream=stream, key=key)[0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(dtype, rate):
    x = np.ones((500, 400), dtype)
    y = drop(x, rate=rate)
    deviation = (rate * (1 - rate) / x.size) ** 0.5
    assert abs((y == 0).mean() - rate) <= 4 * deviation
    assert abs(y.mean(dtype=np.float64) - 1) <= 4 * deviation / (1 - rate) + 1e-6
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_the_mask_is_that_of_philox():
    words = [w for i in range(5) for w in philox_reference((i, 1, 3, 0), (5, 6))]
    kept = [w >= 2**30 for w in words]
    assert (drop(np.ones((4, 5))) != 0).ravel().tolist() == kept


def test_the_word_that_is_equal_to_the_rate_stays():
    words = uniform_words(np, 64, np.array([3]), 1, (5, 6))
    for limit in words.tolist():
        assert (drop(np.ones(64), rate=limit / 2**32) != 0).tolist() == (words >= limit).tolist()
        assert (drop(np.ones(64), rate=(limit + 1) / 2**32) != 0).tolist() == (words > limit).tolist()


def test_backward_has_the_mask_of_forward():
    x = np.random.default_rng(0).standard_normal((40, 30))
    np.testing.assert_array_equal(drop(x, "backward"), drop(x, "forward"))
    assert 0 < (drop(np.ones((40, 30)), "backward") == 0).sum() < 1200


def test_the_mask_is_a_function_of_step_stream_and_key():
    ones = np.ones(256)
    masks = [drop(ones), drop(ones, step=4), drop(ones, stream=2), drop(ones, key=(5, 7)), drop(ones, key=(4, 6))]
    assert len({m.tobytes() for m in masks}) == len(masks)
    np.testing.assert_array_equal(drop(ones), drop(ones))
    np.testing.assert_array_equal(drop(ones.reshape(16, 16)).ravel(), drop(ones))


def test_dropped_nan_and_infinity_are_zero():
    y = drop(np.array([np.nan, np.inf] * 100))
    mask = drop(np.ones(200))
    assert (y[mask == 0] == 0).all()
    assert not np.isfinite(y[mask != 0]).any()


def test_the_order_of_an_epoch_never_changes_from_version_to_version():
    """A run that is resumed tomorrow must see the batches it would have seen today."""
    assert permutation(12, 3, 7).tolist() == [8, 4, 0, 5, 6, 10, 3, 2, 11, 7, 9, 1]


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_shards_of_a_batch_have_its_mask(backend):
    """Whatever rows a shard begins with: words come in fours, and in runs on a processor."""
    try:
        made = backends.get(backend)
    except BackendError as error:
        pytest.skip(str(error))
    op, x, clock = RECORDS["dropout"], np.ones((40, 7), np.float32), np.array([2**33 + 1, 0, 0])
    params = {"rate": 0.5, "stream": 1, "key": (3, 4)}
    (whole,) = made.run(op, "forward", (x, clock, None), **params)
    for first, last in ((0, 40), (1, 2), (3, 40), (13, 14), (20, 39), (39, 40)):
        part = np.ascontiguousarray(x[first:last])
        for direction in ("forward", "backward"):
            (got,) = made.run(op, direction, (part, clock, None), first=first, **params)
            np.testing.assert_array_equal(got, whole[first:last])

"""Dividing rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.data.splits import split
from gpumlp.errors import DataError


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    validation=st.floats(0, 0.6),
    test=st.floats(0, 0.39),
    seed=st.integers(0, 2**63),
)
def test_every_row_once_in_the_right_shares(sizes, validation, test, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    try:
        parts = split(len(labels), validation=validation, test=test, seed=seed, labels=labels)
    except DataError as error:
        assert "too few" in str(error)  # noqa: PT017 (most draws must not raise)
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert (np.diff(part) > 0).all()
    for part, share in ((parts.validation, validation), (parts.test, test)):
        given = np.bincount(labels[part], minlength=len(sizes))
        exact = share * np.array(sizes)
        # Within one row of exact, unless that row had to stay for training.
        kept = np.bincount(labels[parts.train], minlength=len(sizes))
        assert ((np.abs(given - exact) < 1 + 1e-9) | (kept == 1)).all()
        assert (kept >= 1).all()


def test_large_classes_are_divided_exactly():
    labels = np.repeat([0, 1, 2], [1000, 200, 40])
    parts = split(1240, validation=0.15, test=0.25, seed=3, labels=labels)
    assert np.bincount(labels[parts.validation]).tolist() == [150, 30, 6]
    assert np.bincount(labels[parts.test]).tolist() == [250, 50, 10]


def test_remainders_go_where_they_are_largest():
    # Shares of 0.1: 1.9, 1.2 and 0.9 rows; four in all.
    labels = np.repeat([0, 1, 2], [19, 12, 9])
    parts = split(40, validation=0, test=0.1, seed=0, labels=labels)
    assert np.bincount(labels[parts.test]).tolist() == [2, 1, 1]


def test_a_class_of_one_row_stays_in_training():
    labels = np.array([0] * 9 + [1])
    for seed in range(20):
        assert 9 in split(10, validation=0.4, test=0.4, seed=seed, labels=labels).train


def test_every_class_keeps_a_training_row_however_large_the_shares():
    labels = np.repeat(np.arange(10), 2)
    parts = split(20, validation=0.45, test=0.45, seed=0, labels=labels)
    assert set(labels[parts.train]) == set(range(10))


def test_regression_shares():
    parts = split(1001, validation=0.15, test=0.3, seed=0)
    assert [len(part) for part in parts] == [551, 150, 300]


def test_the_seed_alone_decides():
    first, again, other = (split(100, validation=0.2, test=0.2, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        assert (one == two).all()
    assert not (first.test == other.test).all()


def test_rows_are_drawn_evenly():
    """Each row is drawn about as often as any other: 5 standard deviations of a binomial."""
    counts = np.zeros(40)
    for seed in range(1000):
        counts[split(40, validation=0.25, test=0, seed=seed, labels=np.repeat([0, 1], 20)).validation] += 1
    assert np.abs(counts - 250).max() < 5 * np.sqrt(1000 * 0.25 * 0.75)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (1.5, 0), (float("nan"), 0)])
def test_impossible_shares(validation, test):
    with pytest.raises(DataError, match="are not possible\n  each must be 0 or more, and together less than 1"):
        split(10, validation=validation, test=test, seed=0)


def test_too_few_rows():
    with pytest.raises(DataError, match=r"3 rows are too few: a share of 0\.1 for validation is less than one row"):
        split(3, validation=0.1, test=0, seed=0)
    with pytest.raises(DataError, match=r"2 rows of 2 classes are too few .* keeps a training row\n.*regression"):
        split(2, validation=0, test=0.5, seed=0, labels=np.array([0, 1]))

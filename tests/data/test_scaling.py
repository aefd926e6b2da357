"""Scaling of numeric columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpumlp.data import SCALINGS
from gpumlp.data.encoding import scaling as scaling_module
from gpumlp.data.encoding.scaling import MAX_KNOTS, Ordered, Scaling
from gpumlp.data.source.cells import FLOAT32_MAX


@pytest.fixture
def block():
    generator = np.random.default_rng(1)
    columns = [generator.normal(5, 3, 700), generator.exponential(1e-4, 700), generator.integers(0, 9, 700) * 1e6]
    return np.stack(columns, axis=1)


def scaled(name, block, other=None):
    return Scaling.fit(name, block).apply(block if other is None else other)


def test_standard_agrees_with_scikit_learn(block):
    judge = pytest.importorskip("sklearn.preprocessing").StandardScaler().fit(block)
    np.testing.assert_allclose(scaled("standard", block, block * 1.1), judge.transform(block * 1.1), rtol=1e-12)


def test_standard_learns_from_the_values_that_are_there(block):
    judge = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    holes = block.copy()
    holes[::5, 1] = np.nan
    np.testing.assert_allclose(scaled("standard", holes, block), judge.fit(holes).transform(block), rtol=1e-12)


def test_robust_agrees_with_scikit_learn_before_the_clip(block):
    judge = pytest.importorskip("sklearn.preprocessing").RobustScaler().fit_transform(block)
    np.testing.assert_allclose(scaled("robust", block), judge / np.sqrt(1 + (judge / 3) ** 2), rtol=1e-12, atol=1e-12)


def test_robust_never_leaves_3_and_keeps_the_order():
    x = np.array([[-1e30], [0.0], [1.0], [2.0], [3.0], [1e30]])
    y = scaled("robust", x[1:5], x)[:, 0]
    assert np.abs(y).max() == pytest.approx(3)
    assert (np.diff(y) > 0).all()


def test_robust_uses_half_the_range_where_half_the_values_are_equal():
    x = np.array([[0.0]] * 8 + [[-1.0], [3.0]])
    # Median 0, half range 2: −1 becomes −0.5 and 3 becomes 1.5, then the clip.
    expected = np.array([-0.5, 1.5]) / np.sqrt(1 + (np.array([-0.5, 1.5]) / 3) ** 2)
    np.testing.assert_allclose(scaled("robust", x)[8:, 0], expected)


@pytest.mark.parametrize("name", ["robust", "standard"])
@pytest.mark.parametrize("value", [0.1, 7.0])
def test_a_constant_column_becomes_0_for_ever(name, value):
    # The mean of seven times 0.1 is not exactly 0.1.
    assert not scaled(name, np.full((7, 1), value), np.array([[value], [3.0], [-1e9]])).any()


def test_quantile_agrees_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = np.random.default_rng(2).exponential(2.0, (5000, 1))
    judge = preprocessing.QuantileTransformer(
        n_quantiles=MAX_KNOTS, output_distribution="normal", subsample=None
    ).fit(x)
    ours, theirs = scaled("quantile", x), judge.transform(x)
    middle = np.abs(theirs) < 2.5
    # Between knots we interpolate the score and scikit-learn the probability.
    np.testing.assert_allclose(ours[middle], theirs[middle], atol=2e-3)
    assert ours.min() == pytest.approx(theirs.min())
    assert ours.max() == pytest.approx(theirs.max()) == pytest.approx(5.2, abs=0.01)


def test_quantile_gives_a_common_value_the_score_of_its_middle():
    # Nine of ten are 0: the middle of their levels is about 0.45, not the lowest.
    x = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])[:, None]
    y = scaled("quantile", x)
    assert y[0, 0] == pytest.approx(-0.126, abs=0.01)
    assert (np.diff(y[899:, 0]) > 0).all()


def test_quantile_holds_beyond_the_training_values():
    y = scaled("quantile", np.arange(10.0)[:, None], np.array([[-1e9], [0.0], [9.0], [1e9]]))[:, 0]
    assert y[0] == y[1] < -5
    assert y[2] == y[3] > 5


def test_none_changes_nothing(block):
    assert (scaled("none", block) == block).all()


def test_fitting_in_portions_of_columns_changes_nothing():
    wide = np.random.default_rng(3).normal(size=(50, 150))
    for name in SCALINGS:
        one_by_one = np.concatenate([scaled(name, wide[:, [i]]) for i in range(150)], axis=1)
        np.testing.assert_allclose(scaled(name, wide), one_by_one, rtol=1e-9)


@pytest.mark.parametrize("name", list(SCALINGS))
@settings(deadline=None)
@given(
    x=arrays(np.float64, (6, 2), elements=st.floats(-FLOAT32_MAX, FLOAT32_MAX)),
    other=arrays(np.float64, (3, 2), elements=st.floats(-FLOAT32_MAX, FLOAT32_MAX)),
)
@example(x=np.array([[0.0] * 2] * 5 + [[-2.3e-308] * 2]), other=np.full((3, 2), -2.3e-313))
def test_finite_values_stay_finite_and_in_order(name, x, other):
    scaling = Scaling.fit(name, x)
    assert np.isfinite(scaling.apply(other)).all()
    both = np.sort(np.concatenate([x, other]), axis=0)
    assert (np.diff(scaling.apply(both), axis=0) >= -1e-12).all()


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.one_of(st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 1.0, np.nan])),
    )
)
def test_quantiles_are_those_of_numpy_to_the_bit(values):
    if np.isnan(values).all():
        return
    levels = (0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1)
    several = np.stack([values, np.sort(values), np.ones(len(values))], axis=1)
    ordered = Ordered.of(several)
    np.testing.assert_array_equal(ordered.quantiles(levels), np.nanquantile(several, levels, axis=0))
    np.testing.assert_array_equal(ordered.medians(), np.nanmedian(several, axis=0))
    np.testing.assert_array_equal(ordered.gaps, np.isnan(several).any(axis=0))


@pytest.mark.parametrize("name", ["robust", "quantile", "none"])
def test_columns_that_are_fitted_together_are_fitted_each_alone(name, monkeypatch):
    block = np.random.default_rng(0).lognormal(size=(50, 7))
    block[::5, 2], block[:, 3] = np.nan, 2.0
    together = Scaling.fit(name, block)
    monkeypatch.setattr(scaling_module, "GROUP_CELLS", 1)
    alone = Scaling.fit(name, block)
    for key, values in alone.fitted.items():
        np.testing.assert_array_equal(together.fitted[key], values)

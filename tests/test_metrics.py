from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import peak_memory

from gpumlp import metrics
from gpumlp.autodiff import Tensor
from gpumlp.data import Features
from gpumlp.errors import ShapeError
from gpumlp.nn import Dense, Sequential
from gpumlp.training.measure import MAX_BATCH_OUTPUTS, MAX_BATCH_ROWS, answers, rows_at_once


def test_classification_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    found = metrics.classification(p, np.array([0, 1, 1, 2]))
    # class 0: one hit, one false alarm; class 1: one hit, one miss; class 2: one hit
    assert found == {"accuracy": 0.75, "macro_f1": pytest.approx((2 / 3 + 2 / 3 + 1) / 3)}


@pytest.mark.parametrize("z", [-80.0, -20.0, 0.0, 20.0, 30.0, 80.0])
@pytest.mark.parametrize("positive", [False, True])
def test_the_log_loss_of_a_label_far_from_0(z: float, positive: bool) -> None:
    """Beyond 37 a probability is 1 in float64, too, and the loss as large as it can be told."""
    network = Sequential([Dense(1, activation="sigmoid")])
    p = answers(network, Tensor(np.array([[z]], np.float32)))
    assert p.dtype == np.float64
    loss = metrics.label(p[:, 0], np.array([float(positive)]), np.ones(1))["log_loss"]
    wanted = np.logaddexp(0, -z if positive else z)
    assert loss == pytest.approx(wanted if positive else min(wanted, 53 * math.log(2)), rel=1e-3)


def test_class_numbers_say_what_their_probabilities_say() -> None:
    rng = np.random.default_rng(2)
    p, y, w = rng.random((50, 7)), rng.integers(0, 9, 50), rng.integers(0, 3, 50)  # labels 7 and 8 are no class of p
    whole = metrics.classification(p, y, w)
    assert metrics.classification(p.argmax(axis=1), y, w) == whole
    assert whole["accuracy"] == pytest.approx(w[p.argmax(axis=1) == y].sum() / w.sum())


@pytest.mark.parametrize("weights", [None, np.array([0.0, 1.0, 2.0, 0.5, 0.0])])
def test_the_log_loss_of_labels_alone_is_that_among_all_metrics(weights: Any) -> None:
    """Also of a label that no row has, of gaps, of rows without weight, and of probabilities of 0 and 1."""
    p = np.array([[0.2, 1.0, 0.5], [0.9, 0.0, 0.5], [0.7, 0.3, 0.5], [0.5, 0.6, 0.5], [0.1, 0.2, 0.5]])
    targets = np.array([[0, 1, np.nan], [1, np.nan, np.nan], [np.nan, 1, np.nan], [1, 1, np.nan], [0, 0, np.nan]])
    alone = metrics.labels_log_loss(p, targets, weights)
    assert alone == metrics.labels(p, targets, ("a", "b", "c"), weights)["log_loss"] > 0
    assert np.isnan(metrics.labels_log_loss(p[:, 2:], targets[:, 2:], weights))


@pytest.mark.parametrize("shape", [(3, 1), (1,), (4,), ()])
def test_labels_that_do_not_match_the_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"labels must be \(3,\), one for each row"):
        metrics.classification(np.eye(3), np.zeros(shape, np.int64))


@pytest.mark.parametrize("shape", [(3, 1), (1,), (4,), ()])
def test_values_that_do_not_match_the_rows_are_refused(shape: tuple[int, ...]) -> None:
    wrong, right = np.ones(shape), np.arange(3.0)
    with pytest.raises(ShapeError, match=r"weights must be \(3,\), one for each row"):
        metrics.classification(np.eye(3), np.arange(3), wrong)
    with pytest.raises(ShapeError, match=r"weights must be \(3,\), one for each row"):
        metrics.regression(right, right, wrong)
    with pytest.raises(ShapeError, match=r"targets must be \(3,\), one for each row"):
        metrics.regression(right, wrong)
    with pytest.raises(ShapeError, match=r"predictions must be \(N,\)|targets must be"):
        metrics.regression(wrong, right)


def test_lists_are_arrays() -> None:
    assert metrics.classification([[0.7, 0.3], [0.2, 0.8]], [0, 1], [1, 2])["accuracy"] == 1.0  # type: ignore[arg-type]
    assert metrics.regression([1, 2], [1, 4], [1, 1])["mae"] == 1.0  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_square_of_the_classes() -> None:
    rng, classes = np.random.default_rng(3), 100_000
    chosen, labels = rng.integers(0, classes, (2, 1000))
    with peak_memory() as peak:
        metrics.classification(chosen, labels)
        assert peak() < 1 << 20


@pytest.mark.parametrize("outputs", [1, 2048, 2049, 10_000, 2**31 - 1])
def test_few_rows_are_computed_at_once_where_there_are_many_classes(outputs: int) -> None:
    rows: Any = rows_at_once(outputs)
    assert 1 <= rows <= MAX_BATCH_ROWS
    assert rows == 1 or rows * outputs <= MAX_BATCH_OUTPUTS
    assert rows == MAX_BATCH_ROWS or (rows + 1) * outputs > MAX_BATCH_OUTPUTS


def test_few_rows_are_computed_at_once_where_categories_have_many_values() -> None:
    wide, plain = (Features(np.zeros((0, 2), np.float32), dense, 1 << 20) for dense in (1, 2))
    assert rows_at_once(1, wide) == 32
    assert rows_at_once(1, plain) == MAX_BATCH_ROWS


def test_binary_by_hand() -> None:
    p = np.array([[0.9], [0.4], [0.6], [0.1]])
    found = metrics.classification(p, np.array([1, 1, 0, 0]))
    assert found["accuracy"] == 0.5
    assert found["auc"] == pytest.approx(3 / 4)  # of the four pairs only (0.4, 0.6) is the wrong way round


def test_ties_count_half() -> None:
    assert metrics.auc(np.array([0.5, 0.5]), np.array([0, 1]), np.ones(2)) == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_count_alike_are_ranked_as_rows_with_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 30))
    scores = rng.choice([0.0, -0.0, 0.5, 0.5 + 1e-16, 1.0, 1e-320, np.inf, -np.inf, np.nan], count)
    labels = rng.integers(-1, 3, count)
    labels[:2] = 0, 1
    found = metrics.auc(scores, labels, np.ones(count))
    assert found == metrics.auc(scores, labels, np.full(count, 2.0))  # NaN above all numbers, and as large as NaN
    ranks = {value: rank for rank, value in enumerate(np.unique(scores))}
    of = [len(ranks) if np.isnan(score) else ranks[score] for score in scores]
    pairs = [(a, b) for a, one in zip(of, labels, strict=True) for b, other in zip(of, labels, strict=True)
             if (one, other) == (1, 0)]  # fmt: skip
    assert found == np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    alike, twice = (metrics.hits_of(scores > 0.4, labels == 1, np.full(count, w)) for w in (1.0, 2.0))
    np.testing.assert_equal(alike, twice)


def test_the_surest_class_is_the_first_of_the_largest() -> None:
    values = np.array([0.5, 0.5, 0.25, 1.0, 0.0, -0.0, np.nan])
    both = np.array([[a, b] for a in values for b in values])
    chosen, sure = metrics._surest(both)
    np.testing.assert_array_equal(chosen, both.argmax(axis=1))
    np.testing.assert_array_equal(sure, both.max(axis=1))
    chosen, sure = metrics._surest(np.column_stack([both, both[:, 0] + 0.25]))
    np.testing.assert_array_equal(chosen, np.column_stack([both, both[:, 0] + 0.25]).argmax(axis=1))


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.array([0.5, 0.7]), np.array([1, 1]), np.ones(2)))


def test_a_weight_of_two_is_a_row_twice() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random((20, 1)), rng.integers(0, 2, 20)
    w = rng.integers(1, 4, 20)
    weighted = metrics.classification(p, y, w)
    repeated = metrics.classification(np.repeat(p, w, axis=0), np.repeat(y, w))
    assert weighted == pytest.approx(repeated)
    t = rng.random(20)
    assert metrics.regression(p[:, 0], t, w) == pytest.approx(metrics.regression(np.repeat(p, w), np.repeat(t, w)))


def test_regression_by_hand() -> None:
    found = metrics.regression(np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 4.0]))
    assert found["rmse"] == pytest.approx((2 / 3) ** 0.5)
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["r2"] == pytest.approx(1 - 2 / (14 / 3))


@pytest.mark.parametrize("count", [1, 3, 7, 199])
def test_equal_targets_have_no_r2(count: int) -> None:
    for value in (0.0, 0.1, 1 / 3, 7.3, 1e9 + 0.1):  # the rounding of their mean is no spread
        assert math.isnan(metrics.regression(np.full(count, value + 1), np.full(count, value))["r2"])
    targets, weights = np.append(np.full(count, 0.1), 5.0), np.append(np.ones(count), 0.0)
    assert math.isnan(metrics.regression(np.zeros(count + 1), targets, weights)["r2"])


def test_macro_f1_of_any_numbers_of_classes() -> None:
    """Classes that do not occur do not count, wherever the numbers of the others lie."""
    chosen, labels, weights = np.array([3, 3, 5, 5]), np.array([3, 5, 5, 5]), np.ones(4)
    for far in (0, -3, 2**40, -(2**62)):
        for scale in (1, 10**6):
            found = metrics.macro_f1(chosen * scale + far, labels * scale + far, weights)
            assert found == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_against_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra 'oracle'")
    rng = np.random.default_rng(1)
    p, y = rng.random((200, 4)), rng.integers(0, 4, 200)
    found = metrics.classification(p, y)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"))
    scores, labels, w = rng.integers(0, 20, 300) / 20, rng.integers(0, 2, 300), rng.random(300)
    assert metrics.auc(scores, labels, w) == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=w))
    t, q = rng.random(50), rng.random(50)
    assert metrics.regression(q, t)["r2"] == pytest.approx(sk.r2_score(t, q))
    assert metrics.regression(q, t, w[:50])["rmse"] == pytest.approx(
        sk.root_mean_squared_error(t, q, sample_weight=w[:50])
    )


def test_precision_and_recall_are_those_of_scikit_learn_at_each_threshold() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, y, w = rng.uniform(0, 1, 200).round(1), rng.integers(0, 2, 200), rng.uniform(0.5, 2, 200)
    found = metrics.classification(p[:, None], y, w)
    assert found["precision"] == pytest.approx(sk.precision_score(y, p > 0.5, sample_weight=w))
    assert found["recall"] == pytest.approx(sk.recall_score(y, p > 0.5, sample_weight=w))
    each = metrics.at_thresholds(p, y == 1, w)
    assert [one["threshold"] for one in each] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for one in each:  # a probability equal to the threshold is not above it
        chosen = p > one["threshold"]
        assert one["taken"] == pytest.approx((w * chosen).sum() / w.sum())
        assert one["precision"] == pytest.approx(sk.precision_score(y, chosen, sample_weight=w))
        assert one["f1"] == pytest.approx(sk.f1_score(y, chosen, sample_weight=w))
    none = metrics.classification(np.full((3, 1), 0.1), np.zeros(3, int))
    assert np.isnan(none["precision"])
    assert metrics.classification(np.full((3, 1), 0.1), np.array([0, 1, 1]))["precision"] == 0.0


def test_points_of_curves_are_those_of_scikit_learn_whatever_the_blocks() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    p, y, w = rng.dirichlet([1, 1, 1], 300).round(2), rng.integers(-1, 3, 300), rng.uniform(0.5, 2, 300)
    counts = metrics.ThresholdCounts("abc")
    for rows in (slice(1), slice(1, 200), slice(200, 300)):
        counts.add(p[rows], y[rows], w[rows])
    for k, (name, points) in enumerate(counts.result().items()):
        assert name == "abc"[k]
        assert [each["threshold"] for each in points] == [round(0.01 * i, 2) for i in range(101)]
        for each in points[:98:7]:  # above 1 there is no row
            chosen, positive = p[:, k] > each["threshold"], y == k
            assert each["precision"] == pytest.approx(sk.precision_score(positive, chosen, sample_weight=w))
            assert each["recall"] == pytest.approx(sk.recall_score(positive, chosen, sample_weight=w))
            fall_out = 1 - sk.recall_score(~positive, ~chosen, sample_weight=w)
            assert each["false_positive_rate"] == pytest.approx(fall_out, abs=1e-12)
        assert (points[100]["taken"], points[100]["recall"], points[100]["precision"]) == (0, 0, 0)


def test_points_of_curves_leave_missing_labels_out() -> None:
    counts = metrics.ThresholdCounts(["one", "other"])
    counts.add(np.array([[0.9, 0.4], [0.2, 0.6], [0.5, 0.1]]), np.array([[1, np.nan], [0, 1], [np.nan, np.nan]]))
    one, other = (points[50] for points in counts.result().values())
    found = [one[key] for key in ("taken", "precision", "recall", "f1", "false_positive_rate")]
    assert found == [0.5, 1, 1, 1, 0]
    assert (other["taken"], other["recall"]) == (1, 1)
    assert np.isnan(other["false_positive_rate"])


def test_small_integers_do_not_overflow_where_classes_are_counted() -> None:
    labels = np.array([-1, 127] * 100, np.int8)
    assert metrics.classification(np.full(200, 127, np.int8), labels) == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx((0 + 2 / 3) / 2),
    }
    big = 2**53
    found = metrics.classification(np.array([big, big + 1], np.uint64), np.array([big + 1, big], np.int64))
    assert found == {"accuracy": 0.0, "macro_f1": 0.0}


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_without_both_classes_have_no_curves(rows: int) -> None:
    assert metrics.curves(np.full(rows, 0.5), np.ones(rows, bool), np.ones(rows)) is None


def test_curves_of_scores_without_a_sign_and_positives_as_numbers() -> None:
    p, positive, ones = np.array([0, 1, 2], np.uint8), np.array([0, 1, 1]), np.ones(3)
    found, wanted = metrics.curves(p, positive, ones), metrics.curves(p / 2.0, positive == 1, ones)
    assert found is not None
    assert wanted is not None
    np.testing.assert_array_equal(found.recall, wanted.recall)
    assert found.average_precision == wanted.average_precision == 1.0
    assert metrics.hits_of(positive, positive, ones)["f1"] == 1.0


NOTHING = np.zeros(2)


def test_where_no_row_counts_nothing_is_measured() -> None:
    assert math.isnan(metrics.classification(np.array([0, 1]), np.array([0, 1]), NOTHING)["accuracy"])
    assert math.isnan(metrics.classification(np.zeros(0, int), np.zeros(0, int))["macro_f1"])
    assert math.isnan(metrics.regression(NOTHING, NOTHING, NOTHING)["rmse"])
    assert math.isnan(metrics.regression(np.zeros(0), np.zeros(0))["mae"])


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda: metrics.classification(np.array([[np.nan], [0.2]]), np.array([1, 1])), "predictions hold NaN"),
        (lambda: metrics.classification(np.zeros((2, 2, 2)), np.array([1, 1])), r"must be \(N,\) or \(N, K\)"),
        (lambda: metrics.classification(np.array([0]), np.array([0]), np.array([-1.0])), "weights must be finite"),
        (lambda: metrics.regression(np.ones(1), np.ones(1), np.array([np.nan])), "weights must be finite"),
        (lambda: metrics.regression(np.ones(2), np.ma.array([1, 2], mask=[0, 1])), "targets have a mask"),
        (lambda: metrics.regressions(np.ones((2, 2)), np.ones((2, 1)), ["a", "b"]), r"must be \(N, 2\)"),
        (lambda: metrics.labels(np.ones((2, 1)), np.array([[-1], [1]]), ["a"]), "must be 0, 1 or NaN"),
    ],
)
def test_what_cannot_be_measured(measure: Callable[[], object], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        measure()

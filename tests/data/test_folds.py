"""Folds, groups and the order of time: how rows are divided, beside scikit-learn's splitters."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.config import load
from gpumlp.data import Fold, prepare
from gpumlp.data.splits import split
from gpumlp.errors import ConfigError, DataError
from gpumlp.training.build import load_data

RNG = np.random.default_rng(0)


def folds(count, of, *, validation=0.0, seed=0, **by):
    return [split(count, validation=validation, test=Fold(k, of), seed=seed, **by) for k in range(1, of + 1)]


def sizes(parts):
    return sorted(len(part.test) for part in parts)


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    of=st.integers(2, 7),
    validation=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_are_every_row_once_and_each_class_is_divided_evenly(counts, of, validation, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if len(labels) < of:
        with pytest.raises(DataError, match="too few"):
            folds(len(labels), of, labels=labels)
        return
    try:
        parts = folds(len(labels), of, validation=validation, seed=seed, labels=labels)
    except DataError as error:  # too few rows for a share
        assert validation, error  # noqa: PT017
        return
    assert sorted(np.concatenate([part.test for part in parts]).tolist()) == list(range(len(labels)))
    for part in parts:
        assert sorted(np.concatenate(part).tolist()) == list(range(len(labels)))
    by_class = np.array([np.bincount(labels[part.test], minlength=len(counts)) for part in parts])
    assert (np.ptp(by_class, axis=0) <= 1).all()
    assert np.ptp(by_class.sum(axis=1)) <= 1


def test_sizes_are_those_of_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection")
    labels = RNG.choice(4, 203, p=[0.5, 0.3, 0.15, 0.05])
    groups = RNG.choice(37, 203, p=RNG.dirichlet(np.ones(37)))
    ones, X = np.zeros(203, int), np.zeros((203, 1))
    for of in (2, 5, 10):
        theirs = [len(test) for _, test in model_selection.KFold(of).split(X)]
        assert sizes(folds(203, of)) == sorted(theirs)
        stratified = model_selection.StratifiedKFold(of)
        wanted = sorted(np.bincount(labels[test], minlength=4).tolist() for _, test in stratified.split(X, labels))
        found = [np.bincount(labels[part.test], minlength=4).tolist() for part in folds(203, of, labels=labels)]
        assert np.array_equal(np.sort(found, axis=0), np.sort(wanted, axis=0))
        grouped = [len(test) for _, test in model_selection.GroupKFold(of).split(X, ones, groups)]
        assert sizes(folds(203, of, groups=np.unique(groups, return_inverse=True)[1])) == sorted(grouped)
        times = RNG.permutation(203)
        place = np.argsort(times)
        pairs = zip(folds(203, of, times=times), model_selection.TimeSeriesSplit(of).split(X), strict=True)
        for part, (train, test) in pairs:
            assert part.train.tolist() == sorted(place[train])
            assert part.test.tolist() == sorted(place[test])


def test_groups_are_whole_and_classes_as_even_as_in_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection")
    labels = RNG.choice(3, 600, p=[0.6, 0.3, 0.1])
    groups = RNG.integers(0, 60, 600)
    groups[labels == 2] %= 20  # the small class is in a third of the groups

    def unevenness(tests):
        shares = np.array([np.bincount(labels[test], minlength=3) for test in tests]) / np.bincount(labels)
        return float(shares.std(axis=0).mean())

    ours = folds(600, 5, labels=labels, groups=groups, validation=0.2)
    for part in ours:
        assert not {*groups[part.test]} & {*groups[part.train]}
        assert not {*groups[part.validation]} & {*groups[part.train]}
        assert len(part.validation) == pytest.approx(0.2 * (600 - len(part.test)), rel=0.15)
    theirs = model_selection.StratifiedGroupKFold(5).split(np.zeros((600, 1)), labels, groups)
    assert unevenness([part.test for part in ours]) <= 1.1 * unevenness([test for _, test in theirs])


def test_another_seed_gives_other_folds_and_the_same_seed_the_same():
    one, same, other = (folds(50, 5, seed=seed)[0].test.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_shares_in_the_order_of_time_do_not_divide_equal_times():
    times = np.array([3, 1, 2, 2, 2, 9, 8, 7, 6, 5])
    parts = split(10, validation=0.2, test=0.3, seed=0, times=times)
    assert [sorted(times[part]) for part in parts] == [[1, 2, 2, 2, 3], [5, 6], [7, 8, 9]]
    # The middle of the three 2 would be the first test row: all of them are.
    assert sorted(times[split(10, validation=0, test=0.7, seed=0, times=times).train]) == [1]
    for k, part in enumerate(folds(10, 4, times=times), 1):
        assert times[part.train].max() < times[part.test].min(), k


@pytest.mark.parametrize(
    ("by", "test", "text"),
    [
        ({"times": np.zeros(10)}, 0.3, "too few different times"),
        ({"times": np.zeros(10)}, Fold(1, 3), "1 different times are too few for 3 folds"),
        ({"groups": np.zeros(10, int)}, 0.3, "too few groups for a share of 0.3"),
        ({"groups": np.arange(10) % 2}, Fold(1, 3), "2 groups are too few for 3 folds"),
        ({}, Fold(1, 11), "10 rows are too few for 11 folds"),
        ({}, Fold(4, 3), "there is no fold 4 of 3"),
    ],
)
def test_what_cannot_be_divided_is_refused(by, test, text):
    with pytest.raises(DataError, match=text):
        split(10, validation=0.0, test=test, seed=0, **by)


def table(count=40):
    return {
        "x": np.arange(count) * 1.0,
        "patient": [f"p{i % 8}" for i in range(count)],
        "day": [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(count)],
        "y": [f"{'ab'[i % 2]}" for i in range(count)],
    }


def test_a_group_column_is_no_input_and_its_rows_stay_together():
    found = prepare(
        table(), task="classification", target="y", group="patient", test=Fold(2, 4), keep_sources=True, drop=["day"]
    )
    assert found.encoder.features == ("x",)
    groups = {name: {*source.labels("patient")} for name, source in found.sources.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]


def test_dates_are_times():
    rows = table()
    order = np.random.default_rng(1).permutation(40)
    rows = {name: np.asarray(column)[order] for name, column in rows.items()}
    found = prepare(rows, task="regression", target="x", time="day", drop=["day", "patient"], keep_sources=True)
    days = {name: sorted(source.labels("day")) for name, source in found.sources.items()}
    assert days["train"][-1] < days["validation"][0] < days["validation"][-1] < days["test"][0]
    assert (len(days["validation"]), len(days["test"])) == (6, 6)


@pytest.mark.parametrize(
    ("column", "cell", "by", "text"),
    [
        ("patient", "", "group", "column 'patient' has no group in this row"),
        ("day", "", "time", "column 'day' has no time in this row"),
        ("day", "31.5.2024", "time", "dates such as 2024-05-31"),
    ],
)
def test_a_row_without_group_or_time_is_named(column, cell, by, text):
    rows = table()
    rows[column][3] = cell
    with pytest.raises(DataError, match=text) as caught:
        prepare(rows, task="classification", target="y", **{by: column})
    assert caught.value.where == "rows, row 3"


def test_a_class_that_is_in_one_fold_only_is_noted():
    rows = table()
    rows["y"] = ["a"] * 20 + ["b"] * 15 + ["rare"] * 5
    rows["patient"] = ["p0"] * 10 + ["p1"] * 25 + ["p2"] * 5
    noted = 0
    for fold in (1, 2, 3):
        found = prepare(rows, task="classification", target="y", group="patient", test=Fold(fold, 3), validation=0.0)
        assert found.encoder.classes == ("a", "b", "rare")
        noted += "classes without a training row: rare" in found.notes
    assert noted == 1


def test_the_settings_divide_and_name_what_does_not_fit(tmp_path: Path):
    rows = table()
    lines = ["x,patient,day,y", *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    path = tmp_path / "c.yaml"
    path.write_text(
        textwrap.dedent("""\
        task: classification
        data:
          train: rows.csv
          target: y
          split: {test: {fold: 2, of: 4}, group: patient}
        """)
    )
    assert len(load_data(load(path)).test) == 10
    for overrides, text in (
        (["data.split.test={fold: 5, of: 4}"], "there is no fold 5 of 4"),
        (["data.split.time=day"], "by group or by time, not by both"),
        (["data.split.group=null", "data.split.time=days"], "data.split.time: "),
        (["data.split.group=patients"], "did you mean 'patient'?"),
        (["data.split.group=y"], "'y' is the target already"),
    ):
        with pytest.raises((ConfigError, DataError)) as wrong:
            load_data(load(path, overrides))
        assert text in str(wrong.value)

"""Targets."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpumlp.data.encoding.targets import ClassTarget, NumberTarget
from gpumlp.data.source.cells import USUAL_MISSING, Missing
from gpumlp.data.source.frame import Codes, merged
from gpumlp.errors import DataError


def where(row: int) -> str:
    return f"a.csv:{row + 2}"


def texts(*labels: str) -> Codes:
    return merged(labels, np.arange(len(labels)))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("yes", "no", "yes"), ("no", "yes")),
        (("10", "9", "-1", "9"), ("-1", "9", "10")),
        (("10", "9", "b"), ("10", "9", "b")),
        (("1_0", "9"), ("1_0", "9")),
    ],
)
def test_classes_are_sorted_by_value_if_they_have_one(labels, classes):
    target = ClassTarget.fit(texts(*labels), where)
    assert target.classes == classes
    codes = target.encode(texts(*labels), where)
    assert codes.dtype == np.int32
    assert [classes[code] for code in codes] == list(labels)


@pytest.mark.parametrize(("count", "outputs"), [(2, 1), (3, 3), (7, 7)])
def test_two_classes_need_one_output(count, outputs):
    assert ClassTarget(tuple(map(str, range(count)))).outputs == outputs


def test_one_class_is_nothing_to_learn():
    with pytest.raises(DataError, match="every row is of the class 'a'"):
        ClassTarget.fit(texts("a", "a"), where)


def test_a_missing_class_is_found_with_its_line():
    with pytest.raises(DataError, match=r"^a\.csv:3: the target is missing, as it is in 1 more row\n"):
        ClassTarget.fit(texts("a", "", "b", ""), where)
    with pytest.raises(DataError, match=r"^a\.csv:2: the target is missing\n"):
        ClassTarget(("a", "b")).encode(texts("", "a"), where)


def test_a_new_class_is_found_with_its_line():
    with pytest.raises(
        DataError, match=r"^a\.csv:3: the class '>50K\.' does not occur in the training data"
    ) as caught:
        ClassTarget(("<=50K", ">50K")).encode(texts(">50K", ">50K."), where)
    assert "allowed: <=50K, >50K" in str(caught.value)


def test_a_new_class_is_compared_with_all_and_no_more_are_listed_than_can_be_read():
    many = ClassTarget(tuple(f"class {i:03}" for i in range(60)))
    with pytest.raises(DataError, match=r"did you mean 'class 059'\? allowed: class 000, .*class 039 and 20 more$"):
        many.encode(texts("Class 059"), where)


def test_whole_numbers_that_float64_rounds_are_in_order_and_not_each_other():
    names = str(-(2**63)), str(1 - 2**63), "3", str(2**53), str(2**53 + 2)
    target = ClassTarget.fit(texts(*names[::-1]), where)
    assert target.classes == names
    assert target.encode(texts("-9223372036854775807", "9007199254740992.0"), where).tolist() == [1, 3]
    assert target.encode(texts(str(2**53 + 1)), where, unseen=True).tolist() == [-1]
    assert target.doubts(USUAL_MISSING) == []


def test_every_row_its_own_class_looks_like_regression():
    labels = texts(*map(str, range(51)))
    with pytest.raises(DataError, match=r"each of the 51 rows is its own class\n.*regression"):
        ClassTarget.fit(labels, where)
    assert len(ClassTarget.fit(labels.take(np.arange(50)), where).classes) == 50


@pytest.mark.parametrize(
    ("classes", "notes"),
    [
        (("no", "Yes", "yes", "YES"), ["'Yes', 'yes' and 'YES' are different classes"]),
        (("0", "0.0", "1", "1.0"), ["'0' and '0.0' are different classes", "'1' and '1.0' are different classes"]),
        (("-", "a", "None"), ["taken for classes, not for missing values: '-', 'None'"]),
        (("1", "-1", "10", "1_0", "a", "ä"), []),
    ],
)
def test_classes_that_may_be_one_or_none_are_told(classes, notes):
    assert ClassTarget(classes).doubts(USUAL_MISSING) == notes
    assert not ClassTarget(("-", "a", "None")).doubts(Missing(frozenset("?")))


def test_numbers_are_standardised_and_restored():
    values = np.array([1.0, 2.0, 6.0])
    target = NumberTarget.fit(values, where)
    encoded = target.encode(values, where)
    assert encoded.shape == (3, 1)
    assert encoded.dtype == np.float32
    assert encoded.mean() == pytest.approx(0, abs=1e-7)
    assert encoded.std() == pytest.approx(1)
    np.testing.assert_allclose(target.restore(encoded), values, rtol=1e-6)


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_a_constant_target(value):
    with pytest.raises(DataError, match=f"the target is {value:.15g} in every training row"):
        NumberTarget.fit(np.full(7, value), where)


def test_a_missing_number_is_found_with_its_line():
    for method in (NumberTarget(0, 1).encode, NumberTarget.fit):
        with pytest.raises(DataError, match=r"^a\.csv:3: the target is missing"):
            method(np.array([1.0, np.nan]), where)


def test_a_number_too_far_away():
    with pytest.raises(DataError, match=r"^a\.csv:3: the target 1e\+30 is too far from the training values"):
        NumberTarget(0, 1e-30).encode(np.array([1.0, 1e30]), where)


def test_a_target_that_hardly_varies_is_not_called_constant():
    with pytest.raises(DataError, match=r"the target varies by .*, less than 32-bit floats resolve"):
        NumberTarget.fit(np.array([1e-39, 2e-39]), lambda row: f"a.csv:{row + 2}")
    with pytest.raises(DataError, match=r"the target is 3 in every training row"):
        NumberTarget.fit(np.array([3.0, 3.0]), lambda row: f"a.csv:{row + 2}")


def test_thousands_of_numbered_classes_are_encoded_in_linear_time():
    count = 20_000
    labels = Codes(np.array([f"{i}" for i in range(count)], object), np.arange(count, dtype=np.int32))
    target = ClassTarget(tuple(labels.texts))
    began = time.process_time()
    assert target.encode(labels, where).tolist() == list(range(count))
    assert time.process_time() - began < 2  # 20 where each class is compared with each


@pytest.mark.parametrize(
    ("classes", "texts", "numbers"),
    [
        (("false", "true"), "True 1 1.0 FALSE 0 2 yes", [1, 1, 1, 0, 0, -1, -1]),
        (("0", "1"), "true False 1.0 01 2", [1, 0, 1, 1, -1]),
        (("1", "true"), "1 true True 1.0", [0, 1, -1, -1]),
    ],
)
def test_classes_in_the_spellings_of_other_programs(classes: tuple[str, ...], texts: str, numbers: list[int]) -> None:
    assert ClassTarget(classes).numbers(np.array(texts.split(), object)).tolist() == numbers

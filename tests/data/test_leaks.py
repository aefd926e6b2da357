"""Columns that give the target away are named; ids, and columns that only predict it well, are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpumlp.data import prepare
from gpumlp.data.leaks import MIN_ROWS, decides

N = 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=N)
PRICE = 200.0 + 30.0 * X + RNG.normal(size=N)
CLASS = np.array(["no", "yes", "perhaps"])[RNG.integers(0, 3, N)]
MISSING = np.where(CLASS == "no", "", [f"2024-01-{i % 28 + 1:02d}" for i in range(N)])


def leaking(columns: dict[str, Any], target: str, task: str, **more: Any) -> list[str | None]:
    rows = {"x": X, "other": RNG.permutation(X), **columns}
    notes = prepare(rows, task=task, target=target, validation=0, test=0, **more).notes
    return [note.column for note in notes if "away" in note]


@pytest.mark.parametrize(
    ("column", "leaks"),
    [
        (PRICE, True),
        (np.round(PRICE * -1.19, 2), True),  # with taxes, in cents, and turned round
        (np.where(np.arange(N) % 3 > 0, PRICE, np.nan), True),
        (np.where(np.arange(N) % 3 == 0, PRICE, np.nan), False),  # of too few rows
        (PRICE + RNG.normal(size=N) * PRICE.std() / 50, False),  # R² of 0.9996: a good predictor, such as a lag
        (X, False),
        (np.arange(N), False),
        (np.full(N, 3.0), False),
    ],
)
def test_a_line_that_is_the_target_is_named(column: Any, leaks: bool) -> None:
    assert leaking({"c": column, "price": PRICE}, "price", "regression") == ["c"] * leaks


@pytest.mark.parametrize(
    ("column", "leaks"),
    [
        (CLASS, True),
        (np.unique(CLASS, return_inverse=True)[1] * 10, True),
        ([f"{name} {i % 20}" for i, name in enumerate(CLASS)], True),  # finer than the class
        (np.where(np.arange(N) == 7, "no", CLASS), True),  # one row is otherwise
        (np.where(np.arange(N) % 20 == 0, RNG.permutation(CLASS), CLASS), False),
        (np.where(CLASS == "no", "a", "b"), False),  # not of all classes
        ([f"row {i}" for i in range(N)], False),  # an id
        (np.arange(N), False),
        (np.arange(N) // 2, False),  # pairs
        (MISSING, False),
    ],
)
def test_a_value_that_decides_the_class_is_named(column: Any, leaks: bool) -> None:
    assert leaking({"c": column, "y": CLASS}, "y", "classification") == ["c"] * leaks


def test_a_column_that_is_there_for_one_class_alone_is_named() -> None:
    churned = np.where(CLASS == "no", "no", "yes")
    assert leaking({"since": MISSING, "y": churned}, "y", "classification") == ["since"]
    amount = np.where(CLASS == "no", np.nan, X)
    assert leaking({"amount": amount, "y": churned}, "y", "classification") == ["amount"]


def test_the_note_names_columns_and_target_and_what_to_do() -> None:
    rows = {"x": X, "a": PRICE * 2, "b": PRICE, "price": PRICE, "y": CLASS}
    prepared = prepare(rows, task="regression", target="price", drop=["y"], validation=0, test=0)
    assert list(map(str, prepared.notes)) == [
        "column 'a' gives the target away: a line through it has R² above 0.9999 on training rows; "
        "if it is known only with the target, list it under data.drop (also 'b')"
    ]
    several = prepare(rows, task="regression", target=["price", "x"], drop=["y"], validation=0, test=0)
    assert "column 'a' gives the target 'price' away" in several.notes[0]
    few = {name: values[: MIN_ROWS - 1] for name, values in rows.items()}
    assert prepare(few, task="regression", target="price", drop=["y"], validation=0, test=0).notes == ()
    alone = {"a": PRICE * 2, "price": PRICE}
    assert prepare(alone, task="regression", target="price", validation=0, test=0).notes == ()


def test_a_value_decides_by_the_other_rows_that_have_it() -> None:
    labels = np.repeat([0, 1], 50)
    assert decides(labels, labels)
    assert decides(np.arange(100) // 5, labels)
    assert not decides(np.arange(100), labels)
    assert not decides(np.zeros(100, np.int64), labels)
    one_wrong = np.where(np.arange(100) == 3, 1, labels)
    assert not decides(one_wrong, labels)  # 1 of 50 that are not of the most frequent class

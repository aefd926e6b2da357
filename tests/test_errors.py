"""Hints: the nearest right name, in its own letters."""

from __future__ import annotations

import pytest

from gpumlp.errors import LISTED, choices, nearest


@pytest.mark.parametrize(
    ("given", "allowed", "expected"),
    [
        ("adamm", ["sgd", "adam"], "adam"),
        ("TARGTE", ["ID", "TARGET"], "TARGET"),
        ("target", ["TARGET"], "TARGET"),
        ("Adam", ["adam"], "adam"),
        ("y", ["Y", "y"], "Y"),  # as like one as the other: the first
        ("x", ["sgd", "adam"], None),
        (3, [], None),
    ],
)
def test_the_nearest_name_keeps_its_capital_letters(given: object, allowed: list[str], expected: str | None) -> None:
    assert nearest(given, allowed) == expected


def test_choices_lead_with_the_nearest_and_list_no_more_than_can_be_read() -> None:
    assert choices("Clas", ["Class", "a,b"]) == "did you mean 'Class'? allowed: Class, 'a,b'"
    many = [f"column_{i}" for i in range(LISTED + 2)]
    assert choices("?", many).endswith(f"column_{LISTED - 1} and 2 more")
    assert choices("?", []) == "there is nothing to choose from"

"""Hints: the nearest right name, in its own letters."""

from __future__ import annotations

import pytest

from gpumlp.errors import LISTED, GpumlpError, choices, cut, listed, nearest


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


@pytest.mark.parametrize(
    ("count", "most", "separator", "text"),
    [
        (0, 2, ", ", ""),
        (2, 2, ", ", "0, 1"),
        (3, 2, ", ", "0, 1 and 1 more"),
        (LISTED, LISTED, ", ", ", ".join(map(str, range(LISTED)))),
        (5000, 1, "; ", "0 and 4,999 more"),
        (4, 2, "\n", "0\n1\nand 2 more"),
    ],
)
def test_long_lists_are_cut_off_with_the_count_of_what_is_left_out(
    count: int, most: int, separator: str, text: str
) -> None:
    assert listed(range(count), most, separator) == text


def test_a_list_of_lines_ends_with_the_count_of_what_is_left_out() -> None:
    assert cut(["a, b\n", "c"], 2) == ["a, b\n", "c"]
    assert cut(["a, b\n", "c", "d", "e"], 2) == ["a, b\n", "c", "and 2 more"]


def test_control_characters_are_escaped_in_messages() -> None:
    error = GpumlpError("no \x1b[31mcolumn\x07", where="a\u202eb.csv\r", hint="one\n  two\tthree \x9b2J")
    assert str(error) == "a\\u202eb.csv\\r: no \\x1b[31mcolumn\\x07\n  one\n  two\tthree \\x9b2J"


@pytest.mark.parametrize(
    ("name", "allowed", "ours"),
    [
        ("swish", ["relu", "silu"], "silu"),
        ("MSE", ["squared_error", "huber"], "squared_error"),
        ("adamW", ["adam", "adamw"], "adamw"),
        ("xavier_normal", ["glorot_normal"], "glorot_normal"),
        ("mse", ["cross_entropy"], None),
    ],
)
def test_names_of_other_libraries_are_known(name: str, allowed: list[str], ours: str | None) -> None:
    assert nearest(name, allowed) == ours


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CosineAnnealingLR", "cosine"),
        ("StepLR", "step"),
        ("CrossEntropyLoss", "cross_entropy"),
        ("binary", "classification"),
        ("Leaky-ReLU", "leaky_relu"),
        ("he", "he_normal"),
        ("lr", "learning_rate"),
        (None, None),
        ("_", None),
    ],
)
def test_names_of_other_libraries(name: object, meant: str | None) -> None:
    allowed = [
        "constant",
        "cosine",
        "step",
        "cross_entropy",
        "classification",
        "leaky_relu",
        "he_normal",
        "learning_rate",
    ]
    assert nearest(name, allowed) == meant

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.config.yaml_text import MAX_VALUES, Document, Position, parse, render
from gpumlp.errors import ConfigError


def failure(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.", -2.0),
        (".5", 0.5),
        ("+12", 12),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("inf", "inf"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    (found,) = parse(f"[{text}]" if text else "[~]", "f").value  # type: ignore[misc]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse(".nan", "f").value)  # type: ignore[arg-type]


def test_an_empty_text_is_none() -> None:
    assert parse("", "f") == Document(None, {})
    assert parse("# nothing\n", "f") == Document(None, {})


def test_positions_are_those_of_keys_and_items() -> None:
    document = parse("a: 1\nb:\n  c: [x,\n      {d: 2}]\n", "f")
    assert document.value == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    assert document.positions == {
        ("a",): Position(1, 1),
        ("b",): Position(2, 1),
        ("b", "c"): Position(3, 3),
        ("b", "c", 0): Position(3, 7),
        ("b", "c", 1): Position(4, 7),
        ("b", "c", 1, "d"): Position(4, 8),
    }


def test_keys_are_kept_as_they_are_written() -> None:
    assert parse("{0: a, 1.0: b, no: c, <<: d}", "f").value == {"0": "a", "1.0": "b", "no": "c", "<<": "d"}


def test_an_alias_is_a_copy_of_what_it_names() -> None:
    value = parse("a: &x {b: [1]}\nc: *x\n", "f").value
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert value["a"] is not value["c"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key 'a' is set twice, first in line 1"),
        ("a:\n  0: x\n  '0': y\n", "f.yaml:3:3: the key '0' is set twice, first in line 2"),
        ("a: !!python/object/apply:os.getcwd []", "f.yaml:1:4: the tag '!!python/object/apply:os.getcwd' is not"),
        ("a: !thing x", "f.yaml:1:4: the tag '!thing' is not allowed"),
        ("a: !!set {x}", "f.yaml:1:4: the tag '!!set' is not allowed"),
        ("a: !!timestamp 2024-01-01", "f.yaml:1:4: the tag '!!timestamp' is not allowed"),
        ("a: !!int x", "f.yaml:1:4: 'x' is not of the type !!int"),
        ("a: &x [*x]", "f.yaml:1:4: this list or mapping contains itself"),
        ("? [a]\n: 1", "f.yaml:1:3: a key must be plain text"),
        (f"a: {'9' * 5000}", "f.yaml:1:4: the number has 5000 digits"),
        ('a: "\\uD800"', "f.yaml:1:4: '\\ud800' holds a character that is not valid"),
        ('a: "x\\0"', "f.yaml:1:4: 'x\\x00' holds a character that is not valid"),
        ('a: "\\UFFFFFFFF"', "f.yaml: an escape or a directive holds a number that is out of range"),
        ("a: 1\nb: \x07", "f.yaml:2:4: the character '\\x07' cannot stand in a text file"),
        ("a: 1\n\tb: 2", "f.yaml:2:1: a tab cannot indent; use spaces"),
        ("a: @x", "f.yaml:1:4: text cannot begin with this character unless it is quoted"),
        ("a:\n  b: 1\n c: 2\n", "f.yaml:3:2: the indentation does not fit the lines above"),
        ("a:1\nb: 2", "f.yaml:2:2: this ':' has no place here: look for a ':' without a space after it"),
        ("a: 1\nb\nc: 2", "f.yaml:2:1: this line has no ': ' after its key"),
        ("a: [1, 2\nb: 3", "f.yaml:2:2: a list opened with '[' is not closed"),
        ("a: {b: 1\nc: 2", "f.yaml:2:2: a mapping opened with '{' is not closed"),
        ("a: 1\nb: 'x\nc: 2", "f.yaml:2:4: a quote is opened and never closed"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document begins here"),
        ("a: - b", "f.yaml:1:4: a list is written [a, b]"),
        ("a: ]", "f.yaml:1:4: a value is missing here"),
        ("a: *b", "f.yaml:1:4: found undefined alias 'b'"),
        ("%YAML 9.9\n---\na: 1", "f.yaml:1:1: found incompatible YAML document"),
    ],
)
def test_a_wrong_text_is_explained_with_its_place(text: str, message: str) -> None:
    assert failure(text).startswith(message)


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert failure(text) == "f.yaml: lists or mappings are nested too deeply"


def test_deep_nesting_by_aliases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumlp.config.yaml_text.MAX_VALUES", 10_000_000)
    levels = [f"k{i}: &k{i} [*k{i - 1}]" for i in range(1, 2000)]
    assert failure("\n".join(["k0: &k0 1", *levels])) == "f.yaml: lists or mappings are nested too deeply"


def test_an_alias_bomb_is_refused() -> None:
    levels = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert f"more than {MAX_VALUES} values" in failure("\n".join(["k0: &k0 1", *levels]))


def test_lists_of_scalars_are_written_inline_and_mappings_in_blocks() -> None:
    value = {"a": {"b": [1, 2.5, None]}, "c": [64, {"units": 3, "norm": "layer"}], "d": [], "e": "no"}
    assert render(value) == ("a:\n  b: [1, 2.5, null]\nc:\n- 64\n- units: 3\n  norm: layer\nd: []\ne: no\n")


def test_equal_lists_are_written_out_without_anchors() -> None:
    shared = [1]
    assert render({"a": shared, "b": shared}) == "a: [1]\nb: [1]\n"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    [
        "\x85",
        "1e-3",
        "no",
        "null",
        "~",
        "",
        "0x1F",
        "0o7",
        ".inf",
        "2024-01-01",
        "1_000",
        "<<",
        "=",
        "- a",
        "a: b",
        "#",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=15)


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    found = parse(render(value), "f").value  # type: ignore[arg-type]
    assert repr(found) == repr(value)  # tells 1 from 1.0 and from True


@given(st.text() | st.text("{}[]:,-?!&*|>'\"%@`# \n\tab01.e~\\x"))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, "f.yaml"), Document)

"""YAML text to plain values, with the place of every key; and plain values to YAML text.

Scalars are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), not PyYAML's
1.1: ``1e-3`` is a number, ``no`` and ``on`` are text, ``010`` is ten, ``2024-01-01`` and ``1_000`` are text.
Reading and writing share one table of scalars, so what is written is read back as the same value.
Only scalars, lists and mappings are built, never objects; a text that is damaged, hostile or merely
mistyped ends in a :class:`ConfigError` that names line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeAlias

import yaml

from gpumlp.errors import ConfigError

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys and list indices that lead to a value: ``("model", "hidden", 0)``."""

MAX_VALUES = 100_000
"""Values that one text may stand for: aliases of aliases can name billions in a few lines."""

_TAG = "tag:yaml.org,2002:"


class Position(NamedTuple):
    """A place in a text; both numbers count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """A parsed text: its value, and where each key or list item of it stands."""

    value: Value
    positions: dict[KeyPath, Position]


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    return int(text, {"0x": 16, "0o": 8}.get(digits[:2], 10))


def _number(text: str) -> float:
    # YAML spells the special values with a leading point: .inf, -.inf, .nan
    return float(re.sub(r"\.(?=[inIN])", "", text))


_SCALARS: dict[str, tuple[str, Callable[[str], Value]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _integer),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _number,
    ),
}
"""Plain scalars by tag: how one looks, and how it is read. Anything else is text."""

_RESOLVERS = {None: [(_TAG + tag, re.compile(rf"(?:{pattern})\Z")) for tag, (pattern, _) in _SCALARS.items()]}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out: anchors help no reader of a configuration."""
        return True


def _represent_list(dumper: yaml.SafeDumper, items: list[Value]) -> yaml.SequenceNode:
    inline = not any(isinstance(item, list | dict) for item in items)
    return dumper.represent_sequence(_TAG + "seq", items, flow_style=inline)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes have escapes; in any other style a line break of Unicode is read back as a space.
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)


def render(value: Value) -> str:
    """Return YAML text for a value: mappings in blocks, lists of scalars inline, keys in their order."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100)
    # A bare scalar is followed by an end-of-document mark that a fragment does not need.
    return text.removesuffix("...\n")


def parse(text: str, origin: str) -> Document:
    """Return the value of a YAML text and the position of its keys.

    Keys are kept as they are written (``0`` and ``"0"`` are one key), an empty text is None.

    Parameters
    ----------
    text
        One YAML document.
    origin
        What to call the text in an error, usually the file's name.

    Raises
    ------
    ConfigError
        For a syntax error, a key given twice, a tag or key that is no plain data, a list or mapping that contains
        itself, nesting beyond Python's recursion limit, more than ``MAX_VALUES`` values.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        builder = _Builder(origin)
        return Document(None if node is None else builder.value(node, ()), builder.positions)
    except yaml.reader.ReaderError as error:
        before = text[: error.position].splitlines() or [""]
        at = Position(len(before), len(before[-1]) + 1)
        _fail(origin, at, f"the character {chr(error.character)!r} cannot stand in a text file")
    except yaml.MarkedYAMLError as error:
        _fail(origin, *_in_plain_words(error))
    except RecursionError:
        raise ConfigError("lists or mappings are nested too deeply", where=origin) from None
    except (ValueError, OverflowError):  # PyYAML passes an escape such as "\UFFFFFFFF" to chr() unchecked
        raise ConfigError("an escape or a directive holds a number that is out of range", where=origin) from None


class _Builder:
    """Builds the value of a node tree, and notes positions on the way."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.positions: dict[KeyPath, Position] = {}
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Value:
        self._count += 1
        if self._count > MAX_VALUES:
            self._refuse(node, f"more than {MAX_VALUES} values; aliases repeat what they name")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        # The composer gives an alias the node of its anchor, so a node within itself is a loop.
        if id(node) in self._open:
            self._refuse(node, "this list or mapping contains itself")
        self._open.add(id(node))
        try:
            return self._list(node, path) if isinstance(node, yaml.SequenceNode) else self._dict(node, path)
        finally:
            self._open.remove(id(node))

    def _list(self, node: yaml.SequenceNode, path: KeyPath) -> Value:
        self._expect_tag(node, "seq")
        items: list[Value] = []
        for index, item in enumerate(node.value):
            self.positions[*path, index] = _position(item.start_mark)
            items.append(self.value(item, (*path, index)))
        return items

    def _dict(self, node: yaml.Node, path: KeyPath) -> Value:
        self._expect_tag(node, "map")
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be plain text, not a list or a mapping")
            key = self._text(key_node)
            here = (*path, key)
            if key in result:
                first = self.positions[here]
                self._refuse(
                    key_node,
                    f"the key {key!r} is set twice, first in line {first.line}",
                )
            self.positions[here] = _position(key_node.start_mark)
            result[key] = self.value(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Value:
        text = self._text(node)
        tag = node.tag.removeprefix(_TAG)
        if tag == "str":
            return text
        if tag not in _SCALARS:
            self._expect_tag(node, "str")
        pattern, construct = _SCALARS[tag]
        # A tag that is written out, such as !!int, may stand before any text.
        if not re.fullmatch(pattern, text):
            self._refuse(node, f"{text!r} is not of the type !!{tag}")
        try:
            return construct(text)
        except ValueError:  # Python reads no integer of more than 4300 digits
            self._refuse(node, f"the number has {len(text)} digits")

    def _text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        # Escapes can spell what no file name can hold and no terminal can print: "\0", or half a character.
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            self._refuse(node, f"{text!r} holds a character that is not valid in text")
        return text

    def _expect_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            tag = node.tag.replace(_TAG, "!!")
            self._refuse(node, f"the tag {tag!r} is not allowed: a configuration holds plain data only")

    def _refuse(self, node: yaml.Node, message: str) -> NoReturn:
        _fail(self.origin, _position(node.start_mark), message)


def _position(mark: yaml.Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _fail(origin: str, at: Position | None, message: str) -> NoReturn:
    position = f"{origin}:{at.line}:{at.column}" if at else origin
    raise ConfigError(message, where=position) from None


_PLAIN_WORDS = (
    ("could not find expected ':'", "this line has no ': ' after its key (the space belongs to it)"),
    (
        "mapping values are not allowed here",
        "this ':' has no place here: look for a ':' without a space after it in the line above, "
        "a wrong indentation, or text that holds ': ' and needs quotes",
    ),
    ("sequence entries are not allowed here", "a list is written [a, b], or with each '- ' on its own line"),
    (r"'\t' that cannot start any token", "a tab cannot indent; use spaces"),
    ("that cannot start any token", "text cannot begin with this character unless it is quoted"),
    ("expected the node content", "a value is missing here, or a bracket or comma is one too many"),
    ("expected <block end>", "the indentation does not fit the lines above, or text follows a closed value"),
    ("expected ',' or ']'", "a list opened with '[' is not closed, or lacks a ','"),
    ("expected ',' or '}'", "a mapping opened with '{' is not closed, or lacks a ','"),
    ("unexpected end of stream", "a quote is opened and never closed"),
    ("found another document", "a second document begins here; one file is one document, so remove '---'"),
)
"""What PyYAML says, and what it nearly always means. The first that fits is taken."""

_MEANT_BY_CONTEXT = ("could not find expected ':'", "unexpected end of stream")
"""Problems that PyYAML notices lines later: the start of the construct is the place to look at."""


def _in_plain_words(error: yaml.MarkedYAMLError) -> tuple[Position | None, str]:
    problem = error.problem or str(error)
    mark = error.problem_mark or error.context_mark
    if any(text in problem for text in _MEANT_BY_CONTEXT):
        mark = error.context_mark or mark
    plain = next((plain for text, plain in _PLAIN_WORDS if text in problem), problem)
    return (_position(mark) if mark else None), plain

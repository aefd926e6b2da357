"""The verbs are typed functions: what click hands over is what their signatures say, and mypy checks the rest."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gpumlp.cli import main
from gpumlp.cli.main import main as group

TYPES = {
    "integer": int,
    "integer range": int,
    "float range": float,
    "text": str,
    "boolean": bool,
    "path": Path,
    "choice": str,
}


def verbs(of: click.Command = group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(of, click.Group):
        for key, command in of.commands.items():
            yield from verbs(command, f"{name} {key}".strip())
    else:
        yield name, of


def given(command: click.Command) -> dict[str, Any]:
    """Return the types of what click hands over, by parameter: one that is left out may be None."""
    required = [parameter for parameter in command.params if parameter.required]
    words = [word for each in required for word in (*_option(each), _value(each))]
    parent = click.Context(group, **group.context_settings)  # click keeps the help option that it makes here
    values = command.make_context("verb", words, parent=parent).params
    types: dict[str, Any] = {}
    for parameter in command.params:
        assert parameter.name is not None
        plain = TYPES[parameter.type.name]
        many = isinstance(values[parameter.name], tuple)
        types[parameter.name] = (
            tuple[plain, ...] if many else plain | None if values[parameter.name] is None else plain
        )
    return types


def _option(parameter: click.Parameter) -> list[str]:
    return [name for name in parameter.opts[:1] if name.startswith("-")]


def _value(parameter: click.Parameter) -> str:
    return parameter.type.choices[0] if isinstance(parameter.type, click.Choice) else "x"


@pytest.mark.parametrize(("name", "command"), [*verbs()], ids=lambda value: value if isinstance(value, str) else "")
def test_a_verb_takes_what_its_options_give(name: str, command: click.Command) -> None:
    assert command.callback is not None
    declared = typing.get_type_hints(command.callback)
    assert declared.pop("return") is type(None)
    assert declared == given(command)


def test_there_are_all_of_them() -> None:
    assert main is group
    assert len([*verbs()]) >= 14

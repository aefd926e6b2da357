"""Validation errors in plain words: what was given, what is allowed, the nearest right name.

What is allowed is read off the JSON schema of the settings, so that it is said in one way for every setting,
and a new setting needs no words here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gpumlp.config.presets import preset_keys
from gpumlp.config.section import Problem
from gpumlp.config.settings import Settings
from gpumlp.config.yaml_text import KeyPath, Value
from gpumlp.errors import choices, nearest

Node = Mapping[str, Any]  # a part of a JSON schema

SETTING_ALIASES = {
    "lr": "optimizer.learning_rate",
    "eta": "optimizer.learning_rate",
    "learning_rate_init": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "l2": "optimizer.weight_decay",
    "max_norm": "optimizer.clip_norm",
    "clip": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "gradient_clip": "optimizer.clip_norm",
    "ema": "optimizer.averaging",
    "solver": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "criterion": "loss",
    "objective": "loss",
    "batch": "training.batch_size",
    "bs": "training.batch_size",
    "n_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "max_iter": "training.epochs",
    "steps": "training.epochs",
    "random_state": "training.seed",
    "random_seed": "training.seed",
    "hidden_layers": "model.hidden",
    "hidden_layer_sizes": "model.hidden",
    "hidden_size": "model.hidden",
    "layers": "model.hidden",
    "dropout_rate": "model.dropout",
    "batch_norm": "model.norm",
    "normalization": "model.norm",
    "init": "model.initializer",
    "activation_function": "model.activation",
    "hidden_dim": "model.hidden",
    "neurons": "model.hidden",
    "units": "model.hidden",
    "label": "data.target",
    "label_column": "data.target",
    "target_column": "data.target",
    "normalize": "data.scaling",
    "normalise": "data.scaling",
    "standardize": "data.scaling",
    "scaler": "data.scaling",
    "gradient_clipping": "optimizer.clip_norm",
    "val_size": "data.split.validation",
    "validation_size": "data.split.validation",
    "early_stop": "training.early_stopping",
    "test_size": "data.split.test",
    "validation_split": "data.split.validation",
    "val_split": "data.split.validation",
    "gpu": "device",
    "dtype": "precision",
}
"""Settings by their names in other libraries."""

_TYPES = {"string": "text", "array": "a list", "object": "a mapping", "null": "null"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@functools.lru_cache(maxsize=1)
def _schema(validator: object) -> _Schema:
    """Return the schema of the settings, kept while they have this validator: it takes longer than most checks."""
    return _Schema(Settings.model_json_schema())


def home_of(name: str) -> str | None:
    """Return the dotted path of the setting called ``name``, here or in another library; None where there is none."""
    schema = _schema(Settings.__pydantic_validator__)
    return next(schema.homes(name), SETTING_ALIASES.get(name))


def explain(error: ValidationError, settings: Value) -> list[Problem]:
    """Return the problems that a validation of ``settings`` found, one for each setting."""
    schema = _schema(Settings.__pydantic_validator__)
    problems: dict[KeyPath, Problem] = {}
    from_preset = preset_keys(settings) if isinstance(settings, dict) else set()
    for detail in error.errors(include_url=False):
        problem = _problem(schema, detail)
        path = _as_written(problem.path, settings)
        # Where a setting may be of several types, each of them complains; one answer names them all.
        message = problem.what
        if isinstance(settings, dict) and path in from_preset:
            message += f" (from preset {settings['preset']})"
        problems.setdefault(path, Problem(path, message, problem.hint))
    return list(problems.values())


@dataclass(frozen=True)
class _SchemaNode:
    """A setting in the schema: its path as the user writes it, its node, what it means."""

    path: KeyPath
    node: Node
    meaning: str
    choice: str | None = None  # the name that decided which settings are allowed here


class _Schema:
    """The JSON schema of the settings, as a tree to walk down."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def options(self, node: Node) -> Iterator[Node]:
        """Yield the alternatives of a node, each with a type or a list of names."""
        if "$ref" in node:
            name = node["$ref"].removeprefix("#/$defs/")
            yield from self.options(self._root["$defs"][name])
        elif "anyOf" in node:
            for option in node["anyOf"]:
                yield from self.options(option)
        else:
            yield node

    def settings(self, node: Node) -> dict[str, Node]:
        """Return the settings that a section allows, by name."""
        return {key: child for o in self.options(node) for key, child in o.get("properties", {}).items()}

    def locate(self, location: KeyPath) -> _SchemaNode:
        """Return the place that a validation error speaks of.

        Its location goes on below the setting where pydantic names the types it tried, and has a step that no
        user wrote where it picks the section of a name.
        """
        located = _SchemaNode((), self._root, "")
        for key in location:
            sections = located.node.get("discriminator", {}).get("mapping", {})
            if key in sections:
                located = _SchemaNode(located.path, {"$ref": sections[key]}, located.meaning, str(key))
                continue
            child = self._child(located.node, key)
            if child is None:
                break
            located = _SchemaNode((*located.path, key), child, child.get("description", located.meaning))
        return located

    def homes(self, name: str, node: Node | None = None, path: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the dotted paths of all settings of this name."""
        for key, child in self.settings(node or self._root).items():
            if key == name:
                yield ".".join((*path, key))
            yield from self.homes(name, child, (*path, key))

    def _child(self, node: Node, key: str | int) -> Node | None:
        if isinstance(key, int):
            return next((option["items"] for option in self.options(node) if "items" in option), None)
        sections = (option.get("additionalProperties") for option in self.options(node))
        of_any_name = next((each for each in sections if isinstance(each, dict) and "type" not in each), None)
        return self.settings(node).get(key, of_any_name)


def _problem(schema: _Schema, detail: ErrorDetails) -> Problem:
    location, value = detail["loc"], detail["input"]
    match detail["type"]:
        case "rule":
            return Problem(location, detail["ctx"]["what"], detail["ctx"]["hint"])
        case "missing":
            located = schema.locate(location)
            return Problem(located.path, "required, but missing", located.meaning)
        case "extra_forbidden":
            section, key = schema.locate(location[:-1]), str(location[-1])
            return Problem((*section.path, key), *_unknown(schema, section, key))
        case "union_tag_invalid":
            located = schema.locate((*location, "name"))
            names = next(option["enum"] for option in schema.options(schema.locate(location).node))
            return Problem(located.path, f"unknown name {_shown(value['name'])}", choices(value["name"], names))
        case _:
            located = schema.locate(location)
            options = list(schema.options(located.node))
            needs = " or ".join(dict.fromkeys(_needs(option) for option in options))
            return Problem(located.path, f"got {_shown(value)}, needs {needs}", _advice(value, options, located))


def _unknown(schema: _Schema, section: _SchemaNode, key: str) -> tuple[str, str]:
    """Say that a section has no such setting, and where one like it would be."""
    allowed = list(schema.settings(section.node))
    message = f"unknown setting for {section.choice}" if section.choice else "unknown setting"
    here = ".".join(map(str, (*section.path, key)))
    elsewhere = [home for home in dict.fromkeys(schema.homes(key)) if home != here]
    elsewhere.sort(key=lambda home: not home.startswith(".".join(map(str, section.path)) + "."))
    if not elsewhere and key.lower() in SETTING_ALIASES:
        elsewhere = [SETTING_ALIASES[key.lower()]]
    if elsewhere:
        return message, f"did you mean {elsewhere[0]!r}? allowed here: {', '.join(allowed)}"
    return message, choices(key, allowed)


def _names(option: Node) -> list[str]:
    """Return the names that one alternative of a setting allows; none where it is not a choice of names."""
    return [option["const"]] if "const" in option else option.get("enum", [])


def _needs(option: Node) -> str:
    """Say what one alternative of a setting allows."""
    if names := _names(option):
        return ("one of " if len(names) > 1 else "") + ", ".join(names)
    kind = option["type"]
    if kind == "object" and "type" in (option.get("additionalProperties") or {}):
        return f"a mapping, each to {_needs(option['additionalProperties'])}"
    if kind in _TYPES:
        return ("non-empty " if option.get("minLength") else "") + _TYPES[kind]
    bounds = [f"{word} {option[key]:.15g}" for key, word in _BOUNDS.items() if key in option]
    number = "a whole number" if kind == "integer" else "a number"
    return f"{number} ({', '.join(bounds)})" if bounds else number


def _advice(value: object, options: list[Node], located: _SchemaNode) -> str:
    """Say what helps with a value of the wrong kind: the nearest name, the right spelling, or the meaning."""
    # A name is text too, but no other text will do.
    types = {option["type"] for option in options if not _names(option)}
    if isinstance(value, str):
        if close := nearest(value, [name for option in options for name in _names(option)]):
            return f"did you mean {close!r}?"
        if types & {"integer", "number"} and value[:1].isdigit():
            return "write numbers without quotes, units and underscores: 1000, 0.5, 1e-3"
    elif "string" in types and not types & {"integer", "number"} and isinstance(value, int | float):
        return "quote text that looks like a number, true or false"
    if "array" in types and not isinstance(value, list | dict):
        return f"{located.meaning}; a list is written [a, b]"
    return located.meaning


def _shown(value: object) -> str:
    """Return a value as the user would write it, in short."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return f".{value}".replace(".-", "-.")
        case dict() | list() | tuple():
            return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _as_written(path: KeyPath, value: Value) -> KeyPath:
    """Cut a path where the user wrote a bare name or number in place of a section."""
    for depth, key in enumerate(path):
        if isinstance(value, dict):
            value = value.get(str(key), {})
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key]
        else:
            return path[:depth]
    return path

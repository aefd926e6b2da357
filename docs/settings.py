"""Write docs/settings.md, the reference of all settings, from the JSON schema of configurations.

python docs/settings.py            write docs/settings.md
python docs/settings.py --check    exit with 1 if it is not current
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from gpumlp.config import json_schema  # noqa: E402
from gpumlp.config.yaml_text import render  # noqa: E402
from gpumlp.nn import LOSSES  # noqa: E402
from gpumlp.ops import ACTIVATIONS  # noqa: E402
from gpumlp.ops.precision import PRECISIONS  # noqa: E402
from gpumlp.optim import OPTIMIZERS, SCHEDULES  # noqa: E402

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Settings

Every setting of a configuration file, with its type, range, default and an example. This page is generated from the
schema (`python docs/settings.py`). `gpumlp schema` prints the same as JSON Schema, which editors use for completion;
`gpumlp validate FILE --print-config` prints a file with all defaults filled in; `--set KEY=VALUE` overrides one
setting, for example `--set optimizer.learning_rate=3e-4`.
"""

EXAMPLES: Mapping[str, Any] = {
    "task": "regression",
    "preset": "tabular",
    "data.folder": "../measurements",
    "data.query": "select * from 'part-*.parquet' where year > 2020 order by id",
    "data.train": "part-*.csv",
    "data.target": "species",
    "data.split.validation": 0.2,
    "data.split.test": "test.csv",
    "data.split.test.fold": 1,
    "data.split.test.of": 5,
    "data.split.group": "patient",
    "data.split.time": "date",
    "data.split": {"validation": 0.2, "test": 0.1},
    "data.scaling": "robust",
    "data.separator": ";",
    "data.quote": "double",
    "data.header": False,
    "data.encoding": "latin-1",
    "data.decimal": ",",
    "data.missing": ["?", "-99"],
    "data.columns": {"zip": "category", "price": {"type": "number", "thousands": ",", "unit": "$"}},
    "data.columns.NAME.type": "number",
    "data.columns.NAME.thousands": ",",
    "data.columns.NAME.unit": "$",
    "data.missing_target": "drop",
    "data.drop": ["id", 7],
    "data.weights": "weight",
    "model.hidden": [64, {"units": 32, "activation": "tanh", "dropout": 0.1}],
    "model.activation": "silu",
    "model.dropout": 0.1,
    "model.dropout_schedule": "flat_cos",
    "model.norm": "layer",
    "model.initializer": "he_normal",
    "model.numbers": "ple",
    "model.categories": {"table_above": 8},
    "model.categories.table_above": 8,
    "model.numbers.embedding": "ple",
    "model.hidden.0.units": 64,
    "model.hidden.0.activation": "tanh",
    "model.hidden.0.dropout": 0.1,
    "model.hidden.0.norm": "batch",
    "loss.class_weight": "balanced",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_schedule": "flat_cos",
    "optimizer.clip_norm": 1.0,
    "optimizer.averaging": 0.999,
    "schedule.warmup": 0.05,
    "training.epochs": 100,
    "training.epochs.steps": 5000,
    "training.epochs.least": 64,
    "training.epochs.most": 256,
    "training.batch_size": 256,
    "training.drop_last": True,
    "training.seed": 1,
    "training.early_stopping": {"patience": 20},
    "training.early_stopping.patience": 20,
    "training.early_stopping.min_delta": 1e-4,
    "training.checkpoint_every": 1000,
    "members": 8,
    "members.count": 8,
    "members.best": "joint",
    "members.learning_rate": [1e-3],
    "members.weight_decay": [1e-2],
    "members.dropout": [0.1],
    "backend": "native",
    "device": 1,
    "precision": "bf16",
    "version": 1,
}
"""Examples of the settings whose default is not one. A test validates all examples of the page."""

TYPES = {"string": "text", "array": "list", "object": "mapping"}
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
TABLE = ["| setting | type and range | default | example | |", "|---|---|---|---|---|"]
MEANINGS: Mapping[str, Mapping[str, str]] = {
    "loss": {name: spec.many.meaning for name, spec in LOSSES.items()},
    "optimizer": {name: spec.meaning for name, spec in OPTIMIZERS.items()},
    "schedule": {name: spec.meaning for name, spec in SCHEDULES.items()},
}
"""What each name of ``loss.name``, ``optimizer.name`` and ``schedule.name`` computes."""

Node = dict[str, Any]


class Page:
    """The page, section by section."""

    def __init__(self) -> None:
        self._schema = json_schema()
        self.examples: dict[str, object] = {}

    def text(self) -> str:
        """Return the page."""
        values, parts = list(TABLE), []
        for key, node in self._schema["properties"].items():
            if choices := self._choices(node):
                parts.append(self._choice(key, choices))
            elif sections := self._sections(node):
                parts.append(self._section(key, sections[0]))
                if any("properties" not in option for option in self._options(node)):  # a number stands for a section
                    values.append(self._row(key, node))
            else:
                values.append(self._row(key, node))
        parts.append(_list_of("activations", {name: op.meaning for name, op in ACTIVATIONS.items()}))
        parts.append(_list_of("precisions", {name: record.meaning for name, record in PRECISIONS.items()}))
        return "\n".join([HEAD, *values, *parts])

    def _options(self, node: Node) -> Iterator[Node]:
        """Yield the alternatives of a node, references resolved."""
        if "$ref" in node:
            yield from self._options(self._schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        elif "anyOf" in node:
            for option in node["anyOf"]:
                yield from self._options(option)
        elif node:
            yield node

    def _sections(self, node: Node) -> list[Node]:
        return [option for option in self._options(node) if "properties" in option]

    def _choices(self, node: Node) -> dict[str, Node]:
        """Return the sections that ``name`` chooses from, in the order of their table."""
        mapping = node.get("discriminator", {}).get("mapping", {})
        names = [name for option in node.get("anyOf", ()) for name in option.get("enum", ())]
        return {name: self._sections({"$ref": mapping[name]})[0] for name in names if name in mapping}

    def _section(self, path: str, section: Node) -> str:
        rows, below = list(TABLE), []
        for key, node in section["properties"].items():
            rows.append(self._row(f"{path}.{key}", node))
            below += [self._section(f"{path}.{key}", inner) for inner in self._sections(node)]
            for option in self._options(node):
                for within, step in (("items", "0"), ("additionalProperties", "NAME")):
                    inner = option.get(within) or {}
                    below += [self._section(f"{path}.{key}.{step}", each) for each in self._sections(inner)]
        return "\n".join([f"\n## `{path}`\n\n{section['description']}\n", *rows, *below])

    def _choice(self, path: str, choices: dict[str, Node]) -> str:
        """Return a section that is one of several: what all share, their names, and what each adds."""
        sections = {name: dict(section["properties"]) for name, section in choices.items()}
        for properties in sections.values():
            del properties["name"]
        first, *others = sections.values()
        shared = [key for key in first if all(_same(first[key], other.get(key)) for other in others)]
        lines = [
            f"\n## `{path}`\n",
            f"{next(iter(choices.values()))['description']} A name alone, as in `{path}: {next(iter(choices))}`, is "
            f"short for `{path}.name`.\n",
        ]
        if shared:
            lines += [
                *TABLE,
                *(self._row(f"{path}.{key}", first[key], _defaults(key, sections)) for key in shared),
                "",
            ]
        lines += [f"| `{path}.name` | formula |", "|---|---|"]
        lines += [f"| `{name}` | {_plain(MEANINGS[path][name])} |" for name in sections]
        tables: dict[tuple[str, ...], list[str]] = {}
        for name, properties in sections.items():
            rows = tuple(self._row(f"{path}.{key}", properties[key]) for key in properties if key not in shared)
            tables.setdefault(rows, []).append(f"`{name}`")
        for rows, names in tables.items():
            if rows:
                lines += [f"\nWith {' or '.join(names)}:\n", *TABLE, *rows]
        return "\n".join(lines)

    def _row(self, path: str, node: Node, default: str | None = None) -> str:
        """Return the row of one setting."""
        if default is None:
            default = _code(node["default"]) if "default" in node else "required"
        self.examples[path] = EXAMPLES[path] if path in EXAMPLES else node["default"]
        shown = _code(self.examples[path])
        return f"| `{path}` | {self._kind(node)} | {default} | {shown} | {_plain(node['description'])} |"

    def _kind(self, node: Node) -> str:
        """Return the type and the range of a setting."""
        kinds = []
        for option in self._options(node):
            if names := [option["const"]] if "const" in option else option.get("enum"):
                kinds.append(", ".join(f"`{name}`" for name in names))
            elif option["type"] == "null":
                kinds.append("`null`")
            else:
                bounds = [text.format(f"{option[key]:.15g}") for key, text in BOUNDS.items() if key in option]
                kinds.append(TYPES.get(option["type"], option["type"]) + (f" {', '.join(bounds)}" if bounds else ""))
        return " or ".join(dict.fromkeys(kinds))


def _same(one: Node, other: Node | None) -> bool:
    """Return whether two settings differ in their default at most."""
    return other is not None and {**one, "default": None} == {**other, "default": None}


def _defaults(key: str, sections: Mapping[str, Node]) -> str:
    """Return the default of a setting that several sections share, by section if they differ."""
    values = {name: _code(properties[key]["default"]) for name, properties in sections.items()}
    distinct = list(dict.fromkeys(values.values()))
    if len(distinct) == 1:
        return distinct[0]
    return "; ".join(f"{value} ({', '.join(n for n in values if values[n] == value)})" for value in distinct)


def _list_of(title: str, meanings: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {_plain(meaning)} |" for name, meaning in meanings.items()]
    return "\n".join([f"\n## {title}\n", "| | |", "|---|---|", *rows])


def _plain(text: str) -> str:
    """Return text for the cell of a table."""
    return text.replace("|", "\\|")


def _code(value: object) -> str:
    """Return a value as it is written in a configuration."""
    text = (
        render({"x": value}) if not isinstance(value, list | dict) else f"x: {json.dumps(value, ensure_ascii=False)}"
    )
    return f"`{_plain(text.removeprefix('x: ').strip())}`"


if __name__ == "__main__":
    page = Page().text() + "\n"
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
            sys.exit("docs/settings.md is not current: run python docs/settings.py")
    else:
        PAGE.write_text(page, encoding="utf-8")

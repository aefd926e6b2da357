"""Whether two runs are the same one: the settings that decide how a run ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gpumlp.config import WITHOUT_PRESET, Settings
from gpumlp.errors import cut

EXTENDABLE = ("training.epochs", "training.early_stopping")
"""Settings that may change where a run is given more epochs; those of a section count as the section."""

MAX_VALUE_CHARACTERS = 100
"""Characters of a value that a message shows."""


def decisive(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide how a run ends, as JSON.

    These are all but device, search, and where data files and packed rows lie. The data themselves have a
    fingerprint.
    """
    values = settings.model_dump(mode="json")
    data = values["data"]
    del values["device"], values["search"], data["folder"], data["max_memory"]
    del data["pack"]["folder"], data["pack"]["max_size"]
    return values


def differences(before: Mapping[str, Any], now: Settings) -> list[str]:
    """Return the settings that are not as they were, each with both values, and how many more than ``LISTED``.

    Parameters
    ----------
    before
        What :func:`decisive` returned. Settings that it lacks are of a later version, and had their defaults.
    now
        The settings of this run.
    """
    one, other, names = _different(before, now)
    return cut(f"{name} was {shown(one, name)}, is now {shown(other, name)}" for name in names)


def is_extension(before: Mapping[str, Any], now: Settings) -> bool:
    """Return whether settings differ, but only in how long a run is trained. ``before`` is as for ``differences``."""
    names = _different(before, now)[2]
    return bool(names) and all(name in EXTENDABLE or name.rpartition(".")[0] in EXTENDABLE for name in names)


def _different(before: Mapping[str, Any], now: Settings) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the settings then and now, by dotted names, and the names of those that differ."""
    try:
        then = decisive(Settings.model_validate(dict(before), context=WITHOUT_PRESET))
    except ValidationError:
        then = dict(before)
    one, other = flatten(then), flatten(decisive(now))
    return one, other, [name for name in {**one, **other} if one.get(name, "") != other.get(name, "")]


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings by their dotted names, as JSON texts."""
    if not isinstance(values, dict) or not values:
        return {prefix.rstrip("."): json.dumps(values, ensure_ascii=False)}
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def shown(values: Mapping[str, str], name: str) -> str:
    """Return the value of a setting, from :func:`flatten`, for a message."""
    text = values.get(name, "not set")
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."

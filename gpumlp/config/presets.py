"""Presets: settings that stand below those of a file. Whatever the file sets replaces them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumlp.config.section import section_of_count, section_of_name
from gpumlp.config.training_settings import MEMBERS_ON_CPU, MEMBERS_ON_GPU
from gpumlp.nn import LOSSES
from gpumlp.nn.mlp import ALONE

FileSettings = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A recipe: what it is, and its settings, given those of the file."""

    meaning: str
    settings: Callable[[FileSettings], dict[str, Any]]
    combines: tuple[str, ...] = ()
    """Recipes that are each trained on all folds and weighted; the settings are those of the first."""


def _metric(settings: FileSettings) -> str:
    """Return the metric that recipes for tables choose the epoch by.

    It is log-loss after temperature. On rows kept out of adult, churn, covtype.20k and connect4 it chose more
    accurate epochs than accuracy did, with smoothed labels, as published, and without.
    """
    return "rmse" if settings.get("task") == "regression" else "log_loss"


def _apart(settings: FileSettings) -> bool:
    """Return whether a file asks for several networks that share nothing."""
    members = _section(section_of_count(settings.get("members")))
    return bool(members.get("count", 1) != 1 and members.get("share", ALONE) == ALONE)


def _snapshots(settings: FileSettings) -> int:
    """Return how many epochs of one network predict together; those of networks that share nothing do not."""
    return 1 if _apart(settings) else 8


def _predicts_numbers(settings: FileSettings) -> bool:
    """Return whether a file asks for numbers, and not through their logarithms, which have no range to stay in."""
    name = _section(section_of_name(settings.get("loss"))).get("name")
    loss = LOSSES.get(name) if isinstance(name, str) else None
    return settings.get("task") == "regression" and (loss is None or not loss.one.of_counts)


def _tabular(settings: FileSettings) -> dict[str, Any]:
    """RealMLP's tuned defaults (Holzmüller et al. 2024, arXiv:2407.04491)."""
    regression = settings.get("task") == "regression"
    return {
        "data": {"scaling": "robust"},
        "model": {
            "hidden": [256, 256, 256],
            "activation": "mish" if regression else "selu",
            "dropout": 0.15,
            "dropout_schedule": "flat_cos",
            "initializer": "data",
            "parametrization": "ntk",
            "input_factors": True,
            "trained_activation": True,
            "clamp": _predicts_numbers(settings),
            "numbers": {"embedding": "both"},
            "categories": {"table_above": 8, "size": 8, "scaled": True},
        },
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.2 if regression else 0.04,
            "beta2": 0.95,
            "weight_decay": 0.02,
            "decay_schedule": "flat_cos",
            "averaging": 0.95,
        },
        "schedule": {"name": "coslog", "cycles": 4.0},
        "training": {
            "epochs": {"steps": 5000, "least": 64, "most": 256},  # published: 256 on tables of any size
            "batch_size": 256,
            "drop_last": True,
            "early_stopping": None,
            "metric": _metric(settings),
            "snapshots": _snapshots(settings),
        },
    }


def _strong(settings: FileSettings) -> dict[str, Any]:
    """TabM-mini with piecewise linear embeddings (Gorishniy et al. 2025, arXiv:2410.24210), on a CPU half as many.

    Published are 48 bins, and one epoch. On rows kept out of california and churn the mean of several epochs took 2.2
    and 0.2 % off the loss, and 128 bins with it 5.8 and 0.6 %.
    """
    return {
        "data": {"scaling": "quantile"},
        "model": {
            "hidden": [512, 512],
            "activation": "relu",
            "dropout": 0.1,
            "numbers": {"embedding": "ple", "bins": 128},
        },
        "members": {"count": "auto", "share": "hidden"},
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.002,
            "weight_decay": 0.0003,
            "clip_norm": 1.0,
            "averaging": None,
        },
        "schedule": {"name": "constant"},
        "training": {
            "batch_size": 256,
            "early_stopping": {"patience": 16},
            "metric": _metric(settings),
            "snapshots": _snapshots(settings),
        },
    }


def _images(settings: FileSettings) -> dict[str, Any]:
    """Batch norm, images moved by a pixel, and dropout, for rows of pixels.

    Chosen on validation rows of MNIST and Fashion-MNIST. In 5,000 steps the moved images take these from 0.9857 and
    0.9090 to 0.9908 and 0.9122, with dropout 0.2; with 0.4, best without them, to 0.9883 and 0.9048. Wider layers,
    mixup and the mean of several networks were worse in the same time.
    """
    shift = _section(settings.get("training")).get("shift", "auto")
    recipe: dict[str, Any] = {
        "model": {"hidden": [512, 512], "activation": "relu", "norm": "batch", "dropout": 0.2 if shift else 0.4},
        "optimizer": {"name": "adamw", "learning_rate": 0.002},
        "schedule": {"name": "cosine", "warmup": 0.05},
        "training": {
            "epochs": {"steps": 9_400, "least": 4, "most": 200},
            "batch_size": 256,
            "shift": shift,
            "early_stopping": None,
        },
    }
    if settings.get("task") == "classification":
        recipe["loss"] = {"name": "cross_entropy", "label_smoothing": 0.1}
        recipe["training"]["metric"] = "accuracy"
    return recipe


_NONE = object()
PLAIN = "plain"
PRESETS = {
    "best": Preset(
        "tabular and strong, each trained on 5 folds, weighted on the rows outside; the slowest",
        lambda settings: {**_tabular(settings), "bag": 5},
        ("tabular", "strong"),
    ),
    "images": Preset(
        "small images as rows of pixels, such as MNIST; three times as fast with precision: bf16", _images
    ),
    PLAIN: Preset("the defaults", lambda settings: {}),
    "strong": Preset(
        f"TabM-mini's recipe: {MEMBERS_ON_GPU} networks on a GPU, {MEMBERS_ON_CPU} on a CPU, that share their hidden "
        "layers; slower",
        _strong,
    ),
    "tabular": Preset("RealMLP's recipe for tables of numbers and categories", _tabular),
}
"""Presets by the name that a configuration uses."""


def over_preset(settings: object) -> object:
    """Return the settings of a file over those of the preset that it names; what is malformed is left as it is."""
    if not isinstance(settings, Mapping):
        return settings
    name = settings.get("preset", PLAIN)
    if not isinstance(name, str) or name not in PRESETS:
        return settings
    return _merged(PRESETS[name].settings(settings), settings)


def preset_keys(settings: FileSettings) -> set[tuple[str, ...]]:
    """Return the paths of the settings that a preset adds to those of a file."""
    merged = over_preset(settings)
    return set(_leaves(merged)) - set(_leaves(settings)) if isinstance(merged, Mapping) else set()


def settings_over_preset(settings: FileSettings) -> list[tuple[str, ...]]:
    """Return the paths of the settings of a file that replace other values of its preset."""
    recipe, merged = PRESETS[settings.get("preset", PLAIN)].settings(settings), over_preset(settings)
    return [
        path for path in _leaves(settings) if (value := _at(recipe, path)) is not _NONE and value != _at(merged, path)
    ]


def _at(settings: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path, ``_NONE`` where nothing does."""
    for key in path:
        settings = settings.get(key, _NONE) if isinstance(settings, Mapping) else _NONE
    return settings


def _merged(below: FileSettings, above: FileSettings) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under, over = below.get(key), section_of_name(value)
        if isinstance(under, Mapping) and "count" in under:
            over = section_of_count(value)
        if not isinstance(under, Mapping) or not isinstance(over, Mapping):
            merged[key] = value
            continue
        over = {k: v for k, v in over.items() if (k, v) != ("name", "auto")}
        # The numbers of one optimizer, loss or schedule mean nothing to another.
        merged[key] = value if over.get("name", under.get("name")) != under.get("name") else _merged(under, over)
    return merged


def _section(value: Any) -> FileSettings:
    return value if isinstance(value, Mapping) else {}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, Mapping):
        return [leaf for key, child in value.items() for leaf in _leaves(child, (*path, str(key)))]
    return [path]

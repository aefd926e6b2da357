"""The words of each kind of problem; places and order are tested with ``load``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gpumlp.config.problems import SETTING_ALIASES, explain, home_of
from gpumlp.config.section import Problem
from gpumlp.config.settings import Settings
from gpumlp.errors import ALIASES

REQUIRED: dict[str, Any] = {"task": "classification", "data": {"train": "a.csv", "target": "y"}}


def problems(**sections: Any) -> list[Problem]:
    given = {**REQUIRED, **sections}
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given)
    return explain(caught.value, given)


def problem(**sections: Any) -> Problem:
    (only,) = problems(**sections)
    return only


@pytest.mark.parametrize(
    ("section", "setting", "what", "hint"),
    [
        (
            {"training": {"epochs": 0}},
            "training.epochs",
            "got 0, needs a whole number (at least 1) or a mapping or null",
            "passes over",
        ),
        ({"training": {"epochs": 2.5}}, "training.epochs", "got 2.5, needs a whole number (at least 1)", "passes"),
        (
            {"training": {"epochs": "1_000"}},
            "training.epochs",
            "got '1_000', needs a whole number (at least 1)",
            "write numbers without quotes, units and underscores",
        ),
        ({"training": {"batch_size": True}}, "training.batch_size", "got true, needs a whole number", "rows per"),
        ({"training": None}, "training", "got nothing (null), needs a mapping", "epochs, batches, seed"),
        ({"model": {"dropout": 1}}, "model.dropout", "got 1, needs a number (at least 0, below 1)", "dropout rate"),
        ({"model": {"dropout": float("inf")}}, "model.dropout", "got .inf, needs a number (at least", "dropout rate"),
        ({"model": {"dropout": float("-inf")}}, "model.dropout", "got -.inf, needs a number", "dropout rate"),
        ({"model": {"hidden": 64}}, "model.hidden", "got 64, needs a list", "hidden layers, first to last"),
        (
            {"model": {"hidden": [8, -3]}},
            "model.hidden.1",
            "got -3, needs a whole number (at least 1, at most 2147483647)",
            "number of units",
        ),
        (
            {"model": {"hidden": [{"units": 8, "norm": "layr"}]}},
            "model.hidden.0.norm",
            "got 'layr', needs one of none, layer, batch or null",
            "did you mean 'layer'?",
        ),
        ({"model": {"hidden": [{}]}}, "model.hidden.0.units", "required, but missing", "number of units"),
        ({"model": {"activation": "than"}}, "model.activation", "got 'than', needs one of", "did you mean 'tanh'?"),
        ({"backend": "qq"}, "backend", "got 'qq', needs one of auto, cupy, native, numpy", "compute backend"),
        ({"optimizer": "adm"}, "optimizer", "unknown name 'adm'", "did you mean 'adam'? allowed: sgd, "),
        ({"optimizer": {"name": "adm"}}, "optimizer.name", "unknown name 'adm'", "did you mean 'adam'?"),
        ({"optimizer": {"name": None}}, "optimizer.name", "unknown name nothing (null)", "allowed: sgd, "),
        ({"optimizer": {"name": ["x"]}}, "optimizer.name", "unknown name a list", "allowed: sgd, "),
        ({"optimizer": 5}, "optimizer", "got 5, needs one of sgd, ", "optimizer"),
        (
            {"optimizer": {"name": "sgd", "beta1": 0.9}},
            "optimizer.beta1",
            "unknown setting for sgd",
            "allowed: name, learning_rate, weight_decay, decay_schedule, clip_norm, averaging",
        ),
        (
            {"optimizer": {"name": "adam", "beta_1": 0.9}},
            "optimizer.beta_1",
            "unknown setting for adam",
            "did you mean 'beta1'?",
        ),
        # The name of an optimizer that is also the name of a setting of it.
        ({"optimizer": {"name": "momentum", "momentum": 1}}, "optimizer.momentum", "got 1, needs a number", "share"),
        ({"loss": {"name": "hubr"}}, "loss.name", "unknown name 'hubr'", "did you mean 'huber'? allowed: auto, "),
        ({"loss": "huber"}, "loss", "huber is not a loss for classification", "allowed: auto, cross_entropy"),
        (
            {"loss": {"class_weight": {"a": -1}}},
            "loss.class_weight",
            "got a mapping, needs balanced or a mapping, each to a number (above 0, at most 1e+27) or null",
            "class weights",
        ),
        ({"loss": {"class_weight": "balance"}}, "loss.class_weight", "got 'balance', ", "did you mean 'balanced'?"),
        ({"modle": {}}, "modle", "unknown setting", "did you mean 'model'? allowed: task, preset, data, model"),
        ({"Model": {}}, "Model", "unknown setting", "did you mean 'model'?"),
        ({"zzz": {}}, "zzz", "unknown setting", "allowed: task, preset, data, model, loss"),
        (
            {"training": {"learning_rate": 0.1}},
            "training.learning_rate",
            "unknown setting",
            "did you mean 'optimizer.learning_rate'? allowed here: epochs, batch_size",
        ),
        ({"optimizer": {"lr": 0.1}}, "optimizer.lr", "unknown setting", "did you mean 'optimizer.learning_rate'?"),
        (
            {"training": {"patience": 3}},
            "training.patience",
            "unknown setting",
            "did you mean 'training.early_stopping.patience'?",
        ),
        (
            {"data": {"train": "a.csv", "target": "y", "normalize": True}},
            "data.normalize",
            "unknown",
            "did you mean 'data.scaling'?",
        ),
        ({"training": {"max_iter": 3}}, "training.max_iter", "unknown setting", "did you mean 'training.epochs'?"),
        ({"loss": "mse"}, "loss", "unknown name 'mse'", "did you mean 'squared_error'?"),
        ({"optimizer": "adamW"}, "optimizer", "unknown name 'adamW'", "did you mean 'adamw'?"),
        ({"model": {"activation": "swish"}}, "model.activation", "got 'swish'", "did you mean 'silu'?"),
        ({"patience": 3}, "patience", "unknown setting", "did you mean 'schedule.patience'?"),
        ({"precision": "bf61"}, "precision", "got 'bf61'", "did you mean 'bf16'?"),
    ],
)
def test_words(section: dict[str, Any], setting: str, what: str, hint: str) -> None:
    found = problem(**section)
    assert ".".join(map(str, found.path)) == setting
    assert found.what.startswith(what)
    assert found.hint.startswith(hint)


@pytest.mark.parametrize(
    ("key", "value", "what", "hint"),
    [
        ("train", 5, "got 5, needs non-empty text", "quote text that looks like a number"),
        ("train", "", "got '', needs non-empty text", "training file"),
        ("target", ["a", "b"], "classification has one target", "name one column"),
        ("target_transform", "log", "classes have no transform", "set it to none"),
        ("missing", [-999], "got -999, needs text", "quote text that looks like a number"),
        ("split", {"test": 1.5}, "got 1.5, needs a number (at least 0, below 1) or non-empty text", "share or files"),
        ("split", {"test": 0.9}, "validation and test take 1.05 of all rows", "the shares must add up"),
    ],
)
def test_words_of_data(key: str, value: object, what: str, hint: str) -> None:
    found = problem(data={**REQUIRED["data"], key: value})
    assert found.path[:2] == ("data", key)
    assert found.what.startswith(what)
    assert found.hint.startswith(hint)


def test_all_problems_are_found_at_once() -> None:
    found = problems(
        task="x", data={"target": 1.0}, model={"dropout": 2}, optimizer="x", training={"seed": -1, "y": 1}
    )
    assert [".".join(map(str, each.path)) for each in found] == [
        "task",
        "data.train",
        "data.target",
        "model.dropout",
        "optimizer",
        "training.seed",
        "training.y",
    ]


def test_a_long_value_is_shortened() -> None:
    what = problem(backend="x" * 1000).what
    assert what.startswith(f"got '{'x' * 56}..., needs")


def test_no_word_of_the_validator_reaches_the_user() -> None:
    found = problems(
        task=1, data=[], model=1, loss=1, optimizer=[], schedule={"warmup": "x"}, training="x", backend=1
    )
    text = " ".join(each.what + each.hint for each in found)
    assert len(found) == 8
    for jargon in ("Input", "valid", "dictionary", "instance", "type=", "literal"):
        assert jargon not in text


def test_every_name_of_another_library_leads_to_a_setting_or_a_name() -> None:
    for path in SETTING_ALIASES.values():
        assert home_of(path.rpartition(".")[2]) is not None
    assert home_of("epochs") == home_of("n_epochs") == "training.epochs"
    assert home_of("zzz") is None
    schema = json.dumps(Settings.model_json_schema())
    assert all(f'"{name}"' in schema for name in ALIASES.values())

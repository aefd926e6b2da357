from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gpumlp.config.model_settings import Block
from gpumlp.config.settings import Settings
from gpumlp.config.training_settings import ClassificationLoss
from gpumlp.data import SCALINGS
from gpumlp.nn import INITIALIZERS, LOSSES
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import OPTIMIZERS, SCHEDULES

REQUIRED: dict[str, Any] = {"task": "classification", "data": {"train": "a.csv", "target": "y"}}


def make(**sections: object) -> Settings:
    return Settings.model_validate({**REQUIRED, **sections})


def places(**sections: object) -> list[tuple[str | int, ...]]:
    with pytest.raises(ValidationError) as caught:
        make(**sections)
    return [error["loc"] for error in caught.value.errors()]


def test_three_settings_are_required() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"data": {}})
    assert [e["loc"] for e in caught.value.errors()] == [("task",), ("data", "train"), ("data", "target")]


def test_all_else_has_a_default() -> None:
    settings = make()
    assert (settings.data.split.validation, settings.data.split.test) == (0.15, 0.15)
    assert settings.data.scaling is None
    assert [block.units for block in settings.model.hidden] == [64, 64]
    assert (settings.loss.name, settings.optimizer.name, settings.schedule.name) == (
        "cross_entropy",
        "adamw",
        "cosine",
    )
    assert (settings.backend, settings.precision) == ("auto", "float32")
    assert settings.training.early_stopping == "auto"
    assert settings.optimizer.averaging == 0.999


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_settings_and_defaults_of_its_row(name: str) -> None:
    optimizer, spec = make(optimizer=name).optimizer, OPTIMIZERS[name]
    assert (optimizer.learning_rate, optimizer.weight_decay) == (spec.learning_rate, spec.weight_decay)
    assert optimizer.hyper == {key: hyper.default for key, hyper in spec.hyper.items()}
    assert (optimizer.clip_norm, optimizer.averaging) == (None, None if spec.averages else 0.999)


def test_an_optimizer_that_averages_by_itself_has_its_schedule_and_no_other_average() -> None:
    assert make(optimizer="schedule_free").schedule.name == "constant"
    assert make(optimizer="schedule_free", schedule={"warmup": 0.1}).schedule.name == "constant"
    assert make(optimizer="schedule_free", schedule="cosine").schedule.name == "cosine"
    assert make(schedule={"warmup": 0.1}).schedule.name == "cosine"
    (place,) = places(optimizer={"name": "schedule_free", "averaging": 0.9})
    assert place == ("optimizer", "schedule_free", "averaging")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_the_settings_and_defaults_of_its_row(name: str) -> None:
    schedule = make(schedule={"name": name, "warmup": 0.1}).schedule
    assert schedule.warmup == 0.1
    assert schedule.hyper == {key: hyper.default for key, hyper in SCHEDULES[name].hyper.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_settings_and_defaults_of_its_row(name: str) -> None:
    spec = LOSSES[name]
    data = {"train": "a.csv", "target": ["a", "b"] if spec.task == "multilabel" else "a"}
    loss = make(task=spec.task, loss=name, data=data).loss
    assert loss.hyper == {key: hyper.default for key, hyper in spec.hyper.items()}
    assert isinstance(loss, ClassificationLoss) == (spec.task == "classification")


def test_the_loss_follows_from_the_task() -> None:
    assert make(task="regression").loss.name == "squared_error"
    assert make(task="classification", loss={"label_smoothing": 0.1}).loss.hyper == {"label_smoothing": 0.1}


@pytest.mark.parametrize(("task", "loss"), [("regression", "cross_entropy"), ("classification", "huber")])
def test_a_loss_must_fit_the_task(task: str, loss: str) -> None:
    assert places(task=task, loss=loss) == [("loss", "name")]


@pytest.mark.parametrize("weight", [None, "balanced", {"a": 1.0, "b": 2}])
def test_class_weights(weight: object) -> None:
    loss = make(loss={"class_weight": weight}).loss
    assert isinstance(loss, ClassificationLoss)
    assert loss.class_weight == weight


@pytest.mark.parametrize("weight", ["equal", {"a": 0}, {"a": "1"}, {"a": 1e28}, 2.0])
def test_class_weights_are_above_zero_and_can_be_summed(weight: object) -> None:
    assert {place[:3] for place in places(loss={"class_weight": weight})} == {
        ("loss", "cross_entropy", "class_weight")
    }


@pytest.mark.parametrize("key", ["class_weight", "label_smoothing"])
def test_settings_of_classes_are_unknown_in_a_regression(key: str) -> None:
    assert places(task="regression", loss={"name": "huber", key: None}) == [("loss", "huber", key)]


def test_a_width_stands_for_a_block() -> None:
    assert make(model={"hidden": [32, {"units": 16, "norm": "layer"}]}).model.hidden == (
        Block(units=32, activation=None, dropout=None, norm=None),
        Block(units=16, activation=None, dropout=None, norm="layer"),
    )


def test_a_block_takes_from_the_model_what_it_does_not_set() -> None:
    hidden = [32, {"units": 16, "dropout": 0.0, "activation": "relu"}]
    model = make(model={"hidden": hidden, "activation": "tanh", "dropout": 0.3, "norm": "batch"}).model
    assert model.blocks == (
        Block(units=32, activation="tanh", dropout=0.3, norm="batch"),
        Block(units=16, activation="relu", dropout=0.0, norm="batch"),
    )


def test_a_network_without_hidden_layers_is_allowed() -> None:
    assert make(model={"hidden": []}).model.blocks == ()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_can_be_chosen(name: str) -> None:
    assert make(model={"activation": name, "hidden": [{"units": 1, "activation": name}]}).model.activation == name


@pytest.mark.parametrize("name", ["auto", *INITIALIZERS])
def test_every_initializer_can_be_chosen(name: str) -> None:
    assert make(model={"initializer": name}).model.initializer == name


@pytest.mark.parametrize("name", [None, *SCALINGS])
def test_every_scaling_can_be_chosen(name: str | None) -> None:
    assert make(data={**REQUIRED["data"], "scaling": name}).data.scaling == name


@pytest.mark.parametrize(
    ("section", "key", "allowed", "refused"),
    [
        ("model", "dropout", [0, 0.5], [-0.1, 1, "0.5", True]),
        ("model", "norm", ["none", "layer", "batch"], ["group", None]),
        ("model", "activation", ["tanh"], ["sine", None]),
        ("model", "hidden", [[1], []], [[0], [True], ["a"], 64, {"units": 3}, [{"units": 3, "width": 1}]]),
        ("training", "epochs", [1, None], [0, 1.0, "1", True]),
        ("training", "batch_size", [1], [0, 64.0]),
        ("training", "seed", [0, 2**32 - 1], [-1, 2**32]),
        ("training", "checkpoint_every", [None, 1, 10**9], [0, -1, 1.5, "2"]),
        ("training", "early_stopping", [None, {}, {"patience": 1, "min_delta": 0}], [0, {"patience": 0}]),
        ("optimizer", "learning_rate", [1e-9], [0, -1, "1e-3"]),
        ("optimizer", "weight_decay", [0], [-1e-9]),
        ("optimizer", "clip_norm", [None, 0.1], [0]),
        ("optimizer", "averaging", [None, 0.999], [0, 1]),
        ("schedule", "warmup", [0, 0.99], [1, -0.1]),
        ("loss", "label_smoothing", [0, 0.9], [1, -0.1]),
    ],
)
def test_ranges(section: str, key: str, allowed: list[object], refused: list[object]) -> None:
    for value in allowed:
        make(**{section: {key: value}})
    for value in refused:
        (place, *_) = places(**{section: {key: value}})
        assert place[0] == section
        assert key in place


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("folder", [None, "a"], ["", 1]),
        ("train", ["a.npz"], ["", None, 1]),
        ("target", ["y", -1, 0, ["y"]], ["", None, 1.0, True, [], [1.5]]),
        ("drop", [[], ["a", 0]], ["a", [1.5], [None]]),
        ("missing", [None, [], ["", "-"]], ["-", [-999]]),
        ("separator", [None, ",", "\t", " ", "~"], ["", ";;", "a", "1", '"', "\n", 1]),
        ("quote", [None, "double", "single", "none"], ['"', "", True]),
        ("header", [None, True, False], ["no", 0]),
        ("encoding", [None, "utf-8", "UTF-16", "latin-1", "shift_jis"], ["", "utf-88", "rot13", "idna", "é", 8]),
        ("decimal", [None, ".", ","], ["", ";", 0]),
        ("weights", [None, "w", 3], ["", True]),
    ],
)
def test_ranges_of_data(key: str, allowed: list[object], refused: list[object]) -> None:
    for value in allowed:
        make(data={**REQUIRED["data"], key: value})
    for value in refused:
        assert places(data={**REQUIRED["data"], key: value})[0][:2] == ("data", key)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_of_the_rows_is_a_share_or_a_file(part: str) -> None:
    for value in (0, 0.5, "file.csv"):
        make(data={**REQUIRED["data"], "split": {part: value}})
    for refused in (-0.1, 1, "", None, True):
        assert places(data={**REQUIRED["data"], "split": {part: refused}})[0][:3] == ("data", "split", part)


@pytest.mark.parametrize("split", [{"validation": 0.5, "test": 0.5}, {"validation": 0.9}])
def test_the_split_leaves_rows_to_train_on(split: object) -> None:
    assert places(data={**REQUIRED["data"], "split": split}) == [("data", "split", "test")]


def test_a_file_takes_no_share() -> None:
    make(data={**REQUIRED["data"], "split": {"validation": 0.9, "test": "test.csv"}})


def test_who_watches_the_validation_loss_needs_validation_rows() -> None:
    data = {**REQUIRED["data"], "split": {"validation": 0}}
    watching = {"training": {"early_stopping": {}}, "schedule": "plateau"}
    assert places(data=data, **watching) == [("training", "early_stopping"), ("schedule", "name")]
    make(data=data)
    make(**watching)


def test_batch_norm_needs_batches() -> None:
    one = {"training": {"batch_size": 1}}
    for model in ({"norm": "batch"}, {"hidden": [8, {"units": 8, "norm": "batch"}]}):
        assert places(model=model, **one) == [("training", "batch_size")]
        make(model=model, training={"batch_size": 2})
    make(model={"norm": "layer"}, **one)
    make(model={"norm": "batch", "hidden": [{"units": 8, "norm": "none"}]}, **one)


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_may_be_chosen_and_is_explained(name: str) -> None:
    assert make(precision=name).precision == name
    described = Settings.model_json_schema()["properties"]["precision"]
    assert described["enum"] == list(PRECISIONS)
    assert f"{name} ({PRECISIONS[name].meaning})" in described["description"]


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"),
    [(1, 64, 1000), (1280, 64, 1000), (1281, 64, 953), (20_000, 64, 64), (10**7, 64, 30), (100, 1, 200)],
)
def test_a_run_is_long_enough_where_nobody_says_how_long(rows: int, batch: int, epochs: int) -> None:
    training = make(training={"batch_size": batch}).training
    assert training.epochs_over(rows) == epochs
    assert training.model_copy(update={"epochs": 7}).epochs_over(rows) == 7


@pytest.mark.parametrize(("rows", "epochs"), [(1, 256), (5_000, 250), (10_240, 125), (25_600, 64), (10**6, 64)])
def test_epochs_by_steps(rows: int, epochs: int) -> None:
    plan = {"steps": 5000, "least": 64, "most": 256}
    training = make(training={"epochs": plan, "batch_size": 256}).training
    assert training.epochs_over(rows) == epochs
    assert make(training={"epochs": {"steps": 3}}).training.epochs_over(10**6) == 30
    with pytest.raises(ValidationError, match="the fewest epochs are 9, the most 8"):
        make(training={"epochs": {"steps": 3, "least": 9, "most": 8}})

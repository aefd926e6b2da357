"""Presets: what they set, that a file overrides any of it, and what is said where the two do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumlp.config import Settings, configure, dump, load
from gpumlp.config.presets import PRESETS
from gpumlp.errors import ConfigError, DataError
from gpumlp.runs.identity import decisive, differences
from gpumlp.training.build import build, load_data

DATA = {"train": "rows.csv", "target": "y"}


def make(preset: str = "tabular", task: str = "classification", **more: Any) -> Settings:
    return configure(task=task, data={**DATA, **more.pop("data", {})}, preset=preset, **more).settings


def test_plain_is_nothing_but_the_defaults() -> None:
    assert make("plain").model_dump() == configure(task="classification", data=DATA).settings.model_dump()


def test_tabular_is_realmlp() -> None:
    settings = make()
    assert [block.units for block in settings.model.blocks] == [256, 256, 256]
    assert {block.dropout for block in settings.model.blocks} == {0.15}
    assert settings.model.activation == "selu"
    assert settings.model.numbers.embedding == "both"
    assert (settings.model.categories.table_above, settings.model.categories.size) == (8, 8)
    assert settings.model.categories.scaled
    assert not settings.model.clamp
    assert settings.optimizer.hyper | {"rate": settings.optimizer.learning_rate} == pytest.approx(
        {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "rate": 0.04}
    )
    assert settings.loss.hyper == {"label_smoothing": 0.0}
    assert (settings.schedule.name, settings.schedule.hyper) == ("coslog", {"cycles": 4.0})
    assert (settings.training.chosen_metric, settings.training.early_stopping) == ("log_loss", None)
    numbers = make(task="regression")
    assert (numbers.model.activation, numbers.model.clamp, numbers.optimizer.learning_rate) == ("mish", True, 0.2)
    assert (numbers.loss.name, numbers.training.chosen_metric) == ("squared_error", "rmse")


def test_strong_is_tabm_with_ple() -> None:
    settings = make("strong")
    assert (settings.members.count, settings.members.share) == ("auto", "hidden")
    for given in (4, {"count": 4}):  # a bare number is one of the preset's members, too
        fewer = make("strong", members=given).members
        assert (fewer.count, fewer.share) == (4, "hidden")
    assert [block.units for block in settings.model.blocks] == [512, 512]
    assert settings.model.numbers.embedding == "ple"
    assert (settings.data.scaling, settings.schedule.name) == ("quantile", "constant")
    assert settings.training.early_stopping.patience == 16
    assert (settings.training.chosen_metric, make("strong", "regression").training.chosen_metric) == (
        "log_loss",
        "rmse",
    )
    for members in (8, {"count": 8}):
        chosen = make("strong", members=members).members
        assert (chosen.count, chosen.share) == (8, "hidden")


def test_images_have_batch_norm() -> None:
    settings = make("images")
    assert {(block.units, block.norm, block.dropout) for block in settings.model.blocks} == {(512, "batch", 0.2)}
    assert settings.training.shift == "auto"
    still = make("images", training={"shift": 0})
    assert (still.training.shift, still.model.blocks[0].dropout) == (0, 0.4)
    assert (settings.training.chosen_metric, settings.training.early_stopping) == ("accuracy", None)
    assert (settings.training.epochs_over(54_000), settings.training.epochs_over(5 * 54_000)) == (45, 9)
    assert settings.loss.hyper == {"label_smoothing": 0.1}
    assert make("images", "regression").loss.name == "squared_error"


def test_several_epochs_are_of_one_network() -> None:
    assert make().training.snapshots == 8
    assert make(training={"snapshots": 1}).training.snapshots == 1
    assert make(members=1).training.snapshots == 8
    assert make(members=2).training.snapshots == 1
    assert make(members={"count": 2, "share": "hidden"}).training.snapshots == 8


def test_numbers_stay_within_the_range_of_the_targets_and_logarithms_do_not() -> None:
    assert make(task="regression", loss="huber").model.clamp
    assert not make(task="regression", loss="poisson").model.clamp
    assert not make(task="regression", loss={"name": "poisson"}).model.clamp
    assert not make().model.clamp


def test_a_file_overrides_any_of_it() -> None:
    plain, preset = make("plain"), make()
    settings = make(
        model={"hidden": [8], "dropout": 0.0},
        optimizer={"beta2": 0.99},
        schedule="cosine",
        loss={"name": "auto", "class_weight": "balanced"},
        training={"early_stopping": "auto", "epochs": None},
        data={"scaling": None},
    )
    assert [block.units for block in settings.model.hidden] == [8]
    assert (settings.model.dropout, settings.model.parametrization) == (0.0, "ntk")
    assert settings.optimizer.hyper["beta2"] == 0.99
    assert settings.optimizer.weight_decay == preset.optimizer.weight_decay
    assert settings.schedule == plain.schedule
    assert settings.loss.hyper == {"label_smoothing": 0.0}
    assert (settings.training.early_stopping, settings.training.epochs) == ("auto", None)
    assert (settings.training.batch_size, settings.data.scaling) == (256, None)


def test_another_optimizer_comes_with_its_own_defaults() -> None:
    settings = make(optimizer="sgd")
    assert settings.optimizer == make("plain", optimizer="sgd").optimizer
    assert settings.model.parametrization == "ntk"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_what_is_printed_loads_as_the_same(preset: str, task: str, tmp_path: Path) -> None:
    settings = make(preset, task)
    (tmp_path / "all.yaml").write_text(dump(settings, folder="/"))
    again = load(tmp_path / "all.yaml").settings
    assert again.model_dump(exclude={"data"}) == settings.model_dump(exclude={"data"})
    assert f"preset: {preset}" in (tmp_path / "all.yaml").read_text()


@pytest.mark.parametrize(
    ("more", "messages"),
    [
        ({"preset": "tabula"}, ["preset: got 'tabula'", "did you mean 'tabular'"]),
        ({"preset": 3}, ["preset"]),
        (
            {"task": "regression", "loss": "poisson", "model": {"clamp": True}},
            ["model.clamp: with the loss poisson the network predicts logarithms", "set clamp: false"],
        ),
        ({"task": "regression", "loss": {"name": ["poisson"]}}, ["loss.name"]),
        (
            {"data": {**DATA, "split": {"validation": 0}}},
            ["training.metric", "(from preset tabular)", "set metric: auto"],
        ),
        ({"model": 3}, ["model: got 3"]),
        ({"model": {"hidden": [0]}}, ["model.hidden.0"]),
        ({"training": {"metric": ["x"]}}, ["training.metric"]),
        ({"optimizer": {"beta3": 1}}, ["optimizer.beta3", "unknown setting"]),
    ],
)
def test_what_does_not_fit(more: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        configure(**{"task": "classification", "data": DATA, "preset": "tabular", **more})
    for message in messages:
        assert message in str(raised.value)


def test_it_trains_on_categories_alone(tmp_path: Path) -> None:
    """A table without numbers has nothing to embed; to ask for that in the file is a mistake."""
    (tmp_path / "rows.csv").write_text(
        "a,b,y\n" + "\n".join(f"{'uv'[i % 2]},{'xyz'[i % 3]},{i % 2}" for i in range(60))
    )
    small: dict[str, Any] = {
        "training": {"epochs": 2, "metric": "accuracy"},
        "model": {"hidden": [4]},
        "backend": "numpy",
    }
    data = {"train": str(tmp_path / "rows.csv"), "target": "y"}
    loaded = configure(task="classification", preset="tabular", data=data, **small)
    assert build(loaded.settings, load_data(loaded)).architecture.embedding == "none"
    small["model"]["numbers"] = "pbld"
    with pytest.raises(DataError, match="no columns of numbers to embed"):
        load_data(configure(task="classification", data=data, **small))


def test_a_preset_by_override(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "task: regression\ndata: {train: rows.csv, target: y}\nmodel: {dropout: 0.3}\n"
    )
    loaded = load(tmp_path / "run.yaml", ["preset=tabular", "optimizer.learning_rate=0.1"])
    assert (loaded.settings.model.dropout, loaded.settings.optimizer.learning_rate) == (0.3, 0.1)
    assert loaded.settings.training.batch_size == 256
    assert loaded.where("preset") == "--set preset"


SAVED = {"task": "classification", "preset": "images", "data": {"train": "rows.npz", "target": "y"}}


def test_saved_settings_take_nothing_of_a_preset_that_has_grown(tmp_path: Path) -> None:
    """One that they lack had its default, and no preset set it: a run goes on with the rows it was begun with."""
    settings = Settings.model_validate(SAVED)
    assert settings.training.shift == "auto"
    path = tmp_path / "config.yaml"
    path.write_text(dump(settings, folder="/").replace("  shift: auto\n", ""))
    before = load(path).settings
    assert before.training.shift == 0
    assert before.model.dropout == settings.model.dropout
    lacking = decisive(settings)
    del lacking["training"]["shift"]
    assert differences(lacking, settings) == ['training.shift was 0, is now "auto"']
    assert differences(lacking, before) == []


@pytest.mark.parametrize("override", ["preset=tabular", "members=4", "optimizer=adamw"])
def test_what_replaces_a_section_of_saved_settings_is_of_the_preset(tmp_path: Path, override: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(Settings.model_validate({**SAVED, "preset": "strong"}), folder="/"))
    (tmp_path / "plain.yaml").write_text(path.read_text().partition("\n")[2])
    assert load(path, [override]).settings == load(tmp_path / "plain.yaml", [override]).settings


def test_settings_of_a_file_over_a_preset_of_the_command_line_are_named(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        "task: classification\ndata: {train: a.csv, target: y}\n"
        "model: {hidden: [32], activation: selu, dropout: 0.1}\n"
        "optimizer: adamw\nschedule: cosine\ntraining: {epochs: null, batch_size: 64, seed: 0}\n"
    )

    def notes(*overrides: str) -> list[str]:
        return list(map(str, load(config, overrides).notes))

    assert notes("preset=tabular") == [  # not activation, which is the preset's, nor the seed, which it does not set
        f"{config} sets model.hidden, model.dropout, schedule and 2 more over preset tabular; "
        "remove them from the file to have the preset's"
    ]
    of_others = ("model.hidden=[8]", "model.dropout=0", "training.epochs=3", "training.batch_size=8", "schedule=auto")
    assert not notes() + notes("preset=plain") + notes("preset=tabular", *of_others)
    config.write_text(config.read_text() + "preset: tabular\n")
    assert not notes()  # whoever writes both into a file means it

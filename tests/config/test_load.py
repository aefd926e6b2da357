from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpumlp.config import Settings, configure, dump, json_schema, load
from gpumlp.config.load import MAX_BYTES, MAX_SHOWN
from gpumlp.errors import ConfigError
from gpumlp.ops import Hyper
from gpumlp.optim import OPTIMIZERS

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

MINIMAL = """\
task: classification
data:
  train: a.csv
  target: y
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "a.csv").write_text("x,w,y\n1,1,a\n2,1,b\n", encoding="utf-8")

    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def failure(path: Path, *overrides: str) -> str:
    """Return the error's text with the folder of the file left out."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


# --- files -------------------------------------------------------------------------------------------------


def test_a_minimal_file_is_enough(write: Write) -> None:
    path = write(MINIMAL)
    loaded = load(path)
    assert loaded.path == path
    assert loaded.settings.data.target == "y"
    assert load(str(path)) == loaded


def test_a_byte_order_mark_is_no_part_of_the_text(write: Write) -> None:
    assert load(write("\ufeff" + MINIMAL)).where("task").endswith("run.yaml:1:1")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("", "."), ("data:  # comment", "."), ("folder: ..", ".."), ("folder: x/../y", "y"), ("folder: /x", "/x")],
)
def test_the_folder_of_the_data_becomes_absolute(write: Write, folder: str, expected: str) -> None:
    line = f"  {folder}\n" if folder.startswith("folder") else ""
    path = write(MINIMAL + line)
    assert load(path).settings.data.folder == os.path.normpath(path.parent / expected)


def test_the_folder_does_not_depend_on_where_one_stands(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(MINIMAL)
    monkeypatch.chdir(path.parent)
    assert load(path.name).settings.data.folder == str(path.parent)


def test_a_home_folder_is_found(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(write(MINIMAL), ["data.folder=~/digits"]).settings.data.folder == "/home/ada/digits"


def test_a_missing_file_names_the_nearest(write: Write) -> None:
    path = write(MINIMAL)
    assert failure(path.with_name("runs.yaml")) == "runs.yaml: no such file\n  did you mean 'run.yaml'?"


def test_a_missing_file_names_all_configurations(write: Write) -> None:
    path = write(MINIMAL)
    message = failure(path.with_name("qqqqq"))
    assert message.endswith(f"configurations in {str(path.parent)!r}: run.yaml")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "run.yaml"
    assert failure(path).endswith(f"the folder {str(path.parent)!r} does not exist or cannot be read")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").touch()
    assert failure(tmp_path).endswith(f"this is a folder, not a file\n  configurations in {tmp_path.name!r}: b.yaml")


def test_an_unreadable_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # as root, no file is unreadable

    path = write(MINIMAL)
    monkeypatch.setattr(Path, "open", refuse)
    assert failure(path) == "run.yaml: cannot be read: Permission denied"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"task: classification\n# caf\xe9\n")
    assert failure(path) == "run.yaml:2: not UTF-8 text: the byte 0xe9\n  save the file as UTF-8"


def test_a_file_that_is_far_too_long(write: Write) -> None:
    path = write("#" * (MAX_BYTES + 1))
    assert failure(path).startswith("run.yaml: longer than 256 KiB, too long for a configuration")
    assert failure(write("#" * MAX_BYTES)).startswith("run.yaml: the file is empty")


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null"])
def test_an_empty_file(write: Write, text: str) -> None:
    assert failure(write(text)).startswith("run.yaml: the file is empty\n  a run needs task, data.train")


@pytest.mark.parametrize("text", ["- a\n", "task\n", "5\n"])
def test_the_top_is_a_mapping(write: Write, text: str) -> None:
    assert failure(write(text)).startswith("run.yaml:1:1: a configuration is a mapping from settings to values")


def test_data_in_place_of_a_configuration_are_told_where_they_belong(write: Write) -> None:
    data = write(MINIMAL).with_name("a.csv")
    hint = "this looks like a data file: gpumlp init writes a configuration for it; "
    hint += "train, cv and sweep take it with --target NAME"
    assert failure(data).endswith(f"from settings to values\n  {hint}")
    for content in (b"a,b\n? 1,'2\n", b"a,b\nK\xf6ln,2\n"):  # not even YAML, not even UTF-8
        data.write_bytes(content)
        assert failure(data).endswith(f"\n  {hint}")
    assert "did you mean 'a.csv'" in failure(data.with_name("b.csv"))


def test_a_syntax_error_is_placed(write: Write) -> None:
    assert failure(write(MINIMAL + "model: [")).startswith("run.yaml:5:9: ")


# --- problems ----------------------------------------------------------------------------------------------


def test_all_problems_come_at_once_in_the_order_of_the_lines(write: Write) -> None:
    path = write(
        "optimizer:\n"
        "  learning_rat: 1e-3\n"
        "data:\n"
        "  target: y\n"
        "model: {hidden: [8, {units: 0}], dropout: 2}\n"
        "training:\n"
        "    epochs: ten\n"
    )
    assert failure(path, "training.epoch=3", "backend=gpu") == (
        "8 problems in run.yaml\n"
        "run.yaml: task: required, but missing\n"
        "  classification (two or more classes), regression (numbers) or multilabel (several labels of two values "
        "each)\n"
        "run.yaml:2:3: optimizer.learning_rat: unknown setting for adamw\n"
        "  did you mean 'learning_rate'? allowed: name, learning_rate, weight_decay, decay_schedule, clip_norm, "
        "averaging, beta1, beta2, epsilon\n"
        "run.yaml:3:1: data.train: required, but missing\n"
        "  training file: csv, tsv, txt, data, arff, jsonl, idx (each also as .gz), parquet or npz; several files as "
        "a list or a pattern such as part-*.csv\n"
        "run.yaml:5:22: model.hidden.1.units: got 0, needs a whole number (at least 1, at most 2147483647)\n"
        "  number of units\n"
        "run.yaml:5:34: model.dropout: got 2, needs a number (at least 0, below 1)\n"
        "  dropout rate of the hidden layers\n"
        "run.yaml:7:5: training.epochs: got 'ten', needs a whole number (at least 1) or a mapping or null\n"
        "  passes over the training rows, or {steps: 5000, least: 64, most: 256}: as many as come to this "
        "number of steps; null: about 20,000 steps, but 30 to 1,000 epochs\n"
        "--set training.epoch: unknown setting\n"
        "  did you mean 'epochs'? allowed: epochs, batch_size, shards, drop_last, mixup, shift, seed, metric, "
        "snapshots, calibration, conformal, early_stopping, checkpoint_every\n"
        "--set backend: got 'gpu', needs one of auto, cupy, native, numpy\n"
        "  did you mean 'cupy'?"
    )


def test_one_problem_is_counted_as_one(write: Write) -> None:
    assert failure(write(MINIMAL + "backend: gpu\n")).startswith("1 problem in run.yaml\nrun.yaml:5:1: backend: ")


def test_a_broken_rule_is_placed_too(write: Write) -> None:
    path = write(MINIMAL + "  split:\n    validation: 0\nloss:\n  name: huber\ntraining: {early_stopping: {}}\n")
    lines = failure(path).splitlines()
    assert lines[1] == "run.yaml:8:3: loss.name: huber is not a loss for classification"
    assert lines[3].startswith("run.yaml:9:12: training.early_stopping: early stopping needs validation rows")


def test_a_flood_of_problems_is_cut_off(write: Write) -> None:
    message = failure(write(MINIMAL + "".join(f"k{i}: 1\n" for i in range(MAX_SHOWN + 7))))
    assert message.startswith(f"{MAX_SHOWN + 7} problems in run.yaml\nrun.yaml:5:1: k0: unknown")
    assert message.endswith("\nand 7 more")


# --- overrides ---------------------------------------------------------------------------------------------


def test_overrides_count_as_if_they_stood_in_the_file(write: Write) -> None:
    path = write(MINIMAL + "optimizer: adam\nmodel: {hidden: [8, 16]}\ntraining: {early_stopping: null}\n")
    overrides = [
        "data.target=0",
        "optimizer.beta1 = 0.5",
        "model.hidden.1=32",
        "model.hidden.0.norm=layer",
        "training.early_stopping.patience=3",
        "training.epochs=1",
        "training.epochs=2",
        "schedule={name: step, every: 4}",
        "data.weights=",
        "model.numbers=ple",
        "model.numbers.bins=7",
        "members=3",
        "members.best=joint",
        "data.columns.a=number",
        "data.columns.a.unit=$",
    ]
    settings = load(path, overrides).settings
    assert settings.data.target == 0
    assert (settings.optimizer.name, settings.optimizer.hyper["beta1"]) == ("adam", 0.5)
    assert [(block.units, block.norm) for block in settings.model.hidden] == [(8, "layer"), (32, None)]
    assert settings.training.early_stopping is not None
    assert settings.training.early_stopping.patience == 3
    assert settings.training.epochs == 2
    assert settings.schedule.hyper["every"] == 4.0
    assert settings.data.weights is None
    assert (settings.model.numbers.embedding, settings.model.numbers.bins) == ("ple", 7)
    assert (settings.members.count, settings.members.best) == (3, "joint")
    assert (settings.data.columns["a"].type, settings.data.columns["a"].unit) == ("number", "$")
    assert load(write(MINIMAL + "training: {early_stopping: auto}\n"), ["training.early_stopping.patience=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: not of the form setting=value\n  for example training.epochs=10"),
        ("=3", "--set : not of the form setting=value"),
        ("training..epochs=3", "--set training..epochs: not of the form setting=value"),
        ("training.epochs=[3", "--set training.epochs:1:3: a list opened with '[' is not closed"),
        ("training.epochs=0", "--set training.epochs: got 0, needs a whole number (at least 1)"),
        ("training={epochs: 0}", "--set training: training.epochs: got 0, needs a whole number"),
        ("trainig.epochs=3", "--set trainig.epochs: trainig: unknown setting\n  did you mean 'training'?"),
        ("optimizer=adm", "--set optimizer: unknown name 'adm'"),
        (
            "model.hidden.2=3",
            "--set model.hidden.2: no item '2' in the list\n  items are counted from 0; the list has 2",
        ),
        ("model.hidden.x=3", "--set model.hidden.x: no item 'x' in the list"),
        ("model.hidden.-1=3", "--set model.hidden.-1: no item '-1' in the list"),
        ("model.hidden.0.unit=3", "--set model.hidden.0.unit: unknown setting\n  did you mean 'units'?"),
        ("model.dropout.x=3", "--set model.dropout.x: model.dropout is a single value, not a section"),
        ("model.norm.x=3", "--set model.norm.x: model.norm is a single value, not a section"),
    ],
)
def test_a_wrong_override_is_named(write: Write, override: str, message: str) -> None:
    path = write(MINIMAL + "model: {hidden: [8, 16], dropout: 0.1, norm: layer}\n")
    assert failure(path, override).startswith(f"1 problem in run.yaml\n{message}")


def test_an_override_that_is_no_yaml_is_told_how_to_be_quoted(write: Write) -> None:
    path = write(MINIMAL)
    assert failure(path, "data.decimal=,").endswith("--set \"data.decimal=','\"")
    assert load(path, ["data.decimal=','"]).settings.data.decimal == ","


def test_an_override_mends_the_file(write: Write) -> None:
    path = write(MINIMAL + "optimizer: {name: adm, beta1: 7}\n")
    loaded = load(path, ["optimizer={name: sgd}"])
    assert loaded.settings.optimizer.name == "sgd"
    assert loaded.where("optimizer.beta1") == str(path)


# --- where -------------------------------------------------------------------------------------------------


def test_where_a_setting_comes_from(write: Write) -> None:
    path = write(MINIMAL + "optimizer: adam\nmodel: {hidden: [8, 16]}\n")
    overrides = ["optimizer.beta1=0.5", "schedule=cosine", "training={epochs: 3, seed: 1}", "training.seed=2"]
    where = load(path, [*overrides, "model.hidden.1.units=3"]).where
    assert where("task") == f"{path}:1:1"
    assert where("data.target") == f"{path}:4:3"
    assert where("data") == f"{path}:2:1"
    assert where("data.drop") == str(path)
    assert where("backend") == str(path)
    assert where("optimizer.name") == f"{path}:5:1"
    assert where("optimizer.beta1") == "--set optimizer.beta1"
    assert where("optimizer.beta2") == str(path)
    assert where("schedule.name") == "--set schedule"
    assert where("training.epochs") == "--set training"
    assert where("training.seed") == "--set training.seed"
    assert where("training.batch_size") == str(path)
    assert where("model.hidden.0.units") == f"{path}:6:18"
    assert where("model.hidden.1.units") == "--set model.hidden.1.units"


# --- writing -----------------------------------------------------------------------------------------------

FULL = """\
task: classification
data:
  folder: rows
  train: 'no'
  target: -1
  split: {validation: 0, test: "1e-3"}
  scaling: quantile
  separator: "\t"
  quote: none
  header: false
  encoding: latin-1
  decimal: ","
  missing: ["", "~", "0x1F", "- a", "é"]
  drop: [a, 3]
  weights: w
model:
  hidden: [8, {units: 4, activation: tanh, dropout: 0, norm: batch}]
  initializer: zeros
loss: {class_weight: {0: 1, "no": 2.5}, label_smoothing: 1e-7}
optimizer: {name: momentum, momentum: 0, clip_norm: 1, averaging: 0.99}
schedule: {name: one_cycle, warmup: 0.1}
training: {epochs: 1, batch_size: 2, seed: 4294967295, early_stopping: null, checkpoint_every: 3}
backend: numpy
precision: float64
"""


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_what_is_written_loads_as_the_same_settings(write: Write, tmp_path: Path, text: str) -> None:
    loaded = load(write(text))
    elsewhere = tmp_path / "runs" / "config.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(dump(loaded.settings, folder=loaded.path.parent), encoding="utf-8")
    assert load(elsewhere).settings == loaded.settings


def test_a_relative_folder_is_written_as_an_absolute_one() -> None:
    settings = Settings.model_validate(
        {"task": "regression", "data": {"folder": "rows", "train": "a.csv", "target": "y"}}
    )
    assert yaml.safe_load(dump(settings, folder="/x"))["data"]["folder"] == "/x/rows"


def test_what_is_written_can_be_read_by_a_person(write: Write) -> None:
    text = dump(load(write(FULL)).settings, folder="/")
    assert text.startswith("# All settings of a run")
    assert (
        "\nmodel:\n  hidden:\n  - 8\n  - units: 4\n    activation: tanh\n    dropout: 0.0\n    norm: batch\n" in text
    )
    assert "\n  drop: [a, 3]\n" in text
    assert "\n  averaging: 0.99\n  momentum: 0.0\n" in text


def settings_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for title, section in [("", schema), *schema["$defs"].items()]:
        for key, node in section.get("properties", {}).items():
            yield f"{title}.{key}", node


def test_the_schema_describes_every_setting() -> None:
    described = dict(settings_of(json_schema()))
    assert [key for key, node in described.items() if not node.get("description")] == []
    assert {".task", "Data.target", "Block.units", "Training.epochs", "EarlyStopping.patience"} <= described.keys()
    assert sum(key.endswith("OptimizerSettings.learning_rate") for key in described) == len(OPTIMIZERS)


def test_the_schema_names_its_dialect_and_refuses_unknown_settings() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["task", "data"]
    assert all(section["additionalProperties"] is False for section in [schema, *schema["$defs"].values()])


# --- the tables --------------------------------------------------------------------------------------------


@pytest.fixture
def new_optimizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hyper = {"bounce": Hyper(0.25, "how far it jumps", ge=0.0, le=1.0)}
    spec = OPTIMIZERS["sgd"]
    spec = replace(spec, learning_rate=0.5, update=replace(spec.update, hyper=hyper))
    with monkeypatch.context() as patch:
        patch.setitem(OPTIMIZERS, "kangaroo", spec)
        Settings.model_rebuild(force=True)
        yield
    Settings.model_rebuild(force=True)


@pytest.mark.usefixtures("new_optimizer")
def test_a_new_row_of_a_table_can_be_configured(write: Write) -> None:
    optimizer = load(write(MINIMAL + "optimizer: kangaroo\n")).settings.optimizer
    assert (optimizer.learning_rate, optimizer.hyper) == (0.5, {"bounce": 0.25})
    message = failure(write(MINIMAL + "optimizer: {name: kangaroo, bounce: 2, bonce: 1}\n"))
    assert "run.yaml:5:29: optimizer.bounce: got 2, needs a number (at least 0, at most 1)\n  how far" in message
    assert "run.yaml:5:40: optimizer.bonce: unknown setting for kangaroo\n  did you mean 'bounce'?" in message


def test_a_row_that_is_gone_cannot_be_configured(write: Write) -> None:
    assert "unknown name 'kangaroo'" in failure(write(MINIMAL + "optimizer: kangaroo\n"))


# --- the configurations that come with gpumlp --------------------------------------------------------------


def test_there_are_configurations() -> None:
    assert {path.stem for path in CONFIGS} >= {"digits", "breast_cancer", "diabetes", "fashion_mnist"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_loads_and_is_explained(path: Path) -> None:
    loaded = load(path)
    assert dump(loaded.settings, folder=path.parent)
    assert path.read_text(encoding="utf-8").startswith("# ")
    data = loaded.settings.data
    assert data.folder is not None
    if data.folder.startswith(str(path.parent)):
        assert (Path(data.folder) / data.train).is_file()


# --- anything at all ---------------------------------------------------------------------------------------


# A deadline of 0.2 s would fail on a busy machine, and says nothing about what is tested.
no_deadline = hypothesis_settings(deadline=None)


def loads_or_refuses(path: Path, *overrides: str) -> None:
    with contextlib.suppress(ConfigError):
        loaded = load(path, overrides)
        path.write_text(dump(loaded.settings, folder="/"), encoding="utf-8")
        assert load(path).settings == loaded.settings


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "run.yaml"


@no_deadline
@given(st.binary() | st.text("task: clifon\n{}[],&*!'\"#-").map(str.encode))
def test_any_file_loads_or_is_refused(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    loads_or_refuses(scratch)


SCALARS = st.sampled_from(
    [
        *("1", "-1", "0.5", "1e999", "1e400", "9" * 400, ".nan", "true", "null", "no", "auto", "huber", "adam"),
        *("''", "[]", "[1]", "[[1]]", "{}", "{name: sgd}", "{name: [1]}", "{name: {a: 1}}", "{units: 2}", "é"),
    ]
)
SETTINGS = st.sampled_from(
    [key.partition(".")[2] for key, _ in settings_of(json_schema())] + ["0", "a", "data", "model", "loss"]
)


@no_deadline
@given(st.data())
def test_a_mutated_configuration_loads_or_is_refused(scratch: Path, data: st.DataObject) -> None:
    tree = yaml.safe_load(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        section = tree[data.draw(st.sampled_from(sorted(tree)))]
        target = section if isinstance(section, dict) and data.draw(st.booleans()) else tree
        keys = sorted(map(str, target))
        key = data.draw(st.sampled_from(keys) if keys and data.draw(st.booleans()) else SETTINGS)
        target[key] = yaml.safe_load(data.draw(SCALARS))
    scratch.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    loads_or_refuses(scratch)


@no_deadline
@given(st.lists(st.builds("{}.{}={}".format, SETTINGS, SETTINGS, SCALARS) | st.text(), max_size=3))
def test_any_override_is_taken_or_refused(scratch: Path, overrides: list[str]) -> None:
    scratch.write_text(FULL, encoding="utf-8")
    loads_or_refuses(scratch, *overrides)


@no_deadline
@given(st.data())
def test_a_damaged_configuration_loads_or_is_refused(scratch: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(start + 10, len(FULL))))
    insert = data.draw(st.text(" \n\t:[]{}&*!'\"#-,1ea", max_size=4))
    scratch.write_text(FULL[:start] + insert + FULL[end:], encoding="utf-8")
    loads_or_refuses(scratch)


def test_settings_in_python_are_those_of_a_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = configure(
        task="regression",
        data={"train": Path("points.csv"), "target": "y", "drop": ("a", 3)},
        model={"hidden": (8, {"units": 4, "activation": "tanh"})},
        optimizer="sgd",
    )
    text = (
        "task: regression\ndata: {train: points.csv, target: y, drop: [a, 3]}\n"
        "model: {hidden: [8, {units: 4, activation: tanh}]}\noptimizer: sgd\n"
    )
    assert made.settings == load(write(text)).settings


def test_all_problems_of_settings_in_python_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        configure(task="regression", data={"train": "a.csv", "target": "y"}, modle={}, training={"epochs": 0})
    assert str(caught.value).startswith("2 problems in the settings\n")
    assert "training.epochs: got 0" in str(caught.value)
    assert "did you mean 'model'" in str(caught.value)


# --- names in the data ---------------------------------------------------------------------------------------


def test_names_that_are_not_in_the_data_are_reported_with_all_else(write: Write) -> None:
    path = write(
        "task: classification\n"
        "data:\n"
        "  train: a.csv\n"
        "  target: Y\n"
        "  drop: [x, ww]\n"
        "  split: {test: b.csv}\n"
        "training: {epochs: 0}\n"
    )
    assert failure(path, "data.weights=7") == (
        "5 problems in run.yaml\n"
        "run.yaml:4:3: data.target: a.csv: there is no column 'Y'\n"
        "  did you mean 'y'? allowed: x, w, y\n"
        "run.yaml:5:13: data.drop.1: a.csv: there is no column 'ww'\n"
        "  did you mean 'w'? allowed: x, w, y\n"
        "run.yaml:6:11: data.split.test: b.csv: no such file\n"
        "  did you mean 'a.csv'?\n"
        "run.yaml:7:12: training.epochs: got 0, needs a whole number (at least 1) or a mapping or null\n"
        "  passes over the training rows, or {steps: 5000, least: 64, most: 256}: as many as come to this "
        "number of steps; null: about 20,000 steps, but 30 to 1,000 epochs\n"
        "--set data.weights: a.csv: there is no column number 7\n"
        "  the file has 3 columns: 0 to 2, or -1 for the last"
    )


def test_a_configuration_that_is_right_is_loaded_without_its_data(write: Write) -> None:
    assert load(write(MINIMAL.replace("a.csv", "nowhere.csv"))).settings.data.train == "nowhere.csv"


@pytest.mark.parametrize(("train", "message"), [("b.csv", "no such file"), ("a.xls", "cannot tell the kind of file")])
def test_a_wrong_file_is_reported_with_all_else(write: Write, train: str, message: str) -> None:
    found = failure(write(MINIMAL.replace("a.csv", train)), "training.epochs=0").splitlines()
    assert found[0] == "2 problems in run.yaml"
    assert found[1].startswith(f"run.yaml:3:3: data.train: {train}: {message}")


def test_data_that_cannot_be_read_are_reported(write: Write) -> None:
    loaded = load(write(MINIMAL))
    for content, said in (
        ("", "the file is empty"),
        ("x,w,y\n", "no rows"),
        ("x,w,y\n1,2,3\n4\n", "expected 3 cells"),
    ):
        (loaded.path.parent / "a.csv").write_text(content)
        ((setting, error),) = loaded.settings.data.misfits(Path())
        assert setting == "data.train"
        assert said in error.what
    (loaded.path.parent / "a.csv").write_text(
        'x,w,y\n1,1,"a\n' + "\n" * 300 + '"\n'
    )  # a cell of more than SAMPLE lines
    assert loaded.settings.data.misfits(Path()) == []


def test_columns_that_do_not_fit_are_reported_by_their_place(write: Write) -> None:
    loaded = load(write(MINIMAL + "  weights: y\n"), ["data.drop=[q]"])
    problems = loaded.settings.data.misfits(Path())
    message = loaded.report(problems).replace(f"{loaded.path.parent}{os.sep}", "")
    assert message == (
        "2 problems in run.yaml\n"
        "run.yaml:5:3: data.weights: a.csv: 'y' is the target already\n"
        "  each column can be one thing\n"
        "--set data.drop: data.drop.0: a.csv: there is no column 'q'\n"
        "  allowed: x, w, y"
    )


# --- versions and sizes --------------------------------------------------------------------------------------


def test_a_file_of_a_later_version_is_refused_with_one_message(write: Write) -> None:
    path = write(MINIMAL + "future: 1\nversion: 2\n")
    assert failure(path) == (
        "run.yaml:6:1: version: settings version 2; this version of gpumlp supports up to 1\n  update gpumlp"
    )
    assert "version: got 0, needs a whole number (at least 1, at most 1)" in failure(write(MINIMAL + "version: 0\n"))


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("optimizer.learning_rate=1e39", "got 1e+39, outside the range of float32 (at most 3.4e+38)"),
        ("optimizer.learning_rate=1e-39", "got 1e-39, outside the range of float32 (at least 1.18e-38)"),
        ("optimizer.weight_decay=1e300", "got 1e+300, outside the range"),
        ("optimizer.epsilon=1e-300", "got 1e-300, outside the range"),
        ("optimizer.clip_norm=1e40", "got 1e+40, outside the range"),
    ],
)
def test_a_number_must_fit_the_precision(write: Write, setting: str, limit: str) -> None:
    path, name = write(MINIMAL), setting.partition("=")[0]
    message = failure(path, setting)
    assert f"--set {name}: {limit}" in message
    assert message.endswith("or set precision: float64")
    load(path, [setting, "precision=float64"])


@pytest.mark.parametrize("override", ["data.folder=here", "data={folder: here, train: a.csv, target: y}"])
def test_a_relative_folder_given_as_an_override_starts_in_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    path = write(MINIMAL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(path, [override]).settings.data.folder == str(tmp_path / "elsewhere" / "here")
    assert load(path, ["data.target=y"]).settings.data.folder == str(path.absolute().parent)

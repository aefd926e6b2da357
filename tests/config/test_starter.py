"""A configuration for a data file trains as it is, and says what it makes of each column."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gpumlp.config import Loaded, columns_of, configure, guessed_task, load, starter
from gpumlp.config.presets import PRESETS
from gpumlp.data import ArrayTable
from gpumlp.errors import DataError
from gpumlp.training.build import build, load_data

ROWS = 120


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with each kind of column."""
    rng = np.random.default_rng(0)
    lines = ["row id,constant,empty,name,price,town,#odd: 'x',share,class"]
    for i in range(ROWS):
        gap = "" if i == 3 else rng.normal()
        town = ["Ulm", "Köln", ""][rng.integers(3)]
        lines.append(f"{1000 + i},7,,person {i},{gap},{town},{rng.integers(2)},1{i % 10} %,{i % 3}")
    path = tmp_path / "the data.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def loaded_starter(path: Path, target: str, *overrides: str) -> Loaded:
    text = starter(path, target, folder=path.parent).text
    return load(path.with_name("c.yaml"), overrides, text=text)


def test_what_becomes_of_each_column(table: Path) -> None:
    rows, columns = columns_of(table)
    assert rows == ROWS
    assert {each.name: each.used for each in columns} == {
        "row id": False,
        "constant": False,
        "empty": False,
        "name": False,
        "price": True,
        "town": True,
        "#odd: 'x'": True,
        "share": True,
        "class": True,
    }
    texts = {each.name: each.text for each in columns}
    assert texts["row id"] == "looks like an id"
    assert texts["constant"] == "it is 7 in every row"
    assert texts["empty"] == "it is empty in every row"
    assert texts["name"] == f"all its {ROWS} texts are different"
    assert texts["town"] == "2 categories: Köln, Ulm; some missing"
    assert texts["price"].endswith(", 1 missing")
    assert texts["share"] == "numbers from 10 to 19"


def test_it_trains_as_it_is(table: Path) -> None:
    loaded = loaded_starter(table, "class", "training.epochs=1")
    assert loaded.settings.task == "classification"
    assert set(loaded.settings.data.drop) == {"row id", "constant", "empty", "name"}
    data = load_data(loaded)
    assert data.encoder.classes == ("0", "1", "2")
    assert not [note for note in data.notes if "left out" in note or "consider" in note]
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 84, "validation": 18, "test": 18}
    build(loaded.settings, data)


def test_the_text_says_what_was_found(table: Path) -> None:
    text = starter(table, "class", folder=table.parent).text
    assert "# the data.csv: 120 rows, 9 columns; 4 of them are used as inputs." in text
    assert "target: class  # 3 classes: 0 (40 rows), 1 (40 rows), 2 (40 rows)\n" in text
    assert "- row id  # looks like an id\n" in text
    assert "#   town: 2 categories: Köln, Ulm; some missing\n" in text
    assert "# 84 rows to train on, 18 and 18 kept\n" in text


def test_amounts_and_shares_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f'"${i * 1000:,}.5",{i % 9} %,{i % 7},"€{i % 13}"' for i in range(1, 61)]
    path.write_text("\n".join(["cost,share,x,price", *lines]), encoding="utf-8")
    loaded = loaded_starter(path, "cost")
    assert loaded.settings.task == "regression"
    data = load_data(loaded)
    assert data.encoder.width == 3
    assert data.notes == ()
    found = data.encoder.decode(data.train.targets.astype(np.float64))
    whole = np.concatenate([found, *(data.encoder.decode(p.targets) for p in (data.validation, data.test))])
    np.testing.assert_allclose(np.sort(whole), np.arange(1, 61) * 1000 + 0.5, rtol=1e-6)


def test_what_is_left_out_is_noted(table: Path) -> None:
    notes = starter(table, "class", folder=table.parent).notes
    assert notes == (
        "column 'row id' is left out: looks like an id; to use it, set data.drop, such as --set data.drop=[]",
        "column 'constant' is left out: it is 7 in every row",
        "column 'empty' is left out: it is empty in every row",
        f"column 'name' is left out: all its {ROWS} texts are different",
    )


def test_paths_start_where_the_configuration_stands(table: Path) -> None:
    text = starter(table, "class", folder=table.parent / "configs").text
    assert "train: ../the data.csv" in text


def test_a_column_is_found_by_number_unless_one_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,1,y\n" + "".join(f"{i * 0.5},{i * i},{i % 2}\n" for i in range(40)))
    assert loaded_starter(path, "-1").settings.data.target == -1
    assert loaded_starter(path, "1").settings.data.target == "1"
    assert loaded_starter(path, "1").settings.task == "regression"
    assert loaded_starter(path, "-1").settings.task == "classification"
    with pytest.raises(DataError, match="there is no column 'z'"):
        starter(path, "z", folder=tmp_path)
    with pytest.raises(DataError, match="there is no column number 7"):
        starter(path, "7", folder=tmp_path)


@pytest.mark.parametrize("classes", [True, False])
def test_rows_without_a_target_are_left_out(tmp_path: Path, classes: bool) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{i * 0.5},{'' if i % 4 == 3 else i % 2 if classes else i * i}" for i in range(80)]
    path.write_text("\n".join(["x,y", *lines]))
    loaded = loaded_starter(path, "y")
    assert loaded.settings.task == ("classification" if classes else "regression")
    assert loaded.settings.data.missing_target == "drop"
    assert {name: len(part) for name, part in load_data(loaded).parts.items()} == {
        "train": 42,
        "validation": 9,
        "test": 9,
    }
    text = starter(path, "y", folder=tmp_path).text
    assert "# 20 of 80 rows have no target and are left out\n" in text
    assert "# 42 rows to train on, 9 and 9 kept\n" in text


def test_few_rows_are_all_for_training(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,a\n2,b\n3,a\n")
    loaded = loaded_starter(path, "y")
    assert loaded.settings.data.split.validation == loaded.settings.data.split.test == 0
    assert len(load_data(loaded).train) == 3


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.arange(100) % 20, "classification"),
        (np.arange(100) % 21, "regression"),  # one different number too many
        (np.arange(49) % 10, "regression"),  # not five rows of each
        (np.arange(50) % 10, "classification"),
        (np.array([0, 1, 1]), "classification"),
        (np.array([0.5, 1.5] * 50), "regression"),
        (np.array(["a", "b"]), "classification"),
        (np.array([True, False]), "classification"),
    ],
)
def test_the_task_is_guessed_from_the_target(values: np.ndarray, task: str) -> None:
    assert guessed_task(ArrayTable("a", {"y": values}), "y")[0] == task


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(60, 2, 3)), y=np.arange(60) % 4, more=np.zeros(60))
    _, columns = columns_of(path)
    assert [(each.name, each.used) for each in columns] == [("x", True), ("y", False), ("more", False)]
    loaded = loaded_starter(path, "y")
    assert loaded.settings.data.drop == ("more",)
    assert load_data(loaded).encoder.width == 6


@pytest.mark.parametrize("name", ["a: b", "#", "x " * 80 + "x", "- a", "null", "a\u2028b", "'", '"', "é"])
def test_names_that_yaml_would_take_for_something_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    quoted = '"' + name.replace('"', '""') + '"'
    path.write_text(f"x,{quoted},y\n" + "".join(f"{i * 0.5},5,{i % 2}\n" for i in range(40)), encoding="utf-8")
    assert loaded_starter(path, "y").settings.data.drop == (name,)
    path.write_text(f"x,{quoted}\n" + "".join(f"{i * 0.5},{i % 2}\n" for i in range(40)), encoding="utf-8")
    assert loaded_starter(path, name).settings.data.target == name


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"5,{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match="no column to learn from\n  x: it is 5 in every row"):
        starter(path, "y", folder=tmp_path)
    path.write_text("x,y\n" + "".join(f"{i},3\n" for i in range(40)))
    with pytest.raises(DataError, match="every row is of the class '3'"):
        starter(path, "y", folder=tmp_path)


def test_an_estimate_of_size_time_and_memory(tmp_path: Path) -> None:
    """The parameters and steps are those of the run that follows."""
    lines = [f"{i % 7},{'abc'[i % 3]},2024-01-{i % 28 + 1:02},{i % 5 / 3}" for i in range(200)]
    (tmp_path / "d.csv").write_text("\n".join(["x,c,when,y", *lines]) + "\n")
    text = starter(tmp_path / "d.csv", "y", folder=tmp_path).text
    first, _, estimate = text.splitlines()[:3]
    assert first == "# yaml-language-server: $schema=gpumlp.schema.json"
    found = re.fullmatch(
        r"# Estimate: ([\d,]+) parameters, at most ([\d,]+) epochs of (\d+) steps: .* GB of memory\.", estimate
    )
    assert found
    (tmp_path / "d.yaml").write_text(text)
    loaded = load(tmp_path / "d.yaml")
    parts = build(loaded.settings, load_data(loaded))
    trainer = parts.trainer
    assert tuple(int(each.replace(",", "")) for each in found.groups()) == (
        parts.model.size,
        trainer.epochs,
        trainer.batches,
    )


def test_numbers_are_embedded_where_there_are_rows_enough(tmp_path: Path) -> None:
    """With few rows for each of them bins lose; texts have none, and presets have their own."""
    for name, rows, columns, wanted in (
        ("a", 100, 2, True),
        ("b", 99, 2, False),
        ("c", 150, 3, True),
        ("d", 90, 0, False),
    ):
        names = [f"x{i}" for i in range(columns)]
        lines = [
            ",".join([*(f"{(7 * i + j) % 89 / 8}" for j in range(columns)), "abc"[i % 3], f"{i / 7}"])
            for i in range(rows)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([",".join([*names, "word", "y"]), *lines]) + "\n")
        text = starter(tmp_path / f"{name}.csv", "y", folder=tmp_path).text
        assert ("numbers: ple" in text) == wanted, name
        assert "numbers: ple" not in starter(tmp_path / f"{name}.csv", "y", folder=tmp_path, preset="tabular").text


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_not_overridden_by_what_is_written(table: Path, preset: str) -> None:
    (table.parent / "run.yaml").write_text(starter(table, "class", folder=table.parent, preset=preset).text)
    settings = load(table.parent / "run.yaml").settings
    wanted = load(table.parent / "run.yaml", [f"preset={preset}"]).settings
    assert settings == wanted
    if preset != "plain":
        own = configure(task="classification", data={"train": str(table), "target": "class"}, preset=preset).settings
        for section in ("model", "optimizer", "schedule", "training", "members", "loss"):
            assert getattr(settings, section) == getattr(own, section)


MANY = "a,price,rent,garden,bright,town\n" + "".join(
    f"{i % 7},{i * 1.5},{'' if i % 9 == 0 else i},{'yes' if i % 3 else 'no'},{'' if i % 8 == 0 else i % 2},t{i % 5}\n"
    for i in range(60)
)


@pytest.mark.parametrize(
    ("targets", "task", "about"),
    [
        (["price", "-4"], "regression", "rent  # 1 to 59, mean 29.8302, 7 missing"),
        (["garden", "bright"], "multilabel", "garden  # no (20 rows), yes (40 rows)"),
        (["price", "bright"], "regression", "bright  # 0 to 1, mean 0.576923, 8 missing"),
    ],
)
def test_several_targets(tmp_path: Path, targets: list[str], task: str, about: str) -> None:
    (tmp_path / "many.csv").write_text(MANY)
    text = starter(tmp_path / "many.csv", targets, folder=tmp_path).text
    assert about in text.replace("- -4  #", "- rent  #")
    (tmp_path / "many.yaml").write_text(text)
    loaded = load(tmp_path / "many.yaml", ["training.epochs=1"])
    assert loaded.settings.task == task
    encoder = load_data(loaded).encoder
    assert encoder.target_names == tuple(each.replace("-4", "rent") for each in targets)
    assert not {"price", "rent", "garden", "bright"} & set(encoder.inputs.names) & set(encoder.target_names)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["price", "town"], "'town' has 5 different texts, so it is no target beside others"),
        (["price", "price"], "a target is given twice"),
        (["price", "1"], "a target is given twice"),
        (["price", "rant"], "did you mean 'rent'"),
    ],
)
def test_targets_that_do_not_go_together(tmp_path: Path, targets: list[str], said: str) -> None:
    (tmp_path / "many.csv").write_text(MANY)
    with pytest.raises(DataError, match=said):
        starter(tmp_path / "many.csv", targets, folder=tmp_path)


@pytest.mark.parametrize("other", ["", "5"])
@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_several_targets_of_which_one_says_nothing(tmp_path: Path, kind: str, other: str) -> None:
    value = {"regression": lambda i: i * 1.5, "multilabel": lambda i: i % 2}[kind]
    lines = [f"{i * 0.3},{value(i)},{other}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y,z", *lines]))
    with pytest.raises(DataError, match="z"):
        starter(tmp_path / "a.csv", ["y", "z"], folder=tmp_path)

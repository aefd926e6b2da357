"""Bad input, by the command a user would type: one clear message, the documented exit code, nothing half-written.

What goes wrong with run folders and disks is tested in ``tests/training``.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpumlp.cli import main

CONFIG = """\
task: classification
data: {train: a.csv, target: y}
training:
  epochs: 1
"""
ROWS = [f"{i % 7},{'uvw'[i % 3]},{'ab'[i % 2]}" for i in range(40)]
GOOD = "\n".join(["x,c,y", *ROWS]) + "\n"
PACKED = gzip.compress(GOOD.encode() * 90)
IMAGES = struct.pack(">IIII", 2051, 2, 1, 1) + b"ab"


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def train(folder: Path, *overrides: str) -> Result:
    changes = [word for override in overrides for word in ("--set", override)]
    return run("train", str(folder / "run.yaml"), "--run-dir", str(folder / "run"), *changes)


def refused(result: Result, code: int, message: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr


def changed(*rows: str) -> str:
    """Return the good table with other first rows."""
    return "\n".join(["x,c,y", *rows, *ROWS[len(rows) :]]) + "\n"


NUMBERS = "x,y\n" + "".join(f"{i + 1}.5,{'ab'[i % 2]}\n" for i in range(40))
REGRESSION = ("task=regression", "data.target=x")

# What goes wrong: the files, what is set, what is said. Line 1 of a.csv is its header.
DATA: dict[str, tuple[dict[str, str | bytes], tuple[str, ...], str]] = {
    "missing file": ({}, (), "run.yaml:2:8: data.train: {folder}/a.csv: no such file"),
    "missing file, with one near": ({"aa.csv": GOOD}, (), "did you mean 'aa.csv'?"),
    "missing test file": ({"a.csv": GOOD}, ("data.split.test=t.csv",), "--set data.split.test: {folder}/t.csv: no"),
    "empty file": ({"a.csv": ""}, (), "a.csv: the file is empty"),
    "blank file": ({"a.csv": "\n \n"}, (), "a.csv: the file is empty"),
    "header only": ({"a.csv": "x,c,y\n"}, (), "a.csv: there are column names but no rows"),
    "ragged row": ({"a.csv": changed("1,u")}, (), "a.csv:2: 3 column names for a row of 2 cells"),
    "broken quotes": ({"a.csv": changed('1,"u,a')}, (), "a.csv:2: broken quoting or line end"),
    "text among numbers": (
        {"a.csv": NUMBERS.replace("\n7.5", "\nseven")},
        ("data.split={validation: 0, test: 0}",),
        "a.csv:8: column 'x' should be numeric, but this cell is 'seven'",
    ),
    "text among numbers, in no training row": (
        {"a.csv": NUMBERS, "t.csv": "x,y\n1,a\nseven,b\n"},
        ("data.split.test=t.csv",),
        "t.csv:3: column 'x' should be numeric, but this cell is 'seven'",
    ),
    "numbers with commas": (
        {"a.csv": NUMBERS.replace(",", ";").replace(".5", ",500")},
        (),
        "column 'x' has numbers that are not written plainly, such as",
    ),
    "target of text": ({"a.csv": GOOD}, ("task=regression",), "column 'y' should be numeric, but this cell is 'a'"),
    "target missing": ({"a.csv": changed("1,u,", "2,v,?")}, (), "a.csv:2: the target is missing, as it is in 1 more"),
    "constant target": ({"a.csv": "x,y\n" + "3,1\n4,1\n" * 9}, ("task=regression",), "the target is 1 in every"),
    "one class": ({"a.csv": GOOD.replace(",b\n", ",a\n")}, (), "every row is of the class 'a'"),
    "a class for each row": (
        {"a.csv": NUMBERS + NUMBERS[4:].replace(".5", ".7")},
        ("data.target=x",),
        "rows is its own class",
    ),
    "NaN in the target": ({"a.csv": changed("nan,u,a")}, REGRESSION, "a.csv:2: the target is missing"),
    "infinity in the target": (
        {"a.csv": changed("-inf,u,a")},
        REGRESSION,
        "a.csv:2: column 'x' has '-inf', which is not",
    ),
    "infinity among classes": (
        {"a.csv": changed("inf,u,a")},
        ("data.target=x",),
        "a.csv:2: the class 'inf' is not a finite number",
    ),
    "infinity in an input": (
        {"a.csv": changed("inf,u,a")},
        (),
        "a.csv:2: column 'x' has 'inf', which is not a finite",
    ),
    "too few rows": ({"a.csv": "x,y\n1,a\n2,b\n"}, (), "2 rows are too few"),
    "unknown extension": ({"a.xlsx": GOOD}, ("data.train=a.xlsx",), "cannot tell the kind of file from the name"),
    "wrong magic": ({"a.idx": b"\0\0\x08\x07rest"}, ("data.train=a.idx",), "a.idx: not an IDX file of images (2051)"),
    "IDX cut short": ({"a.idx": IMAGES[:-1]}, ("data.train=a.idx",), "= 2, but 1 follow"),
    "no labels": ({"a.idx": IMAGES}, ("data.train=a.idx", "data.target=labels"), "there is no array 'labels'"),
    "truncated gzip": ({"a.csv.gz": PACKED[:-9]}, ("data.train=a.csv.gz",), "the gzip data is damaged or cut short"),
    "no gzip": ({"a.csv.gz": GOOD}, ("data.train=a.csv.gz",), "the gzip data is damaged or cut short"),
    "no zip": ({"a.npz": GOOD}, ("data.train=a.npz",), "a.npz: the array file is damaged or of another kind"),
    "wrong encoding": (
        {"a.csv": changed("1,é,a").encode("latin-1")},
        ("data.encoding=utf-8",),
        "a.csv:2: byte 8 (0xe9) is not UTF-8",
    ),
    "no text": ({"a.csv": bytes(200)}, (), "a.csv: there are NUL characters"),
    "duplicate names": ({"a.csv": GOOD.replace("x,c,y", "x,y,y")}, (), "a.csv:1: two columns are called 'y'"),
    "wrong target": (
        {"a.csv": GOOD},
        ("data.target=Y",),
        "--set data.target: {folder}/a.csv: there is no column 'Y'",
    ),
    "wrong columns": ({"a.csv": GOOD}, ("data.target=Y", "data.drop=[q, 9]"), "3 problems in {folder}/run.yaml\n"),
    "no column left": ({"a.csv": GOOD}, ("data.drop=[x, c]",), "no column is left to learn from"),
    "unknown class": (
        {"a.csv": GOOD},
        ("loss.class_weight.z=2",),
        "--set loss.class_weight.z: a.csv: there is no class 'z'",
    ),
    "class in the test file alone": (
        {"a.csv": GOOD, "t.csv": changed("1,u,z")},
        ("data.split.test=t.csv",),
        "t.csv:2: the class 'z' does not occur in the training data",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data(tmp_path: Path, name: str) -> None:
    files, overrides, message = DATA[name]
    write(tmp_path, {"run.yaml": CONFIG, **files})
    before = sorted(tmp_path.rglob("*"))
    result = train(tmp_path, *overrides)
    refused(result, 3, message.format(folder=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


SETTINGS = {
    "YAML syntax": ("task: [a\n", "run.yaml:2:1: a list opened with '[' is not closed"),
    "tabs": ("data:\n\ttrain: a.csv\n", "run.yaml:2:1: a tab cannot indent"),
    "duplicate keys": (
        "task: x\ntask: y\n",
        "run.yaml:2:1: the key 'task' is set twice, first in line 1",
    ),
    "unknown key": (
        CONFIG + "  epoch: 2\n",
        "run.yaml:5:3: training.epoch: unknown setting\n  did you mean 'epochs'?",
    ),
    "wrong type": (
        CONFIG + "  batch_size: many\n",
        "run.yaml:5:3: training.batch_size: got 'many', needs a whole number",
    ),
    "out of range": (
        CONFIG + "  seed: -1\n",
        "run.yaml:5:3: training.seed: got -1, needs a whole number (at least 0",
    ),
    "beyond float32": (
        CONFIG + "optimizer: {learning_rate: 1e39}\n",
        "optimizer.learning_rate: got 1e+39, outside the range of float32",
    ),
    "newer version": (CONFIG + "version: 2\n", "run.yaml:5:1: version: settings version 2"),
    "empty": ("", "run.yaml: the file is empty"),
    "no text": ("\x80", "run.yaml:1: not UTF-8 text"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path: Path, name: str) -> None:
    text, message = SETTINGS[name]
    write(tmp_path, {"run.yaml": text.encode("latin-1"), "a.csv": GOOD})
    before = sorted(tmp_path.rglob("*"))
    refused(train(tmp_path), 2, message)
    refused(run("validate", str(tmp_path / "run.yaml")), 2, message)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_class_with_one_row_is_trained_on_and_told(tmp_path: Path) -> None:
    write(tmp_path, {"run.yaml": CONFIG, "a.csv": changed("1,u,rare")})
    result = train(tmp_path)
    assert result.exit_code == 0
    assert "note: classes with one row, which is in the training part: rare" in result.stderr


def test_classes_that_may_be_one_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"run.yaml": CONFIG, "a.csv": changed("1,u,A", "2,v,A")})
    assert "note: 'A' and 'a' are different classes" in train(tmp_path).stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write(folder, {"run.yaml": CONFIG, "a.csv": GOOD})
    assert train(folder).exit_code == 0
    return folder / "run"


PREDICT = {
    "a column is missing": (
        "x\n1\n",
        "new.csv: there is no column 'c', which the model was trained on\n  allowed: x",
    ),
    "text among numbers": ("x,c\n1,u\nabc,u\n", "new.csv:3: column 'x' should be numeric, but this cell is 'abc'"),
    "other separators": ("x;c\n1;u\n", "the cells are not separated by ',' but, it seems, by ';'"),
    "ragged": ("x,c\n1\n", "new.csv:2: 2 column names for a row of 1 cell"),
    "empty": ("", "new.csv: the file is empty"),
}


@pytest.mark.parametrize("name", PREDICT)
def test_rows_to_predict(trained: Path, tmp_path: Path, name: str) -> None:
    text, message = PREDICT[name]
    write(tmp_path, {"new.csv": text})
    result = run("predict", str(trained), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv"))
    refused(result, 3, message)
    assert not (tmp_path / "out.csv").exists()


def test_what_is_new_in_rows_to_predict_is_told(trained: Path, tmp_path: Path) -> None:
    write(tmp_path, {"new.csv": "extra,c,x\n7,u,1\n7,new,2\n"})
    result = run("predict", str(trained), str(tmp_path / "new.csv"))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3
    assert "note: not used, because not in the training data: 'extra'" in result.stderr
    assert "note: column 'c': 1 row has a value not seen in training, such as 'new'" in result.stderr


def test_names_are_checked_without_training(tmp_path: Path) -> None:
    write(tmp_path, {"run.yaml": CONFIG, "a.csv": GOOD})
    assert "no problems" in run("validate", str(tmp_path / "run.yaml")).stdout
    wrong = run("validate", str(tmp_path / "run.yaml"), "--set", "data.target=Y")
    refused(wrong, 3, "there is no column 'Y'\n  did you mean 'y'?")

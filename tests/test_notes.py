"""One channel for notes: whoever finds one returns it; CLI, Python, JSON and the run folder have the same ones."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from command import run

import gpumlp
from gpumlp.errors import Note
from gpumlp.runs import train

ROWS = 60
SETTINGS = """task: regression
data: {train: t.csv, target: y, split: {validation: 0, test: 0}}
model: {hidden: [2], norm: batch}
training: {epochs: 1, batch_size: 59}
optimizer: {learning_rate: 1.0e-12}
backend: numpy
precision: tf32
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration in whose run every room finds something: data, build, and the run at its end."""
    lines = [f"{i},{i % 7},5,{i % 3}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["id,a,same,y", *lines]) + "\n")
    (tmp_path / "t.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "t.yaml"


FOUND = [
    ("column 'id' looks like an id", "id"),
    ("column 'same' is left out: it is 5", "same"),
    ("precision tf32: numpy computes", None),
    ("each epoch ends with a batch of 1 row", None),
    ("no better than a constant", None),
]


def test_every_way_out_has_the_same_notes(config: Path) -> None:
    loaded = gpumlp.load(config)
    result = train(loaded, "one")
    assert len(result.notes) == len(FOUND)
    for note, (text, column) in zip(result.notes, FOUND, strict=True):
        assert note.startswith(text)
        assert note.column == column
    listed = [{"text": str(note), "column": note.column} for note in result.notes]
    assert json.loads(Path("one/summary.json").read_text())["notes"] == listed
    done = run("train", config, "--run-dir", "two", "--json")
    assert json.loads(done.stdout)["notes"] == listed
    printed = [line.removeprefix("note: ") for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert printed == list(result.notes)
    assert run("train", config, "--run-dir", "three", "-q").stderr == ""


def test_a_model_of_rows_in_memory_has_the_notes(config: Path) -> None:
    table = {"a": np.arange(ROWS) % 7, "same": np.ones(ROWS)}
    model = gpumlp.fit(table, np.array(["x", "y"] * (ROWS // 2)), training={"epochs": 1}, backend="numpy")
    assert [note.column for note in model.notes] == ["y", "same"]
    assert model.notes[0].startswith("task classification: ")


def test_what_is_shown_of_a_network_has_the_notes_of_its_data(config: Path) -> None:
    for verb in ("backprop", "gradcheck"):
        notes = json.loads(run(verb, config, "--json").stdout)["notes"]
        assert [note["column"] for note in notes] == ["id", "same"]


def test_a_note_is_its_text_and_keeps_its_column() -> None:
    note = Note("column 'a' is empty", "a")
    for same in (note, copy.deepcopy(note), pickle.loads(pickle.dumps(note))):
        assert same == "column 'a' is empty"
        assert same.column == "a"
    part = note.of("test")
    assert (part, part.column) == ("test: column 'a' is empty", "a")
    assert Note("nothing").column is None

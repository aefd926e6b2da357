"""Names, classes and paths with control characters: no output of a command may steer a terminal."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from gpumlp.cli import verbs
from gpumlp.cli.display import EscapedOutput
from tests.command import run

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
ESCAPES = ("\x1b[31m", "\x9b2J", "\x07", "\u202e")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table of two targets and two classes, and a run of each."""
    folder = tmp_path_factory.mktemp("hostile\x1b[2J")
    names = [f"{name}{escape}" for name, escape in zip("pqyz", ESCAPES, strict=True)]
    rows = [f"{i % 7},{i % 5},{i % 3 * 1.5},{'ab'[i % 2]}\x07\x1b[2J" for i in range(40)]
    (folder / "a.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    for run_name, target in (("numbers", "[0, 2]"), ("classes", "3")):
        task = "regression" if target[0] == "[" else "classification"
        drop = "drop: [3]" if target[0] == "[" else "drop: []"
        (folder / f"{run_name}.yaml").write_text(
            f"task: {task}\ndata: {{train: a.csv, target: {target}, {drop}}}\nmodel: {{hidden: [2]}}\n"
            "training: {epochs: 1}\nbackend: numpy\n"
        )
        run("train", folder / f"{run_name}.yaml", "--run-dir", folder / run_name)
    return folder


@pytest.mark.parametrize("run_name", ["numbers", "classes"])
def test_no_command_prints_a_control_character(folder: Path, run_name: str) -> None:
    config, trained = folder / f"{run_name}.yaml", folder / run_name
    commands: list[list[object]] = [
        ["train", config, "--run-dir", folder / f"{run_name}2", "--force"],
        *(["inspect", each] for each in (config, trained)),
        *(["validate", config], ["evaluate", trained], ["evaluate", trained, "--data", folder / "a.csv"]),
        *(["backprop", config, "--row", 0], ["compare", trained, trained], ["init", folder / "a.csv"]),
        ["graph", config, "-o", folder / "g.dot", "--force"],
    ]
    for command in commands:
        result = run(*command)
        assert not CONTROL.search(result.stdout + result.stderr), command
    assert not CONTROL.search(run("init", folder / "a.csv", "--target", "x", code=3).stderr)


def test_predictions_on_a_terminal_are_escaped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["predict", folder / "classes", folder / "a.csv"]
    assert "\x07\x1b[2J\n" in run(*command).stdout  # data are what they are
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", shown)
    verbs.predict(folder / "classes", folder / "a.csv", None, False, None, (), 0, False)
    assert not CONTROL.search(shown.getvalue())
    assert "\\x1b[2J\n" in shown.getvalue()
    assert EscapedOutput().write("a\n") == 2

"""Folders that are taken for a run: the message names what they are, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gpumlp.cli.main import main
from gpumlp.config import HEADER
from gpumlp.runs.ensemble import ENSEMBLE, OF_BAG
from gpumlp.runs.folder import CHECKPOINTS, CONFIG, HISTORY, PLAN
from gpumlp.store.formats import write_sealed

VERBS = (
    ("evaluate",),
    ("predict", "a.csv"),
    ("report",),
    ("plot",),
    ("export", "-o", "m.py"),
    ("inspect",),
    ("backprop",),
)


def run_in(folder: Path) -> None:
    (folder / CHECKPOINTS).mkdir(parents=True)
    (folder / CONFIG).write_text(HEADER)
    (folder / HISTORY).touch()


def error_of(*arguments: str, code: int = 1) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_names_the_folder_of_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *more = verb
    for kind, first, then in (
        ("cv", "fold-1", "gpumlp compare cv lists them, and gpumlp ensemble cv -o NEW makes one model of them"),
        ("sweep", "point-0001", "gpumlp compare sweep lists them\n"),
        ("bag", "fold-1", "or run the same command again to finish the bag"),
    ):
        Path(kind).mkdir()
        write_sealed(Path(kind, PLAN), {"kind": kind})
        assert "it has no runs yet: run the same command again" in error_of(name, kind, *more)
        run_in(Path(kind, first))
        found = error_of(name, kind, *more)
        command = "train with bag" if kind == "bag" else kind
        assert f"error: {kind}: this is a folder of gpumlp {command}, not a run\n" in found
        assert f"pass one of its runs, such as {kind}/{first}" in found
        assert then in found


def test_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_in(Path("runs", "a"))
    assert "error: runs: not a run folder\n  allowed: runs/a\n" in error_of("evaluate", "runs")
    assert "error: runs/b: not a run folder\n" in error_of("plot", "runs/b")
    run_in(Path("bag", "fold-1"))
    write_sealed(Path("bag", PLAN), {"kind": "bag"})
    Path("bag", OF_BAG).mkdir()
    Path("bag", OF_BAG, ENSEMBLE).touch()
    for folder, more in (
        ("bag", "; else pass one of its runs, such as bag/fold-1\n"),
        (f"bag/{OF_BAG}", "load_ensemble\n"),
    ):
        for verb in ("report", "plot"):
            found = error_of(verb, folder)
            assert f"error: {folder}: this is an ensemble of models, not a run\n" in found
            assert more in found
    assert "no settings and metrics of its own" in error_of("compare", f"bag/{OF_BAG}")
    Path("bag", PLAN).write_text("{}")
    assert "not a configuration" in error_of("train", "bag", code=2)
    write_sealed(Path("runs", PLAN), {"kind": "cv"})
    assert "gpumlp cv CONFIG --run-dir runs" in error_of("validate", "runs", code=2)

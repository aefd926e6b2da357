"""A search by Optuna: points follow from those before, processes share a study, a dead one's point goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from command import run

from gpumlp.cli import main
from gpumlp.config import Loaded
from gpumlp.errors import RunError
from gpumlp.runs import Listener
from gpumlp.runs.folder import RunFolder
from gpumlp.sweep import search
from gpumlp.sweep.folder import Template

optuna = pytest.importorskip("optuna")

TPE = ("--set", "search.sampler=tpe", "--set", "optimizer.learning_rate=log(1e-4,1e-1)")
SPACE = (*TPE, "--set", "model.hidden=[4],[8,4]", "--set", "training.batch_size=int(16,32)")


@pytest.fixture
def config(task: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = task().path
    monkeypatch.chdir(path.parent)
    path.write_text(path.read_text().replace("epochs: 6", "epochs: 2") + "backend: numpy\n")
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return path


def points(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("sweep", *arguments, "--json", "-q").stdout)["points"]
    return sorted(found, key=lambda point: str(point["name"]))


def test_points_follow_from_the_seed_and_the_points_before(config: Path) -> None:
    whole = points(config, *SPACE, "--trials", 11, "--run-dir", "whole")
    assert [point["name"] for point in whole] == [f"point-{i:04}" for i in range(11)]
    begun = points(config, *SPACE, "--trials", 5, "--run-dir", "parts")
    assert [point["overrides"] for point in begun] == [point["overrides"] for point in whole[:5]]
    gone_on = points(config, *SPACE, "--trials", 11, "--run-dir", "parts")
    for one, other in zip(gone_on, whole, strict=True):
        assert (one["overrides"], one["status"], one["score"]) == (
            other["overrides"],
            other["status"],
            other["score"],
        )
    assert len({tuple(point["overrides"]) for point in whole}) == 11
    assert "11 of 11 points" in run("sweep", config, *SPACE, "--trials", 11, "--run-dir", "parts").stdout
    other = points(config, *SPACE, "--trials", 1, "--run-dir", "other", "--set", "training.seed=1")
    assert other[0]["overrides"] != whole[0]["overrides"]
    text = (Path("whole/point-0000/config.yaml")).read_text()
    assert "sampler: keyed" in text  # the run has no part in the search


def test_it_finds_better_points_than_chance(config: Path) -> None:
    """Of the last eight of 18 points most have a learning rate from the better half of the range."""
    found = points(config, *TPE, "--trials", 18, "--set", "search.pruning=none")
    rates = [float(point["overrides"][0].partition("=")[2]) for point in found]
    assert sum(rate > 10**-2.5 for rate in rates[10:]) >= 6
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)


def test_poor_points_are_pruned_and_can_be_extended_later(config: Path) -> None:
    options = (config, *TPE, "--trials", 9, "--set", "training.epochs=8")
    found = points(*options, "--run-dir", "s")
    pruned = [point for point in found if point["status"] == "pruned"]
    assert pruned
    assert all(4 <= point["summary"]["epochs"] < 8 for point in pruned)
    states = {trial.number: trial.state.name for trial in study("s").trials}
    assert {int(point["name"][-4:]) for point in pruned} == {n for n, state in states.items() if state == "PRUNED"}
    best = min(found, key=lambda point: point["score"])
    assert best["status"] == "completed"
    shown = run("sweep", *options, "--run-dir", "s").stdout
    assert f"9 of 9 points ({len(pruned)} pruned)" in shown


def study(folder: str) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/study.journal")
    return optuna.load_study(study_name=Path(folder).name, storage=optuna.storages.JournalStorage(backend))


def test_a_database_is_shared(config: Path) -> None:
    options = (
        config,
        *TPE,
        "--set",
        f"search.storage=sqlite:///{config.parent}/study.db",
        "--set",
        "training.epochs=1",
    )
    points(*options, "--trials", 2, "--run-dir", "s")
    loaded = optuna.load_study(study_name="s", storage=f"sqlite:///{config.parent}/study.db")
    assert [trial.state.name for trial in loaded.trials] == ["COMPLETE"] * 2
    assert not Path("s/study.journal").exists()
    Path("elsewhere").mkdir()
    refused = run("sweep", *options, "--set", "training.seed=3", "--trials", 2, "--run-dir", "elsewhere/s", code=1)
    assert "has a study 's' with other settings" in refused.stderr
    assert not Path("elsewhere/s").exists()


class DeadError(BaseException):
    """Stands for the end of a process."""


def test_a_point_of_a_dead_process_goes_on(config: Path) -> None:
    """It keeps its number and its settings, and goes on from its last checkpoint."""

    class Dies(Listener):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            if row["epoch"] == 4:
                raise DeadError

    options = ("search.sampler=tpe", "training.checkpoint_every=7", "optimizer.learning_rate=log(1e-4,1e-1)")
    options = (*options, "training.epochs=6")
    template, space = search.space_of(Template(config), options, 2)
    with pytest.raises(DeadError):
        search.sweep(template, space, "s", listener=Dies())
    assert [trial.state.name for trial in study("s").trials] == ["RUNNING"]
    started = RunFolder(Path("s/point-0000")).checkpoints()
    assert started
    first = study("s").trials[0].params
    found = search.sweep(template, space, "s")
    assert len(found) == 2
    assert study("s").trials[0].params == first
    assert [trial.state.name for trial in study("s").trials] == ["COMPLETE"] * 2
    assert [*study("s").trials[0].intermediate_values] == [1, 2, 3, 4, 5, 6]
    template, space = search.space_of(Template(config), options, 1)
    alone = search.sweep(template, space, "alone")
    (same,) = (point for point in found if point.name == "point-0000")
    assert alone[0].score == same.score


@pytest.mark.parametrize(
    ("more", "text", "code"),
    [
        ((), "add --trials N", 2),
        (("--trials", "2", "--part", "0/2"), "they share the study", 2),
        (("--trials", "2", "--set", "search.storage=nonsense"), "nonsense: the storage cannot be used: ", 1),
        (("--trials", "2", "--set", "search.storage=sqlite:////no/such/x.db"), "unable to open database file", 1),
        (("--trials", "2", "--set", "search.storage=pg://me:secret@host/x"), "pg://me:***@host/x: the storage", 1),
        (("--trials", "2", "--set", "search.sampler=keyed", "--set", "search.storage=x"), "has no study to keep", 2),
        (("--trials", "2", "--set", "search.sampler=tpo"), "did you mean 'tpe'?", 2),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    config: Path, more: tuple[str, ...], text: str, code: int
) -> None:
    before = sorted(config.parent.iterdir())
    message = run("sweep", config, *TPE, *more, code=code).stderr
    assert text in message
    assert "secret" not in message
    assert sorted(config.parent.iterdir()) == before


def test_without_the_package_the_extra_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    message = run("sweep", config, *TPE, "--trials", 2, code=1).stderr
    assert "pip install 'gpumlp[sweep]'" in message


# ---- processes that are killed -------------------------------------------------------------------------------------


def start(*arguments: str) -> BaseProcess:
    context = get_context("forkserver")
    context.set_forkserver_preload(["gpumlp.cli.sweep", "optuna", "pytest"])
    process = context.Process(target=_command, args=arguments)
    process.start()
    return process


def _command(*arguments: str) -> None:
    os.fsync = lambda handle: None
    main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize("kind", ["cv", "grid", "tpe"])
def test_killed_at_random_moments(config: Path, kind: str) -> None:
    """Several processes or one after the other: what comes of it is what comes of one that is left alone."""
    options = {
        "cv": ("cv", str(config), "--folds", "3"),
        "grid": ("sweep", str(config), "--set", "training.seed=0,1,2"),
        "tpe": ("sweep", str(config), *TPE, "--trials", "3"),
    }[kind]
    options = (*options, "--set", "training.checkpoint_every=5", "-q")
    start(*options, "--run-dir", "first").join()  # the server is up, and everything imported
    began = time.monotonic()
    start(*options, "--run-dir", "whole").join()
    span, rng, killed = time.monotonic() - began, random.Random(kind), 0
    for _ in range(3):
        process = start(*options, "--run-dir", "cut")
        process.join(rng.uniform(0.1, 0.9) * span)
        if process.is_alive():
            os.kill(int(process.pid or 0), signal.SIGKILL)
            killed += 1
        process.join()
    last = start(*options, "--run-dir", "cut")
    last.join()
    assert last.exitcode == 0
    assert killed
    runs = sorted(path.parent.parent for path in Path("whole").glob("*/model/model.json"))
    assert len(runs) == 3
    for path in runs:
        for name in ("model.json", "weights.safetensors"):
            assert (path / "model" / name).read_bytes() == (Path("cut") / path.name / "model" / name).read_bytes()
    if kind == "cv":
        assert Path("whole/predictions.csv").read_bytes() == Path("cut/predictions.csv").read_bytes()
    if kind == "tpe":
        assert [trial.params for trial in study("cut").trials] == [trial.params for trial in study("whole").trials]
        assert {trial.state.name for trial in study("cut").trials} == {"COMPLETE"}


def test_two_processes_share_the_points(config: Path) -> None:
    options = ("sweep", str(config), *TPE, "--trials", "6", "-q", "--run-dir", "s")
    processes = [start(*options) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in Path("s").glob("point-*")) == [f"point-{i:04}" for i in range(6)]
    assert [trial.state.is_finished() for trial in study("s").trials] == [True] * 6


def test_a_sweep_notices_changed_data(config: Path) -> None:
    options = (config, "--set", "optimizer.learning_rate=1e-3,1e-2", "-q", "--run-dir", "s")
    run("sweep", *options, "--part", "0/2")
    lines = Path("points.csv").read_text().splitlines()
    Path("points.csv").write_text("\n".join(lines[:-3]) + "\n")
    assert "the data have changed since this point was trained" in run("sweep", *options, code=1).stderr
    assert not Path("s/point-0001").exists()


def test_compare_shows_any_metric_and_all_settings(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    changed = ("training.seed=1", "model.dropout=0.1", "training.batch_size=8", "optimizer.beta1=0.8")
    run("train", config, "-q", "--run-dir", "one")
    run("train", config, "-q", "--run-dir", "two", *(part for each in changed for part in ("--set", each)))
    few = run("compare", "one", "two").stdout
    assert "also differ: " in few
    shown = run("compare", "one", "two", "--all", "--metric", "log_loss", "--metric", "ece").stdout
    assert "also differ" not in shown
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.split()}
    for name, value in (setting.split("=") for setting in changed):  # more of them than runs: a line for each
        assert lines[name][1] == value != lines[name][0]
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("log-loss") == shown.count("ECE") == 2
    summary = json.loads(Path("two/summary.json").read_text())
    assert f"{summary['metrics']['test']['log_loss']:.4f}" in shown
    assert "did you mean 'log_loss'?" in run("compare", "one", "two", "--metric", "logloss", code=2).stderr


def test_a_trial_that_is_not_told_twice(config: Path) -> None:
    """A process that died between the end of a run and the end of its trial."""
    options = ("search.sampler=tpe", "optimizer.learning_rate=log(1e-4,1e-1)")
    template, space = search.space_of(Template(config), options, 2)

    class DiesError(RunError):
        pass

    def dying(point: search.Point, before: bool) -> None:
        raise DiesError(point.name)

    with pytest.raises(DiesError):
        search.sweep(template, space, "s", done=dying)
    assert len(search.sweep(template, space, "s")) == 2

"""A run is what it was begun as, and touches only its own files: what is not so is refused by a clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.config import Loaded
from gpumlp.errors import RunError, WriteError
from gpumlp.runs import Listener, evaluate, load_run, load_trained, train
from gpumlp.runs.checkpoint import Checkpoint
from gpumlp.runs.folder import REPLACED, RunFolder
from gpumlp.store.formats import read_arrays, sealed, write_arrays

Task = Callable[..., Loaded]
SHORT = ("training.epochs=3", "training.checkpoint_every=5")


class CutError(Exception):
    """Stands for the end of the process."""


class Cut(Listener):
    def epoch(self, row: dict[str, Any], best: bool) -> None:
        if row["epoch"] == 2:
            raise CutError


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model(folder: Path) -> dict[str, bytes]:
    return files(folder / "model")


known: dict[str, bytes] = {}


@pytest.fixture
def whole(task: Task, tmp_path: Path) -> dict[str, bytes]:
    """The model of the run that nobody touched."""
    if not known:
        known.update(model(train(task(*SHORT), tmp_path / "whole").folder))
    return known


@pytest.fixture
def cut(task: Task, tmp_path: Path) -> RunFolder:
    """A run that was cut after two epochs of three."""
    with pytest.raises(CutError):
        train(task(*SHORT), tmp_path / "cut", listener=Cut())
    folder = RunFolder(tmp_path / "cut")
    assert len(folder.checkpoints()) == 2
    return folder


# ---- a run goes on only as what it was -----------------------------------------------------------------


def test_each_setting_that_differs_is_listed_with_both_values(task: Task, cut: RunFolder) -> None:
    other = ("training.seed=7", "optimizer=sgd", "model.hidden=[32]", "data.scaling=none", "training.epochs=9")
    with pytest.raises(RunError, match="another configuration") as caught:
        train(task(*SHORT, *other), cut.path, resume=True)
    lines = str(caught.value).splitlines()
    for line in (
        "  training.seed was 0, is now 7",
        '  optimizer.name was "adam", is now "sgd"',
        "  training.epochs was 3, is now 9",
        '  data.scaling was null, is now "none"',
        "  optimizer.beta1 was 0.9, is now not set",
    ):
        assert line in lines
    assert lines[-1] == f"  resume with the original settings: {cut.resume_command}"


def test_a_checkpoint_of_another_configuration_is_refused(task: Task, cut: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CutError):
        train(task(*SHORT, "training.seed=1"), tmp_path / "other", listener=Cut())
    for path in RunFolder(tmp_path / "other").checkpoints():
        shutil.copy(path, cut.path / "checkpoints")
    with pytest.raises(RunError, match=r"another configuration\n  training.seed was 1, is now 0"):
        train(task(*SHORT), cut.path, resume=True)


def test_another_place_of_the_data_is_no_other_configuration(
    task: Task, cut: RunFolder, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "points.csv", tmp_path / "moved")
    train(task(*SHORT, f"data.folder={tmp_path / 'moved'}"), cut.path, resume=True)
    assert model(cut.path) == whole


def test_a_damaged_configuration_is_written_anew(task: Task, cut: RunFolder, whole: dict[str, bytes]) -> None:
    text = cut.config.read_text()
    cut.config.write_text(text.replace("epochs: 3", "epochs: ["))
    train(task(*SHORT), cut.path, resume=True)
    assert model(cut.path) == whole
    assert cut.config.read_text() == text


FORGERIES: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "no array": lambda arrays, meta: arrays.clear(),
    "a shape": lambda arrays, meta: arrays.update({k: v[..., None] for k, v in arrays.items()}),
    "a dtype": lambda arrays, meta: arrays.update({k: v.astype(np.float16) for k, v in arrays.items()}),
    "another array": lambda arrays, meta: arrays.update({"more/x": np.zeros(1)}),
    "the sums": lambda arrays, meta: arrays.update({"trainer/totals": np.zeros(1)}),
    "no progress": lambda arrays, meta: meta.pop("progress"),
    "no trainer": lambda arrays, meta: meta.pop("trainer"),
    "no schedule": lambda arrays, meta: meta.pop("schedule"),
    "no settings": lambda arrays, meta: meta.pop("settings"),
    "no data": lambda arrays, meta: meta.pop("data"),
    "no history": lambda arrays, meta: meta.pop("history"),
    "an epoch": lambda arrays, meta: meta["trainer"].update(epoch=10**12),
    "a batch": lambda arrays, meta: meta["trainer"].update(batch=-1),
    "a text": lambda arrays, meta: meta["trainer"].update(seconds="1"),
    "a list": lambda arrays, meta: meta.update(progress=[]),
    "a key": lambda arrays, meta: meta["progress"].update(more=1),
    "a truth": lambda arrays, meta: meta["progress"].update(epoch=True),
    "the epochs": lambda arrays, meta: meta.update(epochs="x"),
    "infinite epochs": lambda arrays, meta: meta.update(epochs=float("inf")),
    "a NaN": lambda arrays, meta: meta["schedule"].update(scale=float("nan")),
    "the best": lambda arrays, meta: meta["progress"].update(best_epoch=99),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_checkpoint_is_refused(
    task: Task, cut: RunFolder, whole: dict[str, bytes], caplog: pytest.LogCaptureFixture, forgery: str
) -> None:
    """Its checksum is right, its content is not. The one before it is taken."""
    path = cut.checkpoints()[0]
    arrays, meta = read_arrays(path)
    del meta["sha256"]
    FORGERIES[forgery](arrays, meta)
    write_arrays(path, arrays, meta)
    train(task(*SHORT), cut.path, resume=True)
    assert str(path) in caplog.text
    assert model(cut.path) == whole


def test_a_forged_checkpoint_is_whole_where_nothing_was_changed(cut: RunFolder) -> None:
    """So that the test above cannot pass by a checkpoint that is never taken."""
    path = cut.checkpoints()[0]
    arrays, meta = read_arrays(path)
    del meta["sha256"]
    before = path.read_bytes()
    write_arrays(path, arrays, meta)
    assert path.read_bytes() == before
    assert replace(Checkpoint.read(path), data="x").data == "x"


# ---- a complete run is one whose files are as it left them ---------------------------------------------


def damage_weights(folder: Path) -> None:
    path = folder / "model/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("how", ["deleted", "damaged", "foreign", "no history", "no weights", "summary"])
def test_a_finished_run_is_looked_at_before_it_is_called_complete(task: Task, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    train(task(*SHORT), folder)
    whole = model(folder)
    train(task(*SHORT, "training.seed=1"), tmp_path / "other")
    match how:
        case "deleted":
            shutil.rmtree(folder / "model")
        case "damaged":
            damage_weights(folder)
        case "foreign":
            shutil.rmtree(folder / "model")
            shutil.copytree(tmp_path / "other/model", folder / "model")
        case "no history":
            (folder / "metrics.jsonl").write_text("")
        case "no weights":
            (folder / "model/weights.safetensors").unlink()
        case "summary":
            text = (folder / "summary.json").read_text()
            (folder / "summary.json").write_text(text.replace('"best_epoch"', '"best"'))
    with pytest.raises(RunError, match="the run was complete") as caught:
        train(task(*SHORT), folder, resume=True)
    assert caught.value.hint is not None
    assert str(folder / "summary.json") in caught.value.hint
    assert caught.value.hint.endswith("--resume")
    (folder / "summary.json").unlink()  # as the hint says
    train(task(*SHORT), folder, resume=True)
    assert model(folder) == whole


def test_a_model_of_another_run_does_not_answer_for_this_one(task: Task, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(task(*SHORT, f"training.seed={seed}"), tmp_path / str(seed))
    shutil.rmtree(tmp_path / "0/model")
    shutil.copytree(tmp_path / "1/model", tmp_path / "0/model")
    for use in (load_trained, evaluate):
        with pytest.raises(RunError, match="not the model that the run wrote"):
            use(tmp_path / "0")
    load_trained(tmp_path / "0/model")  # by itself it is a model like any other


def test_a_configuration_that_was_changed_afterwards(task: Task, tmp_path: Path) -> None:
    config = train(task(*SHORT), tmp_path / "run").folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("seed: 0", "seed: 3"))
    with pytest.raises(RunError, match=r"not the one that the run was trained with\n  training.seed was 0, is now 3"):
        load_run(tmp_path / "run")
    config.write_text(f"{text}# a remark\n")
    load_run(tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_whose_weights_are_not_finite_is_refused(task: Task, tmp_path: Path, value: float) -> None:
    folder = train(task(*SHORT, "model.norm=batch"), tmp_path / "run").folder / "model"
    before, _ = read_arrays(folder / "weights.safetensors")
    for name, array in before.items():
        if not name.startswith("network/"):
            continue
        arrays = {**before, name: array.copy()}
        arrays[name].flat[-1] = value
        checksum = write_arrays(folder / "weights.safetensors", arrays, {"format": 1})
        description = json.loads((folder / "model.json").read_text())
        del description["sha256"]
        (folder / "model.json").write_text(json.dumps(sealed({**description, "weights": checksum})))
        with pytest.raises(RunError, match=f"{name.removeprefix('network/')} has values that are not finite"):
            load_trained(folder)


# ---- links, pipes, devices -----------------------------------------------------------------------------

OWN = ("config.yaml", "metrics.jsonl", "summary.json", "model/model.json", "model/weights.safetensors")
posix = pytest.mark.skipif(os.name != "posix", reason="there are no pipes")


@posix
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
@pytest.mark.parametrize("name", OWN)
def test_what_is_no_file_is_not_read(task: Task, tmp_path: Path, name: str, kind: str) -> None:
    """No pipe is waited for, no device is opened, no link is followed, even to the same bytes."""
    folder = train(task(*SHORT), tmp_path / "run").folder
    path = folder / name
    path.rename(tmp_path / "kept")
    match kind:
        case "link":
            path.symlink_to(tmp_path / "kept")
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
    kept = (tmp_path / "kept").read_bytes()
    for use in (evaluate, load_trained, lambda run: train(task(*SHORT), run, resume=True)):
        with pytest.raises(RunError):
            use(folder)
    assert (tmp_path / "kept").read_bytes() == kept


@posix
@pytest.mark.parametrize("name", ["checkpoints", "model"])
@pytest.mark.parametrize("mode", [{"resume": True}, {"force": True}, {}])
def test_a_folder_that_is_a_link_is_refused(task: Task, cut: RunFolder, name: str, mode: dict[str, bool]) -> None:
    outside = cut.path.parent / "outside"
    outside.mkdir()
    if (cut.path / name).exists():
        (cut.path / name).rename(outside / "moved")
    (outside / "moved").mkdir(exist_ok=True)
    (cut.path / name).symlink_to(outside / "moved")
    before = files(outside)
    with pytest.raises(RunError, match="link"):
        train(task(*SHORT), cut.path, **mode)
    assert files(outside) == before


@posix
def test_no_picture_is_drawn_through_a_link(task: Task, tmp_path: Path) -> None:
    folder = train(task(*SHORT), tmp_path / "run").folder
    (tmp_path / "outside").write_text("mine")
    (folder / "plot.png").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="link"):
        load_run(folder)  # as `plot` does to find its place


@posix
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml"])
def test_nothing_is_written_through_a_link(task: Task, cut: RunFolder, name: str) -> None:
    outside = cut.path.parent / "outside"
    (cut.path / name).rename(outside)
    (cut.path / name).symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(RunError):
        train(task(*SHORT), cut.path, resume=True)
    assert outside.read_bytes() == before


# ---- one run in the place of another -------------------------------------------------------------------


CALLS = ((os, "replace"), (os, "fsync"), (Path, "mkdir"), (Path, "unlink"))


@pytest.mark.parametrize(
    ("error", "for_good"),
    [
        (OSError(28, "No space left on device"), False),
        (OSError(30, "Read-only file system"), True),
        (CutError(), False),
    ],
    ids=["once", "from then on", "killed"],
)
def test_a_forced_start_that_fails_leaves_the_old_run_or_the_new(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, for_good: bool
) -> None:
    """At each change of the disk until the first epoch begins, one by one; it fails once, or from then on."""
    old, new = task(*SHORT), task(*SHORT, "training.seed=5")
    train(old, tmp_path / "old")
    train(new, tmp_path / "new")
    (tmp_path / "old/mine.txt").write_text("mine")
    before = files(tmp_path / "old")
    outcomes, at, count, reached = set[str](), 0, 0, False

    def failing(call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at or (for_good and count > at):
                raise error
            return call(*args, **options)

        return wrapped

    class Reached(Listener):
        def prepared(self, parts: Any, folder: Path) -> None:
            nonlocal reached
            reached = True
            raise CutError

    while not reached:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", folder)
        count = 0
        with monkeypatch.context() as patch:
            for owner, name in CALLS:
                patch.setattr(owner, name, failing(getattr(owner, name)))
            with pytest.raises((WriteError, CutError)) as caught:
                train(new, folder, force=True, listener=Reached())
        if isinstance(caught.value, WriteError):
            assert caught.value.hint is not None
            if "the previous run is unchanged" in caught.value.hint:
                assert files(folder) == before
        if not RunFolder(folder).is_run or load_seed(folder) == 0:
            # what the next start does first, whatever it is asked for
            with pytest.raises(RunError, match="there is already a run in this folder"):
                train(new, folder)
            assert {name: content for name, content in files(folder).items() if not name.endswith(".part")} == before
            outcomes.add("old")
        else:
            train(new, folder, resume=True)
            assert model(folder) == model(tmp_path / "new")
            assert (folder / "mine.txt").read_text() == "mine"
            assert not (folder / REPLACED).exists()
            outcomes.add("new")
        shutil.rmtree(folder)
    assert outcomes == {"old", "new"}
    assert at > 15


def load_seed(folder: Path) -> int:
    (line,) = (line for line in (folder / "config.yaml").read_text().splitlines() if line.strip().startswith("seed:"))
    return int(line.split(":")[1])

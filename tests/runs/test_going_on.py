"""A run that was interrupted is used as it stands, and one that has finished is given more epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.config import Loaded, load
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.runs import Listener, evaluate, fit, load_run, load_trained, plot, train
from gpumlp.runs.folder import RunFolder
from gpumlp.training.build import Parts, load_data
from gpumlp.training.members import train_side_by_side
from runs.killed import KillAfter, KilledError

Task = Callable[..., Loaded]
EVERY = "training.checkpoint_every=7"  # an epoch has 7 steps
SEVERAL = "members={count: 2, learning_rate: [0.02, 0.005]}"


class KillAtOnce(Listener):
    def prepared(self, parts: Parts, folder: Path) -> None:
        raise KilledError


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def model(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def killed(loaded: Loaded, folder: Path, epochs: int, *, resume: bool = False) -> Path:
    with pytest.raises(KilledError):
        train(loaded, folder, listener=KillAfter(epochs), resume=resume)
    return folder


@pytest.mark.parametrize("more", [(), (SEVERAL,)], ids=["one network", "two"])
def test_an_interrupted_run_is_used_with_its_best_weights_so_far(
    task: Task, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """They are those of a run that ended there, but for the calibration, which is fitted at the end."""
    cut = killed(task(EVERY, "schedule=constant", *more), tmp_path / "cut", 3)
    ended = train(task("schedule=constant", "training.epochs=3", "training.calibration=none", *more), tmp_path / "e")
    found, wanted = load_trained(cut), load_trained(ended.folder)
    assert found.network.arrays().keys() == wanted.network.arrays().keys()
    for name, array in wanted.network.arrays().items():
        np.testing.assert_array_equal(found.network.arrays()[name], array)
    best = ended.summary["best_epoch"]
    assert found.notes == (
        f"the run has not finished: these are its best weights so far, of epoch {best} of 6; "
        "probabilities are not calibrated yet",
    )
    assert wanted.notes == ()
    metrics, notes = evaluate(cut)
    assert notes[0] == found.notes[0]
    assert metrics == evaluate(ended.folder)[0]
    np.testing.assert_array_equal(
        found.predict_proba(tmp_path / "points.csv"), wanted.predict_proba(tmp_path / "points.csv")
    )
    assert plot(cut, tmp_path / "cut.svg") == found.notes
    assert load_run(cut, unfinished=True).summary["status"] == "not finished"
    with pytest.raises(RunError, match="has not finished"):
        load_run(cut)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = killed(task(EVERY), tmp_path / "cut", 3)
    last = RunFolder(cut).checkpoints()[0]
    last.write_bytes(last.read_bytes()[:-5])
    assert "of epoch 2 of 6" in load_trained(cut).notes[0]
    assert "trying the checkpoint before it" in caplog.text


def test_without_a_whole_epoch_there_is_nothing_to_use(task: Task, tmp_path: Path) -> None:
    cut = killed(task(), tmp_path / "none", 2)
    for use in (load_trained, evaluate, lambda run: plot(run, tmp_path / "cut.svg")):
        with pytest.raises(RunError, match=r"no checkpoint of a whole epoch yet\n  resume it: gpumlp train "):
            use(cut)
    assert not (tmp_path / "cut.svg").exists()


@pytest.mark.parametrize("more", [(), ("optimizer.averaging=0.9", "model.norm=batch"), (SEVERAL,)])
def test_a_longer_run_is_the_one_that_was_begun_so(task: Task, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Where no schedule depends on the number of epochs; bit for bit, and the part before stays as it is."""
    same = ("schedule=constant", *more)
    whole = train(task(*same, "training.epochs=10"), tmp_path / "whole")
    short = train(task(*same), tmp_path / "run")
    before = rows(short.folder)
    longer = train(task(*same, "training.epochs=10"), short.folder, resume=True)
    assert model(longer.folder) == model(whole.folder)
    assert rows(longer.folder) == rows(whole.folder)
    assert rows(longer.folder)[:6] == before
    assert longer.summary["extensions"] == [{"after": 6, "from": 6, "to": 10}]
    assert "extensions" not in whole.summary
    assert longer.summary["metrics"] == whole.summary["metrics"]
    assert load(longer.folder / "config.yaml").settings.training.epochs == 10


def test_the_schedule_of_a_longer_run(task: Task, tmp_path: Path) -> None:
    """It is that of all its epochs, from where it was extended on; and killed there it ends the same."""
    for name in ("whole", "cut"):
        train(task(EVERY), tmp_path / name)
    assert rows(tmp_path / "whole")[-1]["learning_rate"] < 1e-4
    longer = task(EVERY, "training.epochs=12")
    whole = train(longer, tmp_path / "whole", resume=True)
    (note,) = (note for note in whole.notes if note.startswith("extended"))
    assert note == (
        "extended from 6 to 12 epochs after epoch 6; the schedule cosine is now that of 12 epochs: the learning rate "
        "goes on at 0.005 (it was 1.4e-05)"
    )
    rates = [row["learning_rate"] for row in rows(whole.folder)]
    direct = train(longer, tmp_path / "direct")
    assert rates[6:] == [row["learning_rate"] for row in rows(direct.folder)][6:]
    assert rates[:6] != [row["learning_rate"] for row in rows(direct.folder)][:6]
    with pytest.raises(KilledError):  # before its first checkpoint
        train(longer, tmp_path / "cut", listener=KillAtOnce(), resume=True)
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert load_trained(tmp_path / "cut").notes[0].startswith("the run has not finished")
    assert evaluate(tmp_path / "cut")[0].keys() == {"train", "validation", "test"}
    killed(longer, tmp_path / "cut", 10, resume=True)
    cut = train(load(tmp_path / "cut" / "config.yaml"), tmp_path / "cut", resume=True)
    assert model(cut.folder) == model(whole.folder)
    assert rows(cut.folder) == rows(whole.folder)
    assert cut.summary["extensions"] == whole.summary["extensions"]
    again = train(task(EVERY, "training.epochs=13"), cut.folder, resume=True)
    assert again.summary["extensions"] == [{"after": 6, "from": 6, "to": 12}, {"after": 12, "from": 12, "to": 13}]


def test_a_run_that_stopped_early_goes_on_without_early_stopping(task: Task, tmp_path: Path) -> None:
    hot = ("optimizer.learning_rate=0.5", "schedule=constant", "training.epochs=30")
    train(task(*hot, "training.early_stopping={patience: 2}"), tmp_path / "run")
    done = len(rows(tmp_path / "run"))
    assert done < 30
    with pytest.raises(RunError, match=rf"stopped early after {done} epochs\n  set training.early_stopping=null"):
        train(
            task(*hot, "training.early_stopping={patience: 2}", "training.epochs=40"), tmp_path / "run", resume=True
        )
    assert (tmp_path / "run" / "summary.json").exists()
    longer = train(task(*hot, "training.early_stopping=null"), tmp_path / "run", resume=True)
    assert longer.summary["epochs"] == 30
    assert longer.summary["extensions"] == [{"after": done, "from": 30, "to": 30}]


def test_what_cannot_be_extended(task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gpumlp")
    train(task(), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"has 6 epochs, and cannot be made shorter\n  resume it as it is: gpumlp"):
        train(task("training.epochs=5"), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="another configuration"):
        train(task("training.epochs=9", "training.seed=1"), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="nothing more to train: completed after 6 epochs"):
        train(task("training.early_stopping=auto"), tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    for path in RunFolder(tmp_path / "run").checkpoints():
        path.unlink()
    caplog.clear()
    with pytest.raises(RunError, match=r"no checkpoint to extend this run from\n  start another run from its model"):
        train(task("training.epochs=9"), tmp_path / "run", resume=True)
    assert not caplog.records  # which said that the run starts again
    assert (tmp_path / "run" / "summary.json").exists()


def test_networks_that_stopped_early_do_not_go_on(task: Task, tmp_path: Path) -> None:
    stopping = (
        "training.early_stopping={patience: 1}",
        "training.epochs=20",
        "members=3",
        "optimizer.learning_rate=0.3",
    )
    assert train(task(*stopping), tmp_path / "run").summary["status"] == "stopped early"
    with pytest.raises(RunError, match="networks that stopped early cannot be extended: "):
        train(task(*stopping, "training.early_stopping=null"), tmp_path / "run", resume=True)


# ---- a run that starts from another --------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("model.norm=batch",), (SEVERAL,)], ids=["one network", "batch norm", "two"])
def test_a_run_starts_from_the_best_weights_of_another(task: Task, tmp_path: Path, more: tuple[str, ...]) -> None:
    """With a learning rate of 1e-30 it ends with them; its encoding is the other's, whatever its own rows are."""
    first = train(task(*more), tmp_path / "first")
    lines = (tmp_path / "points.csv").read_text().splitlines()
    (tmp_path / "points.csv").write_text("\n".join(lines[:1] + lines[60:]) + "\n")
    still = ("optimizer.learning_rate=1e-30", "members=2") if SEVERAL in more else ("optimizer.learning_rate=1e-30",)
    loaded = task(*more[: SEVERAL not in more], *still, f"model.start_from={first.folder}", "training.epochs=2")
    second = train(loaded, tmp_path / "second")
    one, other = load_trained(first.folder), load_trained(second.folder)
    for name, array in one.network.arrays().items():
        if name.split(".")[-1] not in ("mean", "variance"):  # which follow the rows
            np.testing.assert_array_equal(other.network.arrays()[name], array)
    assert other.encoder.to_state()[0] == one.encoder.to_state()[0]
    assert second.summary["start"] == {"run": str(first.folder), "model": first.summary["model"]}
    assert "start" not in first.summary


def test_what_a_run_does_not_start_from(task: Task, tmp_path: Path) -> None:
    """One message lists all that differs, and nothing is written."""
    first = train(task(), tmp_path / "first").folder
    start = f"model.start_from={first}"
    other = (start, "model.hidden=[9]", "model.activation=relu", "data.drop=[]", "data.scaling=standard")
    with pytest.raises(ConfigError, match="cannot be trained further with other settings") as caught:
        train(task(*other), tmp_path / "second")
    assert str(caught.value).splitlines() == [
        f"--set model.start_from: the network of {first} cannot be trained further with other settings",
        '  data.scaling was null, is now "standard"',
        '  data.drop was ["w"], is now []',
        '  model.hidden was [{"units": 8, "activation": "tanh", "norm": "none"}], '
        'is now [{"units": 9, "activation": "relu", "norm": "none"}]',
    ]
    several = train(task(SEVERAL), tmp_path / "several").folder
    with pytest.raises(ConfigError, match="has other arrays"):
        train(task(f"model.start_from={several}"), tmp_path / "second")
    with pytest.raises(RunError, match="not a run folder"):
        train(task(f"model.start_from={tmp_path / 'nothing'}"), tmp_path / "second")
    with pytest.raises(RunError, match="not encoded as in the run to start from"):
        train(task(start, "training.seed=3"), tmp_path / "second", data=load_data(task("training.seed=3")))
    with pytest.raises(ConfigError, match="trains networks with new weights"):
        train_side_by_side([(task(start).settings, load_data(task()))])
    lines = (tmp_path / "points.csv").read_text()
    (tmp_path / "points.csv").write_text(f"{lines}1.0,2.0,1,unheard of\n")
    with pytest.raises(DataError, match="'unheard of' does not occur in the training data"):
        train(task(start), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_the_path_to_start_from_is_relative_to_the_file(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(task(), tmp_path / "first")
    text = (tmp_path / "points.yaml").read_text()
    (tmp_path / "on.yaml").write_text(text.replace("{hidden: [8],", "{start_from: first, hidden: [8], dropout: 0.1,"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cut = killed(load(tmp_path / "on.yaml", [EVERY]), tmp_path / "cut", 2)
    assert load(cut / "config.yaml").settings.model.start_from == str(tmp_path / "first")
    resumed = train(load(tmp_path / "on.yaml", [EVERY]), cut, resume=True)
    assert model(resumed.folder) == model(train(load(tmp_path / "on.yaml"), tmp_path / "whole").folder)


def test_rows_in_memory_start_from_a_run(task: Task, tmp_path: Path) -> None:
    train(task("data.drop=[]"), tmp_path / "first")
    table = dict(zip("abw", np.random.default_rng(1).standard_normal((3, 40)), strict=True)) | {
        "class": list("xyzx") * 10
    }
    settings: dict[str, Any] = {"training": {"epochs": 1}, "optimizer": {"learning_rate": 1e-30, "averaging": None}}
    layers = {"hidden": [8], "activation": "tanh", "start_from": tmp_path / "first"}
    found = fit(table, "class", model=layers, **settings)
    for name, array in load_trained(tmp_path / "first").network.arrays().items():
        np.testing.assert_array_equal(found.network.arrays()[name], array)

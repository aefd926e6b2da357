from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp import backend
from gpumlp.config import Loaded, load
from gpumlp.errors import DataError, RunError
from gpumlp.runs import Listener, evaluate, load_trained, train
from gpumlp.runs.folder import RunFolder
from gpumlp.store import formats
from gpumlp.store.formats import sealed
from gpumlp.training.build import build, load_data
from gpumlp.training.loop import Progress
from gpumlp.training.measure import constant_loss
from gpumlp.training.trainer import EpochReport, Trainer
from runs.killed import KillAfter, KilledError

Task = Callable[..., Loaded]


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_folder_of_a_run(task: Task, tmp_path: Path) -> None:
    result = train(task(), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl", "model", "summary.json",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "run" / "model").iterdir()) == ["model.json", "weights.safetensors"]
    rows = history(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {
        "epoch", "seconds", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
        "validation_macro_f1", "learning_rate",
    }  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary == result.summary
    assert summary["status"] == "completed"
    assert summary["epochs"] == 6
    assert summary["backend"] == backend.get("auto").name
    assert summary["parameters"] == (2 + 1) * 8 + (8 + 1) * 3
    assert set(summary["metrics"]) == {"train", "validation", "test"}
    assert set(summary["phases"]) == {"read", "fit", "encode", "train", "measure", "save"}
    assert summary["phases"]["train"] > 0 < summary["seconds"]
    assert summary["metrics"]["test"]["accuracy"] > 0.7
    best = min(rows, key=lambda row: row["validation_loss"])
    assert summary["best_epoch"] == best["epoch"]
    assert summary["metrics"]["validation"]["loss"] == pytest.approx(best["validation_loss"], rel=1e-6)
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))


def test_the_resolved_config_makes_the_same_run(task: Task, tmp_path: Path) -> None:
    train(task("training.seed=5", "model.dropout=0.2"), tmp_path / "a")
    train(load(tmp_path / "a" / "config.yaml"), tmp_path / "b")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes()


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every epoch leave a checkpoint."""
    monkeypatch.setattr("gpumlp.runs.run.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("gpumlp.runs.run.CHECKPOINT_SHARE", 1e9)


SETTINGS = [
    (),
    ("optimizer.averaging=0.9", "optimizer.clip_norm=0.5", "model.dropout=0.3", "model.norm=batch"),
    (
        "optimizer={name: muon, averaging: 0.9, clip_norm: 1}",
        "model.hidden=[6, 9]",
        "members={count: 2, share: hidden}",
    ),
    ("schedule=plateau", "training.early_stopping={patience: 2}", "training.snapshots=3", "optimizer=momentum"),
    ("precision=bf16", "optimizer.averaging=0.9", "model.dropout=0.3", "model.norm=batch"),
    ("model.parametrization=ntk", "model.input_factors=true", "model.trained_activation=true", "model.dropout=0.1"),
    ("model.numbers=both", "model.initializer=data", "optimizer=schedule_free", "training.snapshots=4"),
    ("model.numbers=ple", "members=2", "training.mixup=0.3"),
    ("precision=bf16", "model.numbers=both", "members={count: 2, share: weights}", "training.mixup=0.3"),
]


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize(
    "settings",
    SETTINGS,
    ids=["plain", "everything", "muon", "plateau", "bf16", "factors", "both", "ple", "bf16 both"],
)
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    task: Task, tmp_path: Path, settings: tuple[str, ...], epochs: int
) -> None:
    whole = train(task(*settings), tmp_path / "whole")
    with pytest.raises(KilledError):
        train(task(*settings), tmp_path / "cut", listener=KillAfter(epochs))
    assert not (tmp_path / "cut" / "summary.json").exists()
    resumed = train(task(*settings), tmp_path / "cut", resume=True)
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "whole/model" / name).read_bytes() == (tmp_path / "cut/model" / name).read_bytes()
    timed = ("phases", "seconds", "seconds_per_step", "samples_per_second", "history", "sha256")
    assert {k: v for k, v in whole.summary.items() if k not in timed} == {
        k: v for k, v in resumed.summary.items() if k not in timed
    }
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "cut"), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.usefixtures("every_epoch")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(task(), tmp_path / "whole")
    with pytest.raises(KilledError):
        train(task(), tmp_path / "cut", listener=KillAfter(4))
    checkpoints = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [p.name for p in checkpoints] == [f"step-{7 * epoch:09d}.safetensors" for epoch in (2, 3, 4)]
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:-7])
    with caplog.at_level("WARNING", "gpumlp"):
        resumed = train(task(), tmp_path / "cut", resume=True)
    assert [r.message.partition(": ")[0] for r in caplog.records] == [str(checkpoints[-1])]
    assert "trying the checkpoint before it" in caplog.text
    assert resumed.summary["metrics"] == whole.summary["metrics"]
    assert [row["epoch"] for row in history(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_without_a_checkpoint_yet_a_run_starts_again(task: Task, tmp_path: Path) -> None:
    whole = train(task(), tmp_path / "whole")
    with pytest.raises(KilledError):
        train(task(), tmp_path / "cut", listener=KillAfter(4))
    assert list((tmp_path / "cut" / "checkpoints").iterdir()) == []  # it took no two seconds
    assert train(task(), tmp_path / "cut", resume=True).summary["metrics"] == whole.summary["metrics"]
    assert [row["epoch"] for row in history(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_keep_their_distance(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of a second an epoch: one checkpoint in two seconds, fewer if saving takes long, and one at the end."""
    now = 0.0
    saved: list[int] = []
    monkeypatch.setattr("gpumlp.runs.run.time.monotonic", lambda: now)
    write_arrays = formats.write_arrays

    class Clock(Listener):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            nonlocal now
            now += 1.0

    def slow(path: Path, *rest: Any) -> str:
        nonlocal now
        if path.parent.name == "checkpoints":
            now += cost
            saved.append(int(path.stem.split("-")[1]) // 7)  # of 7 steps an epoch
        return write_arrays(path, *rest)

    monkeypatch.setattr("gpumlp.runs.checkpoint.write_arrays", slow)
    for cost, epochs in ((0.0, [3, 5, 7, 9]), (0.25, [3, 8])):
        saved.clear()
        train(task("training.epochs=10"), tmp_path / str(cost), listener=Clock())
        assert saved == [*epochs, 10]  # and the end


def test_resuming_a_complete_run_changes_nothing(task: Task, tmp_path: Path) -> None:
    first = train(task(), tmp_path / "run")
    weights = tmp_path / "run/model/weights.safetensors"
    written = weights.stat().st_mtime_ns
    again = train(task(), tmp_path / "run", resume=True)
    assert again.summary == first.summary
    assert weights.stat().st_mtime_ns == written


def test_an_existing_run_is_safe(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    before = (tmp_path / "run/summary.json").read_bytes()
    with pytest.raises(RunError, match="there is already a run in this folder") as caught:
        train(task(), tmp_path / "run")
    assert "--force" in str(caught.value)
    assert (tmp_path / "run/summary.json").read_bytes() == before
    with pytest.raises(RunError, match="another configuration"):
        train(task("training.seed=1"), tmp_path / "run", resume=True)
    train(task("training.seed=1"), tmp_path / "run", force=True)
    assert (tmp_path / "run/summary.json").read_bytes() != before


def test_a_run_from_before_a_setting_goes_on_with_its_default(task: Task, tmp_path: Path) -> None:
    first = train(task(), tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    text = config.read_text()
    assert "\ndevice: 0\n" in text
    config.write_text(text.replace("\ndevice: 0\n", "\n"))
    assert train(task(), tmp_path / "run", resume=True).summary == first.summary
    config.write_text(text.replace("\ndevice: 0\n", "\ndevice: 3\n"))
    assert train(task(), tmp_path / "run", resume=True).summary == first.summary


def test_force_deletes_nothing_but_runs(task: Task, tmp_path: Path) -> None:
    precious = tmp_path / "thesis" / "chapter.txt"
    precious.parent.mkdir()
    precious.write_text("words")
    with pytest.raises(RunError, match="not a run folder"):
        train(task(), tmp_path / "thesis", force=True)
    assert precious.read_text() == "words"


def test_a_configuration_by_that_name_makes_no_run(task: Task, tmp_path: Path) -> None:
    """The folder of one's own project, with a config.yaml in it, is not for gpumlp to empty."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("config.yaml", "thesis.txt"):
        (project / name).write_text("precious")
    (project / "metrics.jsonl").write_text("precious")
    (project / "checkpoints").mkdir()
    with pytest.raises(RunError, match="not a run folder") as caught:
        train(task(), project, force=True)
    assert "--force" not in str(caught.value)
    assert {p.read_text() for p in project.iterdir() if p.is_file()} == {"precious"}


def test_force_replaces_what_gpumlp_wrote_and_nothing_else(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
    own = [tmp_path / "run" / "film.part", tmp_path / "run" / "checkpoints" / "step-best.safetensors"]
    for path in own:
        path.write_text("mine")
    train(task("training.epochs=2"), tmp_path / "run", force=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert all(path.read_text() == "mine" for path in own)
    assert (tmp_path / "run" / "model" / "notes.txt").read_text() == "mine"
    assert len(history(tmp_path / "run")) == 2


def test_force_deletes_nothing_before_the_new_run_is_sure(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(DataError):
        train(task("data.target=clas"), tmp_path / "run", force=True)
    with pytest.raises(DataError):
        train(task("loss.class_weight={q: 5}"), tmp_path / "run", force=True)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


@pytest.mark.usefixtures("every_epoch")
def test_changed_data_are_noticed(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "whole")
    with pytest.raises(KilledError):
        train(task(), tmp_path / "cut", listener=KillAfter(2))
    rows = (tmp_path / "points.csv").read_text().splitlines()
    (tmp_path / "points.csv").write_text("\n".join(rows[:-9]) + "\n")
    with pytest.raises(RunError, match="data have changed"):
        train(task(), tmp_path / "cut", resume=True)
    _, notes = evaluate(tmp_path / "whole")
    assert notes == ("the data have changed since this run was trained",)


def test_evaluate_measures_the_model_by_its_own_encoding(tmp_path: Path) -> None:
    """Targets moved by 1000 must show in the error, not vanish in an encoding fitted anew."""
    lines = [f"{i % 17},{i % 17 + (i % 3) / 10}" for i in range(120)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *lines]) + "\n")
    (tmp_path / "t.yaml").write_text("task: regression\ndata: {train: t.csv, target: y}\n")
    train(load(tmp_path / "t.yaml"), tmp_path / "run")
    moved = [f"{x},{float(y) + 1000}" for x, y in (line.split(",") for line in lines)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *moved]) + "\n")
    metrics, notes = evaluate(tmp_path / "run")
    assert metrics["test"]["rmse"] == pytest.approx(1000, rel=0.05)
    assert len(notes) == 1


@pytest.mark.usefixtures("every_epoch")
def test_what_a_killed_process_left_half_written_is_cleared(task: Task, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(task(), tmp_path / "cut", listener=KillAfter(2))
    (tmp_path / "cut" / "checkpoints" / ".step-000000021.safetensors.123.part").write_bytes(b"half")
    train(task(), tmp_path / "cut", resume=True)
    assert not list((tmp_path / "cut").rglob("*.part"))


def test_a_damaged_summary_is_named(task: Task, tmp_path: Path) -> None:
    train(task("training.epochs=1"), tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    damaged = ["{", "[]"]
    for name, value in {  # of other programs and versions, with checksums that are right
        "device": ...,
        "seconds": "1",
        "best_epoch": True,
        "epochs": 10**400,
        "phases": {"measure": None},
        "metrics": {"test": {"rmse": []}},
        "samples_per_second": float("inf"),
        "members": [{}],
        "snapshots": [None],
        "reason": None,
        "settings": None,
    }.items():
        changed = {**summary, name: value} if value is not ... else {k: v for k, v in summary.items() if k != name}
        damaged.append(json.dumps(sealed({k: v for k, v in changed.items() if k != "sha256"})))
    for content in damaged:
        path.write_text(content)
        with pytest.raises(RunError, match=r"summary\.json"):
            RunFolder(tmp_path / "run").read_summary()
    for use in (evaluate, lambda run: train(task("training.epochs=1"), run, resume=True)):
        with pytest.raises(RunError, match=r"summary\.json"):
            use(tmp_path / "run")
    path.write_text(json.dumps(sealed({**{k: v for k, v in summary.items() if k != "sha256"}, "seconds": 1e30})))
    assert RunFolder(tmp_path / "run").read_summary()["seconds"] == 1e30


def test_a_network_that_comes_apart_late_keeps_its_best_weights(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_epoch = Trainer.end_epoch

    def poisoned(self: Trainer) -> EpochReport:
        report = end_epoch(self)
        if report.epoch == 4:
            self.model.parameters.values[0] = np.nan
        return report

    monkeypatch.setattr(Trainer, "end_epoch", poisoned)
    for split in ("{validation: 0.2, test: 0.2}", "{validation: 0, test: 0.2}"):
        folder = tmp_path / str(len(split))
        config = task(f"data.split={split}", "optimizer.learning_rate=1e-3")
        with pytest.raises(RunError, match="in epoch 4; the weights of epoch 3 are kept"):
            train(config, folder)
        assert json.loads((folder / "summary.json").read_text())["status"] == "diverged"
        assert np.isfinite(load_trained(folder).network.parameters.values).all()
        with pytest.raises(RunError, match=r"diverged \(.* in epoch 4\); resuming would"):
            train(config, folder, resume=True)


def test_rows_without_weight_do_no_harm(task: Task, tmp_path: Path) -> None:
    """Batches of one row, most of them weighing nothing."""
    rows = (tmp_path / "points.csv").read_text().splitlines()
    light = [rows[0], *(",".join([*row.split(",")[:2], str(int(i % 5 == 0)), row.split(",")[3]])
                        for i, row in enumerate(rows[1:]))]  # fmt: skip
    (tmp_path / "points.csv").write_text("\n".join(light) + "\n")
    result = train(task("data.drop=[]", "data.weights=w", "training.batch_size=1"), tmp_path / "run")
    assert result.summary["metrics"]["test"]["accuracy"] > 0.6
    last = history(tmp_path / "run")[-1]
    assert last["train_accuracy"] == pytest.approx(result.summary["metrics"]["train"]["accuracy"], abs=0.1)


@pytest.mark.usefixtures("every_epoch")
def test_a_run_goes_on_by_the_backend_it_began_with(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.get("auto").name == "numpy":
        pytest.skip("only one backend here")
    with pytest.raises(KilledError):
        train(task(), tmp_path / "cut", listener=KillAfter(2))
    monkeypatch.setattr("gpumlp.backend.host.builder.compiler", lambda: None)
    with pytest.raises(RunError, match="computed by native; by numpy it would end otherwise"):
        train(task(), tmp_path / "cut", resume=True)


@pytest.mark.parametrize("way", [{"resume": True}, {"force": True}])
def test_two_processes_do_not_train_in_one_folder(task: Task, tmp_path: Path, way: dict[str, bool]) -> None:
    refused = []

    class Second(Listener):
        def epoch(self, row: dict[str, Any], best: bool) -> bool:
            with pytest.raises(RunError, match="another process is training in this folder") as caught:
                train(task("training.epochs=3"), tmp_path / "run", **way)
            refused.append(caught.value.hint)
            return False

    train(task("training.epochs=3"), tmp_path / "run", listener=Second())
    train(task("training.epochs=3"), tmp_path / "alone")
    assert refused == ["wait until it has ended, or pass another --run-dir"] * 3
    for name in ("model/weights.safetensors", "model/model.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
    assert train(task("training.epochs=3"), tmp_path / "run", resume=True).finished_before
    train(task("training.epochs=1"), tmp_path / "run", force=True)


@pytest.mark.parametrize(("error", "trains"), [(BlockingIOError, False), (OSError, True)])
def test_a_folder_without_locks_is_trained_in(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], trains: bool
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: Any) -> None:
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    with nullcontext() if trains else pytest.raises(RunError, match="another process is training"):
        train(task("training.epochs=1"), tmp_path / "run")


def test_a_folder_that_another_run_takes_meanwhile(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> Any:
        (tmp_path / "run").mkdir()
        return load_data(*_)

    monkeypatch.setattr("gpumlp.runs.run.load_data", slow)
    with pytest.raises(RunError, match="another run has just started"):
        train(task(), tmp_path / "run")


def test_to_resume_what_has_not_begun_is_to_begin(task: Task, tmp_path: Path) -> None:
    assert train(task(), tmp_path / "run", resume=True).summary["status"] == "completed"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.jsonl").write_text("mine")
    with pytest.raises(RunError, match="not a run folder"):
        train(task(), tmp_path / "thesis", resume=True)
    assert [p.read_text() for p in (tmp_path / "thesis").iterdir()] == ["mine"]


def test_a_run_killed_before_it_had_begun_is_in_nobodys_way(task: Task, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in (".config.yaml.123.part", "metrics.jsonl", "checkpoints/.step-000000003.safetensors.123.part"):
        (tmp_path / "run" / name).touch()
    train(task(), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.part"))


def test_wrong_data_leave_no_folder(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean"):
        train(task("data.target=clas"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(task: Task, tmp_path: Path) -> None:
    config = task("optimizer={name: sgd, learning_rate: 1e30}", "model.activation=relu")
    with pytest.raises(RunError, match=r"the train loss became (nan|inf) in epoch 1; no usable epoch") as caught:
        train(config, tmp_path / "run")
    assert "learning_rate" in str(caught.value)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["epochs"], summary["best_epoch"], summary["metrics"]) == ("diverged", 0, 0, {})
    for use in (load_trained, evaluate, lambda run: train(config, run, resume=True)):
        with pytest.raises(RunError, match="the train loss became") as caught:
            use(tmp_path / "run")
        assert "continue it" not in str(caught.value)
    train(task(), tmp_path / "run", force=True)


def test_a_picture_of_the_run_before_goes_with_it(task: Task, tmp_path: Path) -> None:
    train(task(), tmp_path / "run")
    (tmp_path / "run" / "plot.png").touch()
    train(task(), tmp_path / "run", force=True)
    assert not (tmp_path / "run" / "plot.png").exists()


def test_early_stopping_keeps_the_best_epoch(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[np.ndarray[Any, Any]] = []
    end_epoch = Trainer.end_epoch

    def remember(self: Trainer) -> EpochReport:
        report = end_epoch(self)
        weights.append(self.model.parameters.values.copy())
        return report

    monkeypatch.setattr(Trainer, "end_epoch", remember)
    settings = (
        "optimizer={name: sgd, learning_rate: 20, averaging: null}",
        "training.epochs=40",
        "training.early_stopping={patience: 3}",
    )
    result = train(task(*settings), tmp_path / "run")
    losses = [row["validation_loss"] for row in history(tmp_path / "run")]
    assert result.summary["status"] == "stopped early"
    assert result.summary["best_epoch"] == int(np.argmin(losses)) + 1
    assert result.summary["epochs"] == result.summary["best_epoch"] + 3
    kept = load_trained(tmp_path / "run").network.parameters.values
    np.testing.assert_array_equal(kept, weights[result.summary["best_epoch"] - 1])


def test_without_validation_the_last_epoch_is_kept(task: Task, tmp_path: Path) -> None:
    result = train(task("data.split={validation: 0, test: 0.2}"), tmp_path / "run")
    assert result.summary["best_epoch"] == result.summary["epochs"] == 6
    assert set(result.summary["metrics"]) == {"train", "test"}


def test_row_weights_and_class_weights_change_the_outcome(task: Task, tmp_path: Path) -> None:
    plain = train(task("data.drop=[w]"), tmp_path / "a").summary["metrics"]["train"]
    rows = train(task("data.drop=[]", "data.weights=w"), tmp_path / "b").summary["metrics"]["train"]
    classes = train(task("loss.class_weight={x: 5}"), tmp_path / "c").summary["metrics"]["train"]
    balanced = train(task("loss.class_weight=balanced"), tmp_path / "d").summary["metrics"]["train"]
    assert len({plain["loss"], rows["loss"], classes["loss"], balanced["loss"]}) == 4
    with pytest.raises(DataError, match="no class 'q'"):
        train(task("loss.class_weight={q: 5}"), tmp_path / "e")


def test_float64_trains_in_float64(task: Task, tmp_path: Path) -> None:
    train(task("precision=float64"), tmp_path / "run")
    assert load_trained(tmp_path / "run").network.parameters.values.dtype == np.float64


@pytest.mark.parametrize(
    ("norm", "batch_size", "better"),
    [("batch", 149, 150), ("layer", 149, None), ("batch", 148, None), ("batch", 150, None)],
)
def test_batch_norm_on_a_batch_of_one_row_is_told_once(
    task: Task, tmp_path: Path, norm: str, batch_size: int, better: int | None
) -> None:
    whole = ("data.split.validation=0", "data.split.test=0", "training.epochs=2")  # 150 rows
    result = train(task(*whole, f"model.norm={norm}", f"training.batch_size={batch_size}"), tmp_path / "run")
    told = [note for note in result.notes if "batch of 1 row" in note]
    if better is None:
        assert told == []
    else:
        (message,) = told
        assert "150 training rows, training.batch_size 149" in message
        assert f"set training.batch_size to {better}" in message


def test_a_network_that_has_learnt_nothing_is_told(task: Task, tmp_path: Path) -> None:
    """The losses of one answer to all rows: the entropy of the classes' shares, and the variance, which is 1."""
    idle = ("optimizer.learning_rate=1e-9", "training.epochs=1")
    loaded = task(*idle)
    shares = np.bincount(load_data(loaded).train.targets) / len(load_data(loaded).train)
    (note,) = train(loaded, tmp_path / "classes").notes
    assert f"predicting class frequencies gives {-(shares @ np.log(shares)):.4g}; after 7 steps" in note
    (note,) = train(task(*idle, "task=regression", "data.target=w", "data.drop=[]"), tmp_path / "numbers").notes
    assert "predicting the mean gives 1; after 7 steps" in note
    assert train(task(), tmp_path / "enough").notes == ()


def test_inputs_that_say_nothing_are_told_from_too_few_steps(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(progress: Progress, *_: float, **__: bool) -> bool:
        progress.best_epoch = 1
        return progress.epoch == 1

    monkeypatch.setattr(Progress, "observe", observe)
    (note,) = train(task("optimizer.learning_rate=1e-9"), tmp_path / "run").notes
    assert note.endswith("the validation loss was lowest after epoch 1, so the inputs may not be predictive")


@pytest.mark.parametrize("stopping", ["null", "{patience: 100}"])
def test_epochs_after_the_validation_loss_rose_are_noted(task: Task, tmp_path: Path, stopping: str) -> None:
    noise = (
        "task=regression",
        "data.target=w",
        "data.drop=[class]",
        "model.hidden=[64, 64]",
        "optimizer.learning_rate=0.02",
    )
    loaded = task(*noise, "training.epochs=80", f"training.early_stopping={stopping}")
    result = train(loaded, tmp_path / "run")
    losses = [
        json.loads(line)["validation_loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    best = int(np.argmin(losses)) + 1
    assert best < 40
    if stopping != "null":
        assert result.notes == ()
        return
    (note,) = result.notes
    assert note == (
        f"the validation loss was lowest after epoch {best} of 80 ({min(losses):.4g}) and {losses[-1]:.4g} after the "
        "last; to stop earlier: --set training.early_stopping=auto"
    )


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "huber"])
def test_the_loss_of_one_answer_counts_by_row_weights(task: Task, name: str) -> None:
    loaded = task("task=regression", "data.target=b", "data.drop=[]", "data.weights=w", f"loss={name}")
    parts = build(loaded.settings, load_data(loaded))
    data = parts.data.train
    assert data.targets is not None
    assert data.weights is not None
    error = np.abs(data.targets[:, 0].astype(np.float64))
    losses = {
        "squared_error": error**2,
        "absolute_error": error,
        "huber": np.where(error < 1, error**2 / 2, error - 0.5),
    }
    expected = np.average(losses[name], weights=data.weights)
    assert constant_loss(parts.model, parts.loss, data, parts.data.encoder, batch=20) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_loss_of_one_answer_to_two_classes_is_their_entropy(task: Task, tmp_path: Path) -> None:
    text = (tmp_path / "points.csv").read_text()
    (tmp_path / "points.csv").write_text(text.replace(",z\n", ",y\n"))
    loaded = task("data.drop=[]", "data.weights=w")
    parts = build(loaded.settings, load_data(loaded))
    data = parts.data.train
    share = np.average(data.targets, weights=data.weights)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert constant_loss(parts.model, parts.loss, data, parts.data.encoder) == pytest.approx(entropy, rel=1e-5)


def test_min_delta_decides_when_to_stop_and_not_what_is_kept() -> None:
    progress, found = Progress(), []
    for progress.epoch, loss in enumerate((1.0, 0.95, 0.97, 0.85, 0.84, 0.9), 1):
        found.append((progress.observe(loss, 0.1), progress.best_epoch, progress.lower_epoch))
    assert found == [(True, 1, 1), (True, 2, 1), (False, 2, 1), (True, 4, 4), (True, 5, 4), (False, 5, 4)]
    assert (progress.best_cost, progress.lower_cost) == (0.84, 0.85)
    assert Progress().best_cost == math.inf


def test_of_equal_epochs_the_later_is_kept_where_asked_and_patience_goes_on() -> None:
    for later, best in ((False, 2), (True, 4)):
        progress = Progress()
        for progress.epoch, cost in enumerate((-0.5, -0.9, -0.7, -0.9), 1):
            progress.observe(cost, 0.0, later=later)
        assert (progress.best_epoch, progress.lower_epoch) == (best, 2)


@pytest.mark.parametrize("min_delta", [0.0, 0.05, 0.5, 100.0])
def test_the_lowest_loss_is_kept_whatever_min_delta(task: Task, tmp_path: Path, min_delta: float) -> None:
    stopping = f"training.early_stopping={{patience: 4, min_delta: {min_delta}}}"
    result = train(task(stopping, "training.epochs=12"), tmp_path / "run")
    rows = history(tmp_path / "run")
    best = min(rows, key=lambda row: row["validation_loss"])
    assert result.summary["best_epoch"] == best["epoch"]
    assert result.summary["metrics"]["validation"]["loss"] == pytest.approx(best["validation_loss"], rel=1e-6)
    if min_delta == 100.0:  # the first epoch is lower than none
        assert len(rows) == 5

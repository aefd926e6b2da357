"""Runs by several ranks: the same files as by one, however many there are when they go on."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumlp.cli import verbs
from gpumlp.config import Loaded, load
from gpumlp.errors import GpumlpError, SignalError
from gpumlp.optim import Optimizer
from gpumlp.ranks import Ranks
from gpumlp.runs import Listener, train
from ranks import cases, processes
from ranks.cases import written
from ranks.threads import by_threads

SETTINGS = (
    "backend=numpy",
    "training={shards: 4, epochs: 6, batch_size: 16, early_stopping: {patience: 2}, checkpoint_every: 3}",
    "model={hidden: [8], norm: batch, dropout: 0.3}",
    "optimizer={name: adam, clip_norm: 0.5, learning_rate: 0.05}",
    "loss.class_weight=balanced",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration of 100 rows of three classes."""
    return processes.task(tmp_path, 100)


def by_ranks(size: int, loaded: Loaded, folder: Path, **options: Any) -> list[Any]:
    return by_threads(size, lambda ranks: train(loaded, folder, ranks=ranks, **options))


def test_the_model_is_that_of_one_rank(config: Path, tmp_path: Path) -> None:
    loaded = load(config, SETTINGS)
    alone = train(loaded, tmp_path / "1")
    for size in (2, 4):
        first, *others = by_ranks(size, loaded, tmp_path / f"{size}")
        assert written(tmp_path / f"{size}") == written(tmp_path / "1")
        assert first.summary["metrics"] == alone.summary["metrics"]
        assert first.summary["status"] == alone.summary["status"]
        assert [other.summary for other in others] == [{}] * (size - 1)


@pytest.mark.parametrize("case", cases.SAMPLE)
def test_settings_change_no_bit_by_the_number_of_ranks(case: str, tmp_path: Path) -> None:
    """A sample that has several settings in each run; ``python -m tests.ranks --cases`` has them all."""
    assert cases.unlike(cases.table(tmp_path), cases.SAMPLE[case], tmp_path, sizes=(4,)) == []


class Asked(Listener):
    """Asks a rank to end, as a signal does, in its k-th step."""

    def __init__(self, ranks: Ranks, step: int) -> None:
        self.ranks, self.left, self.exchange = ranks, step, ranks.alltoall
        if ranks.size > 1:
            ranks.alltoall = self.alltoall  # type: ignore[method-assign]

    def batch(self, done: int, of: int) -> None:
        if self.ranks.size == 1:
            self.count()

    def alltoall(self, source: Any, *, out: Any) -> Any:
        self.count()
        return self.exchange(source, out=out)

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.ranks.wish = signal.SIGTERM


def test_ranks_stop_after_the_same_step_and_go_on_by_another_number(config: Path, tmp_path: Path) -> None:
    loaded, folder = load(config, SETTINGS), tmp_path / "run"
    train(loaded, tmp_path / "1")
    steps = []
    for size, rank, step in ((4, 3, 7), (1, 0, 3), (2, 0, 4)):

        def run(ranks: Ranks, rank: int = rank, step: int = step) -> None:
            listener = Asked(ranks, step) if ranks.number == rank else None
            train(loaded, folder, ranks=ranks, resume=True, listener=listener)

        assert [type(each) for each in by_threads(size, run)] == [SignalError] * size
        steps.append(max(path.name for path in (folder / "checkpoints").iterdir()))
    assert steps == sorted(set(steps))
    by_ranks(4, loaded, folder, resume=True)
    assert written(folder) == written(tmp_path / "1")


def test_a_run_goes_on_with_the_shards_that_it_was_started_with(config: Path, tmp_path: Path) -> None:
    loaded = load(config, ["backend=numpy", "training.epochs=2"])
    by_ranks(2, loaded, tmp_path / "run")
    assert load(tmp_path / "run" / "config.yaml").settings.training.shards == 2
    assert train(loaded, tmp_path / "run", resume=True).finished_before
    for error in by_ranks(4, loaded, tmp_path / "run", resume=True):
        assert isinstance(error, GpumlpError)
        assert "4 ranks cannot share 2 shards" in str(error)
        assert "start 2 ranks, or set training.shards to 4" in str(error)


@pytest.mark.parametrize(
    ("ranks", "overrides", "message"),
    [
        (3, [], "3 ranks are not a power of two, as the shards of a batch are\n  start 2 or 4 ranks"),
        (3, ["training.shards=2"], "3 ranks cannot share 2 shards: their number must divide them\n  start 2 ranks,"),
        (2, ["training.shards=1"], "2 ranks cannot share 1 shard: their number must divide them\n  start it without"),
        (2, ["bag=2"], "the networks of a bag are trained by one process, and there are 2 ranks"),
        (2, ["members=2"], "several networks of their own are trained by one process, and there are 2 ranks"),
        (2, ["data.target=nothing"], "there is no column 'nothing'"),
    ],
)
def test_a_wrong_number_is_one_message_before_data_are_read(
    config: Path, tmp_path: Path, ranks: int, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "data" not in str(overrides):
        monkeypatch.setattr("gpumlp.runs.run.load_data", None)
    found = by_ranks(ranks, load(config, overrides), tmp_path / "run")
    assert [error.exit_code for error in found] == [found[0].exit_code] * ranks
    assert all(message in str(error) for error in found), found[0]
    assert not (tmp_path / "run").exists()


def test_other_data_on_one_rank_are_named(config: Path, tmp_path: Path) -> None:
    loaded = load(config, SETTINGS)
    (tmp_path / "other").mkdir()
    text = config.with_name("data.csv").read_text()
    (tmp_path / "other" / "data.csv").write_text(text.replace("\n", "\n1,2,3,a\n", 2))
    settings = loaded.settings.model_copy(
        update={"data": loaded.settings.data.model_copy(update={"folder": str(tmp_path / "other")})}
    )
    for folder, message in (("other", "rank 1 has another data set"), ("missing", "rank 1: ")):
        there = settings.model_copy(
            update={"data": settings.data.model_copy(update={"folder": str(tmp_path / folder)})}
        )

        def run(ranks: Ranks, there: Any = there) -> None:
            train(replace(loaded, settings=there) if ranks.number else loaded, tmp_path / "run", ranks=ranks)

        found = by_threads(2, run)
        assert message in str(found[0]), found
        assert [each.exit_code for each in found] == [found[0].exit_code] * 2
        assert not (tmp_path / "run").exists()


class VersionsOfRank(dict[str, str]):
    """Versions that differ by the rank, which is the name of a thread."""

    def items(self) -> Any:
        return {"gpumlp": "1.0" if threading.current_thread().name == "0" else "0.9"}.items()


def test_other_versions_on_one_rank_are_named_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "VERSIONS", VersionsOfRank())
    for error in by_threads(2, lambda ranks: verbs._by_first(ranks, pytest.fail)):
        assert "rank 1 has another set of versions: gpumlp 0.9 there, gpumlp 1.0 on rank 0" in str(error)


def test_ranks_that_drift_apart_are_named(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As processors of another kind would, whose products round otherwise."""
    loaded = load(config, SETTINGS)
    step = Optimizer.step

    def drifting(self: Optimizer, *tables: Any) -> None:
        step(self, *tables)
        if threading.current_thread().name == "1":
            self.parameters.values[0] += 1e-6

    monkeypatch.setattr(Optimizer, "step", drifting)
    found = by_ranks(2, loaded, tmp_path / "run")
    assert all("rank 1 has another network after epoch 1" in str(error) for error in found), found

"""Runs side by side: at the same time, with the bits of runs in turn, ended and taken up again together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumlp.backend.host import builder
from gpumlp.config import Loaded
from gpumlp.data import Prepared
from gpumlp.errors import Note, RunError, SignalError
from gpumlp.runs import Listener
from gpumlp.sweep import beside, search
from gpumlp.sweep.bag import train_bag
from gpumlp.sweep.beside import Job, Known, side_by_side
from gpumlp.sweep.cv import cross_validate
from gpumlp.sweep.folder import Template
from gpumlp.training.build import Parts, load_data

pytestmark = pytest.mark.skipif(builder.compiler() is None, reason="no C++ compiler: install g++ or clang")
WAIT_S = 20


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.fixture
def template(task: Callable[..., Loaded]) -> Template:
    return Template(task().path, ("backend=native",))


def changed(template: Template, override: str) -> Template:
    return Template(template.path, (*template.overrides, override))


class Together(Listener):
    """Lets no run train before another one is about to."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def prepared(self, parts: Parts, folder: Path) -> None:
        self.barrier.wait(WAIT_S)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what a run has computed, by file."""
    names = ("weights.safetensors", "model.json", "metrics.jsonl")
    found = {str(path.relative_to(folder)): path for name in names for path in folder.rglob(name)}
    return {
        name: path.read_bytes() if path.suffix != ".jsonl" else _losses(path) for name, path in sorted(found.items())
    }


def _losses(path: Path) -> bytes:
    return b"".join(line.partition(b'"train_loss"')[2] for line in path.read_bytes().splitlines())


def test_folds_are_trained_at_the_same_time_and_end_with_the_bits_of_one_thread(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = cross_validate(template, tmp_path / "both", folds=4, listener=Together())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = cross_validate(template, tmp_path / "alone", folds=4)
    assert [fold["run"] for fold in both["folds"]] == [f"fold-{number}" for number in range(1, 5)]
    assert both["metrics"] == alone["metrics"]
    assert bytes_of(tmp_path / "both") == bytes_of(tmp_path / "alone")
    assert Path(both["predictions"]).read_bytes() == Path(alone["predictions"]).read_bytes()


def test_the_networks_of_a_bag_are_trained_at_the_same_time(template: Template, tmp_path: Path) -> None:
    results = train_bag(changed(template, "bag=2"), tmp_path / "bag", listener=Together())
    assert [fold["run"] for fold in results["folds"]] == ["fold-1", "fold-2"]


def test_points_are_trained_at_the_same_time_and_kept(template: Template, tmp_path: Path) -> None:
    overrides = ("model.hidden=[4],[5],[6],[7]", "data.split.validation=0.15")
    template, space = search.space_of(template, overrides, None)
    told: list[str] = []
    points = search.sweep(
        template, space, tmp_path / "s", listener=Together(), done=lambda point, before: told.append(point.name)
    )
    assert told == [f"point-{number:04}" for number in range(4)]
    assert {point.status for point in points} == {"completed"}
    again: list[bool] = []
    search.sweep(
        template, space, tmp_path / "s", listener=Together(), done=lambda point, before: again.append(before)
    )
    assert again == [True] * 4


def test_a_signal_ends_all_runs_and_the_same_call_goes_on(template: Template, tmp_path: Path) -> None:
    class Ends(Together):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            if row["epoch"] == 2 and self.barrier.wait(WAIT_S) == 0:
                os.kill(os.getpid(), signal.SIGINT)

    before, template = signal.getsignal(signal.SIGINT), changed(template, "training.epochs=400")
    with pytest.raises(SignalError) as raised:
        cross_validate(template, tmp_path / "cv", folds=2, listener=Ends())
    assert raised.value.number == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    for number in (1, 2):
        fold = tmp_path / "cv" / f"fold-{number}"
        assert list((fold / "checkpoints").iterdir())
        assert not (fold / "summary.json").exists()
    cross_validate(template, tmp_path / "cv", folds=2)
    cross_validate(template, tmp_path / "whole", folds=2)
    assert bytes_of(tmp_path / "cv") == bytes_of(tmp_path / "whole")


def test_an_error_in_one_run_ends_the_others_which_are_saved(template: Template, tmp_path: Path) -> None:
    class Fails(Together):
        def epoch(self, row: dict[str, Any], best: bool) -> None:
            if row["epoch"] == 1 and self.barrier.wait(WAIT_S) == 0:
                raise RunError("no more of this")

    with pytest.raises(RunError, match="no more of this"):
        cross_validate(
            changed(template, "training.epochs=100000"),
            tmp_path / "cv",
            folds=2,
            listener=Fails(),
        )
    saved = [fold for fold in (1, 2) if any((tmp_path / "cv" / f"fold-{fold}").glob("checkpoints/*"))]
    assert len(saved) == 1


def jobs_of(template: Template, count: int, make: Callable[..., int]) -> Iterator[Job[int]]:
    loaded = template.load()
    data = load_data(loaded)
    for _ in range(count):
        yield Job(loaded.settings, data, make)


def test_a_large_network_has_all_threads_and_nobody_beside_it(template: Template) -> None:
    at_work: list[int] = []

    def make(backend: Any, ranks: Any) -> int:
        assert backend is None
        assert threading.current_thread() is threading.main_thread()
        at_work.append(1)
        return len(at_work)

    large = changed(template, "model.hidden=[600,600]")
    assert list(side_by_side(jobs_of(large, 3, make))) == [1, 2, 3]


def test_known_results_keep_their_place(template: Template) -> None:
    loaded = template.load()
    data = load_data(loaded)
    release = threading.Event()

    def slow(backend: Any, ranks: Any) -> str:
        assert release.wait(WAIT_S)
        return "first"

    def jobs() -> Iterator[Job[str] | Known[str]]:
        yield Job(loaded.settings, data, slow)
        yield Known("second")
        release.set()
        yield Known("third")

    assert list(side_by_side(jobs())) == ["first", "second", "third"]


@pytest.mark.parametrize(("memory", "runs"), [(None, 2), (8 << 30, 2), (5 << 30, 1), (1 << 20, 1)])
def test_data_of_runs_at_work_take_a_share_of_the_memory(
    memory: int | None, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "host_memory", lambda: memory)
    data: Prepared = SimpleNamespace(nbytes=1 << 30)  # type: ignore[assignment]
    assert beside._beside(data) == runs


def test_notes_of_runs_come_to_one_listener(template: Template, tmp_path: Path) -> None:
    noted: list[Note] = []

    class Notes(Listener):
        def note(self, note: Note) -> None:
            noted.append(note)

    short = changed(template, "optimizer.learning_rate=1e-9")
    cross_validate(short, tmp_path / "cv", folds=2, listener=Notes())
    assert sum("no better than a constant" in f"{note}" for note in noted) == 2

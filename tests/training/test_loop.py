"""The loop as a generator: what it yields, that it can be left and taken up again, that rows are uploaded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp import limits
from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.data import Dataset
from gpumlp.runs import Listener, load_trained, train
from gpumlp.runs.checkpoint import Checkpoint
from gpumlp.training import Diverged, Epoch, Loop, Step
from gpumlp.training.build import build, load_data
from gpumlp.training.calibration import softmax
from gpumlp.training.device_data import DeviceData
from gpumlp.training.measure import measure

Task = Callable[..., Loaded]


def make(loaded: Loaded, **options: Any) -> Loop:
    return Loop(build(loaded.settings, load_data(loaded)), **options)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_every_batch_and_every_epoch_is_yielded_in_order(task: Task) -> None:
    loop = make(task("training.epochs=3"))
    seen = []
    for event in loop:
        if isinstance(event, Step):
            assert event.batches == 7
            seen += [(event.epoch, batch) for batch in range(event.first, event.last + 1)]
        else:
            assert isinstance(event, Epoch)
            seen.append((event.row["epoch"], "end"))
    assert seen == [(epoch, each) for epoch in (1, 2, 3) for each in (*range(1, 8), "end")]
    assert loop.status == "completed"
    assert list(loop) == []


def test_a_loop_is_a_run_without_a_folder(task: Task, tmp_path: Path) -> None:
    loaded = task("model.dropout=0.2", "optimizer.averaging=0.9", "training.early_stopping={patience: 2}")
    loop = make(loaded)
    rows = [event.row for event in loop if isinstance(event, Epoch)]
    result = train(loaded, tmp_path / "run")
    assert len(rows) == result.summary["epochs"]
    assert loop.status == result.summary["status"]
    assert loop.measure() == result.summary["metrics"]
    assert same(loop.best, load_trained(tmp_path / "run").network.arrays())


@pytest.mark.parametrize("leave", [1, 3, 7, 8, 11])
def test_a_loop_that_is_left_goes_on_where_it_stood(task: Task, leave: int) -> None:
    """In the middle of an epoch, at its last step, at its end."""
    loaded = task("training.epochs=3", "model.norm=batch")
    whole, parted = make(loaded, every=1), make(loaded, every=1)
    wanted = list(whole)
    found = []
    for event in parted:
        found.append(event)
        if len(found) == leave:
            break
    found += list(parted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Epoch) and isinstance(other, Epoch):
            assert {**one.row, "seconds": 0} == {**other.row, "seconds": 0}
            assert (one.best, same(one.weights, other.weights)) == (other.best, True)
        else:
            assert one == other
    assert same(whole.best, parted.best)


@pytest.mark.parametrize("leave", [3, 7, 8, 11])
def test_a_checkpoint_goes_to_a_file_and_back(task: Task, tmp_path: Path, leave: int) -> None:
    """At any event, the last step of an epoch too, into a loop that is new."""
    loaded = task("training.epochs=3", "model.norm=batch", "optimizer.averaging=0.9", "schedule=plateau")
    whole, first, second = (make(loaded, every=1) for _ in range(3))
    for number, _ in enumerate(first, 1):
        if number == leave:
            Checkpoint.of(first, {"seed": 1}, "0").write(tmp_path / "checkpoint")
            break
    Checkpoint.read(tmp_path / "checkpoint").put(second)
    assert len(list(second)) == len(list(whole)) - leave
    assert same(whole.best, second.best)
    assert whole.measure() == second.measure()


def test_time_between_leaving_and_going_on_does_not_count(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gpumlp.training.trainer.time.perf_counter", lambda: now)
    loop = make(task("training.epochs=1"), every=1)
    for _ in loop:
        now += 1.0  # counts: the device is at work meanwhile
        break
    now += 1000.0
    (row,) = (event.row for event in loop if isinstance(event, Epoch))
    assert row["seconds"] == 1.0


def test_what_diverges_ends_with_its_reason(task: Task) -> None:
    loop = make(task("optimizer={name: sgd, learning_rate: 1e30}", "model.activation=relu"))
    *_, last = loop
    assert isinstance(last, Diverged)
    assert last.epoch == 1
    assert last.reason.startswith("the train loss became")
    assert (loop.status, loop.progress.epoch) == ("diverged", 0)
    assert list(loop) == []


def test_a_listener_ends_a_run(task: Task, tmp_path: Path) -> None:
    class Prune(Listener):
        def epoch(self, row: dict[str, Any], best: bool) -> bool:
            return bool(row["epoch"] == 2)

    result = train(task(), tmp_path / "run", listener=Prune())
    assert (result.summary["status"], result.summary["epochs"]) == ("stopped", 2)
    assert load_trained(tmp_path / "run").network is not None
    assert train(task(), tmp_path / "run", resume=True).summary == result.summary
    last = train(task("training.epochs=2"), tmp_path / "last", listener=Prune())
    assert last.summary["status"] == "completed"


def test_prepared_rows_are_not_read_again(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = task()
    prepared = load_data(loaded)
    first = train(loaded, tmp_path / "a")
    monkeypatch.setattr("gpumlp.runs.run.load_data", lambda *_: pytest.fail("the files are read again"))
    (tmp_path / "points.csv").unlink()
    assert train(loaded, tmp_path / "b", data=prepared).summary["metrics"] == first.summary["metrics"]
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes()


def test_every_part_is_uploaded_once(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fills half of a device's memory must not need it twice at its end."""
    uploads: Counter[int] = Counter()
    upload = DeviceData.__init__

    def count(self: DeviceData, model: Any, data: Dataset, scale: float) -> None:
        uploads[len(data)] += 1
        upload(self, model, data, scale)

    monkeypatch.setattr(DeviceData, "__init__", count)
    loaded = task("data.split={validation: 0.2, test: 0.3}")
    sizes = [len(part) for part in load_data(loaded).parts.values()]
    train(loaded, tmp_path / "run")
    assert len(set(sizes)) == 3
    assert uploads == Counter(sizes)


@pytest.mark.parametrize("settings", [(), ("training.conformal=0.5",), ("training.metric=log_loss",)])
def test_what_the_best_epoch_has_shown_is_what_its_weights_show(
    task: Task, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """The last linear values of the validation rows are kept where there is room, and else computed again."""
    found = []
    for room in (1 << 24, 0):
        monkeypatch.setattr("gpumlp.training.measure.MAX_SEEN_BYTES", room)
        loop = make(task("optimizer.averaging=0.9", "training.epochs=3", *settings))
        list(loop)
        found.append((loop.calibration(), loop.measure()))
    assert found[0] == found[1]


@pytest.mark.parametrize("batch", [7, None])
def test_no_bit_of_a_measure_depends_on_the_threads(
    task: Task, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make(task("training.epochs=1"))
    list(loop)
    parts, found = loop.parts, []
    for threads in (1, 2):
        monkeypatch.setattr(limits, "threads", lambda threads=threads: threads)
        blocks = DeviceData(parts.model, parts.data.train, 1.0).blocks(parts.model)
        encoder = parts.data.encoder
        found.append(measure(parts.model, parts.loss, encoder, blocks, batch, probabilities=softmax))
    assert found[0] == found[1]
    assert {"loss", "accuracy", "log_loss", "brier", "ece"} <= found[0].keys()


def test_classes_of_a_network_that_diverged_are_nan(task: Callable[..., Loaded]) -> None:
    parts = build(task().settings, load_data(task()), Backend())
    parts.model.load({name: np.full_like(array, np.nan) for name, array in parts.model.arrays().items()})
    rows = DeviceData(parts.model, parts.data.train, 1.0)
    found = measure(parts.model, parts.loss, parts.data.encoder, [rows])
    assert all(np.isnan(value) for value in found.values())

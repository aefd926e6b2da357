"""Several networks on the same rows: each is the network that would be trained alone, and together they predict."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend.fake_cupy import installed
from ranks.threads import by_threads
from support import BACKENDS

import gpumlp
from gpumlp.backend import Backend, NativeBackend
from gpumlp.config import Loaded, load, settings_of_member
from gpumlp.data import rows_of
from gpumlp.errors import ConfigError, Note, RunError
from gpumlp.export import export
from gpumlp.runs import Listener, Result, evaluate, load_trained, plot, train
from gpumlp.runs.checkpoint import Checkpoint
from gpumlp.store import formats
from gpumlp.training import Epoch, Loop
from gpumlp.training.build import build, load_data, require_memory
from gpumlp.training.members import MembersLoop, loop_over, train_side_by_side

Task = Callable[..., Loaded]
MEMBERS = "members={count: 3, learning_rate: [0.01, 0.02, 0.001], weight_decay: [0, 0.1, 0], dropout: [0.2, 0.1, 0]}"
MORE = ("optimizer={name: adam, averaging: 0.9}", "training.early_stopping={patience: 1}", "model.norm=batch")


def make(loaded: Loaded, **options: Any) -> Loop:
    return loop_over(build(loaded.settings, load_data(loaded)), **options)


def several(loaded: Loaded, **options: Any) -> MembersLoop:
    loop = make(loaded, **options)
    assert isinstance(loop, MembersLoop)
    return loop


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("more", [(), MORE], ids=["plain", "more"])
def test_each_network_is_the_one_that_would_be_trained_alone(task: Task, name: str, more: tuple[str, ...]) -> None:
    """Bit for bit: weights, the best of them, losses, the epoch at which each stops."""
    loaded = task(f"backend={name}", "training.epochs=12", MEMBERS, *more)
    together, data = several(loaded), load_data(loaded)
    rows = [event.row for event in together if isinstance(event, Epoch)]
    assert len(rows) == together.progress.epoch
    for number, loop in enumerate(together.loops):
        alone = Loop(build(settings_of_member(loaded.settings, number), data))
        losses = [event.row["validation_loss"] for event in alone if isinstance(event, Epoch)]
        found = [row["member_losses"][number] for row in rows]
        assert found == losses + [None] * (len(rows) - len(losses))
        assert same(loop.best, alone.best)
        assert (loop.status, loop.progress.best_epoch) == (alone.status, alone.progress.best_epoch)


def test_the_first_network_is_the_run_of_today(task: Task) -> None:
    one, several_ = make(task("model.dropout=0.2")), several(task("model.dropout=0.2", "members=2"))
    list(one), list(several_)
    assert same(one.best, several_.loops[0].best)
    assert not same(one.best, several_.loops[1].best)


def test_one_network_is_a_run_of_today(task: Task) -> None:
    assert type(make(task("members=1"))) is Loop
    assert task("members=1").settings == task("members={count: 1}").settings == task().settings


def test_rows_are_on_the_device_once(task: Task) -> None:
    loop = several(task("members=3", "precision=float64"))
    assert len({id(each.parts.trainer.data) for each in loop.loops}) == 1
    assert len({id(each._measurement_of("validation").device) for each in (loop, *loop.loops)}) == 1


@pytest.mark.parametrize("name", BACKENDS)
def test_epochs_are_measured_by_the_mean(task: Task, name: str) -> None:
    loop = several(task("members=3", f"backend={name}"))
    for event in loop:
        if isinstance(event, Epoch):
            row = event.row
    model, part = loop.parts.model, loop.parts.data.parts["validation"]
    assert part.targets is not None
    each = [network.predict(part.inputs) for network in model.networks]
    mean = np.mean(each, axis=0, dtype=np.float64)
    assert row["validation_accuracy"] == np.mean(mean.argmax(axis=1) == part.targets)
    loss = -np.log(mean[np.arange(len(part)), part.targets]).mean()
    assert row["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["validation_loss"] < np.mean(row["member_losses"])  # Jensen


def test_the_joint_epoch(task: Task) -> None:
    """All keep the weights of the epoch at which their mean is best, and stop by it."""
    settings = ("training.epochs=30", "optimizer.learning_rate=0.1", "training.early_stopping={patience: 3}")
    own, joint = (several(task(*settings, f"members={{count: 3, best: {best}}}")) for best in ("own", "joint"))
    rows = [event.row for event in joint if isinstance(event, Epoch)]
    list(own)
    best = min(rows, key=lambda row: row["validation_loss"])
    assert {loop.progress.best_epoch for loop in joint.loops} == {best["epoch"]} == {joint.progress.best_epoch}
    assert len({loop.progress.best_epoch for loop in own.loops}) > 1
    assert own.progress.best_epoch == max(loop.progress.best_epoch for loop in own.loops)
    assert joint.status == "stopped early"
    assert len(rows) == best["epoch"] + 3
    assert joint.measure()["validation"]["loss"] == pytest.approx(best["validation_loss"], rel=1e-6)


@pytest.mark.parametrize("leave", [1, 4, 9])
def test_a_loop_that_is_left_goes_on_where_it_stood(task: Task, leave: int, tmp_path: Path) -> None:
    loaded = task("training.epochs=4", "model.norm=batch", MEMBERS)
    whole, left, taken_up = (several(loaded, every=2) for _ in range(3))
    wanted = [event.row for event in whole if isinstance(event, Epoch)]
    events = iter(left)
    found = [event.row for event in (next(events) for _ in range(leave)) if isinstance(event, Epoch)]
    events.close()
    Checkpoint.of(left, {}, "").write(tmp_path / "file")
    checkpoint = Checkpoint.read(tmp_path / "file")
    checkpoint.check(taken_up)
    checkpoint.put(taken_up)
    found += [event.row for event in taken_up if isinstance(event, Epoch)]
    assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in wanted]
    assert same(whole.best, taken_up.best)


def test_steps_between_two_events_stop_at_checkpoints(task: Task) -> None:
    steps = [event for event in several(task("members=2"), every=3) if not isinstance(event, Epoch)]
    ends = [(event.epoch - 1) * 7 + event.last for event in steps]
    assert {3 * k for k in range(1, 14)} <= set(ends)


DIVERGES = "members={count: 3, learning_rate: [0.01, 1e38, 0.01]}"


@pytest.mark.parametrize("best", ["own", "joint"])
def test_a_network_that_diverges_is_left_out(task: Task, tmp_path: Path, best: str) -> None:
    noted: list[Note] = []

    class Notes(Listener):
        def note(self, note: Note) -> None:
            noted.append(note)

    result = train(task(DIVERGES[:-1] + f", best: {best}}}"), tmp_path / "run", listener=Notes())
    text = "network 2 diverged: "
    assert noted == list(result.notes)  # each once, when it was found
    assert any(note.startswith(text) and note.endswith("it is left out") for note in result.notes)
    assert [member["status"] for member in result.summary["members"]] == ["completed", "diverged", "completed"]
    assert result.summary["status"] == "completed"
    assert len(load_trained(tmp_path / "run").network.networks) == 2
    assert evaluate(tmp_path / "run")[0]["test"]["loss"] == pytest.approx(result.summary["metrics"]["test"]["loss"])


def test_all_networks_diverge(task: Task, tmp_path: Path) -> None:
    loaded = task("members={count: 2, learning_rate: [1e38, 1e38]}")
    with pytest.raises(RunError, match="no usable epoch before it"):
        train(loaded, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"
    assert not (tmp_path / "run" / "model" / "model.json").exists()
    with pytest.raises(RunError, match="there is no model"):
        load_trained(tmp_path / "run")


def test_a_run_of_several_networks(task: Task, tmp_path: Path) -> None:
    """Its folder is one like any other: evaluated, predicted with, exported, drawn, resumed once it is complete."""
    loaded, folder = task("members=3", "training.epochs=4"), tmp_path / "run"
    result = train(loaded, folder)
    assert result.summary["parameters"] == 3 * ((2 + 1) * 8 + (8 + 1) * 3)
    assert evaluate(folder)[0] == result.summary["metrics"]
    model = load_trained(folder)
    assert len(model.network.networks) == 3
    each = [network.predict(rows := load_data(loaded).train.inputs) for network in model.network.networks]
    points = tmp_path / "points.csv"
    assert model.predict_proba(points).shape == (150, 3)
    features = load_data(loaded, model.encoder).train.features
    np.testing.assert_allclose(np.concatenate(list(model.outputs(features))), np.mean(each, axis=0), atol=1e-6)
    assert rows.shape[1] == 2
    for ending in (".py", ".safetensors"):
        comparison, _ = export(folder, tmp_path / f"model{ending}")
        assert comparison.difference <= comparison.allowed
    plot(folder, tmp_path / "plot.png")
    assert train(loaded, folder, resume=True).notes == ("this run is already complete",)
    model.save(tmp_path / "model")
    assert same(load_trained(tmp_path / "model").network.arrays(), model.network.arrays())


@pytest.mark.parametrize("change", [("members", 2), ("members", 10**9), ("members", 0), ("members", None)])
def test_a_damaged_number_of_networks_is_found(task: Task, tmp_path: Path, change: tuple[str, Any]) -> None:
    train(task("members=3", "training.epochs=1"), tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    description = json.loads(path.read_text())
    del description["sha256"]
    description["network"][change[0]] = change[1]
    formats.write_sealed(path, description)
    with pytest.raises(RunError, match=r"not a gpumlp model, or damaged|do not match"):
        load_trained(tmp_path / "model")


def test_in_memory_and_pickled() -> None:
    sklearn = pytest.importorskip("gpumlp.sklearn")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    model = gpumlp.fit(X, X[:, 0] + X[:, 1], members=2, training={"epochs": 3})
    assert len(model.network.networks) == 2
    inputs = model.encoder.encode(rows_of(X), targets=False)[0].inputs
    each = [model.encoder.restore(network.predict(inputs)) for network in model.network.networks]
    np.testing.assert_allclose(model.predict(X), np.mean(each, axis=0), rtol=1e-5)
    for kind, y in ((sklearn.MLPClassifier, X[:, 0] > 0), (sklearn.MLPRegressor, X[:, 0])):
        estimator = kind(members=2, max_iter=3, random_state=0).fit(X, y)
        assert len(estimator.model_.network.networks) == 2
        copied = pickle.loads(pickle.dumps(estimator))
        np.testing.assert_array_equal(copied.predict(X), estimator.predict(X))


def test_bits_do_not_depend_on_how_many_run_side_by_side(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        loop = several(task("members=5", "training.epochs=3"))
        list(loop)
        found.append(loop.best)
        backends = {id(each.parts.backend) for each in loop.loops}
        assert len(backends) == (5 if threads != "1" and isinstance(loop.parts.backend, NativeBackend) else 1)
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_large_networks_are_trained_in_turn(task: Task) -> None:
    small, large = several(task("members=2")), several(task("members=2", "model.hidden=[500, 500]"))
    assert len({id(loop.parts.backend) for loop in large.loops}) == 1
    if isinstance(small.parts.backend, NativeBackend) and small.parts.backend.threads > 1:
        assert len({id(loop.parts.backend) for loop in small.loops}) == 2


@pytest.mark.parametrize("threads", ["1", "3"])
def test_networks_with_settings_of_their_own(task: Task, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    """As folds and sweeps train them: each is bit for bit what it is alone; one of them is ended by its listener."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    tasks = [task(f"model.hidden=[{4 + number}]", f"training.seed={number}") for number in range(5)]
    jobs = [(each.settings, load_data(each)) for each in tasks]
    seen: list[tuple[int, int]] = []

    def listen(number: int, event: Any) -> bool:
        if isinstance(event, Epoch):
            seen.append((number, event.row["epoch"]))
        return number == 4 and isinstance(event, Epoch)

    loops = train_side_by_side(jobs, listen)
    assert sorted(seen) == [(number, epoch) for number in range(4) for epoch in range(1, 7)] + [(4, 1)]
    for job, loop in zip(jobs[:4], loops, strict=False):
        alone = Loop(build(*job))
        list(alone)
        assert loop.status == "completed"
        assert same(loop.best, alone.best)
        assert loop.measure() == alone.measure()
    assert loops[4].status is None
    assert train_side_by_side([]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("members=0", "members: got 0, needs a whole number (at least 1, at most 1024)"),
        ("members=-1", "members: got -1"),
        ("members=2000", "members: got 2000"),
        ("members=true", "members"),
        ("members={count: 2, learning_rate: [0.1]}", "1 value for 2 networks"),
        ("members={learning_rate: [0.1, 0.2]}", "2 values for 1 network"),
        ("members={count: 2, dropout: [0.1, 1.0]}", "members.dropout"),
        ("members={count: 2, best: mine}", "members.best"),
        ("members={cuont: 2}", "count"),
        ("members=many", "members: got 'many'"),
        ("members={count: many, share: hidden}", "members.count: got 'many'"),
        ("members=auto", "these share none\n  set members.count, or share: hidden or weights"),
        ("members={count: auto, learning_rate: [0.1]}", "these share none"),
        ("members={count: auto, share: hidden, learning_rate: [0.1]}", "networks that share layers have one"),
        ("members={share: hidden}", "one network has nothing to share"),
        ("members={count: 2, share: all}", "members.share"),
        ("members={count: 2, share: hidden, best: own}", "networks that share layers have one best epoch"),
        ("members={count: 2, share: hidden, dropout: [0.1, 0]}", "networks that share layers have one dropout"),
    ],
)
def test_bad_settings(task: Task, given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        task(given)


def test_networks_that_do_not_fit_memory(task: Task) -> None:
    settings = task("members=8").settings
    require_memory(settings, 8 * 5 * 4 * (2 * 8 + 9))
    with pytest.raises(
        ConfigError, match=r"8 networks of at least 25 parameters each need at least 3,2.*\n  train few"
    ):
        require_memory(settings, 8 * 4 * 4 * (2 * 8 + 9) - 1)


def test_members_that_share_layers_need_some_and_memory_for_every_row(task: Task) -> None:
    with pytest.raises(ConfigError, match="without hidden layers there is nothing to share"):
        task("members={count: 2, share: weights}", "model.hidden=[]")
    loaded = task("members={count: 64, share: hidden}", "training.batch_size=1000")
    encoder, one = load_data(loaded).encoder, 4 * 4 * (64 * 2 + (2 + 1) * 8 + 64 * (8 + 1) * 3)
    require_memory(loaded.settings, one, encoder)
    needed = one + 100 * 64 * (2 + 8 + 3) * 4
    require_memory(loaded.settings, needed, encoder, rows=100)
    message = (
        r"a network of 1,880 parameters for 64 members needs .* in batches of 100 rows;.*\n.*training.batch_size"
    )
    with pytest.raises(ConfigError, match=message):
        require_memory(loaded.settings, needed - 1, encoder, rows=100)


@pytest.mark.parametrize("share", ["hidden", "weights"])
def test_a_run_of_members_that_share_layers(task: Task, tmp_path: Path, share: str) -> None:
    """It is a run of one network: stopped, resumed to the same bits, evaluated, saved, exported, drawn."""
    more = "model.dropout=0.2", "optimizer={name: adamw, averaging: 0.9}", "schedule=constant"
    settings = f"members={{count: 3, share: {share}}}", *more
    loaded, folder = task(*settings, "training.epochs=4"), tmp_path / "run"
    whole = train(loaded, folder)
    assert "members" not in whole.summary
    train(task(*settings, "training.epochs=2"), tmp_path / "half")
    train(task(*settings, "training.epochs=4"), tmp_path / "half", resume=True)
    model = load_trained(folder)
    assert same(load_trained(tmp_path / "half").network.arrays(), model.network.arrays())
    assert evaluate(folder)[0] == whole.summary["metrics"]
    for ending in (".py", ".safetensors", ".onnx"):
        comparison, _ = export(folder, tmp_path / f"model{ending}")
        assert comparison.difference <= comparison.allowed
    plot(folder, tmp_path / "plot.png")
    model.save(tmp_path / "model")
    assert same(load_trained(tmp_path / "model").network.arrays(), model.network.arrays())
    (tmp_path / "run" / "model").rename(tmp_path / "other")
    path = tmp_path / "other" / "model.json"
    for change in ({"heads": 4}, {"heads": 10**9}, {"heads": 0}, {"share": "all"}, {"share": "none"}):
        description = json.loads(path.read_text())
        del description["sha256"]
        formats.write_sealed(path, description | {"network": description["network"] | change})
        with pytest.raises(RunError, match=r"not a gpumlp model, or damaged|do not match"):
            load_trained(tmp_path / "other")
        formats.write_sealed(path, description)


@pytest.mark.parametrize("share", ["hidden", "weights"])
def test_backends_train_members_that_share_layers_alike(task: Task, share: str) -> None:
    def weights(name: str) -> dict[str, Any]:
        loop = make(task(f"members={{count: 3, share: {share}}}", f"backend={name}", "precision=float64"))
        list(loop)
        return loop.best

    found, reference = weights("native"), weights("numpy")
    for name, array in reference.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12)


AUTO = ("training.epochs=1", "model.hidden=[4]", "members={count: auto, share: hidden}")


def test_the_machine_decides_how_many_share_layers(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, more in (("auto", ()), ("16", ("members.count=16",))):
        result = train(task("backend=numpy", *AUTO, *more), tmp_path / name)
        notes = [note for note in map(str, result.notes) if "members.count" in note]
        assert notes == ["members.count auto: 16 networks, as on any CPU"] * (not more)
    for file in ("model/weights.safetensors", "config.yaml"):
        assert (tmp_path / "auto" / file).read_bytes() == (tmp_path / "16" / file).read_bytes()
    with installed(monkeypatch):
        train(task("backend=cupy", *AUTO), tmp_path / "gpu")
    assert load(tmp_path / "gpu" / "config.yaml").settings.members.count == 32
    assert load_trained(tmp_path / "gpu", "numpy").architecture.heads == 32


def test_a_run_goes_on_with_as_many_as_it_was_begun_with(task: Task, tmp_path: Path) -> None:
    """That of an earlier version may have had another number."""
    train(task("backend=numpy", *AUTO, "members.count=5"), tmp_path / "run")
    resumed = train(task("backend=numpy", *AUTO, "training.epochs=2"), tmp_path / "run", resume=True)
    assert (resumed.summary["epochs"], resumed.summary["settings"]["members"]["count"]) == (2, 5)
    assert load_trained(tmp_path / "run", "numpy").architecture.heads == 5
    with pytest.raises(RunError, match=r"members\.count was 5, is now 8"):
        train(task("backend=numpy", *AUTO, "members.count=8"), tmp_path / "run", resume=True)


def test_memory_is_that_of_as_many_as_the_machine_decides(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = task("backend=numpy", *AUTO)
    data = load_data(loaded)
    monkeypatch.setattr(Backend, "memory", property(lambda self: 4000))
    with pytest.raises(ConfigError, match=r"members: a network of .* for 16 members needs at least"):
        build(loaded.settings, data)


def test_ranks_decide_alike_how_many_share_layers(task: Task, tmp_path: Path) -> None:
    loaded = task("backend=numpy", *AUTO, "training.shards=2")
    assert isinstance(by_threads(2, lambda ranks: train(loaded, tmp_path / "two", ranks=ranks))[0], Result)
    train(loaded, tmp_path / "one")
    for file in ("model/weights.safetensors", "config.yaml"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()

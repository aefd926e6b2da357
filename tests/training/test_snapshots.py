"""Several epochs of one network: chosen by their mean on validation rows, kept, resumed, and predicted with."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BACKENDS

import gpumlp
from gpumlp.autodiff import Tensor
from gpumlp.config import Loaded
from gpumlp.data import rows_of
from gpumlp.errors import ConfigError
from gpumlp.metrics import METRICS
from gpumlp.nn.members import mean_of_members
from gpumlp.runs import evaluate, load_run, load_trained, train
from gpumlp.runs.reports import report
from gpumlp.training import Epoch, Loop
from gpumlp.training import build as build_module
from gpumlp.training.build import build, load_data, require_memory
from gpumlp.training.members import loop_over
from gpumlp.training.snapshots import Snapshot, SnapshotsLoop, chosen, linear_of, shares_of

Task = Callable[..., Loaded]
NOISY = ("optimizer.learning_rate=0.1", "training.epochs=12")


def several(loaded: Loaded) -> SnapshotsLoop:
    loop = loop_over(build(loaded.settings, load_data(loaded)))
    assert isinstance(loop, SnapshotsLoop)
    return loop


def snapshots(*values: list[float]) -> list[Snapshot]:
    return [Snapshot(epoch, {}, np.array(each)) for epoch, each in enumerate(values, 1)]


def squares(shares: Any) -> float:
    return float(np.square(shares).sum())


# ---- the choice ----------------------------------------------------------------------------------------------------


def test_those_join_that_the_mean_gains_by() -> None:
    one, other, far, latest = snapshots([1.0, 0.0], [-1.0, 0.0], [9.0, 9.0], [0.0, 1.0])
    together, cost = chosen([one, other, far], latest, 4, squares)
    assert [each.epoch for each in together] == [4, 1, 2]  # equal ones: the first
    assert cost == pytest.approx(1 / 9)
    assert chosen([one, other, far], latest, 2, squares)[0] == [latest, one]
    assert chosen([one, other, far], latest, 1, squares)[0] == [latest]
    assert chosen([], latest, 3, squares) == ([latest], 1.0)
    assert chosen([far], latest, 3, squares)[0] == [latest]
    assert chosen([latest], latest, 3, squares)[0] == [latest]  # no better with an equal one


@given(st.lists(st.lists(st.floats(-4, 4), min_size=3, max_size=3), min_size=1, max_size=7), st.integers(1, 4))
def test_no_other_one_that_joins_would_be_better(values: list[list[float]], limit: int) -> None:
    *before, latest = snapshots(*values)
    together, cost = chosen(before, latest, limit, squares)
    assert together[0] is latest
    assert 1 <= len(together) <= limit
    assert cost == pytest.approx(squares(np.mean([each.shares for each in together], axis=0)), abs=1e-12)
    steps = [squares(np.mean([each.shares for each in together[:n]], axis=0)) for n in range(1, len(together) + 1)]
    assert all(b < a + 1e-12 for a, b in itertools.pairwise(steps))
    if len(together) < limit:
        rest = [each for each in before if each not in together]
        more = [squares(np.mean([each.shares for each in (*together, another)], axis=0)) for another in rest]
        assert all(each >= cost - 1e-12 for each in more)


@pytest.mark.parametrize(
    ("link", "columns"), [("identity", 2), ("softmax", 3), ("sigmoid", 1), ("sigmoid", 2)], ids=str
)
def test_the_mean_of_shares_is_that_of_predictions(link: str, columns: int) -> None:
    linear = np.random.default_rng(0).standard_normal((4, 5, columns)) * 8  # (networks, N, K)
    linear[:, 0] = 100.0 * np.arange(1, columns + 1) - 90.0  # where 1 - p is nothing in float64
    wanted = mean_of_members(link, Tensor(np.ascontiguousarray(linear.swapaxes(0, 1)))).numpy()
    found = linear_of(link, np.mean([shares_of(link, each) for each in linear], axis=0))
    assert found.shape == (5, columns)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_probabilities_of_zero_have_finite_values() -> None:
    assert np.isfinite(linear_of("softmax", shares_of("softmax", np.array([[0.0, 3e38]])))).all()
    assert np.isfinite(linear_of("sigmoid", shares_of("sigmoid", np.array([[3e38], [-3e38]])))).all()


# ---- the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("metric", ["loss", "log_loss", "accuracy"])
def test_the_network_is_trained_as_ever_and_the_mean_is_no_worse(task: Task, name: str, metric: str) -> None:
    loaded = task(*NOISY, f"backend={name}", "training.snapshots=3", f"training.metric={metric}")
    plain = task(*NOISY, f"backend={name}", f"training.metric={metric}")
    loop, alone = several(loaded), Loop(build(plain.settings, load_data(plain)))
    rows, wanted = ([event.row for event in each if isinstance(event, Epoch)] for each in (loop, alone))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in wanted]
    assert (1 if metric == "log_loss" else 2) <= len(loop.snapshots) <= 3
    assert [each.epoch for each in loop.snapshots] == sorted({each.epoch for each in loop.snapshots})
    assert loop.progress.best_epoch == loop.snapshots[-1].epoch
    measured = loop.measure()["validation"]
    assert METRICS[metric].cost(measured[metric]) == pytest.approx(loop.progress.best_cost, rel=1e-5)
    if metric != "accuracy":  # those join that log-loss gains by
        assert loop.progress.best_cost <= alone.progress.best_cost + 1e-9
    if metric == "loss":
        assert loop.progress.best_cost < alone.progress.best_cost  # it is strictly convex
        part = loop.parts.data.parts["validation"]
        each = [network.predict(part.inputs) for network in loop.parts.model.networks]
        mean = np.mean(each, axis=0, dtype=np.float64)
        assert part.targets is not None
        loss = -np.log(mean[np.arange(len(part)), part.targets]).mean()
        assert measured["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("metric", ["loss", "log_loss"])
def test_epochs_of_labels_are_chosen_by_what_is_measured(tmp_path: Path, metric: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((120, 3))
    labels = (x[:, :2] + rng.standard_normal((120, 2)) > 0).astype(int).astype(str)
    labels[::7, 1] = ""
    rows = "".join(f"{','.join(map(str, row))},{','.join(each)}\n" for row, each in zip(x, labels, strict=True))
    (tmp_path / "rows.csv").write_text(f"a,b,c,p,q\n{rows}")
    loaded = gpumlp.configure(
        task="multilabel",
        data={"train": str(tmp_path / "rows.csv"), "target": ["p", "q"]},
        optimizer={"name": "adam", "learning_rate": 0.1},
        training={"epochs": 6, "snapshots": 3, "batch_size": 16, "metric": metric},
        backend="numpy",
    )
    loop = several(loaded)
    list(loop)
    measured = loop.measure()["validation"][metric]
    assert METRICS[metric].cost(measured) == pytest.approx(loop.progress.best_cost, rel=1e-6)
    counted = build_module._bytes_of_snapshots(loaded.settings, loop.parts.data)
    assert counted == 4 * loop.snapshots[0].shares.nbytes


def test_where_rows_are_counted_those_join_that_log_loss_gains_by(task: Task) -> None:
    loop, before = several(task(*NOISY, "training.seed=2", "training.snapshots=3", "training.metric=accuracy")), ()
    measurement, rows = loop._measurement_of("choice"), loop.parts.data.parts["validation"]

    def log_loss(shares: Any) -> float:
        return measurement.of(linear_of("softmax", shares), "log_loss")

    assert rows.targets is not None
    for event in loop:
        if isinstance(event, Epoch) and event.best:
            together, _ = chosen(before, loop.snapshots[-1], 3, log_loss)
            assert sorted(each.epoch for each in together) == [each.epoch for each in loop.snapshots]
            mean = np.mean([each.shares for each in together], axis=0)
            assert loop.progress.best_cost == -np.mean(mean.argmax(axis=1) == rows.targets)
            before = loop.snapshots
    assert len(before) > 1


def test_each_is_the_network_after_its_epoch(task: Task) -> None:
    loaded = task(*NOISY, "training.snapshots=3", "optimizer.averaging=0.9")
    loop, seen = several(loaded), {}
    for event in loop:
        if isinstance(event, Epoch):
            trained = loop.loops[0].parts
            seen[event.row["epoch"]] = trained.model.arrays(trained.optimizer.weights)
    for each in loop.snapshots:
        assert all(np.array_equal(array, seen[each.epoch][name]) for name, array in each.weights.items())


def test_patience_is_with_the_mean(task: Task) -> None:
    loop = several(
        task(
            "optimizer.learning_rate=0.3",
            "training.epochs=50",
            "training.early_stopping={patience: 3}",
            "training.snapshots=4",
        )
    )
    list(loop)
    assert loop.status == "stopped early"
    assert loop.progress.epoch == loop.snapshots[-1].epoch + 3


def test_without_validation_rows_the_last_epoch_is_kept(task: Task) -> None:
    """A recipe may say it; whoever asks for it is told."""
    loaded = task("preset=tabular", "data.split.validation=0", "training.metric=auto", "training.epochs=2")
    assert type(loop_over(build(loaded.settings, load_data(loaded)))) is Loop
    with pytest.raises(ConfigError, match="choosing several epochs needs validation rows, but data"):
        task("training.snapshots=2", "data.split.validation=0")


def test_what_has_no_mean_of_epochs_is_refused(task: Task) -> None:
    with pytest.raises(ConfigError, match="several epochs are kept of one network, and there are several"):
        task("training.snapshots=2", "members=2")
    assert task("preset=tabular", "members=2").settings.training.snapshots == 1
    assert task("preset=tabular").settings.training.snapshots > 1


def test_memory_counts_what_the_epochs_predict(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = task("backend=numpy", "training.snapshots=3", "training.conformal=0.5", "training.epochs=2")
    data, counted = load_data(loaded), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "require_memory", lambda *_, predicted, **__: counted.append(predicted))
        loop = loop_over(build(loaded.settings, data))
    assert isinstance(loop, SnapshotsLoop)
    list(loop)
    (kept,) = counted
    assert kept == (3 + 1) * loop.snapshots[0].shares.nbytes

    def fits(has: int, kept: int) -> bool:
        with contextlib.suppress(ConfigError):
            require_memory(loaded.settings, has, data.encoder, len(data.train), data.nbytes, predicted=kept)
            return True
        return False

    needed = bisect.bisect(range(10**5), 0, key=lambda has: fits(has, 0))
    assert fits(needed + kept, kept)
    with pytest.raises(ConfigError, match="what 3 epochs predict for the validation rows takes 1,056 bytes"):
        require_memory(loaded.settings, needed + kept - 1, data.encoder, len(data.train), data.nbytes, predicted=kept)


# ---- the run -------------------------------------------------------------------------------------------------------


def test_a_run_predicts_by_the_mean(task: Task, tmp_path: Path) -> None:
    done = train(task(*NOISY, "training.snapshots=3"), tmp_path / "run")
    kept, model = done.summary["snapshots"], load_trained(tmp_path / "run", "numpy")
    assert len(model.network.networks) == len(kept) > 1
    assert load_run(tmp_path / "run").summary["snapshots"] == kept
    again = evaluate(tmp_path / "run")[0]
    assert again["test"]["loss"] == pytest.approx(done.summary["metrics"]["test"]["loss"], rel=1e-6)
    calibration, rows = model.calibration, load_data(task()).parts["test"]
    assert calibration is not None
    x = Tensor(rows.inputs, model.network.context.backend)
    linear = [network.forward(x).numpy() for network in model.network.networks]
    mean = np.log(np.mean([shares_of("softmax", each) for each in linear], axis=0))
    np.testing.assert_allclose(
        model.probabilities(next(model.answers(rows.features))[0]), calibration(mean), rtol=1e-5, atol=1e-7
    )


def test_in_memory_it_is_the_same() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 3))
    y = x.sum(axis=1) + rng.standard_normal(60)
    optimizer = {"name": "sgd", "learning_rate": 0.1, "averaging": None}
    training = {"epochs": 20, "snapshots": 4, "batch_size": 8}
    model = gpumlp.fit(x, y, optimizer=optimizer, training=training, backend="numpy")
    inputs = model.encoder.encode(rows_of(x), targets=False)[0].inputs
    each = [network.predict(inputs) for network in model.network.networks]
    assert 1 < len(each) <= 4
    np.testing.assert_allclose(model.predict(x), model.encoder.restore(np.mean(each, axis=0)), rtol=1e-4)


def test_a_run_starts_from_the_last_epoch_that_is_kept(task: Task, tmp_path: Path) -> None:
    train(task(*NOISY, "training.snapshots=3"), tmp_path / "first")
    still = ("optimizer.learning_rate=1e-30", f"model.start_from={tmp_path / 'first'}", "training.epochs=1")
    second = train(task(*still), tmp_path / "second")
    assert "snapshots" not in second.summary
    last = load_trained(tmp_path / "first").network.networks[-1].arrays()
    assert all(
        np.array_equal(array, last[name]) for name, array in load_trained(second.folder).network.arrays().items()
    )
    several_ = train(task(*still, "training.snapshots=2"), tmp_path / "third")
    assert json.loads((several_.folder / "summary.json").read_text())["snapshots"] == [1]


def test_what_people_read_names_the_epochs(task: Task, tmp_path: Path) -> None:
    done = train(task(*NOISY, "training.snapshots=3"), tmp_path / "run")
    *first, last = done.summary["snapshots"]
    report(tmp_path / "run", tmp_path / "page.html")
    assert (
        f"The mean of epochs {', '.join(map(str, first))} and {last} predicts" in (tmp_path / "page.html").read_text()
    )

"""Several targets, quantiles, counts and transforms: from a file to metrics and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp.cli.main import main
from gpumlp.config import configure
from gpumlp.data import read
from gpumlp.data.encoding.targets import Goal, NumberTarget, NumberTargets
from gpumlp.data.encoding.transforms import Transform
from gpumlp.data.state import StateReader
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.metrics import quantile, regressions
from gpumlp.runs import evaluate, load_trained, train

ROWS = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("targets")
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (ROWS, 2))
    a, b = 3 * x[:, 0] + 100, 1000 * x[:, 1]
    counts, price = rng.poisson(np.exp(1 + x[:, 0])), np.exp(5 + 2 * x[:, 0] + 0.1 * rng.standard_normal(ROWS))
    lines = ["x,y,a,b,counts,price"]
    for i in range(ROWS):
        gap = "" if i % 3 == 0 else f"{b[i]}"
        lines.append(f"{x[i, 0]},{x[i, 1]},{a[i]},{gap},{counts[i]},{price[i]}")
    (place / "rows.csv").write_text("\n".join(lines) + "\n")
    return place


def settings(folder: Path, target: Any, drop: list[str], **more: Any) -> Any:
    data = {"train": str(folder / "rows.csv"), "target": target, "drop": drop, **more.pop("data", {})}
    return configure(
        task="regression",
        data=data,
        model={"hidden": [16]},
        training={"epochs": 40, "batch_size": 32},
        optimizer={"learning_rate": 0.02},
        backend="numpy",
        **more,
    )


def test_several_targets_with_gaps(folder: Path, tmp_path: Path) -> None:
    loaded = settings(folder, ["a", "b"], ["counts", "price"])
    result = train(loaded, tmp_path / "run")
    metrics = result.summary["metrics"]["test"]
    assert metrics["r2[a]"] > 0.9
    assert metrics["r2[b]"] > 0.9
    assert metrics["r2"] == pytest.approx((metrics["r2[a]"] + metrics["r2[b]"]) / 2)
    assert metrics["rmse[b]"] > 10 * metrics["rmse[a]"]  # each in its own unit
    again, _ = evaluate(tmp_path / "run")
    assert again["test"] == pytest.approx(metrics)
    model = load_trained(tmp_path / "run")
    with pytest.raises(RunError, match="intervals are of one target, and this model predicts 2"):
        model.margin(0.9)
    rows = {"x": [0.5, -0.5], "y": [0.2, 0.4]}
    assert model.predict(rows).shape == (2, 2)
    measured = model.evaluate(rows, [[101.5, np.nan], [98.5, 400.0]])
    assert measured["rmse[a]"] < 1.0
    path = tmp_path / "new.csv"
    path.write_text("x,y\n0.5,0.2\n-0.5,0.4\n")
    out = tmp_path / "out.csv"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path / "run"), str(path), "-o", str(out)])
    assert ended.value.code == 0
    assert out.read_text().splitlines()[0] == "prediction a,prediction b"


def test_a_missing_target_is_no_row_of_its_target() -> None:
    """Two targets of which one is always there train as if the gaps were not in the file."""
    predictions, targets = np.array([[1.0, 5.0], [2.0, 7.0]]), np.array([[1.5, np.nan], [2.0, 6.0]])
    found = regressions(predictions, targets, ["a", "b"], np.array([1.0, 3.0]))
    assert found["mae[a]"] == pytest.approx(0.125)
    assert found["mae[b]"] == 1.0
    assert np.isnan(found["r2[b]"])


def test_quantiles_rise_and_cover(folder: Path, tmp_path: Path) -> None:
    loaded = settings(folder, "a", ["b", "counts", "price"], loss={"name": "quantile", "levels": [0.1, 0.5, 0.9]})
    result = train(loaded, tmp_path / "run")
    assert 0.3 < result.summary["metrics"]["train"]["coverage"] <= 1.0
    model = load_trained(tmp_path / "run")
    rows = {"x": [0.5, -0.5], "y": [0.2, 0.4]}
    found = model.predict_quantiles(rows)
    assert found.shape == (2, 3)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(model.predict(rows), found[:, 1])


def test_counts_are_predicted_as_expected_values(folder: Path, tmp_path: Path) -> None:
    result = train(settings(folder, "counts", ["a", "b", "price"], loss="poisson"), tmp_path / "run")
    assert result.summary["metrics"]["test"]["r2"] > 0.2
    predicted = load_trained(tmp_path / "run").predict({"x": [-1.0, 1.0], "y": [0.0, 0.0]})
    assert predicted == pytest.approx(np.exp([0.0, 2.0]), rel=0.35)
    with pytest.raises(DataError, match=r"the target is -.*, but the loss poisson predicts counts"):
        train(
            settings(folder, "b", ["a", "counts", "price"], loss="poisson", data={"missing_target": "drop"}),
            tmp_path / "b",
        )


@pytest.mark.parametrize("transform", ["log", "yeo_johnson"])
def test_a_transform_is_undone(folder: Path, tmp_path: Path, transform: str) -> None:
    loaded = settings(folder, "price", ["a", "b", "counts"], data={"target_transform": transform})
    result = train(loaded, tmp_path / "run")
    assert result.summary["metrics"]["test"]["r2"] > 0.9
    predicted = load_trained(tmp_path / "run").predict({"x": [0.0], "y": [0.0]})
    assert predicted == pytest.approx(np.exp(5), rel=0.2)


def test_transforms_go_back_and_stay_near_the_data() -> None:
    rng = np.random.default_rng(0)
    for values in (np.exp(3 * rng.standard_normal(300)), -np.exp(rng.standard_normal(300)), rng.standard_t(3, 300)):
        fitted = Transform.fit("yeo_johnson", values, str)
        np.testing.assert_allclose(fitted.inverse(fitted.forward(values)), values, rtol=1e-12, atol=1e-13)
        assert np.isfinite(fitted.inverse(np.array([-1e300, 1e300]))).all()
    assert Transform.fit("yeo_johnson", np.exp(8 + rng.standard_normal(3000)), str).exponent == pytest.approx(
        0, abs=0.2
    )
    with pytest.raises(DataError, match="row 1: the target 0 has no logarithm"):
        Transform.fit("log", np.array([1.0, 0.0]), lambda row: f"row {row}")


def test_states_come_back_and_damage_is_found() -> None:
    values = {"a": np.array([1.0, 2.0, 5.0]), "b": np.array([1.0, np.nan, 4.0])}
    fitted = NumberTargets.fit(values, str, Goal("log", levels=(0.1, 0.5)))
    assert NumberTargets.from_state(StateReader(fitted.to_state(), {})) == fitted
    counts = NumberTarget.fit(values["a"], str, Goal(counts=True))
    assert NumberTarget.from_state(StateReader(counts.to_state(), {})) == counts
    for key, value in (("levels", [0.5, 0.1]), ("levels", [1.5]), ("levels", ["a"]), ("columns", [])):
        with pytest.raises(RunError):
            NumberTargets.from_state(StateReader({**fitted.to_state(), key: value}, {}))


def test_settings_that_do_not_fit() -> None:
    one = {"train": "a.csv", "target": "y"}
    for sections, what in (
        ({"data": {**one, "target_transform": "log"}, "loss": "poisson"}, "predicts the target itself"),
        ({"data": one, "loss": {"name": "quantile", "levels": [0.9, 0.1]}}, "needs levels that rise"),
        ({"data": one, "loss": {"name": "quantile", "levels": [0.0]}}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=what):
            configure(task="regression", **sections)


def test_weighted_quantile() -> None:
    assert quantile(np.array([3.0, 1.0, np.nan, 2.0]), np.array([1.0, 1.0, 9.0, 2.0]), 0.5) == 2.0


def test_several_targets_from_memory() -> None:
    x = np.linspace(-1, 1, 60)
    y = np.stack([x, -100 * x], axis=1)
    y[::4, 1] = np.nan
    model = gpumlp.fit(x[:, None], y, model={"hidden": [8]}, training={"epochs": 20}, backend="numpy")
    assert model.predict(np.array([[0.0], [1.0]])).shape == (2, 2)


def test_errors_in_shares_of_the_target(folder: Path, tmp_path: Path) -> None:
    loaded = settings(folder, "price", ["a", "b", "counts"], loss="absolute_percentage_error")
    result = train(loaded, tmp_path / "run")
    model = load_trained(tmp_path / "run")
    target = model.encoder.target
    assert isinstance(target, NumberTarget)
    assert target.mean == 0.0  # a share needs the zero of the target
    rows = read(folder / "rows.csv")
    true = rows.numbers("price")
    error = np.mean(np.abs(model.predict(rows) - true) / true)
    assert error < 0.2
    losses, _ = evaluate(tmp_path / "run", folder / "rows.csv")
    assert losses["rows.csv"]["loss"] == pytest.approx(error, rel=1e-3)
    assert not [note for note in result.notes if "no better than a constant" in note]
    with pytest.raises(ConfigError, match="predicts the target itself"):
        settings(folder, "price", [], loss="absolute_percentage_error", data={"target_transform": "log"})


@pytest.mark.parametrize("loss", ["focal", "hinge"])
def test_losses_of_classes_come_to_probabilities(loss: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2))
    quick = {"training": {"epochs": 30}, "optimizer": {"learning_rate": 0.02}, "backend": "numpy", "loss": loss}
    for y in (x[:, 0] > 0, (x[:, 0] > 0) * 1 + (x[:, 1] > 0)):
        model = gpumlp.fit(x, np.array(["a", "b", "c"])[y.astype(int)], **quick)
        assert model.evaluate(x, np.array(["a", "b", "c"])[y.astype(int)])["accuracy"] > 0.9
        assert model.evaluate(x, np.array(["a", "b", "c"])[y.astype(int)])["ece"] < 0.1  # by the temperature

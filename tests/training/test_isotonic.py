"""Isotonic calibration: the curves of scikit-learn, kept with the model, and in every export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import peak_memory

from gpumlp.config import Loaded
from gpumlp.errors import ConfigError, DataError
from gpumlp.export import export
from gpumlp.runs import evaluate, load_trained, train
from gpumlp.training import build, calibration
from gpumlp.training.calibration import Curve, Isotonic, Temperature, softmax

LARGER = ("training.epochs=4", "data.split.validation=0.4", "training.calibration=isotonic")


def draws(rows: int, seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.random(rows).round(2 if seed % 2 else 12)  # with ties and without
    return x, (rng.random(rows) < x**2).astype(np.float64), rng.uniform(0.1, 3.0, rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 40, 3000])
@pytest.mark.parametrize("seed", range(6))
def test_a_curve_is_that_of_scikit_learn(rows: int, seed: int) -> None:
    isotonic: Any = pytest.importorskip("sklearn.isotonic")
    x, y, weights = draws(rows, seed)
    for weight in (np.ones(rows), weights):
        curve = Curve.fit(x, y, weight)
        oracle = isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y, weight)
        points = np.concatenate([x, np.linspace(-0.1, 1.1, 500)])
        np.testing.assert_allclose(curve(points), oracle.predict(points), atol=1e-12)


def test_a_curve_of_rows_that_fall_is_their_mean() -> None:
    curve = Curve.fit(np.array([0.2, 0.4, 0.9]), np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 2.0]))
    assert curve == Curve((0.2, 0.9), (0.375, 0.375))
    assert Curve.fit(np.full(3, 0.5), np.array([0.0, 1.0, 1.0]), np.ones(3)) == Curve((0.5,), (2 / 3,))


@pytest.mark.parametrize("classes", [2, 4])
def test_curves_mend_what_a_temperature_cannot(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """On rows that fitted nothing, of probabilities that are wrong by more than a factor; weights count as copies."""
    rng = np.random.default_rng(classes)
    linear = rng.standard_normal((8000, 1 if classes == 2 else classes)) * 2
    shares = softmax(linear) ** 3 + 0.1
    shares /= shares.sum(axis=1, keepdims=True)
    labels = (rng.random((8000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    half, new = slice(0, 4000), slice(4000, 8000)

    def loss(fitted: Temperature) -> float:
        p = fitted(linear[new])
        np.testing.assert_allclose(p.sum(axis=1), 1.0)
        assert p.min() > 0
        return float(-np.log(p[np.arange(4000), labels[new]]).mean())

    found = Isotonic.fit(linear[half], labels[half])
    assert len(found.curves) == (1 if classes == 2 else classes)
    assert loss(found) < loss(Temperature.fit(linear[half], labels[half]))
    monkeypatch.setattr(Temperature, "fit", lambda *_: Temperature(0.7, 0.01))  # whose mix is that of as many rows
    copies = np.repeat(np.arange(4000), rng.integers(0, 3, 4000))
    weights = np.bincount(copies, minlength=4000).astype(np.float64)
    one, other = Isotonic.fit(linear[half], labels[half], weights), Isotonic.fit(linear[copies], labels[copies])
    for curve, wanted in zip(one.curves, other.curves, strict=True):
        points = np.linspace(0, 1, 50)
        np.testing.assert_allclose(curve(points), wanted(points), atol=1e-6)
    assert Temperature.from_state(json.loads(json.dumps(found.to_state()))) == found


def test_two_classes_of_a_value_each_have_the_curve_of_one() -> None:
    rng = np.random.default_rng(0)
    linear, labels = rng.standard_normal((90, 2)), rng.integers(0, 2, 90)
    two, one = Isotonic.fit(linear, labels), Isotonic.fit(linear[:, 1:] - linear[:, :1], labels)
    assert len(two.curves) == len(one.curves) == 1
    np.testing.assert_allclose(two(linear), one(linear[:, 1:] - linear[:, :1]), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_curves_of_many_values_are_fitted_in_pieces(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    rng = np.random.default_rng(classes)
    linear, labels = rng.standard_normal((90, classes)), rng.integers(0, max(2, classes), 90)
    weights = rng.integers(0, 3, 90).astype(np.float64)
    whole = Isotonic.fit(linear, labels, weights)
    expected = whole(linear)
    monkeypatch.setattr(calibration, "MAX_VALUES", 7 * classes)
    np.testing.assert_array_equal(whole(linear), expected)
    np.testing.assert_allclose(Isotonic.fit(linear, labels, weights)(linear), expected, rtol=1e-9)


def test_curves_of_many_values_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, labels = np.zeros((1000, 200), np.float32), np.arange(1000) % 200
    linear[:, ::7] = 1
    monkeypatch.setattr(calibration, "MAX_VALUES", 1 << 13)
    monkeypatch.setattr(calibration, "CACHED_VALUES", 1 << 13)
    monkeypatch.setattr(calibration, "MAX_STEPS", 2)
    with peak_memory() as peak:
        Isotonic.fit(linear, labels)
        assert peak() < linear.nbytes


@pytest.mark.parametrize("classes", [2, 3])
def test_a_run_keeps_its_curves(
    classes: int, task: Callable[..., Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MIN_ISOTONIC_ROWS", 20)
    loaded = task(*LARGER, *(["data.target=half", "data.train=halves.csv"] if classes == 2 else []))
    if classes == 2:
        lines = (tmp_path / "points.csv").read_text().splitlines()
        halves = [f"{line},{'half' if i == 0 else 'ny'[i % 2]}" for i, line in enumerate(lines)]
        (tmp_path / "halves.csv").write_text("\n".join(halves))
    summary = train(loaded, tmp_path / "run").summary
    model = load_trained(tmp_path / "run")
    assert isinstance(model.calibration, Isotonic)
    assert len(model.calibration.curves) == (1 if classes == 2 else 3)
    assert evaluate(tmp_path / "run")[0] == summary["metrics"]
    for ending in (".py", ".safetensors", ".onnx"):
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed
    path = tmp_path / "run" / "model" / "model.json"
    state = json.loads(path.read_text())["calibration"]
    state["curves"][0]["outputs"][-1] = 1.5
    with pytest.raises(ValueError, match="does not rise"):
        Temperature.from_state(state)


def test_too_few_rows_are_refused(task: Callable[..., Loaded], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training.calibration: .*at least 10,000 validation rows, and there are 60"):
        train(task(*LARGER), tmp_path / "run")
    with pytest.raises(ConfigError, match="an isotonic curve needs validation rows"):
        task("training.calibration=isotonic", "data.split.validation=0")
    with pytest.raises(ConfigError, match="an isotonic curve is of probabilities, and a regression has none"):
        task("training.calibration=isotonic", "task=regression", "data.target=a", "data.drop=[class]")

"""Training on rows in memory: one line, the same model as from a file, and predictions for rows of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp import load_trained
from gpumlp.errors import ConfigError, DataError, RunError
from gpumlp.runs.model import DESCRIPTION, WEIGHTS

SHORT: dict[str, Any] = {"backend": "numpy", "model": {"hidden": [8]}, "training": {"epochs": 5, "batch_size": 16}}
ROWS = 80


def table() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    size = rng.normal(size=ROWS)
    size[3] = np.nan
    town = rng.choice(np.array(["Ulm", "Köln", None], object), ROWS)
    return {"size": size, "town": town, "flag": rng.integers(2, size=ROWS).astype(bool)}


KIND = np.where(table()["town"] == "Ulm", "a", "b")
PRICE = 100 + 5 * np.nan_to_num(table()["size"])


def test_one_line_trains() -> None:
    model = gpumlp.fit(table(), KIND, **SHORT | {"training": {"epochs": 60, "batch_size": 16}})
    assert model.encoder.task == "classification"
    assert [row["epoch"] for row in model.history] == [*range(1, 61)]
    predicted, probabilities = model.predict(table()), model.predict_proba(table())
    assert predicted.shape == (ROWS,)
    assert (predicted == KIND).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(np.array(model.encoder.classes, object)[probabilities.argmax(axis=1)], predicted)
    assert (
        repr(model)
        == f"<SavedModel: classification of 2 classes, 'y' from 6 inputs; {model.network.size} parameters>"
    )
    measured = model.evaluate(table(), KIND)
    assert measured["accuracy"] == (predicted == KIND).mean()
    assert set(measured) == {"accuracy", "macro_f1", "precision", "recall", "auc", "log_loss", "brier", "ece"}


def test_ranks_outlast_probabilities_that_float32_rounds_to_1() -> None:
    """Many values of this network are beyond 17, where a sigmoid in 32 bits is 1."""
    rng = np.random.default_rng(3)
    x = {"x": rng.normal(size=ROWS), "z": rng.normal(size=ROWS)}
    y = np.where(x["x"] + rng.normal(size=ROWS) > -1.5, "yes", "no")
    model = gpumlp.fit(x, y, **SHORT | {"training": {"epochs": 5, "batch_size": 16, "calibration": "none"}})
    for variable in model.network.trainable_variables[-2:]:
        variable.assign(variable.numpy() * 12.5)
    p = np.log(model.predict_proba(x))
    z = p[:, 1] - p[:, 0]
    assert np.mean(z > 17) > 0.1
    assert z.max() < 36  # where 64 bits end
    high, low = z[y == "yes"][:, None], z[y == "no"]
    measured = model.evaluate(x, y)
    assert measured["auc"] == pytest.approx(np.mean((high > low) + (high == low) / 2), abs=1e-12)
    assert measured["log_loss"] == pytest.approx(np.logaddexp(0, np.where(y == "yes", -z, z)).mean())


def test_numbers_are_predicted_in_their_units() -> None:
    model = gpumlp.fit(table(), PRICE, **SHORT)
    assert model.encoder.task == "regression"
    errors = model.predict(table()) - PRICE
    measured = model.evaluate(table(), PRICE)
    np.testing.assert_allclose(measured["rmse"], np.sqrt(np.mean(errors**2)), rtol=1e-6)
    weights = np.arange(ROWS) % 4
    weighted = model.evaluate(table(), PRICE, weights)
    np.testing.assert_allclose(weighted["mae"], np.average(np.abs(errors), weights=weights), rtol=1e-6)
    with pytest.raises(TypeError, match="not probabilities"):
        model.predict_proba(table())


def test_rows_in_memory_and_in_a_file_make_the_same_model(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(ROWS, 3))
    np.savez(tmp_path / "a.npz", x=inputs, y=KIND)
    settings = {"data": {"train": tmp_path / "a.npz", "target": "y", "split": {"validation": 0.2, "test": 0.0}}}
    gpumlp.train(gpumlp.configure(task="classification", **settings, **SHORT), tmp_path / "run")
    gpumlp.fit(inputs, KIND, validation=0.2, **SHORT).save(tmp_path / "model")
    for name in (DESCRIPTION, WEIGHTS):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "run" / "model" / name).read_bytes()


def test_a_saved_model_predicts_rows_of_any_kind(tmp_path: Path) -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    model = gpumlp.fit(pd.DataFrame(table()).assign(kind=KIND), "kind", **SHORT)
    model.save(tmp_path / "deep" / "model")
    again = load_trained(tmp_path / "deep" / "model", "numpy")
    wanted = model.predict_proba(table())
    pd.DataFrame(table()).to_csv(tmp_path / "a.csv", index=False)
    for rows in (pd.DataFrame(table()), pl.DataFrame(table()), table(), tmp_path / "a.csv"):
        np.testing.assert_array_equal(again.predict_proba(rows), wanted)
    assert again.history == ()
    assert again.evaluate(pd.DataFrame(table()).assign(kind=KIND)) == model.evaluate(table(), KIND)
    with pytest.raises(DataError, match="there is no column 'size'"):
        again.predict({"town": ["Ulm"], "flag": [True]})
    one = {name: values[:1] for name, values in table().items()}
    np.testing.assert_allclose(again.predict_proba(one), wanted[:1], rtol=1e-6)


def test_validation_rows_and_weights() -> None:
    weights = np.arange(ROWS) % 3
    rows = {name: values[:60] for name, values in table().items()}
    others = {name: values[60:] for name, values in table().items()}
    model = gpumlp.fit(rows, KIND[:60], weights=weights[:60], validation=(others, KIND[60:], weights[60:]), **SHORT)
    named = gpumlp.fit(
        {**rows, "kind": KIND[:60], "n": weights[:60]},
        "kind",
        weights="n",
        validation=({**others, "kind": KIND[60:], "n": weights[60:]}, "kind", "n"),
        **SHORT,
    )
    assert [row["validation_loss"] for row in model.history] == [row["validation_loss"] for row in named.history]
    assert "validation_loss" not in gpumlp.fit(rows, KIND[:60], validation=0, **SHORT).history[0]


def test_a_row_of_weight_three_is_three_rows() -> None:
    """Of the encoding, which is fitted before any batch."""
    inputs = np.random.default_rng(0).normal(size=(30, 2))
    weights = np.arange(30) % 4
    one = gpumlp.fit(inputs, inputs[:, 0], weights=weights, validation=0, **SHORT).encoder.to_state()
    repeated = inputs.repeat(weights, axis=0)
    other = gpumlp.fit(repeated, repeated[:, 0], validation=0, **SHORT).encoder.to_state()
    assert one[0]["target"] == other[0]["target"]
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name])
    halves = gpumlp.fit(inputs, inputs[:, 0], weights=weights / 2, validation=0, **SHORT).encoder.to_state()
    for name, array in halves[1].items():  # only their ratios count
        np.testing.assert_allclose(array, one[1][name], rtol=1e-12)


def test_wrong_input() -> None:
    with pytest.raises(ConfigError, match=r"data\.train"):
        gpumlp.fit(table(), KIND, data={"train": "a.csv"})
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        gpumlp.fit(table(), KIND, training={"epochs": 0})
    with pytest.raises(DataError, match="80 rows, but 79 values for 'y'"):
        gpumlp.fit(table(), KIND[1:], **SHORT)
    with pytest.raises(DataError, match="there is no column 'knd'"):
        gpumlp.fit({**table(), "kind": KIND}, "knd", **SHORT)
    with pytest.raises(DataError, match="holds object, not real numbers"):
        gpumlp.fit(np.array([["a"], ["b"]], object), [0, 1], validation=0, **SHORT)
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        gpumlp.fit(np.zeros(3), [0, 1, 0], **SHORT)
    with pytest.raises(DataError, match="a column 'y' already"):
        gpumlp.fit({**table(), "y": KIND}, KIND, **SHORT)
    with pytest.raises(RunError, match=r"loss became|no longer finite"):
        gpumlp.fit(table(), PRICE, **SHORT, optimizer={"name": "sgd", "learning_rate": 1e30})


def test_a_model_whose_weights_are_not_finite_is_not_saved(tmp_path: Path) -> None:
    model = gpumlp.fit(np.arange(20.0).reshape(10, 2), np.arange(10.0), training={"epochs": 1}, validation=0.0)
    name, array = next(iter(model.network.arrays().items()))
    model.network.load(model.network.arrays() | {name: np.full_like(array, np.nan)})
    with pytest.raises(RunError, match="not finite, so the model cannot predict"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()

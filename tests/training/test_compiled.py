"""Layers that are compiled and trained on arrays: the loop of ``gpumlp.fit``, and what a notebook expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumlp
from gpumlp import Dense, Dropout, Sequential
from gpumlp.data import Encoder
from gpumlp.errors import ConfigError, DamageError, DataError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 4)).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


def network(*, outputs: int = 3, link: str = "softmax") -> Sequential:
    return Sequential([Dense(16, "relu"), Dense(outputs, link)])


def test_the_same_bytes_as_fit() -> None:
    model = network().compile("adam", "cross_entropy", learning_rate=0.01, backend="numpy")
    weights = RNG.uniform(0.5, 2, 120)
    history = model.fit(X, CLASSES, epochs=5, validation_split=0.2, sample_weight=weights, seed=3)
    other = gpumlp.fit(
        X,
        CLASSES,
        weights=weights,
        validation=0.2,
        data={"scaling": "none"},
        model={"hidden": [16]},
        optimizer={"name": "adam", "learning_rate": 0.01},
        schedule="constant",
        training={"epochs": 5, "batch_size": 32, "early_stopping": None, "seed": 3},
        backend="numpy",
    )
    for ours, theirs in zip(model.get_weights(), other.network.arrays().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert history["validation_loss"] == [row["validation_loss"] for row in other.history]
    np.testing.assert_array_equal(model.predict(X).argmax(axis=1), other.predict(X).astype(int))


def test_rows_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, parts = Encoder.encode, []

    def counted(self: Encoder, source: Any, **more: Any) -> Any:
        parts.append(self.count(source))
        return encode(self, source, **more)

    monkeypatch.setattr(Encoder, "encode", counted)
    model = network().compile("adam", "cross_entropy", backend="numpy")
    model.fit(X, CLASSES, epochs=1, validation_split=0.2)
    model.evaluate(X, CLASSES)
    assert sorted(parts) == [24, 96, 120]


@pytest.mark.parametrize("loss", ["cross_entropy", {"name": "cross_entropy", "class_weight": "balanced"}])
@pytest.mark.parametrize("rows", [slice(1), np.flatnonzero(CLASSES == 1)], ids=["one row", "one class"])
def test_rows_of_one_class_have_loss_and_accuracy(rows: Any, loss: Any) -> None:
    model = network().compile("adam", loss, backend="numpy")
    model.fit(X, CLASSES, epochs=1)
    found = model.evaluate(X[rows], CLASSES[rows])
    of_true = model.predict(X[rows])[np.arange(len(X[rows])), CLASSES[rows]]
    assert found["loss"] == pytest.approx(-np.log(of_true.astype(np.float64)).mean(), rel=1e-6)
    assert found["accuracy"] == (model.predict(X[rows]).argmax(axis=1) == CLASSES[rows]).mean()


@pytest.mark.parametrize("rows", [[3], [3, 3]])
def test_rows_without_spread_have_all_that_is_defined_of_them(rows: list[int]) -> None:
    y = 1 + X[:, 0]
    model = network(outputs=1, link="identity").compile("adam", "mse", backend="numpy")
    model.fit(X, y, epochs=1)
    found, error = model.evaluate(X[rows], y[rows]), float(abs(model.predict(X[rows])[0, 0] - y[3]))
    assert found["mae"] == pytest.approx(error, rel=1e-5)
    assert found["loss"] == pytest.approx(error**2, rel=1e-5)
    assert np.isnan(found["r2"])
    binary = network(outputs=1, link="sigmoid").compile("adam", "cross_entropy", backend="numpy")
    binary.fit(X, X[:, 0] > 0, epochs=1)
    found = binary.evaluate(X[rows], (X[:, 0] > 0)[rows])
    assert np.isfinite([found["loss"], found["accuracy"]]).all()
    assert np.isnan(found["auc"])


@pytest.mark.parametrize(
    ("outputs", "link", "loss", "y", "metric"),
    [
        (1, "sigmoid", "binary_crossentropy", X[:, 0] > 0, "accuracy"),
        (2, "sigmoid", "binary_crossentropy", X[:, :2] > 0, "accuracy"),
        (2, "sigmoid", None, (X[:, :2] > 0) * 1.0, "accuracy"),
        (1, "identity", "mse", 1 + X[:, 0], "r2"),
        (2, "identity", "mae", X[:, :2] * 3, "r2"),
        (3, "softmax", {"name": "focal", "gamma": 1.0}, CLASSES, "accuracy"),
    ],
)
def test_what_a_notebook_trains(outputs: int, link: str, loss: Any, y: Any, metric: str) -> None:
    model = network(outputs=outputs, link=link).compile("adam", loss, learning_rate=0.02, backend="numpy")
    history = model.fit(X, y, epochs=40, batch_size=16)
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    assert model.evaluate(X, y)[metric] > 0.8
    assert model.predict(X).shape == (120, outputs)
    if metric == "r2":  # in the units of y
        assert np.abs(model.predict(X) - np.reshape(y, (120, -1))).mean() < 0.5 * np.abs(y - y.mean()).mean()


def test_training_goes_on_and_weights_are_kept(tmp_path: Path) -> None:
    model = Sequential([Dense(8, "tanh"), Dropout(0.1), Dense(3, "softmax")]).compile(backend="numpy")
    first = model.fit(X, CLASSES, epochs=3, validation_data=(X[:20], CLASSES[:20]))
    again = model.fit(X, CLASSES, epochs=3)
    assert again["train_loss"][0] < first["train_loss"][0]
    model.save(tmp_path / "w.safetensors")
    other = Sequential([Dense(8, "tanh"), Dropout(0.1), Dense(3, "softmax")]).build(4, seed=9)
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    other.set_weights([0 * each for each in other.get_weights()])
    np.testing.assert_allclose(other.predict(X), 1 / 3, rtol=1e-6)
    with pytest.raises(ConfigError, match="1 arrays, and the model has 4"):
        other.set_weights([X])
    with pytest.raises(ShapeError):
        other.set_weights([X] * 4)
    with pytest.raises(DamageError):
        other.load_weights(tmp_path / "none.safetensors")


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="not compiled"):
        network().fit(X, CLASSES)
    with pytest.raises(ConfigError, match="did you mean 'adam'"):
        network().compile("adamv")
    with pytest.raises(ConfigError, match="did you mean 'huber'"):
        network().compile(loss="hubber")
    model = network().compile(backend="numpy")
    for x, y, what in [
        (X, CLASSES[:3], r"x has 120 rows, and y the shape \(3,\)"),
        (X[:, 0], CLASSES, r"x must be \(N, p\) numbers"),
        (X * np.nan, CLASSES, "missing values"),
        (X, CLASSES.astype(str), "y must be numbers"),
        (X, np.eye(3)[CLASSES], r"take y.argmax\(axis=1\)"),
        (X, CLASSES + 5, r"class '[567]' does not occur in the training data\n.*allowed: 0, 1, 2"),
    ]:
        with pytest.raises(DataError, match=what):
            model.fit(x, y, epochs=1)
    with pytest.raises(DataError, match=r"x has 3 columns .* the model takes 4"):
        network().compile(backend="numpy").build(4).fit(X[:, :3], CLASSES)
    with pytest.raises(ConfigError, match="but the model ends in tanh"):
        network(link="tanh").compile(loss="cross_entropy", backend="numpy").fit(X, CLASSES)

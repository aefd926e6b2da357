"""Estimators for scikit-learn: its own checks, and what users of it do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", minversion="1.6")
pd = pytest.importorskip("pandas")

import joblib  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from gpumlp import load, load_trained, train  # noqa: E402
from gpumlp.config import configure  # noqa: E402
from gpumlp.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

X, Y = load_iris(return_X_y=True)
SHORT: dict[str, Any] = {"max_iter": 5, "random_state": 3, "hidden_layer_sizes": (8,), "backend": "numpy"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("estimator", [MLPClassifier(), MLPRegressor()], ids=lambda each: type(each).__name__)
def test_what_scikit_learn_checks(estimator: Any) -> None:
    results = check_estimator(estimator, on_skip=None)
    assert len(results) > 50
    assert {each["status"] for each in results if each["check_name"] != "check_array_api_input"} == {"passed"}


def mixed(rows: int = 90) -> Any:
    """A table with numbers, gaps, texts, a category that is a number, and truth values."""
    rng = np.random.default_rng(0)
    number = rng.normal(size=rows)
    number[::7] = np.nan
    town = rng.choice(np.array(["Ulm", "Köln", None], object), rows)
    return pd.DataFrame(
        {
            "number": number,
            "town": town,
            "floor": pd.Categorical(rng.integers(1, 4, rows)),
            "new": rng.integers(2, size=rows).astype(bool),
            "count": pd.array(rng.integers(0, 9, rows), dtype="Int64"),
        }
    )


def test_tables_with_texts_categories_and_gaps() -> None:
    table = mixed()
    wanted = np.where(table["town"] == "Ulm", "a", np.where(table["new"], "b", "c"))
    model = MLPClassifier(random_state=0, learning_rate_init=0.01, backend="numpy").fit(table, wanted)
    assert model.score(table, wanted) > 0.95
    assert model.feature_names_in_.tolist() == list(table)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert model.model_.encoder.features[:3] == ("number", "count", "number is missing")
    assert "floor=2" in model.model_.encoder.features
    assert "new=true" in model.model_.encoder.features
    np.testing.assert_array_equal(model.predict(table.iloc[[0]]), model.predict(table)[:1])
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table.rename(columns={"town": "city"}))


@pytest.mark.parametrize(
    "classes",
    [[7, 10, 9], [0, 1], [-1, 1], [1.0, 0.0], ["10", "9"], ["10", "9", "8"], ["yes", "no"], [True, False]],
    ids=str,
)
def test_classes_keep_their_type_and_their_order(classes: list[Any]) -> None:
    """gpumlp sorts names that are numbers by value, scikit-learn as texts."""
    which = np.arange(60) % len(classes)
    inputs = np.eye(len(classes))[which]
    target = np.array(classes)[which]
    model = MLPClassifier(random_state=0, learning_rate_init=0.05, max_iter=40, backend="numpy").fit(inputs, target)
    np.testing.assert_array_equal(model.classes_, np.unique(target))
    assert model.classes_.dtype == target.dtype
    np.testing.assert_array_equal(model.predict(inputs), target)
    np.testing.assert_array_equal(model.classes_[model.predict_proba(inputs).argmax(axis=1)], target)
    scores = model.decision_function(inputs)
    best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    np.testing.assert_array_equal(model.classes_[best], target)
    np.testing.assert_array_equal(model.model_.predict(inputs), target)


def run(folder: Path, settings: str) -> dict[str, bytes]:
    (folder / "run.yaml").write_text(settings)
    train(load(folder / "run.yaml"), folder / "run")
    return {file.name: file.read_bytes() for file in (folder / "run" / "model").iterdir()}


SAME = """
model: {hidden: [8], activation: relu}
optimizer: {name: adam, learning_rate: 0.001, weight_decay: 0.0001, averaging: null}
schedule: constant
backend: numpy
precision: float64
"""


def test_the_same_arrays_and_settings_give_the_bytes_of_a_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    estimator = MLPClassifier(**SHORT).fit(X, Y)
    files = run(
        tmp_path,
        "task: classification\ndata: {train: a.npz, target: y, split: {validation: 0, test: 0}}\n"
        "training: {epochs: 5, batch_size: 200, seed: 3, early_stopping: null}" + SAME,
    )
    assert estimator.model_.to_bytes() == files


def test_the_same_table_and_settings_give_the_bytes_of_a_run(tmp_path: Path) -> None:
    table, target = mixed(), np.random.default_rng(1).normal(size=90)
    weights = np.arange(90) % 3 + 0.5
    table.assign(y=target, weights=weights).to_parquet(tmp_path / "a.parquet")
    estimator = MLPRegressor(**SHORT, early_stopping=True, n_iter_no_change=2).fit(table, target, weights)
    files = run(
        tmp_path,
        "task: regression\ndata:\n  train: a.parquet\n  target: y\n  weights: weights\n"
        "  columns: {floor: category}\n  split: {validation: 0.1, test: 0}\n"
        "training: {epochs: 5, batch_size: 200, seed: 3, early_stopping: {patience: 2, min_delta: 0.0001}}" + SAME,
    )
    found = estimator.model_.to_bytes()
    assert found["weights.safetensors"] == files["weights.safetensors"]
    assert json.loads(found["model.json"])["network"] == json.loads(files["model.json"])["network"]


def test_curves_and_stopping() -> None:
    model = MLPClassifier(random_state=0, max_iter=300, tol=1e-2, n_iter_no_change=3, backend="numpy").fit(X, Y)
    assert 4 < model.n_iter_ == len(model.loss_curve_) < 300
    assert model.loss_ == model.loss_curve_[-1]
    assert model.validation_scores_ is None
    before = np.minimum.accumulate([np.inf, *model.loss_curve_])[:-1]
    better = np.flatnonzero(np.array(model.loss_curve_) <= before - 1e-2)
    assert model.n_iter_ == better[-1] + 1 + 3 + 1  # as scikit-learn has it: one more than n_iter_no_change
    model = MLPRegressor(**SHORT, early_stopping=True, validation_fraction=0.2).fit(X[:, :3], X[:, 3])
    assert len(model.validation_scores_) == model.n_iter_ == 5
    assert model.best_validation_score_ == max(model.validation_scores_)
    model = MLPRegressor(**SHORT).fit(X[:100, :3], X[:100, 3], X_val=X[100:, :3], y_val=X[100:, 3])
    assert len(model.validation_scores_) == 5
    with pytest.raises(ValueError, match="given together"):
        MLPRegressor(**SHORT).fit(X, Y, X_val=X)


def test_weights_of_rows_and_of_classes() -> None:
    inputs, target = np.zeros((40, 1)), np.repeat(["a", "b"], 20)
    inputs[::2] = 1
    settings: dict[str, Any] = {**SHORT, "max_iter": 300, "learning_rate_init": 0.02, "tol": -1.0}
    expected = {"none": 0.5, "rows": 0.75, "classes": 0.75}
    found = {
        "none": MLPClassifier(**settings).fit(inputs, target),
        "rows": MLPClassifier(**settings).fit(inputs, target, np.repeat([1.0, 3.0], 20)),
        "classes": MLPClassifier(**settings, class_weight={"b": 3.0}).fit(inputs, target),
    }
    for name, model in found.items():
        np.testing.assert_allclose(model.predict_proba(inputs)[:, 1], expected[name], atol=0.01)
    balanced = MLPClassifier(**settings, class_weight="balanced").fit(inputs[10:], target[10:])
    np.testing.assert_allclose(balanced.predict_proba(inputs)[:, 1], 0.5, atol=0.01)


def test_a_pickle_holds_the_files_of_a_model_and_no_code(tmp_path: Path) -> None:
    model = MLPClassifier(**SHORT, early_stopping=True).fit(mixed(), Y[:90] % 2)
    state = model.__getstate__()
    files, _ = state["model_"]
    assert json.loads(files["model.json"])["format"]
    assert files["weights.safetensors"][8:9] == b"{"
    joblib.dump(model, tmp_path / "a.joblib")
    for twin in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "a.joblib")):
        np.testing.assert_array_equal(twin.predict_proba(mixed()), model.predict_proba(mixed()))
        assert (twin.loss_curve_, twin.n_iter_, twin.get_params()) == (model.loss_curve_, 5, model.get_params())
        assert twin.model_.history == model.model_.history
    damaged = {**state, "model_": ({**files, "model.json": files["model.json"].replace(b"relu", b"tanh")}, ())}
    with pytest.raises(Exception, match="checksum"):
        MLPClassifier().__setstate__(damaged)
    assert not hasattr(clone(model), "model_")


def test_search_and_folds_in_two_processes() -> None:
    estimator = MLPClassifier(**{**SHORT, "max_iter": 30, "learning_rate_init": 0.01})
    search = GridSearchCV(estimator, {"hidden_layer_sizes": [(2,), (16,)]}, cv=2, n_jobs=2).fit(X, Y)
    assert search.best_params_ == {"hidden_layer_sizes": (16,)}
    assert search.score(X, Y) > 0.8
    assert cross_val_score(estimator, X, Y, cv=2, n_jobs=2).min() > 0.7


def test_columns_may_be_called_as_target_and_weights_are() -> None:
    table = pd.DataFrame({"y": Y, "weights": X[:, 0]})
    model = MLPRegressor(**SHORT).fit(table, X[:, 1], np.ones(150), X_val=table, y_val=X[:, 1])
    assert model.model_.encoder.features == ("y", "weights")


def test_the_model_of_an_estimator_is_one_for_a_folder(tmp_path: Path) -> None:
    table = mixed()
    estimator = MLPRegressor(**SHORT).fit(table, Y[:90])
    estimator.model_.save(tmp_path / "model")
    np.testing.assert_array_equal(load_trained(tmp_path / "model", "numpy").predict(table), estimator.predict(table))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "lbfgs"}, "lbfgs is not a solver of gpumlp: choose adam"),
        ({"learning_rate": "adaptive"}, "choose plateau"),
        ({"solver": "adma"}, "did you mean 'adam'"),
        ({"alpha": -1.0}, r"weight_decay"),
        ({"max_iter": 0}, "training.epochs"),
        ({"batch_size": 2.5}, "training.batch_size"),
        ({"hidden_layer_sizes": (0,)}, "model.hidden"),
        ({"activation": "step"}, "got 'step', needs one of identity"),
        ({"class_weight": {7: 1.0}}, "there is no class '7'"),
        ({"random_state": -1}, "training.seed"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**{**SHORT, **parameters}).fit(X, Y)


def test_wrong_rows() -> None:
    with pytest.raises(
        ValueError, match=r"learns one target, and y has 2 columns; fit one for each: .*MultiOutputClassifier"
    ):
        MLPClassifier(**SHORT).fit(X[:, :2], np.stack([Y, Y], axis=1))
    with pytest.raises(ValueError, match="must be numbers"):
        MLPRegressor(**SHORT).fit(X, np.array(["a"] * 150))
    with pytest.raises(ValueError, match="a classifier needs at least two"):
        MLPClassifier(**SHORT).fit(X, np.zeros(150))
    with pytest.raises(ValueError, match="contains infinity"):
        MLPClassifier(**SHORT).fit(np.where(X > 7, np.inf, X), Y)
    with pytest.raises(ValueError, match="the weight -1 is negative"):
        MLPClassifier(**SHORT).fit(X, Y, np.where(np.arange(150) == 3, -1.0, 1.0))


def test_the_seed_is_drawn_from_a_random_state() -> None:
    one, two = (MLPClassifier(**{**SHORT, "random_state": np.random.RandomState(0)}).fit(X, Y) for _ in range(2))
    assert one.loss_curve_ == two.loss_curve_
    free = (MLPClassifier(**{**SHORT, "random_state": None}).fit(X, Y) for _ in range(2))
    assert next(free).loss_curve_ != next(free).loss_curve_


def test_settings_are_those_of_scikit_learn_where_they_have_its_names() -> None:
    from sklearn.neural_network import MLPClassifier as Theirs

    ours, theirs = MLPClassifier().get_params(), Theirs().get_params()
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 18
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_a_preset_sets_what_is_left_at_its_default() -> None:
    model = MLPClassifier(preset="tabular", max_iter=3, beta_2=0.9, hidden_layer_sizes=(8,), random_state=3)
    model.fit(X, Y)
    assert len(model.validation_scores_) == 3, "the epoch is chosen by rows set aside"
    assert model.model_.architecture.embedding == "both"
    assert [block.units for block in model.model_.architecture.hidden] == [8]
    settings = model._settings(0.1, weighted=False)
    assert (settings.preset, settings.optimizer.learning_rate, settings.training.seed) == ("tabular", 0.04, 3)
    assert (settings.optimizer.hyper["beta2"], settings.loss.hyper["label_smoothing"]) == (0.9, 0.0)
    assert (
        settings.precision == configure(task="classification", data={"train": "x", "target": "y"}).settings.precision
    )
    assert clone(model).fit(X, Y).predict(X).tolist() == model.predict(X).tolist()
    shared = MLPRegressor(preset="strong", members=2, max_iter=1, hidden_layer_sizes=(4,)).fit(X, Y)
    assert (shared.model_.architecture.heads, shared.model_.architecture.share) == (2, "hidden")
    with pytest.raises(ValueError, match="did you mean 'tabular'"):
        MLPClassifier(preset="tabula").fit(X, Y)


def test_numbers_are_embedded_where_it_is_wanted() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (600, 2))
    y = np.floor(6 * x[:, 0]) % 2
    plain = MLPRegressor((8,), max_iter=30, random_state=0).fit(x, y)
    bins = clone(plain).set_params(numbers="ple").fit(x, y)
    assert (plain.model_.architecture.embedding, bins.model_.architecture.embedding) == ("none", "ple")
    assert bins.score(x, y) > 0.5 > plain.score(x, y)
    with pytest.raises(ValueError, match="did you mean 'ple'"):
        clone(plain).set_params(numbers="pel").fit(x, y)


def test_probabilities_are_those_of_the_model() -> None:
    estimator = MLPClassifier((8,), max_iter=3, early_stopping=True, random_state=0, backend="numpy").fit(X, 2 - Y)
    assert estimator.model_.calibration is not None
    np.testing.assert_array_equal(estimator.predict_proba(X), estimator.model_.predict_proba(X))
    np.testing.assert_array_equal(estimator.predict(X), estimator.predict_proba(X).argmax(axis=1))


@pytest.mark.parametrize(
    ("classes", "weights", "message"),
    [
        (["a", "b"], {"apple": 3.0}, "class_weight has 'apple'; the classes are"),
        ([0, 1], {0.5: 3.0}, r"class_weight has 0\.5; the"),
        ([0, 1], {"1": 3.0}, "class_weight has '1'; the"),
        ([" a", "a", "b"], None, r"\[' a', 'a'\] are one class"),
        (["NA", "b"], None, "'NA' means a missing value"),
    ],
)
def test_classes_are_not_taken_for_others(classes: list[Any], weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPClassifier(class_weight=weights, backend="numpy").fit(X[: 5 * len(classes)], classes * 5)


def test_several_targets() -> None:
    """Each in its units, as one network of the library predicts them; scores, pickles and validation rows too."""
    inputs, targets = X[:, :2], X[:, 2:] * [1.0, 1000.0]
    table = {**SHORT, "max_iter": 200, "learning_rate_init": 0.01}
    found = MLPRegressor(**table).fit(inputs[::2], targets[::2], X_val=inputs[1::2], y_val=targets[1::2])
    predicted = found.predict(inputs)
    assert predicted.shape == (150, 2)
    assert found.n_outputs_ == 2
    assert found.score(inputs, targets) > 0.7
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict(inputs), predicted)
    one = MLPRegressor(**table).fit(inputs, targets[:, :1].ravel())
    assert one.predict(inputs).shape == (150,)
    weighted = MLPRegressor(**SHORT).fit(inputs, targets, np.ones(150))
    np.testing.assert_array_equal(
        weighted.predict(inputs), MLPRegressor(**SHORT).fit(inputs, targets).predict(inputs)
    )
    with pytest.raises(ValueError, match="y has 2 columns"):
        MLPRegressor(**SHORT).fit(inputs, targets, X_val=inputs, y_val=targets[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        MLPRegressor(**SHORT).fit(inputs, np.where(targets > 5, np.nan, targets))


def test_labels_of_0_and_1_are_learned_each_by_itself():
    x = np.random.default_rng(0).standard_normal((200, 3))
    y = (x[:, :2] > 0).astype(int)
    model = MLPClassifier((16,), max_iter=60, learning_rate_init=0.01, random_state=0).fit(x, y)
    assert model.score(x, y) > 0.9  # all labels of a row
    assert model.predict(x).shape == model.predict_proba(x).shape == model.decision_function(x).shape == (200, 2)
    np.testing.assert_array_equal(model.predict(x), model.predict_proba(x) > 0.5)
    assert (model.classes_.tolist(), model.out_activation_) == ([0, 1], "sigmoid")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), model.predict(x))
    assert MLPClassifier(max_iter=2).fit(x, y * [1, 0]).predict(x).shape == (200, 2)  # a label that no row has
    with pytest.raises(ValueError, match="class_weight is for classes"):
        MLPClassifier(class_weight="balanced").fit(x, y)

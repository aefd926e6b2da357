"""Estimators for scikit-learn (extra ``sklearn``), with the names and defaults of its own multilayer perceptrons.

    from gpumlp.sklearn import MLPClassifier

    model = MLPClassifier(hidden_layer_sizes=(64, 32), early_stopping=True, random_state=0).fit(X, y)

Rows are arrays of numbers, or DataFrames with texts, categories and gaps, which need no pipeline before them: inputs
are scaled, texts encoded, gaps filled and flagged, as in a run from a file. The same rows and settings give the same
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import (
        _check_sample_weight,
        assert_all_finite,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:  # pragma: no cover
    raise ImportError("gpumlp.sklearn needs scikit-learn 1.6 or later: pip install 'gpumlp[sklearn]'") from error

from gpumlp import backend as backends
from gpumlp.config import PLAIN, Settings, configure
from gpumlp.data import News, Source, rows_of, with_columns
from gpumlp.errors import GpumlpError
from gpumlp.runs.in_memory import IN_MEMORY, TARGET, WEIGHTS, category_columns, fit_source
from gpumlp.runs.model import SavedModel, parse_model

AUTO_BATCH = 200
"""Rows of a batch where ``batch_size`` is auto."""

ACTIVATION_NAMES = {"logistic": "sigmoid"}
"""Activations that scikit-learn calls otherwise."""

REFUSED = {
    "solver": {"lbfgs": "lbfgs is not a solver of gpumlp: choose adam, adamw, sgd, rmsprop or adagrad"},
    "learning_rate": {
        "invscaling": "invscaling is not a schedule of gpumlp: choose constant, cosine, step or exponential",
        "adaptive": "adaptive is not a schedule of gpumlp: choose plateau, with validation rows",
    },
}
"""Values of parameters that scikit-learn has and gpumlp has not, each with what to do."""


class _MLP(BaseEstimator):  # type: ignore[misc]
    """What classifiers and regressors share."""

    task: str

    @property
    def _task(self) -> str:
        """The task of the settings."""
        return self.task

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        random_state: Any = None,
        tol: float = 1e-4,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        dropout: float = 0.0,
        norm: str = "none",
        numbers: str = "none",
        scaling: str | None = None,
        members: int = 1,
        preset: str = PLAIN,
        precision: str = "float64",
        backend: str = "auto",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.norm = norm
        self.numbers = numbers
        self.scaling = scaling
        self.members = members
        self.preset = preset
        self.precision = precision
        self.backend = backend

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> Self:
        """Train on rows.

        Parameters
        ----------
        X
            (N, p) array of numbers, NaN where a value is missing, or DataFrame.
        y
            (N,) target.
        sample_weight
            (N,) how much each row counts, at least 0; None for all alike.
        X_val, y_val
            Rows by which the best epoch is chosen, and that ``early_stopping`` looks at; without them it sets
            ``validation_fraction`` of the rows aside.

        Returns
        -------
        Self

        Raises
        ------
        ValueError
            If a parameter is wrong, or the rows do not fit.
        """
        with _as_value_errors():
            categories = category_columns(X)
            X = self._checked(X, reset=True)
            target = self._fit_target(X, y)
            weights = {}
            if sample_weight is not None:
                weights = {self._free(WEIGHTS): _check_sample_weight(sample_weight, _rows_like(X), dtype=np.float64)}
            self._several = target.shape[1] if np.ndim(target) == 2 else 0
            source = self._source(X, **self._named(target), **weights)
            chooses = self.early_stopping or self.preset != PLAIN
            validation: float | Source = self.validation_fraction if chooses else 0.0
            if (X_val is None) != (y_val is None):
                raise ValueError("X_val and y_val are given together")
            if X_val is not None:
                X_val = self._checked(X_val, reset=False)
                others = self._named(self._encoded_target(X_val, y_val))
                if weights:
                    others[self._free(WEIGHTS)] = np.ones(len(X_val))
                validation = self._source(X_val, **others)
            settings = self._settings(validation, weighted=bool(weights))
            stop = None if chooses else _Patience(self.tol, self.n_iter_no_change)
            self._take(fit_source(settings, source, validation, columns=categories, stop=stop), settings)
        return self

    def _take(self, model: SavedModel, settings: Settings) -> None:
        """Keep a trained model, and what scikit-learn tells of one."""
        self.model_ = model
        self.loss_curve_ = [float(row["train_loss"]) for row in model.history]
        self.loss_ = self.loss_curve_[-1]
        self.best_loss_ = min(self.loss_curve_)
        self.n_iter_ = len(self.loss_curve_)
        score = "validation_accuracy" if self.task == "classification" else "validation_r2"
        scores = [float(row[score]) for row in model.history if score in row]
        self.validation_scores_ = scores or None
        self.best_validation_score_ = max(scores) if scores else None
        self.n_layers_ = len(model.architecture.hidden) + 2
        self.n_outputs_ = model.encoder.outputs
        self.out_activation_ = model.network.link

    def _settings(self, validation: float | Source, *, weighted: bool) -> Settings:
        """Return what a configuration file with these parameters, or those changed beside a preset, would say."""
        settings = self._described()
        if self.preset != PLAIN:
            usual = copy(self).set_params(**type(self)().get_params())
            settings = _changed(settings, usual._described())
        share = float(validation) if isinstance(validation, int | float) else IN_MEMORY
        settings["data"] = {
            **settings.get("data", {}),
            "train": IN_MEMORY,
            "target": self._target_names(),
            "split": {"validation": share, "test": 0.0},
            "weights": self._free(WEIGHTS) if weighted else None,
        }
        settings["training"] = {**settings.get("training", {}), "seed": self._seed()}
        return configure(task=self._task, preset=self.preset, **settings).settings

    def _described(self) -> dict[str, Any]:
        """Return the settings that parameters stand for, but for those of the rows and the seed."""
        for name, refused in REFUSED.items():
            if (value := getattr(self, name)) in refused:
                raise ValueError(refused[value])
        sizes = self.hidden_layer_sizes
        hidden = np.atleast_1d(np.asarray(sizes)).tolist() if not isinstance(sizes, list | tuple) else list(sizes)
        optimizer: dict[str, Any] = {"name": self.solver}
        if self.solver == "sgd" and self.momentum > 0:
            optimizer = {"name": "nesterov" if self.nesterovs_momentum else "momentum"}
        name = optimizer["name"]
        if name in ("momentum", "nesterov"):
            optimizer["momentum"] = float(self.momentum)
        if name in ("adam", "adamw"):
            optimizer |= {"beta1": float(self.beta_1), "beta2": float(self.beta_2)}
        if name in ("adam", "adamw", "rmsprop", "adagrad"):
            optimizer["epsilon"] = float(self.epsilon)
        training: dict[str, Any] = {
            "epochs": _whole(self.max_iter),
            "batch_size": AUTO_BATCH if self.batch_size == "auto" else _whole(self.batch_size),
            "early_stopping": None,
        }
        if self.early_stopping:
            patience = _whole(self.n_iter_no_change)
            training["early_stopping"] = {"patience": patience, "min_delta": float(self.tol)}
        return {
            "data": {"scaling": self.scaling},
            "model": {
                "hidden": [_whole(size) for size in hidden],
                "activation": ACTIVATION_NAMES.get(self.activation, self.activation),
                "dropout": float(self.dropout),
                "norm": self.norm,
                "numbers": self.numbers,
            },
            "loss": self._loss(),
            "optimizer": {
                **optimizer,
                "averaging": None,
                "learning_rate": float(self.learning_rate_init),
                "weight_decay": float(self.alpha),
            },
            "schedule": {"name": self.learning_rate},
            "training": training,
            "members": _whole(self.members),
            "backend": self.backend,
            "precision": self.precision,
        }

    def _loss(self) -> dict[str, Any]:
        return {"name": "auto"}

    def _seed(self) -> int:
        state = self.random_state
        if isinstance(state, int | np.integer):
            return int(state)
        return int(check_random_state(state).randint(np.iinfo(np.int32).max))

    def _checked(self, X: Any, *, reset: bool) -> Any:
        """Return rows as they are encoded, after the checks that scikit-learn makes of names and shapes."""
        if hasattr(X, "columns"):
            validate_data(self, X, skip_check_array=True, reset=reset)
            if reset:
                self._columns: list[str] | None = [str(name) for name in X.columns]
            if len(X) < (2 if reset else 1):
                raise ValueError(
                    f"Found DataFrame with {len(X)} sample(s) while a minimum of 2 is required to train."
                )
            if self._columns is None:
                X = np.asarray(X)
        else:
            X = validate_data(
                self,
                X,
                reset=reset,
                dtype="numeric",
                ensure_all_finite="allow-nan",
                ensure_min_samples=2 if reset else 1,
            )
            if reset:
                self._columns = None
        return X

    def _source(self, X: Any, **more: Any) -> Source:
        if self._columns is not None:  # by columns: a DataFrame would go through Arrow, which takes 0.1 s for one row
            values = [X[name] for name in X.columns] if hasattr(X, "columns") else np.asarray(X).T
            X = dict(zip(self._columns, values, strict=True))
        return with_columns(rows_of(X), more)

    def _free(self, name: str) -> str:
        """Return a name that no column has."""
        while name in (self._columns or ()):
            name += "_"
        return name

    def _target_names(self) -> str | tuple[str, ...]:
        """Return what the target is called, or each of several."""
        return tuple(self._free(f"{TARGET}{i}") for i in range(self._several)) or self._free(TARGET)

    def _named(self, target: Any) -> dict[str, Any]:
        """Return targets, (N,) or (N, T), by name."""
        names = self._target_names()
        if isinstance(names, str):
            return {names: target}
        if np.shape(target) != (len(target), len(names)):
            raise ValueError(f"y_val has the shape {np.shape(target)}, and y has {len(names)} columns")
        return dict(zip(names, target.T, strict=True))

    def _fit_target(self, X: Any, y: Any) -> Any:
        return self._encoded_target(X, y)

    def _encoded_target(self, X: Any, y: Any) -> Any:
        raise NotImplementedError

    def _one_target(self, X: Any, y: Any) -> Any:
        """Return (N,) targets. Raises ValueError where there are several for each row."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        if getattr(np.asarray(y), "ndim", 1) == 2 and np.shape(y)[1] > 1:
            message = f"{type(self).__name__} learns one target, and y has {np.shape(y)[1]} columns"
            raise ValueError(f"{message}; fit one for each: sklearn.multioutput.MultiOutput{type(self).__name__[3:]}")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        return y

    def _linear(self, X: Any) -> Any:
        """Return the last linear values of the network, (N, K)."""
        check_is_fitted(self)
        with _as_value_errors():
            source = self._source(self._checked(X, reset=False))
            data, _ = self.model_.encoder.encode(source, targets=False, news=News())
            return np.concatenate([linear for linear, _ in self.model_.answers(data.features)])

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: of the model, the files of its folder, which are numbers and JSON."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = (state["model_"].to_bytes(), state["model_"].history)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from what a pickle holds."""
        state = dict(state)
        if "model_" in state:
            files, history = state["model_"]
            model = parse_model(files, backends.get(state["backend"]))
            state["model_"] = replace(model, history=history)
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class MLPClassifier(ClassifierMixin, _MLP):  # type: ignore[misc]
    """A multilayer perceptron that tells classes apart, or, where y is (N, T) of 0 and 1, several labels.

    Parameters are those of ``sklearn.neural_network.MLPClassifier`` where they mean the same. What differs:

    Parameters
    ----------
    hidden_layer_sizes
        Units of each hidden layer.
    activation
        Also elu, gelu, silu and the others of gpumlp.
    solver
        Also adamw, rmsprop, adagrad, momentum and nesterov; sgd with ``momentum`` is momentum or nesterov.
    alpha
        Share of each weight that a step of rate 1 takes away (decoupled decay), not a penalty in the loss.
    batch_size
        Rows of a step; ``auto`` is at most 200.
    learning_rate
        A schedule of gpumlp: constant, cosine, step, exponential, one_cycle, plateau.
    learning_rate_init
        Learning rate of the first step.
    max_iter
        Most epochs.
    random_state
        Seed of first weights, of the order of rows and of what is set aside.
    tol
        Smallest improvement that counts.
    momentum, nesterovs_momentum
        Of sgd.
    early_stopping
        Looks at the validation loss and keeps the weights of its lowest.
    validation_fraction
        Share of the rows that is set aside for ``early_stopping``.
    beta_1, beta_2, epsilon
        Of adam.
    n_iter_no_change
        Epochs without one after which training stops.
    class_weight
        ``balanced``, or a weight for each class.
    dropout, norm, scaling, precision, backend
        As in a configuration; float64 is the precision of scikit-learn, too.
    numbers
        Embedding of each number: ``none``, ``ple`` (bins), ``pbld`` (waves) or ``both``. ``ple`` is what ``gpumlp
        init`` chooses where there are at least 50 rows for each column of numbers.
    members
        Number of networks, which predict by their mean.
    preset
        ``plain``, or a recipe (``tabular``, ``strong``), which sets all that is left at its default, and chooses the
        epoch by ``validation_fraction`` of the rows.

    Attributes
    ----------
    classes_
        (C,) the classes, sorted; of T labels the numbers from 0 to T - 1.
    loss_curve_
        Training loss of each epoch.
    validation_scores_
        Validation accuracy of each epoch, or None.
    n_iter_, loss_, best_loss_, best_validation_score_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn.
    model_
        The model as ``gpumlp.fit`` returns it, to be saved as a folder or evaluated.
    """

    task = "classification"

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        random_state: Any = None,
        tol: float = 1e-4,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        class_weight: Any = None,
        dropout: float = 0.0,
        norm: str = "none",
        numbers: str = "none",
        scaling: str | None = None,
        members: int = 1,
        preset: str = PLAIN,
        precision: str = "float64",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            random_state=random_state,
            tol=tol,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            dropout=dropout,
            norm=norm,
            numbers=numbers,
            scaling=scaling,
            members=members,
            preset=preset,
            precision=precision,
            backend=backend,
        )
        self.class_weight = class_weight

    def decision_function(self, X: Any) -> Any:
        """Return the last linear value of each class, (N, C), or label, (N, T), or (N,) of the second of two.

        Parameters
        ----------
        X
            (N, p) array or DataFrame.

        Returns
        -------
        numpy.ndarray
            float64.
        """
        linear = self._linear(X)
        if self._labels:
            return linear
        if len(self.classes_) == 2:
            return linear[:, 0] if self._order[1] == 1 else -linear[:, 0]
        return linear[:, self._order]

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, (N, C), or label, (N, T), calibrated where rows were set aside.

        Parameters
        ----------
        X
            (N, p) array or DataFrame.

        Returns
        -------
        numpy.ndarray
            float64.
        """
        linear = self._linear(X)
        probabilities = self.model_.probabilities(linear)
        return probabilities if self._labels else probabilities[:, self._order]

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row, (N,), or which labels are more probable than not, (N, T).

        Parameters
        ----------
        X
            (N, p) array or DataFrame.

        Returns
        -------
        numpy.ndarray
            Of the dtype of the classes.
        """
        scores = self.decision_function(X)
        if self._labels:
            return (scores > 0).astype(np.int64)
        return self.classes_[(scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)]

    def _fit_target(self, X: Any, y: Any) -> Any:
        self._labels = _are_labels(y)
        if not self._labels:
            y = self._one_target(X, y)
        check_classification_targets(y)
        if self._labels and self.class_weight is not None:
            raise ValueError("class_weight is for classes; labels are weighted by sample_weight alone")
        self.classes_ = np.arange(np.asarray(y).shape[1]) if self._labels else np.unique(y)
        if not self._labels:
            _require_apart(self.classes_)
        return self._encoded_target(X, y)

    @property
    def _task(self) -> str:
        return "multilabel" if self._labels else self.task

    def _encoded_target(self, X: Any, y: Any) -> Any:
        """Return the classes, or labels, (N, T), of 0 and 1."""
        if self._labels:
            if not _are_labels(y):
                raise ValueError("y_val must have labels of 0 and 1, as y has")
            check_consistent_length(X, y)
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
        return self._one_target(X, y)

    def _loss(self) -> dict[str, Any]:
        class_weight = self.class_weight
        if self._labels:
            return {"name": "auto"}
        if isinstance(class_weight, Mapping):
            keys = np.array(list(class_weight), self.classes_.dtype)  # of another dtype a key may become another one
            if unknown := [key for key, each in zip(class_weight, keys.tolist(), strict=True) if key != each]:
                raise ValueError(f"class_weight has {unknown[0]!r}; the classes are {self.classes_.tolist()!r:.200}")
            names = _written(keys)
            class_weight = {str(name): float(each) for name, each in zip(names, class_weight.values(), strict=True)}
        return {"name": "auto", "class_weight": class_weight}

    def _take(self, model: SavedModel, settings: Settings) -> None:
        super()._take(model, settings)
        if self._labels:
            return
        assert model.encoder.classes is not None
        self._order = [model.encoder.classes.index(str(name)) for name in _written(self.classes_)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _MLP):  # type: ignore[misc]
    """A multilayer perceptron that predicts a number, or several.

    Parameters and attributes are those of ``MLPClassifier`` but for the classes; ``validation_scores_`` are R². The
    target is standardised for training, and losses are of the standardised target.
    """

    task = "regression"

    def predict(self, X: Any) -> Any:
        """Return the predictions, (N,), of T targets (N, T), in the units of the target.

        Parameters
        ----------
        X
            (N, p) array or DataFrame.

        Returns
        -------
        numpy.ndarray
            float64.
        """
        linear = self._linear(X)
        return self.model_.encoder.restore(linear)

    def _encoded_target(self, X: Any, y: Any) -> Any:
        shape = np.asarray(y).shape
        if len(shape) == 2 and shape[1] > 1:
            y = check_array(y, ensure_all_finite=True, dtype=None, input_name="y")
            check_consistent_length(X, y)
        else:
            y = self._one_target(X, y)
        try:
            return np.asarray(y, np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"the target of {type(self).__name__} must be numbers, not {np.asarray(y).dtype}"
            ) from None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _Patience:
    """Ends training when the training loss has not improved by ``tol`` for some epochs."""

    def __init__(self, tol: float, epochs: int) -> None:
        self.tol, self.epochs, self.best, self.waited = tol, epochs, np.inf, 0

    def __call__(self, row: Mapping[str, Any]) -> bool:
        loss = row["train_loss"]
        self.waited = self.waited + 1 if loss > self.best - self.tol else 0
        self.best = min(self.best, loss)
        return self.waited > self.epochs


@contextmanager
def _as_value_errors() -> Iterator[None]:
    """Turn the errors of gpumlp into what scikit-learn expects of wrong rows and parameters."""
    try:
        yield
    except GpumlpError as error:
        raise ValueError(str(error)) from error


def _written(classes: Any) -> Any:
    """Return classes as a file would have them, (N,) str or object: whole numbers without a point."""
    column = rows_of({TARGET: np.asarray(classes)}).categories(TARGET)
    return column.texts[column.codes]


def _require_apart(classes: Any) -> None:
    """Raise ValueError for classes that a file could not hold: alike without blanks, or markers of missing values."""
    written = _written(classes)
    names, first, counts = np.unique(written, return_index=True, return_counts=True)
    if "" in names:
        raise ValueError(f"{classes.tolist()[first[0]]!r} means a missing value: rename this class")
    if (counts > 1).any():
        alike = classes[written == names[counts.argmax()]].tolist()
        raise ValueError(f"{alike!r:.200} are one class, as blanks around a text do not count: rename them")


def _are_labels(y: Any) -> bool:
    """Return whether targets are several labels of 0 and 1 for each row."""
    shape = np.asarray(y).shape  # what scikit-learn's checks give has no other function of NumPy
    several = len(shape) == 2 and shape[1] > 1
    return several and type_of_target(y, input_name="y") == "multilabel-indicator"


def _rows_like(X: Any) -> Any:
    """Return an array with as many rows, to compare weights with."""
    return np.empty((len(X), 1))


def _changed(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are other than these, section by section."""
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(other := others.get(name), Mapping):
            if changed := _changed(value, other):
                changes[name] = changed
        elif name not in others or value != others[name]:
            changes[name] = value
    return changes


def _whole(value: Any) -> Any:
    """Return NumPy's whole numbers as Python's; everything else is left to the check of the settings."""
    if isinstance(value, np.integer):
        return int(value)
    return value


__all__ = ["MLPClassifier", "MLPRegressor"]

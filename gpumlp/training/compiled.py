"""Layers that are trained on arrays in a few lines, as a notebook does it: ``compile``, ``fit``, ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpumlp import nn
from gpumlp.config import Settings, configure
from gpumlp.data import ArrayTable, Encoder, Prepared, Source, prepare, rows_of, with_columns
from gpumlp.data.encoding.columns import ArrayInputs
from gpumlp.data.encoding.labels import ZERO_ONE, LabelTargets
from gpumlp.data.encoding.numeric import NumericBlock
from gpumlp.data.encoding.scaling import Scaling
from gpumlp.data.encoding.targets import ClassTarget, NumberTarget, NumberTargets
from gpumlp.data.source.dialect import DETECT
from gpumlp.data.source.rows import plain_array, row_weights
from gpumlp.errors import ALIASES, ConfigError, DataError, RunError, choices
from gpumlp.nn import LOSSES, Loss
from gpumlp.store.formats import read_arrays, write_arrays
from gpumlp.training.build import build, build_loss
from gpumlp.training.device_data import DeviceData
from gpumlp.training.loop import Diverged, Epoch
from gpumlp.training.measure import measure
from gpumlp.training.members import loop_over

INPUTS, TARGET, WEIGHTS = "x", "y", "weights"
LINKS = {"softmax": "cross_entropy", "sigmoid": "cross_entropy"}
"""The loss of a network that was compiled without one, by its output activation; else the squared error."""

Choice = str | Mapping[str, Any]


class Sequential(nn.Sequential):
    """Layers one after another, which can be trained on arrays.

        model = Sequential([Dense(32, "tanh"), Dense(10, "softmax")])
        model.compile("adam", "cross_entropy", learning_rate=1e-3)
        history = model.fit(x, y, epochs=20, validation_split=0.1)
        model.evaluate(x, y)["accuracy"]

    Numbers enter the network as they are: scale them before. Names of optimizers and losses are those of a
    configuration (``docs/settings.md``), or other common ones such as ``mse``.

    Parameters
    ----------
    layers
        The layers, first to last.
    """

    def __init__(self, layers: Any = ()) -> None:
        super().__init__(layers)
        self._chosen: dict[str, Any] = {}

    def compile(
        self,
        optimizer: Choice = "adamw",
        loss: Choice | None = None,
        *,
        learning_rate: float | None = None,
        schedule: Choice = "constant",
        backend: str = "auto",
    ) -> Self:
        """Choose how ``fit`` trains, and return the model.

        Parameters
        ----------
        optimizer, loss, schedule
            Names, or mappings with settings: ``{"name": "sgd", "learning_rate": 0.1}``; without a loss it follows
            from the output activation.
        learning_rate
            Learning rate of the optimizer; None: its default.
        backend
            One of ``auto``, ``cupy``, ``native`` and ``numpy``.

        Returns
        -------
        Self

        Raises
        ------
        ConfigError
            If one of them, or a setting of it, is unknown.
        """
        optimizer, schedule, loss = _settings_of(optimizer), _settings_of(schedule), self._loss(loss)
        if learning_rate is not None:
            optimizer = {**optimizer, "learning_rate": learning_rate}
        if loss["name"] not in LOSSES:
            raise ConfigError(f"unknown loss {loss['name']!r:.80}", hint=choices(loss["name"], LOSSES))
        chosen = {"optimizer": optimizer, "loss": loss, "schedule": schedule, "backend": backend}
        _configured(chosen, _task(loss["name"]), {})
        self._chosen = chosen
        return self

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        validation_split: float = 0.0,
        validation_data: tuple[Any, Any] | None = None,
        sample_weight: Any = None,
        seed: int = 0,
        early_stopping: Mapping[str, Any] | None = None,
    ) -> dict[str, list[float]]:
        """Train on arrays, from the weights there are, and keep those of the best epoch.

        It is the loop of ``gpumlp.fit`` and of the command, with the same bytes for the same network and rows. What
        an optimizer keeps of earlier steps begins anew.

        Parameters
        ----------
        x
            (N, p) numbers.
        y
            (N,) class numbers from 0, numbers, or (N, K) numbers or labels 0 and 1.
        epochs
            Passes over the rows.
        batch_size
            Rows of a step.
        validation_split
            Share of the rows by which the best epoch is chosen; 0: the last one is.
        validation_data
            (x, y) in its place.
        sample_weight
            (N,) how much each row counts.
        seed
            Seed of the order of rows, of dropout, and of first weights where the model is not built.
        early_stopping
            Such as ``{"patience": 5}``.

        Returns
        -------
        Losses and metrics of each epoch, by name: ``train_loss``, ``validation_loss`` and so on.

        Raises
        ------
        ConfigError
            If a setting is wrong.
        DataError
            If the arrays do not fit.
        RunError
            If training diverges.
        """
        validation: float | str = validation_split if validation_data is None else "<rows>"
        settings = self._settings(
            {
                "epochs": epochs,
                "batch_size": batch_size,
                "seed": seed,
                "early_stopping": None if early_stopping is None else dict(early_stopping),
            },
            weighted=sample_weight is not None,
            validation=validation,
        )
        others = validation_split if validation_data is None else _source(*validation_data, None)
        prepared = self._prepared(settings, _source(x, y, sample_weight), others)
        parts = build(settings, prepared, network=self)
        loop, history = loop_over(parts), []
        for event in loop:
            if isinstance(event, Diverged):
                raise RunError(event.reason, hint="use a lower learning_rate, or a clip_norm of the optimizer")
            if isinstance(event, Epoch):
                history.append(event.row)
        self.load(loop.best)
        return {name: [row[name] for row in history] for name in history[0]}

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """Return loss and metrics of arrays. What they do not define is NaN, such as AUC of rows of one class.

        Parameters
        ----------
        x, y, sample_weight
            As for ``fit``; one row, one class or one number is enough.

        Returns
        -------
        dict of float
            By name.

        Raises
        ------
        DataError
            If the arrays do not fit.
        """
        settings = self._settings({}, weighted=sample_weight is not None, validation=0.0)
        source = _source(x, y, sample_weight)
        encoder = self._encoder(settings, source)
        rows, _ = encoder.encode(source, targets=True)
        loss: Loss = build_loss(settings, self, encoder, rows)
        return measure(self, loss, encoder, [DeviceData(self, rows, encoder.input_scale)])

    def _loss(self, choice: Choice | None) -> dict[str, Any]:
        """Return the settings of a loss; of several sigmoids cross-entropy is that of labels."""
        settings = _settings_of(LINKS.get(self.link, "squared_error") if choice is None else choice)
        outputs = next((layer.units for layer in reversed(self.chain) if isinstance(layer, nn.Dense)), 1)
        several = self.link == "sigmoid" and outputs > 1 and settings["name"] == "cross_entropy"
        return settings | ({"name": "binary_cross_entropy"} if several else {})

    def get_weights(self) -> list[np.ndarray[Any, Any]]:
        """Return copies of all arrays of the layers, in their order: what ``set_weights`` takes.

        Returns
        -------
        list of numpy.ndarray
        """
        return list(self.arrays().values())

    def set_weights(self, weights: Any) -> None:
        """Overwrite all arrays of the layers.

        Parameters
        ----------
        weights
            Arrays in the order and the shapes of ``get_weights``.

        Raises
        ------
        ConfigError, ShapeError
            If there are more or fewer arrays, or they have other shapes.
        """
        names = list(self.arrays())
        if len(weights) != len(names):
            raise ConfigError(f"{len(weights)} arrays, and the model has {len(names)}: {', '.join(names):.200}")
        self.load(dict(zip(names, map(np.asarray, weights), strict=True)))

    def save(self, path: str | Path) -> None:
        """Write the weights as a safetensors file, which ``load_weights`` reads into the same layers.

        Parameters
        ----------
        path
            The file to write.
        """
        write_arrays(Path(path), self.arrays(), {"layers": [type(layer).__name__ for layer in self.chain]})

    def load_weights(self, path: str | Path) -> None:
        """Read the weights that ``save`` has written.

        Parameters
        ----------
        path
            A safetensors file.

        Raises
        ------
        DamageError, ShapeError
            If the file is damaged, or is of other layers.
        """
        self.load(read_arrays(Path(path))[0])

    def _settings(self, training: Mapping[str, Any], *, weighted: bool, validation: float | str) -> Settings:
        if not self._chosen:
            raise ConfigError("the model is not compiled", hint='call model.compile("adamw", "cross_entropy") first')
        data = {"split": {"validation": validation, "test": 0.0}, "weights": WEIGHTS if weighted else None}
        return _configured(self._chosen, _task(self._chosen["loss"]["name"]), {"training": training}, data)

    def _prepared(self, settings: Settings, source: ArrayTable, validation: float | Source) -> Prepared:
        """Return the rows as they are, divided."""
        encoder = self._encoder(settings, source)
        names = encoder.target_names
        return prepare(
            source,
            task=settings.task,
            target=names if len(names) > 1 or settings.task == "multilabel" else names[0],
            validation=validation,
            test=0.0,
            weights=settings.data.weights,
            seed=settings.training.seed,
            encoder=encoder,
        )

    def _encoder(self, settings: Settings, source: ArrayTable) -> Encoder:
        """Return the encoding by which all stays as it is: numbers are not scaled, class numbers those of y."""
        targets = tuple(name for name in source.names if name.startswith(TARGET))
        if settings.task == "classification" and len(targets) > 1:
            raise DataError("y must be class numbers, (N,)", hint="of one-hot rows take y.argmax(axis=1)")
        width = source.width(INPUTS)
        if not self.is_built:
            self.build(width, seed=settings.training.seed)
        unscaled = NumericBlock(np.zeros(width), np.empty(0, np.int64), Scaling("none", {}))
        encoder = Encoder(
            inputs=ArrayInputs(INPUTS, width, unscaled),
            target=self._target(settings.task, targets),
            target_name=", ".join(targets),
            weights_name=WEIGHTS if WEIGHTS in source.names else None,
            ignored=(),
            dialect=DETECT,
        )
        if encoder.outputs != self.units or width != self.widths[0]:
            message = f"x has {width} columns and y needs {encoder.outputs} outputs"
            raise DataError(f"{message}; the model takes {self.widths[0]} and has {self.units}")
        return encoder

    def _target(self, task: str, names: Sequence[str]) -> Any:
        """Return the encoding of targets by which they stay as they are."""
        if task == "classification":
            return ClassTarget(tuple(map(str, range(max(2, self.units)))), "integer")
        if task == "multilabel":
            return LabelTargets(tuple(names), (ClassTarget(ZERO_ONE, "integer"),) * len(names))
        numbers = (NumberTarget(0.0, 1.0),) * len(names)
        return numbers[0] if len(names) == 1 else NumberTargets(tuple(names), numbers)


def _settings_of(choice: Choice) -> dict[str, Any]:
    settings = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = settings.get("name", "")
    return settings | {"name": ALIASES.get(name, name)}


def _task(loss: str) -> str:
    return LOSSES[loss].task


def _configured(
    chosen: Mapping[str, Any], task: str, more: Mapping[str, Any], data: Mapping[str, Any] | None = None
) -> Settings:
    target = [TARGET] if task == "multilabel" else TARGET
    rows = {"train": "<rows>", "target": target, "scaling": "none", "split": {"validation": 0.0, "test": 0.0}}
    return configure(task=task, data={**rows, **(data or {})}, **chosen, **more).settings


def _source(x: Any, y: Any, weights: Any) -> ArrayTable:
    """Return arrays as rows: inputs x, targets y or y0, y1, ..., weights."""
    inputs, targets = plain_array(x), plain_array(y)
    if inputs.dtype.kind not in "biuf" or inputs.ndim < 2:
        raise DataError(f"x must be (N, p) numbers, not {inputs.shape} {inputs.dtype}")
    if np.isnan(inputs.astype(np.float64)).any():
        raise DataError("x has missing values (NaN)", hint="fill them before, or use gpumlp.fit")
    if inputs.shape[:1] != targets.shape[:1]:
        raise DataError(f"x has {len(inputs)} rows, and y the shape {targets.shape}")
    if targets.dtype.kind not in "biuf":
        hint = "np.unique(y, return_inverse=True)[1] numbers classes; gpumlp.fit takes them as they are"
        raise DataError(f"y must be numbers, not {targets.dtype}", hint=hint)
    if targets.dtype == np.bool_:
        targets = targets.astype(np.int64)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    columns = {TARGET: targets} if targets.ndim == 1 else {f"{TARGET}{i}": each for i, each in enumerate(targets.T)}
    source = with_columns(rows_of(inputs), columns | ({} if weights is None else {WEIGHTS: row_weights(weights)}))
    assert isinstance(source, ArrayTable)
    return source


__all__ = ["Sequential"]

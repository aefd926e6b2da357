"""Several models that predict as one, by a weighted mean of their predictions: each with an encoding of its own.

A folder has ``ensemble.json`` with the weights, and the folders of the models, whose checksums it names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp import metrics
from gpumlp.backend import Backend
from gpumlp.data import Dataset, Encoder, News, Source
from gpumlp.errors import RunError
from gpumlp.runs.model import SavedModel, load_model, save_model
from gpumlp.runs.predictor import Predictions, Predictor, described
from gpumlp.store.formats import is_whole, make_folder, making_folder, read_json, write_sealed

ENSEMBLE = "ensemble.json"
OF_BAG = "ensemble"
"""Folder of the ensemble in that of a bag."""
FORMAT = 1
MAX_MODELS = 4096
"""Most models of an ensemble: a damaged file must not ask for more."""
WEIGHT_SUM_TOLERANCE = 1e-9
"""How far the sum of the weights may be from 1."""


@dataclass(frozen=True)
class WeightedModels(Predictor):
    """Models of one target, which predict by the weighted mean of their probabilities, numbers or quantiles.

    Parameters
    ----------
    models
        With the same classes, or the same targets and levels.
    weights
        At least 0, of sum 1.
    """

    models: tuple[SavedModel, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        encoders = [each.encoder for each in self.models]
        if len({(each.task, each.classes, each.labels, each.target_names, each.levels) for each in encoders}) != 1:
            raise RunError("the models predict different things", hint="combine runs of the same target")
        if len(self.weights) != len(self.models) or not abs(math.fsum(self.weights) - 1) <= WEIGHT_SUM_TOLERANCE:
            raise ValueError(f"the weights {self.weights} of {len(self.models)} models")
        if not all(weight >= 0 for weight in self.weights):
            raise ValueError(f"the weights {self.weights}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {described(self.encoder)}; {len(self.models)} models>"

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoding of the first model: that of the target is the same in all."""
        return self.models[0].encoder

    def predictions(self, sources: Iterable[Source], news: News) -> Iterator[tuple[Source, Predictions]]:
        """Yield each block of raw rows with its predictions. ``news`` collects what a user should know about them.

        Raises
        ------
        DataError
            If a block does not fit the models.
        """
        for source in sources:
            predicted = []
            for number, model in enumerate(self.models):
                ((_, each),) = model.predictions([source], news if number == 0 else News())
                predicted.append(each)
            yield source, mean_of(predicted, self.weights)

    def margin(self, level: float) -> float:
        """Raise RunError: no rows were kept for the intervals of an ensemble."""
        raise RunError("an ensemble of models has no intervals", hint="use one of its runs, or the loss quantile")

    def _measured(self, encoder: Encoder, source: Source, data: Dataset, news: News) -> dict[str, float]:
        ((_, predicted),) = self.predictions([source], news)
        assert data.targets is not None
        return metrics_of(predicted, encoder, true_values(encoder, data.targets), data.weights)

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the ensemble into a folder, which ``gpumlp predict`` takes: whole, or not at all.

        Parameters
        ----------
        folder
            To write; made if it is not there.
        force
            Whether to replace an ensemble that is there.

        Raises
        ------
        RunError
            If something else is there.
        WriteError
            If it cannot be written.
        """
        folder, models = Path(folder), []
        check_replaceable(folder, force=force)
        make_folder(folder.parent)
        with making_folder(folder, replace=True) as beside:
            for number, (model, weight) in enumerate(zip(self.models, self.weights, strict=True), 1):
                name = f"model-{number}"
                checksum = save_model(beside / name, model, model.network.arrays())
                models.append({"folder": name, "weight": weight, "model": checksum})
            write_sealed(beside / ENSEMBLE, {"format": FORMAT, "models": models})


def check_replaceable(folder: Path, *, force: bool) -> None:
    """Raise RunError where an ensemble cannot be written: there is one (unless ``force``), or something else."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_symlink() or not (folder / ENSEMBLE).is_file():
        message = "the folder is not empty, and is not an ensemble" if folder.is_dir() else "not a folder"
        raise RunError(message, where=str(folder), hint="choose another name")
    if not force:
        hint = "choose another name, or replace it with --force"
        raise RunError("there is an ensemble here", where=str(folder), hint=hint)


def mean_of(predictions: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the weighted mean of what several models say of the same rows."""

    def mean(arrays: Sequence[Any]) -> Any:
        return np.sum([weight * array for weight, array in zip(weights, arrays, strict=True)], axis=0)

    return combined(predictions, mean)


def combined(predictions: Sequence[Predictions], mean: Callable[[Sequence[Any]], Any]) -> Predictions:
    """Return the predictions that follow from the means of what several models say."""
    first = predictions[0]
    if first.probabilities is not None:
        probabilities = mean([each.probabilities for each in predictions])
        if first.values.ndim == 2:
            return Predictions.of_labels(probabilities)
        return Predictions(metrics.most_probable(probabilities), probabilities)
    quantiles = None if first.quantiles is None else mean([each.quantiles for each in predictions])
    return Predictions(mean([each.values for each in predictions]), None, quantiles)


def true_values(encoder: Encoder, targets: Any) -> Any:
    """Return encoded targets as class numbers, (N,), labels, (N, T), or in units of the target, (N,) or (N, T)."""
    return targets if encoder.task != "regression" else encoder.decode(targets.astype(np.float64))


def metrics_of(predicted: Predictions, encoder: Encoder, true: Any, weights: Any) -> dict[str, float]:
    """Return the metrics of predictions: ``true`` as ``true_values`` returns it, weights (N,) or None."""
    if encoder.labels is not None and predicted.probabilities is not None:
        return metrics.labels(predicted.probabilities, true, encoder.target_names, weights)
    if predicted.probabilities is not None:
        scores = metrics.ProbabilityScores()
        scores.add(predicted.probabilities, true, weights)
        two = predicted.probabilities[:, 1:] if len(encoder.classes or ()) == 2 else predicted.probabilities
        return metrics.classification(two, true, weights) | scores.result()
    if true.ndim == 1:
        values = metrics.regression(predicted.values, true, weights)
    else:
        values = metrics.regressions(predicted.values, true, encoder.target_names, weights)
    if predicted.quantiles is not None and len(encoder.levels) > 1:
        values["coverage"] = metrics.coverage(predicted.quantiles, true.reshape(len(true), -1), weights)
    return values


def ensemble_in(folder: Path) -> Path | None:
    """Return where an ensemble was saved: this folder, or of a bag its subfolder; None: nowhere."""
    return next((each for each in (folder, folder / OF_BAG) if (each / ENSEMBLE).is_file()), None)


def is_ensemble(folder: Path) -> bool:
    """Return whether an ensemble was saved in this folder, or is that of a bag."""
    return ensemble_in(folder) is not None


def load_weighted(folder: Path, backend: Backend) -> WeightedModels:
    """Read an ensemble.

    Raises
    ------
    RunError
        If a file is missing, damaged or made by a later version.
    """
    folder = ensemble_in(folder) or folder
    path = folder / ENSEMBLE
    description = read_json(path)
    try:
        if description["format"] != FORMAT:
            message = (
                f"the ensemble has format {description['format']!r}; this version of gpumlp reads format {FORMAT}"
            )
            raise RunError(message, where=str(path), hint="update gpumlp")
        if not is_whole(description):
            raise RunError("the file is damaged: its content does not match its checksum", where=str(path))
        if not 0 < len(description["models"]) <= MAX_MODELS:
            raise ValueError(f"{len(description['models'])} models")
        models, weights = [], []
        for number, each in enumerate(description["models"], 1):
            if each["folder"] != f"model-{number}":
                raise ValueError(f"a model in {each['folder']!r}")
            models.append(load_model(folder / each["folder"], backend, checksum=each["model"]))
            weights.append(float(each["weight"]))
        return WeightedModels(tuple(models), tuple(weights))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"not an ensemble, or damaged: {error}", where=str(path)) from None

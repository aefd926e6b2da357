"""Several models that predict as one, by a weighted mean of their predictions: each with an encoding of its own.

A folder has ``ensemble.json`` with the weights, and the folders of the models, whose checksums it names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp import metrics
from gpumlp.backend import Backend
from gpumlp.data import Dataset, Encoder, News, Source, in_parts
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

            def of_each(source: Source = source) -> Iterator[Predictions]:
                for number, model in enumerate(self.models):
                    ((_, predicted),) = model.predictions([source], news if number == 0 else News())
                    yield predicted

            yield source, mean_of(of_each(), self.weights)

    def margin(self, level: float) -> float:
        """Raise RunError: no rows were kept for the intervals of an ensemble."""
        raise RunError("an ensemble of models has no intervals", hint="use one of its runs, or the loss quantile")

    def _measured(self, encoder: Encoder, source: Source, data: Dataset, news: News) -> dict[str, float]:
        assert data.targets is not None
        count = len(data.targets)
        parts = in_parts(source, count, _rows_together(count, encoder.outputs))
        blocks = (predicted for _, predicted in self.predictions(parts, news))
        return metrics_of(blocks, encoder, true_values(encoder, data.targets), data.weights)

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


MAX_KEPT_VALUES, MAX_PIECE_VALUES = 1 << 24, 1 << 22
"""Probabilities up to which those of all rows are kept; of more, as many are computed at a time."""


def pieces(count: int, outputs: int) -> list[slice]:
    """Return which of ``count`` rows are predicted together."""
    step = _rows_together(count, outputs)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _rows_together(count: int, outputs: int) -> int:
    """Return how many of ``count`` rows are predicted together: all, or with many classes some at a time."""
    return max(1, count if count * outputs <= MAX_KEPT_VALUES else MAX_PIECE_VALUES // outputs)


def mean_of(predictions: Iterable[Predictions], weights: Sequence[float]) -> Predictions:
    """Return the weighted mean of what several models say of the same rows, which is taken one by one."""
    means: dict[str, Any] = {}
    for each, weight in zip(predictions, weights, strict=True):
        for name, array in parts_of(each).items():
            share = weight * array
            means[name] = np.add(means[name], share, out=share) if name in means else share
        labels = each.values.ndim == 2
    return of_means(means, labels=labels)


def parts_of(predicted: Predictions) -> dict[str, Any]:
    """Return what models are averaged by: probabilities, or numbers with their quantiles."""
    if predicted.probabilities is not None:
        return {"probabilities": predicted.probabilities}
    quantiles = {} if predicted.quantiles is None else {"quantiles": predicted.quantiles}
    return {"values": predicted.values, **quantiles}


def of_means(means: Mapping[str, Any], *, labels: bool) -> Predictions:
    """Return the predictions that follow from the means of ``parts_of`` several models."""
    if "probabilities" not in means:
        return Predictions(means["values"], None, means.get("quantiles"))
    probabilities = means["probabilities"]
    if labels:
        return Predictions.of_labels(probabilities)
    return Predictions(metrics.most_probable(probabilities), probabilities)


def true_values(encoder: Encoder, targets: Any) -> Any:
    """Return encoded targets as class numbers, (N,), labels, (N, T), or in units of the target, (N,) or (N, T)."""
    return targets if encoder.task != "regression" else encoder.decode(targets.astype(np.float64))


def metrics_of(blocks: Iterable[Predictions], encoder: Encoder, true: Any, weights: Any) -> dict[str, float]:
    """Return the metrics of blocks of predictions: ``true`` as ``true_values`` returns it, weights (N,) or None."""
    if encoder.classes is not None:
        scores, chosen, start = metrics.ProbabilityScores(), [], 0
        for each in blocks:
            assert each.probabilities is not None
            rows = slice(start, start := start + len(each.values))
            scores.add(each.probabilities, true[rows], None if weights is None else weights[rows])
            chosen.append(each.probabilities[:, 1:] if len(encoder.classes) == 2 else each.values)
        return metrics.classification(np.concatenate(chosen), true, weights) | scores.result()
    predicted = Predictions.joined(list(blocks))
    if predicted.probabilities is not None:
        return metrics.labels(predicted.probabilities, true, encoder.target_names, weights)
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

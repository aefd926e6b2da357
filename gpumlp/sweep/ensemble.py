"""A weighted ensemble of finished runs, chosen on rows that none of them was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp import metrics
from gpumlp.data import Frame, News, Prepared, SourceCache
from gpumlp.errors import ConfigError, RunError
from gpumlp.runs import load_run, load_trained
from gpumlp.runs.ensemble import WeightedModels, combined, mean_of, metrics_of, true_values
from gpumlp.runs.evaluation import changed_since
from gpumlp.runs.model import SavedModel
from gpumlp.runs.predictor import Predictions
from gpumlp.store.formats import is_whole, read_json
from gpumlp.sweep.compare import runs_in
from gpumlp.sweep.folder import RESULTS, PlanFolder
from gpumlp.training.build import load_data

ROUNDS = 40
"""Rounds of the selection, each of which adds a candidate: weights are multiples of one over their number."""
TIE_TOLERANCE = 1e-12
"""Relative difference of losses below which the smaller ensemble is kept."""
MIN_PROBABILITY = 1e-15
"""Smallest probability of a true class that a log-loss is computed from."""


@dataclass(frozen=True)
class Seen:
    """What a candidate predicts of rows that it was not trained on, in the order of their numbers.

    Parameters
    ----------
    rows
        (N,) their numbers in the data.
    targets
        Class numbers (N,), or in units of the target, (N,) or (N, T); weights : (N,), or None for all alike.
    """

    rows: NDArray[np.int64]
    targets: NDArray[Any]
    weights: NDArray[Any] | None
    predicted: Predictions


@dataclass(frozen=True)
class Candidate:
    """A run, or the folds of a cross-validation, which predict by their mean."""

    name: str
    models: tuple[SavedModel, ...]
    seen: Seen


def combine(
    folders: Sequence[Path], *, rounds: int = ROUNDS, device: int = 0
) -> tuple[WeightedModels, dict[str, Any]]:
    """Return a weighted ensemble of runs, and how it was chosen.

    Candidates are added one by one, each as often as it lowers the loss most (with replacement); the ensemble of the
    round of the lowest loss is taken. That is the log-loss, of numbers the squared error over the variance of each
    target, of quantiles their loss.

    Parameters
    ----------
    folders
        Run folders, of which the validation rows count; folders of ``gpumlp sweep`` for all of their runs; folders of
        ``gpumlp cv``, each a candidate by itself: its folds predict by their mean, and the rows outside count.
    rounds
        Most candidates that are added.
    device
        GPU index.

    Returns
    -------
    The ensemble, and a dictionary: ``candidates`` (name, weight, loss), ``loss``, ``rows`` and ``metrics``.

    Raises
    ------
    RunError
        If the runs have no rows in common to choose by, or predict different things.

    References
    ----------
    Caruana et al. 2004, Ensemble selection from libraries of models
    """
    return weigh(_candidates(folders, device), rounds=rounds)[:2]


def weigh(
    candidates: Sequence[Candidate], *, rounds: int = ROUNDS
) -> tuple[WeightedModels, dict[str, Any], Predictions]:
    """Return the ensemble of candidates, how it was chosen, and what it predicts of the rows that chose it."""
    first = candidates[0]
    for each in candidates[1:]:
        WeightedModels((first.models[0], each.models[0]), (0.5, 0.5))  # refuses models of different targets
        if not np.array_equal(each.seen.rows, first.seen.rows) or not np.array_equal(
            each.seen.targets, first.seen.targets, equal_nan=first.seen.targets.dtype.kind == "f"
        ):
            message = f"these rows outside of training are not those of {first.name}, so no weights can be chosen"
            raise RunError(message, where=each.name, hint="combine runs of the same data and training.seed")
    counts, losses = select([each.seen for each in candidates], candidates[0].models[0], rounds)
    shares = counts / counts.sum()
    chosen = [(each, float(share)) for each, share in zip(candidates, shares, strict=True) if share > 0]
    models = tuple(model for each, _ in chosen for model in each.models)
    ensemble = WeightedModels(models, tuple(share / len(each.models) for each, share in chosen for _ in each.models))
    seen = first.seen
    predicted = mean_of([each.seen.predicted for each, _ in chosen], [share for _, share in chosen])
    about = {
        "candidates": [
            {"name": each.name, "weight": float(share), "models": len(each.models), "loss": loss}
            for each, share, loss in zip(candidates, shares, losses, strict=True)
        ],
        "loss": loss_of(predicted, seen, first.models[0]),
        "rows": len(seen.rows),
        "metrics": metrics_of(predicted, first.models[0].encoder, seen.targets, seen.weights),
    }
    return ensemble, about, predicted


def select(seen: Sequence[Seen], model: SavedModel, rounds: int) -> tuple[NDArray[np.int64], list[float]]:
    """Return how often each candidate is taken, and the loss of each alone.

    Parameters
    ----------
    seen
        What each candidate predicts on the same rows.
    model
        One of the models, for what they predict.
    rounds
        Most candidates that are added.
    """
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds choose nothing", hint="allowed: 1 or more")
    alone = [loss_of(each.predicted, each, model) for each in seen]
    counts = np.zeros(len(seen), np.int64)
    best, best_counts, mean = 0.0, counts, None
    for number in range(1, rounds + 1):
        trials = [
            each.predicted if mean is None else mean_of([mean, each.predicted], [1 - 1 / number, 1 / number])
            for each in seen
        ]
        losses = alone if mean is None else [loss_of(trial, seen[0], model) for trial in trials]
        taken = int(np.argmin(losses))
        mean, counts = trials[taken], counts + (np.arange(len(seen)) == taken)
        if losses[taken] < best - TIE_TOLERANCE * abs(best) or number == 1:
            best, best_counts = losses[taken], counts
    return best_counts, alone


def loss_of(predicted: Predictions, seen: Seen, model: SavedModel) -> float:
    """Return the loss that candidates are chosen by."""
    encoder, weights = model.encoder, np.ones(len(seen.rows)) if seen.weights is None else seen.weights
    weights = weights.astype(np.float64)
    if predicted.probabilities is not None and predicted.values.ndim == 2:
        return metrics.labels_log_loss(predicted.probabilities, seen.targets, weights)
    if predicted.probabilities is not None:
        true = predicted.probabilities[np.arange(len(seen.rows)), seen.targets]
        return float(weights @ -np.log(true.clip(MIN_PROBABILITY)) / weights.sum())
    truth = seen.targets.reshape(len(seen.rows), -1)
    there = ~np.isnan(truth)
    if predicted.quantiles is not None:
        errors = truth[:, :, None] - predicted.quantiles
        levels = np.array(encoder.levels)
        each = np.maximum(levels * errors, (levels - 1) * errors).mean(axis=2)
        scale = np.nanstd(truth, axis=0)
    else:
        each = (truth - predicted.values.reshape(truth.shape)) ** 2
        scale = np.nanvar(truth, axis=0)
    counts = weights[:, None] * there
    return float((counts * np.where(there, each / np.where(scale > 0, scale, 1.0), 0.0)).sum() / counts.sum())


def _candidates(folders: Sequence[Path], device: int) -> list[Candidate]:
    """Read all runs, each file of data once."""
    cache, candidates = SourceCache(), []
    for folder in dict.fromkeys(folders):
        plan_folder = PlanFolder(folder)
        kind = plan_folder.plan().get("kind") if plan_folder.is_plan else None
        if kind in OUTSIDE:
            candidates += folds_of(plan_folder, cache, device)
        else:
            candidates += [_run(each.path, cache, device) for each in runs_in(folder)]
    return candidates


def _run(folder: Path, cache: SourceCache, device: int) -> Candidate:
    model, seen = _seen(folder, "validation", cache, device)
    return Candidate(str(folder), (model,), seen)


OUTSIDE = {"cv": "test", "bag": "validation"}
"""The rows that no run of a fold is trained on, by the kind of plan."""


def folds_of(plan_folder: PlanFolder, cache: SourceCache, device: int) -> list[Candidate]:
    """Return the folds of a cross-validation or bag as one candidate, or one for each of its recipes.

    Of repeats, the mean of a row counts.
    """
    if not (plan_folder.path / RESULTS).is_file():
        message = "not all folds have been trained"
        raise RunError(message, where=str(plan_folder.path), hint="run the same command again")
    results = read_json(plan_folder.path / RESULTS)
    if not is_whole(results):
        raise RunError("the results are damaged", where=str(plan_folder.path / RESULTS))
    part, runs = OUTSIDE[plan_folder.plan()["kind"]], dict[str, list[Path]]()
    for fold in results["folds"]:
        runs.setdefault(fold.get("recipe", ""), []).append(plan_folder.run(fold["run"]))
    return [
        _mean_of_folds(str(plan_folder.path / recipe), [_seen(run, part, cache, device) for run in folds])
        for recipe, folds in runs.items()
    ]


def _mean_of_folds(name: str, each: Sequence[tuple[SavedModel, Seen]]) -> Candidate:
    models, parts = [model for model, _ in each], [seen for _, seen in each]
    WeightedModels(tuple(models), tuple([1 / len(models)] * len(models)))
    rows = np.concatenate([part.rows for part in parts])
    numbers, first, place_of, count = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)

    def mean(arrays: Sequence[Any]) -> Any:
        joined = np.concatenate(arrays)
        sums = np.zeros((len(numbers), *joined.shape[1:]))
        np.add.at(sums, place_of, joined)
        return sums / count.reshape(-1, *[1] * (joined.ndim - 1))

    predicted = combined([part.predicted for part in parts], mean)
    weights = [part.weights for part in parts]
    seen = Seen(
        numbers,
        np.concatenate([part.targets for part in parts])[first],
        None if weights[0] is None else np.concatenate([one for one in weights if one is not None])[first],
        predicted,
    )
    return Candidate(name, tuple(models), seen)


def _seen(folder: Path, part: str, cache: SourceCache, device: int) -> tuple[SavedModel, Seen]:
    """Return the model of a run, and what it predicts of a part of its data."""
    run, model = load_run(folder), load_trained(folder, device=device)
    data: Prepared = load_data(run.loaded, model.encoder, keep_sources=True, cache=cache)
    for note in changed_since(run, data):
        raise RunError(note, where=str(folder), hint="combine runs of the data as they are")
    if part not in data.parts:
        hint = "train with validation rows, or combine folders of gpumlp cv"
        raise RunError(f"the run has no {part} rows to choose weights by", where=str(folder), hint=hint)
    assert data.sources is not None
    source, rows = data.sources[part], data.parts[part]
    ((_, predicted),) = model.predictions([source], News())
    numbers = np.arange(len(rows)) if source.rows is None else source.rows
    order = np.argsort(numbers, kind="stable")
    assert rows.targets is not None
    weights: NDArray[Any] | None = rows.weights
    name = model.encoder.weights_name
    if name is not None and isinstance(source, Frame):
        weights = source.numbers(source.resolve(name))  # encoded ones are scaled, in each part by its largest
    weights = None if weights is None else weights[order]
    arrays = (predicted.values, predicted.probabilities, predicted.quantiles)
    values, *others = (None if each is None else each[order] for each in arrays)
    assert values is not None
    targets = true_values(model.encoder, rows.targets)[order]
    return model, Seen(numbers[order], targets, weights, Predictions(values, *others))

"""A weighted ensemble of finished runs, chosen on rows that none of them was trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp import metrics
from gpumlp.data import Encoder, Frame, News, Prepared, SourceCache
from gpumlp.errors import ConfigError, RunError
from gpumlp.runs import load_run, load_trained
from gpumlp.runs.ensemble import WeightedModels, mean_of, metrics_of, of_means, parts_of, pieces, true_values
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


Host = NDArray[Any]
Predict = Callable[[int, int], Predictions]


@dataclass(frozen=True)
class Seen:
    """Rows that a candidate was not trained on, in the order of their numbers, and what it predicts of them.

    Parameters
    ----------
    rows
        (N,) their numbers in the data.
    targets
        Class numbers (N,), or in units of the target, (N,) or (N, T); weights : (N,), or None for all alike.
    predict
        Returns the predictions of the rows from one place to another.
    """

    rows: NDArray[np.int64]
    targets: NDArray[Any]
    weights: NDArray[Any] | None
    predict: Predict

    def cached(self, outputs: int) -> Seen:
        """Return these rows, whose predictions are made only once, unless they are too many to keep."""
        at_once = len(pieces(len(self.rows), outputs)) <= 1
        return replace(self, predict=functools.cache(self.predict)) if at_once else self


@dataclass(frozen=True)
class Candidate:
    """A run, or the folds of a cross-validation, which predict by their mean."""

    name: str
    models: tuple[SavedModel, ...]
    seen: Seen


@dataclass(frozen=True)
class Chosen:
    """An ensemble, how it was chosen, and what it predicts of the rows that chose it.

    Parameters
    ----------
    ensemble, about
        As :func:`combine` returns them.
    predicted
        Returns the predictions of some rows after the others, and which they are.
    """

    ensemble: WeightedModels
    about: dict[str, Any]
    predicted: Callable[[], Iterator[tuple[slice, Predictions]]]


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
    chosen = weigh(_candidates(folders, device), rounds=rounds)
    return chosen.ensemble, chosen.about


def weigh(candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Chosen:
    """Return the ensemble of candidates."""
    first = candidates[0]
    for each in candidates[1:]:
        WeightedModels((first.models[0], each.models[0]), (0.5, 0.5))  # refuses models of different targets
        if not np.array_equal(each.seen.rows, first.seen.rows) or not np.array_equal(
            each.seen.targets, first.seen.targets, equal_nan=first.seen.targets.dtype.kind == "f"
        ):
            message = f"these rows outside of training are not those of {first.name}, so no weights can be chosen"
            raise RunError(message, where=each.name, hint="combine runs of the same data and training.seed")
    encoder, seen = first.models[0].encoder, first.seen
    counted = [counted_of(each.seen, encoder) for each in candidates]
    counts, losses = select(counted, seen, encoder, rounds)
    shares = counts / counts.sum()
    chosen = [(each, float(share)) for each, share in zip(candidates, shares, strict=True) if share > 0]
    models = tuple(model for each, _ in chosen for model in each.models)
    ensemble = WeightedModels(models, tuple(share / len(each.models) for each, share in chosen for _ in each.models))

    def predicted() -> Iterator[tuple[slice, Predictions]]:
        for rows in pieces(len(seen.rows), encoder.outputs):
            predictions = (each.seen.predict(rows.start, rows.stop) for each, _ in chosen)
            yield rows, mean_of(predictions, [share for _, share in chosen])

    blocks = (block for _, block in predicted())
    about = {
        "candidates": [
            {"name": each.name, "weight": float(share), "models": len(each.models), "loss": loss}
            for each, share, loss in zip(candidates, shares, losses, strict=True)
        ],
        "loss": loss_of(sum(share * each for share, each in zip(shares, counted, strict=True)), seen, encoder),
        "rows": len(seen.rows),
        "metrics": metrics_of(blocks, encoder, seen.targets, seen.weights),
    }
    return Chosen(ensemble, about, predicted)


def select(
    counted: Sequence[Host], seen: Seen, encoder: Encoder, rounds: int
) -> tuple[NDArray[np.int64], list[float]]:
    """Return how often each candidate is taken, and the loss of each alone.

    Parameters
    ----------
    counted
        What ``counted_of`` returns of each candidate.
    seen
        The rows.
    encoder
        Of their targets.
    rounds
        Most candidates that are added.
    """
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds choose nothing", hint="allowed: 1 or more")
    alone = [loss_of(each, seen, encoder) for each in counted]
    counts = np.zeros(len(counted), np.int64)
    best, best_counts, mean = 0.0, counts, None
    for number in range(1, rounds + 1):
        trials = counted if mean is None else [(1 - 1 / number) * mean + 1 / number * each for each in counted]
        losses = alone if mean is None else [loss_of(trial, seen, encoder) for trial in trials]
        taken = int(np.argmin(losses))
        mean, counts = trials[taken], counts + (np.arange(len(counted)) == taken)
        if losses[taken] < best - TIE_TOLERANCE * abs(best) or number == 1:
            best, best_counts = losses[taken], counts
    return best_counts, alone


def counted_of(seen: Seen, encoder: Encoder) -> Host:
    """Return all that the loss depends on: the probability of the true class, (N,), or whatever else is predicted."""

    def of_rows(rows: slice) -> Host:
        predicted = seen.predict(rows.start, rows.stop)
        if predicted.probabilities is None:
            return predicted.values if predicted.quantiles is None else predicted.quantiles
        if encoder.classes is None:
            return predicted.probabilities
        return np.take_along_axis(predicted.probabilities, seen.targets[rows, None], axis=1)[:, 0]

    return np.concatenate([of_rows(rows) for rows in pieces(len(seen.rows), encoder.outputs)])


def loss_of(counted: Host, seen: Seen, encoder: Encoder) -> float:
    """Return the loss that candidates are chosen by."""
    weights = np.ones(len(seen.rows)) if seen.weights is None else seen.weights
    weights = weights.astype(np.float64)
    if encoder.classes is not None:
        return float(weights @ -np.log(counted.clip(MIN_PROBABILITY)) / weights.sum())
    if encoder.labels is not None:
        return metrics.labels_log_loss(counted, seen.targets, weights)
    truth = seen.targets.reshape(len(seen.rows), -1)
    there = ~np.isnan(truth)
    if encoder.levels:
        errors = truth[:, :, None] - counted
        levels = np.array(encoder.levels)
        each = np.maximum(levels * errors, (levels - 1) * errors).mean(axis=2)
        scale = np.nanstd(truth, axis=0)
    else:
        each = (truth - counted.reshape(truth.shape)) ** 2
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
    return Candidate(str(folder), (model,), seen.cached(model.encoder.outputs))


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
    numbers, first = np.unique(rows, return_index=True)
    labels = models[0].encoder.labels is not None

    def predict(start: int, stop: int) -> Predictions:
        some = numbers[start:stop]
        count, sums = np.zeros(len(some)), dict[str, Host]()
        for part in parts:
            low, high = np.searchsorted(part.rows, [some[0], some[-1] + 1]).tolist()
            if low == high:
                continue
            positions = np.searchsorted(some, part.rows[low:high])
            count[positions] += 1
            for name, array in parts_of(part.predict(low, high)).items():
                sums.setdefault(name, np.zeros((len(some), *array.shape[1:])))[positions] += array
        return of_means(
            {name: each / count.reshape(-1, *[1] * (each.ndim - 1)) for name, each in sums.items()}, labels=labels
        )

    weights = [part.weights for part in parts]
    seen = Seen(
        numbers,
        np.concatenate([part.targets for part in parts])[first],
        None if weights[0] is None else np.concatenate([one for one in weights if one is not None])[first],
        predict,
    )
    return Candidate(name, tuple(models), seen.cached(models[0].encoder.outputs))


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
    numbers = np.arange(len(rows)) if source.rows is None else source.rows
    order = np.argsort(numbers, kind="stable")
    assert rows.targets is not None
    weights: NDArray[Any] | None = rows.weights
    name = model.encoder.weights_name
    if name is not None and isinstance(source, Frame):
        weights = source.numbers(source.resolve(name))  # encoded ones are scaled, in each part by its largest
    weights = None if weights is None else weights[order]
    targets = true_values(model.encoder, rows.targets)[order]

    def predict(start: int, stop: int) -> Predictions:
        ((_, predicted),) = model.predictions([source.take(order[start:stop])], News())
        return predicted

    return model, Seen(numbers[order], targets, weights, predict)

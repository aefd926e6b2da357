"""A bag: a run on the rows outside of each fold, chosen on its fold; together they predict by their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.config.presets import PRESETS
from gpumlp.data import Encoder, Prepared, SourceCache
from gpumlp.errors import Note
from gpumlp.ranks import Ranks
from gpumlp.runs import Listener, Result
from gpumlp.runs.ensemble import OF_BAG
from gpumlp.runs.listener import Limited, TooShortError
from gpumlp.runs.predictions import Block, columns_of, write_predictions
from gpumlp.runs.start import start_of
from gpumlp.sweep.beside import Job, side_by_side
from gpumlp.sweep.cv import PREDICTIONS, train_fold
from gpumlp.sweep.ensemble import Seen, folds_of, weigh
from gpumlp.sweep.folder import PlanFolder, Template
from gpumlp.training.build import load_data


def plan_of(template: Template) -> dict[str, Any]:
    """Return what decides about a bag, fit for JSON."""
    return {"kind": "bag", "settings": template.identity()}


def train_bag(
    template: Template,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    done: Callable[[str, Result], None] | None = None,
) -> dict[str, Any]:
    """Train a run for each of ``bag`` folds, and of a preset that combines recipes for each recipe.

    Each run is a folder of its own in ``folder``; those that are finished there are not trained again. The ensemble
    is in the folder ``ensemble``, what the rows outside of training are predicted as in ``predictions.csv``.
    Recipes are weighted on these rows; one for which the time is too short is left out.

    Parameters
    ----------
    template
        The configuration, with its ``bag`` and ``time_limit``.
    folder
        To which the runs are written.
    listener
        Listener of each run.
    done
        Is called after each run, with its name.

    Returns
    -------
    candidates (each recipe with its weight), loss and metrics (validation: rows outside of training; test)

    Raises
    ------
    ConfigError
        If the configuration does not fit, or the time is too short for one epoch.
    DataError
        If the data do not fit.
    RunError
        If the folder is not free, or a run diverges.
    """
    settings, listener = template.load().settings, listener or Listener()
    recipes = PRESETS[settings.preset].combines or ("",)
    variants = [
        (recipe, fold, template.load(*_changed(recipe, fold, settings.bag)))
        for recipe in recipes
        for fold in range(1, settings.bag + 1)
    ]
    plan_folder, cache = PlanFolder(Path(folder)), SourceCache()
    encoder = start_of(variants[0][2]).encoder
    first = load_data(
        variants[0][2], encoder, keep_sources=True, cache=cache
    )  # nothing is written if the data do not fit
    plan_folder.begin(plan_of(template))
    plan_folder.file(PREDICTIONS)
    folds: list[dict[str, Any]] = []
    late: set[str] = set()
    limit, spent = settings.time_limit, 0.0

    def jobs() -> Iterator[Job[tuple[str, str, Result | None]]]:
        for number, (recipe, fold, loaded) in enumerate(variants):
            if recipe in late:
                continue
            name = f"{recipe}-fold-{fold}" if recipe else f"fold-{fold}"
            data = load_data(loaded, encoder, cache=cache) if number else first
            left = max((limit or math.inf) - spent, 0.0)
            limited = Limited(listener, left / (len(variants) - number), len(variants))
            make = partial(train_one, name, recipe, loaded, data, limited)
            # Each run has its share of the time that those before it have left.
            yield Job(loaded.settings, data, make, in_turn=limit is not None)

    def train_one(
        name: str,
        recipe: str,
        loaded: Loaded,
        data: Prepared,
        limited: Limited,
        backend: Backend | None,
        ranks: Ranks,
    ) -> tuple[str, str, Result | None]:
        nonlocal spent
        try:
            return name, recipe, train_fold(plan_folder, name, loaded, data, limited, backend, ranks)
        except TooShortError as error:
            if not folds or recipe == recipes[0]:
                raise
            late.add(recipe)
            listener.note(Note(f"{recipe} is left out: {error.what}"))
            return name, recipe, None
        finally:
            spent += limited.spent

    for name, recipe, result in side_by_side(jobs()):
        if result is not None:
            folds.append({"run": name, "recipe": recipe, "metrics": result.summary["metrics"]})
            if done is not None:
                done(name, result)
    in_time = [fold for fold in folds if fold["recipe"] not in late]
    plan_folder.write_results({"folds": in_time})
    candidates = folds_of(plan_folder, cache, settings.device)
    chosen = weigh(candidates)
    ensemble, about = chosen.ensemble, chosen.about
    ensemble.save(plan_folder.path / OF_BAG, force=True)
    seen, encoder = candidates[0].seen, ensemble.encoder
    truth = {"row": seen.rows, **_truth(seen, encoder)}
    blocks = (
        {name: column[rows] for name, column in truth.items()} | columns_of(predicted, encoder, proba=True)
        for rows, predicted in chosen.predicted()
    )
    write_predictions(plan_folder.file(PREDICTIONS), blocks)
    metrics = {"validation": about.pop("metrics")}
    if first.sources is not None and first.test is not None:
        metrics["test"] = ensemble.evaluate(first.sources["test"])
    results = {"folder": str(plan_folder.path), **about, "metrics": metrics, "folds": in_time}
    plan_folder.write_results(results)
    return {**results, "predictions": str(plan_folder.path / PREDICTIONS), "ensemble": str(plan_folder.path / OF_BAG)}


def _changed(recipe: str, fold: int, folds: int) -> list[str]:
    """Return the overrides of the run of a fold."""
    overrides = [f"data.split.validation={{fold: {fold}, of: {folds}}}", "bag=1", "time_limit=null"]
    return [f"preset={recipe}", *overrides] if recipe else overrides


def _truth(seen: Seen, encoder: Encoder) -> Block:
    """Return ``target``, or of several targets ``target NAME`` for each."""
    if encoder.classes is not None:
        return {"target": np.array(encoder.classes, object)[seen.targets]}
    columns = encoder.labels.words(seen.targets) if encoder.labels is not None else seen.targets
    names = encoder.target_names
    if columns.ndim == 1:
        return {"target": columns}
    return {f"target {name}": column for name, column in zip(names, columns.T, strict=True)}

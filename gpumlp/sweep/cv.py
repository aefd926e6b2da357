"""Cross-validation: a run for each fold, predictions for every row by a model that has not seen it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.data import News, Prepared, Source, SourceCache
from gpumlp.errors import RunError
from gpumlp.ranks import Ranks
from gpumlp.runs import Listener, Result, load_trained, train
from gpumlp.runs.predictions import Block, columns_of, write_predictions
from gpumlp.runs.start import start_of
from gpumlp.sweep.beside import Job, side_by_side
from gpumlp.sweep.folder import PlanFolder, Template
from gpumlp.training.build import load_data, require_one_run

PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class FoldRun:
    """The run of one fold; ``rows`` are its test rows."""

    name: str
    fold: int
    repeat: int
    rows: int
    result: Result

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the test rows."""
        return dict(self.result.summary["metrics"]["test"])


def plan_of(template: Template, *, folds: int, repeats: int) -> dict[str, Any]:
    """Return what decides about a cross-validation, fit for JSON."""
    return {"kind": "cv", "settings": template.identity(), "folds": folds, "repeats": repeats}


def cross_validate(
    template: Template,
    folder: str | Path,
    *,
    folds: int = 5,
    repeats: int = 1,
    output: Path | None = None,
    listener: Listener | None = None,
    done: Callable[[FoldRun], None] | None = None,
) -> dict[str, Any]:
    """Train on the rows outside each fold in turn, and measure on the fold.

    Each fold is a run of its own in ``folder``, whose configuration reproduces it alone; runs that are finished
    there are not trained again. What decides about the encoding of the inputs are the training rows of each fold.
    A repeat has another ``training.seed``, by one higher, and so other folds.

    Parameters
    ----------
    template
        The configuration; ``data.split.group`` and ``data.split.time`` decide how rows are divided.
    folder
        To which the runs are written.
    folds
        Parts of the rows, each of which is left out once.
    repeats
        How often all folds are trained, each time with other folds.
    output
        File of the predictions of the rows of all folds; None: ``predictions.csv`` in the folder.
    listener
        Listener of each run.
    done
        Is called after each fold.

    Returns
    -------
    metrics (mean, std, min and max of each over the folds) and folds (each with its metrics)

    Raises
    ------
    ConfigError, DataError
        If the configuration or the data do not fit.
    RunError
        If the folder is not free, or a run diverges.
    """
    plan_folder, base = PlanFolder(Path(folder)), template.load()
    require_one_run(base)
    seed = base.settings.training.seed

    def variant(repeat: int, fold: int) -> Loaded:
        return template.load(f"data.split.test={{fold: {fold}, of: {folds}}}", f"training.seed={seed + repeat}")

    loaded = variant(0, 1)
    cache, encoder = SourceCache(), start_of(loaded).encoder
    first = load_data(loaded, encoder, keep_sources=True, cache=cache)  # nothing is written if the data do not fit
    plan_folder.begin(plan_of(template, folds=folds, repeats=repeats))
    if output is None:
        plan_folder.file(PREDICTIONS)

    def jobs() -> Iterator[Job[tuple[FoldRun, Block]]]:
        for repeat, fold in itertools.product(range(repeats), range(1, folds + 1)):
            name = f"fold-{fold}" if repeats == 1 else f"repeat-{repeat + 1}-fold-{fold}"
            is_first = (repeat, fold) == (0, 1)
            loaded = variant(repeat, fold)
            data = first if is_first else load_data(loaded, encoder, keep_sources=True, cache=cache)
            yield Job(loaded.settings, data, partial(_fold, plan_folder, name, fold, repeat, loaded, data, listener))

    runs: list[FoldRun] = []
    blocks: list[Block] = []
    for run, block in side_by_side(jobs()):
        runs.append(run)
        if done is not None:
            done(run)
        blocks.append({**({"repeat": np.full(run.rows, run.repeat + 1)} if repeats > 1 else {}), **block})
    results = {
        "folder": str(plan_folder.path),
        "metrics": summarized([run.metrics for run in runs]),
        "folds": [
            {
                "run": each.name,
                "fold": each.fold,
                "repeat": each.repeat + 1,
                "rows": each.rows,
                "metrics": each.metrics,
                "notes": each.result.summary.get("notes", []),
            }
            for each in runs
        ],
    }
    target = plan_folder.file(PREDICTIONS) if output is None else output
    write_predictions(target, _by_row(blocks, repeats, folds))
    plan_folder.write_results(results)
    return {**results, "predictions": str(target)}


def train_fold(
    plan_folder: PlanFolder,
    name: str,
    loaded: Loaded,
    data: Prepared,
    listener: Listener | None,
    backend: Backend | None,
    ranks: Ranks,
) -> Result:
    """Return the run of a fold, trained now or before.

    Raises
    ------
    RunError
        If another process trains it, it diverges, or it was trained on other data.
    """
    path = plan_folder.run(name)
    with plan_folder.claim(name) as free:
        if not free:
            raise RunError("another process is training this fold", where=str(path))
        result = train(loaded, path, data=data, resume=True, listener=listener, ranks=ranks, backend=backend)
    if result.summary["data"] != data.fingerprint:
        hint = "restore the data, or choose another --run-dir"
        raise RunError("the data have changed since this fold was trained", where=str(path), hint=hint)
    return result


def _fold(
    plan_folder: PlanFolder,
    name: str,
    fold: int,
    repeat: int,
    loaded: Loaded,
    data: Prepared,
    listener: Listener | None,
    backend: Backend | None,
    ranks: Ranks,
) -> tuple[FoldRun, Block]:
    """Return the run of a fold, and the predictions of its test rows."""
    result = train_fold(plan_folder, name, loaded, data, listener, backend, ranks)
    assert data.sources is not None
    source = data.sources["test"]
    model = load_trained(result.folder, device=loaded.settings.device)
    ((_, predictions),) = model.predictions([source], News())
    rows = len(predictions.values)
    block = {
        "row": _row_numbers(source, rows),
        "fold": np.full(rows, fold),
        **_truth(source, data),
        **columns_of(predictions, model.encoder, proba=True),
    }
    return FoldRun(name, fold, repeat, rows, result), block


def _row_numbers(source: Source, count: int) -> NDArray[np.int64]:
    return np.arange(count) if source.rows is None else source.rows


def _truth(source: Source, data: Prepared) -> Block:
    """Return ``target``, or of several targets ``target NAME`` for each, as they are in the rows."""
    encoder = data.encoder
    if encoder.labels is not None:
        categories = {name: source.categories(source.resolve(name)) for name in encoder.target_names}
        return {f"target {name}": each.texts[each.codes] for name, each in categories.items()}
    if encoder.classes is None:
        names = encoder.target_names
        return {
            "target" if len(names) == 1 else f"target {name}": source.numbers(source.resolve(name)) for name in names
        }
    cells = source.categories(source.resolve(encoder.target_name))
    return {"target": cells.texts[cells.codes]}


def _by_row(blocks: Sequence[Block], repeats: int, folds: int) -> Iterator[Block]:
    """Yield the predictions of each repeat, in the order of the rows."""
    for repeat in range(repeats):
        parts = blocks[repeat * folds : (repeat + 1) * folds]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(columns["row"], kind="stable")
        yield {name: column[order] for name, column in columns.items()}


def summarized(rows: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation, least and largest value of each metric, over the runs where it is defined."""
    summary: dict[str, dict[str, float]] = {}
    for name in rows[0]:
        values = np.array([v for row in rows if (v := row.get(name)) is not None and math.isfinite(v)])
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        some = len(values) > 0
        summary[name] = {
            "mean": float(values.mean()) if some else math.nan,
            "std": spread,
            "min": float(values.min()) if some else math.nan,
            "max": float(values.max()) if some else math.nan,
        }
    return summary

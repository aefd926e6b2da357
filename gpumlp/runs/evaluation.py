"""Using a run: evaluate it, predict with it, look at it. Of one that has not finished, by its best weights so far."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp import backend as backends
from gpumlp.backend import Backend
from gpumlp.config import Loaded, load
from gpumlp.data import Dataset, EncodedRows, News, Prepared, Source, read, read_blocks
from gpumlp.data.source.room import reading_into
from gpumlp.errors import DamageError, DataError, Note, RunError
from gpumlp.metrics import CurvePoints
from gpumlp.runs.checkpoint import Checkpoint
from gpumlp.runs.ensemble import WeightedModels, is_ensemble, load_weighted
from gpumlp.runs.folder import MODEL, RunFolder
from gpumlp.runs.identity import differences, is_extension
from gpumlp.runs.mistaken import not_a_run
from gpumlp.runs.model import DESCRIPTION, SavedModel, load_model
from gpumlp.runs.predictor import curve_counts
from gpumlp.training.build import build_loss, load_data
from gpumlp.training.device_data import DeviceData
from gpumlp.training.loop import DIVERGED
from gpumlp.training.measure import measure

Metrics = dict[str, dict[str, float]]
Parts = dict[str, EncodedRows]

UNFINISHED = "not finished"
"""The status of a run that has checkpoints, but no summary yet."""

UNSEEN = ("test", "validation", "train")
"""Parts of the data, those first that say most about a model."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run, read from its folder. Of one that has not finished, ``summary`` is what its last checkpoint says."""

    folder: Path
    loaded: Loaded
    summary: dict[str, Any]


def load_run(folder: str | Path, *, unfinished: bool = False) -> Run:
    """Read what a run was and what it came to.

    Parameters
    ----------
    folder
        Folder of the run.
    unfinished
        Whether to take one that has not finished too, with its last checkpoint.

    Raises
    ------
    RunError
        If the folder is not such a run.
    """
    run_folder = RunFolder(Path(folder))
    if not run_folder.is_run:
        raise not_a_run(run_folder.path)
    if not run_folder.summary.exists() and not unfinished:
        raise RunError("the run has not finished", where=str(folder), hint=f"resume it: {run_folder.resume_command}")
    run_folder.check_links()
    loaded = load(run_folder.config)
    summary = run_folder.read_summary() if run_folder.summary.exists() else _so_far(run_folder, loaded)
    changed = differences(summary["settings"], loaded.settings)
    if changed and not (summary["status"] == UNFINISHED and is_extension(summary["settings"], loaded.settings)):
        message = "the configuration is not the one that the run was trained with"
        raise RunError(message, where=str(run_folder.config), hint="\n  ".join(changed))
    return Run(run_folder.path, loaded, summary)


def _so_far(folder: RunFolder, loaded: Loaded) -> dict[str, Any]:
    """Return the part of a summary that the last checkpoint of a run has."""
    checkpoint, _ = _last_checkpoint(folder)
    return {
        "status": UNFINISHED,
        "epochs": checkpoint.progress.epoch,
        "planned_epochs": checkpoint.epochs,
        "best_epoch": checkpoint.progress.best_epoch,
        "metric": loaded.settings.training.chosen_metric,
        "data": checkpoint.data,
        "metrics": {},
        "settings": checkpoint.settings,
        "history": checkpoint.history,
    }


def _last_checkpoint(folder: RunFolder) -> tuple[Checkpoint, Path]:
    """Return the last whole checkpoint of a run that has not finished, and its file.

    Raises RunError where there is none, or no epoch was done by then.
    """
    for path in folder.checkpoints():
        try:
            checkpoint = Checkpoint.read(path)
        except DamageError as error:
            log.warning("%s; trying the checkpoint before it", error)
            continue
        if checkpoint.progress.best_epoch:
            return checkpoint, path
    message = "the run has not finished, and has no checkpoint of a whole epoch yet"
    raise RunError(message, where=str(folder.path), hint=f"resume it: {folder.resume_command}")


def _load_unfinished(folder: RunFolder, backend: Backend) -> SavedModel:
    """Return the best weights so far of a run that has not finished, with a note on that."""
    checkpoint, path = _last_checkpoint(folder)
    model = checkpoint.best_model(backend, path)
    message = (
        f"the run has not finished: these are its best weights so far, of epoch {checkpoint.progress.best_epoch} "
        f"of {checkpoint.epochs}"
    )
    if model.encoder.classes is not None:
        message += "; probabilities are not calibrated yet"
    return replace(model, notes=(Note(message),))


def load_trained(folder: str | Path, backend: str = "auto", *, device: int = 0) -> SavedModel:
    """Read the model of a run folder, or of a model folder by itself, onto a backend.

    Of a run that has not finished, it has the best weights of the last checkpoint, and its ``notes`` say so.

    Parameters
    ----------
    folder
        A run folder or a model folder.
    backend
        One of ``auto``, ``cupy``, ``native`` and ``numpy``, or a backend; None: that of the run.
    device
        GPU index.

    Returns
    -------
    SavedModel

    Raises
    ------
    RunError
        If there is no model, or it is damaged.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        raise not_a_run(folder)
    model_folder = folder if (folder / DESCRIPTION).exists() else folder / MODEL
    run = RunFolder(folder)
    summary = {}
    if model_folder != folder:
        run.check_links()
        if run.summary.exists():
            summary = run.read_summary()
        elif run.is_run:
            return _load_unfinished(run, backends.get(backend, device=device))
    if not model_folder.is_dir():
        if summary.get("status") == DIVERGED:
            message = f"there is no model: {summary.get('reason')}, and no epoch before it was usable"
            raise RunError(message, where=str(folder))
        raise not_a_run(folder, "there is no model")
    return load_model(model_folder, backends.get(backend, device=device), checksum=summary.get("model"))


def load_ensemble(folder: str | Path, backend: str = "auto", *, device: int = 0) -> WeightedModels:
    """Read an ensemble, which ``gpumlp ensemble`` or its ``save`` has written, onto a backend.

    Parameters
    ----------
    folder
        Folder of the ensemble.
    backend
        One of ``auto``, ``cupy``, ``native`` and ``numpy``.
    device
        GPU index.

    Returns
    -------
    WeightedModels

    Raises
    ------
    RunError
        If there is none, or it is damaged.
    """
    return load_weighted(Path(folder), backends.get(backend, device=device))


def own_parts(run: Run, model: SavedModel) -> tuple[Parts, tuple[Note, ...]]:
    """Return the parts of a run's own data, encoded by its model, and notes on them."""
    data = load_data(run.loaded, model.encoder)
    return data.parts, (*data.notes, *changed_since(run, data))


def changed_since(run: Run, data: Prepared) -> tuple[Note, ...]:
    """Return a note where a run was trained on other data. Packed rows are not compared with rows in memory."""
    packed = run.loaded.settings.data.pack.window is not None
    if packed != (data.window is not None) or data.fingerprint == run.summary.get("data"):
        return ()
    return (Note("the data have changed since this run was trained"),)


def evaluate(
    folder: str | Path,
    data: str | Path | None = None,
    *,
    device: int = 0,
    curves: dict[str, CurvePoints] | None = None,
) -> tuple[Metrics, tuple[Note, ...]]:
    """Measure a run on a file, or again on the parts of its own data. Return metrics and notes.

    The loss is computed with the run's own settings; to balance classes anew that takes its training rows. ``curves``
    takes what :meth:`gpumlp.runs.predictor.Predictor.curves` returns, by the name of the file or part.

    Parameters
    ----------
    folder
        Folder of the run.
    data
        A file; None for the parts of its own data.
    device
        GPU index.
    curves
        Whether to add what curves are drawn of.

    Returns
    -------
    metrics and notes
        Metrics by part and name, and what a user should know.
    """
    run, model = load_run(folder, unfinished=True), load_trained(folder, device=device)
    settings, network, encoder = run.loaded.settings, model.network, model.encoder
    balanced = getattr(settings.loss, "class_weight", None) == "balanced"
    parts_of_run, notes = own_parts(run, model) if data is None or balanced else ({}, ())
    loss = build_loss(settings, network, encoder, parts_of_run.get("train"))

    def measured(name: str, parts: Iterable[Dataset]) -> dict[str, float]:
        counts = None if curves is None else curve_counts(encoder)

        def blocks() -> Iterator[DeviceData]:
            for part in parts:
                if counts is not None and part.targets is not None:
                    linear = np.concatenate([each for each, _ in model.answers(part.features)])
                    counts.add(model.probabilities(linear), part.targets, part.weights)
                yield DeviceData(network, part, encoder.input_scale)

        values = measure(network, loss, encoder, blocks(), probabilities=model.probabilities)
        if curves is not None and counts is not None:
            curves[name] = counts.result()
        return values

    if data is None:
        return {name: measured(name, part.blocks()) for name, part in parts_of_run.items()}, (*model.notes, *notes)
    news = News()

    def labelled() -> Iterator[Dataset]:
        for source in _blocks(data, model):
            if (rows := encoder.labelled(source, news)) is not None:
                yield encoder.encode(rows, targets=True, news=news, unseen=True)[0]
        if news.unlabelled == news.rows:
            raise DataError("no row has a target", where=str(data), hint="evaluate needs a column of the target")

    name = Path(data).name
    with reading_into(settings.data.room):
        return {name: measured(name, labelled())}, (*model.notes, *news.notes())


def _blocks(path: str | Path, model: SavedModel) -> Iterator[Source]:
    """Yield the rows of a file; all at once where they have weights, which count by the largest of them."""
    encoder = model.encoder
    if encoder.weights_name is None:
        for source in read_blocks(path, encoder.dialect, texts=encoder.texts):
            yield from model.in_pieces(source)
    else:
        yield read(path, encoder.dialect, texts=encoder.texts)

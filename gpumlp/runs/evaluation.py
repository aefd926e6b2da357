"""Using a finished run: evaluate it, predict with it, look at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp import backend as backends
from gpumlp.config import Loaded, load
from gpumlp.data import Dataset, Encoder, News, Source, read, read_blocks
from gpumlp.errors import RunError, choices
from gpumlp.runs.folder import MODEL, RunFolder
from gpumlp.runs.identity import differences
from gpumlp.runs.model import DESCRIPTION, SavedModel, load_model
from gpumlp.training.build import build_loss, load_data
from gpumlp.training.device_data import DeviceData
from gpumlp.training.loop import DIVERGED
from gpumlp.training.measure import measure

Metrics = dict[str, dict[str, float]]
Parts = dict[str, Dataset]


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    loaded: Loaded
    summary: dict[str, Any]


def load_run(folder: str | Path) -> Run:
    """Read what a run was and what it came to. Raises RunError where the folder is no finished run."""
    place = RunFolder(Path(folder))
    if not place.is_run:
        raise RunError("not a run folder", where=str(folder), hint=_runs_beside(place.path))
    if not place.summary.exists():
        hint = f"resume it: {place.resume_command}"
        raise RunError("the run has not finished", where=str(folder), hint=hint)
    place.check_links()
    loaded, summary = load(place.config), place.read_summary()
    if changed := differences(summary["settings"], loaded.settings):
        what = "the configuration is not the one that the run was trained with"
        raise RunError(what, where=str(place.config), hint="\n  ".join(changed))
    return Run(place.path, loaded, summary)


def load_trained(folder: str | Path, backend: str = "auto", *, device: int = 0) -> SavedModel:
    """Read the model of a run folder, or of a model folder by itself, onto a backend."""
    folder = Path(folder)
    place = folder if (folder / DESCRIPTION).exists() else folder / MODEL
    run = RunFolder(folder)
    summary = {}
    if place != folder:
        run.check_links()
        if run.summary.exists():
            summary = run.read_summary()
        elif run.is_run and not place.is_dir():
            summary = load_run(folder).summary
    if not place.is_dir():
        if summary.get("status") == DIVERGED:
            what = f"there is no model: {summary.get('reason')}, and no epoch before it was usable"
            raise RunError(what, where=str(folder))
        raise RunError("there is no model", where=str(folder), hint=_runs_beside(folder))
    return load_model(place, backends.get(backend, device=device), checksum=summary.get("model"))


def _runs_beside(folder: Path) -> str:
    """Return the hint for a folder that is no run: those beside it that are, the nearest name first."""
    try:
        runs = sorted(str(each) for each in folder.parent.iterdir() if RunFolder(each).is_run)
    except OSError:
        runs = []
    return choices(str(folder), runs) if runs else "pass a run folder, such as runs/digits"


def own_parts(run: Run, model: SavedModel) -> tuple[Parts, tuple[str, ...]]:
    """Return the parts of a run's own data, encoded by its model, and notes on them."""
    own = load_data(run.loaded, model.encoder)
    changed = own.fingerprint != run.summary.get("data")
    notes = (*own.notes, "the data have changed since this run was trained") if changed else own.notes
    return own.parts, notes


def evaluate(
    folder: str | Path, data: str | Path | None = None, *, device: int = 0
) -> tuple[Metrics, tuple[str, ...]]:
    """Measure a finished run on a file, or again on the parts of its own data. Return metrics and notes.

    The loss is computed with the run's own settings; to balance classes anew that takes its training rows.
    """
    run, model = load_run(folder), load_trained(folder, device=device)
    settings, network, encoder = run.loaded.settings, model.network, model.encoder
    balanced = getattr(settings.loss, "class_weight", None) == "balanced"
    own, notes = own_parts(run, model) if data is None or balanced else ({}, ())
    loss = build_loss(settings, network, encoder, own.get("train"))

    def measured(parts: Iterable[Dataset]) -> dict[str, float]:
        blocks = (DeviceData(network, part, encoder.input_scale) for part in parts)
        return measure(network, loss, encoder, blocks, probabilities=model.probabilities)

    if data is None:
        return {name: measured([part]) for name, part in own.items()}, notes
    news = News()
    found = measured(encoder.encode(source, targets=True, news=news)[0] for source in _blocks(data, encoder))
    return {Path(data).name: found}, tuple(news.notes())


def _blocks(path: str | Path, encoder: Encoder) -> Iterator[Source]:
    """Yield the rows of a file; all at once where they have weights, which count by the largest of them."""
    if encoder.weights_name is None:
        yield from read_blocks(path, encoder.dialect, texts=encoder.texts)
    else:
        yield read(path, encoder.dialect, texts=encoder.texts)

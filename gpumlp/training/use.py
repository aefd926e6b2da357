"""Using a finished run: evaluate it, predict with it, look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp import backend as backends
from gpumlp.config import Loaded, load
from gpumlp.data import read
from gpumlp.errors import RunError
from gpumlp.training.build import build_loss, load_data
from gpumlp.training.files import read_json
from gpumlp.training.folder import MODEL, RunFolder
from gpumlp.training.measure import Measurement
from gpumlp.training.run import resume_command
from gpumlp.training.saved import DESCRIPTION, SavedModel, load_model

Metrics = dict[str, dict[str, float]]


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
        raise RunError("this is no run folder", where=str(folder), hint="give one, such as runs/digits")
    if not place.summary.exists():
        hint = f"continue it: {resume_command(place.path)}"
        raise RunError("the run has not finished", where=str(folder), hint=hint)
    return Run(place.path, load(place.config), read_json(place.summary))


def load_trained(folder: str | Path, backend: str = "auto") -> SavedModel:
    """Read the model of a run folder, or of a model folder by itself."""
    folder = Path(folder)
    place = folder if (folder / DESCRIPTION).exists() else folder / MODEL
    if not place.is_dir():
        raise RunError("there is no model", where=str(folder), hint="give a run folder, such as runs/digits")
    return load_model(place, backends.get(backend))


def evaluate(folder: str | Path, data: str | Path | None = None) -> tuple[Metrics, tuple[str, ...]]:
    """Measure a finished run on a file, or again on the parts of its own data. Return metrics and notes.

    The loss is computed with the run's own settings; to balance classes anew that takes its training rows.
    """
    run, model = load_run(folder), load_trained(folder)
    settings = run.loaded.settings
    balanced = getattr(settings.loss, "class_weight", None) == "balanced"
    own = load_data(settings, model.encoder) if data is None or balanced else None
    loss = build_loss(settings, model.network, model.encoder, own.train if own else None)
    if data is not None:
        dataset, remarks = model.encoder.encode(read(data, missing=settings.data.missing), targets=True)
        parts, notes = {Path(data).name: dataset}, tuple(remarks)
    else:
        assert own is not None
        found = {"train": own.train, "validation": own.validation, "test": own.test}
        parts, notes = {name: part for name, part in found.items() if part is not None}, own.notes
        if own.fingerprint() != run.summary.get("data"):
            notes = (*notes, "the data have changed since this run was trained")
    return {name: Measurement(model.network, loss, part, model.encoder)() for name, part in parts.items()}, notes

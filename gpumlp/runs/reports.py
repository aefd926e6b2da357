"""The report on a run: everything that its folder and its data say, as one HTML file."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.config import Settings, dump
from gpumlp.data import EncodedRows, News, Source
from gpumlp.errors import Note
from gpumlp.report import Rows, Section, code, of_data, of_history, of_network, of_rows, page, paragraph, table, write
from gpumlp.runs.evaluation import UNSEEN, Run, changed_since, load_run, load_trained
from gpumlp.runs.folder import RunFolder
from gpumlp.runs.identity import flatten
from gpumlp.store.formats import check_free
from gpumlp.training.build import load_data

MAX_SHOWN_VALUE = 200
"""Characters of a setting that the page shows."""


def report(
    folder: str | Path, output: Path, *, data: str | Path | None = None, force: bool = False
) -> tuple[Note, ...]:
    """Write the report on a run; return notes on its data.

    The rows are those of the run's own data that it has not seen: test rows, else validation rows.

    Parameters
    ----------
    folder
        Folder of the run.
    output
        An HTML file.
    data
        A file whose rows are measured in their place; rows without a target are left out.
    force
        Whether to replace a file that is there.

    Raises
    ------
    RunError
        If the folder is not a run with a model, or the file is there or cannot be written.
    DataError
        If the data cannot be read, or do not fit the model.
    """
    check_free(output, force=force)
    run, model = load_run(folder, unfinished=True), load_trained(folder)
    settings, summary = run.loaded.settings, run.summary
    sources: Mapping[str, Source]
    parts: Mapping[str, EncodedRows]
    if data is None:
        data_of_run = load_data(run.loaded, model.encoder, keep_sources=True)
        assert data_of_run.sources is not None
        sources, parts = data_of_run.sources, data_of_run.parts
        notes = (*model.notes, *data_of_run.notes, *changed_since(run, data_of_run))
        name = next(each for each in UNSEEN if each in data_of_run.parts)
        rows = Rows.of(model, sources[name])
    else:
        name = Path(data).name
        encoder, labelled = model.labelled(data, None, None, news := News())
        rows = Rows.of(replace(model, encoder=encoder), labelled, news)
        sources, parts, notes = {name: labelled}, {name: rows.data}, (*model.notes, *news.notes())
    seed = settings.training.seed
    history = RunFolder(run.folder).read_history(summary["epochs"], summary["history"])
    metrics, *others = of_rows(name, rows, summary["metrics"], seed)
    sections = [
        metrics,
        of_history(history, summary.get("snapshots") or [summary["best_epoch"]], summary.get("metric") or "loss"),
        *others,
        of_data(model.encoder, sources, parts, notes),
        of_network(model.encoder, model.network.summary(), calibrated=model.calibration is not None),
        _settings(settings),
        _reproduction(run),
    ]
    about = f"{settings.task}: {model.encoder.target_name!r} from {settings.data.title}. {_outcome(summary)}"
    write(output, page(f"Run {run.folder.resolve().name}", about, sections))
    return notes


def _outcome(summary: dict[str, Any]) -> str:
    planned = summary.get("planned_epochs", summary["epochs"])
    text = f"Training {summary['status']} after {summary['epochs']:,} of {planned:,} epochs"
    if "backend" in summary:
        text += f", {summary['seconds']:.3g} s on {summary['device'] or summary['backend']}"
    return f"{text}."


def _settings(settings: Settings) -> Section:
    """Return the settings that are not at their defaults, each with both values."""
    least = {
        "task": settings.task,
        "data": {"train": "-", "target": "-" if isinstance(settings.data.target, str | int) else ["-"]},
    }
    default = flatten(Settings.model_validate(least).model_dump(mode="json"))
    values = settings.model_dump(mode="json")
    del values["data"]["folder"]
    for name in ("task", "data.train", "data.target"):  # which have none
        default[name] = "–"
    lines = [
        [name, _shortened(value), _shortened(default.get(name, "–"))]
        for name, value in flatten(values).items()
        if default.get(name) != value
    ]
    html = table(["setting", "value", "default"], lines)
    return Section("Settings that differ from the defaults", html)


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_SHOWN_VALUE else f"{value[:MAX_SHOWN_VALUE]}…"


def _reproduction(run: Run) -> Section:
    settings, summary = run.loaded.settings, run.summary
    command = shlex.join(["gpumlp", "train", "config.yaml", "--run-dir", "runs/again"])
    html = paragraph("Save these lines as config.yaml, and train with them on the same data:")
    html += code(command)
    for each in summary.get("extensions", ()):
        html += paragraph(
            f"The run was extended from {each['from']:,} to {each['to']:,} epochs after epoch {each['after']:,}: "
            f"train with training.epochs={each['from']} first, then with --resume --set training.epochs={each['to']}."
        )
    if start := summary.get("start"):
        html += paragraph(f"It started from the model {start['model']} of the run {start['run']}.")
    facts = {
        "checksum of the encoded data": summary.get("data"),
        "checksum of the model": summary.get("model"),
        "backend": summary.get("backend"),
        "device": summary.get("device"),
        "seed": settings.training.seed,
        "report by": f"gpumlp {version('gpumlp')}, Python {platform.python_version()}, NumPy {np.__version__}",
    }
    html += table(["", ""], ([name, value] for name, value in facts.items() if value is not None))
    lines = code(dump(settings, folder=run.folder))
    return Section("How to reproduce", f"{html}<details><summary>config.yaml</summary>{lines}</details>\n")

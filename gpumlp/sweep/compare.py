"""Runs beside each other: the settings that differ, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp.config import load
from gpumlp.errors import DamageError, RunError
from gpumlp.metrics import title
from gpumlp.runs.ensemble import is_ensemble
from gpumlp.runs.folder import CONFIG, SUMMARY, RunFolder
from gpumlp.runs.identity import decisive, flatten
from gpumlp.store.figure import letters, new_figure, save
from gpumlp.sweep.folder import PlanFolder


@dataclass(frozen=True)
class Compared:
    """A run: its settings by dotted name, as JSON texts, and its summary, None where it has not finished."""

    name: str
    settings: dict[str, str]
    summary: dict[str, Any] | None

    @property
    def status(self) -> str:
        """How it ended."""
        return "not finished" if self.summary is None else str(self.summary["status"])

    def metrics(self, part: str) -> dict[str, float | None]:
        """Return the metrics of a part of the data, empty where there are none."""
        return {} if self.summary is None else dict(self.summary["metrics"].get(part, {}))


def compare(folders: Sequence[Path]) -> tuple[list[Compared], list[str]]:
    """Return the runs in these folders, and the names of the settings in which they differ.

    Parameters
    ----------
    folders
        Run folders, or folders of ``gpumlp cv`` and ``gpumlp sweep``, which stand for the runs in them.

    Raises
    ------
    RunError
        If one is neither, or holds no run yet.
    """
    runs = [_read(each_run) for folder in folders for each_run in runs_in(folder)]
    names = sorted(dict.fromkeys(name for run in runs for name in run.settings), key=_is_detail)
    differ = [name for name in names if len({run.settings.get(name) for run in runs}) > 1]
    return runs, differ


def _is_detail(setting: str) -> bool:
    """Return whether a setting says less of a run than its preset and how many networks predict."""
    return setting.partition(".")[0] not in ("preset", "members", "bag") and setting != "training.snapshots"


def runs_in(folder: Path) -> list[RunFolder]:
    """Return the run in a folder, or all runs of the sweep or the folds in it.

    Raises
    ------
    RunError
        If there is none, or one of them has lost what tells that it is a run.
    """
    if RunFolder(folder).is_run:
        return [RunFolder(folder)]
    if not PlanFolder(folder).is_plan:
        if is_ensemble(folder):
            message = "this is an ensemble of models, which has no settings and metrics of its own"
            raise RunError(message, where=str(folder), hint="pass the runs that it was made of")
        hint = "pass a run folder, or one of gpumlp cv or gpumlp sweep"
        raise RunError("not a folder of runs", where=str(folder), hint=hint)
    runs = [each for each in map(RunFolder, folder.iterdir()) if each.is_run or each.summary.is_file()]
    if damaged := next((run for run in runs if not run.is_run), None):
        message = f"the run is damaged: it has {SUMMARY}, but not {CONFIG} as it was written, history and checkpoints"
        raise DamageError(message, where=str(damaged.path), hint="delete the folder, and run the same command again")
    if not runs:
        raise RunError("there is no run in this folder yet", where=str(folder))
    return sorted(runs, key=lambda run: (len(run.path.name), run.path.name))


def _read(run: RunFolder) -> Compared:
    run.check_links()
    summary = run.read_summary() if run.summary.exists() else None
    return Compared(str(run.path), flatten(decisive(load(run.config).settings)), summary)


def value_of(text: str | None) -> Any:
    """Return the value of a setting from its JSON text."""
    return None if text is None else json.loads(text)


def plot(runs: Sequence[Compared], metric: str, output: Path) -> None:
    """Draw a metric of the validation and test rows of each run.

    Raises
    ------
    RunError
        If matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(output, 8, max(2.5, 1.2 + 0.3 * len(runs)))
    axes = figure.subplots()
    for part, colour in (("validation", "#d62728"), ("test", "#1f77b4")):
        pairs = [(each.metrics(part).get(metric), row) for row, each in enumerate(runs)]
        values = [(value, row) for value, row in pairs if value is not None]
        if values:
            axes.scatter([value for value, _ in values], [row for _, row in values], color=colour, label=part)
            axes.legend()
    axes.set_yticks(range(len(runs)), [letters(each.name) for each in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel(letters(title(metric)))
    axes.grid(alpha=0.3)
    save(figure, output)

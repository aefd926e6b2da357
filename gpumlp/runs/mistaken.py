"""What a folder is that was taken for a run: errors that name it, and what can be done with it."""

from __future__ import annotations

from pathlib import Path

from gpumlp.errors import GpumlpError, RunError, choices
from gpumlp.runs.ensemble import is_ensemble
from gpumlp.runs.folder import PLAN, RunFolder
from gpumlp.store.formats import read_json

_USES = {
    "cv": "; gpumlp compare {folder} lists them, and gpumlp ensemble {folder} -o NEW makes one model of them",
    "sweep": "; gpumlp compare {folder} lists them",
    "bag": ", or run the same command again to finish the bag",
}
"""What else can be done with the folders of several runs, by the kind of their plan."""


def not_a_run(folder: Path, message: str = "not a run folder") -> RunError:
    """Return the error for a folder that is not a run: an ensemble, a folder of several runs, or something else.

    Parameters
    ----------
    folder
        Which may be missing.
    message
        What is wrong with a folder that is nothing of this.
    """
    runs = runs_within(folder)
    first = (
        f"pass one of its runs, such as {runs[0].path}" if runs else "it has no runs yet: run the same command again"
    )
    if is_ensemble(folder):
        hint = "predict, evaluate --data and export --data take it; in Python, gpumlp.load_ensemble"
        hint += f"; else {first}" if runs else ""
        return RunError("this is an ensemble of models, not a run", where=str(folder), hint=hint)
    if (kind := kind_of_plan(folder)) is not None:
        uses = _USES.get(kind, "").format(folder=folder) if runs else ""
        verb = "train with bag" if kind == "bag" else kind
        return RunError(f"this is a folder of gpumlp {verb}, not a run", where=str(folder), hint=first + uses)
    if runs:
        return RunError(message, where=str(folder), hint=choices("", [str(each.path) for each in runs]))
    try:
        beside = sorted(str(each) for each in folder.parent.iterdir() if RunFolder(each).is_run)
    except OSError:
        beside = []
    hint = choices(str(folder), beside) if beside else "pass a run folder, such as runs/digits"
    return RunError(message, where=str(folder), hint=hint)


def kind_of_plan(folder: Path) -> str | None:
    """Return what several runs in a folder are: cv, sweep or bag, None where there is no plan."""
    if not (folder / PLAN).is_file():
        return None
    try:
        return str(read_json(folder / PLAN)["kind"])
    except (GpumlpError, KeyError, TypeError):
        return "cv or sweep"


def runs_within(folder: Path) -> list[RunFolder]:
    """Return the runs that lie in a folder, those of short names first."""
    try:
        runs = [each for each in map(RunFolder, folder.iterdir()) if each.is_run]
    except OSError:
        return []
    return sorted(runs, key=lambda run: (len(run.path.name), run.path.name))

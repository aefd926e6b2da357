"""Logs of runs for TensorBoard and MLflow, by these projects' own writers (extras ``tensorboard`` and ``mlflow``).

    train(load("iris.yaml"), "runs/iris", listener=Listeners([log_to("tensorboard")]))

TensorBoard's file is in the run folder; MLflow's store is where ``MLFLOW_TRACKING_URI`` says, else ``mlruns`` in the
working folder.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumlp.errors import Note, RunError
from gpumlp.runs.folder import MODEL, RunFolder
from gpumlp.runs.identity import flatten
from gpumlp.runs.listener import Listener
from gpumlp.training.build import Parts

EVENTS = "tensorboard"
"""Folder of TensorBoard's files, in a run folder."""

FLUSH_S = 5
"""Seconds after which TensorBoard sees what was logged."""

EXPERIMENT = "gpumlp"
"""Experiment of MLflow that runs are in, where ``MLFLOW_EXPERIMENT_NAME`` names no other."""

MAX_PARAM_CHARACTERS = 500
"""Characters of a setting that MLflow takes in any of its stores."""


class Log(Listener):
    """A log of a run by another project's writer. It begins with the run and is closed with it."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Take note of the end of the run: ``summary`` is the content of summary.json."""

    def close(self, *, failed: bool) -> None:
        """Write what is left. ``failed`` where the run was interrupted, or ended by an error."""


class Listeners(Log):
    """Passes on what happens to several listeners. A log that fails ends with a note, and the run goes on."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)

    def note(self, note: Note) -> None:
        self._each(lambda one: one.note(note))

    def prepared(self, parts: Parts, folder: Path) -> None:
        for each in self._listeners:
            each.prepared(parts, folder)

    def batch(self, done: int, of: int) -> None:
        self._each(lambda one: one.batch(done, of))

    def epoch(self, row: dict[str, Any], best: bool) -> bool | None:
        return any(self._each(lambda one: one.epoch(row, best)))

    def finished(self, summary: Mapping[str, Any]) -> None:
        self._each(lambda one: one.finished(summary) if isinstance(one, Log) else None)

    def close(self, *, failed: bool) -> None:
        self._each(lambda one: one.close(failed=failed) if isinstance(one, Log) else None)

    def _each(self, call: Callable[[Any], Any]) -> list[Any]:
        results = []
        for each in list(self._listeners):
            try:
                results.append(call(each))
            except Exception as error:
                if not isinstance(each, Log):
                    raise
                self._listeners.remove(each)
                self.note(Note(f"the log of {type(each).__name__} has ended: {_line_of(error)}"))
        return results


class TensorBoard(Log):
    """Scalars of each epoch, as TensorBoard shows them: ``tensorboard --logdir runs``."""

    def __init__(self) -> None:
        self._module = _library("tensorboardX", "tensorboard")
        self._writer: Any = None

    def prepared(self, parts: Parts, folder: Path) -> None:
        # What an interrupted run wrote of epochs that come again is not shown.
        log_folder, first = str(folder / EVENTS), parts.trainer.epoch + 1
        self._writer = self._module.SummaryWriter(log_folder, purge_step=first, flush_secs=FLUSH_S)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(_grouped(name), value, row["epoch"])

    def finished(self, summary: Mapping[str, Any]) -> None:
        for name, value in _results(summary).items():
            self._writer.add_scalar(f"result/{name}", value, summary["epochs"])

    def close(self, *, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow(Log):
    """Settings, metrics of each epoch, results and the model as a run of MLflow, in which a resumed run goes on."""

    def __init__(self) -> None:
        library = _library("mlflow", "mlflow")
        self._run, self._folder = "", Path()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        if uri.startswith("file:"):
            # From version 3.5 on MLflow asks whether files are meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        try:
            self._client = client = library.MlflowClient(tracking_uri=uri)
            known = client.get_experiment_by_name(name)
            self._experiment = str(client.create_experiment(name) if known is None else known.experiment_id)
        except Exception as error:
            hint = "set MLFLOW_TRACKING_URI to a store that can be reached, or train without --log mlflow"
            raise RunError(f"MLflow has no store at {uri}: {_line_of(error)}", where="--log", hint=hint) from None

    def prepared(self, parts: Parts, folder: Path) -> None:
        self._run, self._folder = self._begun(folder, resumed=parts.trainer.epoch > 0), folder

    def _begun(self, folder: Path, *, resumed: bool) -> str:
        path = str(folder.resolve())
        if resumed:
            quoted = path.replace("'", "''")
            runs = self._client.search_runs([self._experiment], f"tags.`gpumlp.folder` = '{quoted}'", max_results=1)
            if runs:
                self._client.update_run(runs[0].info.run_id, status="RUNNING")
                return str(runs[0].info.run_id)
        run = self._client.create_run(self._experiment, tags={"gpumlp.folder": path, "mlflow.runName": folder.name})
        return str(run.info.run_id)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        for name, value in _numbers(row).items():
            self._client.log_metric(self._run, _plain(name), value, step=row["epoch"])

    def finished(self, summary: Mapping[str, Any]) -> None:
        for name, setting in flatten(summary["settings"]).items():
            self._client.log_param(self._run, _plain(name), str(setting)[:MAX_PARAM_CHARACTERS])
        for name, value in _results(summary).items():
            self._client.log_metric(self._run, _plain(name), value, step=summary["epochs"])
        run_folder = RunFolder(self._folder)
        for each in (run_folder.config, run_folder.summary):
            self._client.log_artifact(self._run, str(each))
        if (model := self._folder / MODEL).is_dir():
            self._client.log_artifacts(self._run, str(model), MODEL)

    def close(self, *, failed: bool) -> None:
        if self._run:
            self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


LOGS: dict[str, type[Log]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""Logs by the names a user knows."""


def log_to(name: str) -> Log:
    """Return a log by its name in ``LOGS``.

    Raises
    ------
    RunError
        If its library is not installed, or its store cannot be reached.
    """
    return LOGS[name]()


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        hint = f"pip install 'gpumlp[{extra}]'"
        raise RunError(f"a log for {extra} needs {module}", where="--log", hint=hint) from None


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what is finite in the row of an epoch, but for its number."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "epoch" and isinstance(value, int | float) and math.isfinite(value)
    }


def _results(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of each part at the end, such as ``test/accuracy``."""
    return {
        f"{part}/{name}": value
        for part, metrics in summary["metrics"].items()
        for name, value in _numbers(metrics).items()
    }


def _grouped(name: str) -> str:
    """Return a name by which TensorBoard draws training and validation beside each other: ``loss/train``."""
    part, _, metric = name.partition("_")
    return f"{metric}/{part}" if part in ("train", "validation") and metric else name


def _plain(name: str) -> str:
    """Return a name in the letters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name.replace("[", "/").replace("]", ""))


def _line_of(error: Exception) -> str:
    """Return the first line of what a library says, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

"""A run: from a configuration to a folder with the model, its history and its results."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpumlp.config import Loaded, dump
from gpumlp.data import Dataset
from gpumlp.errors import RunError
from gpumlp.training.build import Parts, build, load_data
from gpumlp.training.files import Arrays, read_arrays, write_arrays, write_json, write_text
from gpumlp.training.measure import Measurement
from gpumlp.training.saved import save_model
from gpumlp.training.trainer import weights_in_place

CONFIG, HISTORY, SUMMARY, MODEL, CHECKPOINTS = (
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "model",
    "checkpoints",
)
KEPT_CHECKPOINTS = 2
CHECKPOINT_SECONDS = 2.0  # what an interruption may cost at most, besides the epoch it falls into
CHECKPOINT_SHARE = 0.05  # of the time that saving may take, where it is slow


class Listener:
    """Is told how a run goes on. This one says nothing; the command line draws a progress bar."""

    def prepared(self, parts: Parts, folder: Path) -> None:
        """All is built and the first epoch is about to begin."""

    def batch(self, done: int, of: int) -> None:
        """A batch is done."""

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """An epoch is done: ``row`` is its line of metrics.jsonl; ``best`` if it has the best weights so far."""


@dataclass
class Progress:
    """How far a run is and what its best epoch was: all that decides when it ends."""

    epoch: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0

    def observe(self, loss: float, min_delta: float) -> bool:
        """Take note of an epoch's validation loss; tell whether it is the best so far."""
        better = loss < self.best_loss - min_delta or self.best_epoch == 0
        if better:
            self.best_loss, self.best_epoch = loss, self.epoch
        return better


@dataclass(frozen=True)
class Result:
    """What a finished run came to. ``summary`` is the content of summary.json."""

    folder: Path
    summary: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def train(
    loaded: Loaded,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Train as the configuration says and leave everything in ``folder``.

    ``resume`` continues an interrupted run from its last checkpoint and ends where it would have ended;
    ``force`` deletes an earlier run in the folder first.

    Raises RunError where the folder holds a run already, where a run to be resumed had another configuration,
    or where the loss stops being finite; DataError where the data do not fit.
    """
    listener = listener or Listener()
    settings = loaded.settings
    text = dump(settings, folder=loaded.path.resolve().parent)
    _claim(folder, text, resume=resume, force=force)
    if resume and (folder / SUMMARY).exists():
        return Result(folder, json.loads((folder / SUMMARY).read_text()), ("this run is complete already",))

    data = load_data(settings)
    parts = build(settings, data)
    run = _Run(folder, parts, settings.training.early_stopping)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    write_text(folder / CONFIG, text)
    history = run.restore() if resume else []
    write_text(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in history))
    listener.prepared(parts, folder)
    status = run.loop(listener)
    save_model(folder / MODEL, parts.model, parts.hidden, data.encoder, run.best)
    parts.model.load(run.best)
    return Result(folder, run.summarise(status), data.notes)


def _claim(folder: Path, text: str, *, resume: bool, force: bool) -> None:
    """See that the folder may be used; empty it where ``force`` allows that."""
    if resume:
        config = folder / CONFIG
        if not config.exists():
            raise RunError("there is no run to resume", where=str(folder), hint="leave --resume away to start one")
        if config.read_text() != text:
            raise RunError(
                "the run was started with another configuration",
                where=str(config),
                hint=f"resume it as it was: gpumlp train {config} --run-dir {folder} --resume",
            )
    elif folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        if not force:
            raise RunError(
                "the folder is in use",
                where=str(folder),
                hint="choose another --run-dir, continue with --resume, or delete it first with --force",
            )
        if not (folder / CONFIG).exists():
            raise RunError(
                "the folder is not a run, so --force does not delete it",
                where=str(folder),
                hint="choose another --run-dir",
            )
        shutil.rmtree(folder)


class _Run:
    """The loop over epochs, with what it must remember."""

    def __init__(self, folder: Path, parts: Parts, stopping: Any) -> None:
        self.folder, self.parts, self.stopping = folder, parts, stopping
        self.progress = Progress()
        self.best: Arrays = parts.model.arrays()
        self.validation = self._measurement(parts.data.validation)
        self._checkpoint_due = time.monotonic() + CHECKPOINT_SECONDS

    def loop(self, listener: Listener) -> str:
        """Train until the epochs are over or early stopping says so; return the status of the run."""
        trainer = self.parts.trainer
        while self.progress.epoch < trainer.epochs:
            if self._should_stop():
                return "stopped early"
            report = trainer.run_epoch(lambda done: listener.batch(done, trainer.batches))
            if not math.isfinite(report.loss):
                raise RunError(
                    f"the training loss became {report.loss} in epoch {report.epoch}",
                    where=str(self.folder),
                    hint="try a lower optimizer.learning_rate, optimizer.clip_norm: 1, or schedule.warmup: 0.05; "
                    "the run's checkpoints hold the epochs before",
                )
            self.progress.epoch, self.progress.seconds = report.epoch, self.progress.seconds + report.seconds
            row: dict[str, Any] = {"epoch": report.epoch, "seconds": report.seconds, "train_loss": report.loss}
            if report.accuracy is not None:
                row["train_accuracy"] = report.accuracy
            best = self._validate(row)
            row["learning_rate"] = report.learning_rate
            with (self.folder / HISTORY).open("a") as file:
                file.write(json.dumps(row) + "\n")
            if time.monotonic() >= self._checkpoint_due:
                self._save_checkpoint()
            listener.epoch(row, best)
        return "completed"

    def _validate(self, row: dict[str, Any]) -> bool:
        """Evaluate the weights of the moment; keep them if they are the best. Without validation: the last."""
        parts = self.parts
        weights = parts.optimizer.best_weights
        better = True
        if self.validation is not None:
            with weights_in_place(parts.model, weights):
                measured = self.validation()
            row |= {f"validation_{name}": value for name, value in measured.items()}
            better = self.progress.observe(measured["loss"], self.stopping.min_delta if self.stopping else 0.0)
            parts.schedule.observe(measured["loss"])
        else:
            self.progress.best_epoch = self.progress.epoch
        if better:
            self.best = parts.model.arrays(weights)
        return better

    def _should_stop(self) -> bool:
        if self.stopping is None or self.validation is None:
            return False
        return self.progress.epoch >= self.progress.best_epoch + int(self.stopping.patience)

    # ---- what is written ------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        started = time.monotonic()
        parts, backend = self.parts, self.parts.backend
        arrays = {f"model/{k}": v for k, v in parts.model.arrays().items()}
        arrays |= {f"best/{k}": v for k, v in self.best.items()}
        arrays |= {f"optimizer/{k}": backend.to_host(v) for k, v in parts.optimizer.state.items()}
        meta = {"progress": asdict(self.progress), "schedule": parts.schedule.state}
        folder = self.folder / CHECKPOINTS
        write_arrays(folder / f"epoch-{self.progress.epoch:06d}.safetensors", arrays, meta)
        for old in sorted(folder.glob("epoch-*.safetensors"))[:-KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        ended = time.monotonic()
        self._checkpoint_due = ended + max(CHECKPOINT_SECONDS, (ended - started) / CHECKPOINT_SHARE)

    def restore(self) -> list[dict[str, Any]]:
        """Go back to the last whole checkpoint; return the history up to there."""
        for path in sorted((self.folder / CHECKPOINTS).glob("epoch-*.safetensors"), reverse=True):
            try:
                arrays, meta = read_arrays(path)
            except RunError:
                continue  # cut short or damaged: the one before it will do
            self._put(arrays, meta)
            lines = (self.folder / HISTORY).read_text().splitlines()
            return [json.loads(line) for line in lines[: self.progress.epoch]]
        return []

    def _put(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        parts = self.parts
        groups: dict[str, Arrays] = {"model": {}, "best": {}, "optimizer": {}}
        for name, array in arrays.items():
            group, _, key = name.partition("/")
            groups[group][key] = array
        parts.model.load(groups["model"])
        for name, target in parts.optimizer.state.items():
            parts.backend.write(target, groups["optimizer"][name])
        self.best = groups["best"]
        self.progress = Progress(**meta["progress"])
        parts.schedule.state = meta["schedule"]
        parts.trainer.epoch = self.progress.epoch

    def summarise(self, status: str) -> dict[str, Any]:
        """Measure the kept weights on every part of the data and write summary.json."""
        parts, seen = self.parts, self.progress.epoch * self.parts.trainer.rows
        measured = {}
        for name in ("train", "validation", "test"):
            measurement = self._measurement(getattr(parts.data, name))
            if measurement is not None:
                measured[name] = measurement()
        summary = {
            "status": status,
            "epochs": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
            "seconds": self.progress.seconds,
            "samples_per_second": seen / self.progress.seconds if self.progress.seconds else None,
            "backend": parts.backend.name,
            "parameters": len(parts.model.parameters),
            "metrics": measured,
        }
        write_json(self.folder / SUMMARY, summary)
        return summary

    def _measurement(self, data: Dataset | None) -> Measurement | None:
        return None if data is None else Measurement(self.parts.model, self.parts.loss, data, self.parts.data.encoder)

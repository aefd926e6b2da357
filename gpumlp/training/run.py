"""A run: from a configuration to a folder with the model, its history and its results."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpumlp.config import EarlyStopping, Loaded, dump
from gpumlp.data import Dataset
from gpumlp.errors import RunError
from gpumlp.training.build import Parts, build, load_data
from gpumlp.training.files import Arrays, json_line, read_arrays, read_json, write_arrays, write_json
from gpumlp.training.folder import MODEL, RunFolder
from gpumlp.training.measure import Measurement
from gpumlp.training.saved import save_model
from gpumlp.training.trainer import weights_in_place

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
    folder: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Train as the configuration says and leave everything in ``folder``.

    ``resume`` continues an interrupted run from its last checkpoint and ends where it would have ended;
    ``force`` replaces an earlier run in the folder. Nothing is written or deleted before data and
    configuration have been found good.

    Raises RunError where the folder is in use, where a run to be resumed had another configuration or other
    data, or where the loss stops being finite; DataError where the data do not fit.
    """
    listener = listener or Listener()
    place = RunFolder(Path(folder))
    existed = place.path.exists()
    text = dump(loaded.settings, folder=loaded.path.resolve().parent)
    if resume:
        place.check_resumable(text)
        if place.summary.exists():
            return Result(place.path, read_json(place.summary), ("this run is complete already",))
    else:
        place.check_free(force=force)
    parts = build(loaded.settings, load_data(loaded))
    run = _Run(place, parts, loaded.settings.training.early_stopping)
    history = run.restore() if resume else []
    place.prepare(text, "".join(json_line(row) for row in history), existed=existed)
    listener.prepared(parts, place.path)
    return Result(place.path, run.finish(run.loop(listener)))


class _Run:
    """The loop over epochs, with what it must remember."""

    def __init__(self, folder: RunFolder, parts: Parts, stopping: EarlyStopping | None) -> None:
        self.folder, self.parts, self.stopping = folder, parts, stopping
        self.progress = Progress()
        self.best: Arrays = parts.model.arrays()
        validation = parts.data.validation
        self.validation = None if validation is None else self._measurement(validation)
        self._checkpoint_due = time.monotonic() + CHECKPOINT_SECONDS

    def loop(self, listener: Listener) -> str:
        """Train until the epochs are over or early stopping says so; return the status of the run."""
        trainer, progress = self.parts.trainer, self.progress
        while progress.epoch < trainer.epochs:
            if self._should_stop():
                return "stopped early"
            report = trainer.run_epoch(lambda done: listener.batch(done, trainer.batches))
            row: dict[str, Any] = {"epoch": report.epoch, "seconds": report.seconds, "train_loss": report.loss}
            if report.accuracy is not None:
                row["train_accuracy"] = report.accuracy
            measured = self._validate()
            row |= {f"validation_{name}": value for name, value in measured.items()}
            row["learning_rate"] = report.learning_rate
            self._check_finite(row)
            progress.epoch, progress.seconds = report.epoch, progress.seconds + report.seconds
            best = self._keep_best(measured)
            with self.folder.history.open("a", encoding="utf-8") as file:
                file.write(json_line(row))
            if time.monotonic() >= self._checkpoint_due:
                self._save_checkpoint()
            listener.epoch(row, best)
        return "completed"

    def _validate(self) -> dict[str, float]:
        """Measure the weights of the moment, or their average, on the validation rows if there are any."""
        if self.validation is None:
            return {}
        with weights_in_place(self.parts.model, self.parts.optimizer.weights):
            return self.validation()

    def _keep_best(self, measured: dict[str, float]) -> bool:
        """Keep the weights if they are the best so far; without validation rows the last are."""
        better = True
        if measured:
            better = self.progress.observe(measured["loss"], self.stopping.min_delta if self.stopping else 0.0)
            self.parts.schedule.observe(measured["loss"])
        else:
            self.progress.best_epoch = self.progress.epoch
        if better:
            self.best = self.parts.model.arrays(self.parts.optimizer.weights)
        return better

    def _check_finite(self, row: dict[str, Any]) -> None:
        """Stop where the network has come apart; what was best before is kept."""
        broken = next((k for k in ("train_loss", "validation_loss") if not math.isfinite(row.get(k, 0.0))), None)
        if broken is None and self.parts.model.parameters.are_finite():
            return
        what = f"the {broken.replace('_', ' ')} became {row[broken]}" if broken else "a weight is no longer finite"
        kept = "no epoch before it is worth keeping"
        if self.progress.best_epoch:
            self.finish("diverged")
            kept = f"the weights of epoch {self.progress.best_epoch} are kept in {self.folder.path / MODEL}"
        raise RunError(
            f"{what} in epoch {row['epoch']}; {kept}",
            where=str(self.folder.path),
            hint="try a lower optimizer.learning_rate, optimizer.clip_norm=1, or schedule.warmup=0.05",
        )

    def _should_stop(self) -> bool:
        if self.stopping is None or self.validation is None:
            return False
        return self.progress.epoch >= self.progress.best_epoch + self.stopping.patience

    def finish(self, status: str) -> dict[str, Any]:
        """Write the model with its best weights, measure it on every part of the data, write summary.json."""
        parts, progress = self.parts, self.progress
        save_model(self.folder.path / MODEL, parts.model, parts.hidden, parts.data.encoder, self.best)
        parts.model.load(self.best)
        seconds = progress.seconds
        summary = {
            "status": status,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "seconds": seconds,
            "samples_per_second": progress.epoch * parts.trainer.rows / seconds if seconds else None,
            "backend": parts.backend.name,
            "parameters": len(parts.model.parameters),
            "data": parts.data.fingerprint,
            "metrics": {name: self._measurement(part)() for name, part in parts.data.parts.items()},
        }
        write_json(self.folder.summary, summary)
        return summary

    # ---- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        started = time.monotonic()
        parts, backend = self.parts, self.parts.backend
        arrays = {f"model/{k}": v for k, v in parts.model.arrays().items()}
        arrays |= {f"best/{k}": v for k, v in self.best.items()}
        arrays |= {f"optimizer/{k}": backend.to_host(v) for k, v in parts.optimizer.state.items()}
        meta = {
            "progress": asdict(self.progress),
            "schedule": parts.schedule.state,
            "data": parts.data.fingerprint,
            "backend": backend.name,
        }
        write_arrays(self.folder.checkpoint(self.progress.epoch), arrays, meta)
        for old in self.folder.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
        ended = time.monotonic()
        self._checkpoint_due = ended + max(CHECKPOINT_SECONDS, (ended - started) / CHECKPOINT_SHARE)

    def restore(self) -> list[dict[str, Any]]:
        """Go back to the last whole checkpoint; return the history up to there."""
        for path in self.folder.checkpoints():
            try:
                arrays, meta = read_arrays(path)
            except RunError:
                continue  # cut short or damaged: the one before it will do
            if meta["data"] != self.parts.data.fingerprint:
                raise RunError(
                    "the data have changed since the run began, so it cannot go on as it would have",
                    where=str(self.folder.path),
                    hint="bring the data back, or start a new run",
                )
            if meta["backend"] != self.parts.backend.name:
                raise RunError(
                    f"the run was computed by {meta['backend']}; by {self.parts.backend.name} it would end otherwise",
                    where=str(self.folder.path),
                    hint=f"bring {meta['backend']} back (gpumlp doctor tells what it lacks), or start a new run",
                )
            self._put(arrays, meta)
            return self.folder.read_history(self.progress.epoch)
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

    def _measurement(self, data: Dataset) -> Measurement:
        return Measurement(self.parts.model, self.parts.loss, data, self.parts.data.encoder)

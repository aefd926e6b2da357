"""A run: from a configuration to a folder with the model, its history and its results."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpumlp.config import Loaded, Training, dump
from gpumlp.data import Dataset
from gpumlp.errors import DamageError, RunError, SignalError, WriteError
from gpumlp.runs.folder import DIVERGED, MODEL, RunFolder
from gpumlp.runs.model import save_model
from gpumlp.runs.signals import Signals, signals
from gpumlp.store.formats import (
    Arrays,
    json_line,
    read_arrays,
    write_arrays,
    write_json,
)
from gpumlp.training.build import Parts, build, load_data, lone_row
from gpumlp.training.measure import Measurement, constant_loss
from gpumlp.training.trainer import EpochReport, weights_in_place

FORMAT = 1  # of checkpoints
KEPT_CHECKPOINTS = 3
CHECKPOINT_SECONDS = 2.0  # what an interruption may cost at most, besides the epoch it falls into
CHECKPOINT_SHARE = 0.05  # of the time that saving may take, where it is slow
NOTHING_KEPT = "no epoch before it is worth keeping"
REMEDY = "try a lower optimizer.learning_rate, optimizer.clip_norm=1, or schedule.warmup=0.05"

log = logging.getLogger(__name__)


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
    """How many epochs a run has done and which was the best: all that decides when it ends."""

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

    ``resume`` continues an interrupted run from its last checkpoint and ends where it would have ended; where
    no run has begun yet, it begins. ``force`` replaces an earlier run in the folder. Nothing is written or deleted
    before data and configuration have been found good.

    Raises RunError where the folder is in use or cannot be written, where a run to be resumed had another
    configuration or other data, or where the loss stops being finite; DataError where the data do not fit;
    SignalError where SIGINT or SIGTERM arrives: in training after the step of the moment, which is saved.
    """
    listener = listener or Listener()
    place = RunFolder(Path(folder))
    existed = place.path.exists()
    text = dump(loaded.settings, folder=loaded.path.resolve().parent)
    if resume and not place.is_run:
        log.info("there is no run in %s yet: it begins", place.path)
        resume = False
    if resume:
        place.check_resumable(loaded.settings)
        if place.summary.exists():
            return _finished(place)
    else:
        place.check_free(force=force)
    with signals() as watched:
        parts = build(loaded.settings, load_data(loaded))
        run = _Run(place, parts, loaded.settings.training, watched)
        history = run.restore() if resume else None
        lines = None if history is None else "".join(json_line(row) for row in history)
        place.prepare(text, lines, existed=existed)
        if doubt := lone_row(parts):
            log.warning(doubt)
        listener.prepared(parts, place.path)
        try:
            summary = run.finish(run.loop(listener))
            return Result(place.path, summary, run.doubts(summary["metrics"]["train"]["loss"]))
        except WriteError as error:
            hint = f"mend that, then go on: {place.resume_command}"
            raise WriteError(error.what, where=error.where, hint=hint) from None


def _finished(place: RunFolder) -> Result:
    """Return what a run that has ended came to. Raises RunError where it came apart."""
    summary = place.read_summary()
    if summary["status"] == DIVERGED:
        what = f"this run came apart, and would again: {summary.get('reason')}"
        raise RunError(what, where=str(place.path), hint=f"{REMEDY}, in another folder or with --force")
    return Result(place.path, summary, ("this run is complete already",))


class _Run:
    """The loop over epochs, with what it must remember."""

    def __init__(self, folder: RunFolder, parts: Parts, settings: Training, watched: Signals) -> None:
        self.folder, self.parts, self.signals = folder, parts, watched
        self.stopping, self.every = settings.early_stopping, settings.checkpoint_every
        self.progress = Progress()
        self.best: Arrays = parts.model.arrays()
        validation = parts.data.validation
        self.validation = None if validation is None else self._measurement(validation)
        self._checkpoint_due = time.monotonic() + CHECKPOINT_SECONDS

    def loop(self, listener: Listener) -> str:
        """Train until the epochs are over or early stopping says so; return the status of the run."""
        trainer, progress = self.parts.trainer, self.progress
        self.signals.hold = True
        while progress.epoch < trainer.epochs:
            if self._should_stop():
                return "stopped early"
            self._end_if_asked()
            report = self._train_epoch(listener)
            row: dict[str, Any] = {"epoch": report.epoch, "seconds": report.seconds, "train_loss": report.loss}
            if report.accuracy is not None:
                row["train_accuracy"] = report.accuracy
            measured = self._validate()
            row |= {f"validation_{name}": value for name, value in measured.items()}
            row["learning_rate"] = report.learning_rate
            self._check_finite(row)
            progress.epoch, progress.seconds = report.epoch, progress.seconds + report.seconds
            best = self._keep_best(measured)
            self.folder.add_to_history(row)
            if time.monotonic() >= self._checkpoint_due or self._is_due(trainer.steps):
                self._save_checkpoint()
            listener.epoch(row, best)
        return "completed"

    def _train_epoch(self, listener: Listener) -> EpochReport:
        """Train to the end of the epoch, and save on the way what is to be saved."""
        trainer, signals = self.parts.trainer, self.signals
        batches, every = trainer.batches, self.every
        first = trainer.epoch * batches

        def pauses(done: int) -> bool:  # for every step, so it looks up little
            listener.batch(done, batches)
            return signals.received is not None or (every is not None and (first + done) % every == 0)

        while (report := trainer.run_epoch(pauses, every=every)) is None:
            if self._is_due(trainer.steps):
                self._save_checkpoint()
            self._end_if_asked()
        return report

    def _is_due(self, steps: int) -> bool:
        """Tell whether so many steps are a whole number of times the steps between two checkpoints."""
        return self.every is not None and steps % self.every == 0

    def _end_if_asked(self) -> None:
        """Save and raise SignalError if a signal has arrived."""
        if self.signals.received is not None:
            self._save_checkpoint()
            raise SignalError(self.signals.received)

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
        reason = f"{what} in epoch {row['epoch']}"
        self.finish(DIVERGED, reason=reason)
        best = self.progress.best_epoch
        kept = f"the weights of epoch {best} are kept in {self.folder.path / MODEL}" if best else NOTHING_KEPT
        raise RunError(f"{reason}; {kept}", where=str(self.folder.path), hint=REMEDY)

    def _should_stop(self) -> bool:
        if self.stopping is None or self.validation is None:
            return False
        return self.progress.epoch >= self.progress.best_epoch + self.stopping.patience

    def finish(self, status: str, **more: str) -> dict[str, Any]:
        """Write the model with its best weights, measure it on every part of the data, write summary.json.

        Where no epoch was worth keeping there is no model, and nothing to measure.
        """
        parts, progress = self.parts, self.progress
        measured = parts.data.parts if progress.best_epoch else {}
        if measured:
            save_model(self.folder.path / MODEL, parts.model, parts.hidden, parts.data.encoder, self.best)
            parts.model.load(self.best)
        seconds, steps = progress.seconds, progress.epoch * parts.trainer.batches
        summary = {
            "status": status,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "seconds": seconds,
            "seconds_per_step": seconds / steps if steps else None,
            "samples_per_second": progress.epoch * parts.trainer.rows / seconds if seconds else None,
            "backend": parts.backend.name,
            "device": parts.backend.device_name,
            "device_memory": parts.backend.memory_held,
            "parameters": len(parts.model.parameters),
            "data": parts.data.fingerprint,
            "metrics": {name: self._measurement(part)() for name, part in measured.items()},
            **more,
        }
        write_json(self.folder.summary, summary)
        return summary

    def doubts(self, reached: float) -> tuple[str, ...]:
        """Return a note if the loss reached on the training rows takes no network, and what may be the cause."""
        parts, trainer = self.parts, self.parts.trainer
        constant = constant_loss(parts.model, parts.loss, parts.data.train, parts.data.encoder)
        if reached < constant:
            return ()
        answer = "the shares of the classes" if parts.data.encoder.classes else "the mean"
        steps, best = self.progress.epoch * trainer.batches, self.progress.best_epoch
        advice = (
            f"after {steps:,} step{'s' * (steps != 1)} this may take more training.epochs, a smaller "
            "training.batch_size or a higher optimizer.learning_rate"
        )
        if best < self.progress.epoch:  # it went on, but no better on rows that it was not trained on
            advice = f"the validation loss was lowest after epoch {best}, so the inputs may say nothing of the target"
        return (
            f"the network has learnt nothing: its loss on the training rows is {reached:.4g}, and that of always "
            f"answering {answer} is {constant:.4g}; {advice}",
        )

    # ---- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        started = time.monotonic()
        parts, trainer, backend = self.parts, self.parts.trainer, self.parts.backend
        arrays = {f"model/{k}": v for k, v in parts.model.arrays().items()}
        arrays |= {f"best/{k}": v for k, v in self.best.items()}
        arrays |= {f"optimizer/{k}": backend.to_host(v) for k, v in parts.optimizer.state.items()}
        arrays["trainer/totals"] = backend.to_host(trainer.totals)
        meta = {
            "format": FORMAT,
            "progress": asdict(self.progress),
            "trainer": {"epoch": trainer.epoch, "batch": trainer.batch, "seconds": trainer.seconds},
            "schedule": parts.schedule.state,
            "data": parts.data.fingerprint,
            "backend": backend.name,
        }
        self.folder.flush_history()
        write_arrays(self.folder.checkpoint(trainer.steps), arrays, meta)
        self.folder.keep_checkpoints(KEPT_CHECKPOINTS)
        ended = time.monotonic()
        self._checkpoint_due = ended + max(CHECKPOINT_SECONDS, (ended - started) / CHECKPOINT_SHARE)

    def restore(self) -> list[dict[str, Any]] | None:
        """Go back to the last whole checkpoint; return the history up to there, or None where there is none."""
        for path in self.folder.checkpoints():
            try:
                arrays, meta = read_arrays(path)
                if meta["format"] != FORMAT:
                    what = f"the checkpoint has format {meta['format']!r}, this gpumlp goes on from {FORMAT}"
                    raise RunError(what, where=str(path), hint="take the gpumlp that the run began with")
                history = self.folder.read_history(meta["progress"]["epoch"])
            except DamageError as error:
                log.warning("%s; going back to the checkpoint before it", error)
                continue
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
            return history
        log.info("there is no checkpoint to go on from: the run begins again")
        return None

    def _put(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        parts = self.parts
        groups: dict[str, Arrays] = {"model": {}, "best": {}, "optimizer": {}, "trainer": {}}
        for name, array in arrays.items():
            group, _, key = name.partition("/")
            groups[group][key] = array
        parts.model.load(groups["model"])
        for name, target in parts.optimizer.state.items():
            parts.backend.write(target, groups["optimizer"][name])
        self.best = groups["best"]
        self.progress = Progress(**meta["progress"])
        parts.schedule.state = meta["schedule"]
        parts.trainer.go_to(**meta["trainer"], totals=groups["trainer"]["totals"])

    def _measurement(self, data: Dataset) -> Measurement:
        return Measurement(self.parts.model, self.parts.loss, data, self.parts.data.encoder)

"""A run: from a configuration to a folder with the model, its history and its results."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpumlp.backend import Backend, CupyBackend
from gpumlp.config import Loaded, Settings, dump
from gpumlp.data import Prepared
from gpumlp.errors import ConfigError, DamageError, Note, RunError, SignalError, WriteError
from gpumlp.metrics import METRICS
from gpumlp.ops.trees import is_power_of_two
from gpumlp.phases import Phases, collected, phase
from gpumlp.ranks import Ranks
from gpumlp.ranks.devices import connect
from gpumlp.runs.checkpoint import Checkpoint
from gpumlp.runs.folder import MODEL, Decided, RunFolder
from gpumlp.runs.identity import decisive, is_extension
from gpumlp.runs.listener import Limited, Listener
from gpumlp.runs.model import SavedModel, load_model, save_model
from gpumlp.runs.signals import Signals, signals
from gpumlp.runs.start import Start, start_of
from gpumlp.store.formats import json_line, write_sealed, writing
from gpumlp.training.build import Parts, backend_of, build, load_data, require_one_run
from gpumlp.training.loop import COMPLETED, DIVERGED, Diverged, Epoch, Loop, Step
from gpumlp.training.measure import constant_loss
from gpumlp.training.members import loop_over

KEPT_CHECKPOINTS = 3
CHECKPOINT_SECONDS = 2.0  # what an interruption may cost at most, besides the epoch it falls into
CHECKPOINT_SHARE = 0.05  # of the time that saving may take, where it is slow
NOTHING_KEPT = "no usable epoch before it"
COMPLETE = Note("this run is already complete")
"""The note on a run that had nothing left to train."""
STOPPED = "stopped"
"""The status in the summary of a run that its listener ended."""
MIN_SHARE_OF_LOG_LOSS = 0.25
"""Share of the validation log-loss that is there because validation rows are few, from which on a note says so."""
MAX_BEST_SHARE = 0.5
"""The best epoch of a run that should have stopped earlier, as a share of all epochs."""
REMEDY = "try a lower optimizer.learning_rate, optimizer.clip_norm=1, or schedule.warmup=0.05"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a finished run came to.

    Parameters
    ----------
    summary
        The content of summary.json.
    notes
        What is worth saying of the data, the settings and the training.
    finished_before
        Whether nothing was left to train.
    """

    folder: Path
    summary: dict[str, Any]
    notes: tuple[Note, ...] = ()
    finished_before: bool = False

    def __repr__(self) -> str:
        about = f"{self.summary['status']} after {self.summary['epochs']:,} epochs"
        return f"<Result: {self.folder}, {about}>"


def train(
    loaded: Loaded,
    folder: str | Path,
    *,
    data: Prepared | None = None,
    resume: bool = False,
    force: bool = False,
    listener: Listener | None = None,
    ranks: Ranks | None = None,
    backend: Backend | None = None,
) -> Result:
    """Train as the configuration says and leave everything in ``folder``.

    ``data`` are the rows where they are prepared already; otherwise the files of the configuration are read.
    ``resume`` continues an interrupted run from its last checkpoint and ends where it would have ended; where
    no run has begun yet, it begins. With more epochs it continues any run, finished or not: from there on the
    schedules are those of a run of that many epochs, and ``extensions`` of the summary has where. ``force`` replaces
    an earlier run in the folder. Nothing is written or deleted before data and configuration have been found good.
    ``ranks`` are the processes that train together, each of which calls this; the first one writes, and returns what
    the run came to. ``backend`` computes in place of that of the settings, of which it is one.

    Raises RunError where the folder is in use or cannot be written, where a run to be resumed had another
    configuration or other data, or where the loss stops being finite; DataError where the data do not fit;
    SignalError where SIGINT or SIGTERM arrives: in training after the step of the moment, which is saved.

    Parameters
    ----------
    loaded
        The configuration.
    folder
        Folder of the run; made if it is not there.
    data
        The encoded parts, where they are read already.
    resume
        Whether to go on from the last checkpoint.
    force
        Whether to replace a run that is there.
    listener
        Is called between steps and epochs.
    ranks
        Ranks that train the network together.
    backend
        In place of that of the settings.

    Returns
    -------
    Result
        What is in ``summary.json``, and notes.
    """
    listener, ranks = listener or Listener(), ranks or Ranks()
    _require_for_ranks(loaded, ranks.size)
    require_one_run(loaded)
    if (seconds := loaded.settings.time_limit) is not None:
        listener = Limited(listener, seconds)
    run_folder = RunFolder(Path(folder))
    existed = run_folder.path.exists()
    resume, decided, done = ranks.of_first(lambda: _begin(run_folder, loaded, ranks, resume=resume, force=force))
    if done is not None:
        return done
    loaded = replace(loaded, settings=decided.put(loaded.settings))
    with signals(ranks) as watched, collected() as phases, ExitStack() as until_end:
        backend, notes = _backend_of(loaded, ranks) if backend is None else (backend, ())
        start, parts = ranks.agree(lambda: _parts(loaded, data, backend, ranks))
        _require_alike(parts, ranks)
        parts = replace(parts, notes=(*loaded.notes, *parts.notes, *notes))
        decided = decided._replace(window=parts.data.window, shift=parts.shift)
        decided = decided.or_else(Decided(members=parts.architecture.heads))
        settings = decided.put(loaded.settings)
        loop = loop_over(parts, every=settings.training.checkpoint_every)
        run = _Run(run_folder, loop, settings, watched, phases, ranks)
        run.start = start.record
        if start.model is not None:
            run.notes = (Note(f"starts from the best weights of {start.path}"),)
        text = dump(settings, folder=loaded.path.resolve().parent)
        checkpoint = ranks.of_first(lambda: run.open(text, until_end, resume=resume, existed=existed))
        if not ranks.first:
            if checkpoint is not None:
                checkpoint.put(run.loop)
            return run.follow()
        try:
            before = (*parts.notes, *run.notes)
            for note in before:
                listener.note(note)
            listener.prepared(parts, run_folder.path)
            summary, notes = run.finish(run.train(listener))
            for note in notes:
                listener.note(note)
            return Result(run_folder.path, summary, (*before, *run.loop.notes, *notes))
        except WriteError as error:
            raise run_folder.resumable(error) from None


def _begin(
    folder: RunFolder, loaded: Loaded, ranks: Ranks, *, resume: bool, force: bool
) -> tuple[bool, Decided, Result | None]:
    """Return whether there is a run to resume, what is decided, and the result of one that has ended."""
    with writing(folder.path):
        folder.recover()
    resume = resume and folder.is_run
    before = folder.decided if resume else Decided(ranks.size if ranks.size > 1 else None)
    decided = Decided.of(loaded.settings).or_else(before)
    _check_ranks(loaded, decided.shards or 1, ranks.size)
    settings = decided.put(loaded.settings)
    if not resume:
        folder.check_free(force=force)
        return resume, decided, None
    folder.check_resumable(settings)
    return resume, decided, _finished(folder, settings) if folder.summary.exists() else None


def _require_for_ranks(loaded: Loaded, ranks: int) -> None:
    """Raise ConfigError where settings ask for what one process does, and there are several."""
    settings = loaded.settings
    for name, is_asked, message, instead in (
        ("time_limit", settings.time_limit is not None, "a time limit is for", "remove it"),
        ("bag", settings.bag > 1, "the networks of a bag are trained by", "set bag: 1"),
        (
            *("members", settings.members.apart > 1, "several networks of their own are trained by"),
            "set members: 1, or members.share to hidden or weights",
        ),
    ):
        if is_asked and ranks > 1:
            message = f"{message} one process, and there are {ranks} ranks"
            raise ConfigError(message, where=loaded.where(name), hint=f"start it without mpirun, or {instead}")


def _check_ranks(loaded: Loaded, shards: int, ranks: int) -> None:
    """Raise ConfigError unless so many ranks can share the shards of a batch."""
    if ranks > 1 and (shards % ranks or not is_power_of_two(shards)):
        below, above = 1 << ranks.bit_length() - 1, 1 << (ranks - 1).bit_length()
        if not is_power_of_two(shards):  # none were set: one for each rank
            message, hint = (
                f"{ranks} ranks are not a power of two, as the shards of a batch are",
                f"{below} or {above}",
            )
        else:
            message = f"{ranks} ranks cannot share {shards} shard{'s' * (shards != 1)}: their number must divide them"
            hint = " or ".join(str(each) for each in sorted({below, above}) if each <= shards) or f"{shards}"
        hint = "start it without mpirun" if hint == "1" else f"start {hint} ranks"
        hint += f", or set training.shards to {above}"
        raise ConfigError(message, where=loaded.where("training.shards"), hint=hint)


def _backend_of(loaded: Loaded, ranks: Ranks) -> tuple[Backend | None, tuple[Note, ...]]:
    """Return the backend that several ranks compute on, with notes; None to let one find its own."""
    if ranks.size == 1:
        return None, ()
    backend = ranks.agree(lambda: backend_of(loaded.settings, turn=ranks.local))
    ranks.require_alike("backend", backend.name, "set backend, or install a compiler on each machine")
    note = connect(ranks, backend) if isinstance(backend, CupyBackend) else None
    return backend, () if note is None else (note,)


def _parts(loaded: Loaded, data: Prepared | None, backend: Backend | None, ranks: Ranks) -> tuple[Start, Parts]:
    """Read the data and build what trains on them."""
    start = start_of(loaded)
    if data is None:
        data = load_data(loaded, start.encoder)
    start.check_encoding(data)
    # Its checksum is computed beside what follows, which leaves a core idle.
    threading.Thread(target=lambda: data.fingerprint, daemon=True).start()
    return start, build(loaded.settings, data, backend, weights=start.weights, ranks=ranks)


def _require_alike(parts: Parts, ranks: Ranks) -> None:
    """Raise RunError where ranks have read different data."""
    hint = "give every rank the same files, at the same path"
    if ranks.size > 1:
        ranks.require_alike("data set", f"with fingerprint {parts.data.fingerprint}", hint)
        ranks.require_alike("training.shift", parts.shift, "set training.shift, which auto takes from the memory")


def _finished(folder: RunFolder, settings: Settings) -> Result | None:
    """Return what a run that has ended came to, once its files have been found as it left them; None to extend it.

    Raises RunError where they are not, or where the run diverged.
    """
    try:
        summary = folder.read_summary()
    except DamageError as error:
        raise _unlike(folder, error) from None
    folder.check_settings(summary["settings"], settings)
    if summary["status"] == DIVERGED:
        message = f"this run diverged ({summary.get('reason')}); resuming would diverge again"
        raise RunError(message, where=str(folder.path), hint=f"{REMEDY}, in another folder or with --force")
    try:
        folder.read_history(summary["epochs"], summary["history"])
        load_model(folder.path / MODEL, Backend(), checksum=summary["model"])
    except RunError as error:
        raise _unlike(folder, error) from None
    if is_extension(summary["settings"], settings):
        return None
    return Result(folder.path, summary, (COMPLETE,), finished_before=True)


def _unlike(folder: RunFolder, error: RunError) -> RunError:
    """Return the error of a run that is complete, but has a file that is not as the run left it."""
    hint = f"delete {folder.summary}, then resume to train the missing part: {folder.resume_command}"
    return RunError(f"{error.what}; the run was complete", where=error.where, hint=hint)


class _Run:
    """A loop, and what a folder keeps of it: history, checkpoints, the model. Signals end it between two steps."""

    def __init__(
        self,
        folder: RunFolder,
        loop: Loop,
        settings: Settings,
        watched: Signals,
        phases: Phases,
        ranks: Ranks,
    ) -> None:
        self.folder, self.loop, self.settings, self.signals = folder, loop, settings, watched
        self.phases, self.ranks = phases, ranks
        self.history = hashlib.sha256()  # of the lines of the history so far
        self._checkpoint_due = time.monotonic() + CHECKPOINT_SECONDS
        self.notes: tuple[Note, ...] = ()  # on how it goes on from a checkpoint
        self._last: float | None = None  # what the metric of the validation rows was after the last epoch
        self.extensions: tuple[dict[str, int], ...] = ()
        self.start: dict[str, str] | None = None
        self.restored: Checkpoint | None = None  # what it goes on from

    def train(self, listener: Listener) -> str:
        """Train until the loop ends or the listener ends it; return the status of the run."""
        loop = self.loop
        self.signals.hold = True
        for event in loop:
            if isinstance(event, Step):
                for batch in range(event.first, event.last + 1):
                    listener.batch(batch, event.batches)
                if event.last < event.batches:
                    self._between_steps()
            elif isinstance(event, Epoch):
                self._last = event.row.get(f"validation_{loop.parts.metric}")
                self.history.update(self.folder.add_to_history(event.row).encode())
                if time.monotonic() >= self._checkpoint_due or self._is_due():
                    self._save_checkpoint()
                for note in event.notes:
                    listener.note(note)
                if listener.epoch(event.row, event.best):
                    self._save_end()
                    return loop.status or STOPPED
                if loop.status is None:
                    self._end_if_asked()
            else:
                self._give_up(event)
        assert loop.status is not None
        self._save_end()
        return loop.status

    def open(self, config: str, until_end: ExitStack, *, resume: bool, existed: bool) -> Checkpoint | None:
        """Make the folder ready and hold it, and go back to its last checkpoint to resume; return that."""
        folder = self.folder
        try:
            folder.check_unused()
            lines = self.restore() if resume else None
            if resume and folder.summary.exists():
                if lines is None:
                    hint = f"start another run from its model: --set model.start_from={folder.path}"
                    raise RunError(
                        "there is no checkpoint to extend this run from", where=str(folder.path), hint=hint
                    )
                folder.reopen()
            elif resume and lines is None:
                log.info("no checkpoint to resume from: the run starts again")
            folder.prepare(config, lines, existed=existed)
            until_end.enter_context(folder.held())
        except WriteError as error:
            raise folder.resumable(error) from None
        return self.restored

    def follow(self) -> Result:
        """Train as the first rank does, which writes what there is to write."""
        loop = self.loop
        self.signals.hold = True
        for event in loop:
            more = event.last < event.batches if isinstance(event, Step) else loop.status is None
            if more:
                self._end_if_asked()
        if loop.progress.best_epoch:  # as long as the first rank does, so that nobody waits
            loop.calibration()
            loop.scores()
            loop.measure()
        self.ranks.barrier()
        if loop.diverged is not None:
            raise RunError(loop.diverged.reason)
        return Result(self.folder.path, {})

    def _save_end(self) -> None:
        """Save where training ended, unless it has been: a run may be given more epochs later."""
        if not self.folder.checkpoint(self.loop.steps).exists():
            self._save_checkpoint()

    def _between_steps(self) -> None:
        """Save what is due, in the middle of an epoch."""
        if self._is_due():
            self._save_checkpoint()
        self._end_if_asked()

    def _is_due(self) -> bool:
        """Return whether the steps done are a whole number of times those between two checkpoints."""
        return self.loop.every is not None and self.loop.steps % self.loop.every == 0

    def _end_if_asked(self) -> None:
        """Save and raise SignalError if a signal has arrived."""
        if self.signals.received is not None:
            if self.ranks.first:
                self._save_checkpoint()
            self.ranks.barrier()
            raise SignalError(self.signals.received)

    def _give_up(self, event: Diverged) -> None:
        """Keep what was best before the network diverged, and raise RunError."""
        self.finish(DIVERGED, reason=event.reason)
        best = self.loop.progress.best_epoch
        outcome = f"the weights of epoch {best} are kept in {self.folder.path / MODEL}" if best else NOTHING_KEPT
        raise RunError(f"{event.reason}; {outcome}", where=str(self.folder.path), hint=REMEDY)

    def finish(self, status: str, **more: str) -> tuple[dict[str, Any], tuple[Note, ...]]:
        """Write the model with its best weights, measure it on every part of the data, write summary.json.

        Returns the summary, and notes on the result. Where no epoch was worth keeping there is no model, and nothing
        to measure.
        """
        loop, parts, progress = self.loop, self.loop.parts, self.loop.progress
        model = None
        if progress.best_epoch:
            trained = SavedModel(
                parts.data.encoder,
                parts.model,
                parts.architecture,
                calibration=loop.calibration(),
                scores=loop.scores(),
            )
            model = save_model(self.folder.path / MODEL, trained, loop.best)
        metrics = loop.measure() if progress.best_epoch else {}
        notes = self._on_result(metrics) if metrics else ()
        seconds, steps = progress.seconds, progress.epoch * parts.trainer.batches
        summary = {
            "status": status,
            "epochs": progress.epoch,
            "planned_epochs": parts.trainer.epochs,
            "best_epoch": progress.best_epoch,
            "metric": parts.metric if parts.data.validation else None,
            "seconds": seconds,
            "seconds_per_step": seconds / steps if steps else None,
            "samples_per_second": progress.epoch * parts.trainer.rows / seconds if seconds else None,
            "backend": parts.backend.name,
            "device": parts.backend.device_name,
            "device_memory": parts.backend.memory_held,
            "parameters": parts.model.size,
            "data": parts.data.fingerprint,
            "metrics": metrics,
            "phases": dict(self.phases.seconds),
            "notes": [note.to_json() for note in (*parts.notes, *loop.notes, *notes)],
            **loop.outcome,
            **({} if self.start is None else {"start": self.start}),
            **({"extensions": list(self.extensions)} if self.extensions else {}),
            **more,
            "settings": decisive(self.settings),
            "model": model,
            "history": self.history.hexdigest(),
        }
        sealed = write_sealed(self.folder.summary, summary)
        self.ranks.barrier()
        return sealed, notes

    def _on_result(self, metrics: Mapping[str, Mapping[str, float]]) -> tuple[Note, ...]:
        """Return notes on the result, given the metrics of each part."""
        if (useless := self._no_better_than_constant(metrics["train"]["loss"])) is not None:
            return (useless,)
        return tuple(note for note in (self._wasted(), self._on_probabilities(metrics)) if note is not None)

    def _on_probabilities(self, metrics: Mapping[str, Mapping[str, float]]) -> Note | None:
        """Return a note where the validation rows are too few, or too badly predicted, for probabilities."""
        calibration, classes = self.loop.calibration(), self.loop.parts.data.encoder.classes
        if calibration is None or classes is None:
            return None
        rows = f"{len(self.loop.parts.choice or ()):,} validation rows"
        if calibration.is_flat:
            message = f"all probabilities are nearly the same, as the network is worse than that on the {rows}"
            return Note(f"{message}; train longer, or set more rows (data.split.validation) or calibration: none")
        least = calibration.least_log_loss(len(classes))
        if least < MIN_SHARE_OF_LOG_LOSS * metrics["validation"]["log_loss"]:
            return None
        message = f"log-loss cannot fall below {least:.2g}: with {rows}, calibration keeps probabilities from 0 and 1"
        return Note(message)

    def _no_better_than_constant(self, reached: float) -> Note | None:
        """Return a note if no network is needed for the training loss reached."""
        parts, trainer = self.loop.parts, self.loop.parts.trainer
        constant = constant_loss(parts.model, parts.loss, parts.data.train, parts.data.encoder)
        if reached < constant:
            return None
        encoder = parts.data.encoder
        answer = (
            "class frequencies"
            if encoder.task != "regression"
            else "the quantiles of all rows"
            if encoder.levels
            else "the mean"
        )
        steps, best = self.loop.progress.epoch * trainer.batches, self.loop.progress.best_epoch
        advice = (
            f"after {steps:,} step{'s' * (steps != 1)}; try more training.epochs, a smaller training.batch_size "
            "or a higher optimizer.learning_rate"
        )
        if best < self.loop.progress.epoch:  # training went on, but validation did not improve
            advice = f"{self._best()}, so the inputs may not be predictive"
        losses = f"training loss {reached:.4g}, predicting {answer} gives {constant:.4g}"
        return Note(f"no better than a constant: {losses}; {advice}")

    def _wasted(self) -> Note | None:
        """Return a note if more than half of the epochs came after the best one."""
        progress, last = self.loop.progress, self._last
        if last is None or self.loop.parts.stopping or progress.best_epoch > MAX_BEST_SHARE * progress.epoch:
            return None
        value = METRICS[self.loop.parts.metric].cost(progress.best_cost)
        epochs = f"{self._best()} of {progress.epoch} ({value:.4g}) and {last:.4g} after the last"
        return Note(f"{epochs}; to stop earlier: --set training.early_stopping=auto")

    def _best(self) -> str:
        metric, best = METRICS[self.loop.parts.metric], self.loop.progress.best_epoch
        mean = " of the mean" if self.loop.parts.snapshots > 1 else ""
        return f"the validation {metric.title}{mean} was {metric.superlative} after epoch {best}"

    @phase("save")
    def _save_checkpoint(self) -> None:
        started = time.monotonic()
        self.folder.flush_history()
        checkpoint = Checkpoint.of(self.loop, decisive(self.settings), self.history.hexdigest(), self.extensions)
        checkpoint.write(self.folder.checkpoint(self.loop.steps))
        self.folder.keep_checkpoints(KEPT_CHECKPOINTS)
        ended = time.monotonic()
        self._checkpoint_due = ended + max(CHECKPOINT_SECONDS, (ended - started) / CHECKPOINT_SHARE)

    def restore(self) -> str | None:
        """Go back to the last whole checkpoint; return the history up to there, or None where there is none."""
        for path in self.folder.checkpoints():
            try:
                checkpoint = Checkpoint.read(path)
                self._check_belongs(checkpoint)
                checkpoint.check(self.loop)
                history = self.folder.read_history(checkpoint.progress.epoch, checkpoint.history)
            except DamageError as error:
                damage = error if error.where else DamageError(error.what, where=str(path))
                log.warning("%s; trying the checkpoint before it", damage)
                continue
            checkpoint.put(self.loop)
            self.restored = checkpoint
            self.extensions = checkpoint.extensions
            if is_extension(checkpoint.settings, self.settings):
                self._extend(checkpoint)
            lines = "".join(json_line(row) for row in history)
            self.history.update(lines.encode())
            if history:
                self._last = history[-1].get(f"validation_{self.loop.parts.metric}")
            return lines
        return None

    def _extend(self, checkpoint: Checkpoint) -> None:
        """Record where a run is given more epochs, or another early stopping. Raises RunError if it has ended."""
        parts, done = self.loop.parts, checkpoint.progress.epoch
        before, epochs = checkpoint.epochs, parts.trainer.epochs
        if self.loop.status is not None:
            hint = "raise training.epochs" if self.loop.status == COMPLETED else "set training.early_stopping=null"
            message = f"the run has nothing more to train: {self.loop.status} after {done:,} epochs"
            raise RunError(message, where=str(self.folder.path), hint=hint)
        ended = [
            str(number)
            for number, member in enumerate(checkpoint.members, 1)
            if member.diverged is None and member.trainer["epoch"] < checkpoint.trainer["epoch"]
        ]
        if ended:
            message = (
                f"networks that stopped early cannot be extended: {', '.join(ended)} of {len(checkpoint.members)}"
            )
            raise RunError(message, where=str(self.folder.path), hint="start a new run")
        self.extensions += ({"after": done, "from": before, "to": epochs},)
        message = f"extended from {before:,} to {epochs:,} epochs after epoch {done:,}"
        was, now = (self._rate(checkpoint.trainer, each) for each in (before, epochs))
        if was != now:
            message += f"; the schedule {parts.schedule.name} is now that of {epochs:,} epochs: the learning rate "
            message += f"goes on at {now:.3g} (it was {was:.3g})"
        self.notes += (Note(message),)

    def _rate(self, stand: Mapping[str, Any], epochs: int) -> float:
        """Return the learning rate of the next step in a run of this many epochs, or that of its last step."""
        rates = self.loop.parts.schedule.rates(
            min(stand["epoch"], epochs - 1), self.loop.parts.trainer.batches, epochs
        )
        return float(rates[stand["batch"] if stand["epoch"] < epochs else -1])

    def _check_belongs(self, checkpoint: Checkpoint) -> None:
        """Raise RunError where a checkpoint is of another configuration, other data or another backend."""
        parts, where = self.loop.parts, str(self.folder.path)
        self.folder.check_settings(checkpoint.settings, self.settings)
        if parts.trainer.epochs < checkpoint.epochs:
            message = f"the run has {checkpoint.epochs:,} epochs, and cannot be made shorter"
            raise RunError(message, where=where, hint=f"resume it as it is: {self.folder.resume_command}")
        if checkpoint.data != parts.data.fingerprint:
            raise RunError(
                "the data have changed since the run was started, so it cannot be resumed",
                where=where,
                hint="restore the data, or start a new run",
            )
        if checkpoint.backend != parts.backend.name:
            raise RunError(
                f"the run was computed by {checkpoint.backend}; by {parts.backend.name} it would end otherwise",
                where=where,
                hint=f"bring {checkpoint.backend} back (gpumlp doctor shows what is missing), or start a new run",
            )

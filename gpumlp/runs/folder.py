"""The folder of a run: what lies where, when it may be used, and how little of it is ever deleted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp.config import HEADER, Settings, load
from gpumlp.errors import DamageError, RunError, WriteError
from gpumlp.runs.model import DESCRIPTION, WEIGHTS
from gpumlp.store.atomic import LEFTOVER, PART
from gpumlp.store.formats import append_line, read_json, write_text, writing

CONFIG, HISTORY, SUMMARY, MODEL, CHECKPOINTS = "config.yaml", "metrics.jsonl", "summary.json", "model", "checkpoints"
PICTURE = "plot.png"
CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class RunFolder:
    """A folder that is a run, or is to become one."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def history(self) -> Path:
        return self.path / HISTORY

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    @property
    def is_run(self) -> bool:
        """True where gpumlp has trained: files by these names may be anybody's, so ours must say that it is ours."""
        try:
            begins = self.config.read_text(encoding="utf-8").startswith(HEADER)
        except (OSError, UnicodeDecodeError):
            return False
        return begins and self.history.is_file() and (self.path / CHECKPOINTS).is_dir()

    @property
    def picture(self) -> Path:
        return self.path / PICTURE

    @property
    def resume_command(self) -> str:
        """The command that continues an interrupted run, as one would type it."""
        return shlex.join(["gpumlp", "train", str(self.config), "--run-dir", str(self.path), "--resume"])

    def checkpoint(self, steps: int) -> Path:
        """Return the file of the checkpoint after so many steps."""
        return self.path / CHECKPOINTS / f"step-{steps:09d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints there are, the latest first."""
        found = {p: CHECKPOINT.fullmatch(p.name) for p in (self.path / CHECKPOINTS).glob("step-*.safetensors")}
        steps = {path: int(name[1]) for path, name in found.items() if name}
        return sorted(steps, key=lambda path: steps[path], reverse=True)

    def keep_checkpoints(self, number: int) -> None:
        """Delete all but the latest ones."""
        for old in self.checkpoints()[number:]:
            with writing(old):
                old.unlink(missing_ok=True)

    def read_history(self, epochs: int) -> list[dict[str, Any]]:
        """Return the first lines of the history. Raises DamageError where they are not there."""
        try:
            lines = self.history.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(lines[i]) for i in range(epochs)]
        except (OSError, ValueError, IndexError) as error:
            raise DamageError(f"the history is damaged: {error}", where=str(self.history)) from None
        if bad := next((number for number, row in enumerate(rows, 1) if not _is_epoch(row, like=rows[0])), None):
            raise DamageError("this is no line of an epoch", where=f"{self.history}:{bad}")
        return rows

    def read_summary(self) -> dict[str, Any]:
        """Return what a run that has ended came to. Raises DamageError where that is not there."""
        summary: dict[str, Any] = read_json(self.summary)
        if not _is_summary(summary):
            raise DamageError("this is no summary of a run", where=str(self.summary))
        return summary

    def add_to_history(self, row: dict[str, Any]) -> None:
        """Add the line of an epoch."""
        append_line(self.history, row)

    def flush_history(self) -> None:
        """Bring the history to the disk: a checkpoint must not survive a power cut that its history does not."""
        with writing(self.history), self.history.open("r+b") as file:  # Windows flushes for writers alone
            os.fsync(file.fileno())

    def check_free(self, *, force: bool) -> None:
        """Raise RunError unless a new run may be written here; ``force`` allows to replace one."""
        try:
            free = not self.path.exists() or (self.path.is_dir() and self._holds_nothing())
        except OSError as error:
            raise RunError(f"cannot be looked into: {error.strerror}", where=str(self.path)) from None
        if free or (force and self.is_run):
            return
        if self.is_run:
            hint = "choose another --run-dir, continue it with --resume, or replace it with --force"
            raise RunError("there is a run already", where=str(self.path), hint=hint)
        what = "the folder is in use, and not by a run" if self.path.is_dir() else "this is a file"
        raise RunError(what, where=str(self.path), hint="choose another --run-dir")

    def _holds_nothing(self) -> bool:
        """Tell whether the folder is empty, or holds just what is left of a run killed before it had begun."""
        places = [self.path, *(path for path in (self.path / CHECKPOINTS,) if path.is_dir())]
        for path in itertools.chain.from_iterable(place.iterdir() for place in places):
            is_empty_history = path == self.history and path.stat().st_size == 0
            if path not in places and not is_empty_history and not LEFTOVER.fullmatch(path.name):
                return False
        return True

    def check_resumable(self, settings: Settings) -> None:
        """Raise RunError unless this run has this configuration. It may go on on another device."""
        begun = load(self.config).settings
        if begun.model_copy(update={"device": settings.device}) != settings:
            raise RunError(
                "the run was started with another configuration",
                where=str(self.config),
                hint=f"resume it as it was: {self.resume_command}",
            )

    def prepare(self, config: str, history: str | None, *, existed: bool) -> None:
        """Make the folder ready: an earlier run gives way unless there is a ``history`` to continue it with.

        The configuration is written last: it makes the folder a run. Raises WriteError where that cannot be, and
        RunError where the folder has come into being since it was looked at: another run has taken it.
        """
        try:
            with writing(self.path):
                self._make(existed)
                if history is None:
                    self._delete_run()
                self._delete_leftovers()
            write_text(self.history, history or "")
            write_text(self.config, config)
        except WriteError:
            if not existed:
                self._unmake()
            raise

    def _make(self, existed: bool) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=existed)
        except FileExistsError:
            hint = "start again, or give --run-dir"
            raise RunError("another run has just begun here", where=str(self.path), hint=hint) from None
        (self.path / CHECKPOINTS).mkdir(exist_ok=True)

    def _unmake(self) -> None:
        """Take away a folder that was made a moment ago, if nothing but what :meth:`prepare` made is in it."""
        for undo in (self.history.unlink, (self.path / CHECKPOINTS).rmdir, self.path.rmdir):
            with contextlib.suppress(OSError):
                undo()

    def _delete_leftovers(self) -> None:
        """Delete what a process that was killed had half written."""
        for place in (self.path, self.path / MODEL, self.path / CHECKPOINTS):
            for path in place.glob(f".*{PART}"):
                if LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _delete_run(self) -> None:
        """Delete the files that gpumlp writes, and no other."""
        model = self.path / MODEL
        for path in (self.summary, *self.checkpoints(), model / DESCRIPTION, model / WEIGHTS, self.picture):
            path.unlink(missing_ok=True)


def _is_epoch(row: Any, *, like: Any) -> bool:
    """Tell whether a line of the history has the losses of an epoch, and all that the line ``like`` has."""
    if not isinstance(row, dict) or not {"epoch", "train_loss"} <= row.keys() or row.keys() != like.keys():
        return False
    return all(isinstance(row.get(name, 0), int | float) for name in ("epoch", "train_loss", "validation_loss"))


def _is_summary(summary: Any) -> bool:
    """Tell whether this is what :func:`gpumlp.runs.run.train` writes at the end, as far as it is read again."""
    if not isinstance(summary, dict) or not {"status", "epochs", "best_epoch", "metrics"} <= summary.keys():
        return False
    metrics = summary["metrics"]
    numbers = all(isinstance(summary[name], int) for name in ("epochs", "best_epoch"))
    return numbers and isinstance(metrics, dict) and all(isinstance(each, dict) for each in metrics.values())

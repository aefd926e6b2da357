"""The folder of a run: what lies where, when it may be used, and how little of it is ever deleted."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpumlp.config import HEADER, Settings, load
from gpumlp.errors import ConfigError, DamageError, RunError, WriteError
from gpumlp.runs.identity import decisive, differences, is_extension
from gpumlp.runs.model import DESCRIPTION, WEIGHTS
from gpumlp.store.atomic import LEFTOVER, clear_leftovers, read_regular
from gpumlp.store.formats import append_line, is_whole, keep_bytes, keep_folder, read_json, writing
from gpumlp.store.lock import locked

CONFIG, HISTORY, SUMMARY, MODEL, CHECKPOINTS = "config.yaml", "metrics.jsonl", "summary.json", "model", "checkpoints"
PLAN = "plan.json"
"""The file that tells a folder of several runs."""
PICTURE, REPORT = "plot.png", "report.html"
REPLACED = ".replaced"
"""The folder that holds the files of a run while another one takes its place."""
CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")

log = logging.getLogger(__name__)


class Decided(NamedTuple):
    """Settings that may be left to the machine or the data, and stay what they were decided to be at the start.

    Parameters
    ----------
    shards
        Parts of a batch; None: not decided.
    window
        Packed rows that are shuffled among each other; None: not decided.
    shift
        Pixels that images are moved by; auto: not decided.
    members
        Number of networks; auto: not decided.
    """

    shards: int | None = None
    window: int | None = None
    shift: int | Literal["auto"] = "auto"
    members: int | Literal["auto"] = "auto"

    @classmethod
    def of(cls, settings: Settings) -> Decided:
        """Return what settings have decided."""
        training, data = settings.training, settings.data
        return cls(training.shards, data.pack.window, training.shift, settings.members.count)

    def or_else(self, other: Decided) -> Decided:
        """Return this, and where it is not decided the other."""
        return Decided(
            other.shards if self.shards is None else self.shards,
            other.window if self.window is None else self.window,
            other.shift if self.shift == "auto" else self.shift,
            other.members if self.members == "auto" else self.members,
        )

    def put(self, settings: Settings) -> Settings:
        """Return settings with these."""
        training = settings.training.model_copy(update={"shards": self.shards, "shift": self.shift})
        pack = settings.data.pack.model_copy(update={"window": self.window})
        data = settings.data.model_copy(update={"pack": pack})
        members = settings.members.model_copy(update={"count": self.members})
        return settings.model_copy(update={"training": training, "data": data, "members": members})


@dataclass(frozen=True)
class RunFolder:
    """A folder that is a run, or is to become one."""

    path: Path

    @property
    def config(self) -> Path:
        """The file of the settings."""
        return self.path / CONFIG

    @property
    def history(self) -> Path:
        """The file with a line for each epoch."""
        return self.path / HISTORY

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    @property
    def is_run(self) -> bool:
        """True where gpumlp has trained: files by these names may be anybody's, so ours must say that it is ours."""
        try:
            begins = read_regular(self.config).startswith(HEADER.encode())
        except OSError:
            return False
        return begins and self.history.is_file() and (self.path / CHECKPOINTS).is_dir()

    @property
    def picture(self) -> Path:
        """The file of the learning curves."""
        return self.path / PICTURE

    @property
    def resume_command(self) -> str:
        """The command that continues an interrupted run, as one would type it."""
        return shlex.join(["gpumlp", "train", str(self.config), "--run-dir", str(self.path), "--resume"])

    @property
    def decided(self) -> Decided:
        """What was decided when the run of this folder was started."""
        try:
            settings = load(self.config).settings
        except ConfigError:
            return Decided()
        return Decided.of(settings)

    def resumable(self, error: WriteError) -> WriteError:
        """Return an error with the command that goes on once it is fixed, where there is something to go on from."""
        if not self.is_run or error.hint:
            return error
        return WriteError(error.what, where=error.where, hint=f"fix this, then resume: {self.resume_command}")

    def checkpoint(self, steps: int) -> Path:
        """Return the file of the checkpoint after so many steps."""
        return self.path / CHECKPOINTS / f"step-{steps:09d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints there are, the latest first."""
        matches = {p: CHECKPOINT.fullmatch(p.name) for p in (self.path / CHECKPOINTS).glob("step-*.safetensors")}
        steps = {path: int(name[1]) for path, name in matches.items() if name}
        return sorted(steps, key=lambda path: steps[path], reverse=True)

    def keep_checkpoints(self, number: int) -> None:
        """Delete all but the latest ones."""
        for old in self.checkpoints()[number:]:
            with writing(old):
                old.unlink(missing_ok=True)

    def read_history(self, epochs: int, checksum: str | None = None) -> list[dict[str, Any]]:
        """Return the first lines of the history.

        Raises DamageError where they are not there, or do not have their ``checksum``, a SHA-256 of the bytes.
        """
        try:
            lines = read_regular(self.history).split(b"\n")
            rows = [json.loads(lines[i]) for i in range(epochs)]
        except (OSError, ValueError, IndexError, RecursionError) as error:
            raise DamageError(f"the history is damaged: {error}", where=str(self.history)) from None
        written = b"".join(line + b"\n" for line in lines[:epochs])
        if checksum not in (None, hashlib.sha256(written).hexdigest()):
            raise DamageError("the history is damaged: it does not match its checksum", where=str(self.history))
        if bad := next((number for number, row in enumerate(rows, 1) if not _is_epoch(row, like=rows[0])), None):
            raise DamageError("a line is not the record of an epoch", where=f"{self.history}:{bad}")
        return rows

    def read_summary(self) -> dict[str, Any]:
        """Return what a run that has ended came to. Raises DamageError where that is not there."""
        summary: dict[str, Any] = read_json(self.summary)
        if not _is_summary(summary):
            raise DamageError("not the summary of a run", where=str(self.summary))
        if not is_whole(summary):
            message = "the file is damaged: its content does not match its checksum"
            raise DamageError(message, where=str(self.summary))
        return summary

    def reopen(self) -> None:
        """Let a run that has ended count as one that has not: its last checkpoint is where it goes on."""
        with writing(self.summary):
            self.summary.unlink()

    def add_to_history(self, row: dict[str, Any]) -> str:
        """Add the line of an epoch, and return it."""
        return append_line(self.history, row)

    def flush_history(self) -> None:
        """Bring the history to the disk: a checkpoint must not survive a power cut that its history does not."""
        with writing(self.history), self.history.open("r+b") as file:  # Windows flushes for writers alone
            os.fsync(file.fileno())

    def check_free(self, *, force: bool) -> None:
        """Raise RunError unless a new run may be written here; ``force`` allows to replace one."""
        self.check_links()
        try:
            free = not self.path.exists() or (self.path.is_dir() and self._holds_nothing())
        except OSError as error:
            raise RunError(f"cannot be read: {error.strerror}", where=str(self.path)) from None
        if free or (force and self.is_run):
            return
        if self.is_run:
            hint = "choose another --run-dir, continue the run with --resume, or replace it with --force"
            raise RunError("there is already a run in this folder", where=str(self.path), hint=hint)
        message = "the folder is not empty, and not a run folder" if self.path.is_dir() else "this is a file"
        raise RunError(message, where=str(self.path), hint="choose another --run-dir")

    def _holds_nothing(self) -> bool:
        """Return whether the folder is empty, or holds just what is left of a run killed before it had begun."""
        folders = [self.path, *(path for path in (self.path / CHECKPOINTS,) if path.is_dir())]
        for path in itertools.chain.from_iterable(folder.iterdir() for folder in folders):
            is_empty_history = path == self.history and path.stat().st_size == 0
            if path not in folders and not is_empty_history and not LEFTOVER.fullmatch(path.name):
                return False
        return True

    def check_resumable(self, settings: Settings) -> None:
        """Raise RunError unless this run has this configuration.

        It may go on on another device, and with its data files in another folder. Where its configuration is damaged,
        that of its checkpoints decides.
        """
        self.check_links()
        try:
            begun = load(self.config).settings
        except ConfigError as error:
            log.warning("%s; writing it again", error)
            return
        self.check_settings(decisive(begun), settings)

    def check_settings(self, begun: dict[str, Any], settings: Settings) -> None:
        """Raise RunError unless these are the settings that the run was begun with; each that differs is listed.

        How long it is trained may differ.
        """
        if (changed := differences(begun, settings)) and not is_extension(begun, settings):
            raise RunError(
                "the run was started with another configuration",
                where=str(self.path),
                hint="\n  ".join([*changed, f"resume with the original settings: {self.resume_command}"]),
            )

    def check_links(self) -> None:
        """Raise RunError where a file or folder of the run is a link, a pipe or a device.

        Through a link files elsewhere would be read or changed.
        """
        kinds = dict.fromkeys((CONFIG, HISTORY, SUMMARY, PICTURE, REPORT), stat.S_IFREG)
        kinds |= dict.fromkeys((CHECKPOINTS, MODEL, REPLACED), stat.S_IFDIR)
        for name, kind in kinds.items():
            path = self.path / name
            if os.path.lexists(path) and stat.S_IFMT(path.lstat().st_mode) != kind:
                message = (
                    "this is a link, or not a regular file"
                    if kind == stat.S_IFREG
                    else "this is a link, or not a folder"
                )
                raise RunError(f"{message}: the files of a run must be inside its folder", where=str(path))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the history meanwhile, so that no other process trains here. Raises RunError where one does."""
        with locked(self.history, without_locks=True) as free:
            if not free:
                hint = "wait until it has ended, or pass another --run-dir"
                raise RunError("another process is training in this folder", where=str(self.path), hint=hint)
            yield

    def check_unused(self) -> None:
        """Raise RunError while another process trains here."""
        if self.history.exists():
            with self.held():
                pass

    def prepare(self, config: str, history: str | None, *, existed: bool) -> None:
        """Make the folder ready: an earlier run gives way unless there is a ``history`` to continue it with.

        The configuration is written last: it makes the folder a run. Until then the files of an earlier run are kept
        aside, and come back where something fails.
        Raises WriteError where the folder cannot be written, and RunError where it has come into being since it was
        looked at: another run has taken it.
        """
        try:
            with writing(self.path):
                self._make(existed)
                if history is None:
                    self._set_aside()
                for folder in (self.path, self.path / MODEL, self.path / CHECKPOINTS):
                    clear_leftovers(folder)
            keep_bytes(self.history, (history or "").encode())
            keep_bytes(self.config, config.encode())
        except WriteError as error:
            if not existed:
                self._unmake()
            raise self._given_back(error) from None
        with contextlib.suppress(OSError):
            self.recover()

    def _make(self, existed: bool) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=existed)
        except FileExistsError:
            hint = "start again, or pass --run-dir"
            raise RunError("another run has just started in this folder", where=str(self.path), hint=hint) from None
        keep_folder(self.path / CHECKPOINTS)

    def _unmake(self) -> None:
        """Take away a folder that was made a moment ago, if nothing but what :meth:`prepare` made is in it."""
        for undo in (self.history.unlink, (self.path / CHECKPOINTS).rmdir, self.path.rmdir):
            with contextlib.suppress(OSError):
                undo()

    def _set_aside(self) -> None:
        """Move the files that gpumlp writes, and no other, to a folder of their own, the configuration first."""
        model, aside = self.path / MODEL, self.path / REPLACED
        files = (self.config, self.history, self.summary, *self.checkpoints(), model / DESCRIPTION, model / WEIGHTS)
        for path in (*files, self.picture, self.path / REPORT):
            if os.path.lexists(path):
                target = aside / path.relative_to(self.path)
                for folder in (aside, target.parent):
                    folder.mkdir(exist_ok=True)
                os.replace(path, target)

    def recover(self) -> None:
        """End what a process has left undone that failed while one run took the place of another.

        Once the new run has its configuration the old files go; before, they come back. Raises OSError.
        """
        aside = self.path / REPLACED
        if aside.is_symlink() or not aside.is_dir():
            return
        clear_leftovers(self.path)
        begun = os.path.lexists(self.config)
        for path in self._aside():
            if begun:
                path.unlink()
                continue
            target = self.path / path.relative_to(aside)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        for folder in (aside / MODEL, aside / CHECKPOINTS, aside):
            with contextlib.suppress(OSError):  # it is not there, or there is something of somebody else in it
                folder.rmdir()

    def _aside(self) -> list[Path]:
        """Return the files that were moved aside, the configuration last: with it the old run is whole."""
        aside = self.path / REPLACED
        files = (HISTORY, SUMMARY, PICTURE, REPORT, f"{MODEL}/{DESCRIPTION}", f"{MODEL}/{WEIGHTS}")
        paths = [*(aside / name for name in files), *(aside / CHECKPOINTS).glob("step-*.safetensors"), aside / CONFIG]
        return [path for path in paths if os.path.lexists(path)]

    def _given_back(self, error: WriteError) -> WriteError:
        """Bring the earlier run back, and return the error with what became of it."""
        if not self._aside():
            return error
        try:
            self.recover()
        except OSError:
            left = ", ".join(str(path.relative_to(self.path)) for path in self._aside())
            hint = f"files of the previous run are still set aside ({left}); the next start here restores them"
        else:
            hint = "the previous run is unchanged"
        return WriteError(error.what, where=error.where, hint=hint)


def _is_epoch(row: Any, *, like: Any) -> bool:
    """Return whether a line of the history has the losses of an epoch, and all that the line ``like`` has."""
    if not isinstance(row, dict) or not {"epoch", "train_loss"} <= row.keys() or row.keys() != like.keys():
        return False
    return all(isinstance(row.get(name, 0), int | float) for name in ("epoch", "train_loss", "validation_loss"))


_NUMBER = (int, float)
_TEXT_OR_NONE, _NUMBER_OR_NONE = (str, type(None)), (*_NUMBER, type(None))
_NEEDED: dict[str, Any] = {
    "status": str,
    "epochs": int,
    "best_epoch": int,
    "metric": _TEXT_OR_NONE,
    "seconds": _NUMBER,
    "samples_per_second": _NUMBER_OR_NONE,
    "backend": str,
    "device": _TEXT_OR_NONE,
    "data": str,
    "metrics": {str: {str: _NUMBER_OR_NONE}},
    "settings": {str: object},
    "model": _TEXT_OR_NONE,
    "history": str,
}
_OPTIONAL: dict[str, Any] = {
    "planned_epochs": int,
    "phases": {str: _NUMBER},
    "reason": str,
    "notes": [{"text": str, "column": _TEXT_OR_NONE}],
    "members": [{"status": str, "epochs": int, "best_epoch": int}],
    "snapshots": [int],
    "start": {"run": str, "model": str},
    "extensions": [{"from": int, "to": int, "after": int}],
}
"""What is read again of a summary, and of what shape it is: a type or some, a list, or a dictionary by names."""

_LARGEST = {int: 2.0**53, float: sys.float_info.max}


def _is_summary(summary: Any) -> bool:
    """Return whether this is what :func:`gpumlp.runs.run.train` writes at the end, as far as it is read again."""
    return _has_shape(summary, _NEEDED) and all(
        _has_shape(summary[name], shape) for name, shape in _OPTIONAL.items() if name in summary
    )


def _has_shape(value: Any, shape: Any) -> bool:
    """Return whether a value from JSON has a shape; of a dictionary other names do not matter."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(_has_shape(each, shape[0]) for each in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(_has_shape(each, shape[str]) for each in value.values())
        return all(name in value and _has_shape(value[name], each) for name, each in shape.items())
    types = shape if isinstance(shape, tuple) else (shape,)
    if object in types:
        return True
    return type(value) in types and abs(value if isinstance(value, _NUMBER) else 0) <= _LARGEST.get(type(value), 0)

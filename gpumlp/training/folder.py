"""The folder of a run: what lies where, when it may be used, and how little of it is ever deleted."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp.atomic import PART
from gpumlp.config import HEADER
from gpumlp.errors import RunError
from gpumlp.training.files import write_text
from gpumlp.training.saved import DESCRIPTION, WEIGHTS

CONFIG, HISTORY, SUMMARY, MODEL, CHECKPOINTS = "config.yaml", "metrics.jsonl", "summary.json", "model", "checkpoints"

CHECKPOINT = re.compile(r"epoch-\d+\.safetensors")
LEFTOVER = re.compile(rf"\..+\.\d+{re.escape(PART)}")


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
    def resume_command(self) -> str:
        """The command that continues an interrupted run, as one would type it."""
        return shlex.join(["gpumlp", "train", str(self.config), "--run-dir", str(self.path), "--resume"])

    def checkpoint(self, epoch: int) -> Path:
        """Return the file of the checkpoint after so many epochs."""
        return self.path / CHECKPOINTS / f"epoch-{epoch:06d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints there are, the latest first."""
        found = {p: CHECKPOINT.fullmatch(p.name) for p in (self.path / CHECKPOINTS).glob("epoch-*.safetensors")}
        return sorted((p for p, name in found.items() if name), key=lambda p: int(p.stem.split("-")[1]), reverse=True)

    def read_history(self, epochs: int) -> list[dict[str, Any]]:
        """Return the first lines of the history. Raises RunError where they are not there."""
        try:
            lines = self.history.read_text(encoding="utf-8").splitlines()
            return [json.loads(lines[i]) for i in range(epochs)]
        except (OSError, ValueError, IndexError) as error:
            raise RunError(f"the history is damaged: {error}", where=str(self.history)) from None

    def check_free(self, *, force: bool) -> None:
        """Raise RunError unless a new run may be written here; ``force`` allows to replace one."""
        try:
            empty = not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        except OSError as error:
            raise RunError(f"cannot be looked into: {error.strerror}", where=str(self.path)) from None
        if empty or (force and self.is_run):
            return
        if self.is_run:
            hint = "choose another --run-dir, continue it with --resume, or replace it with --force"
            raise RunError("there is a run already", where=str(self.path), hint=hint)
        what = "the folder is in use, and not by a run" if self.path.is_dir() else "this is a file"
        raise RunError(what, where=str(self.path), hint="choose another --run-dir")

    def check_resumable(self, config: str) -> None:
        """Raise RunError unless this is a run with this configuration."""
        if not self.is_run:
            raise RunError("there is no run to resume", where=str(self.path), hint="leave --resume away to start one")
        if self.config.read_text(encoding="utf-8") != config:
            raise RunError(
                "the run was started with another configuration",
                where=str(self.config),
                hint=f"resume it as it was: {self.resume_command}",
            )

    def prepare(self, config: str, history: str, *, existed: bool) -> None:
        """Make the folder ready: an earlier run gives way unless ``history`` continues it.

        Raises RunError where the folder has come into being since it was looked at: another run has taken it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=existed)
            (self.path / CHECKPOINTS).mkdir(exist_ok=True)
            if not history:
                self._delete_run()
            self._delete_leftovers()
        except FileExistsError:
            hint = "start again, or give --run-dir"
            raise RunError("another run has just begun here", where=str(self.path), hint=hint) from None
        except OSError as error:
            raise RunError(f"cannot be made: {error.strerror}", where=str(self.path)) from None
        write_text(self.config, config)
        write_text(self.history, history)

    def _delete_leftovers(self) -> None:
        """Delete what a process that was killed had half written."""
        for place in (self.path, self.path / MODEL, self.path / CHECKPOINTS):
            for path in place.glob(f".*{PART}"):
                if LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _delete_run(self) -> None:
        """Delete the files that gpumlp writes, and no other."""
        model = self.path / MODEL
        for path in (self.summary, model / DESCRIPTION, model / WEIGHTS, *self.checkpoints()):
            path.unlink(missing_ok=True)

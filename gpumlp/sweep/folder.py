"""A folder of several runs, and the plan that they follow."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpumlp.config import Loaded, load
from gpumlp.errors import Note, RunError, WriteError
from gpumlp.runs.folder import PLAN
from gpumlp.runs.identity import decisive
from gpumlp.store.formats import check_regular, is_whole, make_folder, making_folder, read_json, write_sealed
from gpumlp.store.lock import locked

RESULTS, LOCKS = "results.json", "locks"


@dataclass(frozen=True)
class Template:
    """A configuration that several runs are variants of.

    Parameters
    ----------
    path, overrides, text
        As for ``load``.
    notes
        On the configuration, for its runs.
    """

    path: Path
    overrides: tuple[str, ...] = ()
    text: str | None = None
    notes: tuple[Note, ...] = ()

    def load(self, *more: str) -> Loaded:
        """Return the configuration with more overrides.

        Raises
        ------
        ConfigError
            With all problems.
        """
        loaded = load(self.path, (*self.overrides, *more), text=self.text)
        return replace(loaded, notes=(*self.notes, *loaded.notes))

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide how the runs end."""
        return decisive(self.load().settings)


@dataclass(frozen=True)
class PlanFolder:
    """A folder that holds runs and the plan that they follow, or is to become one."""

    path: Path

    @property
    def is_plan(self) -> bool:
        """Whether a plan was begun here."""
        return (self.path / PLAN).is_file()

    def plan(self) -> dict[str, Any]:
        """Return the plan.

        Raises
        ------
        RunError
            If there is none, or it is damaged.
        """
        plan = read_json(self.path / PLAN)
        if not isinstance(plan, dict) or not is_whole(plan):
            raise RunError(
                "the plan is damaged: its content does not match its checksum", where=str(self.path / PLAN)
            )
        return {name: value for name, value in plan.items() if name != "sha256"}

    def has(self, plan: Mapping[str, Any]) -> bool:
        """Return whether this folder follows a plan."""
        return self.is_plan and self.plan() == json.loads(json.dumps(plan))

    def is_free(self) -> bool:
        """Return whether there is nothing here yet."""
        return not os.path.lexists(self.path) or (self.path.is_dir() and not any(self.path.iterdir()))

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Begin a plan here, or go on with it. The folder is there with its plan, or not at all.

        Raises
        ------
        RunError
            If something else is here.
        WriteError
            If it cannot be written.
        """
        if self.is_free():
            make_folder(self.path.parent)
            try:
                with making_folder(self.path) as beside:
                    write_sealed(beside / PLAN, plan)
            except WriteError:
                if not self.is_plan:  # else another process was first: see what it began
                    raise
        if not self.is_plan:
            message = (
                "the folder is not empty, and was not made by this command" if self.path.is_dir() else "not a folder"
            )
            raise RunError(message, where=str(self.path), hint="choose another --run-dir")
        if not self.has(plan):
            was, now = self.plan(), json.loads(json.dumps(plan))
            changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
            message = f"this folder was begun with other settings: {', '.join(changed)} changed"
            raise RunError(message, where=str(self.path), hint="choose another --run-dir, or delete the folder")

    def run(self, name: str) -> Path:
        """Return the folder of one of the runs."""
        return self.path / name

    def file(self, name: str) -> Path:
        """Return where a file is to be written. Raises WriteError where a link, a pipe or a device is there."""
        check_regular(self.path / name)
        return self.path / name

    def claim(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Hold a run for this process; the value is False if another process holds it."""
        return locked(self.path / LOCKS / name)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write what came of the runs."""
        write_sealed(self.path / RESULTS, results)


def chosen_folder(base: Path, plan: Mapping[str, Any]) -> PlanFolder:
    """Return the first of ``base``, ``base-2``, ... that follows this plan, or is free."""
    number, path = 1, base
    while True:
        folder = PlanFolder(path)
        with contextlib.suppress(RunError):
            if folder.is_free() or folder.has(plan):
                return folder
        number += 1
        path = base.with_name(f"{base.name}-{number}")

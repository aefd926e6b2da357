"""What a command is given: a configuration, or a data file and the column to predict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gpumlp.config import starter
from gpumlp.config.presets import PLAIN, PRESETS
from gpumlp.errors import ConfigError
from gpumlp.runs.folder import CONFIG, RunFolder
from gpumlp.runs.mistaken import kind_of_plan
from gpumlp.sweep.folder import Template


def template_of(config: Path, targets: Sequence[str], overrides: Sequence[str]) -> tuple[Template, str]:
    """Return the template of a configuration, or of a data file and its targets, and a name for the folder.

    Raises
    ------
    ConfigError
        If it is the folder of a run, or a configuration and a target.
    DataError
        If there is nothing to learn from the data file.
    """
    if targets:
        if config.suffix.lower() in (".yaml", ".yml"):
            hint = "change its target by --set data.target=NAME, of several by --set data.target=[NAME,NAME]"
            raise ConfigError("--target is for data files, and this is a configuration", where=str(config), hint=hint)
        name = re.sub(r"[*?\[\]]+", "", config.name.partition(".")[0]).strip("-_") or "data"
        settings = {key.strip(): value for key, _, value in (each.partition("=") for each in overrides)}
        preset = settings["preset"] if settings.get("preset") in PRESETS else PLAIN
        begun = starter(config, targets, folder=Path(), preset=preset)
        notes = () if "data.drop" in settings else begun.notes
        return Template(Path(f"<settings for {config.name}>"), tuple(overrides), begun.text, notes), name
    run_folder = RunFolder(config)
    if run_folder.is_run:
        hint = f"its settings are {run_folder.config}"
        if not run_folder.summary.exists():
            hint += f"; resume it with: {run_folder.resume_command}"
        raise ConfigError("this is a run folder, not a configuration", where=str(config), hint=hint)
    if (kind := kind_of_plan(config)) is not None:
        command = "train" if kind == "bag" else kind
        hint = f"go on with it by the same command as before, gpumlp {command} CONFIG --run-dir {config}"
        raise ConfigError("this is a folder of several runs, not a configuration", where=str(config), hint=hint)
    return Template(config, tuple(overrides)), config.parent.name if config.name == CONFIG else config.stem

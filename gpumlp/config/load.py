"""Configuration files to settings and back. Every problem of a file is reported at once, with its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from gpumlp.config.data_settings import Data, kind_of_column
from gpumlp.config.model_settings import block_of_width, numbers_by
from gpumlp.config.presets import settings_over_preset
from gpumlp.config.problems import explain
from gpumlp.config.section import section_of_count, section_of_name
from gpumlp.config.settings import VERSION, WITHOUT_PRESET, Settings
from gpumlp.config.yaml_text import KeyPath, Value, parse, render
from gpumlp.data import ENDINGS
from gpumlp.errors import ConfigError, GpumlpError, Note, listed, nearest

MAX_BYTES = 1 << 18
"""The longest configuration that is read: a data file given by mistake should fail in a moment."""

MAX_SHOWN = 50
"""Problems that are shown of one file: more of them only hide the first."""

_LISTED_SETTINGS = 3  # of those that a note names

IN_PYTHON = "<python>"
"""What stands for the path of a configuration that was made without a file."""

_HINT_AT_DATA = (
    "this looks like a data file: gpumlp init writes a configuration for it; train, cv and sweep take it with "
    "--target NAME"
)

HEADER = "# All settings of a run, defaults included.\n"


class Origin(NamedTuple):
    """A place that can set values. Places sort as they should be reported: the file by lines, then overrides."""

    rank: int
    line: int
    column: int
    text: str

    def before(self, setting: str) -> str:
        """Return what a message on a setting begins with."""
        return self.text if self.text == f"--set {setting}" else f"{self.text}: {setting}"


@dataclass(frozen=True)
class Loaded:
    """The settings of a run, and where each was set.

    ``settings.data.folder`` and ``settings.model.start_from`` are absolute, whatever the file says.
    """

    settings: Settings
    path: Path
    origins: Mapping[str, Origin]  # by dotted setting, for those that were set
    notes: tuple[Note, ...] = ()  # of whoever has written it

    def where(self, setting: str) -> str:
        """Return where a setting such as ``data.target`` got its value.

        This is ``file.yaml:4:3`` (line and column, from 1), ``--set data.target`` for an override, and the name
        of the file alone for a default.
        """
        return self._origin_of(setting).text

    def report(self, misfits: Iterable[tuple[str, GpumlpError]]) -> str:
        """Return a message on settings that do not fit the files, in the order of the lines."""
        placed = ((self._origin_of(setting), setting, error) for setting, error in misfits)
        return _report(self.path, [(origin, _misfit(origin, setting, error)) for origin, setting, error in placed])

    def _origin_of(self, setting: str) -> Origin:
        default = Origin(0, 0, 0, str(self.path))
        if setting in self.origins:
            return self.origins[setting]
        section = setting
        while section := section.rpartition(".")[0]:
            if section in self.origins:
                # A bare name, or an override of a whole section, sets everything below it.
                is_divided = any(other.startswith(f"{section}.") for other in self.origins)
                return default if is_divided else self.origins[section]
        return default


def load(path: str | os.PathLike[str], overrides: Iterable[str] = (), *, text: str | None = None) -> Loaded:
    """Read a configuration file, apply overrides, check everything.

    Parameters
    ----------
    path
        A YAML file.
    text
        What is in the file, where it need not exist.
    overrides
        Texts such as ``optimizer.learning_rate=1e-3`` or ``model.hidden.0=32``, in order; the value is YAML, and
        counts as if it stood in the file.

    Returns
    -------
    Loaded
        The settings, with the place of each.

    Raises
    ------
    ConfigError
        With all problems of the file and the overrides, in the order of the lines.
    """
    path = Path(path)
    draft = _Draft(path, text)
    problems: list[tuple[Origin, ConfigError]] = []
    for override in overrides:
        try:
            draft.override(override)
        except ConfigError as error:
            problems.append((draft.last, error))
    draft.require_known_version()
    try:
        settings = Settings.model_validate(draft.value, context=WITHOUT_PRESET if draft.is_complete else None)
    except ValidationError as error:
        for problem in explain(error, draft.value):
            origin = draft.origin_of(problem.path)
            where = origin.before(".".join(map(str, problem.path)))
            problems.append((origin, ConfigError(problem.what, where=where, hint=problem.hint)))
    if problems:
        raise ConfigError(_report(path, [*problems, *_misfits(draft, draft.start)]))
    origins = {".".join(map(str, keys)): origin for keys, origin in draft.origins.items() if keys}
    starts = draft.start_of("model", "start_from"), draft.start_of("data", "pack", "folder")
    return Loaded(_with_absolute_paths(settings, draft.start, *starts), path, origins, draft.notes())


def configure(**settings: Any) -> Loaded:
    """Return the configuration that a file with these settings would be, sections as dictionaries.

        configure(task="regression", data={"train": "points.csv", "target": "y"}, training={"epochs": 10})

    Paths start from the working folder, and may be objects as well as texts.

    Parameters
    ----------
    settings
        Sections and settings by name, as in a file.

    Returns
    -------
    Loaded
        The settings, checked.

    Raises
    ------
    ConfigError
        With all problems.
    """
    plain = _plain(settings)
    try:
        checked = Settings.model_validate(plain)
    except ValidationError as error:
        errors = explain(error, plain)
        origin = Origin(0, 0, 0, "")
        problems = [(origin, ConfigError(p.what, where=".".join(map(str, p.path)), hint=p.hint)) for p in errors]
        raise ConfigError(_report("the settings", problems)) from None
    return Loaded(_with_absolute_paths(checked, os.getcwd()), Path(IN_PYTHON), {})


def _plain(value: Any) -> Any:
    """Return a value with paths as texts, and NumPy's numbers and arrays as Python has them."""
    match value:
        case np.generic() | np.ndarray():
            return value.tolist()
        case dict():
            return {key: _plain(child) for key, child in value.items()}
        case list() | tuple():
            return [_plain(child) for child in value]
        case os.PathLike():
            return os.fspath(value)
    return value


def dump(settings: Settings, *, folder: str | os.PathLike[str]) -> str:
    """Return YAML text with every setting, which loads as the same settings from any place.

    ``folder`` is where relative paths start; the text holds absolute ones.
    """
    return HEADER + render(_with_absolute_paths(settings, folder).model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors to complete and check while one types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _report(source: Path | str, problems: Sequence[tuple[Origin, GpumlpError]]) -> str:
    """Return all problems of a configuration as one message, in the order of the lines."""
    ordered = sorted(problems, key=lambda problem: problem[0])
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return f"{count} in {source}\n" + listed((error for _, error in ordered), MAX_SHOWN, "\n")


def _misfits(draft: _Draft, start: Path) -> list[tuple[Origin, ConfigError]]:
    """Return what else is wrong with a configuration that fails: names of files and columns in its data."""
    try:
        data = Data.model_validate(draft.value.get("data"))
    except ValidationError:
        return []  # reported by now, and there is nothing to read
    problems = []
    for setting, error in data.misfits(start):
        origin = draft.origin_of(tuple(int(key) if key.isdigit() else key for key in setting.split(".")))
        problems.append((origin, _misfit(origin, setting, error)))
    return problems


def _misfit(origin: Origin, setting: str, error: GpumlpError) -> ConfigError:
    """Return the error of a file in the words of the setting that names it."""
    return ConfigError(f"{error.where}: {error.what}", where=origin.before(setting), hint=error.hint)


def _with_absolute_paths(
    settings: Settings,
    start: str | os.PathLike[str],
    model_start: str | os.PathLike[str] | None = None,
    pack_start: str | os.PathLike[str] | None = None,
) -> Settings:
    """Return settings whose paths are absolute: of the data, of ``model.start_from`` and of packed rows."""
    data, model = settings.data, settings.model
    pack = data.pack
    if pack.folder is not None:
        pack = pack.model_copy(update={"folder": _absolute(start if pack_start is None else pack_start, pack.folder)})
    data = data.model_copy(update={"folder": _absolute(start, data.folder or ""), "pack": pack})
    if model.start_from is not None:
        path = _absolute(start if model_start is None else model_start, model.start_from)
        model = model.model_copy(update={"start_from": path})
    return settings.model_copy(update={"data": data, "model": model})


def _absolute(start: str | os.PathLike[str], path: str) -> str:
    return os.path.abspath(os.path.join(start, os.path.expanduser(path)))


class _Draft:
    """What a file and the overrides say, before it is checked, and where they say it."""

    def __init__(self, path: Path, text: str | None) -> None:
        name = str(path)
        is_data = path.is_file() and path.name.lower().endswith(ENDINGS)
        try:
            text = _read(path) if text is None else text
            document = parse(text, name)
        except ConfigError as error:
            if not is_data:
                raise
            raise ConfigError(error.what, where=error.where, hint=_HINT_AT_DATA) from error
        if document.value is None:
            raise ConfigError("the file is empty", where=name, hint="a run needs task, data.train and data.target")
        if not isinstance(document.value, dict):
            hint = _HINT_AT_DATA if is_data else "start with task: classification, regression or multilabel"
            raise ConfigError("a configuration is a mapping from settings to values", where=f"{name}:1:1", hint=hint)
        self.value: dict[str, Value] = document.value
        self.is_complete = text.startswith(HEADER)
        """Whether a preset adds nothing: what a saved configuration lacks was no setting yet when it was saved."""
        self.origins: dict[KeyPath, Origin] = {(): Origin(0, 0, 0, name)}
        for keys, (line, column) in document.positions.items():
            self.origins[keys] = Origin(0, line, column, f"{name}:{line}:{column}")
        self.last = self.origins[()]

    def require_known_version(self) -> None:
        """Raise ConfigError for a file of a later version: what it means by its settings cannot be known."""
        version = self.value.get("version")
        if isinstance(version, int) and version > VERSION:
            message = f"settings version {version}; this version of gpumlp supports up to {VERSION}"
            raise ConfigError(message, where=self.origin_of(("version",)).before("version"), hint="update gpumlp")

    def notes(self) -> tuple[Note, ...]:
        """Return a note on settings of the file that stand over those of a preset that an override names."""
        if not self.origin_of(("preset",)).rank:
            return ()
        names = [".".join(path) for path in settings_over_preset(self.value) if not self.origin_of(path).rank]
        if not names:
            return ()
        few = listed(names, _LISTED_SETTINGS)
        message = f"{self.origins[()].text} sets {few} over preset {self.value['preset']}"
        return (Note(f"{message}; remove them from the file to have the preset's"),)

    @property
    def start(self) -> Path:
        """The folder that a relative data.folder starts from."""
        return self.start_of("data", "folder")

    def start_of(self, *path: str) -> Path:
        """Return the folder that a setting with a relative path starts from: the file's, or for an override ours."""
        origin = self.origins.get(path)
        return Path() if origin and origin.rank else Path(self.origins[()].text).parent

    def origin_of(self, path: KeyPath) -> Origin:
        """Return where a setting stands, or else the innermost section that it belongs to."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def override(self, text: str) -> None:
        """Set one value by ``key.key=value``."""
        setting, equals, value = text.partition("=")
        setting = setting.strip()
        self.last = Origin(self.last.rank + 1, 0, 0, f"--set {setting}")
        keys = setting.split(".")
        if not equals or not all(keys):
            raise ConfigError(
                "not of the form setting=value", where=self.last.text, hint="for example training.epochs=10"
            )
        try:
            new = parse(value, self.last.text)
        except ConfigError as error:
            hint = error.hint or f"quote text that is not YAML: --set \"{setting}='{value}'\""
            raise ConfigError(error.what, where=error.where, hint=hint) from error
        node: Any = self.value  # a mapping or a list
        path: KeyPath = ()
        for key in keys[:-1]:
            path = (*path, self._step(node, key))
            node = self._opened(node, path)
        path = (*path, self._step(node, keys[-1]))
        if path == ("preset",) or (isinstance(node, dict) and isinstance(node.get(path[-1]), dict)):
            self.is_complete = False  # what it replaces, a preset may fill anew
        node[path[-1]] = new.value
        self.origins = {at: origin for at, origin in self.origins.items() if at[: len(path)] != path}
        self.origins |= {(*path, *below): self.last for below in ((), *new.positions)}

    def _step(self, node: Any, key: str) -> str | int:
        """Return what a key of an override means in a mapping or a list."""
        if isinstance(node, dict):
            return key
        if key in map(str, range(len(node))):
            return int(key)
        hint = f"items are counted from 0; the list has {len(node)}"
        raise ConfigError(f"no item {key!r} in the list", where=self.last.text, hint=hint)

    def _opened(self, node: Any, path: KeyPath) -> Any:
        """Return the mapping or list at ``path``, the last step from ``node``, in a form that can be added to."""
        child = node.get(path[-1]) if isinstance(node, dict) else node[path[-1]]
        self.origins.setdefault(path, self.last)
        section = {} if child is None else _in_full(path, child)
        if not isinstance(section, dict | list):
            dotted = ".".join(map(str, path))
            raise ConfigError(f"{dotted} is a single value, not a section", where=self.last.text)
        if isinstance(child, str | int):
            for key in section:
                self.origins[*path, key] = self.origins[path]
        node[path[-1]] = section
        return section


def _in_full(path: KeyPath, setting: Any) -> Any:
    """Return the section that a bare value stands for, by its place; one value where it stands for none."""
    match path:
        case ("optimizer" | "loss" | "schedule",):
            return section_of_name(setting)
        case ("model", "hidden", _):
            return block_of_width(setting)
        case ("model", "numbers"):
            return numbers_by(setting)
        case ("members",):
            return section_of_count(setting)
        case ("data", "columns", _):
            return kind_of_column(setting)
    return {} if setting == "auto" else setting


def _read(path: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    ConfigError
        If it cannot be read, is longer than ``MAX_BYTES``, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), hint=_neighbours(path.parent, path.name)) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder, not a file", where=str(path), hint=_neighbours(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(content) > MAX_BYTES:
        message = f"longer than {MAX_BYTES // 1024} KiB, too long for a configuration"
        raise ConfigError(message, where=str(path), hint="pass a YAML file that names the data under data.train")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text: the byte 0x{content[error.start]:02x}"
        raise ConfigError(message, where=f"{path}:{line}", hint="save the file as UTF-8") from None


def _neighbours(folder: Path, name: str = "") -> str:
    """Say what there is in a folder in place of the file that was meant."""
    try:
        files = sorted(file.name for file in folder.iterdir() if file.is_file())
    except OSError:
        return f"the folder {str(folder)!r} does not exist or cannot be read"
    if close := nearest(name, files):
        return f"did you mean {str(folder / close)!r}?"
    configurations = [name for name in files if name.endswith((".yaml", ".yml"))]
    return f"configurations in {str(folder)!r}: {', '.join(configurations) or 'none'}"

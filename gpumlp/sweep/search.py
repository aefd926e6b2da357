"""A sweep: a run for each point, of which the validation rows decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumlp.config import Loaded
from gpumlp.data import Prepared, SourceCache
from gpumlp.errors import ConfigError, GpumlpError, WriteError
from gpumlp.metrics import METRICS
from gpumlp.runs import Listener, train
from gpumlp.runs.folder import RunFolder
from gpumlp.runs.start import start_of
from gpumlp.store.formats import keep_folder, read_json, write_sealed
from gpumlp.sweep.folder import PlanFolder, Template
from gpumlp.sweep.points import Space, dimension_of, numbers_of
from gpumlp.training.build import load_data, unsuitable
from gpumlp.training.loop import DIVERGED

FAILED = "failed"


@dataclass(frozen=True)
class Point:
    """What came of a point; ``score`` is the metric of the validation rows, None where there is none."""

    name: str
    overrides: tuple[str, ...]
    status: str
    metric: str
    score: float | None = None
    error: str | None = None
    summary: dict[str, Any] | None = None

    @property
    def cost(self) -> float:
        """What is lowest for the best point."""
        return float("inf") if self.score is None else METRICS[self.metric].cost(self.score)


def space_of(template: Template, overrides: tuple[str, ...], trials: int | None) -> tuple[Template, Space]:
    """Return the template with the settings that are fixed, and the space of the others.

    Raises
    ------
    ConfigError : if a value of any setting is wrong
    """
    dimensions = [found for each in overrides if (found := dimension_of(each)) is not None]
    fixed = tuple(each for each in overrides if dimension_of(each) is None)
    template = Template(template.path, (*template.overrides, *fixed), template.text)
    names = [each.setting for each in dimensions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("given twice", where=f"--set {twice}", hint="list all values in one --set")
    first = [f"{each.setting}={each.ends[0]}" for each in dimensions]
    base = template.load(*first).settings
    for each in dimensions:
        for value in each.ends:
            template.load(*first, f"{each.setting}={value}")
    if base.data.split.validation == 0:
        what = "a sweep needs validation rows, which decide, but data.split.validation is 0"
        raise ConfigError(what, where="data.split.validation", hint="set it to a share or a file")
    return template, Space(tuple(dimensions), trials, base.training.seed)


def plan_of(template: Template, space: Space) -> dict[str, Any]:
    """Return what decides about a sweep, fit for JSON."""
    first = [f"{each.setting}={each.ends[0]}" for each in space.dimensions]
    settings = Template(template.path, (*template.overrides, *first), template.text).identity()
    tried = {each.setting: [each.kind, *each.ends] for each in space.dimensions}
    return {"kind": "sweep", "settings": settings, "space": tried, "trials": space.trials}


class _Data:
    """The data of the last point, which the next one mostly shares."""

    def __init__(self) -> None:
        self._cache = SourceCache()
        self._key: Any = None
        self._data: Prepared | None = None

    def of(self, loaded: Loaded) -> Prepared:
        settings = loaded.settings
        key = (settings.task, settings.data, settings.training.seed, settings.model.start_from)
        if self._data is None or key != self._key or unsuitable(settings, self._data):
            self._data = load_data(
                loaded, start_of(loaded).encoder, cache=self._cache
            )  # which raises what is unsuitable
            self._key = key
        return self._data


def sweep(
    template: Template,
    space: Space,
    folder: str | Path,
    *,
    part: str | None = None,
    listener: Listener | None = None,
    done: Callable[[Point, bool], None] | None = None,
) -> list[Point]:
    """Train the points of a space, each as a run of its own in ``folder``; return all that are there, the best first.

    Points that are finished, or that another process trains, are passed over. A point that fails is recorded.

    Parameters
    ----------
    part : i/N for the points whose number leaves i when divided by N
    done : is called after each point, with whether it was finished before

    Raises
    ------
    ConfigError, DataError : if the configuration or the data do not fit
    RunError : if the folder is not free
    """
    place, data = PlanFolder(Path(folder)), _Data()
    numbers = numbers_of(len(space), part)
    if numbers:
        data.of(template.load(*space.point(numbers[0])))  # nothing is written if the data do not fit
    place.begin(plan_of(template, space))
    for number in numbers:
        name = name_of(number)
        with place.claim(name) as free:
            if not free:
                continue
            before = _outcome(place, name, space.point(number))
            if before.summary is None:
                _train(place, name, template, space.point(number), data, listener)
            if done is not None:
                done(_outcome(place, name, space.point(number)), before.summary is not None)
    return points_of(place, space)


def name_of(number: int) -> str:
    """Return the name of the folder of a point."""
    return f"point-{number:04}"


def points_of(place: PlanFolder, space: Space) -> list[Point]:
    """Return what came of all points that were begun, the best first."""
    points = [_outcome(place, name_of(number), space.point(number)) for number in range(len(space))]
    return sorted((each for each in points if each.status != "not begun"), key=lambda each: each.cost)


def _train(
    place: PlanFolder,
    name: str,
    template: Template,
    overrides: tuple[str, ...],
    data: _Data,
    listener: Listener | None,
) -> None:
    record = place.path / FAILED / f"{name}.json"
    try:
        loaded = template.load(*overrides)
        train(loaded, place.run(name), data=data.of(loaded), resume=True, listener=listener)
        record.unlink(missing_ok=True)
    except WriteError:
        raise
    except (GpumlpError, MemoryError) as error:
        keep_folder(record.parent)
        write_sealed(record, {"error": str(error) or "out of memory"})


def _outcome(place: PlanFolder, name: str, overrides: tuple[str, ...]) -> Point:
    run = RunFolder(place.run(name))
    record = place.path / FAILED / f"{name}.json"
    metric = "loss"
    if run.summary.is_file():
        summary = run.read_summary()
        metric = summary.get("metric") or "loss"
        score = summary["metrics"].get("validation", {}).get(metric)
        if summary["status"] == DIVERGED:
            return Point(name, overrides, DIVERGED, metric, None, summary.get("reason"), summary)
        return Point(name, overrides, summary["status"], metric, score, None, summary)
    if record.is_file():
        return Point(name, overrides, "failed", metric, error=str(read_json(record).get("error")))
    return Point(name, overrides, "not finished" if run.is_run else "not begun", metric)

"""A sweep: a run for each point, of which the validation rows decide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gpumlp.backend import Backend
from gpumlp.config import Loaded, Settings
from gpumlp.data import Prepared, SourceCache
from gpumlp.errors import ConfigError, GpumlpError, RunError, WriteError
from gpumlp.metrics import METRICS
from gpumlp.ranks import Ranks
from gpumlp.runs import Listener, train
from gpumlp.runs.folder import RunFolder
from gpumlp.runs.identity import decisive
from gpumlp.runs.run import STOPPED
from gpumlp.runs.start import start_of
from gpumlp.store.formats import keep_folder, read_json, write_sealed
from gpumlp.sweep.beside import Job, Known, side_by_side
from gpumlp.sweep.folder import PlanFolder, Template
from gpumlp.sweep.points import Space, dimension_of, numbers_of
from gpumlp.sweep.study import Pruning, Study, load_optuna, name_of
from gpumlp.training.build import load_data, require_one_run, unsuitable
from gpumlp.training.loop import DIVERGED

SEARCHED = "search={}"
"""The override of a point: how points are chosen has no part in its run."""
FAILED = "failed"
PRUNED = "pruned"
"""The status of a point that was ended before the others because it was worse."""


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


_Outcome = tuple[Point, bool]
"""What came of a point, and whether it was finished before."""


def space_of(template: Template, overrides: tuple[str, ...], trials: int | None) -> tuple[Template, Space]:
    """Return the template with the settings that are fixed, and the space of the others.

    Raises
    ------
    ConfigError
        If a value of any setting is wrong.
    """
    dimensions = [dimension for each in overrides if (dimension := dimension_of(each)) is not None]
    fixed = tuple(each for each in overrides if dimension_of(each) is None)
    template = replace(template, overrides=(*template.overrides, *fixed))
    names = [each.setting for each in dimensions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError("given twice", where=f"--set {twice}", hint="list all values in one --set")
    first = [f"{each.setting}={each.ends[0]}" for each in dimensions]
    require_one_run(loaded := template.load(*first))
    base = loaded.settings
    for each in dimensions:
        for value in each.ends:
            template.load(*first, f"{each.setting}={value}")
    if base.data.split.validation == 0:
        message = "a sweep needs validation rows, which decide, but data.split.validation is 0"
        raise ConfigError(message, where="data.split.validation", hint="set it to a share or a file")
    return template, Space(tuple(dimensions), trials, base.training.seed)


def settings_of(template: Template, space: Space) -> Settings:
    """Return the settings of a sweep, with the first value of each that is tried."""
    return template.load(*(f"{each.setting}={each.ends[0]}" for each in space.dimensions)).settings


def plan_of(template: Template, space: Space) -> dict[str, Any]:
    """Return what decides about a sweep, fit for JSON."""
    settings = settings_of(template, space)
    tried = {each.setting: [each.kind, *each.ends] for each in space.dimensions}
    plan = {"kind": "sweep", "settings": decisive(settings), "space": tried}
    if settings.search.sampler == "keyed":
        return {**plan, "trials": space.trials}
    return {**plan, "search": {"sampler": settings.search.sampler, "pruning": settings.search.pruning}}


def _key_of(loaded: Loaded) -> Any:
    """Return what decides about the encoded data of a configuration."""
    settings = loaded.settings
    return settings.task, settings.goal, settings.data, settings.training.seed, settings.model.start_from


class _Data:
    """The data of the last point, which the next one mostly shares."""

    def __init__(self) -> None:
        self._cache = SourceCache()
        self._key: Any = None
        self._data: Prepared | None = None

    def of(self, loaded: Loaded) -> Prepared:
        settings, key = loaded.settings, _key_of(loaded)
        if self._data is None or key != self._key or unsuitable(settings, self._data):
            # This raises what is unsuitable.
            self._data = load_data(loaded, start_of(loaded).encoder, cache=self._cache)
            self._key = key
        return self._data

    def check(self, loaded: Loaded, point: Point, folder: Path) -> None:
        """Raise RunError if a finished point has the settings of the data at hand, but was trained on others."""
        if self._data is None or self._key != _key_of(loaded) or point.summary is None:
            return
        if point.summary["data"] != self._data.fingerprint:
            hint = "restore the data, or choose another --run-dir"
            raise RunError("the data have changed since this point was trained", where=str(folder), hint=hint)


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
    template
        The configuration.
    space
        The settings to try.
    folder
        To which the runs are written.
    part
        i/N for the points whose number leaves i when divided by N.
    listener
        Listener of each run.
    done
        Is called after each point, with whether it was finished before.

    Raises
    ------
    ConfigError, DataError
        If the configuration or the data do not fit.
    RunError
        If the folder is not free.
    """
    plan_folder, data = PlanFolder(Path(folder)), _Data()
    if settings_of(template, space).search.sampler != "keyed":
        return _studied(template, space, plan_folder, data, part, listener, done)
    numbers = numbers_of(len(space), part)
    if numbers:
        data.of(template.load(*space.point(numbers[0])))  # nothing is written if the data do not fit
    plan_folder.begin(plan_of(template, space))

    def jobs() -> Iterator[Job[_Outcome] | Known[_Outcome]]:
        for number in numbers:
            name, overrides = name_of(number), space.point(number)
            with contextlib.ExitStack() as held:
                if not held.enter_context(plan_folder.claim(name)):
                    continue
                before = _outcome(plan_folder, name, overrides)
                if before.summary is not None:
                    data.check(template.load(*overrides), before, plan_folder.run(name))
                    yield Known((before, True))
                elif (prepared := _prepared(plan_folder, name, template, overrides, data)) is None:
                    yield Known((_outcome(plan_folder, name, overrides), False))
                else:
                    make = partial(_point, held.pop_all(), plan_folder, name, overrides, *prepared, listener)
                    yield Job(prepared[0].settings, prepared[1], make)

    for result in side_by_side(jobs()):
        if done is not None:
            done(*result)
    return points_of(plan_folder, space)


def _point(
    held: contextlib.ExitStack,
    plan_folder: PlanFolder,
    name: str,
    overrides: tuple[str, ...],
    loaded: Loaded,
    prepared: Prepared,
    listener: Listener | None,
    backend: Backend | None,
    ranks: Ranks,
) -> _Outcome:
    """Train a point, whose claim is ``held``."""
    with held:
        with _recorded(plan_folder, name):
            path = plan_folder.run(name)
            train(loaded, path, data=prepared, resume=True, listener=listener, ranks=ranks, backend=backend)
        return _outcome(plan_folder, name, overrides), False


def _studied(
    template: Template,
    space: Space,
    plan_folder: PlanFolder,
    data: _Data,
    part: str | None,
    listener: Listener | None,
    done: Callable[[Point, bool], None] | None,
) -> list[Point]:
    """Train points that a study chooses, as :func:`sweep` does."""
    settings = settings_of(template, space)
    if space.trials is None:
        raise ConfigError(f"sampler {settings.search.sampler} has no end", where="--trials", hint="add --trials N")
    if part is not None:
        message = f"parts are of points by number, and sampler {settings.search.sampler} chooses them by results"
        raise ConfigError(message, where="--part", hint="start the same command several times: they share the study")
    load_optuna()
    data.of(template.load(*(f"{each.setting}={each.ends[0]}" for each in space.dimensions)))
    plan, metric = plan_of(template, space), settings.training.chosen_metric
    if settings.search.storage is not None:  # nothing is written if it cannot be used
        Study(plan_folder, space, settings.search, plan, metric)
    plan_folder.begin(plan)
    study = Study(plan_folder, space, settings.search, plan, metric)
    for trial in study.trials():
        name = name_of(trial.number)
        with _recorded(plan_folder, name):
            loaded = template.load(*trial.overrides, SEARCHED)
            pruning = Pruning(trial, metric, listener)
            train(loaded, plan_folder.run(name), data=data.of(loaded), resume=True, listener=pruning)
        point = _outcome(plan_folder, name, trial.overrides)
        with study.reached():
            trial.end(point.score, pruned=point.status == PRUNED)
        if done is not None:
            done(point, False)
    points = [_outcome(plan_folder, name_of(number), each) for number, each in study.overrides().items()]
    return sorted(points, key=lambda each: each.cost)


def points_of(plan_folder: PlanFolder, space: Space) -> list[Point]:
    """Return what came of all points that were begun, the best first."""
    points = [_outcome(plan_folder, name_of(number), space.point(number)) for number in range(len(space))]
    return sorted((each for each in points if each.status != "not begun"), key=lambda each: each.cost)


def _prepared(
    plan_folder: PlanFolder, name: str, template: Template, overrides: tuple[str, ...], data: _Data
) -> tuple[Loaded, Prepared] | None:
    """Return the configuration and the data of a point; None where they do not fit, which is recorded."""
    prepared: list[tuple[Loaded, Prepared]] = []
    with _recorded(plan_folder, name):
        loaded = template.load(*overrides, SEARCHED)
        prepared.append((loaded, data.of(loaded)))
    return prepared[0] if prepared else None


@contextlib.contextmanager
def _recorded(plan_folder: PlanFolder, name: str) -> Iterator[None]:
    """Record what a point fails by, in place of raising it."""
    record = plan_folder.path / FAILED / f"{name}.json"
    try:
        yield
        record.unlink(missing_ok=True)
    except WriteError:
        raise
    except (GpumlpError, MemoryError) as error:
        keep_folder(record.parent)
        write_sealed(record, {"error": str(error) or "out of memory"})


def _outcome(plan_folder: PlanFolder, name: str, overrides: tuple[str, ...]) -> Point:
    run = RunFolder(plan_folder.run(name))
    record = plan_folder.path / FAILED / f"{name}.json"
    metric = "loss"
    if run.summary.is_file():
        summary = run.read_summary()
        metric = summary.get("metric") or "loss"
        score = summary["metrics"].get("validation", {}).get(metric)
        if summary["status"] == DIVERGED:
            return Point(name, overrides, DIVERGED, metric, None, summary.get("reason"), summary)
        status = PRUNED if summary["status"] == STOPPED else summary["status"]
        return Point(name, overrides, status, metric, score, None, summary)
    if record.is_file():
        return Point(name, overrides, "failed", metric, error=str(read_json(record).get("error")))
    return Point(name, overrides, "not finished" if run.is_run else "not begun", metric)

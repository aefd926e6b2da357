"""A search that learns from its points, by Optuna (extra ``sweep``): several processes share a study.

A point is a trial of the study and a run in the folder. Who trains one holds its lock; a trial that is running while
nobody holds its lock was left by a process that died, and is resumed from its last checkpoint by whoever comes next.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpumlp.config import SearchSettings
from gpumlp.errors import Note, RunError
from gpumlp.metrics import METRICS
from gpumlp.runs import Listener
from gpumlp.runs.folder import RunFolder
from gpumlp.seeds import SEARCH, generator
from gpumlp.store.formats import make_folder
from gpumlp.store.lock import locked
from gpumlp.sweep.folder import LOCKS, PlanFolder
from gpumlp.sweep.points import Space
from gpumlp.training.build import Parts

JOURNAL = "study.journal"
"""The file of the study where there is no other storage."""

WAIT_S = 0.02
"""Seconds between two looks at a lock that another process holds for a moment."""

STARTUP_POINTS, WARMUP_EPOCHS = 5, 4
"""Points, and epochs of each, before any is ended early."""

_SECRET = re.compile(r"//([^/@:]*):[^@/]*@")


def name_of(number: int) -> str:
    """Return the name of the folder of a point."""
    return f"point-{number:04}"


class Trial:
    """A point that this process trains."""

    def __init__(self, study: Study, trial: Any, overrides: tuple[str, ...]) -> None:
        self.study, self.number, self.overrides = study, int(trial.number), overrides
        self._trial = trial
        self._reported = set(study.frozen(self.number).intermediate_values)

    def report(self, epoch: int, value: float | None) -> None:
        """Take the metric after an epoch into account."""
        if epoch not in self._reported and value is not None and math.isfinite(value):
            self._trial.report(value, epoch)
            self._reported.add(epoch)

    def is_poor(self) -> bool:
        """Return whether the point is to end here."""
        return bool(self._trial.should_prune())

    def end(self, score: float | None, *, pruned: bool = False) -> None:
        """Tell the study what came of the point; None: it failed."""
        state = self.study.optuna.trial.TrialState
        if score is None or not math.isfinite(score):
            self.study.study.tell(self.number, state=state.FAIL)
        elif pruned:
            self.study.study.tell(self.number, state=state.PRUNED)
        else:
            self.study.study.tell(self.number, score)


class Study:
    """A study of Optuna in a storage that processes share.

    Parameters
    ----------
    place
        The folder of the sweep, whose name the study has.
    plan
        What decides about the sweep.
    metric
        Metric that the validation rows decide by.

    Raises
    ------
    RunError
        If Optuna is not installed, the storage cannot be used, or has a study of this name with another plan.
    """

    def __init__(
        self, folder: PlanFolder, space: Space, settings: SearchSettings, plan: Mapping[str, Any], metric: str
    ) -> None:
        self.folder, self.space = folder, space
        self.optuna = load_optuna()
        url = settings.storage
        self.where = str(folder.path / JOURNAL) if url is None else _without_secrets(url)
        pruners = self.optuna.pruners
        pruner = (
            pruners.MedianPruner(n_startup_trials=STARTUP_POINTS, n_warmup_steps=WARMUP_EPOCHS)
            if settings.pruning == "median"
            else pruners.NopPruner()
        )
        with self.reached():
            self.study = self.optuna.create_study(
                storage=self._storage(url),
                study_name=folder.path.name,
                pruner=pruner,
                direction="maximize" if METRICS[metric].rises else "minimize",
                load_if_exists=True,
            )
            text = json.dumps(plan, sort_keys=True)
            before = self.study.user_attrs.get("plan")
            if before is None:
                self.study.set_user_attr("plan", text)
        if before not in (None, text):
            message = f"the storage has a study {folder.path.name!r} with other settings"
            raise RunError(message, where=self.where, hint="choose another --run-dir, whose name the study has")

    def _storage(self, url: str | None) -> Any:
        storages = self.optuna.storages
        if url is not None:
            return storages.get_storage(url)
        make_folder(self.folder.path / LOCKS)
        backend = storages.journal.JournalFileBackend(
            str(self.folder.path / JOURNAL), lock_obj=_FileLock(self.folder.path / LOCKS / "journal")
        )
        return storages.JournalStorage(backend)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what a storage raises into a RunError."""
        try:
            yield
        except Exception as error:
            if isinstance(error, RunError):
                raise
            lines = _without_secrets(str(error)).splitlines() or [type(error).__name__]
            hint = "check the address of search.storage, and whether its driver is installed"
            raise RunError(f"the storage cannot be used: {lines[0]}", where=self.where, hint=hint) from None

    def frozen(self, number: int) -> Any:
        """Return what the storage has of a trial."""
        return self.study.get_trials(deepcopy=False)[number]

    def trials(self) -> Iterator[Trial]:
        """Yield the points that this process is to train: those that were left first, then new ones."""
        while True:
            with contextlib.ExitStack() as held:
                with self._alone(), self.reached():
                    trial = self._left(held) or self._new(held)
                if trial is None:
                    return
                yield trial

    def overrides(self) -> dict[int, tuple[str, ...]]:
        """Return the settings of each point, by its number, as far as they are known."""
        with self.reached():
            trials = self.study.get_trials(deepcopy=False)
        whole = (each for each in trials if len(each.params) == len(self.space.dimensions))
        return {each.number: self._written(each.params) for each in whole}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from choosing a point meanwhile."""
        while True:
            with locked(self.folder.path / LOCKS / "study") as free:
                if free:
                    yield
                    return
            time.sleep(WAIT_S)

    def _left(self, held: contextlib.ExitStack) -> Trial | None:
        """Return a point whose process has died, locked."""
        running = self.optuna.trial.TrialState.RUNNING
        for each in self.study.get_trials(deepcopy=False, states=(running,)):
            with contextlib.ExitStack() as lock:
                if lock.enter_context(self.folder.claim(name_of(each.number))):
                    held.push(lock.pop_all())
                    return self._trial(self.optuna.trial.Trial(self.study, each._trial_id))
        return None

    def _new(self, held: contextlib.ExitStack) -> Trial | None:
        """Return a new point, locked, or None if there are enough."""
        number = len(self.study.get_trials(deepcopy=False))
        if number >= int(self.space.trials or 0):
            return None
        # Of a seed of its own: a study that was interrupted goes on as if it had not been.
        seed = int(generator(self.space.seed, SEARCH, number).integers(2**32))
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask()
        held.enter_context(self.folder.claim(name_of(trial.number)))
        return self._trial(trial)

    def _trial(self, trial: Any) -> Trial:
        for each in self.space.dimensions:  # a value that the trial has already is returned again
            if each.kind == "choices":
                trial.suggest_categorical(each.setting, list(each.choices))
            elif each.kind == "int":
                trial.suggest_int(each.setting, int(each.low), int(each.high))
            else:
                trial.suggest_float(each.setting, each.low, each.high, log=each.kind == "log")
        return Trial(self, trial, self._written(trial.params))

    def _written(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        values = ((each.setting, params[each.setting]) for each in self.space.dimensions)
        return tuple(f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in values)


class Pruning(Listener):
    """Tells a trial how a run goes on, ends it where it is poor, and passes everything on to another listener."""

    def __init__(self, trial: Trial, metric: str, listener: Listener | None) -> None:
        self.trial, self.metric, self.listener = trial, metric, listener or Listener()

    def note(self, note: Note) -> None:
        self.listener.note(note)

    def prepared(self, parts: Parts, folder: Path) -> None:
        with self.trial.study.reached():
            for line in (
                RunFolder(folder).history.read_text().splitlines()
            ):  # epochs whose process died before it told
                self._report(json.loads(line))
        self.listener.prepared(parts, folder)

    def batch(self, done: int, of: int) -> None:
        self.listener.batch(done, of)

    def epoch(self, row: dict[str, Any], best: bool) -> bool:
        with self.trial.study.reached():
            self._report(row)
            poor = self.trial.is_poor()
        return bool(self.listener.epoch(row, best)) or poor

    def _report(self, row: Mapping[str, Any]) -> None:
        self.trial.report(int(row["epoch"]), row.get(f"validation_{self.metric}"))


class _FileLock:
    """The lock of a journal, which ends with its process: Optuna's own would be waited for half a minute."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        while True:
            with contextlib.ExitStack() as stack:
                if stack.enter_context(locked(self._path)):
                    self._held = stack.pop_all()
                    return True
            time.sleep(WAIT_S / 10)

    def release(self) -> None:
        self._held.close()


def _without_secrets(text: str) -> str:
    """Return a text without the passwords in its addresses."""
    return _SECRET.sub(r"//\1:***@", text)


def load_optuna() -> Any:
    """Return the package. Raises RunError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optuna = importlib.import_module("optuna")
    except ImportError:
        raise RunError("search.sampler tpe needs the package optuna", hint="pip install 'gpumlp[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna

"""A checkpoint: all that the rest of a run depends on, between two of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpumlp.errors import DamageError, RunError
from gpumlp.store.formats import Arrays, read_arrays, write_arrays
from gpumlp.training.loop import Loop, Progress

FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """Where a loop stands, and what it belongs to.

    model, best, optimizer : arrays by name: the parameters and running averages, the best ones so far, and what the
        optimizer keeps of each parameter
    totals : (4,) the sums over the batches of the epoch at work
    progress : epochs done, and the best of them
    trainer : ``epoch``, ``batch`` and ``seconds`` of the trainer
    schedule : what the schedule remembers
    data : the fingerprint of the rows
    backend : the name of the backend
    settings : what :func:`gpumlp.runs.identity.decisive` returns
    history : SHA-256 of the lines of metrics.jsonl up to here
    """

    model: Arrays
    best: Arrays
    optimizer: Arrays
    totals: Any
    progress: Progress
    trainer: dict[str, Any]
    schedule: dict[str, float]
    data: str
    backend: str
    settings: dict[str, Any]
    history: str

    @classmethod
    def of(cls, loop: Loop, settings: Mapping[str, Any], history: str) -> Checkpoint:
        """Return where a loop stands, once the device has done what it was given."""
        parts, trainer = loop.parts, loop.parts.trainer
        trainer.pause()
        return cls(
            model=parts.model.arrays(),
            best=loop.best,
            optimizer={name: parts.backend.to_host(array) for name, array in parts.optimizer.state.items()},
            totals=parts.backend.to_host(trainer.totals),
            progress=replace(loop.progress),
            trainer={"epoch": trainer.epoch, "batch": trainer.batch, "seconds": trainer.seconds},
            schedule=parts.schedule.state,
            data=parts.data.fingerprint,
            backend=parts.backend.name,
            settings=dict(settings),
            history=history,
        )

    def check(self, loop: Loop) -> None:
        """Raise DamageError where this is nowhere that the loop can stand. A checksum finds accidents only."""
        now = Checkpoint.of(loop, {}, "")
        for name in ("model", "best", "optimizer"):
            if _shapes(getattr(self, name)) != _shapes(getattr(now, name)):
                raise DamageError(f"the arrays of {name} do not match this network")
        if _shapes({"totals": self.totals}) != _shapes({"totals": now.totals}):
            raise DamageError("the sums over the epoch are missing")
        for name, one, other in (
            ("progress", vars(self.progress), vars(now.progress)),
            ("trainer", self.trainer, now.trainer),
            ("schedule", self.schedule, now.schedule),
        ):
            if one.keys() != other.keys() or not all(_like(one[key], other[key]) for key in other):
                raise DamageError(f"{name} is not in the format of this version of gpumlp")
        progress, trainer = self.progress, loop.parts.trainer
        stands = 0 <= self.trainer["epoch"] <= trainer.epochs and 0 <= self.trainer["batch"] <= trainer.batches
        if not stands or progress.epoch != self.trainer["epoch"] or not 0 <= progress.best_epoch <= progress.epoch:
            raise DamageError("its position is not one that a run reaches")

    def put(self, loop: Loop) -> None:
        """Let a loop stand there."""
        parts = loop.parts
        parts.model.load(self.model)
        for name, target in parts.optimizer.state.items():
            parts.backend.write(target, self.optimizer[name])
        loop.best, loop.progress = self.best, self.progress
        parts.schedule.state = self.schedule
        parts.trainer.go_to(**self.trainer, totals=self.totals)

    def write(self, path: Path) -> None:
        """Write the file of a checkpoint. Raises WriteError."""
        arrays = {f"model/{name}": array for name, array in self.model.items()}
        arrays |= {f"best/{name}": array for name, array in self.best.items()}
        arrays |= {f"optimizer/{name}": array for name, array in self.optimizer.items()}
        arrays["trainer/totals"] = self.totals
        meta = {
            "format": FORMAT,
            "progress": asdict(self.progress),
            "trainer": self.trainer,
            "schedule": self.schedule,
            **{name: getattr(self, name) for name in BELONGS},
        }
        write_arrays(path, arrays, meta)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint. Raises DamageError where it is damaged, RunError where it has another format."""
        arrays, meta = read_arrays(path)
        if (version := meta.get("format")) != FORMAT:
            what = f"the checkpoint has format {version!r}; this version of gpumlp resumes from format {FORMAT}"
            raise RunError(what, where=str(path), hint="resume with the version of gpumlp that started the run")
        groups: dict[str, Arrays] = {"model": {}, "best": {}, "optimizer": {}, "trainer": {}}
        try:
            for name, array in arrays.items():
                group, _, key = name.partition("/")
                groups[group][key] = array
            return cls(
                model=groups["model"],
                best=groups["best"],
                optimizer=groups["optimizer"],
                totals=groups["trainer"]["totals"],
                progress=Progress(**meta["progress"]),
                trainer={**meta["trainer"]},
                schedule={**meta["schedule"]},
                settings={**meta["settings"]},
                **{name: str(meta[name]) for name in BELONGS if name != "settings"},
            )
        except (KeyError, TypeError) as error:
            raise DamageError(f"not a gpumlp checkpoint: {error}", where=str(path)) from None


BELONGS = ("data", "backend", "settings", "history")
"""What a checkpoint belongs to."""


def _shapes(arrays: Arrays) -> dict[str, tuple[Any, ...]]:
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def _like(value: Any, other: int | float) -> bool:
    """Return whether this is a number, a whole one where the other is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if isinstance(other, int) else not math.isnan(value)

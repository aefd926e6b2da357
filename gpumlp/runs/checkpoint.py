"""A checkpoint: all that the rest of a run depends on, between two of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.backend import Backend
from gpumlp.errors import DamageError, RunError
from gpumlp.nn.ensemble import prefix
from gpumlp.runs.model import SavedModel, describe, restore
from gpumlp.store.formats import Arrays, read_arrays, write_arrays
from gpumlp.training.loop import Diverged, Loop, Progress
from gpumlp.training.members import MembersLoop

FORMAT = 4


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
    epochs : planned epochs of the run
    extensions : where the run was given more epochs than it was begun with: epochs done and planned at each
    description, encoder : what :func:`gpumlp.runs.model.describe` returns
    members : of several networks the checkpoint of each loop; ``model``, ``best`` and ``optimizer`` are empty then
    diverged : the epoch and the reason for which a network is no longer trained, while others are
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
    epochs: int = 0
    extensions: tuple[dict[str, int], ...] = ()
    description: dict[str, Any] = field(default_factory=dict)
    encoder: Arrays = field(default_factory=dict)
    members: tuple[Checkpoint, ...] = ()
    diverged: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        loop: Loop,
        settings: Mapping[str, Any],
        history: str,
        extensions: tuple[dict[str, int], ...] = (),
    ) -> Checkpoint:
        """Return where a loop stands, once the device has done what it was given."""
        parts = loop.parts
        description, encoder = describe(SavedModel(parts.data.encoder, parts.model, parts.architecture))
        return replace(
            cls._of(loop, settings, history),
            epochs=parts.trainer.epochs,
            extensions=extensions,
            description=description,
            encoder=encoder,
        )

    @classmethod
    def _of(cls, loop: Loop, settings: Mapping[str, Any], history: str) -> Checkpoint:
        parts, trainer = loop.parts, loop.parts.trainer
        if isinstance(loop, MembersLoop):
            return cls(
                model={},
                best={},
                optimizer={},
                totals=np.zeros(4),
                progress=replace(loop.progress),
                trainer={"epoch": loop.progress.epoch, "batch": loop.batch, "seconds": loop.seconds},
                schedule={},
                data=parts.data.fingerprint,
                backend=parts.backend.name,
                settings=dict(settings),
                history=history,
                members=tuple(cls._of(each, {}, "") for each in loop.loops),
            )
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
            diverged=None if loop.diverged is None else asdict(loop.diverged),
        )

    def check(self, loop: Loop) -> None:
        """Raise DamageError where this is nowhere that the loop can stand. A checksum finds accidents only."""
        now = Checkpoint._of(loop, {}, "")
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
        counted = self.trainer["epoch"] - (self.diverged is not None)  # the epoch in which a network diverged is not
        if not stands or progress.epoch != counted or not 0 <= progress.best_epoch <= progress.epoch:
            raise DamageError("its position is not one that a run reaches")
        if isinstance(loop, MembersLoop):
            self._check_members(loop)

    def _check_members(self, loop: MembersLoop) -> None:
        """Raise DamageError where the networks of a run are not all there, or do not stand at the same step."""
        if len(self.members) != len(loop.loops):
            raise DamageError(f"it has {len(self.members)} networks, the run {len(loop.loops)}")
        here = {"epoch": self.trainer["epoch"], "batch": self.trainer["batch"]}
        for member, each in zip(self.members, loop.loops, strict=True):
            member.check(each)
            if member.trainer["epoch"] > here["epoch"] + (member.diverged is not None):
                raise DamageError("its networks do not stand at the same epoch")

    def put(self, loop: Loop) -> None:
        """Let a loop stand there."""
        parts = loop.parts
        if isinstance(loop, MembersLoop):
            for member, each in zip(self.members, loop.loops, strict=True):
                member.put(each)
            loop.progress, loop.batch, loop.seconds = self.progress, self.trainer["batch"], self.trainer["seconds"]
            loop.gather()
            return
        parts.model.load(self.model)
        for name, target in parts.optimizer.state.items():
            parts.backend.write(target, self.optimizer[name])
        loop.best, loop.progress = self.best, self.progress
        loop.diverged = None if self.diverged is None else Diverged(**self.diverged)
        parts.schedule.state = self.schedule
        parts.trainer.go_to(**self.trainer, totals=self.totals)

    def best_model(self, backend: Backend, path: Path) -> SavedModel:
        """Return the model with the best weights so far, whose probabilities are not calibrated.

        Parameters
        ----------
        path : of the checkpoint, for messages

        Raises
        ------
        DamageError : if no epoch was done yet
        RunError : if the checkpoint is damaged
        """
        if not self.progress.best_epoch:
            raise DamageError("no epoch was done yet", where=str(path))
        weights = self.best
        if self.members:
            usable = [each for each in self.members if each.progress.best_epoch or each.diverged is None]
            weights = {
                f"{prefix(i)}{name}": array for i, each in enumerate(usable) for name, array in each.best.items()
            }
        arrays = {**self.encoder, **{f"network/{name}": array for name, array in weights.items()}}
        return restore(self.description, arrays, backend, str(path))

    def write(self, path: Path) -> None:
        """Write the file of a checkpoint. Raises WriteError."""
        arrays, meta = self._stand("")
        for number, member in enumerate(self.members, 1):
            more, stand = member._stand(f"member_{number}/")
            arrays |= more
            meta.setdefault("members", []).append(stand)
        arrays |= self.encoder
        write_arrays(path, arrays, {"format": FORMAT, **meta, **{name: getattr(self, name) for name in BELONGS}})

    def _stand(self, prefix: str) -> tuple[Arrays, dict[str, Any]]:
        """Return where one loop stands, as arrays by name and all else as JSON."""
        groups = {"model": self.model, "best": self.best, "optimizer": self.optimizer}
        arrays = {f"{prefix}{key}/{name}": a for key, group in groups.items() for name, a in group.items()}
        arrays[f"{prefix}trainer/totals"] = self.totals
        meta: dict[str, Any] = {
            "progress": asdict(self.progress),
            "trainer": self.trainer,
            "schedule": self.schedule,
        }
        return arrays, meta if self.diverged is None else {**meta, "diverged": self.diverged}

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint. Raises DamageError where it is damaged, RunError where it has another format."""
        arrays, meta = read_arrays(path)
        if (version := meta.get("format")) != FORMAT:
            what = f"the checkpoint has format {version!r}; this version of gpumlp resumes from format {FORMAT}"
            raise RunError(what, where=str(path), hint="resume with the version of gpumlp that started the run")
        try:
            belongs = {name: str(meta[name]) for name in ("data", "backend", "history")}
            encoder = {name: arrays.pop(name) for name in [*arrays] if name.startswith("encoder/")}
            members: dict[str, Arrays] = {}
            for name in [name for name in arrays if name.startswith("member_")]:
                member, _, key = name.partition("/")
                members.setdefault(member, {})[key] = arrays.pop(name)
            each = [
                cls._standing(members[f"member_{number}"], stand, {}, dict.fromkeys(belongs, ""))
                for number, stand in enumerate(meta.get("members", ()), 1)
            ]
            return replace(
                cls._standing(arrays, meta, {**meta["settings"]}, belongs),
                epochs=int(meta["epochs"]),
                extensions=tuple({**each} for each in meta["extensions"]),
                description={**meta["description"]},
                encoder=encoder,
                members=tuple(each),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DamageError(f"not a gpumlp checkpoint: {error}", where=str(path)) from None

    @classmethod
    def _standing(
        cls, arrays: Arrays, meta: Mapping[str, Any], settings: dict[str, Any], belongs: Mapping[str, str]
    ) -> Checkpoint:
        groups: dict[str, Arrays] = {"model": {}, "best": {}, "optimizer": {}, "trainer": {}}
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
            settings=settings,
            diverged=None if meta.get("diverged") is None else {**meta["diverged"]},
            data=belongs["data"],
            backend=belongs["backend"],
            history=belongs["history"],
        )


BELONGS = ("data", "backend", "settings", "history", "epochs", "extensions", "description")
"""What a checkpoint belongs to."""


def _shapes(arrays: Arrays) -> dict[str, tuple[Any, ...]]:
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def _like(value: Any, other: int | float) -> bool:
    """Return whether this is a number, a whole one where the other is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if isinstance(other, int) else not math.isnan(value)

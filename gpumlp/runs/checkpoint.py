"""A checkpoint: all that the rest of a run depends on, between two of its steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpumlp.backend import Backend
from gpumlp.errors import DamageError, RunError
from gpumlp.nn.ensemble import of_all
from gpumlp.runs.model import SavedModel, describe, restore
from gpumlp.store.formats import Arrays, read_arrays, write_arrays
from gpumlp.training.loop import Loop, Progress, Stand

FORMAT = 4


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Stand):
    """Where a loop stands, and what it belongs to.

    Parameters
    ----------
    data
        The fingerprint of the rows.
    backend
        The name of the backend.
    settings
        What :func:`gpumlp.runs.identity.decisive` returns.
    history
        SHA-256 of the lines of metrics.jsonl up to here.
    epochs
        Planned epochs of the run.
    extensions
        Where the run was given more epochs than it was begun with: epochs done and planned at each.
    description, encoder
        What :func:`gpumlp.runs.model.describe` returns.
    members
        Of several networks, the checkpoint of each loop; ``model``, ``best`` and ``optimizer`` are empty then.
    """

    data: str
    backend: str
    settings: dict[str, Any]
    history: str
    epochs: int = 0
    extensions: tuple[dict[str, int], ...] = ()
    description: dict[str, Any] = field(default_factory=dict)
    encoder: Arrays = field(default_factory=dict)
    members: tuple[Checkpoint, ...] = ()

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
        return cls(
            **vars(loop.stand()),
            data=loop.parts.data.fingerprint,
            backend=loop.parts.backend.name,
            settings=dict(settings),
            history=history,
            members=tuple(cls._of(each, {}, "") for each in loop.loops),
        )

    def check(self, loop: Loop) -> None:
        """Raise DamageError where this is nowhere that the loop can stand. A checksum finds accidents only."""
        now = Checkpoint._of(loop, {}, "")
        for name, ours in (
            ("model", now.model),
            ("best", loop.weights_kept(self.progress)),
            ("optimizer", now.optimizer),
        ):
            if _shapes(getattr(self, name)) != _shapes(ours):
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
        if (
            not stands
            or progress.epoch != counted
            or not 0 <= progress.best_epoch <= progress.epoch
            or (progress.snapshots and progress.snapshots[-1] > progress.epoch)
        ):
            raise DamageError("its position is not one that a run reaches")
        if len(self.members) != len(loop.loops):
            raise DamageError(f"it has {len(self.members)} networks, the run {len(loop.loops)}")
        here = {"epoch": self.trainer["epoch"], "batch": self.trainer["batch"]}
        for member, each in zip(self.members, loop.loops, strict=True):
            member.check(each)
            if member.trainer["epoch"] > here["epoch"] + (member.diverged is not None):
                raise DamageError("its networks are not at the same epoch")

    def put(self, loop: Loop) -> None:
        """Let a loop stand there."""
        for member, each in zip(self.members, loop.loops, strict=True):
            member.put(each)
        loop.go_to(self)

    def best_model(self, backend: Backend, path: Path) -> SavedModel:
        """Return the model with the best weights so far, whose probabilities are not calibrated.

        Parameters
        ----------
        backend
            Where the model is to compute.
        path
            Path of the checkpoint, for messages.

        Raises
        ------
        DamageError
            If no epoch was done yet.
        RunError
            If the checkpoint is damaged.
        """
        if not self.progress.best_epoch:
            raise DamageError("no epoch was done yet", where=str(path))
        weights = self.best
        if self.members and not weights:
            usable = [each for each in self.members if each.progress.best_epoch or each.diverged is None]
            weights = of_all(each.best for each in usable)
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
            message = f"the checkpoint has format {version!r}; this version of gpumlp resumes from format {FORMAT}"
            raise RunError(message, where=str(path), hint="resume with the version of gpumlp that started the run")
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
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
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


def _like(value: Any, other: Any) -> bool:
    """Return whether this is a number, a whole one where the other is, or several whole ones, each after the last."""
    if isinstance(other, tuple):
        return all(type(each) is int for each in value) and all(a < b for a, b in itertools.pairwise((0, *value)))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if isinstance(other, int) else not math.isnan(value)

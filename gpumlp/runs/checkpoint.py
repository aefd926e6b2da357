"""A checkpoint: all that the rest of a run depends on, between two of its steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpumlp.errors import RunError
from gpumlp.store.formats import Arrays, read_arrays, write_arrays
from gpumlp.training.loop import Loop, Progress

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Where a loop stands.

    model, best, optimizer : arrays by name: the parameters and running averages, the best ones so far, and what the
        optimizer keeps of each parameter
    totals : (4,) the sums over the batches of the epoch at work
    progress : epochs done, and the best of them
    trainer : ``epoch``, ``batch`` and ``seconds`` of the trainer
    schedule : what the schedule remembers
    data : the fingerprint of the rows
    backend : the name of the backend
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

    @classmethod
    def of(cls, loop: Loop) -> Checkpoint:
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
        )

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
            "data": self.data,
            "backend": self.backend,
        }
        write_arrays(path, arrays, meta)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint. Raises DamageError where it is damaged, RunError where it has another format."""
        arrays, meta = read_arrays(path)
        if meta["format"] != FORMAT:
            what = f"the checkpoint has format {meta['format']!r}, this gpumlp goes on from {FORMAT}"
            raise RunError(what, where=str(path), hint="take the gpumlp that the run began with")
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
            trainer=meta["trainer"],
            schedule=meta["schedule"],
            data=meta["data"],
            backend=meta["backend"],
        )

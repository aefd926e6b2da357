"""What is to be explained: the network of a configuration as it starts, or of a run as it ended, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.config import load
from gpumlp.data import Dataset, Encoder
from gpumlp.errors import ConfigError, Note
from gpumlp.nn import Loss, Sequential
from gpumlp.runs import Run, load_run, load_trained
from gpumlp.runs.evaluation import own_parts
from gpumlp.runs.start import start_of
from gpumlp.training.build import build, build_loss, load_data
from gpumlp.training.device_data import network_inputs


@dataclass(frozen=True)
class Subject:
    """A network and its loss, in float64, with the training rows to show them on. ``notes`` are for the user."""

    network: Sequential
    loss: Loss
    encoder: Encoder
    data: Dataset
    notes: tuple[Note, ...]

    def only(self, row: int) -> slice:
        """Return the rows that are just this one, from 0. Raises ConfigError where there is none."""
        if row >= len(self.data):
            raise ConfigError(f"there is no row {row}", where="--row", hint=f"the last is {len(self.data) - 1}")
        return slice(row, row + 1)

    def inputs(self, rows: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the inputs of some training rows as the network takes them, (N, p) float64."""
        stored = self.network.context.backend.asarray(self.data.features.stored[rows])
        return network_inputs(self.network, self.data.features, stored, self.encoder.input_scale).numpy()

    def targets(self, rows: slice) -> np.ndarray[Any, Any]:
        """Return the targets of some training rows: class numbers (N,), or standardised values (N, 1) float64."""
        assert self.data.targets is not None
        targets = self.data.targets[rows]
        return targets if targets.dtype.kind == "i" else targets.astype(np.float64)

    def weights(self, rows: slice) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """Return how much some training rows count, (N,) float64; None where all count alike."""
        return None if self.data.weights is None else self.data.weights[rows].astype(np.float64)


def load_subject(path: Path, overrides: Sequence[str] = (), backend: str | None = None) -> Subject:
    """Read a configuration file, or the folder of a finished run; ``backend`` is used in place of theirs.

    A run keeps its settings: ``overrides`` (KEY=VALUE) are for configurations.
    Raises ConfigError, DataError or RunError where one of them does not fit.
    """
    if run := run_of(path, overrides):
        settings = run.loaded.settings
        model = load_trained(path, backend or settings.backend)
        parts, notes = own_parts(run, model)
        notes = (*model.notes, *notes)
        whole, encoder, train = model.network, model.encoder, parts["train"].some()
    else:
        loaded = load(path, [*overrides, f"backend={backend}"] if backend else overrides)
        settings, start = loaded.settings, start_of(loaded)
        data = load_data(loaded, start.encoder)
        whole = build(settings, data, weights=start.weights).model
        encoder, train, notes = data.encoder, data.train.some(), data.notes
    network = whole.networks[0]
    if len(whole.networks) > 1:
        notes = (*notes, Note(f"this is network 1 of {len(whole.networks)}"))
    _widen(network)
    return Subject(network, build_loss(settings, network, encoder, train), encoder, train, notes)


def run_of(path: Path, overrides: Sequence[str]) -> Run | None:
    """Return the run that this is the folder of, None for a file. Raises ConfigError where it is to be changed."""
    if not path.is_dir():
        return None
    if overrides:
        raise ConfigError("settings of a run cannot be changed", where=str(path), hint="give its configuration")
    return load_run(path, unfinished=True)


def _widen(network: Sequential) -> None:
    """Give the network the same numbers in float64, in which a finite difference has digits to spare."""
    context, arrays = network.context, network.arrays()
    network.build(*network.widths, backend=context.backend, dtype=np.float64, seed=context.seed)
    network.load(arrays)

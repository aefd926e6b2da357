"""What a run starts from: new weights, or with ``model.start_from`` the best ones of another run and its encoding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.config import Loaded, Settings
from gpumlp.data import Encoder, Prepared
from gpumlp.errors import ConfigError, RunError
from gpumlp.runs.evaluation import load_run, load_trained
from gpumlp.runs.identity import decisive, flatten, shown
from gpumlp.runs.model import SavedModel, format_model
from gpumlp.store.formats import Arrays

SHARED = re.compile(
    r"task|model\.(?!start_from|initializer|dropout|activation|norm$).*|data\.(?!train|query|split|missing_target|pack).*"
)
"""Settings that decide what the inputs, the outputs and the layers of a network are."""


@dataclass(frozen=True)
class Start:
    """What a run starts from; without a model, nothing but its seed.

    Parameters
    ----------
    path
        The folder of another run.
    model
        Its model.
    apart
        Whether that has networks of their own; where it has several epochs of one, the last of them is started from.
    """

    path: str = ""
    model: SavedModel | None = None
    apart: bool = False

    @property
    def encoder(self) -> Encoder | None:
        """The encoding that the weights belong to; None: to be fitted to the training rows."""
        return None if self.model is None else self.model.encoder

    @property
    def weights(self) -> Arrays | None:
        """The first weights, by name; None: to be drawn."""
        if self.model is None:
            return None
        networks = self.model.network.networks
        return (self.model.network if self.apart else networks[-1]).arrays()

    @property
    def record(self) -> dict[str, str] | None:
        """What the summary of the run has of it: the folder, and the checksum of the model."""
        if self.model is None:
            return None
        return {"run": self.path, "model": format_model(self.model, self.model.network.arrays())[1]}

    def check_encoding(self, data: Prepared) -> None:
        """Raise RunError if rows were encoded in another way than the weights were trained with."""
        if self.encoder is None or data.encoder is self.encoder:
            return
        (fields, arrays), (others, more) = self.encoder.to_state(), data.encoder.to_state()
        same = fields == others and arrays.keys() == more.keys()
        if not same or not all(np.array_equal(array, more[name]) for name, array in arrays.items()):
            hint = "prepare them with load_data(loaded, start_of(loaded).encoder)"
            raise RunError("the rows are not encoded as in the run to start from", where=self.path, hint=hint)


NEW_WEIGHTS = Start()
"""Weights that are drawn, and an encoding that is fitted."""


def start_of(loaded: Loaded) -> Start:
    """Return what a configuration says that its run starts from.

    Raises
    ------
    RunError
        If ``model.start_from`` is not a run with a model.
    ConfigError
        If a setting is not as in that run, which decides about inputs, outputs or layers.
    """
    path = loaded.settings.model.start_from
    if path is None:
        return NEW_WEIGHTS
    before = load_run(path, unfinished=True).loaded.settings
    if lines := _unlike(before, loaded.settings):
        message = f"the network of {path} cannot be trained further with other settings"
        raise ConfigError(message, where=loaded.where("model.start_from"), hint="\n  ".join(lines))
    return Start(path, load_trained(path, "numpy"), before.members.apart > 1)


def _unlike(before: Settings, now: Settings) -> list[str]:
    """Return the settings that have to be alike and are not, each with both values."""
    then, here = _shared(before), _shared(now)
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    return [f"{name} was {shown(then, name)}, is now {shown(here, name)}" for name in names]


def _shared(settings: Settings) -> dict[str, Any]:
    values = decisive(settings)
    values["model"]["hidden"] = [
        {key: value for key, value in block.model_dump().items() if key != "dropout"}
        for block in settings.model.blocks
    ]
    shared = {name: text for name, text in flatten(values).items() if SHARED.fullmatch(name)}
    if settings.goal.counts or settings.goal.levels:
        shared |= {
            name: text for name, text in flatten(values["loss"], "loss.").items() if name != "loss.class_weight"
        }
    return shared

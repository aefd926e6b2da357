"""Optimizers: what they are called, where they start, and the object that takes a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpumlp.backend import Backend
from gpumlp.backend.base import written
from gpumlp.errors import ConfigError, choices
from gpumlp.ops import UPDATES, Update
from gpumlp.ops.batches import ADVANCE
from gpumlp.ops.hyper import Hyper, settle
from gpumlp.ops.record import Array
from gpumlp.ops.updates import ADD_SQUARE, GRADIENT_NORM
from gpumlp.optim import muon
from gpumlp.optim.muon import Muon
from gpumlp.optim.schedules import LEARNING_RATE


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as it is chosen: its update and its defaults."""

    update: Update
    learning_rate: float
    weight_decay: float = 0.0
    of_matrices: Mapping[str, Hyper] = field(default_factory=dict)
    """Numbers of what updates hidden matrices in place of ``update``; nothing where that updates them, too."""
    schedule: str = "cosine"
    """The schedule of its learning rate where none is chosen."""

    @property
    def meaning(self) -> str:
        """The formula of its update: first that of hidden matrices, where that is another."""
        return f"{muon.MEANING}; of others {self.update.meaning}" if self.of_matrices else self.update.meaning

    @property
    def averages(self) -> bool:
        """Whether it keeps an average of the weights by itself."""
        return bool(self.update.start)

    @property
    def hyper(self) -> Mapping[str, Hyper]:
        return {**self.of_matrices, **self.update.hyper}

    @property
    def slots(self) -> int:
        """How many numbers it keeps of each parameter."""
        return len(self.update.slots) + bool(self.of_matrices)


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(UPDATES["sgd"], 0.1),
    "momentum": OptimizerSpec(UPDATES["momentum"], 0.02),
    "nesterov": OptimizerSpec(UPDATES["nesterov"], 0.02),
    "adagrad": OptimizerSpec(UPDATES["adagrad"], 0.02),
    "rmsprop": OptimizerSpec(UPDATES["rmsprop"], 1e-3),
    "adam": OptimizerSpec(UPDATES["adam"], 3e-3),
    "adamw": OptimizerSpec(UPDATES["adam"], 3e-3, 1e-2),
    "muon": OptimizerSpec(UPDATES["adam"], 0.01, 1e-2, muon.HYPER),
    "schedule_free": OptimizerSpec(UPDATES["schedule_free"], 1e-2, 1e-2, schedule="constant"),
}


_SHARED = {
    "learning_rate": LEARNING_RATE,
    "weight_decay": Hyper(
        0.0, "decoupled weight decay, multiplied by the learning rate in each step", ge=0.0, lt=math.inf
    ),
    "clip_norm": Hyper(math.inf, "largest norm of the whole gradient", gt=0.0),
    "averaging": Hyper(0.0, "decay of the moving average of weights", ge=0.0, lt=1.0),
}
"""What every optimizer can be set by."""


class _Parameters(Protocol):
    backend: Backend
    values: Array
    gradients: Array
    shadow: Array | None
    groups: Array
    hidden: Mapping[str, Any]

    def groups_without_hidden(self, factor: float) -> Array: ...

    def view(self, name: str, buffer: Array) -> Array: ...

    def overwrote(self) -> None: ...

    def write_gradients(self, pairs: Any) -> None: ...


def _writeable(array: Array) -> Array:
    return np.array(array) if isinstance(array, np.ndarray) and not array.flags.writeable else array


class Optimizer:
    """Updates a flat buffer of parameters from the flat buffer of their gradients.

        optimizer = Optimizer("adam", model.parameters, model.context.clock, learning_rate=1e-3)
        optimizer.step()

    In a loop over variables of your own:

        optimizer = Optimizer("adam", Parameters.of([w, b]), learning_rate=1e-2)
        optimizer.apply_gradients(zip(tape.gradient(loss, [w, b]), [w, b]))

    A copy has its own parameters: copy or pickle an optimizer together with its model, as one tuple.

    ``clock`` is the int64 array (3,) of :mod:`gpumlp.ops.batches`, by default one of its own; a step advances it.
    ``rates`` holds the one ``learning_rate`` of steps that are given no rates of their own.

    Parameters
    ----------
    name
        A key of ``OPTIMIZERS``.
    parameters
        What it updates.
    clock
        int64 (3,) on the backend: steps, batch and epoch; a step counts them on.
    learning_rate
        Rate of a step that is given no rates; None: the default of the optimizer.
    weight_decay
        λ of decoupled decay, applied to weights and not to biases or gains.
    clip_norm
        The largest norm of the whole gradient; None for no limit.
    averaging
        β of a moving average of the weights, kept in ``average``; None for none.
    hyper
        The optimizer's own numbers, see ``OPTIMIZERS[name].hyper``.

    Attributes
    ----------
    hyper
        The optimizer's own numbers, see ``OPTIMIZERS[name].hyper``.
    """

    def __init__(
        self,
        name: str,
        parameters: _Parameters,
        clock: Array | None = None,
        *,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        averaging: float | None = None,
        **hyper: float,
    ) -> None:
        if not isinstance(name, str) or name not in OPTIMIZERS:
            raise ConfigError(f"unknown optimizer {name!r:.80}", hint=choices(name, OPTIMIZERS))
        spec = OPTIMIZERS[name]
        if not hasattr(parameters, "gradients"):
            message = f"an optimizer updates Parameters, not a {type(parameters).__name__}"
            raise ConfigError(message, hint="Parameters.of([w, b]) of variables, model.parameters of a model")
        backend, like = parameters.backend, parameters.values
        self.name, self.parameters = name, parameters
        self.clock = backend.zeros((3,), np.int64) if clock is None else clock
        shared_values = {"learning_rate": learning_rate, "weight_decay": weight_decay, "clip_norm": clip_norm}
        shared_values |= {"averaging": averaging}
        if averaging is not None and spec.averages:
            raise ConfigError(f"{name} averages the weights by itself", hint="remove averaging")
        shared = {key: None if v is None else _SHARED[key].check(key, v) for key, v in shared_values.items()}
        self.learning_rate = spec.learning_rate if shared["learning_rate"] is None else shared["learning_rate"]
        self.rates = backend.asarray(np.full(1, self.learning_rate), like.dtype)
        self.slots = {slot: backend.zeros(like.shape, like.dtype) for slot in spec.update.slots}
        for slot in spec.update.start:
            backend.copy(like, self.slots[slot])
        self.totals = {total: backend.zeros((1,), np.float64) for total in spec.update.totals}
        self.average = None if averaging is None else backend.asarray(like, copy=True)
        self.norm = None if clip_norm is None else backend.zeros((1,), like.dtype)
        numbers = settle(f"the optimizer {name}", hyper, spec.hyper, _SHARED)
        of_matrices = {key: numbers.pop(key) for key in spec.of_matrices}
        self.muon = Muon(parameters, of_matrices["momentum"]) if of_matrices else None
        self.groups = parameters.groups_without_hidden(of_matrices["others"]) if of_matrices else None
        self.settings: dict[str, Any] = {
            "weight_decay": spec.weight_decay if shared["weight_decay"] is None else shared["weight_decay"],
            "clip_norm": shared["clip_norm"],
            "averaging": shared["averaging"],
            **numbers,
        }

    @property
    def update(self) -> Update:
        """The record of its update."""
        return OPTIMIZERS[self.name].update

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was copied or unpickled; joblib's workers get large arrays that nobody may write to."""
        vars(self).update(state)
        self.slots = {name: _writeable(array) for name, array in self.slots.items()}
        self.totals = {name: _writeable(array) for name, array in self.totals.items()}
        self.average = None if self.average is None else _writeable(self.average)
        if self.muon is not None:
            self.muon.velocity = _writeable(self.muon.velocity)

    def apply_gradients(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Take a step by gradients given in pairs with their variables; None is 0.

        Parameters
        ----------
        pairs
            (gradient, variable), in any order.
        """
        self.parameters.write_gradients(pairs)
        self.step()

    def step(self, rates: Array | None = None, decays: Array | None = None) -> None:
        """Advance the clock, and update the parameters from their gradients.

        ``rates`` holds the learning rate of each batch of the epoch, the last one for any that follow, so that a
        captured step follows a schedule without the host. ``decays`` holds factors of the weight decay alike.

        The clock comes first, so that a batch may be gathered while the update of the one before is being made.

        Parameters
        ----------
        rates
            (batches,) learning rates of an epoch, on the backend; None: the rate of the optimizer.
        decays
            (batches,) factors of the weight decay; None: 1.
        """
        p, backend = self.parameters, self.parameters.backend
        rates = self.rates if rates is None else rates
        backend.run(ADVANCE, "forward", (self.clock,), (self.clock,))
        if self.norm is not None:
            backend.run(GRADIENT_NORM, "forward", (p.gradients,), (self.norm,))
        if self.muon is not None:  # before the others: their pass averages and rounds what it leaves as it is
            shared = {key: self.settings[key] for key in ("weight_decay", "clip_norm")}
            self.muon.step(rates, decays, self.clock, self.norm, **shared)
        for total in self.totals.values():
            backend.run(ADD_SQUARE, "forward", (total, rates, self.clock), (total,))
        state = tuple(self.slots.values())
        inputs = (
            p.values,
            p.gradients,
            rates,
            decays,
            p.groups if self.groups is None else self.groups,
            self.clock,
            self.norm,
            self.average,
            p.shadow,
            *state,
            *self.totals.values(),
        )
        outputs = (p.values, self.average, p.shadow, *state)
        backend.run(self.update, "forward", inputs, outputs, **self.settings)
        p.overwrote()

    @property
    def state(self) -> dict[str, Array]:
        """Everything that a resumed run needs besides parameters and clock: slots and average, by name."""
        further = self.totals | ({} if self.muon is None else {"velocity": self.muon.velocity})
        return self.slots | further | ({} if self.average is None else {"average": self.average})

    @property
    def weights(self) -> Array:
        """The weights to evaluate and keep: the average where there is one."""
        if OPTIMIZERS[self.name].averages:
            return self.parameters.backend.compute(
                "average", _average, self.parameters.values, self.slots["z"], beta=self.settings["beta1"]
            )
        return self.parameters.values if self.average is None else self.average


def _average(y: Array, z: Array, *, beta: float, out: Array | None) -> Array:
    """Return x of y = (1 - β) z + β x."""
    return written(y + ((1.0 - beta) / beta) * (y - z), out)

"""Schedules: the factor by which the learning rate, the weight decay or dropout is multiplied, batch by batch.

A schedule is a pure function of the progress of the run, except ``plateau``, which also remembers how the
validation loss went. Linear warm-up comes before any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError, choices
from gpumlp.ops.hyper import Hyper, settle

Factors = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule as it is chosen.

    ``factors(progress, epochs, **hyper)`` gets, for each batch, the share of the run that is done since warm-up, in
    [0, 1), and the epochs done, with the part of the present one.
    """

    meaning: str
    factors: Callable[..., Factors]
    hyper: Mapping[str, Hyper] = field(default_factory=dict)
    watches: bool = False  # reacts to the validation loss


def _cosine(progress: Factors, epochs: Factors, *, final: float) -> Factors:
    return final + (1.0 - final) * 0.5 * (1.0 + np.cos(np.pi * progress))


def _one_cycle(progress: Factors, epochs: Factors, *, peak: float, start: float, final: float) -> Factors:
    def between(a: float, b: float, t: Factors) -> Factors:
        return b + (a - b) * 0.5 * (1.0 + np.cos(np.pi * t))

    return np.where(
        progress < peak,
        between(start, 1.0, progress / peak),
        between(1.0, final, (progress - peak) / (1.0 - peak)),
    )


def _cosine_log(progress: Factors, epochs: Factors, *, cycles: float) -> Factors:
    turns: Factors = np.log2(1.0 + (2.0**cycles - 1.0) * progress)
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * turns)


def _flat_cosine(progress: Factors, epochs: Factors, *, flat: float) -> Factors:
    return 0.5 * (1.0 + np.cos(np.pi * np.maximum(progress - flat, 0.0) / (1.0 - flat)))


SCHEDULES: dict[str, ScheduleSpec] = {
    "constant": ScheduleSpec("1", lambda progress, epochs: np.ones_like(progress)),
    "step": ScheduleSpec(
        "factor^(epochs done // every)",
        lambda progress, epochs, *, every, factor: factor ** (epochs // every),
        {
            "every": Hyper(10.0, "epochs between reductions", ge=1.0),
            "factor": Hyper(0.5, "factor of each reduction", gt=0.0, le=1.0),
        },
    ),
    "exponential": ScheduleSpec(
        "factor^(epochs done), continuously",
        lambda progress, epochs, *, factor: factor**epochs,
        {"factor": Hyper(0.95, "factor per epoch", gt=0.0, le=1.0)},
    ),
    "cosine": ScheduleSpec(
        "half a cosine from 1 to final (Loshchilov and Hutter 2016, arXiv:1608.03983)",
        _cosine,
        {"final": Hyper(0.0, "factor at the end of the run", ge=0.0, le=1.0)},
    ),
    "one_cycle": ScheduleSpec(
        "up from start to 1, then down to final, along cosines (Smith 2018, arXiv:1803.09820)",
        _one_cycle,
        {
            "peak": Hyper(0.3, "share of the run after which the rate is highest", gt=0.0, lt=1.0),
            "start": Hyper(0.04, "factor at the start", gt=0.0, le=1.0),
            "final": Hyper(4e-6, "factor at the end", ge=0.0, le=1.0),
        },
    ),
    "coslog": ScheduleSpec(
        "½ (1 - cos(2π log₂(1 + (2^cycles - 1) t))): cycles from 0 to 1 and back, each twice as long as the last "
        "(Holzmüller et al. 2024, arXiv:2407.04491)",
        _cosine_log,
        {"cycles": Hyper(4.0, "number of cycles", ge=1.0, le=16.0)},
    ),
    "flat_cos": ScheduleSpec(
        "1, then half a cosine from 1 to 0",
        _flat_cosine,
        {"flat": Hyper(0.5, "share of the run at the full value", ge=0.0, lt=1.0)},
    ),
    "plateau": ScheduleSpec(
        "times factor whenever the validation loss has not improved for `patience` epochs",
        lambda progress, epochs, *, factor, patience: np.ones_like(progress),
        {
            "factor": Hyper(0.5, "factor of each reduction", gt=0.0, lt=1.0),
            "patience": Hyper(5.0, "epochs without a lower validation loss before a reduction", ge=1.0),
        },
        watches=True,
    ),
}


FACTORS = {name: spec for name, spec in SCHEDULES.items() if not spec.watches}
"""Schedules that other quantities than the learning rate can follow, with the default settings of each."""

LEARNING_RATE = Hyper(0.0, "learning rate (step size)", ge=0.0, lt=math.inf)
WARMUP = Hyper(0.0, "share of all steps over which the learning rate rises from 0", ge=0.0, lt=1.0)


class Schedule:
    """The learning rate over a run.

    Parameters
    ----------
    name
        A key of ``SCHEDULES``.
    learning_rate
        The rate that the factors multiply, per step.
    warmup
        Share of all steps over which the rate rises linearly from near 0, in [0, 1).
    hyper
        The schedule's own numbers, see ``SCHEDULES[name].hyper``.
    """

    def __init__(self, name: str = "constant", *, learning_rate: float, warmup: float = 0.0, **hyper: float) -> None:
        if not isinstance(name, str) or name not in SCHEDULES:
            raise ConfigError(f"unknown schedule {name!r:.80}", hint=choices(name, SCHEDULES))
        self.name = name
        self.learning_rate = LEARNING_RATE.check("learning_rate", learning_rate)
        self.warmup = WARMUP.check("warmup", warmup)
        self.hyper = settle(f"the schedule {name}", hyper, self.spec.hyper)
        self.scale, self.best, self.waited = 1.0, math.inf, 0.0  # of plateau

    @property
    def spec(self) -> ScheduleSpec:
        """What it is chosen as."""
        return SCHEDULES[self.name]

    def rates(self, epoch: int, batches: int, epochs: int) -> Factors:
        """Return the learning rate of each batch of an epoch.

        Parameters
        ----------
        epoch
            The epoch, counted from 0.
        batches
            Batches of an epoch.
        epochs
            Epochs of the run.

        Returns
        -------
        numpy.ndarray
            float64 (batches,).
        """
        steps = epoch * batches + np.arange(batches, dtype=np.float64)
        total = epochs * batches
        warm = round(self.warmup * total)
        progress = np.clip((steps - warm) / max(total - warm, 1), 0.0, 1.0)
        factors = np.where(
            steps < warm,
            (steps + 1.0) / max(warm, 1),
            self.spec.factors(progress, steps / batches, **self.hyper),
        )
        return self.learning_rate * self.scale * factors

    def observe(self, loss: float) -> None:
        """Take note of the validation loss of an epoch, which only ``plateau`` looks at.

        Parameters
        ----------
        loss
            The validation loss.
        """
        if not self.spec.watches:
            return
        if loss < self.best:
            self.best, self.waited = loss, 0.0
            return
        self.waited += 1.0
        if self.waited >= self.hyper["patience"]:
            self.scale, self.waited = self.scale * self.hyper["factor"], 0.0

    @property
    def state(self) -> dict[str, float]:
        """What a resumed run must know."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    @state.setter
    def state(self, state: Mapping[str, float]) -> None:
        self.scale, self.best, self.waited = (float(state[key]) for key in ("scale", "best", "waited"))

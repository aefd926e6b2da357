"""Numbers that a user may set: of operations, layers, optimizers and schedules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

from gpumlp.errors import ConfigError, choices


@dataclass(frozen=True)
class Hyper:
    """A number that a user may set: its default, what it means, and its range."""

    default: float
    meaning: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def check(self, name: str, value: Any) -> float:
        """Return the value as a float, as kernels take it.

        Raises ConfigError where it is not a number, or out of range (as NaN is of any).
        """
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ConfigError(f"{name} is {value!r:.80}", hint="give a number")
        if not all(holds(value, bound) for _, holds, bound in self._bounds):
            allowed = " and ".join(f"{sign} {bound:g}" for sign, _, bound in self._bounds)
            raise ConfigError(f"{name} is {value}", hint=f"allowed: {allowed}")
        return float(value)

    @cached_property
    def _bounds(self) -> tuple[tuple[str, Callable[[Any, Any], bool], float], ...]:
        """The bounds that there are, each as its sign, a comparison and a number."""
        bounds = (
            (">", operator.gt, self.gt),
            (">=", operator.ge, self.ge),
            ("<", operator.lt, self.lt),
            ("<=", operator.le, self.le),
        )
        return tuple((sign, holds, bound) for sign, holds, bound in bounds if bound is not None)


def whole(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number. Raises ConfigError for anything else, and for less than ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{name} is {value!r:.80}", hint=f"give a whole number, at least {least}")
    return int(value)


def settle(
    owner: str, values: Mapping[str, float], declared: Mapping[str, Hyper], others: Iterable[str] = ()
) -> dict[str, float]:
    """Return every declared number, as given or else by default. ``others`` are names for a hint.

    Raises ConfigError for a number that is not declared, or out of its range.
    """
    for name in values:
        if name not in declared:
            raise ConfigError(f"{owner} has no setting {name!r}", hint=choices(name, [*declared, *others]))
    return {
        name: number.check(f"{name} of {owner}", values[name]) if name in values else float(number.default)
        for name, number in declared.items()
    }

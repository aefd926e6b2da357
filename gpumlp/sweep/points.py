"""The points of a sweep: each is a pure function of the space, the seed and its number."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpumlp.errors import ConfigError
from gpumlp.seeds import SEARCH, generator

_RANGE = re.compile(r"\s*(log|uniform|int)\s*\(([^,()]*),([^,()]*)\)\s*")
_PAIRS = {"[": "]", "{": "}", "(": ")"}
MAX_GRID = 1_000_000
"""Most points of a grid."""


@dataclass(frozen=True)
class Dimension:
    """A setting and the values it may take: a list of YAML texts, or a range of numbers.

    Parameters
    ----------
    kind
        Choices, log, uniform or int.
    low, high
        Ends of the range; those of int belong to it.
    """

    setting: str
    kind: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def at(self, u: float) -> str:
        """Return the value at ``u``, in [0, 1), as YAML."""
        if self.kind == "choices":
            return self.choices[int(u * len(self.choices))]
        if self.kind == "int":
            return str(int(self.low) + int(u * (self.high - self.low + 1)))
        if self.kind == "log":
            return repr(math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low))))
        return repr(self.low + u * (self.high - self.low))

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that show whether all are valid."""
        return self.choices or tuple(str(int(e)) if self.kind == "int" else repr(e) for e in (self.low, self.high))


@dataclass(frozen=True)
class Space:
    """All points, by number from 0. Without ``trials`` they are a grid; the last setting changes first."""

    dimensions: tuple[Dimension, ...]
    trials: int | None
    seed: int

    def __post_init__(self) -> None:
        ranges = [each.setting for each in self.dimensions if each.kind != "choices"]
        if not self.dimensions:
            hint = "for example --set model.hidden=[64],[128,64] --set optimizer.learning_rate=1e-3,1e-2"
            raise ConfigError("there is nothing to try", where="--set", hint=hint)
        if ranges and self.trials is None:
            raise ConfigError(
                f"{ranges[0]} is a range, so the sweep has no end", where="--trials", hint="add --trials N"
            )
        if self._size is not None and self._size > MAX_GRID:
            raise ConfigError(
                f"the grid has {self._size:,} points", where="--set", hint="use fewer values, or --trials N"
            )

    @property
    def _size(self) -> int | None:
        """How many points the grid has; None if there is a range."""
        if any(each.kind != "choices" for each in self.dimensions):
            return None
        return math.prod(len(each.choices) for each in self.dimensions)

    def __len__(self) -> int:
        size = self._size
        if size is None or self.trials is None:
            return size if self.trials is None and size is not None else int(self.trials or 0)
        return min(size, self.trials)

    def point(self, number: int) -> tuple[str, ...]:
        """Return the overrides of a point."""
        size = self._size
        if size is None:
            draws = generator(self.seed, SEARCH, number).random(len(self.dimensions))
            values = [each.at(float(u)) for each, u in zip(self.dimensions, draws, strict=True)]
        else:
            if self.trials is not None and self.trials < size:
                number = int(generator(self.seed, SEARCH).permutation(size)[number])
            values = []
            for each in reversed(self.dimensions):
                number, rest = divmod(number, len(each.choices))
                values.insert(0, each.choices[rest])
        return tuple(f"{each.setting}={value}" for each, value in zip(self.dimensions, values, strict=True))


def dimension_of(override: str) -> Dimension | None:
    """Return what ``key=a,b`` or ``key=log(a,b)`` stands for; None for one value, which is a plain override.

    Raises
    ------
    ConfigError
        If a range is wrong.
    """
    setting, equals, value = override.partition("=")
    setting = setting.strip()
    if not equals:
        return None
    if match := _RANGE.fullmatch(value):
        kind, where = match[1], f"--set {setting}"
        try:
            low, high = float(match[2]), float(match[3])
        except ValueError:
            raise ConfigError(f"{value.strip()} needs two numbers", where=where, hint=f"as {kind}(1,10)") from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"{value.strip()}: the first number must be below the second", where=where)
        if kind == "log" and low <= 0:
            raise ConfigError(f"{value.strip()} must be above 0", where=where, hint="use uniform(a,b)")
        if kind == "int" and not (low.is_integer() and high.is_integer()):
            raise ConfigError(f"{value.strip()} needs whole numbers", where=where, hint="use uniform(a,b)")
        return Dimension(setting, kind, low=low, high=high)
    pieces = divided(value)
    return Dimension(setting, "choices", tuple(pieces)) if len(pieces) > 1 else None


def divided(text: str) -> list[str]:
    """Return the parts of a text between commas that are not in brackets or quotes."""
    parts, open_brackets, quote = [""], [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _PAIRS:
            open_brackets.append(_PAIRS[letter])
        elif open_brackets and letter == open_brackets[-1]:
            open_brackets.pop()
        elif letter == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def numbers_of(count: int, part: str | None) -> Sequence[int]:
    """Return the numbers of the points that part ``i/N`` has: those that leave i when divided by N.

    Raises
    ------
    ConfigError
        If it is not of this form.
    """
    if part is None:
        return range(count)
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 0 <= int(match[1]) <= int(match[2]) or int(match[2]) == 0:
        raise ConfigError(f"{part!r} is not a part", where="--part", hint="for example 0/4, 1/4, 2/4 and 3/4")
    of = int(match[2])
    return list(itertools.islice(range(count), int(match[1]) % of, None, of))

"""What the network learns to predict: class numbers, or standardised numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.source.cells import FLOAT32_MAX, FLOAT32_TINY, Floats, Missing, parse_numbers
from gpumlp.data.source.frame import Codes
from gpumlp.data.state import StateReader
from gpumlp.errors import DataError, choices, shown

Where = Callable[[int], str]
"""Gives the place of a row, for messages."""

# A few rows may well be of as many classes. Above this, every row its own class is a mistake.
_FEW_ROWS = 50
_LISTED_CLASSES = 20


@dataclass(frozen=True)
class ClassTarget:
    """Classes by name, in sorted order: by value if all of them are numbers, else as text.

    Of two classes the second one is the positive class: ``yes`` of no and yes, ``1`` of 0 and 1.
    """

    classes: tuple[str, ...]

    @classmethod
    def fit(cls, labels: Codes, where: Where) -> ClassTarget:
        """Find the classes of (N,) labels.

        Raises
        ------
        DataError : if a label is missing, there is one class only, or every row is its own class
        """
        _require_present((labels.texts == "")[labels.codes], where)
        names = sorted(labels.texts.tolist())
        values = parse_numbers(np.array(names, dtype=object))
        if values is not None:
            if not np.isfinite(values).all():
                name = names[int(np.argmin(np.isfinite(values)))]
                row = int(np.argmax(labels.codes == labels.texts.tolist().index(name)))
                raise DataError(f"the class {shown(name)} is no finite number", where=where(row))
            names = [names[i] for i in np.argsort(values, kind="stable")]
        if len(names) == 1:
            raise DataError(
                f"every row is of the class {shown(names[0])}; there is nothing to tell apart",
                where=where(0),
                hint="check the name of the target",
            )
        if len(names) == len(labels) > _FEW_ROWS:
            raise DataError(
                f"each of the {len(labels)} rows is its own class",
                where=where(0),
                hint="check the name of the target, or set the task to regression",
            )
        return cls(tuple(names))

    def encode(self, labels: Codes, where: Where) -> NDArray[np.int32]:
        """Return the class numbers, (N,) int32.

        Raises
        ------
        DataError : if a label is missing, or is none of the classes
        """
        _require_present((labels.texts == "")[labels.codes], where)
        numbers = {name: number for number, name in enumerate(self.classes)}
        by_value = self._by_value()
        found = (numbers.get(text, by_value.get(_value(text), -1)) for text in labels.texts)
        codes = np.fromiter(found, np.int32, len(labels.texts))[labels.codes]
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            label = labels.texts[labels.codes[row]]
            raise DataError(
                f"the class {shown(label)} does not occur in the training data",
                where=where(row),
                hint=choices(label, self.classes[:_LISTED_CLASSES]),
            )
        return codes

    def _by_value(self) -> dict[float | None, int]:
        """Return the classes that are numbers by their value: programs write 1 as 1.0 once a cell is empty."""
        values = [_value(name) for name in self.classes]
        return {value: i for i, value in enumerate(values) if value is not None and values.count(value) == 1}

    def doubts(self, missing: Missing) -> list[str]:
        """Return notes on classes that may be one and the same, as ``1`` and ``1.0``, or none at all, as ``-``."""
        alike: dict[float | str, list[str]] = {}
        for name in self.classes:
            value = parse_numbers(np.array([name], dtype=object))
            alike.setdefault(name.casefold() if value is None else float(value[0]), []).append(name)
        notes = [f"{_listed(names)} are different classes" for names in alike.values() if len(names) > 1]
        empty = [name for name in self.classes if name in missing.among_numbers]
        if empty:
            notes.append(f"taken for classes, not for missing values: {_listed(empty)}")
        return notes

    @property
    def outputs(self) -> int:
        """Network outputs: one logit for two classes, else one per class."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        return {"classes": list(self.classes)}

    @classmethod
    def from_state(cls, state: StateReader) -> ClassTarget:
        """Restore.

        Raises
        ------
        RunError : if the state is damaged
        """
        classes = state.texts("classes")
        if len(classes) < 2:
            raise state.wrong("classes", "must be two or more")
        return cls(classes)


@dataclass(frozen=True)
class NumberTarget:
    """Numbers, standardised by the mean and standard deviation of the training rows."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Floats, where: Where) -> NumberTarget:
        """Fit to (N,) training values.

        Raises
        ------
        DataError : if a value is missing, or all are equal
        """
        _require_present(np.isnan(values), where)
        deviation = float(values.std())
        if values.min() == values.max():
            raise DataError(f"the target is {values[0]} in every training row", where=where(0))
        if deviation < FLOAT32_TINY:
            what = f"the target varies by {deviation:.2g}, less than 32-bit floats can tell"
            raise DataError(what, where=where(0), hint="multiply it, such as by changing its unit")
        return cls(float(values.mean()), deviation)

    def encode(self, values: Floats, where: Where) -> NDArray[np.float32]:
        """Return the standardised values, (N, 1) float32.

        Raises
        ------
        DataError : if a value is missing, or too far from the training values
        """
        _require_present(np.isnan(values), where)
        scaled = (values - self.mean) / self.deviation
        far = np.abs(scaled) > FLOAT32_MAX
        if far.any():
            row = int(np.argmax(far))
            raise DataError(f"the target {values[row]} is too far from the training values", where=where(row))
        return scaled.astype(np.float32)[:, None]

    def restore(self, outputs: NDArray[np.floating[Any]]) -> Floats:
        """Return network outputs, (N, 1), in the units of the target, (N,) float64."""
        return outputs.astype(np.float64).reshape(-1) * self.deviation + self.mean

    @property
    def outputs(self) -> int:
        """Network outputs: one."""
        return 1

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, state: StateReader) -> NumberTarget:
        """Restore.

        Raises
        ------
        RunError : if the state is damaged
        """
        mean, deviation = state.number("mean"), state.number("deviation")
        if deviation < FLOAT32_TINY:
            raise state.wrong("deviation", f"must be at least {FLOAT32_TINY}")
        return cls(mean, deviation)


def _value(text: str) -> float | None:
    values = parse_numbers(np.array([text], dtype=object))
    return None if values is None or np.isnan(values[0]) else float(values[0])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(shown, names[:_LISTED_CLASSES]))


def _require_present(missing: NDArray[np.bool_], where: Where) -> None:
    if missing.any():
        row = int(np.argmax(missing))
        others = int(missing.sum()) - 1
        what = "the target is missing" + (f", as it is in {others} more row{'s' * (others > 1)}" if others else "")
        raise DataError(what, where=where(row), hint="set data.missing_target to drop, which leaves such rows out")

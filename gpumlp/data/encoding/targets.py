"""What the network learns to predict: class numbers, or standardised numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.transforms import Transform
from gpumlp.data.source.cells import FLOAT32_MAX, FLOAT32_TINY, Floats, Missing, parse_numbers
from gpumlp.data.source.frame import TYPES, Codes
from gpumlp.data.state import StateReader
from gpumlp.errors import DataError, choices, in_words, listed, shown

Where = Callable[[int], str]
"""Gives the place of a row, for messages."""

# A few rows may well be of as many classes. Above this, every row its own class is a mistake.
_FEW_ROWS = 50
_TRUTHS = {"true": 1.0, "false": 0.0}  # which programs write as True, TRUE, true or 1
_WHOLE_CLASS = re.compile(r"[+-]?(0|[1-9][0-9]{0,38})")
_NUMBER_CLASS = re.compile(r"[+-]?(0|[1-9][0-9]{0,38})(\.[0-9]*)?(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_MIN_ROUNDED = 2.0**53  # from which on float64 does not hold every whole number
_LARGEST_LOGARITHM = 700.0  # whose exponential float64 holds


@dataclass(frozen=True)
class ClassTarget:
    """Classes by name, in sorted order: by value if all of them are numbers, else as text.

    Of two classes the second one is the positive class: ``yes`` of no and yes, ``1`` of 0 and 1.

    Parameters
    ----------
    classes
        Names of the classes, as a file has them.
    type
        Type of the classes where they are returned in Python, one of ``TYPES``.
    """

    classes: tuple[str, ...]
    type: str = field(default="text", compare=False)

    @classmethod
    def fit(cls, labels: Codes, where: Where, type_: str | None = None) -> ClassTarget:
        """Find the classes of (N,) labels.

        Parameters
        ----------
        labels
            (N,).
        where
            Returns where a row is, for messages.
        type_
            Type of the labels, where the source has types; None: the one that the classes look like.

        Raises
        ------
        DataError
            If a label is missing, there is one class only, or every row is its own class.
        """
        require_labels(labels, where)
        names = sorted_classes(labels.texts.tolist(), labels, where)
        if len(names) == 1:
            raise DataError(
                f"every row is of the class {shown(names[0])}; a classifier needs at least two",
                where=where(0),
                hint="check the name of the target",
            )
        if len(names) == len(labels) > _FEW_ROWS:
            raise DataError(
                f"each of the {len(labels)} rows is its own class",
                where=where(0),
                hint="check the name of the target, or set the task to regression",
            )
        return cls.of(names, type_)

    @classmethod
    def of(cls, names: Sequence[str], type_: str | None) -> ClassTarget:
        """Return the target of these classes, of a type, or None: of the first that all of them look like."""
        types = [type_] if type_ is not None else ["boolean", "integer", "number"]
        return cls(tuple(names), next((each for each in types if _fits(names, each)), "text"))

    @cached_property
    def values(self) -> NDArray[Any]:
        """The classes in their type, (C,): bool, int64 (objects where one is larger), float64, or str as objects."""
        if self.type == "integer":
            whole = [int(name) for name in self.classes]
            return np.array(whole, np.int64 if all(-(2**63) <= each < 2**63 for each in whole) else object)
        if self.type == "boolean":
            return np.array([name.lower() == "true" for name in self.classes])
        return np.array(self.classes, np.float64 if self.type == "number" else object)

    def encode(self, labels: Codes, where: Where, *, unseen: bool = False) -> NDArray[np.int32]:
        """Return the class numbers, (N,) int32; -1 for other labels, if these may come (``unseen``).

        Raises
        ------
        DataError
            If a label is missing, or is not one of the classes.
        """
        require_labels(labels, where)
        numbers = self.numbers(labels.texts)
        codes = numbers[labels.codes]
        if (numbers < 0).any() and not unseen and (codes < 0).any():
            row = int(np.argmax(codes < 0))
            label = labels.texts[labels.codes[row]]
            raise DataError(
                f"the class {shown(label)} does not occur in the training data",
                where=where(row),
                hint=choices(label, self.classes),
            )
        return codes

    def numbers(self, texts: NDArray[Any]) -> NDArray[np.int32]:
        """Return the class numbers of texts, (n,) int32; -1 for one that is not a class."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        by_value = self._by_value()
        codes = (numbers.get(text, by_value.get(_value(text), -1)) for text in texts)
        return np.fromiter(codes, np.int32, len(texts))

    def _by_value(self) -> dict[float | None, int]:
        """Return the classes that are numbers by their value: 1 is 1.0 once a cell is empty, and True."""
        values = [_value(name) for name in self.classes]
        counts = Counter(values)
        return {value: i for i, value in enumerate(values) if value is not None and counts[value] == 1}

    def doubts(self, missing: Missing) -> list[str]:
        """Return doubts about classes: two that may be the same (``1``, ``1.0``), or missing values (``-``)."""
        alike: dict[float | str, list[str]] = {}
        for name in self.classes:
            value = _value(name)
            alike.setdefault(name.casefold() if value is None else value, []).append(name)
        notes = [
            f"{in_words([*map(shown, names)])} are different classes" for names in alike.values() if len(names) > 1
        ]
        empty = [shown(name) for name in self.classes if name in missing.among_numbers]
        if empty:
            notes.append(f"taken for classes, not for missing values: {listed(empty)}")
        return notes

    @property
    def outputs(self) -> int:
        """Network outputs: one logit for two classes, else one per class."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        return {"classes": list(self.classes), "type": self.type}

    @classmethod
    def from_state(cls, state: StateReader) -> ClassTarget:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        classes = state.texts("classes")
        if len(classes) < 2:
            raise state.wrong("classes", "must be two or more")
        # Models of earlier versions have no type, and return texts as they did.
        type_ = state.text("type", allowed=TYPES) if state.has("type") else "text"
        if not _fits(classes, type_):
            raise state.wrong("type", f"is {type_}, which the classes are not")
        return cls(classes, type_)


@dataclass(frozen=True)
class Goal:
    """How numbers to predict are encoded, as far as the settings decide.

    Parameters
    ----------
    transform
        A name in ``TRANSFORMS``.
    counts
        Whether the network predicts the logarithm of an expected count.
    levels
        Quantiles that are predicted of each target, rising; () for one number.
    relative
        Whether errors are shares of the target, which is divided by its mean size alone then.
    """

    transform: str = "none"
    counts: bool = False
    levels: tuple[float, ...] = ()
    relative: bool = False


PLAIN = Goal()
"""Numbers as they are, one for each target."""


@dataclass(frozen=True)
class NumberTarget:
    """Numbers, standardised by the mean and standard deviation of the training rows.

    Parameters
    ----------
    mean, deviation
        Mean and standard deviation of the training rows, after the transform; counts are divided by their mean alone,
        and where errors are relative numbers by their mean size.
    transform
        What is standardised in place of the values.
    counts
        Whether network outputs are logarithms of expected counts.
    """

    mean: float
    deviation: float
    transform: Transform | None = None
    counts: bool = False

    @classmethod
    def fit(
        cls, values: Floats, where: Where, goal: Goal = PLAIN, *, gaps: bool = False, name: str | None = None
    ) -> NumberTarget:
        """Fit to (N,) training values.

        Parameters
        ----------
        values
            (N,) float64.
        where
            Returns where a row is, for messages.
        goal
            The loss and the transform that the values are for.
        gaps
            Whether values may be missing, as NaN.
        name
            Name of the target, where there are several.

        Raises
        ------
        DataError
            If a value is missing, or all are equal, or the loss or transform has no place for one.
        """
        called = "the target" if name is None else f"the target {name!r}"
        missing = np.isnan(values)
        if not gaps:
            require_present(missing, where)
        elif missing.all():
            raise DataError(f"{called} has no value in any training row", where=where(0))
        present = values[~missing]
        if goal.counts and (present < 0).any():
            row = int(np.argmax(values < 0))
            message = f"{called} is {values[row]:g}, but the loss poisson predicts counts, which are at least 0"
            raise DataError(message, where=where(row), hint="choose another loss, such as squared_error")
        if present.min() == present.max():
            raise DataError(f"{called} is {present[0]:.15g} in every training row", where=where(0))
        transform = None if goal.transform == "none" else Transform.fit(goal.transform, values, where)
        if transform is not None:
            present = transform.forward(present)
        if goal.counts:
            return cls(0.0, float(present.mean()), None, True)
        deviation = float(np.abs(present).mean() if goal.relative else present.std())
        if deviation < FLOAT32_TINY:
            message = f"{called} varies by {deviation:.2g}, less than 32-bit floats resolve"
            raise DataError(message, where=where(0), hint="multiply it, such as by changing its unit")
        return cls(0.0 if goal.relative else float(present.mean()), deviation, transform)

    def encode(self, values: Floats, where: Where, *, gaps: bool = False) -> NDArray[np.float32]:
        """Return the standardised values, (N, 1) float32, with ``gaps`` NaN where one is missing.

        Raises
        ------
        DataError
            If a value is missing, too far from the training values, or has no transform.
        """
        missing = np.isnan(values)
        if not gaps:
            require_present(missing, where)
        inner = values if self.transform is None else self.transform.forward(values)
        scaled = (inner - self.mean) / self.deviation
        far = ~missing & ~(np.abs(scaled) <= FLOAT32_MAX)
        if far.any():
            row = int(np.argmax(far))
            if self.transform is not None and np.isnan(inner[row]):
                raise DataError(f"the target {values[row]:g} has no logarithm", where=where(row))
            raise DataError(f"the target {values[row]} is too far from the training values", where=where(row))
        return scaled.astype(np.float32)[:, None]

    def decode(self, targets: NDArray[np.floating[Any]]) -> Floats:
        """Return encoded targets, (N, 1), in the units of the target, (N,) float64."""
        inner = targets.astype(np.float64).reshape(-1) * self.deviation + self.mean
        return inner if self.transform is None else self.transform.inverse(inner)

    def restore(self, outputs: NDArray[np.floating[Any]]) -> Floats:
        """Return network outputs, (N, 1), in the units of the target, (N,) float64."""
        if not self.counts:
            return self.decode(outputs)
        logarithms = np.minimum(outputs.astype(np.float64).reshape(-1), _LARGEST_LOGARITHM)
        return np.exp(logarithms) * self.deviation

    @property
    def outputs(self) -> int:
        """Network outputs: one."""
        return 1

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        state: dict[str, Any] = {"mean": self.mean, "deviation": self.deviation}
        if self.transform is not None:
            state["transform"] = self.transform.to_state()
        return state | ({"counts": True} if self.counts else {})

    @classmethod
    def from_state(cls, state: StateReader) -> NumberTarget:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        mean, deviation = state.number("mean"), state.number("deviation")
        if deviation < FLOAT32_TINY:
            raise state.wrong("deviation", f"must be at least {FLOAT32_TINY}")
        transform = Transform.from_state(state.section("transform")) if state.has("transform") else None
        return cls(mean, deviation, transform, state.has("counts") and state.flag("counts"))


@dataclass(frozen=True)
class NumberTargets:
    """Several numbers, or several quantiles of each. Values may be missing, as NaN, which a loss leaves out.

    Parameters
    ----------
    names, columns
        Names of the T targets, and their encodings, each standardised by itself.
    levels
        Q quantiles of each target, rising; () for one number.

    Notes
    -----
    The outputs of the network are those of the first target at each level, then of the second, and so on.
    """

    names: tuple[str, ...]
    columns: tuple[NumberTarget, ...]
    levels: tuple[float, ...] = ()

    @classmethod
    def fit(cls, values: Mapping[str, Floats], where: Where, goal: Goal) -> NumberTargets:
        """Fit to the training values of each target.

        Raises
        ------
        DataError
            As for ``NumberTarget``; values may be missing where there are several targets.
        """
        gaps = len(values) > 1
        fitted = (
            NumberTarget.fit(each, where, goal, gaps=gaps, name=name if gaps else None)
            for name, each in values.items()
        )
        return cls(tuple(values), tuple(fitted), goal.levels)

    def encode(self, values: Sequence[Floats], where: Where) -> NDArray[np.float32]:
        """Return the standardised values, (N, outputs) float32.

        Raises
        ------
        DataError
            As for ``NumberTarget``.
        """
        gaps = len(self.columns) > 1
        encoded = [column.encode(each, where, gaps=gaps) for column, each in zip(self.columns, values, strict=True)]
        return np.repeat(np.hstack(encoded), max(1, len(self.levels)), axis=1)

    def decode(self, targets: NDArray[np.floating[Any]]) -> Floats:
        """Return encoded targets, (N, outputs), in units of the targets, (N,) of one target, else (N, T), float64."""
        return self._point(self._each(NumberTarget.decode, targets)[:, :, :1])

    def restore(self, outputs: NDArray[np.floating[Any]]) -> Floats:
        """Return predictions, (N,) of one target, else (N, T): of quantiles the one nearest to the median."""
        quantiles = self.quantiles(outputs)
        middle = nearest_to_median(self.levels) if self.levels else 0
        return self._point(quantiles[:, :, middle : middle + 1])

    def quantiles(self, outputs: NDArray[np.floating[Any]]) -> Floats:
        """Return what is predicted at each level, (N, T, Q) float64, rising."""
        return np.sort(self._each(NumberTarget.restore, outputs), axis=2)

    def _each(
        self, function: Callable[[NumberTarget, NDArray[np.floating[Any]]], Floats], array: NDArray[np.floating[Any]]
    ) -> Floats:
        whole = array.reshape(len(array), len(self.columns), -1)
        columns = [
            function(column, whole[:, i]).reshape(len(array), whole.shape[2]) for i, column in enumerate(self.columns)
        ]
        return np.stack(columns, axis=1)

    def _point(self, values: Floats) -> Floats:
        return values[:, 0, 0] if len(self.columns) == 1 else values[:, :, 0]

    @property
    def outputs(self) -> int:
        """Network outputs: one for each level of each target."""
        return len(self.columns) * max(1, len(self.levels))

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        columns = [{"name": name, **column.to_state()} for name, column in zip(self.names, self.columns, strict=True)]
        return {"columns": columns, "levels": list(self.levels)}

    @classmethod
    def from_state(cls, state: StateReader) -> NumberTargets:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        columns, levels = state.sections("columns"), state.numbers("levels")
        names = tuple(each.text("name") for each in columns)
        if not names or len(set(names)) < len(names):
            raise state.wrong("columns", "must be distinct targets, at least one")
        if any(not 0 < each < 1 for each in levels) or list(levels) != sorted(set(levels)):
            raise state.wrong("levels", "must rise between 0 and 1")
        return cls(names, tuple(map(NumberTarget.from_state, columns)), levels)


def nearest_to_median(levels: Sequence[float]) -> int:
    """Return which of the levels of quantiles is nearest to the median; of two as near, the first."""
    return min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))


def sorted_classes(texts: Collection[str], labels: Codes, where: Where) -> tuple[str, ...]:
    """Return the classes that texts of (N,) labels name, by value if all of them are numbers, else as texts.

    Raises
    ------
    DataError
        If one is a number, but not a finite one.
    """
    names = sorted(texts)
    values = parse_numbers(np.array(names, dtype=object))
    if values is None or not names:
        return tuple(names)
    if not np.isfinite(values).all():
        name = names[int(np.argmin(np.isfinite(values)))]
        row = int(np.argmax(labels.codes == labels.texts.tolist().index(name)))
        raise DataError(f"the class {shown(name)} is not a finite number", where=where(row))
    if np.abs(values).max() >= _MIN_ROUNDED:
        return tuple(sorted(names, key=lambda name: _value(name) or 0))
    return tuple(names[i] for i in np.argsort(values, kind="stable"))


def _fits(names: Sequence[str], type_: str) -> bool:
    """Return whether classes can be of a type, no two of them equal in it. Codes such as 007 are texts."""
    if type_ == "text":
        return True
    if type_ == "boolean":
        return sorted(name.lower() for name in names) == ["false", "true"]
    pattern, value = (_WHOLE_CLASS, int) if type_ == "integer" else (_NUMBER_CLASS, float)
    return all(map(pattern.fullmatch, names)) and len(set(map(value, names))) == len(names)


def _value(text: str) -> float | None:
    """Return the number that a text is, a whole one exactly, a truth value as 1 or 0; None for others."""
    if (truth := _TRUTHS.get(text.lower())) is not None:
        return truth
    if _WHOLE_CLASS.fullmatch(text):
        return int(text)
    values = parse_numbers(np.array([text], dtype=object))
    return None if values is None or np.isnan(values[0]) else float(values[0])


def require_labels(labels: Codes, where: Where) -> None:
    """Raise DataError for the first row without a label; most have none among their texts."""
    if (blank := labels.texts == "").any():
        require_present(blank[labels.codes], where)


def require_present(missing: NDArray[np.bool_], where: Where) -> None:
    """Raise DataError for the first row whose target is missing, of (N,) bool."""
    if missing.any():
        row = int(np.argmax(missing))
        others = int(missing.sum()) - 1
        message = "the target is missing" + (f", as it is in {others} more row{'s' * (others > 1)}" if others else "")
        raise DataError(message, where=where(row), hint="set data.missing_target to drop, which leaves such rows out")

"""Several labels of a row, each one of two classes: what the network learns is the probability of the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpumlp.data.encoding.targets import ClassTarget, Where, sorted_classes
from gpumlp.data.source.frame import Codes
from gpumlp.data.state import StateReader
from gpumlp.errors import DataError, choices, listed, shown

ZERO_ONE = ("0", "1")
_SHOWN_VALUES = 5


@dataclass(frozen=True)
class LabelTargets:
    """Labels that do not exclude each other. One may be missing in a row, which a loss leaves out.

    Parameters
    ----------
    names
        Names of the T labels.
    columns
        The two classes of each; the second is the positive one.
    """

    names: tuple[str, ...]
    columns: tuple[ClassTarget, ...]

    @classmethod
    def fit(cls, labels: Mapping[str, Codes], where: Where, types: Sequence[str | None] = ()) -> LabelTargets:
        """Find the two classes of each label.

        Parameters
        ----------
        labels
            (N,) each, by name.
        where
            Returns where a row is, for messages.
        types
            Types of the labels, as for ``ClassTarget``; (): those that they look like.

        Raises
        ------
        DataError
            If a label has other than two values; of 0 and 1 one is enough.
        """
        columns = (
            ClassTarget.of(_two_classes(name, each, where), type_)
            for (name, each), type_ in zip(labels.items(), types or [None] * len(labels), strict=True)
        )
        return cls(tuple(labels), tuple(columns))

    def encode(self, labels: Sequence[Codes], where: Where) -> NDArray[np.float32]:
        """Return 1 for the second class of each label, 0 for the first, NaN where it is missing: (N, T) float32.

        Raises
        ------
        DataError
            If a label is not one of its two classes.
        """
        return np.stack(
            [
                _encoded(name, column, each, where)
                for name, column, each in zip(self.names, self.columns, labels, strict=True)
            ],
            axis=1,
        )

    def words(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the classes of numbers 0 and 1, (N, T), as texts; of NaN the empty one."""
        known = np.nan_to_num(numbers).astype(np.int64)
        words = [np.array(column.classes, object)[each] for column, each in zip(self.columns, known.T, strict=True)]
        return np.where(np.isnan(numbers), "", np.stack(words, axis=1))

    def values(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the classes of numbers 0 and 1, (N, T), in their type; as objects where the types differ."""
        columns = [column.values[each] for column, each in zip(self.columns, numbers.T, strict=True)]
        same = len({each.dtype for each in columns}) == 1
        return np.stack(columns if same else [each.astype(object) for each in columns], axis=1)

    def numbers(self, words: NDArray[Any]) -> NDArray[np.int32]:
        """Return the numbers 0 and 1 of classes, (N, T), given as texts; -1 for other texts."""
        return np.stack([column.numbers(each) for column, each in zip(self.columns, words.T, strict=True)], axis=1)

    @property
    def outputs(self) -> int:
        """Network outputs: one for each label."""
        return len(self.columns)

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` takes back."""
        columns = zip(self.names, self.columns, strict=True)
        return {"labels": [{"name": name, **column.to_state()} for name, column in columns]}

    @classmethod
    def from_state(cls, state: StateReader) -> LabelTargets:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        labels = state.sections("labels")
        names, columns = tuple(each.text("name") for each in labels), tuple(map(ClassTarget.from_state, labels))
        if not names or len(set(names)) < len(names) or any(len(each.classes) != 2 for each in columns):
            raise state.wrong("labels", "must be distinct labels of two classes each, at least one")
        return cls(names, columns)


def _two_classes(name: str, labels: Codes, where: Where) -> tuple[str, ...]:
    classes = sorted_classes(set(labels.texts.tolist()) - {""}, labels, where)
    # Rare labels may be absent from a sample: 0 says that the other value is 1.
    if len(classes) == 1 and classes[0] in ZERO_ONE:
        return ZERO_ONE
    if len(classes) != 2:
        few = listed(map(shown, classes), _SHOWN_VALUES)
        message = f"the label {name!r} has {len(classes)} different values" + f": {few}" * bool(classes)
        hint = "a label has two, such as 0 and 1; remove it from data.target, or set the task to classification"
        raise DataError(message, where=where(0), hint=hint)
    return classes


def _encoded(name: str, column: ClassTarget, labels: Codes, where: Where) -> NDArray[np.float32]:
    numbers = column.numbers(labels.texts)
    missing = labels.texts == ""
    if (unknown := ((numbers < 0) & ~missing)[labels.codes]).any():
        row = int(np.argmax(unknown))
        label = str(labels.texts[labels.codes[row]])
        message = f"the label {name!r} is {shown(label)} here"
        raise DataError(message, where=where(row), hint=choices(label, column.classes))
    encoded: NDArray[np.float32] = np.where(missing, np.float32("nan"), numbers.astype(np.float32))[labels.codes]
    return encoded

"""What the user says that a column is, where that is not left to be found."""

from __future__ import annotations

from dataclasses import dataclass

from gpumlp.data.state import Fields, StateReader
from gpumlp.errors import DataError, choices

KINDS = ("category", "number", "date")


@dataclass(frozen=True)
class Kind:
    """What a column is.

    Parameters
    ----------
    type
        One of ``KINDS``: a category has texts, even where all of them are numbers or dates.
    thousands
        Mark between the thousands of numbers.
    unit
        What stands before or after numbers, such as ``$`` or ``%``, and is left out.
    """

    type: str
    thousands: str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise DataError(f"unknown type of column {self.type!r:.80}", hint=choices(self.type, KINDS))

    def plain(self, text: str, decimal: str) -> str:
        """Return a number as it is written without marks between thousands and without unit.

        Parameters
        ----------
        text
            Text of a cell.
        decimal
            The mark before decimals that is to be written; where thousands have it, decimals have the other one.
        """
        if self.unit:
            sign = text[:1] if text[:1] in ("-", "+") else ""
            rest = text[len(sign) :].strip()
            text = sign + rest.removeprefix(self.unit).removesuffix(self.unit).strip()
        if not self.thousands:
            return text
        text = text.replace(self.thousands, "")
        other = {",": ".", ".": ","}.get(decimal, ".")
        return text.replace(other, decimal) if self.thousands == decimal else text

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {"type": self.type, "thousands": self.thousands, "unit": self.unit}

    @classmethod
    def from_state(cls, state: StateReader) -> Kind:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        thousands, unit = state.optional_text("thousands"), state.optional_text("unit")
        return cls(state.text("type", allowed=KINDS), thousands, unit)


CATEGORY, NUMBER = Kind("category"), Kind("number")

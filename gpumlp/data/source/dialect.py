"""How a delimited text file is written: what is said of it, and, once it was read, what was found."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from gpumlp.data.source.cells import USUAL_MISSING, Missing
from gpumlp.data.state import Fields, StateReader

QUOTES: dict[str, str | None] = {"double": '"', "single": "'", "none": None}
"""The character that encloses a cell, by the name that a configuration uses."""

DECIMALS = (".", ",")

_NO_SEPARATORS = "\"'\r\n"
# Codecs that Python calls text, but in which nobody writes tables.
_NO_ENCODINGS = frozenset(("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"))


def is_separator(text: str) -> bool:
    """Return whether a text can stand between cells: one character that is no letter, digit, quote or line end."""
    return len(text) == 1 and not text.isalnum() and text not in _NO_SEPARATORS


def is_encoding(name: str) -> bool:
    """Return whether Python knows a text encoding by this name."""
    if name.lower().replace("-", "_") in _NO_ENCODINGS:
        return False
    try:
        return "a".encode(name).decode(name) == "a"
    except (LookupError, ValueError):  # not known, or no name at all
        return False


@dataclass(frozen=True)
class Dialect:
    """How a delimited text file is written. Whatever is None is found from the file.

    Parameters
    ----------
    separator
        One character; the blank stands for any number of blanks.
    quote
        A name in ``QUOTES``.
    header
        Whether the first line holds the column names.
    encoding
        By a name that Python knows; stays None where nobody gave it: each file tells its own.
    decimal
        One of ``DECIMALS``.
    missing
        The cells that mean "no value".
    """

    separator: str | None = None
    quote: str | None = None
    header: bool | None = None
    encoding: str | None = None
    decimal: str | None = None
    missing: Missing = USUAL_MISSING

    @property
    def csv_options(self) -> dict[str, Any]:
        """Arguments for ``csv.reader``; separator and quote must be known."""
        assert self.separator is not None
        assert self.quote is not None
        return {
            "delimiter": self.separator,
            "quotechar": QUOTES[self.quote],
            "quoting": csv.QUOTE_NONE if self.quote == "none" else csv.QUOTE_MINIMAL,
            "skipinitialspace": self.separator != " ",
            "strict": True,  # else one unclosed quote swallows the rest of the file into a cell
        }

    def to_state(self) -> Fields:
        """Return what ``from_state`` takes back."""
        return {
            "separator": self.separator,
            "quote": self.quote,
            "header": self.header,
            "encoding": self.encoding,
            "decimal": self.decimal,
            "missing": sorted(self.missing.anywhere),
            "missing_among_numbers": sorted(self.missing.among_numbers),
        }

    @classmethod
    def from_state(cls, state: StateReader) -> Dialect:
        """Restore.

        Raises
        ------
        RunError
            If the state is damaged.
        """
        separator, encoding = state.optional_text("separator"), state.optional_text("encoding")
        if separator is not None and not is_separator(separator):
            raise state.wrong("separator", "must be one character")
        if encoding is not None and not is_encoding(encoding):
            raise state.wrong("encoding", "must be a text encoding")
        return cls(
            separator=separator,
            quote=state.optional_text("quote", allowed=tuple(QUOTES)),
            header=state.optional_flag("header"),
            encoding=encoding,
            decimal=state.optional_text("decimal", allowed=DECIMALS),
            missing=Missing(frozenset(state.texts("missing")), frozenset(state.texts("missing_among_numbers"))),
        )


DETECT = Dialect()
"""Nothing is known: all is found from the file."""

"""A picture as a file, drawn by matplotlib (extra ``plot``) without pyplot, so that no window system is touched."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gpumlp.errors import ConfigError, RunError, choices, printable
from gpumlp.store.formats import write_bytes

FORMATS = ("png", "svg", "pdf")

MAX_NAME_CHARACTERS = 40
"""Characters of a name that a picture shows at most."""


def letters(name: str, most: int = MAX_NAME_CHARACTERS) -> str:
    """Return a name as matplotlib draws it letter by letter: no formula, nothing invisible, and in a legend."""
    short = name if len(name) <= most else name[: most - 3] + "..."
    plain = printable(short.replace("\n", " ").replace("\t", " ")).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def ending_of(output: Path, formats: Collection[str]) -> str:
    """Return the ending of the name of a picture, without its point.

    Raises ConfigError where it is none of the formats.
    """
    ending = output.suffix.lstrip(".").lower()
    if ending not in formats:
        raise ConfigError(f"cannot draw {output.suffix or 'a file without ending'}", hint=choices(ending, formats))
    return ending


def new_figure(output: Path, width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size in inches, for a picture that :func:`save` is to write there.

    Raises ConfigError where the ending is none that matplotlib draws, RunError where it is not installed, before any
    work is done.
    """
    ending_of(output, FORMATS)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RunError("drawing needs matplotlib", hint="pip install 'gpumlp[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, output: Path) -> None:
    """Write a figure in the format of the file's ending, whole or not at all; the same figure, the same bytes."""
    from matplotlib import rc_context

    drawn, ending = io.BytesIO(), ending_of(output, FORMATS)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    # The names of shapes in an SVG are random otherwise, and what a font has not is drawn as an empty box.
    with rc_context({"svg.hashsalt": "gpumlp"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, dpi=150, format=ending, metadata=undated.get(ending))
    write_bytes(output, drawn.getvalue())

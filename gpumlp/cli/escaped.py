"""The console of rich that draws on a terminal; imported only where something is drawn."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from gpumlp.errors import printable


class EscapedConsole(Console):
    """A console that escapes control characters in tables and progress bars, and shows ``:b:`` as it is written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown of a text."""
        return super().render_str(printable(text), **options)

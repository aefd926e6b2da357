"""A run that ends as if its process had: after an epoch."""

from __future__ import annotations

from typing import Any

from gpumlp.runs import Listener


class KilledError(Exception):
    """Stands for the end of the process."""


class KillAfter(Listener):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        if row["epoch"] == self.epochs:
            raise KilledError

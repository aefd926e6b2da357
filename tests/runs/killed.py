"""Runs that end as if their process had, after an epoch, or by a signal, after a batch."""

from __future__ import annotations

import os
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


class Stop(Listener):
    """Sends a signal after so many batches."""

    def __init__(self, number: int, batches: int, again: bool = False) -> None:
        self.number, self.batches, self.again = number, batches, again

    def batch(self, done: int, of: int) -> None:
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), self.number)
            if self.again:
                os.kill(os.getpid(), self.number)

"""What is called as a run goes on, and may end it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from gpumlp.errors import ConfigError, Note
from gpumlp.training.build import Parts


class Listener:
    """Is called as a run goes on. This one does nothing; the command line draws a progress bar."""

    def note(self, note: Note) -> None:
        """Something worth saying was found."""

    def prepared(self, parts: Parts, folder: Path) -> None:
        """All is built and the first epoch is about to begin."""

    def batch(self, done: int, of: int) -> None:
        """Take note of a batch that is done."""

    def epoch(self, row: dict[str, Any], best: bool) -> bool | None:
        """Take note of an epoch that is done.

        ``row`` is its line of metrics.jsonl; ``best`` is whether it has the best weights so far. Return True to end
        the run here, with the best weights so far.
        """


class TooShortError(ConfigError):
    """The time is over before the first epoch is."""


class Limited(Listener):
    """Passes on what it is called with, and ends a run before an epoch that would last beyond the limit.

    Parameters
    ----------
    inner
        Listener that is called as well.
    seconds
        Seconds of training, from the moment when all is built.
    runs
        Number of runs that the time is shared by, for messages.

    Attributes
    ----------
    spent
        Seconds of training so far.
    """

    def __init__(self, inner: Listener, seconds: float, runs: int = 1) -> None:
        self.inner, self.seconds, self.runs, self.spent = inner, seconds, runs, 0.0
        self._parts: Parts | None = None
        self._started = self._last = self._clock()
        self._begun = False  # whether an epoch was done before

    def note(self, note: Note) -> None:
        self.inner.note(note)

    def prepared(self, parts: Parts, folder: Path) -> None:
        self._parts = parts
        self._started = self._last = self._clock()
        self._begun = parts.trainer.epoch > 0
        self.inner.prepared(parts, folder)

    def batch(self, done: int, of: int) -> None:
        self.inner.batch(done, of)
        spent = self.spent = self._clock() - self._started
        if not self._begun and done < of and spent > self.seconds:
            each = f" for each of {self.runs} runs" * (self.runs > 1)
            message = f"{self.seconds:.3g} s{each} are too short for one epoch: {done:,} of {of:,} batches are done"
            hint = f"allow at least {math.ceil(spent * of / done * self.runs):,} s, or train on fewer rows"
            raise TooShortError(message, where="time_limit", hint=hint)

    def epoch(self, row: dict[str, Any], best: bool) -> bool | None:
        now = self._clock()
        took, self._last, self._begun, self.spent = now - self._last, now, True, now - self._started
        if self.inner.epoch(row, best):
            return True
        over = now + took > self._started + self.seconds
        if over:
            self.note(Note(f"time_limit: training ends after epoch {row['epoch']}"))
        return over

    def _clock(self) -> float:
        """Return a time in seconds that stands still while kernels are built."""
        return time.monotonic() - (0.0 if self._parts is None else self._parts.backend.seconds_building)

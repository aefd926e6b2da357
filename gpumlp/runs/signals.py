"""Ctrl-C and SIGTERM: while a run trains they are noted, so that the step ends and is saved; a second one ends it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from gpumlp.errors import SignalError
from gpumlp.ranks import Ranks


class Signals:
    """The signals that asked this process to end.

    Attributes
    ----------
    hold
        Whether a signal is noted, or raised as a SignalError at once.
    raised
        The number of the one that was raised, or None.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.hold = False
        self.raised: int | None = None

    @property
    def received(self) -> int | None:
        """The number of the first one that was held back, or None; of several ranks the one that all know of."""
        return self._ranks.received or None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Whoever asks twice does not want to wait."""
        if not self.hold or self._ranks.wish:
            self.raised = number
            raise SignalError(number)
        self._ranks.wish = number


@contextlib.contextmanager
def signals(ranks: Ranks) -> Iterator[Signals]:
    """Watch for SIGINT and SIGTERM; afterwards they are handled as before.

    What the process ignores (SIGINT, in a background job) stays ignored. Only the main thread can watch; in
    another nothing is received.
    """
    watched, before = Signals(ranks), {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, watched.take)
    try:
        yield watched
    except KeyboardInterrupt as interrupt:
        if watched.raised is None or isinstance(interrupt, SignalError):
            raise
        raise SignalError(watched.raised) from None  # a library has raised an error of its own in place of ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

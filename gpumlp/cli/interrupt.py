"""Signals outside a run: they raise, so that temporary files go. While modules are imported signals end at once."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from gpumlp.errors import SignalError

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def _raise(number: int, frame: FrameType | None) -> None:
    raise SignalError(number)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise SignalError where it would end the process, and leave its temporary files behind."""
    with _handled({signal.SIGTERM: _raise} if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else {}):
        yield


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let signals end the process at once, and leave what is imported to no collection of garbage: it stays.

    An import that is interrupted would show a traceback, or, as pydantic, a fault of a schema.
    """
    raising = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _raise}
    with (
        _handled({each: signal.SIG_DFL for each, handler in raising.items() if signal.getsignal(each) is handler}),
        _uncollected(),
    ):
        yield


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no cycles meanwhile, and none of the modules imported here later or at the end of the process."""
    before, enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals so, and afterwards as before; nothing changes where this is not the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

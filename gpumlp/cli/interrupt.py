"""Signals outside a run: they raise, so that temporary files go. While modules are imported signals end at once."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from gpumlp.errors import GpumlpError, SignalError

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


_RECEIVED: list[int] = []
"""Numbers of the signals that were raised in the verb of the moment."""


def _raise(number: int, frame: FrameType | None) -> None:
    _RECEIVED.append(number)
    raise SignalError(number)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise SignalError, so that temporary files go.

    A library may lose what is raised within it: pydantic takes it for a value of another type. An error that follows
    a signal is that of the signal.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    _RECEIVED.clear()
    with (
        _handled({each: _raise for each, handler in usual.items() if signal.getsignal(each) is handler}),
        _silenced(),
    ):
        try:
            yield
        except GpumlpError:
            if _RECEIVED:
                raise SignalError(_RECEIVED[0]) from None
            raise


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Print nothing where a library loses one of our signals."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, SignalError):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let signals end the process at once, and leave what is imported to no collection of garbage: it stays.

    An import that is interrupted would show a traceback, or, as pydantic, a fault of a schema.
    """
    raising = (signal.default_int_handler, _raise)
    numbers = (signal.SIGINT, signal.SIGTERM)
    with (
        _handled({each: signal.SIG_DFL for each in numbers if signal.getsignal(each) in raising}),
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

"""Ctrl-C while modules are imported: the process ends as if Python had never taken the signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ctrl_c_ends_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process at once: an import would show a traceback, or, as pydantic, a fault of a schema."""
    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not watched or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

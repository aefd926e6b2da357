"""Where the time of a command goes: reading, fitting, encoding, training, measuring, saving."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Phases:
    """Seconds by phase. A phase within another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, name: str) -> None:
        """Begin a phase; the one around it rests."""
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """End the phase that began last."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_current: ContextVar[Phases | None] = ContextVar("phases", default=None)


@contextmanager
def collected() -> Iterator[Phases]:
    """Collect the seconds of all phases that begin inside, in this thread."""
    phases = Phases()
    token = _current.set(phases)
    try:
        yield phases
    finally:
        _current.reset(token)


def phase(name: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Return a decorator that counts the time of a function to a phase, where somebody collects it."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def counted(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            phases = _current.get()
            if phases is None:
                return function(*args, **kwargs)
            phases.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                phases.leave()

        return counted

    return decorate

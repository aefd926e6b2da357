"""One rank, which is all there are. It is the reference: more ranks do the same by messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gpumlp.errors import GpumlpError, RunError

if TYPE_CHECKING:  # threads are counted when NumPy is loaded, and ranks share the cores before
    import numpy as np

_Result = TypeVar("_Result")


class Exchange(Protocol):
    """What moves the arrays of a step between ranks."""

    def alltoall(self, source: Any, *, out: Any) -> Any:
        """Exchange as :meth:`Ranks.alltoall` does."""

    def allgather(self, source: Any, *, out: Any) -> Any:
        """Exchange as :meth:`Ranks.allgather` does."""

    def keep_pace(self) -> None:
        """Wait until the device is not more than a step behind."""


class Ranks:
    """The ranks of a run, as one of them sees them: here there is one.

    All of them call the same methods in the same order.

    Attributes
    ----------
    number, size
        Its number, counted from 0, and how many there are.
    wish
        The signal that has asked this rank to end, or 0.
    agreed
        The signal that all of several ranks end by, or 0.
    host, local
        The name of its machine, and its number among the ranks there.
    limit
        Seconds that it waits for the others.
    exchange
        What moves the arrays of a step: itself, or what :func:`gpumlp.ranks.devices.connect` has made.
    """

    number, size, local, host = 0, 1, 0, ""
    limit = math.inf

    def __init__(self) -> None:
        self.wish = self.agreed = 0
        self.exchange: Exchange = self

    @property
    def received(self) -> int:
        """The signal to end by after the step at hand, or 0: of several ranks the one that all know of."""
        return self.wish if self.size == 1 else self.agreed

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.number == 0

    def alltoall(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Send the i-th of ``size`` equal parts of ``source`` to rank i; fill ``out`` with what the ranks send."""
        out.reshape(-1)[...] = source.reshape(-1)
        return out

    def allgather(self, source: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Fill ``out`` with the ``source`` of every rank, in their order."""
        out.reshape(-1)[...] = source.reshape(-1)
        return out

    def keep_pace(self) -> None:
        """Return at once: nothing is left to be done by a device."""

    def collect(self, value: Any) -> list[Any]:
        """Return the value of every rank, in their order."""
        return [value]

    def name(self, number: int) -> str:
        """Return what messages call a rank."""
        return f"rank {number}"

    def agree(self, action: Callable[[], _Result]) -> _Result:
        """Return what ``action`` does here; where it raises a GpumlpError on a rank, raise that of the first one."""
        result, error = None, None
        try:
            result = action()
        except GpumlpError as caught:
            error = caught
        self._raise_common(error)
        return result  # type: ignore[return-value]

    def of_first(self, action: Callable[[], _Result]) -> _Result:
        """Return what ``action`` does on the first rank, or raise the GpumlpError that it raises there."""
        result, error = None, None
        if self.first:
            try:
                result = action()
            except GpumlpError as caught:
                error = caught
        self._raise_common(error)
        if self.size > 1:
            result = self.collect(result)[0]
        return result  # type: ignore[return-value]

    def require_alike(self, quantity: str, value: Any, hint: str) -> None:
        """Raise RunError where a rank has another value than the first one."""
        values = self.collect(value)
        for number, other in enumerate(values):
            if other != values[0]:
                shown = f"{other} there, {values[0]} on {self.name(0)}" if len(f"{value}") < 64 else "as on no other"
                raise RunError(f"{self.name(number)} has another {quantity}: {shown}", hint=hint)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.collect(None)

    def share_end(self) -> bool:
        """Return whether all ranks come here, too, within some seconds."""
        return True

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        raise SystemExit(code)

    def _raise_common(self, error: GpumlpError | None) -> None:
        """Raise the error of the first rank that has one: everywhere the same."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        for number, other in enumerate(self.collect(error and (error.exit_code, str(error)))):
            if other is not None:
                if error is not None and number == self.number:
                    raise error
                code, text = other
                raise CommonError(text if number == 0 else f"{self.name(number)}: {text}", code)


class CommonError(GpumlpError):
    """What another rank has raised."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code

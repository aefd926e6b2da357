"""A captured step: the flat list of calls that it made, ready to be made again into the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gpumlp.errors import CaptureError
from gpumlp.ops.record import Array


class Host(Protocol):
    """What a plan needs of the backend it was captured on."""

    name: str

    def write(self, target: Array, values: Any) -> None: ...

    def quiet(self) -> AbstractContextManager[Any]: ...

    def joined(self, launches: Sequence[Callable[[], None]]) -> Sequence[Callable[[], None]]: ...


class Versioned(Protocol):
    """A variable: ``version`` counts how often its values were overwritten."""

    version: int


def raw(value: Any) -> Array:
    """Return the array of a tensor, and anything else as it is."""
    return getattr(value, "array", value)


@dataclass(frozen=True)
class Call:
    """One call of a captured step: its name, the bound function that makes it, and the shapes of what it reads.

    ``multiplies`` is whether it is a product of matrices, the first two of what it reads.
    """

    name: str
    launch: Callable[[], None]
    shapes: tuple[tuple[int, ...], ...] = ()
    multiplies: bool = False


@dataclass(frozen=True)
class Plan:
    """A step that can be replayed: no tape, no dispatch, no allocation by the backend.

    ``plan(*arrays)`` copies the arrays into the captured inputs, makes every call again and returns what the
    step returned, whose arrays now hold the new results. The plan owns every array that its calls touch.
    ``runs`` are what a replay makes: the calls, or fewer that do the same. ``overwritten`` are the variables that it
    gives new values.
    """

    backend: Host
    calls: tuple[Call, ...]
    runs: tuple[Callable[[], None], ...]
    inputs: tuple[Array, ...]
    result: Any
    overwritten: tuple[Versioned, ...] = ()

    def __call__(self, *inputs: Any) -> Any:
        if len(inputs) != len(self.inputs):
            raise CaptureError(f"the captured step takes {len(self.inputs)} inputs, {len(inputs)} were given")
        for position, (captured, value) in enumerate(zip(self.inputs, inputs, strict=True)):
            self._refill(position, captured, raw(value))
        with self.backend.quiet():
            for run in self.runs:
                run()
        self.overwrote()
        return self.result

    def overwrote(self) -> None:
        """Let tapes know that variables have new values."""
        for variable in self.overwritten:
            variable.version += 1

    def _refill(self, position: int, captured: Array, value: Array) -> None:
        if (value.shape, value.dtype) != (captured.shape, captured.dtype):
            raise CaptureError(
                f"input {position} has changed: captured {captured.dtype} {captured.shape}, "
                f"given {value.dtype} {value.shape}",
                hint="capture the step again for the new shape",
            )
        self.backend.write(captured, value)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise CaptureError(
            "a captured step cannot be copied or pickled: its calls hold the arrays that it reads and writes",
            hint="capture the step of the copy",
        )

    def times(self, count: int) -> Plan:
        """Return the plan of several of these steps, one after the other, on the same arrays.

        It gives the same bits as that many replays. What changes from step to step is on the device, so a step is the
        same calls each time.
        """
        calls = self.calls * count
        return replace(self, calls=calls, runs=tuple(self.backend.joined([call.launch for call in calls])))

    def names(self) -> Sequence[str]:
        """Return the names of the calls in the order they are made."""
        return [call.name for call in self.calls]

"""The kernel benchmark: every kernel over a ladder of sizes, beside the machine's own copy and its competitors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from gpumlp.backend import Backend
from gpumlp.backend.kernels import Texts, over, template_types
from gpumlp.bench.clock import Clock, Times
from gpumlp.bench.copies import Copies, Copy
from gpumlp.bench.peers import best, peer, stream
from gpumlp.checks.agreement import fault
from gpumlp.checks.examples import Example, directions, examples
from gpumlp.errors import BackendError, ConfigError, choices
from gpumlp.ops import LOSS_RECORDS, RECORDS, Op, Update
from gpumlp.ops.record import Activation, Array, Direction

LADDER = tuple(4096 * 4**step for step in range(8))
"""Bytes of the array that a kernel walks over: 4 KiB to 64 MiB."""
QUICK = (LADDER[0], LADDER[3], LADDER[6])
SECONDS, QUICK_SECONDS = 0.25, 0.08
"""About how long one time is taken for."""
MAX_COLUMNS = 1024
"""Columns of the largest arrays."""
COUNTERS = ("advance", "accumulate", "add_square")
"""Operations on a few numbers, whatever the size of the network."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A direction of a record that has kernels."""

    op: Op
    direction: str

    @property
    def name(self) -> str:
        return self.op.entry(self.direction)

    @property
    def definition(self) -> Direction:
        """Its direction in the record."""
        return self.op.directions[self.direction]

    @property
    def family(self) -> str:
        """Which picture it belongs in."""
        if isinstance(self.op, Activation):
            return f"activations, {self.direction.replace('_', ' ')}"
        if isinstance(self.op, Update):
            return "updates"
        return "losses" if self.op.name in LOSS_RECORDS else "norms, dropout, batches"

    @property
    def has_sizes(self) -> bool:
        """Whether it is timed at several sizes."""
        return self.op.name not in COUNTERS

    def example(self, size: int) -> Example:
        """Return float32 inputs and parameters by which an array of ``size`` bytes is walked over.

        Up to 1024 columns the arrays are about as long as they are wide.
        """
        elements = size // 4
        cols = min(MAX_COLUMNS, 1 << (elements.bit_length() // 2))
        rows = elements // cols
        if self.op.name == "moving_average":
            rows, cols = 1, elements
        elif self.op.name == "gather":
            rows *= 2  # a batch is half of the example's rows
        return next(examples(self.op, self.direction, rows, cols, np.float32))


@dataclass(frozen=True)
class KernelTimes:
    """What was measured of one kernel at one size."""

    entry: Entry
    size: int  # bytes of the array it walks over; 0 where there is only one size
    shape: tuple[int, ...]
    moved: int  # bytes: each input read once, each output written once
    warm: Times
    cold: Times
    copy: Copy | None
    formula: Times | None  # unfused and warm, on the backend's array module; None where it has nothing to do
    torch: Times | None  # PyTorch's own, warm

    def bandwidth(self, temperature: str) -> float:
        """Return the bytes moved per second, ``warm`` or ``cold``."""
        taken: Times = getattr(self, temperature)
        return self.moved / taken.median

    def share(self, temperature: str) -> float | None:
        """Return the bandwidth as a share of that of a copy of an array as large."""
        return None if self.copy is None else self.bandwidth(temperature) / getattr(self.copy, temperature)

    def gain(self, over: str) -> float | None:
        """Return how many times as fast it is as the ``formula`` or ``torch``."""
        other: Times | None = getattr(self, over)
        return None if other is None else other.median / self.warm.median


def entries(only: str | None = None) -> list[Entry]:
    """Return every direction that has kernels, or those whose names contain or match a pattern.

    Raises ConfigError where there is none.
    """
    texts = Texts()
    all_entries = [Entry(RECORDS[name], way) for name, way in directions() if texts.stages(RECORDS[name], way)]
    if not only:
        return all_entries
    chosen = [entry for entry in all_entries if only in entry.name or fnmatchcase(entry.name, only)]
    if not chosen:
        hint = choices(only, dict.fromkeys(entry.op.name for entry in all_entries))
        raise ConfigError(f"no kernel matches {only!r}", where="--only", hint=hint)
    return chosen


def bench(
    backend: Backend,
    chosen: Sequence[Entry],
    sizes: Sequence[int] = LADDER,
    seconds: float = SECONDS,
    wrong: dict[str, str] | None = None,
) -> Iterator[KernelTimes]:
    """Return a row for each kernel and size, checked and timed for about so many seconds when it is asked for.

    Raises ConfigError for a backend without kernels; the rows raise BackendError where a kernel does not agree with
    its formula. Where ``wrong`` is given, what a kernel raises is put there by its name, and the next one follows.
    """
    if type(backend) is Backend:
        raise ConfigError(
            f"the backend {backend.name} has no kernels", hint="use --backend native, if it is available"
        )
    clock = Clock(backend, seconds)
    copies = Copies(backend, clock)

    def rows() -> Iterator[KernelTimes]:
        for entry in chosen:
            try:
                for size in sizes if entry.has_sizes else (0,):
                    yield _measure(backend, clock, entry, size, copies.at(size) if size else None)
            except Exception as error:
                if wrong is None:
                    raise
                wrong[entry.name] = f"{type(error).__name__}: {error}"

    return rows()


def _measure(backend: Backend, clock: Clock, entry: Entry, size: int, copy: Copy | None) -> KernelTimes:
    op, definition, xp = entry.op, entry.definition, backend.xp
    host, params = entry.example(size)
    inputs: list[Array] = [None if a is None else backend.asarray(a) for a in host]

    def formula() -> tuple[Array, ...]:
        return definition.formula(xp, *inputs, **params)

    # All on the backend's own stream, PyTorch too: another one would not wait for these arrays.
    with backend.quiet(), stream(backend):
        expected = formula()
        results = backend.run(op, entry.direction, inputs, None, **params)
        if template_types(definition, inputs, results) is None:
            raise AssertionError(f"{entry.name} is not a kernel for its example")
        if fault_text := fault(xp, definition, inputs, results, expected):
            raise BackendError(f"{entry.name} on {inputs[0].shape} does not agree with its formula: {fault_text}")
        torch_call = peer(backend, entry.name, inputs, params, expected)
        moved = bytes_moved(definition, inputs, results)
        idle = any(expected[0] is operand for operand in inputs)  # the identity: nothing to time
        del expected
        calls = [_call(backend, entry, inputs, results, params) for _ in range(clock.turns(moved))]
        return KernelTimes(
            entry,
            size,
            tuple(over(definition, inputs, results).shape),
            moved,
            clock.warm(calls[0]),
            clock.cold(calls, moved),
            copy,
            None if idle else clock.warm(formula),
            None if torch_call is None else best(clock, torch_call),
        )


def _call(
    backend: Backend, entry: Entry, inputs: Sequence[Array], outputs: Sequence[Array], params: dict[str, object]
) -> Callable[[], None]:
    """Return the bound kernel on copies of these arrays. As in training, an output that is an input is in place."""
    copies = [None if a is None else a.copy() for a in inputs]
    named = dict(zip((name.rstrip("?") for name in entry.definition.inputs), copies, strict=True))
    outputs_in_place = [
        None if a is None else named.get(name.rstrip("?"), a.copy())
        for name, a in zip(entry.definition.outputs, outputs, strict=True)
    ]
    return backend.bind(entry.op, entry.direction, copies, outputs_in_place, params)


def bytes_moved(definition: Direction, inputs: Sequence[Array], outputs: Sequence[Array]) -> int:
    """Return the bytes of all inputs and outputs; of what a batch is taken from, those of the batch."""
    names = [name.rstrip("?") for name in definition.outputs]
    batch = {name.removeprefix("batch_"): a for name, a in zip(names, outputs, strict=True) if name[:6] == "batch_"}
    read = 0
    for name, array in zip(definition.inputs, inputs, strict=True):
        if array is not None:
            read += int(batch.get(name.rstrip("?"), array).size) * array.dtype.itemsize
    return read + sum(int(a.nbytes) for a in outputs if a is not None)

"""Steps of many small networks in one launch: each network's are one block's, which has a device's core to itself.

What a launch costs, some µs for each of a step's twenty kernels, is paid once for many steps of all networks. A block
makes the calls that were captured, one after the other (``kernels/blocks.cuh``), so it can take whatever has kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from gpumlp.backend.capture import Plan
from gpumlp.backend.cuda.graph import Launch
from gpumlp.backend.cuda.launcher import Kernel
from gpumlp.backend.geometry import ONE_BLOCK
from gpumlp.backend.kernels import Texts, shared_text
from gpumlp.errors import BackendError

NAME = "steps_in_blocks"


def kernels_of(plans: Sequence[Plan]) -> list[list[Kernel]]:
    """Return the kernels of each plan, alike in all. Raises BackendError where they differ, or a call has none."""
    members = []
    for plan in plans:
        kernels = []
        for call in plan.calls:
            nodes = call.launch.nodes if isinstance(call.launch, Launch) else (None,)
            kernels += [node for node in nodes if isinstance(node, Kernel)]
            if not all(isinstance(node, Kernel) for node in nodes):
                raise BackendError(f"{call.name} has no kernel")
        members.append(kernels)
    if len({tuple((kernel.expression, len(kernel.arguments)) for kernel in kernels) for kernels in members}) > 1:
        raise BackendError("they are not alike")
    return members


def source(texts: Texts, kernels: Sequence[Kernel]) -> str:
    """Return the text of one kernel that makes calls of these."""
    records = dict.fromkeys(kernel.record for kernel in kernels)
    functions = "\n".join([shared_text(), *map(texts.text, records)]).replace("__global__", "__device__")
    cases = (f"CASE({number}, {each})" for number, each in enumerate(expressions(kernels)))
    return f"{functions}\n#define CASES {' '.join(cases)}\n{shared_text(('blocks.cuh',))}"


def expressions(kernels: Sequence[Kernel]) -> list[str]:
    """Return the kernels by name and types, each once, in the order of their numbers."""
    return list(dict.fromkeys(kernel.expression for kernel in kernels))


class Blocks:
    """The captured steps of several networks; called with a number, it makes so many steps of each."""

    def __init__(
        self, xp: Any, function: Callable[..., None], plans: Sequence[Plan], members: Sequence[Sequence[Kernel]]
    ) -> None:
        kernels = members[0]
        number_of = {expression: number for number, expression in enumerate(expressions(kernels))}
        starts = accumulate((len(kernel.arguments) for kernel in kernels), initial=0)
        calls = [(number_of[kernel.expression], start) for kernel, start in zip(kernels, starts, strict=False)]
        slots = [[_bits(value) for kernel in each for value in kernel.arguments] for each in members]
        self._function, self._plans = function, tuple(plans)  # which own the arrays that the slots point to
        self._given = (
            xp.asarray(np.array(calls, np.int64)),
            xp.asarray(np.array(slots, np.uint64)),
            np.int64(len(calls)),
            np.int64(len(slots[0])),
        )

    def __call__(self, steps: int) -> None:
        self._function((*ONE_BLOCK.grid, len(self._plans)), ONE_BLOCK.block, (*self._given, np.int64(steps)))
        for plan in self._plans:
            plan.overwrote()


def _bits(value: Any) -> int:
    """Return an argument as the eight bytes that a kernel finds it in."""
    return int(value.view(np.uint64)) if isinstance(value, np.generic) else int(value.data.ptr)

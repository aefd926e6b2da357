"""Which launches of a graph may run side by side, read off from the arrays that they read and write.

A launch waits for those before it that write what it reads or writes, or that read what it writes, and for no others.
The longest chain of launches that wait for each other, the least that a graph can take, is one lane. What is not in
it has three lanes beside that: one of products, which share a workspace, and two of all else. A lane keeps its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gpumlp.backend.kernels import extent
from gpumlp.ops.record import Array

CHAIN, PRODUCTS, *OTHERS = LANES = range(4)


class Work(Protocol):
    """What is known of a launch."""

    @property
    def reads(self) -> Sequence[Array]:
        """The arrays that a launch reads."""
        ...

    @property
    def writes(self) -> Sequence[Array]:
        """The arrays that it writes."""
        ...

    @property
    def multiplies(self) -> bool:
        """Whether it is a product of matrices."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where a launch is made: its lane, and the launches of other lanes, by number, that it waits for."""

    lane: int = CHAIN
    after: tuple[int, ...] = ()


def arrange(works: Sequence[Work]) -> list[Placement]:
    """Return a place for each launch. The first of all is in the first lane, and the other lanes begin after it."""
    before = dependencies(works)
    lanes = _lanes(works, before, set(longest(before)))
    known = {lane: dict.fromkeys(LANES, -1) for lane in LANES}  # up to where a lane has waited for another one
    placements = []
    for number, lane in enumerate(lanes):
        last = {} if lane == CHAIN or lane in lanes[:number] else {CHAIN: 0}
        for other in sorted(before[number]):
            last[lanes[other]] = other
        after = tuple(sorted(other for at, other in last.items() if at != lane and other > known[lane][at]))
        known[lane] |= {lanes[other]: other for other in after}
        placements.append(Placement(lane, after))
    return placements


def _lanes(works: Sequence[Work], before: Sequence[set[int]], chain: set[int]) -> list[int]:
    """Return the lane of each launch: of several that where it can begin first, as if all took equally long."""
    lanes: list[int] = []
    done: list[int] = []
    free = dict.fromkeys(LANES, 0)
    for number, work in enumerate(works):
        ready = max((done[other] for other in before[number]), default=0)
        mine = [CHAIN] if number == 0 or number in chain else [PRODUCTS] if work.multiplies else OTHERS
        lane = min(mine, key=lambda lane: (max(ready, free[lane]), -free[lane]))
        free[lane] = max(ready, free[lane]) + 1
        lanes.append(lane)
        done.append(free[lane])
    return lanes


def dependencies(works: Sequence[Work]) -> list[set[int]]:
    """Return for each launch which of those before it it waits for."""
    extents = [tuple([extent(array) for array in arrays] for arrays in (work.reads, work.writes)) for work in works]
    ends = sorted({end for both in extents for spans in both for span in spans for end in span})
    number_of = {end: cell for cell, end in enumerate(ends)}  # memory is cut into cells, from one end to the next
    writer: dict[int, int] = {}
    readers: list[set[int]] = [set() for _ in ends]
    needed = []
    for number, both in enumerate(extents):
        read, written = (
            {cell for start, stop in spans for cell in range(number_of[start], number_of[stop])} for spans in both
        )
        before = {writer[cell] for cell in read | written if cell in writer}
        needed.append(before.union(*(readers[cell] for cell in written)))
        for cell in read:
            readers[cell].add(number)
        for cell in written:
            writer[cell], readers[cell] = number, set()
    return needed


def longest(before: Sequence[set[int]]) -> list[int]:
    """Return the launches of a longest chain in which each waits for the one before; of several the earliest."""
    rest = [1] * len(before)  # of the chain that begins with a launch
    for number in reversed(range(len(before))):
        for earlier in before[number]:
            rest[earlier] = max(rest[earlier], rest[number] + 1)
    chain: list[int] = []
    for number, length in enumerate(rest):
        if length == max(rest) - len(chain) and (not chain or chain[-1] in before[number]):
            chain.append(number)
    return chain


def depth(placements: Sequence[Placement]) -> int:
    """Return how many launches come one after the other at the most."""
    behind: list[int] = []
    last = dict.fromkeys(LANES, 0)
    for placement in placements:
        last[placement.lane] = 1 + max(last[placement.lane], *(behind[other] for other in placement.after), 0)
        behind.append(last[placement.lane])
    return max(behind, default=0)

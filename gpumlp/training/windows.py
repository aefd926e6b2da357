"""Rows on disk, where a network trains on them: a window of the epoch at a time, while the next one is read.

Blocks come in an order that depends on the seed and the epoch, and so do the rows of each, which is cut where windows
end. The rows of an epoch, in that order, are cut into windows of whole batches, and within a window each shard of the
batches draws from rows of its own, in an order that depends on the window, too. So nothing is stored to go on in the
middle of an epoch, and a rank reads its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpumlp.data import Dataset, EncodedRows, PackedRows
from gpumlp.data.packed.blocks import TARGETS, WEIGHTS
from gpumlp.nn import Model
from gpumlp.ops.batches import ADVANCE
from gpumlp.ops.random import permute
from gpumlp.ops.record import Array
from gpumlp.phases import phase
from gpumlp.seeds import PACK, generator
from gpumlp.training.device_data import DeviceData, Drawn, arrays_of
from gpumlp.training.shards import ranges

_SPREAD = 0x9E3779B9  # between the keys of shards


class Streamed:
    """Rows on disk, which go through the device block by block.

    Parameters
    ----------
    scale
        What inputs that are bytes are multiplied by.

    Attributes
    ----------
    host
        The blocks.
    """

    def __init__(self, data: PackedRows, scale: float) -> None:
        self.host, self.scale = data, scale

    def __len__(self) -> int:
        return len(self.host)

    def blocks(self, model: Model) -> Iterator[DeviceData]:
        """Yield the rows block by block on the device."""
        for block in self.host.blocks():
            yield DeviceData(model, block, self.scale)


def on_device(model: Model, data: EncodedRows, scale: float) -> DeviceData | Streamed:
    """Return rows where a model computes on them: those in memory are brought there once, others block by block."""
    return Streamed(data, scale) if isinstance(data, PackedRows) else DeviceData(model, data, scale)


@dataclass(frozen=True)
class Cut:
    """How an epoch is cut into windows, and windows into shards.

    Parameters
    ----------
    rows
        Rows of an epoch, of which those behind the last batch are left out.
    batch_size, batches
        Rows of a batch, and batches of an epoch; the last batch may be shorter.
    together
        Batches of a window.
    shards
        Shards of a batch.
    """

    rows: int
    batch_size: int
    batches: int
    together: int
    shards: int = 1

    @property
    def windows(self) -> int:
        """How many windows an epoch has."""
        return -(-self.batches // self.together)

    def of_shard(self, rows: int) -> list[int]:
        """Return how many rows of a batch of ``rows`` each shard has."""
        return [len(part) for part in ranges(rows, -(-self.batch_size // self.shards), self.shards)]

    def cut(self, window: int) -> list[range]:
        """Return the places, in the order of an epoch, of the rows that each shard has in a window."""
        first = window * self.together
        last = min(first + self.together, self.batches)
        start, end = first * self.batch_size, min(last * self.batch_size, self.rows)
        full, rest = divmod(end - start, self.batch_size)
        sizes = [full * a + b for a, b in zip(self.of_shard(self.batch_size), self.of_shard(rest), strict=True)]
        ends = start + np.cumsum(sizes)
        return [range(int(stop) - size, int(stop)) for stop, size in zip(ends, sizes, strict=True)]


class Windows(Streamed):
    """Training rows on disk.

    Parameters
    ----------
    model
        Model that is trained.
    data
        The blocks.
    scale
        What inputs that are bytes are multiplied by.
    plan
        How an epoch is cut.
    own
        The shards whose rows are read here.
    epochs
        After which nothing is read ahead.
    seed
        Decides about the order of blocks.
    """

    def __init__(
        self, model: Model, data: PackedRows, scale: float, plan: Cut, *, own_shards: range, epochs: int, seed: int
    ) -> None:
        super().__init__(data, scale)
        self.plan, self._own, self._epochs = plan, own_shards, epochs
        self._key, self._key_of_blocks = (int(generator(seed, PACK, i).integers(2**32)) for i in (1, 2))
        backend = self._backend = model.context.backend
        size = max(self._size(window) for window in (0, plan.windows - 1))
        layout = data.layout
        stored = np.empty((size, data.features.stored.shape[1]), data.features.stored.dtype)
        weights = None if data.weights is None else layout.empty(WEIGHTS, size)
        self._staged = Dataset(replace(data.features, stored=stored), layout.empty(TARGETS, size), weights)
        self._arrays = tuple(
            None if each is None else backend.allocate((size, *each.shape[1:]), each.dtype)
            for each in arrays_of(model, self._staged.take(slice(0)))
        )
        self._model = model
        self._clock = backend.zeros((3,), np.int64)
        self._pool = ThreadPoolExecutor(1)
        self._coming: tuple[tuple[int, int], Future[None]] | None = None
        self._here: tuple[int, int] | None = None
        self._batch = -1
        self._last: tuple[int, Dataset] | None = None  # the block that the last window was cut in

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the thread works at: a copy reads by itself."""
        return vars(self) | {"_pool": None, "_coming": None, "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_pool": ThreadPoolExecutor(1)})

    @property
    def size(self) -> int:
        """The rows of the window of the moment that are here."""
        return 0 if self._here is None else self._size(self._here[1])

    def left(self, batch: int) -> int:
        """Return how many batches of its window are not done before a batch."""
        return self.plan.together - batch % self.plan.together

    def go_to(self, epoch: int, batch: int) -> None:
        """Have the rows of a batch on the device, and the clock of its window there.

        Raises
        ------
        DataError
            If a block is damaged.
        """
        window = batch // self.plan.together
        if self._here != (epoch, window):
            self._load(epoch, window)
            self._batch = -1
        if self._batch != batch:
            number = epoch * self.plan.windows + window
            self._backend.write(self._clock, [0, batch % self.plan.together, number])
        self._batch = batch

    def moved(self, count: int) -> None:
        """Take into account that so many batches were drawn."""
        self._batch += count

    def advance(self) -> None:
        """Let the clock of the window go on to its next batch."""
        self._backend.run(ADVANCE, "forward", (self._clock,), (self._clock,))

    def drawn(self, clock: Array, first: int, stride: int, key: int) -> Drawn:
        """Return from where the rows of a batch are drawn that begin with ``first``: one shard of it."""
        assert self._here is not None
        sizes = self.plan.of_shard(self.plan.batch_size)
        shard = first // sizes[0]
        cut = self.plan.cut(self._here[1])
        start = cut[shard].start - cut[self._own.start].start
        arrays = tuple(None if each is None else each[start : start + len(cut[shard])] for each in self._arrays)
        return Drawn(self._clock, arrays, sizes[shard], 0, (key + shard * _SPREAD) & 0xFFFFFFFF)

    def _size(self, window: int) -> int:
        cut = self.plan.cut(window)
        return cut[self._own[-1]].stop - cut[self._own[0]].start

    @phase("read")
    def _load(self, epoch: int, window: int) -> None:
        """Bring a window to the device, and begin to read the next one."""
        coming, self._coming = self._coming, None
        if coming is not None:
            try:
                coming[1].result()
            except Exception:
                if coming[0] == (epoch, window):
                    raise
        if coming is None or coming[0] != (epoch, window):
            self._pool.submit(self._read, epoch, window).result()
        size = self._size(window)
        for array, values in zip(self._arrays, arrays_of(self._model, self._staged.take(slice(size))), strict=True):
            if array is not None:
                self._backend.write(array[:size], values)
        self._backend.synchronize()  # what was staged is written over now
        self._here = epoch, window
        after = (epoch, window + 1) if window + 1 < self.plan.windows else (epoch + 1, 0)
        if after[0] < self._epochs:
            self._coming = after, self._pool.submit(self._read, *after)

    def _read(self, epoch: int, window: int) -> None:
        """Read the rows of a window that are for the own shards."""
        cut, data, order = self.plan.cut(window), self.host, self.order(epoch)
        start, stop = cut[self._own[0]].start, cut[self._own[-1]].stop
        sizes = np.full(len(order), data.layout.size)
        sizes[-1] = len(data.layout.rows(len(order) - 1))
        ends = np.cumsum(sizes[order])
        staged = (self._staged.features.stored, self._staged.targets, self._staged.weights)
        for position in range(int(np.searchsorted(ends, start, "right")), len(order)):
            block, begin = int(order[position]), int(ends[position] - sizes[order[position]])
            if begin >= stop:
                break
            rows = data.read(block) if self._last is None or self._last[0] != block else self._last[1]
            self._last = None if ends[position] <= stop else (block, rows)
            part = slice(max(start - begin, 0), min(stop, int(ends[position])) - begin)
            to = slice(begin + part.start - start, begin + part.stop - start)
            number = np.array([epoch * len(order) + block])  # rows are there in the order of the file
            taken = permute(np, np.arange(part.start, part.stop), len(rows), number, self._key_of_blocks)
            for target, values in zip(staged, (rows.features.stored, rows.targets, rows.weights), strict=True):
                if target is not None and values is not None:
                    np.take(values, taken, axis=0, out=target[to], mode="clip")

    def order(self, epoch: int) -> np.ndarray[Any, Any]:
        """Return the order in which an epoch visits the blocks, (blocks,)."""
        count = self.host.layout.blocks
        permuted: np.ndarray[Any, Any] = permute(np, np.arange(count), count, np.array([epoch]), self._key)
        return permuted

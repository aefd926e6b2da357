"""A batch in fixed parts, and the sum of what these leave over a fixed tree.

A shard is a computation of its own: its shapes, and hence its bits, do not depend on how many ranks there are. What
leaves it is summed over a binary tree: neighbouring shards, then neighbouring pairs, and so on. Each rank has
neighbouring shards, so the tree over all of them is the tree over each rank's followed by the tree over the ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpumlp.nn import Model
from gpumlp.ops.norms import MOVING_AVERAGE
from gpumlp.ops.record import Array
from gpumlp.ops.trees import TREE_SUM
from gpumlp.ranks import Ranks

UNIT = 16
"""Elements that the part of a rank is a multiple of: whole cache lines."""

SUMS, WISH = 4, 4
"""Sums that a loss leaves, and the column behind them: the signal that has asked the rank to end."""


class Shards:
    """The shards of a batch, and memory for what those of this rank leave.

    What a shard leaves is a row: its gradient, then the statistics of batch norms. Rows are summed as they come, by
    a binary counter, so that there are log2 of the shards and one.

    Parameters
    ----------
    model
        The network that is trained.
    count
        Shards of a batch, a power of two.
    batch_size
        Rows of a batch that is not the last one.
    ranks
        Whose number divides ``count``.
    """

    def __init__(self, model: Model, count: int, batch_size: int, ranks: Ranks) -> None:
        self.model, self.count, self.ranks = model, count, ranks
        self.rows = -(-batch_size // count)
        own_count = count // ranks.size
        self.own = range(ranks.number * own_count, (ranks.number + 1) * own_count)
        parameters, backend = model.parameters, model.context.backend
        self._averages: dict[int, tuple[Array, float, slice]] = {}  # by the identity of the running average
        self._gradient = end = len(parameters.gradients)
        for layer in model.layers().values():
            for average in layer.state.values() if layer.momentum is not None else ():
                assert layer.momentum is not None
                self._averages[id(average)] = average, layer.momentum, slice(end, end + average.size)
                end += average.size
        share = -(-end // (UNIT * ranks.size)) * UNIT
        dtype = parameters.gradients.dtype
        self._stack = backend.zeros((own_count.bit_length(), ranks.size * share), dtype)
        self._zero = backend.zeros((1,), dtype)
        self._sums = backend.zeros((count, SUMS + 1), np.float64)
        self._in_memory = isinstance(self._sums, np.ndarray)
        self._own_sums, self._total = self._sums, backend.zeros((SUMS + 1,), np.float64)
        if ranks.size > 1:
            self._own_sums = backend.zeros((own_count, SUMS + 1), np.float64)
            self._received = backend.zeros((ranks.size, share), dtype)
            self._share = backend.zeros((share,), dtype)

    def parts(self, rows: int) -> list[range]:
        """Return the rows of each shard of a batch of ``rows``; late ones of a short batch have few or none."""
        return ranges(rows, self.rows, self.count)

    def sum(self, rows: int, compute: Callable[[range, Array], Array]) -> Array:
        """Compute with the own shards of a batch; return its sums (4,), and leave its gradient in the parameters.

        ``compute`` takes the rows of a shard and the row of the stack for its gradient, of which it makes that of
        Σ s l / rows, and returns the sums.
        """
        parameters, backend, parts = self.model.parameters, self.model.context.backend, self.parts(rows)
        depth = 0
        for index, number in enumerate(self.own):
            self._leave(parts, number, self._stack[depth], self._own_sums[index, :SUMS], compute)
            depth += 1
            while index & 1:
                pair = self._stack[depth - 2 : depth]
                backend.run(TREE_SUM, "forward", (pair, None), (pair[0],))
                depth, index = depth - 1, index >> 1
        if self.ranks.size > 1:
            self._exchange()
        backend.run(TREE_SUM, "forward", (self._sums, None), (self._total,))
        sums, gradient = self._total[:SUMS], self._stack[:1, : self._gradient]
        backend.run(TREE_SUM, "forward", (gradient, sums), (parameters.gradients,), of=float(rows))
        for average, momentum, span in self._averages.values() if _remembered(parts) else ():
            statistic = self._stack[0, span].reshape(average.shape)
            params = {"momentum": momentum, "scale": 1.0}
            backend.run(MOVING_AVERAGE, "forward", (average, statistic), (average,), **params)
        return sums

    def send_wish(self) -> None:
        """Put the signal that asks this rank to end beside the sums of the next step, where these are in memory."""
        if self.ranks.size > 1 and self._in_memory:
            self._own_sums[0, WISH] = self.ranks.wish

    def receive_wish(self) -> None:
        """Let the ranks end by the signal that one of them has had before the last step.

        Sums on a device are not waited for: there the hosts exchange signals while it computes.
        """
        if self.ranks.size == 1:
            return
        wishes = self._sums[:, WISH]
        if not self._in_memory:
            wishes = self.ranks.allgather(np.array([self.ranks.wish]), out=np.empty(self.ranks.size, np.int64))
        self.ranks.agreed = int(wishes.max())
        self.ranks.exchange.keep_pace()

    def _leave(
        self, parts: list[range], number: int, row: Array, sums: Array, compute: Callable[[range, Array], Array]
    ) -> None:
        """Compute one shard into its row and its sums. An empty one leaves zeros."""
        backend, shard, part = self.model.context.backend, self.model.context.shard, parts[number]
        if not part:
            self._clear(row)
            self._clear(sums)
            return
        if self._averages:
            self._clear(row[self._gradient :])
        share = len(part) / _remembered(parts) if len(part) > 1 else 0.0

        def leave(average: Array, value: Array, scale: float) -> None:
            if share:
                view = row[self._averages[id(average)][2]].reshape(value.shape)
                backend.compute("statistic", backend.xp.multiply, value, scale * share, out=view)

        shard.first, shard.leave = part.start, leave
        try:
            backend.copy(compute(part, row), sums)
        finally:
            shard.first, shard.leave = 0, None

    def _clear(self, target: Array) -> None:
        self.model.context.backend.copy(self._zero, target)

    def _exchange(self) -> None:
        """Put together what the ranks have: sums, and the rows by parts, of which each rank sums one."""
        backend, by = self.model.context.backend, self.ranks.exchange
        backend.exchange("allgather", by.allgather, self._own_sums, self._sums)
        backend.exchange("alltoall", by.alltoall, self._stack[0], self._received)
        backend.run(TREE_SUM, "forward", (self._received, None), (self._share,))
        backend.exchange("allgather", by.allgather, self._share, self._stack[0])


def ranges(rows: int, size: int, count: int) -> list[range]:
    """Return ``count`` ranges of ``size`` of so many rows; late ones are short or empty."""
    return [range(start, min(start + size, rows)) for start in range(0, count * size, size)]


def _remembered(parts: list[range]) -> int:
    """Return how many rows are in shards of more than one, whose variance may be remembered."""
    return sum(len(part) for part in parts if len(part) > 1)

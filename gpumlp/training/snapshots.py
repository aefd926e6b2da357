"""The loop that keeps several epochs of one network, which predict together by their mean.

Sources: Huang et al. 2017, "Snapshot ensembles: train 1, get M for free", arXiv:1704.00109; Caruana et al. 2004,
"Ensemble selection from libraries of models".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpumlp.metrics import METRICS
from gpumlp.nn import Ensemble, Sequential
from gpumlp.nn.ensemble import networks, of_all, of_member
from gpumlp.phases import phase
from gpumlp.training.build import Parts
from gpumlp.training.calibration import softmax
from gpumlp.training.loop import CHOICE, Diverged, Epoch, Event, Loop, Progress, Stand, Step, Weights
from gpumlp.training.measure import Measurement

Host = np.ndarray[Any, Any]

SMALLEST = float(np.finfo(np.float64).tiny)
"""Probabilities below, of which a logarithm is not finite, count as this."""


@dataclass(frozen=True)
class Snapshot:
    """A network as it was after an epoch.

    Parameters
    ----------
    epoch
        Counted from 1.
    weights
        Its arrays by name.
    shares
        What it makes of the rows that choose, in float64, so that the mean of networks is the mean of these.
    """

    epoch: int
    weights: Weights
    shares: Host


class SnapshotsLoop(Loop):
    """Trains one network as a :class:`Loop` does, and keeps some epochs of it, whose mean predicts.

    After each epoch those of the kept ones join it by which the mean gains, the best one first, up to
    ``Parts.snapshots`` in all. They are kept in place of those before if their mean is better, on the rows that
    choose, by the metric. Of metrics that count rows, log-loss stands in for which ones join: one row more or
    less tells little, and few networks change one.

    Attributes
    ----------
    snapshots
        The epochs that are kept, first to last.
    """

    def __init__(self, parts: Parts, *, every: int | None = None) -> None:
        super().__init__(parts, every=every)
        self.loops = (Loop(parts.members[0], every=every),)
        self.snapshots: tuple[Snapshot, ...] = ()
        self._networks: list[Sequential] = []

    @property
    def outcome(self) -> dict[str, Any]:
        return {"snapshots": [each.epoch for each in self.snapshots]}

    def __iter__(self) -> Iterator[Event]:
        events = iter(self.loops[0])
        try:
            while self.status is None:
                event = next(events)
                yield event if isinstance(event, Step) else self._after(event)
        finally:
            self.parts.trainer.pause()

    def stand(self) -> Stand:
        trainer = self.parts.trainer
        position = {"epoch": trainer.epoch, "batch": trainer.batch, "seconds": trainer.seconds}
        best = self.best if self.snapshots else {}
        return Stand({}, best, {}, np.zeros(4), replace(self.progress), position, {})

    def go_to(self, stand: Stand) -> None:
        self.progress, snapshots = stand.progress, []
        for number, epoch in enumerate(stand.progress.snapshots):
            weights = of_member(stand.best, number)
            network = self._network(number)
            network.load(weights)
            rows = self._rows_of(CHOICE)
            linear = Measurement(network, self.parts.loss, rows, self.parts.data.encoder).linear()
            snapshots.append(Snapshot(epoch, weights, shares_of(network.link, linear)))
        self._keep(tuple(snapshots))

    def weights_kept(self, progress: Progress) -> Weights:
        return of_all(self.loops[0].best for _ in progress.snapshots)

    def _after(self, event: Epoch | Diverged) -> Epoch | Diverged:
        """Take an epoch of the network into account."""
        if isinstance(event, Diverged):
            self.diverged = event
            return event
        progress, trained = self.progress, self.loops[0].progress
        progress.epoch, progress.seconds = trained.epoch, trained.seconds
        return replace(event, best=self._join(), weights=self.best)

    @phase("measure")
    def _join(self) -> bool:
        """Let the epoch at hand join those kept. Return whether their mean is better than before."""
        loop, progress, metric = self.loops[0], self.progress, METRICS[self.parts.metric]
        model, optimizer = loop.parts.model, loop.parts.optimizer
        assert isinstance(model, Sequential)
        latest = Snapshot(progress.epoch, {}, shares_of(model.link, loop.linear()))
        joining = "log_loss" if metric.later else self.parts.metric
        together, cost = chosen(self.snapshots, latest, self.parts.snapshots, partial(self._cost, joining))
        if joining != self.parts.metric:
            cost = self._cost(self.parts.metric, np.mean([each.shares for each in together], axis=0))
        stopping = self.parts.stopping
        better = progress.observe(cost, stopping.min_delta if stopping else 0.0, later=metric.later)
        if better:
            weights = model.arrays(optimizer.weights)
            first, *others = together
            self._keep((*sorted(others, key=lambda each: each.epoch), replace(first, weights=weights)))
        return better

    def _keep(self, snapshots: tuple[Snapshot, ...]) -> None:
        """Keep these, and let the ensemble be of them."""
        self.snapshots, self.progress.snapshots = snapshots, tuple(each.epoch for each in snapshots)
        if snapshots:
            ensemble = self.parts.model
            assert isinstance(ensemble, Ensemble)
            ensemble.members = tuple(map(self._network, range(len(snapshots))))
            self.best = of_all(each.weights for each in snapshots)

    def _network(self, number: int) -> Sequential:
        """Return a network of the trained one's shape, for the weights of a snapshot."""
        while len(self._networks) <= number:
            trained, parts = self.loops[0].parts.model, self.parts
            network = networks(None, parts.architecture, parts.data.encoder.outputs, trained.link)
            assert isinstance(network, Sequential)
            network.build(*trained.widths, backend=parts.backend, dtype=trained.context.dtype)
            self._networks.append(network)
        return self._networks[number]

    def _cost(self, metric: str, shares: Host) -> float:
        """Return the cost of a mean on the rows that choose."""
        value = self._measurement_of(CHOICE).of(linear_of(self.parts.model.link, shares), metric)
        return METRICS[metric].cost(value)


def chosen(
    before: Sequence[Snapshot], latest: Snapshot, limit: int, cost: Callable[[Host], float]
) -> tuple[list[Snapshot], float]:
    """Return the latest snapshot with those that it is best together with, and the cost of their mean.

    Of those kept before, the one joins by which the mean is best, again and again, until the mean gains by none or
    there are ``limit``.
    """
    together, left, total = [latest], [*before], latest.shares
    current = cost(total)
    while left and len(together) < limit:
        costs = [cost((total + each.shares) / (len(together) + 1)) for each in left]
        lowest = int(np.argmin(costs))
        if not costs[lowest] < current:
            break
        current, total = costs[lowest], total + left[lowest].shares
        together.append(left.pop(lowest))
    return together, current


def shares_of(link: str, linear: Host) -> Host:
    """Return float64 of (N, K) linear values whose mean over networks is that of their predictions.

    These are the values themselves, probabilities of classes, or for sigmoids (N, K, 2) those of 0 and of 1: from a
    probability near 1 the other one could not be told.
    """
    if link == "sigmoid":
        return softmax(linear.reshape(-1, 1)).reshape(*linear.shape, 2)
    return softmax(linear) if link == "softmax" else linear.astype(np.float64)


def linear_of(link: str, shares: Host) -> Host:
    """Return the linear values, (N, K), that stand for such means."""
    if link == "identity":
        return shares
    logarithms: Host = np.log(np.maximum(shares, SMALLEST))
    return logarithms[..., 1] - logarithms[..., 0] if link == "sigmoid" else logarithms

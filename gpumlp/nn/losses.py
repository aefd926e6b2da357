"""Losses by the names a user knows, and the object that training calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor, broadcast_to, loss_value, reshape
from gpumlp.autodiff.fused import loss_operands
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError, choices
from gpumlp.nn.model import Model
from gpumlp.ops import LOSS_RECORDS
from gpumlp.ops.hyper import Hyper, settle
from gpumlp.ops.losses import Loss as LossRecord
from gpumlp.ops.record import Array


@dataclass(frozen=True)
class LossSpec:
    """A loss as it is chosen: its records, for one output and for several."""

    one: LossRecord
    many: LossRecord

    @property
    def task(self) -> str:
        """The task that it fits: classification, regression, or multilabel."""
        if self.many.link == "sigmoid":
            return "multilabel"
        return "classification" if self.many.counts_hits else "regression"

    @property
    def hyper(self) -> Mapping[str, Hyper]:
        return self.many.hyper

    def record(self, outputs: int) -> LossRecord:
        """Return the record for a network of ``outputs`` outputs."""
        return self.one if outputs == 1 else self.many


def _one_record(name: str) -> LossSpec:
    return LossSpec(LOSS_RECORDS[name], LOSS_RECORDS[name])


LOSSES: dict[str, LossSpec] = {
    "cross_entropy": LossSpec(LOSS_RECORDS["binary_cross_entropy"], LOSS_RECORDS["softmax_cross_entropy"]),
    "focal": LossSpec(LOSS_RECORDS["binary_focal"], LOSS_RECORDS["focal"]),
    "hinge": LossSpec(LOSS_RECORDS["binary_hinge"], LOSS_RECORDS["hinge"]),
    "binary_cross_entropy": _one_record("binary_cross_entropy"),
    "binary_focal": _one_record("binary_focal"),
    "squared_error": _one_record("squared_error"),
    "absolute_error": _one_record("absolute_error"),
    "huber": _one_record("huber"),
    "quantile": _one_record("quantile"),
    "absolute_percentage_error": _one_record("absolute_percentage_error"),
    "poisson": _one_record("poisson"),
}


def _for_each(members: int, values: Any, backend: Backend) -> Tensor:
    """Return values (N, ...) of rows for the rows of members, (N k, ...)."""
    rows = values if isinstance(values, Tensor) else Tensor(values, backend)
    shape = rows.shape
    repeated = broadcast_to(reshape(rows, (shape[0], 1, *shape[1:])), shape=(shape[0], members, *shape[1:]))
    return reshape(repeated, (shape[0] * members, *shape[1:]))


class Loss:
    """The mean loss of a model over a batch.

        loss = Loss("cross_entropy", model)
        value, sums = loss(model.forward(x), y)

    ``cross_entropy`` takes class labels (N,), of which one that no class has counts for nothing; with one output it
    is binary cross-entropy and the labels are 0 and 1. ``binary_cross_entropy`` is the mean over columns of labels
    (N, K), of which several may be 1. ``class_weights`` has one weight for each class (two where
    there is one output). ``quantile`` takes the ``levels`` of the outputs, of all 0.5 without them. A number to
    predict that is NaN counts for nothing.

    Raises ConfigError where the model's link does not belong to the loss.

    Parameters
    ----------
    name
        A key of ``LOSSES``.
    model
        The network, whose output activation must be that of the loss.
    class_weights
        (C,) weights of classes; of labels (2,), of 0 and 1. None: all 1.
    levels
        Levels of the quantiles, each in (0, 1).
    hyper
        The loss's own numbers, see ``LOSSES[name].hyper``.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        *,
        class_weights: Any = None,
        levels: Sequence[float] | None = None,
        **hyper: float,
    ) -> None:
        if not isinstance(name, str) or name not in LOSSES:
            raise ConfigError(f"unknown loss {name!r:.80}", hint=choices(name, LOSSES))
        self.name, self.outputs = name, model.units
        if model.link not in (self.record.link, "identity"):
            raise ConfigError(
                f"the loss {name} is computed from the values before a {self.record.link}, "
                f"but the model ends in {model.link}",
                hint=f"end the model in {self.record.link} or in linear values",
            )
        if class_weights is not None and LOSSES[name].task != "classification":
            raise ConfigError(f"the loss {name} has no classes to weight", hint="give row weights instead")
        if levels is not None and not self.record.takes_levels:
            raise ConfigError(f"the loss {name} has no levels", hint="levels are of the loss quantile")
        if levels is not None and (len(levels) != self.outputs or not all(0 < each < 1 for each in levels)):
            message = (
                f"the loss {name} takes a level between 0 and 1 for each of {self.outputs} outputs, not {levels}"
            )
            raise ConfigError(f"{message:.200}")
        self.hyper = settle(f"the loss {name}", hyper, self.record.hyper)
        context, numbers = model.context, class_weights if levels is None else np.array(levels)
        self.class_weights = None if numbers is None else context.backend.asarray(numbers, context.wide)

    @property
    def record(self) -> LossRecord:
        """Its record, for as many outputs as the model has."""
        return LOSSES[self.name].record(self.outputs)

    def __call__(
        self, outputs: Tensor, targets: Any, row_weights: Any = None, *, divisor: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss, a scalar, and the sums (Σ s l, Σ s m, Σ s h, Σ s), float64 ``(4,)``.

        Outputs (N, k, K) are those of k members, each of which is to predict the same targets: the loss is the mean
        of their losses, and the sums are over all of them.
        The gradient is that of the mean, or with a ``divisor`` that of Σ s l / divisor.
        """
        params = {"divisor": divisor} if divisor else {}
        if outputs.ndim == 3:
            members, backend = outputs.shape[1], outputs.backend
            targets = _for_each(members, targets, backend)
            row_weights = None if row_weights is None else _for_each(members, row_weights, backend)
            outputs = reshape(outputs, (-1, outputs.shape[-1]))
        return loss_value(self.record, outputs, targets, row_weights, self.class_weights, **self.hyper, **params)

    def check_targets(self, targets: np.ndarray[Any, Any]) -> None:
        """Raise DataError for targets outside of what the loss is defined for, as every call with host arrays does.

        A captured step does not look at values, nor does a call with arrays of a device: check before.

        Parameters
        ----------
        targets
            (N,) or (N, K), on the host.
        """
        self.record.check_targets(targets)

    def evaluate(self, outputs: Tensor, targets: Any, row_weights: Any = None) -> Array:
        """Return the sums alone, without a gradient, as an array on the backend.

        Parameters
        ----------
        outputs
            Last linear values (N, K).
        targets
            (N,) class numbers, or (N, K).
        row_weights
            (N,); None: all 1.

        Returns
        -------
        array
            (4,) float64.
        """
        inputs = (outputs, targets, row_weights, self.class_weights)
        _, arrays = loss_operands(self.record, inputs, outputs.backend)
        return outputs.backend.run(self.record, "evaluate", arrays, None, **self.hyper)[1]

"""Losses on the network's last linear values, fused with their gradient.

Each loss is one function of a batch: per row it gives the loss l_i, the mass m_i that the row counts for
(1 unless class weights say otherwise) and the gradient g_i of l_i. With row weights s_i the record then
computes, in one launch,

    loss = Σ s_i l_i / Σ s_i m_i
    sums = (Σ s_i l_i, Σ s_i m_i, Σ s_i h_i, Σ s_i)        h_i: 1 where the answer of the row is right
    gradient = s_i g_i / Σ s_j m_j

so that weights of 1 change nothing, and twice the weight means the row stands there twice. Where nothing counts at
all the loss and the gradient are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError, DataError
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array, Direction, Hyper, Op, Scalar, Spec, Stage, settle
from gpumlp.ops.special import sigmoid

MAX_SETTINGS = 2
"""Most numbers that a loss may be set by: LOSS_SETTINGS of kernels/loss.cuh."""

Rows = tuple[Array, Array, Array]  # losses (N,), masses (N,), gradients (N, K)


@dataclass(frozen=True)
class Loss(Op):
    """A loss record. ``link`` is the activation that turns the network's last linear values into predictions.

    ``slope`` is the gradient of the loss of one row with respect to these values as a reader would write it, with
    f(x) for the prediction, y for the target and e(y) for a label as a distribution over the classes.
    ``gradient(xp, outputs, targets, row_weights, class_weights, **params)`` returns the gradient of the mean loss,
    written so that it can be differentiated again.
    """

    link: str = field(kw_only=True)
    slope: str = field(kw_only=True)
    gradient: Callable[..., Array] = field(kw_only=True)
    hyper: Mapping[str, Hyper] = field(kw_only=True)
    counts_hits: bool = field(kw_only=True)  # the third of the sums counts right answers, else it is 0

    def check_targets(self, targets: np.ndarray[Any, Any]) -> None:
        """Raise DataError for targets outside of what the loss is defined for. NaN makes the loss NaN."""
        wrong, allowed = None, ""
        if self.link == "sigmoid":
            wrong, allowed = (targets < 0) | (targets > 1), "lie in [0, 1]"
        elif self.link == "softmax" and targets.ndim == 2:
            wrong, allowed = targets < 0, "be shares of the classes, at least 0"
        elif self.link == "softmax" and targets.dtype.kind not in "biu":
            wrong, allowed = targets != np.floor(targets), "be class numbers"
        if wrong is not None and bool(wrong.any()):
            raise DataError(f"{self.name}: targets must {allowed}, one is {float(targets[wrong][0]):g}")


def loss(
    name: str,
    meaning: str,
    rows: Callable[..., Rows],
    *,
    link: str,
    slope: str,
    hits: Callable[[Any, Array, Array], Array] | None = None,
    hyper: Mapping[str, Hyper] = MappingProxyType({}),
    accepts: Callable[[Sequence[Array]], bool] = lambda inputs: True,
) -> Loss:
    """Make the record of a loss from ``rows(xp, outputs, targets, class_weights, **params)``.

    Raises ConfigError for more numbers than the kernels of a loss take.
    """
    if len(hyper) > MAX_SETTINGS:
        raise ConfigError(
            f"the loss {name} has {len(hyper)} settings: {', '.join(hyper)}",
            hint=f"the kernel of a loss takes {MAX_SETTINGS} at most: LOSS_SETTINGS of kernels/loss.cuh",
        )

    def scaled(xp: Any, gradients: Array, mass: Array, weights: Array | None) -> tuple[Array, Array]:
        """Return the gradient of the mean and the mass of the batch, from the gradients and masses of the rows."""
        counts = xp.ones(mass.shape, dtype=gradients.dtype) if weights is None else weights
        count = xp.sum(mass if weights is None else weights * mass)
        # A batch in which nothing counts has loss 0 and moves nothing; NaN is not 0 and goes on.
        scale = xp.where(count == 0, 0.0, counts / xp.where(count == 0, 1.0, count))
        return gradients * scale[:, None].astype(gradients.dtype), count

    def gradient(
        xp: Any, outputs: Array, targets: Array, weights: Array | None, classes: Array | None, **params: float
    ) -> Array:
        _, mass, gradients = rows(xp, outputs, targets, classes, **params)
        return scaled(xp, gradients, mass, weights)[0]

    def evaluate(
        xp: Any, outputs: Array, targets: Array, weights: Array | None, classes: Array | None, **params: float
    ) -> tuple[Array, Array]:
        return forward(xp, outputs, targets, weights, classes, **params)[:2]

    def forward(
        xp: Any, outputs: Array, targets: Array, weights: Array | None, classes: Array | None, **params: float
    ) -> tuple[Array, Array, Array]:
        losses, mass, gradients = rows(xp, outputs, targets, classes, **params)
        gradients, count = scaled(xp, gradients, mass, weights)
        counts = xp.ones(outputs.shape[:1], dtype=outputs.dtype) if weights is None else weights
        total = xp.sum(losses if weights is None else weights * losses)
        value = xp.where(count == 0, 0.0, total / xp.where(count == 0, 1.0, count))
        right = xp.sum(counts * hits(xp, outputs, targets)) if hits else 0.0 * count
        sums = xp.stack([part.astype(xp.float64) for part in (total, count, right, xp.sum(counts))])
        return value.astype(outputs.dtype), sums, gradients

    def specs(outputs: Array, *_: Array, **__: float) -> tuple[Spec, ...]:
        return ((), wide(outputs.dtype)), ((4,), "float64"), (outputs.shape, outputs.dtype)

    def scalars(_: Sequence[Array], params: Mapping[str, float]) -> list[Scalar]:
        settings = [*settle(name, params, hyper).values()]
        return settings + [0.0] * (MAX_SETTINGS - len(settings))

    inputs = ("outputs", "targets", "row_weights?", "class_weights?")
    given = ("outputs", "targets", "row_weights", "class_weights")
    stages = (
        Stage("", "total", given[1:], ("scratch",)),
        Stage("_loss", "total", (*given, "scratch"), ("gradient", "scratch")),
        Stage("_finish", "finish", ("scratch",), ("loss", "sums")),
    )
    direction = partial(
        Direction,
        inputs=inputs,
        launch="total",
        types=("outputs", "targets"),
        narrow=True,
        wide=("row_weights", "class_weights", "loss"),
        scalars=scalars,
        accepts=accepts,
        stages=stages,
    )
    return Loss(
        name,
        meaning,
        {
            "forward": direction(forward, outputs=("loss", "sums", "gradient"), specs=specs),
            "evaluate": direction(evaluate, outputs=("loss", "sums"), specs=lambda *a, **p: specs(*a, **p)[:2]),
        },
        link=link,
        slope=slope,
        gradient=gradient,
        hyper=hyper,
        counts_hits=hits is not None,
    )


def _class_targets(xp: Any, targets: Array, classes: int, smoothing: float, dtype: Any) -> Array:
    """Return the target distribution ``(N, K)`` from labels ``(N,)`` or from soft targets ``(N, K)``.

    The distribution of a label that no class has is 0 everywhere, smoothed or not.
    """
    spread: Any = smoothing / classes
    if targets.ndim == 1:
        targets = targets[:, None] == xp.arange(classes)
        spread = spread * targets.any(axis=-1, keepdims=True).astype(dtype) if smoothing else 0.0
    targets = targets.astype(dtype)
    return targets * (1.0 - smoothing) + spread if smoothing else targets


def _softmax_cross_entropy(
    xp: Any, logits: Array, targets: Array, class_weights: Array | None, *, label_smoothing: float = 0.0
) -> Rows:
    t = _class_targets(xp, targets, logits.shape[-1], label_smoothing, logits.dtype)
    if class_weights is not None:
        t = t * class_weights
    # Both terms are taken from the row maximum, for next to a huge logit log K would round away.
    z = logits - xp.max(logits, axis=-1, keepdims=True)
    lse = xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))
    mass = xp.sum(t, axis=-1)
    # Where a class has no mass its logit may be -inf: 0·inf must not enter the sum.
    losses = xp.sum(xp.where(t == 0, 0.0, t * (lse - z)), axis=-1)
    return losses, mass, xp.exp(z - lse) * mass[:, None] - t


def _labels_or_soft(inputs: Sequence[Array]) -> bool:
    """A kernel tells labels from soft targets by their dtype: whole numbers are labels, one for each row."""
    targets = inputs[1]
    return bool(targets.dtype.kind == "f" if targets.ndim == 2 else targets.dtype.name in ("int32", "int64"))


def _right_class(xp: Any, logits: Array, targets: Array) -> Array:
    labels = targets if targets.ndim == 1 else xp.argmax(targets, axis=-1)
    return xp.argmax(logits, axis=-1) == labels


def _binary_cross_entropy(
    xp: Any, logits: Array, targets: Array, class_weights: Array | None, *, label_smoothing: float = 0.0
) -> Rows:
    t = targets.astype(logits.dtype).reshape(logits.shape)
    if label_smoothing:
        t = t * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive, negative = (t, 1.0 - t) if class_weights is None else (
        t * class_weights[1], (1.0 - t) * class_weights[0]
    )  # fmt: skip
    mass = positive + negative
    # -log sigmoid(z) = softplus(-z) and -log(1 - sigmoid(z)) = softplus(z) = softplus(-z) + z
    tail = xp.log1p(xp.exp(-xp.abs(logits)))
    # A side without mass may be at infinity: 0·inf must not enter the sum.
    of_positive = xp.where(positive == 0, 0.0, positive * (xp.maximum(-logits, 0.0) + tail))
    of_negative = xp.where(negative == 0, 0.0, negative * (xp.maximum(logits, 0.0) + tail))
    losses = of_positive + of_negative
    gradients = mass * sigmoid(xp, logits) - positive
    columns = logits.shape[-1]
    return xp.mean(losses, axis=-1), xp.mean(mass, axis=-1), gradients / columns


def _right_side(xp: Any, logits: Array, targets: Array) -> Array:
    return xp.mean(((logits > 0) == (targets.reshape(logits.shape) > 0.5)).astype(logits.dtype), axis=-1)


def _regression(function: Callable[..., tuple[Array, Array]]) -> Callable[..., Rows]:
    """Turn ``function(xp, residuals, **params) -> (losses, slopes)`` into the rows of a loss."""

    def rows(xp: Any, outputs: Array, targets: Array, class_weights: None, **params: float) -> Rows:
        residuals = outputs - targets.reshape(outputs.shape).astype(outputs.dtype)
        losses, slopes = function(xp, residuals, **params)
        columns = outputs.shape[-1]
        losses = xp.mean(losses, axis=-1)
        return losses, xp.ones(outputs.shape[:1], dtype=outputs.dtype), slopes / columns

    return rows


def _huber(xp: Any, r: Array, *, delta: float = 1.0) -> tuple[Array, Array]:
    size = xp.abs(r)
    near = xp.minimum(size, delta)
    return near * (size - 0.5 * near), xp.maximum(xp.minimum(r, delta), -delta)


_SMOOTHING = Hyper(0.0, "share of each target spread evenly over all classes", ge=0.0, lt=1.0)

SOFTMAX_CROSS_ENTROPY = loss(
    "softmax_cross_entropy",
    "l = Σ_k w_k t_k (log Σ_j exp(z_j) - z_k), t one-hot, soft or smoothed",
    _softmax_cross_entropy,
    link="softmax",
    slope="f(x) - e(y)",
    hits=_right_class,
    accepts=_labels_or_soft,
    hyper={"label_smoothing": _SMOOTHING},
)
BINARY_CROSS_ENTROPY = loss(
    "binary_cross_entropy",
    "l = -w_1 t log sigmoid(z) - w_0 (1 - t) log(1 - sigmoid(z)), mean over columns",
    _binary_cross_entropy,
    link="sigmoid",
    slope="f(x) - y",
    hits=_right_side,
    hyper={"label_smoothing": _SMOOTHING},
)
SQUARED_ERROR = loss(
    "squared_error",
    "l = (y - t)², mean over columns",
    _regression(lambda xp, r: (r * r, 2.0 * r)),
    link="identity",
    slope="2 (f(x) - y)",
)
ABSOLUTE_ERROR = loss(
    "absolute_error",
    "l = |y - t|, mean over columns; slope 0 at 0",
    _regression(lambda xp, r: (xp.abs(r), xp.sign(r))),
    link="identity",
    slope="sign(f(x) - y)",
)
HUBER = loss(
    "huber",
    "l = r²/2 where |r| <= δ, else δ (|r| - δ/2), mean over columns (Huber 1964)",
    _regression(_huber),
    link="identity",
    slope="f(x) - y, clipped to ±δ",
    hyper={
        "delta": Hyper(
            1.0,
            "residual at which the loss turns from squared to linear, in standard deviations of the target",
            gt=0.0,
        )
    },
)

LOSS_RECORDS: dict[str, Loss] = {
    record.name: record
    for record in (SOFTMAX_CROSS_ENTROPY, BINARY_CROSS_ENTROPY, SQUARED_ERROR, ABSOLUTE_ERROR, HUBER)
}

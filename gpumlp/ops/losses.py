"""Losses on the network's last linear values, fused with their gradient.

Each loss is one function of a batch: per row it gives the loss l_i, the mass m_i that the row counts for
(1 unless class weights say otherwise) and the gradient g_i of l_i. With row weights s_i the record then
computes, in one launch,

    loss = Σ s_i l_i / Σ s_i m_i
    sums = (Σ s_i l_i, Σ s_i m_i, Σ s_i h_i, Σ s_i)        h_i: 1 where the answer of the row is right
    gradient = s_i g_i / Σ s_j m_j                     or s_i g_i / divisor, where one is given

so that weights of 1 change nothing, and twice the weight means the row stands there twice. Where nothing counts at
all the loss and the gradient are 0. A target that is NaN, as a label that no class has, is missing: it has no mass.
The rows of a shard are divided by the rows of its batch, as the mass of the batch is known only once all its shards
have been computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from gpumlp.errors import ConfigError, DataError
from gpumlp.ops.hyper import Hyper, settle
from gpumlp.ops.precision import wide
from gpumlp.ops.record import Array, Direction, Op, Scalar, Spec, Stage
from gpumlp.ops.special import sigmoid, softplus

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
    takes_levels: bool = field(kw_only=True)  # in place of class weights: one number for each output
    least: float | None = field(kw_only=True)  # smallest target of a regression loss
    relative: bool = field(kw_only=True)  # of errors in shares of the target, whose 0 must stay where it is

    @property
    def of_counts(self) -> bool:
        """Whether the network predicts the logarithm of an expected count."""
        return self.least is not None

    def check_targets(self, targets: np.ndarray[Any, Any]) -> None:
        """Raise DataError for targets outside of what the loss is defined for. NaN is a missing target."""
        wrong, allowed = None, ""
        if self.link == "sigmoid":
            wrong, allowed = (targets < 0) | (targets > 1), "lie in [0, 1]"
        elif self.link == "softmax" and targets.ndim == 2:
            wrong, allowed = targets < 0, "be shares of the classes, at least 0"
        elif self.link == "softmax" and targets.dtype.kind not in "biu":
            wrong, allowed = targets != np.floor(targets), "be class numbers"
        elif self.least is not None:
            wrong, allowed = targets < self.least, f"be at least {self.least:g}"
        if wrong is not None and bool(wrong.any()):
            raise DataError(f"{self.name}: targets must {allowed}, one is {float(targets[wrong][0]):g}")

    def check_weights(self, rows: Array | None, classes: Array | None) -> None:
        """Raise DataError for weights or levels, on the host, that are not what the loss is defined for."""
        if rows is None and classes is None:
            return
        for name, values in (("row weights", rows), ("levels" if self.takes_levels else "class weights", classes)):
            if not isinstance(values, np.ndarray):
                continue
            levels = name == "levels"
            right = (values > 0) & (values < 1) if levels else (values >= 0) & (values < np.inf)
            if not right.all():
                allowed = "lie between 0 and 1" if levels else "be finite and at least 0"
                raise DataError(f"{self.name}: {name} must {allowed}, one is {float(values[~right][0]):g}")


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
    takes_levels: bool = False,
    least: float | None = None,
    relative: bool = False,
) -> Loss:
    """Make the record of a loss from ``rows(xp, outputs, targets, class_weights, **params)``.

    Raises ConfigError for more numbers than the kernels of a loss take.
    """
    if len(hyper) > MAX_SETTINGS:
        raise ConfigError(
            f"the loss {name} has {len(hyper)} settings: {', '.join(hyper)}",
            hint=f"the kernel of a loss takes {MAX_SETTINGS} at most: LOSS_SETTINGS of kernels/loss.cuh",
        )

    def scaled(
        xp: Any, gradients: Array, mass: Array, weights: Array | None, divisor: float
    ) -> tuple[Array, Array, Array, Callable[[Array], Array]]:
        """Return the gradient of the mean, the mass of the batch, what each row counts, and what divides by the mass.

        A batch in which nothing counts has loss 0 and moves nothing; NaN is not 0 and goes on.
        """
        counts = xp.ones(mass.shape, dtype=gradients.dtype) if weights is None else weights
        total = xp.sum(mass if weights is None else weights * mass)
        empty = total == 0
        whole = xp.where(empty, 1.0, total)
        scale = xp.where(empty, 0.0, counts / (xp.where(empty, 1.0, divisor) if divisor else whole))
        return (
            gradients * scale[:, None].astype(gradients.dtype),
            total,
            counts,
            lambda part: xp.where(empty, 0.0, part / whole),
        )

    def gradient(
        xp: Any,
        outputs: Array,
        targets: Array,
        weights: Array | None,
        classes: Array | None,
        *,
        divisor: float = 0.0,
        **params: float,
    ) -> Array:
        _, mass, gradients = rows(xp, outputs, targets, classes, **params)
        return scaled(xp, gradients, mass, weights, divisor)[0]

    def evaluate(
        xp: Any, outputs: Array, targets: Array, weights: Array | None, classes: Array | None, **params: float
    ) -> tuple[Array, Array]:
        return forward(xp, outputs, targets, weights, classes, **params)[:2]

    def forward(
        xp: Any,
        outputs: Array,
        targets: Array,
        weights: Array | None,
        classes: Array | None,
        *,
        divisor: float = 0.0,
        **params: float,
    ) -> tuple[Array, Array, Array]:
        losses, mass, gradients = rows(xp, outputs, targets, classes, **params)
        gradients, count, counts, by_mass = scaled(xp, gradients, mass, weights, divisor)
        total = xp.sum(losses if weights is None else weights * losses)
        value = by_mass(total)
        right = xp.sum(counts * hits(xp, outputs, targets)) if hits else 0.0 * count
        sums = xp.stack([part.astype(xp.float64) for part in (total, count, right, xp.sum(counts))])
        return value.astype(outputs.dtype), sums, gradients

    def specs(outputs: Array, *_: Array, **__: float) -> tuple[Spec, ...]:
        return ((), wide(outputs.dtype)), ((4,), "float64"), (outputs.shape, outputs.dtype)

    def scalars(_: Sequence[Array], params: Mapping[str, float]) -> list[Scalar]:
        declared = {key: value for key, value in params.items() if key != "divisor"}
        settings = [*settle(name, declared, hyper).values()]
        return [*settings, *[0.0] * (MAX_SETTINGS - len(settings)), float(params.get("divisor", 0.0))]

    inputs = ("outputs", "targets", "row_weights?", "class_weights?")
    operands = ("outputs", "targets", "row_weights", "class_weights")
    stages = (
        Stage("", "total", operands[1:], ("scratch",)),
        Stage("_loss", "total", (*operands, "scratch"), ("gradient", "scratch")),
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
        takes_levels=takes_levels,
        least=least,
        relative=relative,
    )


def _class_targets(
    xp: Any, targets: Array, classes: int, smoothing: float, dtype: Any, class_weights: Array | None
) -> Array:
    """Return the target distribution ``(N, K)``, times the weights of classes.

    It comes from labels ``(N,)`` or from soft targets ``(N, K)``. The distribution of a label that no class has is 0
    everywhere, smoothed or not.
    """
    spread: Any = smoothing / classes
    if targets.ndim == 1:
        targets = targets[:, None] == xp.arange(classes)
        spread = spread * targets.any(axis=-1, keepdims=True).astype(dtype) if smoothing else 0.0
    targets = targets.astype(dtype)
    targets = targets * (1.0 - smoothing) + spread if smoothing else targets
    return targets if class_weights is None else targets * class_weights


def _softmax_cross_entropy(
    xp: Any, logits: Array, targets: Array, class_weights: Array | None, *, label_smoothing: float = 0.0
) -> Rows:
    t = _class_targets(xp, targets, logits.shape[-1], label_smoothing, logits.dtype, class_weights)
    # Both terms are taken from the row maximum, for next to a huge logit log K would round away.
    z = logits - xp.max(logits, axis=-1, keepdims=True)
    lse = xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))
    mass = xp.sum(t, axis=-1)
    # Where a class has no mass its logit may be -inf: 0·inf must not enter the sum.
    losses = xp.sum(xp.where(t == 0, 0.0, t * (lse - z)), axis=-1)
    return losses, mass, xp.exp(z - lse) * mass[:, None] - t


def _labels_or_soft(inputs: Sequence[Array]) -> bool:
    """Return whether a kernel takes these targets: whole numbers, one label for each row, or soft targets."""
    targets = inputs[1]
    return bool(targets.dtype.kind == "f" if targets.ndim == 2 else targets.dtype.name in ("int32", "int64"))


def _right_class(xp: Any, logits: Array, targets: Array) -> Array:
    labels = targets if targets.ndim == 1 else xp.argmax(targets, axis=-1)
    return xp.argmax(logits, axis=-1) == labels


def _binary_cross_entropy(
    xp: Any, logits: Array, targets: Array, class_weights: Array | None, *, label_smoothing: float = 0.0
) -> Rows:
    positive, negative, known = _sides(xp, logits, targets, class_weights, label_smoothing)
    mass = positive + negative
    # -log sigmoid(z) = softplus(-z) and -log(1 - sigmoid(z)) = softplus(z) = softplus(-z) + z
    tail = xp.log1p(xp.exp(-xp.abs(logits)))
    # A side without mass may be at infinity: 0·inf must not enter the sum.
    of_positive = xp.where(positive == 0, 0.0, positive * (xp.maximum(-logits, 0.0) + tail))
    of_negative = xp.where(negative == 0, 0.0, negative * (xp.maximum(logits, 0.0) + tail))
    losses = of_positive + of_negative
    gradients = xp.where(known, mass * sigmoid(xp, logits) - positive, 0.0)
    columns = logits.shape[-1]
    return xp.mean(losses, axis=-1), xp.mean(mass, axis=-1), gradients / columns


def _sides(
    xp: Any, logits: Array, targets: Array, class_weights: Array | None, label_smoothing: float = 0.0
) -> tuple[Array, Array, Array]:
    """Return what each target weighs on the side of 1 and of 0, both 0 where it is missing, and which are there."""
    t, known = _known(xp, logits, targets)
    if label_smoothing:
        t = t * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive, negative = (t, 1.0 - t) if class_weights is None else (
        t * class_weights[1], (1.0 - t) * class_weights[0]
    )  # fmt: skip
    return xp.where(known, positive, 0.0), xp.where(known, negative, 0.0), known


def _of_sides(function: Callable[..., tuple[Array, Array]]) -> Callable[..., Rows]:
    """Turn ``function(xp, z, **params) -> (losses, slopes)`` of the target 1, for 0 of -z, into rows of a loss."""

    def rows(xp: Any, logits: Array, targets: Array, class_weights: Array | None, **params: float) -> Rows:
        positive, negative, _ = _sides(xp, logits, targets, class_weights)
        (of_one, up), (of_zero, down) = function(xp, logits, **params), function(xp, -logits, **params)
        # A side without mass may be at infinity: 0·inf must not enter the sum.
        losses = xp.where(positive == 0, 0.0, positive * of_one) + xp.where(negative == 0, 0.0, negative * of_zero)
        slopes = positive * up - negative * down
        known = positive + negative != 0
        slopes = xp.where(known, slopes, 0.0)
        columns = logits.shape[-1]
        return xp.mean(losses, axis=-1), xp.mean(positive + negative, axis=-1), slopes / columns

    return rows


def _binary_hinge(xp: Any, z: Array) -> tuple[Array, Array]:
    margin = xp.maximum(1.0 - z, 0.0)
    return margin, -xp.sign(margin)


def _binary_focal(xp: Any, z: Array, *, gamma: float = 2.0) -> tuple[Array, Array]:
    logarithm, power, p = -softplus(xp, -z), xp.exp(-gamma * softplus(xp, z)), sigmoid(xp, z)
    part = xp.where(p == 0, 0.0, xp.where(p == 0, 0.0, p) * xp.where(p == 0, 0.0, logarithm))
    loss = xp.where(power == 0, 0.0, -power * logarithm)
    return loss, power * (gamma * part - sigmoid(xp, -z))


def _hinge(xp: Any, logits: Array, targets: Array, class_weights: Array | None) -> Rows:
    classes = logits.shape[-1]
    numbers, shares = xp.arange(classes), _class_targets(xp, targets, classes, 0.0, logits.dtype, class_weights)
    if targets.ndim == 1:
        labels = [(targets[:, None] == numbers, xp.sum(shares, axis=-1))]
    else:
        labels = [((numbers == k)[None, :], shares[:, k]) for k in range(classes)]
    losses, gradients = 0.0, 0.0
    for label, mass in labels:
        true = xp.sum(xp.where(label, logits, 0.0), axis=-1, keepdims=True)
        margins = xp.where(label, 0.0, xp.maximum((1.0 - true) + logits, 0.0))
        active = xp.sign(margins)
        slopes = active - xp.where(label, xp.sum(active, axis=-1, keepdims=True), 0.0)
        losses = losses + xp.where(mass == 0, 0.0, mass * (xp.sum(margins, axis=-1) / classes))
        gradients = gradients + xp.where(mass[:, None] == 0, 0.0, mass[:, None] * (slopes / classes))
    return losses, xp.sum(shares, axis=-1), gradients


def _focal(xp: Any, logits: Array, targets: Array, class_weights: Array | None, *, gamma: float = 2.0) -> Rows:
    t = _class_targets(xp, targets, logits.shape[-1], 0.0, logits.dtype, class_weights)
    z = logits - xp.max(logits, axis=-1, keepdims=True)
    logarithm = z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))
    p, q = xp.exp(logarithm), -xp.expm1(logarithm)
    # Where q is 0, log(q) and 1 / q are not taken; where p is, p log(p) is 0.
    some = xp.where(q == 0, 1.0, q)
    power = xp.where(q == 0, 0.0, xp.exp(gamma * xp.log(some)))
    ratio = xp.where(q == 0, -1.0, xp.where(p == 0, 0.0, logarithm) / some)
    losses = xp.sum(xp.where((t == 0) | (q == 0), 0.0, -t * power * logarithm), axis=-1)
    slopes = t * power * (1.0 - gamma * (p * ratio))
    gradients = p * xp.sum(slopes, axis=-1, keepdims=True) - slopes
    mass = xp.sum(t, axis=-1)
    return losses, mass, xp.where(mass[:, None] == 0, 0.0, gradients)


def _labels(inputs: Sequence[Array]) -> bool:
    """Return whether a kernel takes these targets: whole numbers, one label for each row."""
    return bool(inputs[1].ndim == 1 and inputs[1].dtype.name in ("int32", "int64"))


def _right_side(xp: Any, logits: Array, targets: Array) -> Array:
    return xp.mean(((logits > 0) == (targets.reshape(logits.shape) > 0.5)).astype(logits.dtype), axis=-1)


def _known(xp: Any, outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Return targets of the shape of the outputs, 0 in place of NaN, and which of them are there."""
    t = targets.astype(outputs.dtype).reshape(outputs.shape)
    known = t == t  # false for NaN alone
    return xp.where(known, t, xp.zeros_like(t)), known


def _regression(function: Callable[..., tuple[Array, Array]]) -> Callable[..., Rows]:
    """Turn ``function(xp, outputs, targets, levels, **params) -> (losses, slopes)`` into the rows of a loss."""

    def rows(xp: Any, outputs: Array, targets: Array, levels: Array | None, **params: float) -> Rows:
        t, known = _known(xp, outputs, targets)
        losses, slopes = function(xp, outputs, t, levels, **params)
        columns = outputs.shape[-1]
        mass = xp.mean(known.astype(outputs.dtype), axis=-1)
        return xp.mean(xp.where(known, losses, 0.0), axis=-1), mass, xp.where(known, slopes, 0.0) / columns

    return rows


def _of_residuals(function: Callable[..., tuple[Array, Array]]) -> Callable[..., Rows]:
    """Turn ``function(xp, residuals, **params) -> (losses, slopes)`` into the rows of a loss."""
    return _regression(lambda xp, z, t, _, **params: function(xp, z - t, **params))


def _huber(xp: Any, r: Array, *, delta: float = 1.0) -> tuple[Array, Array]:
    size = xp.abs(r)
    near = xp.minimum(size, delta)
    return near * (size - 0.5 * near), xp.maximum(xp.minimum(r, delta), -delta)


def _quantile(xp: Any, z: Array, t: Array, levels: Array | None) -> tuple[Array, Array]:
    r = z - t
    level = xp.zeros_like(t) + 0.5 if levels is None else levels
    side = xp.where(r > 0, 1.0 - level, level)
    return side * xp.abs(r), side * xp.sign(r)


def _percentage(xp: Any, z: Array, t: Array, _: Array | None, *, floor: float = 0.01) -> tuple[Array, Array]:
    r, size = z - t, xp.maximum(xp.abs(t), floor)
    return xp.abs(r) / size, xp.sign(r) / size


def _poisson(xp: Any, z: Array, t: Array, _: Array | None) -> tuple[Array, Array]:
    rate = xp.exp(z)
    return rate - xp.where(t == 0, 0.0, t * z), rate - t


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
_GAMMA = Hyper(2.0, "how much less rows count that are right already: the power of 1 - p", gt=0.0)

FOCAL = loss(
    "focal",
    "l = -w_y (1 - p_y)^γ log p_y, p = softmax(z), y the label (Lin et al. 2017)",
    _focal,
    link="softmax",
    slope="(1 - p)^γ (1 - γ p log(p) / (1 - p)) (f(x) - e(y)), p the share of y in f(x)",
    hits=_right_class,
    accepts=_labels,
    hyper={"gamma": _GAMMA},
)
BINARY_FOCAL = loss(
    "binary_focal",
    "l = -w_1 t (1 - p)^γ log p - w_0 (1 - t) p^γ log(1 - p), p = sigmoid(z), mean over columns (Lin et al. 2017)",
    _of_sides(_binary_focal),
    link="sigmoid",
    slope="(1 - p)^γ (1 - γ p log(p) / (1 - p)) (f(x) - y), p = f(x) where y is 1, else 1 - f(x)",
    hits=_right_side,
    hyper={"gamma": _GAMMA},
)
HINGE = loss(
    "hinge",
    "l = w_y mean_k max(0, 1 - z_y + z_k) over classes k, y the label, which adds nothing (Weston and Watkins 1999)",
    _hinge,
    link="softmax",
    slope="1/K for each class k with z_k > z_y - 1, -1/K for y as often",
    hits=_right_class,
    accepts=_labels,
)
BINARY_HINGE = loss(
    "binary_hinge",
    "l = w_1 t max(0, 1 - z) + w_0 (1 - t) max(0, 1 + z), mean over columns; slope 0 at the margin",
    _of_sides(_binary_hinge),
    link="sigmoid",
    slope="-1 where y is 1 and z < 1, 1 where y is 0 and z > -1",
    hits=_right_side,
)
SQUARED_ERROR = loss(
    "squared_error",
    "l = (y - t)², mean over columns",
    _of_residuals(lambda xp, r: (r * r, 2.0 * r)),
    link="identity",
    slope="2 (f(x) - y)",
)
ABSOLUTE_ERROR = loss(
    "absolute_error",
    "l = |y - t|, mean over columns; slope 0 at 0",
    _of_residuals(lambda xp, r: (xp.abs(r), xp.sign(r))),
    link="identity",
    slope="sign(f(x) - y)",
)
HUBER = loss(
    "huber",
    "l = r²/2 where |r| <= δ, else δ (|r| - δ/2), mean over columns (Huber 1964)",
    _of_residuals(_huber),
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
QUANTILE = loss(
    "quantile",
    "l = max(q (t - y), (q - 1) (t - y)), q the level of the output, mean over columns (Koenker and Bassett 1978)",
    _regression(_quantile),
    link="identity",
    slope="1 - q where f(x) > y, -q where f(x) < y",
    takes_levels=True,
)
ABSOLUTE_PERCENTAGE_ERROR = loss(
    "absolute_percentage_error",
    "l = |y - t| / max(|t|, φ), mean over columns; slope 0 at 0",
    _regression(_percentage),
    link="identity",
    slope="sign(f(x) - y) / max(|y|, φ)",
    hyper={
        "floor": Hyper(
            0.01, "smallest target that an error is divided by (φ), as a share of the mean size of the target", gt=0.0
        )
    },
    relative=True,
)
POISSON = loss(
    "poisson",
    "l = exp(z) - t z, mean over columns: counts, whose expected value is exp(z)",
    _regression(_poisson),
    link="identity",
    slope="exp(f(x)) - y",
    least=0.0,
)

LOSS_RECORDS: dict[str, Loss] = {
    record.name: record
    for record in (
        SOFTMAX_CROSS_ENTROPY,
        BINARY_CROSS_ENTROPY,
        FOCAL,
        BINARY_FOCAL,
        HINGE,
        BINARY_HINGE,
        SQUARED_ERROR,
        ABSOLUTE_ERROR,
        HUBER,
        QUANTILE,
        ABSOLUTE_PERCENTAGE_ERROR,
        POISSON,
    )
}

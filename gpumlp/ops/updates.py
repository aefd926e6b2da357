"""Optimizer updates: one launch over the flat buffer of all parameters.

A rule turns the gradient ``g`` into a direction ``d`` and new slots; the record around it does what all
optimizers share, in this order: clip, direction, decoupled weight decay, step, average of the weights.

    g ← g · min(1, clip / ‖g‖)
    d, slots ← rule(g, slots, t)
    p ← p - η (d + λ p)             η and λ each times the factor of the element's group
    a ← β a + (1 - β) p             β = min(averaging, (1 + t) / (10 + t)), so that early weights are forgotten
    shadow ← p                      rounded to bfloat16, for products that take their weights so

An update may move the parameters in another way than by the step η (d + λ p): see ``SCHEDULE_FREE``.

The clock has been advanced before: its step is t, which counts from 1, and its batch the next one. η is the element
of ``rates`` for the batch, and λ is ``weight_decay`` times that of ``decays``; the last element is used from then on.

``groups`` (G, 3) has a row for each range of elements that share their factors: where it ends, the factor of η, the
factor of λ. Weights have the factors 1 and 1, biases and gains 1 and 0, unless a layer says otherwise.

Decoupled decay: Loshchilov and Hutter 2017, arXiv:1711.05101. Clipping: Pascanu et al. 2013, arXiv:1211.5063.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpumlp.ops.batches import BATCH, STEP, at_batch
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.record import Array, Direction, Op, Scalar, Spec, Stage, like


@dataclass(frozen=True)
class Update(Op):
    """An optimizer's update.

    Parameters
    ----------
    slots
        Names of the arrays it keeps, each as long as the parameters.
    start
        Those of them that start as the parameters do; the others start at 0.
    totals
        Names of sums (1,) in float64 over all steps, this one included.
    """

    slots: tuple[str, ...] = field(kw_only=True)
    hyper: Mapping[str, Hyper] = field(kw_only=True)
    start: tuple[str, ...] = field(default=(), kw_only=True)
    totals: tuple[str, ...] = field(default=(), kw_only=True)


def _down(
    xp: Any, p: Array, step: Array, rate: Array, slots: Sequence[Array], totals: Sequence[Array], **_: float
) -> tuple[Array, ...]:
    return p - step, *slots


def update(
    name: str,
    meaning: str,
    rule: Callable[..., tuple[Array, ...]],
    *,
    slots: tuple[str, ...],
    hyper: Mapping[str, Hyper],
    move: Callable[..., tuple[Array, ...]] = _down,
    start: tuple[str, ...] = (),
    totals: tuple[str, ...] = (),
) -> Update:
    """Make the record of an optimizer from ``rule(xp, g, t, *slots, **hyper) -> (d, *slots)``.

    ``t`` counts steps from 1, a float64 array of shape (1,): 1 - β^t would lose four digits in float32.
    ``move(xp, p, step, rate, slots, totals, **hyper) -> (p, *slots)`` is how a step moves the parameters.
    """

    def forward(
        xp: Any,
        parameters: Array,
        gradient: Array,
        rates: Array,
        decays: Array | None,
        groups: Array,
        clock: Array,
        norm: Array | None,
        average: Array | None,
        shadow: Array | None,
        *state: Array,
        weight_decay: float,
        clip_norm: float | None,
        averaging: float | None,
        **settings: float,
    ) -> tuple[Array, ...]:
        dtype = parameters.dtype
        rate = _of_batch(xp, rates, clock)
        decay = weight_decay if decays is None else weight_decay * _of_batch(xp, decays, clock)
        t = clock[STEP : STEP + 1].astype(xp.float64)
        if norm is not None:
            gradient = gradient * xp.where(norm > clip_norm, clip_norm / norm, 1.0).astype(dtype)
        slot_values, sums = state[: len(slots)], state[len(slots) :]
        direction, *after = rule(xp, gradient, t, *slot_values, **settings)
        step = direction * rate
        start = 0
        for end, rate_factor, decay_factor in groups.tolist():
            part, start = slice(start, int(end)), int(end)
            if rate_factor != 1.0:
                step[part] *= rate_factor
            if weight_decay and decay_factor:
                step[part] += (rate * rate_factor * (decay * decay_factor)) * parameters[part]
        result, *after = move(xp, parameters, step, rate, after, sums, **settings)
        if average is not None:
            beta = xp.minimum(averaging, (1.0 + t) / (10.0 + t)).astype(dtype)
            average = beta * average + (1.0 - beta) * result
        narrow = None if shadow is None else result.astype(shadow.dtype)
        return result, average, narrow, *after

    def specs(
        parameters: Array,
        gradient: Array,
        rates: Array,
        decays: Array | None,
        groups: Array,
        clock: Array,
        norm: Array | None,
        average: Array | None,
        shadow: Array | None,
        *state: Array,
        **_: Any,
    ) -> tuple[Spec, ...]:
        spec = (parameters.shape, parameters.dtype)
        narrow = None if shadow is None else (shadow.shape, shadow.dtype)
        return spec, None if average is None else spec, narrow, *(spec for _ in slots)

    def scalars(arrays: Sequence[Array], params: Mapping[str, Any]) -> list[Scalar]:
        names = ("weight_decay", "clip_norm", "averaging", *hyper)
        lengths = [0 if table is None else table.shape[0] for table in arrays[2:5]]
        return [*lengths, *(float(params[name] or 0.0) for name in names)]

    inputs = (
        *("parameters", "gradient", "rates", "decays?", "groups", "clock", "norm?", "average?", "shadow?"),
        *slots,
        *totals,
    )
    outputs = ("parameters", "average?", "shadow?", *slots)
    return Update(
        name,
        meaning,
        {
            "forward": Direction(
                forward,
                inputs,
                outputs,
                specs,
                "elementwise",
                scalars=scalars,
            )
        },
        slots=slots,
        hyper=hyper,
        start=start,
        totals=totals,
    )


def _of_batch(xp: Any, table: Array, clock: Array) -> Array:
    """Return the element of a table for the batch that the clock, advanced already, has counted last."""
    return at_batch(xp, table, clock[BATCH : BATCH + 1] - 1)


def _momentum(xp: Any, g: Array, t: Array, velocity: Array, *, momentum: float) -> tuple[Array, ...]:
    velocity = momentum * velocity + g
    return velocity, velocity


def _nesterov(xp: Any, g: Array, t: Array, velocity: Array, *, momentum: float) -> tuple[Array, ...]:
    velocity = momentum * velocity + g
    return g + momentum * velocity, velocity


def _adagrad(xp: Any, g: Array, t: Array, squares: Array, *, epsilon: float) -> tuple[Array, ...]:
    squares = squares + g * g
    return g / (xp.sqrt(squares) + epsilon), squares


def _rmsprop(xp: Any, g: Array, t: Array, squares: Array, *, decay: float, epsilon: float) -> tuple[Array, ...]:
    squares = decay * squares + (1.0 - decay) * (g * g)
    return g / (xp.sqrt(squares) + epsilon), squares


def _adam(
    xp: Any, g: Array, t: Array, m: Array, v: Array, *, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, ...]:
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * (g * g)
    c1, c2 = (1.0 - beta1**t).astype(g.dtype), (1.0 - beta2**t).astype(g.dtype)
    return (m / c1) / (xp.sqrt(v / c2) + epsilon), m, v


def _scaled(
    xp: Any, g: Array, t: Array, z: Array, v: Array, *, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, ...]:
    v = beta2 * v + (1.0 - beta2) * (g * g)
    return g / (xp.sqrt(v / (1.0 - beta2**t).astype(g.dtype)) + epsilon), z, v


SMALLEST_TOTAL = 1e-300
"""Divisor of a share where no rate so far was above 0."""


def _apart(
    xp: Any,
    p: Array,
    step: Array,
    rate: Array,
    slots: Sequence[Array],
    totals: Sequence[Array],
    *,
    beta1: float,
    **_: float,
) -> tuple[Array, ...]:
    """Move z by the step, x = (p - (1 - β) z) / β towards it by their share, and p to (1 - β) z + β x."""
    z, v = slots
    exact = rate.astype(xp.float64)
    share = exact * exact / xp.maximum(totals[0], SMALLEST_TOTAL)
    back = (1.0 - beta1) + beta1 * share  # of two positive numbers: nothing cancels
    return p + share.astype(p.dtype) * (z - p) - back.astype(p.dtype) * step, z - step, v


_MOMENTUM = {"momentum": Hyper(0.9, "share of the last velocity kept in each step", ge=0.0, lt=1.0)}


def _epsilon(default: float) -> Hyper:
    return Hyper(default, "constant added to the denominator", gt=0.0)


SGD = update("sgd", "d = g", lambda xp, g, t: (g,), slots=(), hyper={})
MOMENTUM = update(
    "momentum",
    "v ← μ v + g, d = v (Polyak 1964)",
    _momentum,
    slots=("velocity",),
    hyper=_MOMENTUM,
)
NESTEROV = update(
    "nesterov",
    "v ← μ v + g, d = g + μ v (Sutskever et al. 2013)",
    _nesterov,
    slots=("velocity",),
    hyper=_MOMENTUM,
)
ADAGRAD = update(
    "adagrad",
    "s ← s + g², d = g / (√s + ε) (Duchi et al. 2011)",
    _adagrad,
    slots=("squares",),
    hyper={"epsilon": _epsilon(1e-10)},
)
RMSPROP = update(
    "rmsprop",
    "s ← ρ s + (1 - ρ) g², d = g / (√s + ε) (Tieleman and Hinton 2012)",
    _rmsprop,
    slots=("squares",),
    hyper={
        "decay": Hyper(0.99, "decay of the moving average of squared gradients", ge=0.0, lt=1.0),
        "epsilon": _epsilon(1e-8),
    },
)
ADAM = update(
    "adam",
    "m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², d = m̂ / (√v̂ + ε) (Kingma and Ba 2014, arXiv:1412.6980)",
    _adam,
    slots=("m", "v"),
    hyper={
        "beta1": Hyper(0.9, "decay of the moving average of gradients", ge=0.0, lt=1.0),
        "beta2": Hyper(0.999, "decay of the moving average of squared gradients", ge=0.0, lt=1.0),
        "epsilon": _epsilon(1e-8),
    },
)

SCHEDULE_FREE = update(
    "schedule_free",
    "v ← β₂ v + (1 - β₂) g², z ← z - η (g / (√v̂ + ε) + λ p), x ← (1 - c) x + c z with c = η² / Σ η², "
    "p ← (1 - β₁) z + β₁ x (Defazio et al. 2024, arXiv:2405.15682)",
    _scaled,
    move=_apart,
    slots=("z", "v"),
    start=("z",),
    totals=("rate_squares",),
    hyper={
        "beta1": Hyper(0.9, "share of the average x in the weights that gradients are computed at", gt=0.0, lt=1.0),
        "beta2": Hyper(0.999, "decay of the moving average of squared gradients", ge=0.0, lt=1.0),
        "epsilon": _epsilon(1e-8),
    },
)

UPDATES: dict[str, Update] = {u.name: u for u in (SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM, SCHEDULE_FREE)}


def _add_square(xp: Any, squares: Array, rates: Array, clock: Array) -> tuple[Array, ...]:
    rate = _of_batch(xp, rates, clock).astype(xp.float64)
    return (squares + rate * rate,)


ADD_SQUARE = Op(
    "add_square",
    "squares ← squares + η², η of the batch that the clock has counted last",
    {
        "forward": Direction(
            _add_square,
            ("rate_squares", "rates", "clock"),
            ("rate_squares",),
            like(0),
            "elementwise",
            types=("rates",),
            scalars=lambda inputs, params: [inputs[1].shape[0]],
        )
    },
)


def _norm(xp: Any, gradient: Array) -> tuple[Array, ...]:
    exact = gradient.astype(xp.float64)  # a square may be beyond float32 where its root is not
    return (xp.sqrt(xp.sum(exact * exact)).astype(gradient.dtype).reshape(1),)


GRADIENT_NORM = Op(
    "gradient_norm",
    "norm = √Σ g²",
    {
        "forward": Direction(
            _norm,
            ("gradient",),
            ("norm",),
            lambda g: (((1,), g.dtype),),
            "total",
            stages=(Stage("", "total"), Stage("_finish", "finish")),
        )
    },
)

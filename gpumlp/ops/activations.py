"""The activations. Adding one is a record here and, for speed, a device function under ``kernels/``.

``x`` and ``y`` are the input and output, ``dy`` and ``dx`` the gradients of a scalar with respect to them.
The slope of relu, leaky_relu, elu and selu at 0 is that of the left side. NaN goes through.
"""

from __future__ import annotations

from typing import Any

from gpumlp.errors import ConfigError, choices
from gpumlp.ops.mix import mixing
from gpumlp.ops.record import Activation, Array, activation
from gpumlp.ops.special import INV_SQRT_2PI, normal_cdf, sigmoid, softplus

LEAK = 0.01
ELU_ALPHA = 1.0
SELU_ALPHA = 1.6732632423543772  # Klambauer et al. 2017, arXiv:1706.02515, equation 14
SELU_SCALE = 1.0507009873554805


def _elu(xp: Any, x: Array, alpha: float) -> Array:
    # The minimum keeps exp from overflowing on the side that is not taken.
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0.0)))


def _silu_backward(xp: Any, x: Array, dy: Array) -> Array:
    s = sigmoid(xp, x)
    return dy * (s * (1.0 + x * (1.0 - s)))


def _mish_backward(xp: Any, x: Array, dy: Array) -> Array:
    t = xp.tanh(softplus(xp, x))
    return dy * (t + x * sigmoid(xp, x) * (1.0 - t * t))


def _softmax(xp: Any, x: Array) -> Array:
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


_RECORDS = (
    activation("identity", "y = x", lambda xp, x: x, lambda xp, y, dy: dy, initializer="glorot_uniform"),
    activation(
        "relu",
        "y = max(x, 0)",
        lambda xp, x: xp.maximum(x, 0.0),
        lambda xp, y, dy: xp.where(y <= 0, 0.0, dy),
    ),
    activation(
        "leaky_relu",
        f"y = x where x > 0, else {LEAK} x",
        lambda xp, x: xp.where(x > 0, x, LEAK * x),
        lambda xp, y, dy: xp.where(y > 0, dy, LEAK * dy),
    ),
    activation(
        "elu",
        "y = x where x > 0, else exp(x) - 1 (Clevert et al. 2015, arXiv:1511.07289)",
        lambda xp, x: _elu(xp, x, ELU_ALPHA),
        lambda xp, y, dy: xp.where(y > 0, dy, dy * (y + ELU_ALPHA)),
    ),
    mixing(
        activation(
            "selu",
            "y = λ (x where x > 0, else α (exp(x) - 1)) (Klambauer et al. 2017, arXiv:1706.02515)",
            lambda xp, x: SELU_SCALE * _elu(xp, x, SELU_ALPHA),
            lambda xp, y, dy: xp.where(y > 0, SELU_SCALE * dy, dy * (y + SELU_SCALE * SELU_ALPHA)),
            initializer="lecun_normal",
        )
    ),
    activation(
        "gelu",
        "y = x Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415)",
        lambda xp, x: x * normal_cdf(xp, x),
        lambda xp, x, dy: dy * (normal_cdf(xp, x) + x * (INV_SQRT_2PI * xp.exp(-0.5 * x * x))),
        saves="input",
    ),
    activation(
        "silu",
        "y = x sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118)",
        lambda xp, x: x * sigmoid(xp, x),
        _silu_backward,
        saves="input",
    ),
    mixing(
        activation(
            "mish",
            "y = x tanh(log(1 + exp(x))) (Misra 2019, arXiv:1908.08681)",
            lambda xp, x: x * xp.tanh(softplus(xp, x)),
            _mish_backward,
            saves="input",
        )
    ),
    activation(
        "sigmoid",
        "y = 1 / (1 + exp(-x))",
        sigmoid,
        lambda xp, y, dy: dy * (y * (1.0 - y)),
        initializer="glorot_uniform",
    ),
    activation(
        "tanh",
        "y = tanh(x)",
        lambda xp, x: xp.tanh(x),
        lambda xp, y, dy: dy * (1.0 - y * y),
        initializer="glorot_uniform",
    ),
    activation(
        "softplus",
        "y = log(1 + exp(x))",
        softplus,
        lambda xp, y, dy: dy * -xp.expm1(-y),
    ),
    activation(
        "softmax",
        "y_k = exp(x_k) / Σ_j exp(x_j) along the last axis",
        _softmax,
        lambda xp, y, dy: y * (dy - xp.sum(dy * y, axis=-1, keepdims=True)),
        launch="rows",
        initializer="glorot_uniform",
    ),
)

ACTIVATIONS: dict[str, Activation] = {record.name: record for record in _RECORDS}


def record_of(name: str | Activation) -> Activation:
    """Return the record of an activation by name.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if isinstance(name, Activation):
        return name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r:.80}", hint=choices(name, ACTIVATIONS))
    return ACTIVATIONS[name]

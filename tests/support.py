"""What the tests of the core share: close numbers, an example of every operation, independent references.

The references use Python numbers or other formulas than the records do, always in float64.
"""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gpumlp.backend import Backend
from gpumlp.backend.host.builder import compiler
from gpumlp.checks.agreement import FLOATS as FLOATS
from gpumlp.checks.agreement import allowance, wrong
from gpumlp.checks.examples import directions as directions
from gpumlp.checks.examples import examples as examples
from gpumlp.ops import Op, record_of
from gpumlp.ops.losses import Loss

WITH_COMPILER = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: install g++ or clang")
BACKENDS = ("numpy", pytest.param("native", marks=WITH_COMPILER))
"""The names of all backends, for tests that need no kernel of their own."""


def assert_close(actual: Any, reference: Any, kind: str = "elementwise", *, scale: float = 1.0) -> None:
    """Compare with a float64 reference, to the tolerance of ``kind`` for the dtype of ``actual``.

    ``scale`` is the size of the values that entered, where the result is a small difference of large ones.
    """
    actual, reference = np.asarray(actual), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape
    bad = wrong(np, actual, reference, kind, scale=scale)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0]) if actual.ndim else ()
        error = abs(float(actual[at]) - reference[at])
        allowed = allowance(actual.dtype, abs(reference[at]), kind, scale=scale)
        raise AssertionError(
            f"{bad.sum()} of {actual.size} differ; at {at} {actual[at]!r} is not {reference[at]!r} "
            f"(error {error:.3g}, allowed {allowed:.3g})"
        )


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield what returns the most bytes that Python and NumPy have taken since."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bits(array: np.ndarray[Any, Any]) -> bytes:
    """Return the bytes of an array: equal bits, NaN and signed zeros included."""
    return np.ascontiguousarray(array).tobytes()


def poison(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array of bytes 0xFF: NaN in floating point, -1 in whole numbers."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xFF
    return array


def slopes(function: Callable[[float], float], x: np.ndarray[Any, Any], step: float = 1e-6) -> np.ndarray[Any, Any]:
    """Return the derivative of a function of one number by a fourth-order difference in float64."""

    def slope(v: float) -> float:
        near, far = function(v + step) - function(v - step), function(v + 2 * step) - function(v - 2 * step)
        return (8 * near - far) / (12 * step)

    return np.array([slope(float(v)) for v in x.ravel()]).reshape(x.shape)


def in_float64(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the inputs with every floating-point array widened."""
    return tuple(v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for v in values)


# ---- independent references ----------------------------------------------------------------------


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else math.exp(x)


def _softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


_ALPHA, _LAMBDA = 1.6732632423543772, 1.0507009873554805

ACTIVATION_REFERENCES: dict[str, Callable[[float], float]] = {
    "identity": lambda x: x,
    "relu": lambda x: x if x > 0 else 0.0,
    "leaky_relu": lambda x: x if x > 0 else x / 100.0,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: _LAMBDA * (x if x > 0 else _ALPHA * math.expm1(x)),
    "gelu": lambda x: x * _phi(x),
    "silu": lambda x: x * _logistic(x),
    "mish": lambda x: x * math.tanh(_softplus(x)),
    "sigmoid": _logistic,
    "tanh": math.tanh,
    "softplus": _softplus,
}


def softmax_reference(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Softmax through the log of the sum, one row at a time."""
    x = x.astype(np.float64)
    return np.asarray(np.exp(x - np.logaddexp.reduce(x, axis=-1, keepdims=True)))


def activation_reference(name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An activation in float64, without the record where there is another formula."""
    if name == "softmax":
        return softmax_reference(x)
    function = ACTIVATION_REFERENCES.get(name)
    if function is None:  # a new record: its own formula, in float64
        return np.asarray(record_of(name).function(np, x.astype(np.float64)))
    return np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


def loss_reference(
    op: Loss,
    z: Any,
    targets: Any,
    rows: Any,
    classes: Any,
    *,
    label_smoothing: float = 0.0,
    delta: float = 1.0,
    gamma: float = 2.0,
    floor: float = 0.01,
) -> tuple[float, list[float]]:
    """Return the mean loss and the sums (Σ s l, Σ s m, Σ s h, Σ s), one row after the other."""
    total = mass = hits = 0.0
    for i in range(len(z)):
        row = z[i].astype(np.float64)
        k = len(row)
        t = targets[i]
        if op.link == "softmax":
            goal = (np.arange(k) == t).astype(float) if np.ndim(t) == 0 else t.astype(np.float64)
            right = float(np.argmax(row) == (t if np.ndim(t) == 0 else np.argmax(goal)))
            if goal.any():  # a label that no class has counts for nothing, smoothed or not
                goal = goal * (1 - label_smoothing) + label_smoothing / k
            goal = goal if classes is None else goal * classes
            logs = row - np.logaddexp.reduce(row)
            each = {
                "softmax_cross_entropy": -logs,
                "focal": -((-np.expm1(logs)) ** gamma) * logs,
                "hinge": np.array([np.delete(np.maximum(0, 1 - row[i] + row), i).sum() / k for i in range(k)]),
            }[op.name]
            value, counted = float(sum(g * v for g, v in zip(goal, each, strict=True) if g)), float(goal.sum())
        elif op.link == "sigmoid":
            t = np.reshape(t, k).astype(np.float64)
            right = float(np.mean((row > 0) == (t > 0.5)))
            t = t * (1 - label_smoothing) + 0.5 * label_smoothing
            one, zero = (1.0, 1.0) if classes is None else (float(classes[1]), float(classes[0]))
            of_one, of_zero = (
                {
                    "binary_cross_entropy": np.logaddexp(0, -z),
                    "binary_focal": np.exp(-gamma * np.logaddexp(0, z)) * np.logaddexp(0, -z),
                    "binary_hinge": np.maximum(0, 1 - z),
                }[op.name]
                for z in (row, -row)
            )
            parts = one * t * of_one + zero * (1 - t) * of_zero
            value, counted = parts.mean(), float(np.mean(one * t + zero * (1 - t)))
        else:
            t = np.reshape(t, k).astype(np.float64)
            r = np.abs(row - t)
            level = np.full(k, 0.5) if classes is None else classes.astype(np.float64)
            parts = {
                "squared_error": r**2,
                "absolute_error": r,
                "huber": np.where(r <= delta, 0.5 * r**2, delta * (r - 0.5 * delta)),
                "quantile": np.where(row > t, 1 - level, level) * r,
                "absolute_percentage_error": r / np.maximum(np.abs(t), floor),
                "poisson": np.exp(row) - t * row,
            }[op.name]
            known = ~np.isnan(t)  # what is missing counts for nothing
            value, counted, right = float(parts[known].sum()) / k, float(known.mean()), 0.0
        weight = 1.0 if rows is None else float(rows[i])
        total, mass, hits = total + weight * value, mass + weight * counted, hits + weight * right
    weights = float(len(z)) if rows is None else float(np.sum(rows, dtype=np.float64))
    return total / mass if mass else 0.0, [total, mass, hits, weights]


def update_reference(
    name: str,
    p: np.ndarray[Any, Any],
    g: np.ndarray[Any, Any],
    state: list[np.ndarray[Any, Any]],
    t: int,
    rate: float,
    *,
    groups: Sequence[Sequence[float]] = (),
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    squares: float | None = None,
    **h: float,
) -> np.ndarray[Any, Any]:
    """One optimizer step in float64, element by element. ``state`` is updated in place.

    ``squares`` is the sum of squared rates so far, by default that of ``t`` steps at this rate.
    """
    norm = math.sqrt(math.fsum(float(v) ** 2 for v in g))
    shrink = clip_norm / norm if clip_norm is not None and norm > clip_norm else 1.0
    result = np.empty(len(p))
    for i, value in enumerate(p):
        d = float(g[i]) * shrink
        if name in ("momentum", "nesterov"):
            state[0][i] = h["momentum"] * state[0][i] + d
            d = d + h["momentum"] * state[0][i] if name == "nesterov" else state[0][i]
        elif name == "adagrad":
            state[0][i] += d**2
            d = d / (math.sqrt(state[0][i]) + h["epsilon"])
        elif name == "rmsprop":
            state[0][i] = h["decay"] * state[0][i] + (1 - h["decay"]) * d**2
            d = d / (math.sqrt(state[0][i]) + h["epsilon"])
        elif name == "adam":
            m = state[0][i] = h["beta1"] * state[0][i] + (1 - h["beta1"]) * d
            v = state[1][i] = h["beta2"] * state[1][i] + (1 - h["beta2"]) * d**2
            d = m / (1 - h["beta1"] ** t) / (math.sqrt(v / (1 - h["beta2"] ** t)) + h["epsilon"])
        elif name == "schedule_free":
            v = state[1][i] = h["beta2"] * state[1][i] + (1 - h["beta2"]) * d**2
            d = d / (math.sqrt(v / (1 - h["beta2"] ** t)) + h["epsilon"])
        elif name != "sgd":
            raise AssertionError(f"tests/support.py has no reference of the update {name}")
        _, rate_factor, decay_factor = next((g for g in groups if i < g[0]), (len(p), 1.0, 0.0))
        d += weight_decay * decay_factor * float(value)
        if name == "schedule_free":
            z, beta, share = state[0][i], h["beta1"], rate**2 / (rate**2 * t if squares is None else squares)
            x = (float(value) - (1 - beta) * z) / beta
            z = state[0][i] = z - rate * rate_factor * d
            result[i] = (1 - beta) * z + beta * ((1 - share) * x + share * z)
            continue
        result[i] = float(value) - rate * rate_factor * d
    return result


def decaying(count: int, size: int) -> np.ndarray[Any, Any]:
    """Return the groups of an update in which the first ``count`` of ``size`` elements decay."""
    return np.array([[count, 1.0, 1.0], [size, 1.0, 0.0]])


def permutation_reference(x: int, n: int, epoch: int, key: int) -> int:
    """Return where the permutation of 0..n-1 sends x, in Python's integers, each round by exchanging the halves."""
    low = 0xFFFFFFFF

    def mix(word: int) -> int:
        word = (word ^ word >> 16) * 0x85EBCA6B & low
        word = (word ^ word >> 13) * 0xC2B2AE35 & low
        return word ^ word >> 16

    bits = (n - 1).bit_length()
    seed = mix(mix(epoch & low) + key & low)
    while True:
        right_bits, left_bits = bits - bits // 2, bits // 2
        left, right = x >> right_bits, x & (1 << right_bits) - 1
        for r in range(1, 7):
            mixed = mix(right ^ mix(seed + 0x9E3779B9 * r & low)) & (1 << left_bits) - 1
            left, right = right, left ^ mixed
            left_bits, right_bits = right_bits, left_bits
        x = left << right_bits | right
        if x < n:
            return x


def philox_reference(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def run(op: Op, direction: str, *inputs: Any, **params: Any) -> tuple[Any, ...]:
    """Run one direction on a new reference backend."""
    return Backend().run(op, direction, inputs, None, **params)

"""What the tests of the core share: the tolerances, an example of every operation, independent references.

The references use Python numbers or other formulas than the records do, always in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpumlp.backend import Backend
from gpumlp.backend.builder import compiler
from gpumlp.ops import RECORDS, Activation, Op, Update
from gpumlp.ops.losses import Loss

FLOATS = (np.float32, np.float64)
WITH_COMPILER = pytest.mark.skipif(compiler() is None, reason="no C++ compiler: install g++ or clang")
BACKENDS = ("numpy", pytest.param("native", marks=WITH_COMPILER))
"""The names of all backends, for tests that need no kernel of their own."""

# In units of the dtype's epsilon: absolute, and per |reference|. One table for all tests of numbers.
TOLERANCES = {
    "elementwise": (8.0, 16.0),
    "reduction": (64.0, 64.0),  # sums over up to a thousand elements
    "training": (500.0, 500.0),  # tens of steps, whose rounding errors feed each other
}


def assert_close(actual: Any, reference: Any, kind: str = "elementwise", *, scale: float = 1.0) -> None:
    """Compare with a float64 reference, to the tolerance of ``kind`` for the dtype of ``actual``.

    ``scale`` is the size of the values that entered, where the result is a small difference of large ones.
    """
    actual, reference = np.asarray(actual), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape
    absolute, relative = TOLERANCES[kind]
    epsilon = float(np.finfo(actual.dtype).eps)
    with np.errstate(all="ignore"):
        error = np.abs(actual.astype(np.float64) - reference)
        bound = epsilon * (absolute * scale + relative * np.abs(reference))
        same = (actual.astype(np.float64) == reference) | (np.isnan(actual) & np.isnan(reference))
    wrong = ~(same | (np.isfinite(reference) & (error <= bound)))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0]) if actual.ndim else ()
        raise AssertionError(
            f"{wrong.sum()} of {actual.size} differ; at {at} {actual[at]!r} is not {reference[at]!r} "
            f"(error {error[at]:.3g}, allowed {bound[at]:.3g})"
        )


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


# ---- an example of every operation ---------------------------------------------------------------

Example = tuple[tuple[Any, ...], dict[str, Any]]


def directions() -> Iterator[tuple[str, str]]:
    """Every operation with each of its directions."""
    return ((name, direction) for name, op in RECORDS.items() for direction in op.directions)


def examples(op: Op, direction: str, rows: int, cols: int, dtype: Any, seed: int = 0) -> Iterator[Example]:
    """Inputs and parameters for one direction of any operation, in each form that it takes."""
    rng = np.random.default_rng([seed, rows, cols])

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(dtype)

    def positive(*shape: int) -> np.ndarray[Any, Any]:
        return rng.uniform(0.5, 2.0, shape).astype(dtype)

    match op:
        case Activation():
            x, b, dy = normal(rows, cols), normal(cols), normal(rows, cols)
            saved = x if op.saves == "input" else op.function(np, x)
            yield {"forward": (x,), "bias_forward": (x, b)}.get(direction, (saved, dy)), {}
        case Loss():
            z = normal(rows, cols)
            for number, (targets, classes) in enumerate(loss_targets(op, rows, cols, dtype, rng)):
                params = {key: {"label_smoothing": 0.1, "delta": 0.7}[key] for key in op.hyper} if number % 2 else {}
                yield (z, targets, positive(rows) if number else None, classes), params
        case Update():
            p, g = normal(rows * cols), normal(rows * cols)
            state = tuple(np.abs(normal(rows * cols)) for _ in op.slots)
            rates, clock = np.array([0.1, 0.05, 0.01], dtype), np.array([7, 1, 0])
            hyper = {key: h.default for key, h in op.hyper.items()}
            narrow = normal(rows * cols).astype(ml_dtypes.bfloat16)
            for norm, average, shadow, decay in (
                (None, None, None, 0.0),
                (np.array([2.0], dtype), normal(rows * cols), None, 0.1),
                (None, None, narrow, 0.1),
            ):
                shared = {"decayed": len(p) // 2, "weight_decay": decay}
                shared |= {"clip_norm": 1.5 if norm is not None else None}
                shared |= {"averaging": 0.9 if average is not None else None}
                yield (p, g, rates, clock, norm, average, shadow, *state), {**shared, **hyper}
        case Op(name="layer_norm" | "batch_norm"):
            x, gain = normal(rows, cols), positive(cols)
            statistic = (rows, 1) if op.name == "layer_norm" else (1, cols)
            yield (
                (
                    (x, gain, normal(cols))
                    if direction == "forward"
                    else (x, gain, normal(*statistic), positive(*statistic), normal(rows, cols))
                ),
                {},
            )
        case Op(name="moving_average"):
            yield (normal(cols), normal(1, cols)), {"momentum": 0.1, "scale": 1.25}
        case Op(name="dropout"):
            yield (normal(rows, cols), np.array([5, 0, 0])), {"rate": 0.3, "stream": 2, "key": (11, 12)}
        case Op(name="shuffle"):
            yield (np.array([5, 2, 3]),), {"n": rows, "key": 99}
        case Op(name="gather"):
            order = rng.permutation(rows)
            take = {"rows": rows // 2, "stride": rows // 2, "dtype": np.dtype(dtype).str}
            clock, labels = np.array([9, 1, 0]), rng.integers(0, 3, rows).astype(np.int32)
            yield (clock, order, normal(rows, cols), labels, None), {"scale": 1.0, **take}
            image = rng.integers(0, 256, (rows, cols)).astype(np.uint8)
            yield (clock, order, image, normal(rows, 2), positive(rows)), {"scale": 1 / 255, **take}
        case Op(name="advance"):
            yield (np.array([3, 1, 2]),), {}
        case Op(name="accumulate"):
            yield (rng.standard_normal(3), rng.standard_normal(3)), {}
        case Op(name="gradient_norm"):
            yield (normal(rows * cols),), {}
        case _:
            raise AssertionError(f"tests/support.py has no example of the operation {op.name}")


def loss_targets(op: Loss, rows: int, cols: int, dtype: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Targets and class weights of each kind that a loss takes."""
    if op.link == "softmax":
        weights = rng.uniform(0.5, 2.0, cols).astype(dtype)
        labels = rng.integers(0, cols, rows)
        soft = rng.uniform(0.1, 1.0, (rows, cols)).astype(dtype)
        yield labels.astype(np.int32), None
        yield labels, weights
        yield (soft / soft.sum(axis=-1, keepdims=True)).astype(dtype), weights
    elif op.link == "sigmoid":
        yield rng.integers(0, 2, (rows, cols)).astype(np.int32), None
        yield rng.uniform(0, 1, (rows, cols)).astype(dtype), np.array([0.5, 2.0], dtype)
    else:
        yield rng.standard_normal((rows, cols)).astype(dtype), None
        yield rng.standard_normal((rows, cols)).astype(dtype), None


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
    return np.exp(x - np.logaddexp.reduce(x, axis=-1, keepdims=True))


def activation_reference(name: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An activation in float64, without the record where there is another formula."""
    if name == "softmax":
        return softmax_reference(x)
    function = ACTIVATION_REFERENCES.get(name)
    if function is None:  # a new record: its own formula, in float64
        return np.asarray(RECORDS[name].function(np, x.astype(np.float64)))
    return np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


def loss_reference(
    op: Loss, z: Any, targets: Any, rows: Any, classes: Any, *, label_smoothing: float = 0.0, delta: float = 1.0
) -> tuple[float, list[float]]:
    """Return the mean loss and the sums (Σ s l, Σ s m, Σ s h, Σ s), one row after the other."""
    total = mass = hits = 0.0
    for i in range(len(z)):
        row = z[i].astype(np.float64)
        k = len(row)
        t = targets[i]
        if op.link == "softmax":
            goal = (np.arange(k) == t).astype(float) if np.ndim(t) == 0 else t.astype(np.float64)
            right = float(np.argmax(row) == np.argmax(goal))
            goal = goal * (1 - label_smoothing) + label_smoothing / k
            goal = goal if classes is None else goal * classes
            logs = row - np.logaddexp.reduce(row)
            value, counted = -sum(g * v for g, v in zip(goal, logs, strict=True) if g), float(goal.sum())
        elif op.link == "sigmoid":
            t = np.reshape(t, k).astype(np.float64)
            right = float(np.mean((row > 0) == (t > 0.5)))
            t = t * (1 - label_smoothing) + 0.5 * label_smoothing
            one, zero = (1.0, 1.0) if classes is None else (float(classes[1]), float(classes[0]))
            parts = one * t * np.logaddexp(0, -row) + zero * (1 - t) * np.logaddexp(0, row)
            value, counted = parts.mean(), float(np.mean(one * t + zero * (1 - t)))
        else:
            r = np.abs(row - np.reshape(t, k).astype(np.float64))
            huber = np.where(r <= delta, 0.5 * r**2, delta * (r - 0.5 * delta))
            value = {"squared_error": r**2, "absolute_error": r, "huber": huber}[op.name].mean()
            counted, right = 1.0, 0.0
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
    decayed: int = 0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    **h: float,
) -> np.ndarray[Any, Any]:
    """One optimizer step in float64, element by element. ``state`` is updated in place."""
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
        elif name != "sgd":
            raise AssertionError(f"tests/support.py has no reference of the update {name}")
        if i < decayed:
            d += weight_decay * float(value)
        result[i] = float(value) - rate * d
    return result


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

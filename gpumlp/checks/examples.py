"""An example of every operation, in each form that it takes: what the tests run and the benchmark times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpumlp.ops import RECORDS, Activation, Op, Update
from gpumlp.ops.inputs import UNREACHED
from gpumlp.ops.losses import Loss

Example = tuple[tuple[Any, ...], dict[str, Any]]


LOSS_PARAMS = {"label_smoothing": 0.1, "delta": 0.7, "gamma": 1.5, "floor": 0.3}
"""What losses are set by in the examples that do not have the defaults."""


def directions() -> Iterator[tuple[str, str]]:
    """Return every operation with each of its directions."""
    return ((name, direction) for name, op in RECORDS.items() for direction in op.directions)


def examples(op: Op, direction: str, rows: int, cols: int, dtype: Any, seed: int = 0) -> Iterator[Example]:
    """Yield inputs and parameters for one direction of any operation, in each form that it takes, the plainest first.

    ``rows`` and ``cols`` are those of the array that is worked on; values are random, drawn from ``seed`` and shape.
    """
    rng = np.random.default_rng([seed, rows, cols])

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape, np.float64 if dtype == np.float64 else np.float32).astype(dtype, copy=False)

    def positive(*shape: int) -> np.ndarray[Any, Any]:
        return rng.uniform(0.5, 2.0, shape).astype(dtype)

    match op:
        case Activation():
            x = _with_edges(normal(rows, cols))
            if direction.startswith("mixed"):
                a, dy, mask = normal(cols), normal(rows, cols), rng.integers(0, 2, (rows, cols)).astype(np.uint8)
                for clock, factors, params in _dropouts():
                    if direction == "mixed_forward":
                        yield (x, normal(cols), a, clock, factors), params
                    else:
                        yield (x, a, dy, None if clock is None else mask, clock, factors), params
            elif direction.endswith("backward"):
                yield (x if op.saves == "input" else op.function(np, x), normal(rows, cols)), {}
            else:
                yield (x, normal(cols))[: len(op.directions[direction].inputs)], {}
        case Loss():
            z = _with_edges(normal(rows, cols))
            for number, (targets, classes) in enumerate(_loss_targets(op, rows, cols, dtype, rng)):
                params = {key: LOSS_PARAMS[key] for key in op.hyper} if number % 2 else {}
                yield (z, targets, positive(rows) if number else None, classes), params
        case Update():
            p, g = normal(rows * cols), normal(rows * cols)
            state = (*(np.abs(normal(rows * cols)) for _ in op.slots), *(np.array([0.02]) for _ in op.totals))
            rates, clock = np.array([0.1, 0.05, 0.01], dtype), np.array([7, 1, 0])
            hyper = {key: h.default for key, h in op.hyper.items()}
            half, most = len(p) // 2, len(p) * 2 // 3
            for norm, average, decay in ((None, None, 0.0), (np.array([2.0], dtype), normal(rows * cols), 0.1)):
                groups = np.array([[half, 1, 1], *([[most, 0.5, 0.25]] if decay else []), [len(p), 1, 0]], np.float64)
                decays = np.array([0.5, 0.8], dtype) if decay else None
                shared: dict[str, Any] = {"weight_decay": decay}
                shared |= {"clip_norm": 1.5 if norm is not None else None}
                shared |= {"averaging": 0.9 if average is not None else None}
                yield (p, g, rates, decays, groups, clock, norm, average, None, *state), {**shared, **hyper}
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
        case Op(name="member_scale"):
            for width in sorted({cols, _factor(cols)}):
                x, gain = normal(rows, width), positive(cols)
                if direction == "forward":
                    for bias in (None, normal(cols)):
                        yield (x, gain, bias), {}
                else:
                    yield (x, gain, normal(rows, cols)), {}
        case Op(name="mix"):
            x, a = _with_edges(normal(rows, cols)), normal(cols)
            more = () if direction == "forward" else (normal(rows, cols), normal(rows, cols))
            yield (x, normal(rows, cols), a, *more), {}
        case Op(name="moving_average"):
            yield (normal(cols), normal(1, cols)), {"momentum": 0.1, "scale": 1.25}
        case Op(name="dropout"):
            x = normal(rows, cols)
            for clock, factors, params in _dropouts()[1:]:
                yield (x, clock, factors), params
        case Op(name="gather"):
            take = {"rows": rows // 2, "stride": rows // 2, "key": 99, "dtype": np.dtype(dtype)}
            clock, labels = np.array([9, 1, 0]), rng.integers(0, 3, rows).astype(np.int32)
            yield (clock, normal(rows, cols), labels, None), {"scale": 1.0, **take}
            image = rng.integers(0, 256, (rows, cols)).astype(np.uint8)
            yield (clock, image, normal(rows, 2), positive(rows)), {"scale": 1 / 255, **take}
        case Op(name="expand"):
            dense = cols // 2
            codes = rng.integers(dense, cols + 1, (rows, cols - dense + 1)).astype(
                np.float64 if dtype == np.float64 else np.float32
            )
            stored = np.concatenate([rng.standard_normal((rows, dense)).astype(codes.dtype), codes], axis=1)
            yield (stored,), {"dense": dense, "width": cols, "dtype": np.dtype(dtype)}
        case Op(name="code_sum"):
            dense, columns = 2, 3
            features, n = (2 * rows + dense + 5, rows) if direction == "forward" else (rows + dense, 7)
            codes = rng.integers(dense - 1, features + 2, (n, columns)).astype(dtype)  # some stand for none
            codes[:1, 1:2] = np.nan
            codes[1:4] = dense  # rows that are alike
            stored = np.concatenate([normal(n, dense), codes], axis=1)
            if direction == "forward":
                for sums in (normal(rows, cols), None):
                    yield (sums, stored, normal(features, cols)), {"dense": dense}
            else:  # over the weights of the features
                yield (stored, normal(n, cols)), {"dense": dense, "features": features}
        case Op(name="pbld"):
            if direction == "forward":
                numbers, width = _divided(cols, 2)
                waves, last = 1 + cols % 16, normal(numbers, width - 1)
            else:  # over the numbers and their waves
                numbers, waves, width = rows, cols, 1 + cols % 4 + 1
                rows, last = 7, normal(7, numbers, width)
            w, b, V = 0.3 * normal(numbers, waves), normal(numbers, waves), normal(numbers, width - 1, waves)
            yield (normal(rows, numbers + 1), w, b, V / np.array(waves, dtype), last), {}
        case Op(name="ple"):
            (numbers, size), bins = _divided(cols) if direction == "forward" else (rows, cols), 1 + cols % 5
            edges, scales = _bins(numbers, bins, dtype, rng)
            a, c, V = normal(numbers, size), normal(numbers, size), normal(numbers, bins, size)
            if direction == "forward":
                yield (_with_edges(normal(rows, numbers + 1)), edges, scales, a, c, V), {}
            else:  # over the numbers and what is made of them
                yield (_with_edges(normal(7, numbers + 1)), edges, scales, normal(7, numbers, size)), {}
        case Op(name="lookup"):
            columns, size = _divided(cols) if direction == "forward" else (min(3, rows), cols)
            total = 2 * columns if direction == "forward" else rows
            starts = np.linspace(0, total, columns + 1).astype(np.int64)
            if direction == "forward":
                table, params = normal(total, size), {"first": 1}
            else:  # over the table
                rows, table, params = 7, normal(7, columns, size), {"first": 1, "rows": total}
            codes = rng.integers(-1, 3, (rows, columns + 1)).astype(dtype)  # some are not one of their column's
            codes[:1, 1:] = np.nan
            yield (codes, starts, table), params
        case Op(name="advance"):
            yield (np.array([3, 1, 2]),), {}
        case Op(name="accumulate"):
            yield (rng.standard_normal(3), rng.standard_normal(3)), {}
        case Op(name="add_square"):
            yield (np.array([2.0]), np.array([0.1, 0.05, 0.01], dtype), np.array([7, 2, 0])), {}
        case Op(name="gradient_norm"):
            yield (normal(rows * cols),), {}
        case Op(name="matrix_product"):
            a, b = normal(rows, 5), normal(5, cols)
            for turned in ((False, False), (False, True), (True, False)):
                both: list[Any] = [np.ascontiguousarray(m.T) if t else m for m, t in zip((a, b), turned, strict=True)]
                yield tuple(both), {"turned": turned, "dtype": np.dtype(dtype)}
        case Op(name="tree_sum"):
            for terms, sums in ((2, None), (8, rng.uniform(1.0, 5.0, 4)), (1, np.zeros(4))):
                yield (_with_edges(normal(terms, rows * cols)), sums), {"of": 2.0}
        case _:
            raise AssertionError(f"gpumlp/checks/examples.py has no example of the operation {op.name}")


def _dropouts() -> list[tuple[Any, Any, dict[str, Any]]]:
    """Return the clock, the factors and the parameters of no dropout, of one and of one that follows a schedule."""
    params = {"rate": 0.3, "stream": 2, "key": (11, 12)}
    one = np.array([5, 0, 0]), None, params
    return [(None, None, {}), one, (np.array([5, 1, 0]), np.array([1.0, 0.5, 0.2]), params)]


def _factor(number: int) -> int:
    """Return the largest factor below a number that has one; of a prime number 1."""
    return next((each for each in range(number // 2, 0, -1) if number % each == 0), 1)


def _divided(cols: int, least: int = 1) -> tuple[int, int]:
    """Return how many groups of columns there are, and how many columns a group has: a few where possible."""
    width = next((each for each in (4, 3, 5) if cols % each == 0), max(cols, least))
    return max(cols // width, 1), width


def _bins(numbers: int, bins: int, dtype: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return lower edges and 1 / width, (numbers, bins), of numbers that have 0 to ``bins`` bins."""
    widths = rng.uniform(0.2, 1.0, (numbers, bins))
    edges = (np.cumsum(widths, axis=1) - widths - 1.0).astype(dtype)  # the number 0 or 1 may lie on one
    widths = np.append(np.diff(edges), widths[:, -1:], axis=1)
    scales = 1 / widths
    missing = np.arange(bins) >= (bins - np.arange(numbers) % (bins + 1))[:, None]
    return np.where(missing, UNREACHED, edges).astype(dtype), np.where(missing, 0.0, scales).astype(dtype)


EDGES = (0.0, -0.0, 1.0, 1.0, 30.0, -30.0)
"""Where formulas change their branch: zeros of both signs, equal values, and values close to a limit."""


def _with_edges(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return random values of which the first are the edges, where there is room for both."""
    if values.size > 2 * len(EDGES):
        values.reshape(-1)[: len(EDGES)] = EDGES
    return values


def _loss_targets(op: Loss, rows: int, cols: int, dtype: Any, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Targets and class weights of each kind that a loss takes."""
    if op.link == "softmax":
        weights = rng.uniform(0.5, 2.0, cols).astype(dtype)
        labels = rng.integers(0, cols, rows)
        if rows > 4:
            # Labels of no class, on both sides: these rows count for nothing.
            labels[rows // 2 : -1 : 2], labels[rows // 2 + 1 : -1 : 2] = -1, cols
        yield labels.astype(np.int32), None
        yield labels, weights
        soft = rng.uniform(0.1, 1.0, (rows, cols)).astype(dtype)
        if op.directions["forward"].accepts((soft, soft)):
            yield (soft / soft.sum(axis=-1, keepdims=True)).astype(dtype), weights
    elif op.link == "sigmoid":
        yield rng.integers(0, 2, (rows, cols)).astype(np.int32), None
        yield rng.uniform(0, 1, (rows, cols)).astype(dtype), np.array([0.5, 2.0], dtype)
    else:
        for number in range(3):  # residuals of 0 among them: all begin with the same edges
            targets = _with_edges(rng.standard_normal((rows, cols)).astype(dtype))
            if op.least is not None:
                targets = np.abs(targets)
            if number == 2 and targets.size > 2 * len(EDGES):
                targets.reshape(-1)[len(EDGES) :: 3] = np.nan  # missing
            levels = rng.uniform(0.05, 0.95, cols).astype(dtype) if number and op.takes_levels else None
            yield targets, levels

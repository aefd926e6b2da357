"""Backpropagation of one row, step by step: each value, each gradient, and the equation it comes from.

Rows are vectors here, as everywhere in gpumlp: z = x W + b, with W (p, H). ``∇v`` is the gradient of the loss with
respect to v. The names are those of a lecture: z before an activation and h after it, with o for the output layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor, Variable, activate
from gpumlp.autodiff.differences import Comparison, Values, compare, compare_variable
from gpumlp.nn import Equation, Layer, Loss, Sequential
from gpumlp.ops import ACTIVATIONS

SHOWN = 4
"""Elements of an axis that a person is shown of a gradient: all of this many, else the first and the last of them."""


@dataclass(frozen=True)
class ShownValue:
    """A value on the way forward: its symbol, the equation it comes from (none for what is given), its numbers."""

    symbol: str
    equation: str
    array: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Gradient:
    """A gradient on the way back, beside its finite differences."""

    symbol: str
    equation: str
    comparison: Comparison


@dataclass(frozen=True)
class Backprop:
    """One row on its way forward and back. ``gradients`` stand in the order in which they are computed."""

    values: tuple[ShownValue, ...]
    gradients: tuple[Gradient, ...]
    loss: float


@dataclass(frozen=True)
class _Part:
    """A variable of a step: its symbol, and its gradient as an equation."""

    symbol: str
    variable: Variable
    slope: str


@dataclass(frozen=True)
class _Step:
    """One step forward, ``symbol = equation``; ``slope`` is the gradient of its input as an equation.

    ``also`` is the number of an earlier value that it takes besides the last one; None: it takes no other.
    """

    symbol: str
    equation: str
    slope: str
    function: Callable[..., Tensor]
    parts: tuple[_Part, ...] = ()
    also: int | None = None


def backpropagate(network: Sequential, loss: Loss, inputs: Values, targets: np.ndarray[Any, Any]) -> Backprop:
    """Send one row through a network of float64 and back. Inputs (1, p); targets (1,) labels or (1, K) numbers.

    The network computes as it predicts: nothing is dropped out, batch norm takes its running averages.
    """
    steps, backend = list(_steps(network.chain)), network.context.backend
    goal = backend.asarray(targets)

    def forward(*first: Tensor) -> list[Tensor]:
        outputs = list(first)
        for step in steps[len(outputs) - 1 :]:
            more = () if step.also is None else (outputs[step.also],)
            outputs.append(step.function(outputs[-1], *more))
        return outputs

    def from_value(start: int, array: Values) -> float:
        return float(loss(forward(*values[:start], Tensor(array, backend))[-1], goal)[0])

    features = Tensor(inputs, backend)
    with GradientTape() as tape:
        tape.watch(features)
        values = forward(features)
        total, _ = loss(values[-1], goal)
    sources = [*values[1:], *(part.variable for step in steps for part in step.parts)]
    slopes = dict(zip(map(id, sources), tape.gradient(total, sources), strict=True))

    def slope_of(source: Tensor) -> Values:
        slope = slopes[id(source)]
        return np.zeros(source.shape) if slope is None else slope.numpy()

    gradients = []
    equation = _equation_of(loss, network.units)
    ways = {step.also: f" + ∇{step.symbol}" for step in steps}  # of a value that a later step takes, too
    for position in range(len(steps), 0, -1):
        step, output = steps[position - 1], values[position]
        function = partial(from_value, position)
        compared = compare(function, output.numpy(), slope_of(output), shown=_indices_shown(output.shape))
        gradients.append(Gradient(step.symbol, equation + ways.get(position, ""), compared))
        for part in step.parts:
            seen, slope = _indices_shown(part.variable.shape), slope_of(part.variable)
            compared = compare_variable(lambda: from_value(0, inputs), part.variable, slope, shown=seen)
            gradients.append(Gradient(part.symbol, part.slope, compared))
        equation = step.slope
    shown_values = [ShownValue("x", "", inputs)]
    shown_values += [
        ShownValue(step.symbol, step.equation, v.numpy()) for step, v in zip(steps, values[1:], strict=True)
    ]
    link, last = loss.record.link, values[-1]
    shown_values.append(ShownValue("f(x)", f"{link}({shown_values[-1].symbol})", activate(link, last).numpy()))
    shown_values.append(
        ShownValue("e(y)", "", np.eye(network.units)[targets]) if link == "softmax" else ShownValue("y", "", targets)
    )
    return Backprop(tuple(shown_values), tuple(gradients), float(total))


def _steps(chain: Sequence[Layer]) -> Iterator[_Step]:
    """Return the steps from the inputs to the last linear values."""
    count = sum(layer.numbered for layer in chain)
    value, layer_symbol, number = "x", "", 0
    *_, last = chain
    done, inputs = 0, list[tuple[str, int]]()  # how many steps there are, and the value that each layer takes
    for layer in chain:
        inputs.append((value, done))
        if layer.numbered:
            number += 1
            layer_symbol = "o" if number == count else "h" if count == 2 else f"h{number}"
        if equation := layer.equation(value, layer_symbol):
            declared = _step(layer, equation)
            if layer.reach:
                earlier, also = inputs[-1 - layer.reach]
                declared = replace(declared, equation=declared.equation + earlier, function=layer.joined, also=also)
            yield declared
            value, done = equation.symbol, done + 1
        if layer.link != "identity" and layer is not last:  # the loss sees the values before the link of the model
            yield _activation(layer.link, value, layer_symbol)
            value, done = f"{layer_symbol}(x)", done + 1


def _step(layer: Layer, equation: Equation) -> _Step:
    variables = layer.weights | layer.offsets
    parts = [_Part(symbol, variables[name], slope) for name, (symbol, slope) in equation.arrays.items()]
    return _Step(equation.symbol, equation.formula, equation.slope, layer.linear, tuple(parts))


def _activation(name: str, value: str, layer_symbol: str) -> _Step:
    h = f"{layer_symbol}(x)"
    slope = (
        f"∇{h} J, J the Jacobian of {name} at {value}" if ACTIVATIONS[name].of_rows else f"∇{h} ⊙ {name}'({value})"
    )
    return _Step(h, f"{name}({value})", slope, partial(activate, name))


def _equation_of(loss: Loss, outputs: int) -> str:
    """Return the gradient of a loss with respect to the last linear values as an equation."""
    slope, smoothing = loss.record.slope, loss.hyper.get("label_smoothing")
    if outputs > 1 and loss.record.link != "softmax":
        slope = f"({slope}) / {outputs}"
    if smoothing:
        goal = "e(y)" if "e(y)" in slope else "y"
        slope += f", {goal} smoothed by {smoothing:g}"
    return slope


def shown(array: np.ndarray[Any, Any], most: int = SHOWN) -> np.ndarray[Any, Any]:
    """Return the part of an array that a person is shown: of an axis longer than ``most`` the first and the last."""
    for axis, length in enumerate(array.shape):
        if length > most:
            array = np.take(array, [*range(most - 2), length - 1], axis=axis)
    return array


def _indices_shown(shape: tuple[int, ...]) -> list[int]:
    """Return the flat indices of the elements that a person is shown of an array of this shape."""
    indices: list[int] = shown(np.arange(np.prod(shape)).reshape(shape)).ravel().tolist()
    return indices

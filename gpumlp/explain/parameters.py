"""The gradient of every parameter of a training step beside its finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.autodiff.differences import Comparison, Values, compare_variable
from gpumlp.nn import Loss, Model


def check_parameters(
    network: Model, loss: Loss, inputs: Values, targets: np.ndarray[Any, Any], weights: Values | None = None
) -> dict[str, Comparison]:
    """Return for each parameter, by name, its gradient in a step on these rows beside its finite differences.

    The step is that of training: with dropout (its mask is a function of the step, so it does not change from one
    evaluation to the next) and, in batch norm, the statistics of the batch. The network must be one of float64.
    """
    backend = network.context.backend
    x, y = Tensor(inputs, backend), backend.asarray(targets)
    s = None if weights is None else backend.asarray(weights)

    def total() -> Tensor:
        return loss(network.forward(x, training=True), y, s)[0]

    layers = network.layers().values()
    variables = [v for layer in layers for v in (*layer.weights.values(), *layer.offsets.values())]
    with GradientTape() as tape:
        target = total()
    comparisons = {}
    for variable, gradient in zip(variables, tape.gradient(target, variables), strict=True):
        taped = np.zeros(variable.shape) if gradient is None else gradient.numpy()
        comparisons[variable.name] = compare_variable(lambda: float(total()), variable, taped)
    return comparisons

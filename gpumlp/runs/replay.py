"""What a network makes of few rows, by captured plans: one call into compiled code, on arrays that are there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor, Variable
from gpumlp.autodiff.tape import not_recording
from gpumlp.backend.capture import Plan
from gpumlp.data import Features
from gpumlp.errors import CaptureError
from gpumlp.metrics import Host
from gpumlp.nn import Ensemble, Sequential
from gpumlp.nn.layer import Context
from gpumlp.ops.record import Array
from gpumlp.training.device_data import computed_inputs, input_dtype
from gpumlp.training.measure import answers

MAX_REPLAYED_ROWS = 16
"""Most rows that a plan is captured for: beside the products of more, what is around a call is little."""


MAX_SHAPES = 64
"""Most shapes of rows, and networks built anew, that plans are kept of."""


@dataclass(frozen=True)
class Plans:
    """Plans that nobody computes with at the moment.

    Parameters
    ----------
    contexts
        Of the networks: while they are kept, no others get their ids.
    memory
        Each variable with the array that the plans read it from.
    free
        The plans.
    """

    contexts: Sequence[Context]
    memory: Sequence[tuple[Variable, Array]]
    free: list[Plan]

    @property
    def hold(self) -> bool:
        """Whether all variables still lie where the plans read them: an optimizer for own loops moves them."""
        return all(variable.array is array for variable, array in self.memory)


class Replays:
    """The captured plans of a network.

    A plan computes in arrays of its own, so a call takes one out and puts it back: threads never share one.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], Plans] = {}

    def __reduce__(self) -> Any:
        """Copy and pickle none of the plans: the copy captures its own."""
        return type(self), ()

    def __call__(self, network: Sequential | Ensemble, features: Features, scale: float) -> tuple[Host, Host] | None:
        """Return the last linear values of encoded rows and what they stand for, (n, K) each, bit for bit.

        ``scale`` multiplies inputs that are bytes. None where no plan is captured: of no rows or many, on a GPU, and
        of a forward pass that cannot be replayed.
        """
        contexts = [each.context for each in network.networks]  # a network that is built anew gets new ones
        backend = network.context.backend
        few = 0 < len(features) <= MAX_REPLAYED_ROWS
        if not few or backend.device_name or any(each.backend is not backend for each in contexts):
            return None
        stored = np.asarray(features.stored, input_dtype(network, features, scale))
        key = (*map(id, contexts), stored.shape, features.dense, features.width, scale)
        plans = self._plans.get(key)
        if plans is None or not plans.hold:
            if len(self._plans) >= MAX_SHAPES:
                self._plans.clear()
            variables = [each for part in network.networks for each in part.trainable_variables]
            plans = self._plans[key] = Plans(contexts, [(each, each.array) for each in variables], [])

        def step(x: Array) -> tuple[Tensor, Tensor]:
            linear = network.forward(computed_inputs(network, features, x, scale))
            return linear, linear if network.link == "sigmoid" else network.answer(linear)

        with contextlib.suppress(CaptureError), not_recording():
            try:
                plan = plans.free.pop()
            except IndexError:
                plan = backend.capture(step, stored)
            linear, answer = plan(stored)
            outputs = linear.numpy(), answers(network, linear) if answer is linear else answer.numpy()
            plans.free.append(plan)
            return outputs
        return None

"""What a network makes of few rows, by captured plans: one call into compiled code, on arrays that are there."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from gpumlp.autodiff import Tensor
from gpumlp.autodiff.tape import not_recording
from gpumlp.backend.capture import Plan
from gpumlp.data import Features
from gpumlp.errors import CaptureError
from gpumlp.metrics import Host
from gpumlp.nn import Ensemble, Sequential
from gpumlp.ops.record import Array
from gpumlp.training.device_data import computed_inputs, input_dtype
from gpumlp.training.measure import answers

MAX_REPLAYED_ROWS = 16
"""Most rows that a plan is captured for: beside the products of more, what is around a call is little."""


class Replays:
    """The captured plans of a network.

    A plan computes in arrays of its own, so a call takes one out and puts it back: threads never share one.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], tuple[Any, list[Plan]]] = {}

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
        _, free = self._free.setdefault(key, (contexts, []))  # while they are kept, no others get their ids

        def step(x: Array) -> tuple[Tensor, Tensor]:
            linear = network.forward(computed_inputs(network, features, x, scale))
            return linear, linear if network.link == "sigmoid" else network.answer(linear)

        with contextlib.suppress(CaptureError), not_recording():
            try:
                plan = free.pop()
            except IndexError:
                plan = backend.capture(step, stored)
            linear, answer = plan(stored)
            found = linear.numpy(), answers(network, linear) if answer is linear else answer.numpy()
            free.append(plan)
            return found
        return None

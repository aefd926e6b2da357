"""What one launch computes of several layers is what the layers compute one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.autodiff import sum as total
from gpumlp.nn import Dense, Dropout, Sequential
from gpumlp.nn.layer import Layer
from gpumlp.nn.layers import Activation, Mix, Residual

CHAINS: dict[str, Callable[[], list[Layer]]] = {
    "mish": lambda: [Dense(5), Mix("mish"), Dropout(0.4), Dense(4), Mix("mish"), Dropout(0.2), Dense(2)],
    "no dropout": lambda: [Dense(4), Mix("selu"), Dense(3), Mix("selu"), Dropout(0.0), Dense(2)],
    "no launch": lambda: [Dense(4), Mix("relu"), Dropout(0.4), Dense(2)],
    "no bias": lambda: [Dense(4, bias=False), Mix("mish"), Dropout(0.4), Dense(2)],
    "between": lambda: [Dense(4), Activation("tanh"), Mix("mish"), Dropout(0.4), Dense(2)],
    "residual": lambda: [Dense(4), Dense(4), Mix("mish"), Dropout(0.4), Residual(3), Dense(2)],
    "reached into": lambda: [Dense(4), Mix("mish"), Dropout(0.4), Residual(2), Residual(2), Dense(2)],
    "last": lambda: [Dense(2), Mix("selu"), Dropout(0.3)],
    "dropped twice": lambda: [Dense(4), Mix("selu"), Dropout(0.3), Dropout(0.3), Dense(2)],
}
LAUNCHES = {"mish": 2, "no dropout": 2, "residual": 1, "last": 1, "dropped twice": 1}
"""How many of a chain compute several layers; of the others none do."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "scheduled"])
@pytest.mark.parametrize("chain", CHAINS)
def test_together_is_one_by_one(chain: str, scheduled: bool, backend: str) -> None:
    own = backends.get(backend)
    model = Sequential(CHAINS[chain]()).build(3, backend=own, dtype=np.float64, seed=4)
    rng = np.random.default_rng(1)
    model.load({name: rng.standard_normal(array.shape) for name, array in model.arrays().items()})
    own.write(model.context.clock, np.array([7, 1, 0]))
    for layer in model.chain:
        if scheduled and isinstance(layer, Dropout):
            layer.factors = own.asarray([1.0, 0.5, 0.25])
    x, weights = (Tensor(rng.standard_normal((6, width)), own) for width in (3, 2))

    def gradients(forward: Callable[[], Tensor]) -> list[np.ndarray]:
        with GradientTape() as tape:
            tape.watch(x)
            y = forward()
            loss = total(y * weights)
        found = tape.gradient(loss, [x, *model.trainable_variables])
        return [y.numpy(), *(each.numpy() for each in found)]

    for together, alone in zip(
        gradients(lambda: model.forward(x, training=True)),
        gradients(lambda: list(model.outputs(x, training=True))[-1]),
        strict=True,
    ):
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    names = own.capture(lambda: model.forward(x, training=True)).names()
    assert sum(name.endswith("mixed_forward") for name in names) == LAUNCHES.get(chain, 0)

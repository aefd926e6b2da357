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
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.dropout import DROPOUT

CHAINS: dict[str, Callable[[], list[Layer]]] = {
    "mish": lambda: [Dense(5), Mix("mish"), Dropout(0.4), Dense(4), Mix("mish"), Dropout(0.2), Dense(2)],
    "scheduled": lambda: [Dense(5), Mix("selu"), Dropout(0.4), Dense(2)],
    "no dropout": lambda: [Dense(4), Mix("selu"), Dense(3), Mix("selu"), Dropout(0.0), Dense(2)],
    "no launch": lambda: [Dense(4), Mix("relu"), Dropout(0.4), Dense(2)],
    "no bias": lambda: [Dense(4, bias=False), Mix("mish"), Dropout(0.4), Dense(2)],
    "between": lambda: [Dense(4), Activation("tanh"), Mix("mish"), Dropout(0.4), Dense(2)],
    "residual": lambda: [Dense(4), Dense(4), Mix("mish"), Dropout(0.4), Residual(3), Dense(2)],
    "reached into": lambda: [Dense(4), Mix("mish"), Dropout(0.4), Residual(2), Residual(2), Dense(2)],
    "last": lambda: [Dense(2), Mix("selu"), Dropout(0.3)],
    "dropped twice": lambda: [Dense(4), Mix("selu"), Dropout(0.3), Dropout(0.3), Dense(2)],
}
LAUNCHES = {"mish": 2, "scheduled": 1, "no dropout": 2, "residual": 1, "last": 1, "dropped twice": 1}
"""How many of a chain compute several layers; of the others none do."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chain", CHAINS)
def test_together_is_one_by_one(chain: str, backend: str) -> None:
    own = backends.get(backend)
    model = Sequential(CHAINS[chain]()).build(3, backend=own, dtype=np.float64, seed=4)
    rng = np.random.default_rng(1)
    model.load({name: rng.standard_normal(array.shape) for name, array in model.arrays().items()})
    own.write(model.context.clock, np.array([7, 1, 0]))
    for layer in model.chain:
        if chain == "scheduled" and isinstance(layer, Dropout):
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mish", "selu"])
def test_a_mask_knows_its_rows_and_hides_what_it_drops(name: str, backend: str) -> None:
    own, op, cols = backends.get(backend), ACTIVATIONS[name], 37
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((2, 9, cols))
    b, a = rng.standard_normal((2, cols))
    x[2:5] = np.array([np.nan, np.inf, -np.inf])[:, None]
    dropped = {"rate": 0.5, "stream": 1, "key": (5, 6)}
    clock = own.asarray([2**33 + 1, 0, 0])

    def run(first: int) -> list[np.ndarray]:
        inputs = [own.asarray(each) for each in (x[first:], b, a)]
        y, z, mask = own.run(op, "mixed_forward", (*inputs, clock, None), first=first, **dropped)
        slope = own.asarray(dy[first:])
        dx, *_ = own.run(op, "mixed_backward", (z, inputs[2], slope, mask, clock, None), first=first, **dropped)
        return [own.to_host(each) for each in (y, mask, dx)]

    y, mask, dx = run(0)
    (words,) = own.run(DROPOUT, "forward", (own.asarray(np.ones_like(x)), clock, None), **dropped)
    np.testing.assert_array_equal(mask, own.to_host(words) != 0)
    finite = [0, 1, 5, 6, 7, 8]
    assert (y[mask == 0] == 0).all()
    assert (dx[finite][mask[finite] == 0] == 0).all()
    for result in (y, dx):
        assert np.isfinite(result[finite]).all()
        assert np.isnan(result[2][mask[2] != 0]).all()
    for whole, of_shard in zip((y, mask, dx), run(5), strict=True):
        np.testing.assert_allclose(of_shard, whole[5:], rtol=1e-13, atol=1e-13)

"""Networks side by side: each is what it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close

from gpumlp.approximation.activations import OFFERED, activation_of
from gpumlp.approximation.members import Members
from gpumlp.approximation.network import Network
from gpumlp.approximation.starts import deep, wide, width_of_deep
from gpumlp.approximation.targets import TARGETS, grid
from gpumlp.autodiff import Tensor, Variable, activate, gradcheck
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError


def mixed(activation: str, inputs: int = 1) -> list[Network]:
    """Networks of several widths and depths, in no order."""
    op, x = activation_of(activation), grid(inputs, 9)
    rng = np.random.default_rng(5)
    return [deep(rng, op, x, 3), wide(rng, op, x, 6), deep(rng, op, x, 1), wide(rng, op, x, 1), deep(rng, op, x, 2)]


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "relu", "square"])
def test_each_column_is_the_value_of_one_network(activation: str, inputs: int) -> None:
    networks, x = mixed(activation, inputs), np.random.default_rng(0).uniform(-1, 1, (50, inputs))
    backend = Backend()
    values = Members(networks, backend).forward(Tensor(x.astype(np.float32), backend)).numpy()
    expected = np.stack([network(x.astype(np.float32).astype(np.float64)) for network in networks], axis=1)
    assert_close(values, expected, "training", scale=float(np.abs(expected).max()))


def test_they_come_back_as_they_went_in() -> None:
    for before, after in zip(mixed("tanh"), Members(mixed("tanh"), Backend()).trained(), strict=True):
        assert before.c == pytest.approx(after.c, rel=1e-6)
        for given, found in ((before.v, after.v), *zip(sum(before.layers, ()), sum(after.layers, ()), strict=True)):
            np.testing.assert_allclose(found, given, rtol=1e-6)


def test_training_together_is_training_alone() -> None:
    networks, x = mixed("tanh"), grid(1, 65)
    y = TARGETS["sine"](x)
    together = Members(networks, Backend())
    together.train(x, y, steps=40)
    for before, after in zip(networks, together.trained(), strict=True):
        alone = Members([before], Backend())
        alone.train(x, y, steps=40)
        assert np.abs(after(x) - before(x)).max() > 0.1  # it has moved,
        np.testing.assert_allclose(after(x), alone.trained()[0](x), atol=2e-4)  # and to the same place


def test_no_weight_ever_joins_two_networks() -> None:
    networks, x = mixed("sigmoid"), grid(1, 33)
    members = Members(networks, Backend())
    own = sum(np.count_nonzero(W) for network in networks for W, _ in network.layers[1:])
    members.train(x, TARGETS["runge"](x), steps=5)
    arrays = members.parameters.arrays()
    joint = sum(np.count_nonzero(array) for name, array in arrays.items() if name in ("W1", "W2"))
    everywhere = sum(W.size for network in networks for W, _ in network.layers[1:])
    assert own < joint <= everywhere < sum(arrays[name].size for name in ("W1", "W2"))


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("activation", sorted(set(OFFERED) - {"square", "cube"}))  # they bend everywhere
def test_a_deep_start_carries_its_inputs_to_the_end(activation: str, inputs: int) -> None:
    x = grid(inputs, 11)
    network = deep(np.random.default_rng(2), activation_of(activation), x, 6)
    carried = network.hidden(x)[:, :inputs]
    for column in range(inputs):
        assert np.corrcoef(carried[:, column], x[:, column])[0, 1] > 0.98
    assert all(b.size == width_of_deep(inputs) == inputs + 1 + 2 for _, b in network.layers)


def test_with_relu_a_deep_start_is_a_wide_network_written_downwards() -> None:
    x = grid(1, 401)
    values = deep(np.random.default_rng(3), activation_of("relu"), x, 5)(x)
    bends = np.abs(np.diff(values, 2)) > 1e-9  # each bend shows at one or two places of the grid
    assert 5 <= np.count_nonzero(bends) <= 2 * 2 * 5
    assert np.abs(values).max() < 5


@pytest.mark.parametrize(("inputs", "units"), [(1, 1), (1, 7), (2, 16)])
def test_parameters_are_counted_as_the_lecture_counts_them(inputs: int, units: int) -> None:
    x = grid(inputs, 5)
    network = wide(np.random.default_rng(0), activation_of("tanh"), x, units)
    assert network.parameters == (inputs + 1) * units + (units + 1)
    w = inputs + 3
    assert deep(np.random.default_rng(0), activation_of("tanh"), x, 4).parameters == (
        (inputs + 1) * w + 3 * (w + 1) * w + w + 1
    )


@pytest.mark.parametrize("name", ["square", "cube"])
def test_the_activations_made_to_fail_have_right_gradients(name: str) -> None:
    x = Variable(np.linspace(-2, 2, 12).reshape(3, 4), dtype=np.float64)
    assert_close(activate(activation_of(name), x).numpy(), x.numpy() ** {"square": 2, "cube": 3}[name])
    assert gradcheck(lambda x: activate(activation_of(name), x), [x]).passed


def test_softmax_is_no_activation_of_one_unit() -> None:
    with pytest.raises(ConfigError, match="softmax"):
        activation_of("softmax")

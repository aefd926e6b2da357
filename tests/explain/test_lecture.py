"""The lecture's networks and equations, on every backend: counted, and differentiated step by step."""

from __future__ import annotations

import numpy as np
import pytest
from support import softmax_reference

from gpumlp import autodiff as ad
from gpumlp.autodiff import FUSED, GradientTape, Tensor, Variable
from gpumlp.backend import Backend
from gpumlp.nn import Activation, Dense, Sequential

EXACT = {"rtol": 1e-12, "atol": 1e-14}


# ---- networks and counts -------------------------------------------------------------------------


def counted(model: Sequential) -> list[int]:
    """The last column of the summary: parameters layer by layer, then in all."""
    lines = [line for line in model.summary().splitlines()[1:] if not line.startswith("─")]
    return [int(line.split()[-1].replace(",", "")) for line in lines]


@pytest.mark.parametrize(("p", "H", "K"), [(1, 1, 1), (4, 8, 3), (64, 32, 10), (784, 256, 10)])
def test_one_hidden_layer_has_p_plus_1_times_h_and_h_plus_1_times_k_parameters(p: int, H: int, K: int) -> None:
    model = Sequential([Dense(H, activation="tanh"), Dense(K, activation="softmax")]).build(p)
    assert counted(model) == [(p + 1) * H, (H + 1) * K, (p + 1) * H + (H + 1) * K]
    assert len(model.parameters) == (p + 1) * H + (H + 1) * K
    assert model.link == "softmax"


@pytest.mark.parametrize(("p", "H1", "H2"), [(1, 1, 1), (30, 32, 16), (784, 512, 128)])
def test_two_hidden_layers_and_one_output(p: int, H1: int, H2: int) -> None:
    layers = [Dense(H1, activation="relu"), Dense(H2, activation="relu"), Dense(1, activation="sigmoid")]
    model = Sequential(layers).build(p)
    each = [(p + 1) * H1, (H1 + 1) * H2, H2 + 1]
    assert counted(model) == [*each, sum(each)]
    assert model.link == "sigmoid"


def test_three_ways_to_write_a_network_are_one() -> None:
    """With a list, layer by layer, and with the activations as layers of their own."""
    listed = Sequential([Dense(5, activation="tanh"), Dense(3, activation="softmax")])
    added = Sequential()
    added.add(Dense(5, activation="tanh"))
    added.add(Dense(3, activation="softmax"))
    apart = Sequential([Dense(5, initializer="glorot_uniform"), Activation("tanh"), Dense(3), Activation("softmax")])
    x = np.random.default_rng(0).standard_normal((7, 4))
    models = [model.build(4, dtype=np.float64) for model in (listed, added, apart)]
    apart.load({name: listed.arrays()[name] for name in apart.parameters.variables})
    for model in models[1:]:
        assert model.link == "softmax"
        assert len(model.parameters) == len(listed.parameters)
        np.testing.assert_array_equal(model(x).numpy(), listed(x).numpy())
        np.testing.assert_array_equal(model.forward(Tensor(x)).numpy(), listed.forward(Tensor(x)).numpy())


# ---- equations -----------------------------------------------------------------------------------


def test_the_jacobian_of_softmax(backend: Backend) -> None:
    """∂f_i / ∂z_j = f_i (δ_ij - f_j), each entry asked of the tape by itself."""
    z = np.random.default_rng(0).standard_normal((1, 5))
    with GradientTape(persistent=True) as tape:
        source = Variable(z, backend)
        f = FUSED["softmax"](source)
    jacobian = [tape.gradient(f, source, Tensor(np.eye(5)[[i]], backend)).numpy()[0] for i in range(5)]
    expected = softmax_reference(z)[0]
    for i in range(5):
        for j in range(5):
            np.testing.assert_allclose(jacobian[i][j], expected[i] * ((i == j) - expected[j]), **EXACT)


@pytest.mark.parametrize("kind", ["labels", "one-hot"])
def test_the_gradient_of_cross_entropy_is_f_minus_e_of_y(backend: Backend, kind: str) -> None:
    """The fused loss, the written equation, and -log f(x)_y through softmax step by step, for each row by itself."""
    z, labels = np.random.default_rng(1).standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    one_hot = np.eye(4)[labels]
    targets = labels if kind == "labels" else one_hot
    fused, stepwise = Variable(z, backend), Variable(z, backend)
    with GradientTape() as tape:
        loss = FUSED["softmax_cross_entropy"](fused, backend.asarray(targets))
    got = tape.gradient(loss, fused).numpy() * len(z)  # the loss is a mean over the rows
    with GradientTape() as tape:
        f = FUSED["softmax"](stepwise)
        at = Tensor(np.arange(6), backend), Tensor(labels, backend)
        picked = f[at] if kind == "labels" else ad.sum(f * one_hot, axis=1)
        mean = -ad.mean(ad.log(picked))
    np.testing.assert_allclose(float(loss), float(mean), **EXACT)
    np.testing.assert_allclose(got, softmax_reference(z) - one_hot, **EXACT)
    np.testing.assert_allclose(tape.gradient(mean, stepwise).numpy() * len(z), got, **EXACT)


@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_of_binary_cross_entropy_is_f_minus_y(backend: Backend, soft: bool) -> None:
    z = np.random.default_rng(2).standard_normal((6, 1))
    y = np.array([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]]) * (0.7 if soft else 1.0)
    fused, stepwise = Variable(z, backend), Variable(z, backend)
    with GradientTape() as tape:
        loss = FUSED["binary_cross_entropy"](fused, backend.asarray(y))
    got = tape.gradient(loss, fused).numpy() * len(z)
    with GradientTape() as tape:
        f = FUSED["sigmoid"](stepwise)
        mean = -ad.mean(y * ad.log(f) + (1.0 - y) * ad.log(1.0 - f))
    np.testing.assert_allclose(float(loss), float(mean), **EXACT)
    np.testing.assert_allclose(got, 1.0 / (1.0 + np.exp(-z)) - y, **EXACT)
    np.testing.assert_allclose(tape.gradient(mean, stepwise).numpy() * len(z), got, **EXACT)

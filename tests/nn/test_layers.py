"""Layers one by one."""

from __future__ import annotations

import numpy as np
import pytest
from support import activation_reference

from gpumlp.autodiff import Tensor
from gpumlp.errors import ConfigError
from gpumlp.nn import INITIALIZERS, Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm, Sequential
from gpumlp.nn.initializers import default_initializer
from gpumlp.ops import ACTIVATIONS
from gpumlp.seeds import generator

FAN_IN, FAN_OUT = 300, 200
VARIANCES = {
    "glorot_uniform": 2 / (FAN_IN + FAN_OUT),
    "glorot_normal": 2 / (FAN_IN + FAN_OUT),
    "he_uniform": 2 / FAN_IN,
    "he_normal": 2 / FAN_IN,
    "lecun_uniform": 1 / FAN_IN,
    "lecun_normal": 1 / FAN_IN,
    "data": 1 / FAN_IN,
    "orthogonal": 1 / FAN_IN,
    "normal": 0.05**2,
    "uniform": 0.05**2 / 3,
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_have_the_variance_of_their_source(name):
    W = INITIALIZERS[name](np.random.default_rng(0), FAN_IN, FAN_OUT)
    assert W.shape == (FAN_IN, FAN_OUT)
    variance = VARIANCES[name]
    assert abs(W.var() - variance) <= 0.03 * variance  # 60,000 draws: a deviation of 0.6 % for normal ones
    assert abs(W.mean()) <= 5 * (variance / W.size) ** 0.5
    if name.endswith("uniform"):
        limit = (3 * variance) ** 0.5
        assert 0.99 * limit < np.abs(W).max() <= limit


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 4)])
def test_orthogonal_rows_or_columns(shape):
    W = INITIALIZERS["orthogonal"](np.random.default_rng(0), *shape)
    product = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-14)


def test_initial_weights_depend_on_seed_and_place_alone():
    def weights(seed, units=4):
        return Sequential([Dense(units), Dense(4), Dense(4)]).build(4, seed=seed).arrays()

    a, b, c = weights(1), weights(1), weights(2)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a["dense_1.W"], c["dense_1.W"])
    assert not np.array_equal(a["dense_2.W"], a["dense_3.W"])
    np.testing.assert_array_equal(a["dense_3.W"], weights(1, units=9)["dense_3.W"])  # whatever was drawn before


def test_building_again_starts_again():
    model = Sequential([Dense(3, "tanh"), BatchNorm(), Dense(2)])
    first = model.build(4, seed=1).arrays()
    model.parameters.values[...] = 7
    model.forward(Tensor(np.ones((5, 4), np.float32)), training=True)
    second = model.build(4, seed=1).arrays()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(model.build(4, seed=2).arrays()["dense_1.W"], first["dense_1.W"])
    wide = model.build(6, dtype=np.float64)
    assert wide.arrays()["dense_1.W"].shape == (6, 3)
    assert wide.arrays()["dense_1.W"].dtype == np.float64


def test_generators_of_different_purpose_are_different():
    draws = {generator(*p).integers(2**62) for p in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1)]}
    assert len(draws) == 5
    assert generator(3, 1).integers(2**62) == generator(3, 1).integers(2**62)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_is_the_activation_of_x_w_plus_b(name):
    layer, x = Dense(3, name), np.random.default_rng(0).standard_normal((4, 5))
    assert layer.initializer == default_initializer(name)
    got = layer(Tensor(x))
    layer.offsets["b"].assign([0.1, -0.2, 0.3])
    got = layer(Tensor(x))
    W = layer.weights["W"].numpy()
    z = x @ W + [0.1, -0.2, 0.3]
    np.testing.assert_allclose(got.numpy(), activation_reference(name, z), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(layer.linear(Tensor(x)).numpy(), z, rtol=1e-12)
    assert layer.parameters == 5 * 3 + 3
    np.testing.assert_allclose(Activation(name)(Tensor(z)).numpy(), got.numpy(), rtol=1e-12, atol=1e-14)


def test_initializers_by_name():
    W = Dense(3, initializer="zeros")
    assert (W(Tensor(np.ones((1, 2), np.float32))).numpy() == 0).all()
    with pytest.raises(ConfigError, match="did you mean 'he_normal'"):
        Dense(3, initializer="he_nromal")
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        Dense(3, "rely")
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        Activation("rely")
    with pytest.raises(ConfigError, match="units of a dense layer is 0"):
        Dense(0)


def test_dropout_only_in_training():
    layer, x = Dropout(0.5), Tensor(np.ones((30, 40), np.float32))
    assert layer(x) is x
    dropped = layer(x, training=True).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.4 < (dropped == 0).mean() < 0.6
    assert Dropout(0.0)(x, training=True) is x
    for rate in (-0.1, 1.0, 1.5):
        with pytest.raises(ConfigError, match=r"the dropout rate is .*\s+allowed: >= 0 and < 1"):
            Dropout(rate)


def test_two_dropout_layers_of_a_model_have_two_masks_that_follow_the_clock():
    model = Sequential([Dropout(0.5), Dropout(0.5), Dense(1)]).build(64, seed=3)
    first, second = model.chain[:2]
    x = Tensor(np.ones((1, 64), np.float32))

    def masks():
        return [(layer.forward(x, training=True).numpy() != 0).tobytes() for layer in (first, second)]

    before = masks()
    assert before == masks()
    assert before[0] != before[1]
    model.context.clock[0] += 1
    assert not set(before) & set(masks())
    other = Sequential([Dropout(0.5), Dense(1)]).build(64, seed=4)
    assert (other.chain[0].forward(x, training=True).numpy() != 0).tobytes() != before[0]


def test_layer_norm_and_batch_norm_start_as_plain_normalisation():
    x = np.random.default_rng(0).standard_normal((50, 4)) * 3 + 2
    for layer, axis in ((LayerNorm(), 1), (BatchNorm(), 0)):
        y = layer(Tensor(x), training=True).numpy()
        np.testing.assert_allclose(y.mean(axis=axis), 0, atol=1e-12)
        np.testing.assert_allclose(y.std(axis=axis), 1, rtol=1e-3)  # ε is part of it
        assert layer.parameters == 8
        layer.offsets["gain"].assign([2.0] * 4)
        layer.offsets["bias"].assign([5.0] * 4)
        np.testing.assert_allclose(layer(Tensor(x), training=True).numpy(), 2 * y + 5, rtol=1e-12)


def test_batch_norm_remembers_running_averages_and_uses_them_outside_of_training():
    rng = np.random.default_rng(0)
    layer, mean, variance = BatchNorm(momentum=0.3), np.zeros(3), np.ones(3)
    for rows in (5, 2, 7):
        x = rng.standard_normal((rows, 3)) * 2 + 1
        layer(Tensor(x), training=True)
        mean = 0.7 * mean + 0.3 * x.mean(axis=0)
        variance = 0.7 * variance + 0.3 * x.var(axis=0, ddof=1)
    np.testing.assert_allclose(layer.state["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(layer.state["variance"], variance, rtol=1e-12)
    kept = {k: v.copy() for k, v in layer.state.items()}
    y = layer(Tensor(x)).numpy()
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-10)
    for key, value in kept.items():
        np.testing.assert_array_equal(layer.state[key], value)


@pytest.mark.parametrize("shape", [(6, 2), (5, 3, 3, 2), (1, 4, 2), (2, 1, 2), (1, 1, 2)])
def test_batch_norm_counts_all_axes_but_the_last_as_rows(shape):
    x = np.random.default_rng(0).normal(3.0, 30.0, shape)
    flat, layer = x.reshape(-1, 2), BatchNorm(momentum=1.0)
    y = layer(Tensor(x), training=True).numpy()
    np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-10, atol=1e-12)
    expected = (flat.mean(0), flat.var(0, ddof=1)) if len(flat) > 1 else (np.zeros(2), np.ones(2))
    for name, values in zip(("mean", "variance"), expected, strict=True):
        np.testing.assert_allclose(layer.state[name], values, rtol=1e-12)
    np.testing.assert_allclose(layer(x).numpy(), (x - expected[0]) / np.sqrt(expected[1] + 1e-5), rtol=1e-10)


def test_batch_norm_of_one_row_stays_finite():
    layer = BatchNorm()
    y = layer(Tensor(np.array([[3.0, 4.0]])), training=True)
    assert y.numpy().tolist() == [[0, 0]]
    assert np.isfinite(layer.state["variance"]).all()


def test_a_layer_is_built_once_even_where_it_has_nothing_to_train():
    class Count(Layer):
        builds = 0

        def build(self, context, inputs):
            self.builds += 1

        def forward(self, x, *, training=False):
            return x

    layer = Count()
    for _ in range(3):
        layer(Tensor(np.ones((1, 2))))
    assert layer.builds == 1


def test_every_activation_names_an_initializer_there_is():
    assert {op.initializer for op in ACTIVATIONS.values()} <= set(INITIALIZERS)
    suits = {op.name: op.initializer for op in ACTIVATIONS.values() if op.initializer != "he_normal"}
    assert suits == {"selu": "lecun_normal"} | dict.fromkeys(
        ("identity", "softmax", "tanh", "sigmoid"), "glorot_uniform"
    )

"""The lecture's networks against Keras on JAX: same weights, so same counts, outputs, losses and gradients."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported
pytest.importorskip("jax", reason="needs Keras on JAX: pip install keras jax")
pytest.importorskip("keras", reason="needs Keras on JAX: pip install keras jax")

import jax
import keras

from gpumlp import convert
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.nn import Activation, BatchNorm, Dense, LayerNorm, Loss, Sequential

if keras.backend.backend() != "jax":
    pytest.skip("Keras was loaded with another backend than JAX", allow_module_level=True)

# What Keras 3.15 does when asked for the numbers of a variable, and NumPy 2 frowns at.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
N, p, H, K = 12, 7, 5, 3
EXACT = {"rtol": 1e-11, "atol": 1e-13}
SINGLE = {"rtol": 2e-6, "atol": 1e-6}  # Keras 3.15 computes some things in float32 whatever it is told


@pytest.fixture(autouse=True)
def float64() -> Any:
    """JAX counts in float32 unless it is told otherwise, by one switch for the whole process."""
    before, jax_before = keras.config.floatx(), jax.config.jax_enable_x64
    keras.config.set_floatx("float64")
    jax.config.update("jax_enable_x64", True)
    yield
    keras.config.set_floatx(before)
    jax.config.update("jax_enable_x64", jax_before)


def one_hidden_layer(tanh: Any = "tanh") -> tuple[Any, Sequential]:
    theirs = keras.Sequential(
        [
            keras.Input(shape=(p,)),
            keras.layers.Dense(H, activation=tanh),
            keras.layers.Dense(K, activation="softmax"),
        ]
    )
    return theirs, Sequential([Dense(H, activation="tanh"), Dense(K, activation="softmax")])


def one_hidden_layer_in_float64() -> tuple[Any, Sequential]:
    return one_hidden_layer(jax.numpy.tanh)


def two_hidden_layers() -> tuple[Any, Sequential]:
    theirs, ours = keras.Sequential([keras.Input(shape=(p,))]), Sequential()
    for layers, model in ((keras.layers, theirs), (None, ours)):
        dense = Dense if layers is None else layers.Dense
        model.add(dense(H, activation="relu"))
        model.add(dense(4, activation="relu"))
        model.add(dense(1, activation="sigmoid"))
    return theirs, ours


def alike(theirs: Any, ours: Sequential, backend: Backend) -> None:
    """Give Keras random weights, biases included, and copy them across.

    They are small, since Keras keeps probabilities 1e-7 away from 0 and 1 and so loses what lies beyond.
    """
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.uniform(0.1, 0.5, w.shape) * rng.choice([-1, 1], w.shape) for w in theirs.weights])
    ours.build(p, backend=backend, dtype=np.float64)
    convert.read(ours, {w.path: w.numpy() for w in theirs.weights}, "keras")


def their_gradients(theirs: Any, loss: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    fixed = [v.value for v in theirs.non_trainable_variables]

    def total(trained: list[Any]) -> Any:
        outputs, _ = theirs.stateless_call(trained, fixed, x, training=False)
        return jax.numpy.mean(loss(y, outputs))

    value, gradients = jax.value_and_grad(total)([v.value for v in theirs.trainable_variables])
    return float(value), [np.asarray(g) for g in gradients]


def our_gradients(ours: Sequential, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    backend = ours.context.backend
    variables = [v for layer in ours.layers().values() for v in (*layer.weights.values(), *layer.offsets.values())]
    with GradientTape() as tape:
        value, _ = Loss("cross_entropy", ours)(ours.forward(Tensor(x, backend)), backend.asarray(y))
    return float(value), [g.numpy() for g in tape.gradient(value, variables)]


@pytest.mark.parametrize(
    ("make", "loss", "classes", "outputs", "losses"),  # the last two: how exactly they must agree
    [
        (one_hidden_layer, "sparse_categorical_crossentropy", K, SINGLE, SINGLE),
        (one_hidden_layer_in_float64, "sparse_categorical_crossentropy", K, EXACT, EXACT),
        (one_hidden_layer_in_float64, "categorical_crossentropy", K, EXACT, EXACT),
        (two_hidden_layers, "binary_crossentropy", 2, EXACT, SINGLE),
    ],
)
def test_the_networks_of_the_lecture(
    backend: Backend, make: Any, loss: str, classes: int, outputs: dict[str, float], losses: dict[str, float]
) -> None:
    each = [(p + 1) * H, (H + 1) * 4, 4 + 1] if make is two_hidden_layers else [(p + 1) * H, (H + 1) * K]
    theirs, ours = make()
    alike(theirs, ours, backend)
    assert [layer.count_params() for layer in theirs.layers] == each
    assert [layer.parameters for layer in ours.layers().values()] == each
    assert theirs.count_params() == len(ours.parameters) == sum(each)

    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((N, p)), rng.integers(0, classes, N)
    y = np.eye(K)[labels] if loss.startswith("categorical") else labels[:, None] if classes == 2 else labels
    np.testing.assert_allclose(ours(x).numpy(), np.asarray(theirs(x)), **outputs)
    their_loss, their_parts = their_gradients(theirs, getattr(keras.losses, loss), x, y)
    our_loss, our_parts = our_gradients(ours, x, y)
    np.testing.assert_allclose(our_loss, their_loss, **losses)
    for a, b in zip(our_parts, their_parts, strict=True):
        np.testing.assert_allclose(a, b, **losses)
        assert np.abs(b).max() > 1e-3


def test_norms_there_and_back(backend: Backend) -> None:
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input(shape=(p,)),
            layers.Dense(H, use_bias=False),
            layers.BatchNormalization(epsilon=1e-5),
            layers.Activation("relu"),
            layers.Dropout(0.5),
            layers.Dense(4),
            layers.LayerNormalization(epsilon=1e-5),
            layers.Dense(K, activation="softmax"),
        ]
    )
    ours = Sequential(
        [Dense(H, bias=False), BatchNorm(), Activation("relu"), Dense(4), LayerNorm(), Dense(K, "softmax")]
    )
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.uniform(0.2, 1.0, w.shape) for w in theirs.weights])
    ours.build(p, backend=backend, dtype=np.float64)
    # with the state of dropout
    convert.read(ours, {v.path: v.numpy() for v in theirs.variables}, "keras", epsilon=1e-5)
    x = rng.standard_normal((N, p))
    outputs = np.asarray(theirs(x))
    np.testing.assert_allclose(ours(x).numpy(), outputs, **SINGLE)
    theirs.set_weights([np.zeros(w.shape) for w in theirs.weights])
    theirs.set_weights(list(convert.write(ours, "keras").values()))
    np.testing.assert_array_equal(np.asarray(theirs(x)), outputs)


def test_the_epsilon_of_keras_goes_into_the_variance() -> None:
    theirs = keras.Sequential([keras.Input(shape=(p,)), keras.layers.BatchNormalization(), keras.layers.Dense(K)])
    ours = Sequential([BatchNorm(), Dense(K)]).build(p, dtype=np.float64)
    rng = np.random.default_rng(0)
    small = [
        rng.uniform(1e-3, 3e-3, w.shape) if "variance" in w.path else rng.uniform(1, 2, w.shape)
        for w in theirs.weights
    ]
    theirs.set_weights(small)  # variances for which it counts
    arrays = {w.path: w.numpy() for w in theirs.weights}
    x = rng.standard_normal((N, p))
    convert.read(ours, arrays, "keras", epsilon=1e-3)
    np.testing.assert_allclose(ours(x).numpy(), np.asarray(theirs(x)), **SINGLE)
    with pytest.warns(UserWarning, match=r"pass epsilon= what those for batchnorm_1 were made with"):
        convert.read(ours, arrays, "keras")
    assert np.abs(ours(x).numpy() - np.asarray(theirs(x))).max() > 1e-3

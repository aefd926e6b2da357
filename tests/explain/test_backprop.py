"""Backpropagation of one row against derivatives written out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpumlp import runs
from gpumlp.backend import Backend
from gpumlp.errors import ConfigError
from gpumlp.explain.backprop import Backprop, backpropagate
from gpumlp.explain.parameters import check_parameters
from gpumlp.explain.subject import load_subject
from gpumlp.nn import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm, Loss, Sequential
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, Direction

ROOT = Path(__file__).parents[2]
SCALAR = ROOT / "configs" / "lecture" / "scalar.yaml"
EXACT = {"rtol": 1e-12, "atol": 1e-15}


def shown(network: Sequential, name: str, x: np.ndarray, y: np.ndarray, **hyper: float) -> Backprop:
    return backpropagate(network, Loss(name, network, **hyper), x, y)


def gradients(found: Backprop) -> dict[str, np.ndarray]:
    return {gradient.symbol: gradient.comparison.taped for gradient in found.gradients}


def values(found: Backprop) -> dict[str, np.ndarray]:
    return {value.symbol: value.array for value in found.values}


def of(network: Sequential) -> list[np.ndarray]:
    """All parameters with values that none of them has by default."""
    rng = np.random.default_rng(0)
    for variable in network.parameters.variables.values():
        variable.assign(rng.standard_normal(variable.shape))
    layers = network.layers().values()
    return [v.numpy() for layer in layers for v in (*layer.weights.values(), *layer.offsets.values())]


# ---- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 2])
def test_the_scalar_exercise(backend: Backend, row: int) -> None:
    """p = H = K = 1: f(x) = w_o relu(w_h x + b_h) + b_o and L = (f(x) - y)², each derivative by the chain rule."""
    subject = load_subject(SCALAR, backend=backend.name)
    rows = slice(row, row + 1)
    found = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    w_h, b_h, w_o, b_o = (
        float(subject.network.arrays()[k].item()) for k in ("dense_1.W", "dense_1.b", "dense_2.W", "dense_2.b")
    )
    x, y = [(-2.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (1.0, 1.0)][row]  # the file, as it is

    z_h = w_h * x + b_h
    h = max(z_h, 0.0)
    f = w_o * h + b_o
    dL_df = 2.0 * (f - y)
    dL_dw_o = dL_df * h
    dL_db_o = dL_df
    dL_dh = dL_df * w_o
    dL_dz_h = dL_dh * (1.0 if z_h > 0 else 0.0)
    dL_dw_h = dL_dz_h * x
    dL_db_h = dL_dz_h

    assert (z_h > 0) == (row == 2)  # one row on each side of the kink
    assert found.loss == pytest.approx((f - y) ** 2, rel=1e-14)
    expected = {"x": x, "z_h": z_h, "h(x)": h, "z_o": f, "f(x)": f, "y": y}
    assert {k: v.item() for k, v in values(found).items()} == pytest.approx(expected, rel=1e-14)
    expected = {
        "z_o": dL_df, "W_o": dL_dw_o, "b_o": dL_db_o, "h(x)": dL_dh, "z_h": dL_dz_h, "W_h": dL_dw_h, "b_h": dL_db_h
    }  # fmt: skip
    assert {k: v.item() for k, v in gradients(found).items()} == pytest.approx(expected, rel=1e-14)
    assert [g.symbol for g in found.gradients] == [*expected]
    assert all(g.comparison.passed for g in found.gradients)


def test_one_hidden_layer_and_softmax(backend: Backend) -> None:
    """Each equation of the lecture in plain NumPy."""
    rng = np.random.default_rng(3)
    network = Sequential([Dense(5, "tanh"), Dense(3, "softmax")]).build(4, backend=backend, dtype=np.float64)
    W_h, b_h, W_o, b_o = of(network)
    x, y = rng.standard_normal((1, 4)), np.array([2])
    found = shown(network, "cross_entropy", x, y)

    h = np.tanh(x @ W_h + b_h)
    z_o = h @ W_o + b_o
    f = np.exp(z_o) / np.exp(z_o).sum()
    d_z_o = f - np.eye(3)[y]
    d_h = d_z_o @ W_o.T
    d_z_h = d_h * (1 - h**2)
    expected = {
        "z_o": d_z_o, "W_o": h.T @ d_z_o, "b_o": d_z_o[0], "h(x)": d_h, "z_h": d_z_h, "W_h": x.T @ d_z_h,
        "b_h": d_z_h[0]
    }  # fmt: skip
    got = gradients(found)
    assert [*got] == [*expected]
    for symbol, array in expected.items():
        np.testing.assert_allclose(got[symbol], array, **EXACT, err_msg=symbol)
    assert found.loss == pytest.approx(-np.log(f[0, 2]), rel=1e-13)
    np.testing.assert_allclose(values(found)["f(x)"], f, **EXACT)
    assert [g.equation for g in found.gradients] == [
        "f(x) - e(y)", "h(x)ᵀ ∇z_o", "∇z_o", "∇z_o W_oᵀ", "∇h(x) ⊙ tanh'(z_h)", "xᵀ ∇z_h", "∇z_h"
    ]  # fmt: skip
    assert all(g.comparison.passed for g in found.gradients)


def test_two_hidden_layers_and_sigmoid(backend: Backend) -> None:
    network = Sequential([Dense(6, "relu"), Dense(5, "relu"), Dense(1, "sigmoid")])
    W1, b1, W2, b2, W_o, b_o = of(network.build(4, backend=backend, dtype=np.float64))
    x, y = np.random.default_rng(4).standard_normal((1, 4)), np.array([1])
    found = shown(network, "cross_entropy", x, y)

    h1 = np.maximum(x @ W1 + b1, 0)
    h2 = np.maximum(h1 @ W2 + b2, 0)
    d_z_o = 1 / (1 + np.exp(-(h2 @ W_o + b_o))) - 1
    d_z2 = (d_z_o @ W_o.T) * (h2 > 0)
    d_z1 = (d_z2 @ W2.T) * (h1 > 0)
    assert (h1 > 0).any()
    assert (h2 > 0).any()
    expected = {
        "z_o": d_z_o, "W_o": h2.T @ d_z_o, "b_o": d_z_o[0], "h2(x)": d_z_o @ W_o.T, "z_h2": d_z2,
        "W_h2": h1.T @ d_z2, "b_h2": d_z2[0], "h1(x)": d_z2 @ W2.T, "z_h1": d_z1, "W_h1": x.T @ d_z1, "b_h1": d_z1[0]
    }  # fmt: skip
    got = gradients(found)
    assert [*got] == [*expected]
    for symbol, array in expected.items():
        np.testing.assert_allclose(got[symbol], array, **EXACT, err_msg=symbol)
    assert found.gradients[0].equation == "f(x) - y"
    assert all(g.comparison.passed for g in found.gradients)


def test_the_equations_of_the_norms(backend: Backend) -> None:
    """What is said of layer norm and batch norm, in plain NumPy."""
    epsilon = 1e-5
    layers: list[Layer] = [Dense(5, bias=False), BatchNorm(), Activation("tanh"), Dropout(0.5), Dense(4), LayerNorm()]
    network = Sequential([*layers, Activation("softmax"), Dense(2)]).build(3, backend=backend, dtype=np.float64)
    W1, gain1, bias1, W2, b2, gain2, bias2, W_o, b_o = of(network)
    rng = np.random.default_rng(5)
    mean, variance = rng.standard_normal(5), rng.uniform(0.5, 2, 5)
    backend.write(layers[1].state["mean"], mean)
    backend.write(layers[1].state["variance"], variance)
    x, y = rng.standard_normal((1, 3)), rng.standard_normal((1, 2))
    found = shown(network, "squared_error", x, y)

    s1 = np.sqrt(variance + epsilon)
    u1 = (x @ W1 - mean) / s1
    h1 = np.tanh(gain1 * u1 + bias1)
    z2 = h1 @ W2 + b2
    s2 = np.sqrt(z2.var() + epsilon)
    u2 = (z2 - z2.mean()) / s2
    e = np.exp(gain2 * u2 + bias2)
    h2 = e / e.sum()
    d_z_o = 2 * (h2 @ W_o + b_o - y) / 2
    d_h2 = d_z_o @ W_o.T
    d_n2 = d_h2 @ (np.diag(h2[0]) - h2.T @ h2)
    g = d_n2 * gain2
    d_z2 = (g - g.mean() - u2 * (g * u2).mean()) / s2
    d_n1 = (d_z2 @ W2.T) * (1 - h1**2)
    d_z1 = d_n1 * gain1 / s1
    expected = {
        "z_o": d_z_o, "h2(x)": d_h2, "n_h2": d_n2, "gain_h2": (d_n2 * u2)[0], "bias_h2": d_n2[0], "z_h2": d_z2,
        "n_h1": d_n1, "gain_h1": (d_n1 * u1)[0], "bias_h1": d_n1[0], "z_h1": d_z1, "W_h1": x.T @ d_z1
    }  # fmt: skip
    got = gradients(found)
    for symbol, array in expected.items():
        np.testing.assert_allclose(got[symbol], array, rtol=1e-10, atol=1e-14, err_msg=symbol)
    assert "b_h1" not in got  # that layer has none
    assert found.gradients[0].equation == "(2 (f(x) - y)) / 2"
    assert all(g.comparison.passed for g in found.gradients)


def _focal(p, gamma):
    return (1 - p) ** gamma * (1 - gamma * p * np.log(p) / (1 - p))


def _hinge(gaps, label):
    active = (gaps > -1) * (1 - label)
    return (active - label * active.sum()) / 3


SLOPES = {
    "softmax_cross_entropy": lambda f, y, **_: f - np.eye(3)[y],
    "binary_cross_entropy": lambda f, y, **_: f - y,
    "squared_error": lambda f, y, **_: 2 * (f - y),
    "absolute_error": lambda f, y, **_: np.sign(f - y),
    "huber": lambda f, y, delta=1.0, **_: np.clip(f - y, -delta, delta),
    "quantile": lambda f, y, **_: np.where(f > y, 0.5, -0.5),
    "focal": lambda f, y, gamma=2.0, **_: _focal(f[:, y], gamma) * (f - np.eye(3)[y]),
    "binary_focal": lambda f, y, gamma=2.0, **_: _focal(np.where(y, f, 1 - f), gamma) * (f - y),
    "hinge": lambda f, y, **_: _hinge(np.log(f / f[:, y]), np.eye(3)[y]),
    "binary_hinge": lambda f, y, **_: np.where(y, -1.0 * (f < 1 / (1 + np.exp(-1))), f > 1 / (1 + np.exp(1))),
    "absolute_percentage_error": lambda f, y, **_: np.sign(f - y) / np.maximum(np.abs(y), 0.01),
    "poisson": lambda f, y, **_: np.exp(f) - y,
}
WRITTEN = {
    "softmax_cross_entropy": "f(x) - e(y)",
    "binary_cross_entropy": "f(x) - y",
    "squared_error": "2 (f(x) - y)",
    "absolute_error": "sign(f(x) - y)",
    "huber": "f(x) - y, clipped to ±δ",
    "quantile": "1 - q where f(x) > y, -q where f(x) < y",
    "focal": "(1 - p)^γ (1 - γ p log(p) / (1 - p)) (f(x) - e(y)), p the share of y in f(x)",
    "binary_focal": "(1 - p)^γ (1 - γ p log(p) / (1 - p)) (f(x) - y), p = f(x) where y is 1, else 1 - f(x)",
    "hinge": "1/K for each class k with z_k > z_y - 1, -1/K for y as often",
    "binary_hinge": "-1 where y is 1 and z < 1, 1 where y is 0 and z > -1",
    "absolute_percentage_error": "sign(f(x) - y) / max(|y|, φ)",
    "poisson": "exp(f(x)) - y",
}


@pytest.mark.parametrize("name", LOSS_RECORDS)
def test_what_is_written_of_the_slope_of_each_loss_is_so(name: str) -> None:
    record = LOSS_RECORDS[name]
    network = Sequential([Dense(3 if record.link == "softmax" else 1)]).build(2, dtype=np.float64)
    of(network)
    chosen = name.removeprefix("softmax_").removeprefix("binary_")
    x = np.array([[1.0, -2.0]])
    y = np.array([[0.25]]) if record.link == "identity" else np.array([1])
    found = shown(network, chosen, x, y)
    assert LOSS_RECORDS[name].slope == WRITTEN[name] == found.gradients[0].equation
    f = values(found)["f(x)"]
    np.testing.assert_allclose(found.gradients[0].comparison.taped, SLOPES[name](f, y), **EXACT)


def test_label_smoothing_is_said() -> None:
    for outputs, text in ((3, "f(x) - e(y), e(y) smoothed by 0.2"), (1, "f(x) - y, y smoothed by 0.2")):
        network = Sequential([Dense(outputs)]).build(2, dtype=np.float64)
        found = shown(network, "cross_entropy", np.ones((1, 2)), np.array([0]), label_smoothing=0.2)
        assert found.gradients[0].equation == text
        goal = 0.8 * np.eye(3)[0] + 0.2 / 3 if outputs == 3 else 0.1
        np.testing.assert_allclose(found.gradients[0].comparison.taped[0], values(found)["f(x)"][0] - goal, **EXACT)


def test_a_layer_without_an_equation_is_refused() -> None:
    class Twice(Layer):
        def forward(self, x, *, training=False):
            return x * 2.0

    network = Sequential([Twice(), Dense(1)]).build(2, dtype=np.float64)
    with pytest.raises(ConfigError, match="backpropagation through a Twice"):
        shown(network, "squared_error", np.ones((1, 2)), np.ones((1, 1)))


# ---- what is wrong is found ----------------------------------------------------------------------


@pytest.fixture
def wrong_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tanh whose slope is too large by a part in 100 000."""
    op = ACTIVATIONS["tanh"]

    def wrong(direction: Direction) -> Direction:
        return replace(direction, formula=lambda *a: tuple(dx * (1 + 1e-5) for dx in direction.formula(*a)))

    backward = {name: wrong(op.directions[name]) for name in ("backward", "bias_backward")}
    monkeypatch.setitem(ACTIVATIONS, "tanh", replace(op, directions={**op.directions, **backward}))


@pytest.mark.usefixtures("wrong_tanh")
def test_a_wrong_slope_shows_in_all_that_comes_after_it_and_nowhere_else() -> None:
    network = Sequential([Dense(5, "tanh"), Dense(3, "softmax")]).build(4, dtype=np.float64)
    of(network)
    x, y = np.random.default_rng(0).standard_normal((9, 4)), np.arange(9) % 3
    found = shown(network, "cross_entropy", x[:1], y[:1])
    assert [g.symbol for g in found.gradients if not g.comparison.passed] == ["z_h", "W_h", "b_h"]
    checked = check_parameters(network, Loss("cross_entropy", network), x, y)
    assert [name for name, c in checked.items() if not c.passed] == ["dense_1.W", "dense_1.b"]


# ---- every parameter of a training step ----------------------------------------------------------


def test_every_parameter_of_a_step_with_everything_in_it(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    layers = [Dense(6), BatchNorm(), Activation("gelu"), Dropout(0.4), Dense(5), LayerNorm(), Activation("elu")]
    network = Sequential([*layers, Dense(3)]).build(4, backend=backend, dtype=np.float64)
    of(network)
    x, y, weights = rng.standard_normal((8, 4)), rng.integers(0, 3, 8), rng.uniform(0.5, 2, 8)
    loss = Loss("cross_entropy", network, class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1)
    before = network.parameters.arrays()
    found = check_parameters(network, loss, x, y, weights)
    assert set(found) == set(network.parameters.variables)
    assert [*found][:3] == ["dense_1.W", "dense_1.b", "batchnorm_1.gain"]  # in the order of the layers
    for name, comparison in found.items():
        assert comparison.passed, (name, comparison.error)
        assert comparison.taped.any() or name == "dense_1.b"  # batch norm takes a bias away
        np.testing.assert_array_equal(network.parameters.arrays()[name], before[name])


def test_a_row_of_weight_0_is_no_row() -> None:
    rng = np.random.default_rng(0)
    network = Sequential([Dense(5, "tanh"), Dense(1)]).build(3, dtype=np.float64)
    of(network)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 1))
    loss = Loss("squared_error", network)
    weighted = check_parameters(network, loss, x, y, np.array([1.0, 0, 0, 1, 1, 0]))
    fewer = check_parameters(network, loss, x[[0, 3, 4]], y[[0, 3, 4]])
    for name, comparison in weighted.items():
        np.testing.assert_allclose(comparison.taped, fewer[name].taped, **EXACT)


# ---- configurations and runs ---------------------------------------------------------------------


def test_a_run_is_shown_with_its_own_weights_in_float64(task, tmp_path: Path) -> None:
    folder = runs.train(task(), tmp_path / "run").folder
    subject = load_subject(folder, backend="numpy")
    model = runs.load_trained(folder)
    assert subject.network.context.dtype == np.float64
    for name, array in model.network.arrays().items():
        np.testing.assert_array_equal(subject.network.arrays()[name], array)
    rows = slice(0, 1)
    found = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    np.testing.assert_allclose(values(found)["f(x)"], model.network.predict(subject.data.inputs[rows]), rtol=1e-5)
    assert all(g.comparison.passed for g in found.gradients)
    with pytest.raises(ConfigError, match="settings of a run cannot be changed"):
        load_subject(folder, ["training.seed=1"])


def test_a_configuration_is_shown_as_it_starts(task) -> None:
    path = task().path
    subject = load_subject(path, ["training.seed=7", "precision=float32"], "numpy")
    again = Sequential([Dense(8, "tanh"), Dense(3, "softmax")]).build(2, seed=7)
    assert subject.network.context.backend.name == "numpy"
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(subject.network.arrays()[name], array.astype(np.float64))


def test_the_rows_are_those_that_the_network_was_trained_on(tmp_path: Path) -> None:
    """Bytes are scaled, targets standardized by rows that count as often as they weigh, ratios of weights kept."""
    (tmp_path / "rows.csv").write_text("a,w,y\n1,1,0.5\n2,0,1.5\n4,2,1\n")
    (tmp_path / "rows.yaml").write_text(
        "task: regression\n"
        "data: {train: rows.csv, target: y, weights: w, scaling: none, split: {validation: 0, test: 0}}\n"
    )
    rows = slice(1, 3)
    numbers = load_subject(tmp_path / "rows.yaml")
    assert numbers.inputs(rows).tolist() == [[2], [4]]
    np.testing.assert_allclose(numbers.targets(rows), [[2 * 2**0.5], [0.5**0.5]], rtol=1e-6)  # of 0.5, 1, 1
    assert numbers.weights(rows).tolist() == [0, 0.5]  # of 1/4, 0, 1/2

    np.savez(tmp_path / "bytes.npz", x=np.array([[0, 255], [51, 102], [204, 0]], np.uint8), y=np.array([0, 1, 1]))
    (tmp_path / "bytes.yaml").write_text(
        "task: classification\ndata: {train: bytes.npz, target: y, split: {validation: 0, test: 0}}\n"
    )
    images = load_subject(tmp_path / "bytes.yaml")
    np.testing.assert_allclose(images.inputs(rows), [[0.2, 0.4], [0.8, 0]], rtol=1e-12)
    assert images.targets(rows).tolist() == [1, 1]
    assert images.weights(rows) is None

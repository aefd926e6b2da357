"""Networks with settings of the whole: where rates come from, and predictions within the range of the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import BACKENDS

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.config import Loaded, configure
from gpumlp.errors import ConfigError
from gpumlp.explain.backprop import backpropagate
from gpumlp.export import export
from gpumlp.nn import Architecture, Clamp, Dense, Hidden, Loss, Sequential, count_parameters, mlp
from gpumlp.optim import Optimizer
from gpumlp.runs import load_trained, train
from gpumlp.training.architecture import architecture_of

RATE, DECAY, STEPS = 0.02, 0.3, 30
SHAPE = Architecture((Hidden(7, "tanh"), Hidden(4, "silu")), parametrization="ntk")


def test_ntk_form_is_what_it_is_in_pytorch() -> None:
    """z = x V / sqrt(p) + 0.1 c, V and c trained by AdamW at one rate, the decay on V alone."""
    torch = pytest.importorskip("torch")
    model = mlp(SHAPE, 3, "identity").build(5, dtype=np.float64)
    start, rng = model.arrays(), np.random.default_rng(1)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    V = [
        torch.nn.Parameter(torch.tensor(start[f"dense_{i}.W"] * len(start[f"dense_{i}.W"]) ** 0.5)) for i in (1, 2, 3)
    ]
    c = [torch.nn.Parameter(torch.tensor(start[f"dense_{i}.b"] / 0.1)) for i in (1, 2, 3)]
    groups = [{"params": V, "weight_decay": DECAY}, {"params": c, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=RATE, eps=1e-300)
    loss = Loss("squared_error", model)
    ours = Optimizer(
        "adamw",
        model.parameters,
        model.context.clock,
        learning_rate=RATE,
        weight_decay=DECAY,
        epsilon=1e-300,
    )
    for _ in range(STEPS):
        with GradientTape() as tape:
            value, _ = loss(model.forward(Tensor(x, model.context.backend)), y)
        model.parameters.collect(tape, value)
        ours.step()
        z = torch.tensor(x)
        for i, function in enumerate((torch.tanh, torch.nn.functional.silu, lambda z: z)):
            z = function(z @ V[i] / len(V[i]) ** 0.5 + 0.1 * c[i])
        theirs.zero_grad()
        ((z - torch.tensor(y)) ** 2).mean().backward()
        theirs.step()
    arrays = model.arrays()
    for i in (1, 2, 3):
        assert not np.allclose(arrays[f"dense_{i}.W"], start[f"dense_{i}.W"], rtol=0.01)
        scaled = V[i - 1].detach().numpy() / len(V[i - 1]) ** 0.5
        np.testing.assert_allclose(arrays[f"dense_{i}.W"], scaled, rtol=1e-9)
        np.testing.assert_allclose(arrays[f"dense_{i}.b"], 0.1 * c[i - 1].detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("heads", [1, 3])
def test_one_logit_of_two_classes_is_trained_as_two_are(heads: int) -> None:
    rng = np.random.default_rng(3)
    x, labels, trained = rng.normal(size=(20, 5)), rng.integers(2, size=20).astype(np.int32), []
    shape = Architecture(
        (Hidden(4, "tanh"),), "glorot_uniform", "ntk", heads=heads, share="hidden" * (heads > 1) or "none"
    )
    two, one = (
        mlp(shape, outputs, link).build(5, dtype=np.float64) for outputs, link in ((2, "softmax"), (1, "sigmoid"))
    )
    (last,) = (
        name.removesuffix(".W") for name, array in two.arrays().items() if name.endswith("W") and array.shape[-1] == 2
    )
    one.load(
        {
            name: array[..., 1:] - array[..., :1] if name.startswith(last) else array
            for name, array in two.arrays().items()
        }
    )
    for model in (two, one):
        loss = Loss("cross_entropy", model)
        optimizer = Optimizer("sgd", model.parameters, model.context.clock, learning_rate=0.3)
        for _ in range(5):
            with GradientTape() as tape:
                value, _ = loss(model.forward(Tensor(x, model.context.backend), training=True), labels)
            model.parameters.collect(tape, value)
            optimizer.step()
        trained.append(model.predict(x)[:, -1])
    np.testing.assert_allclose(*trained, rtol=1e-12)


def test_unknown_parametrization() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ntk'"):
        Dense(3, parametrization="nkt")


# ---- trained factors ---------------------------------------------------------------------------------------------

WHOLE = Architecture(
    (Hidden(6, "mish", dropout=0.1), Hidden(5, "tanh", norm="layer"), Hidden(4, "selu", norm="batch")),
    parametrization="ntk",
    input_factors=True,
    trained_activation=True,
    clamp=True,
)


def test_factors_start_at_one_and_have_rates_of_their_own() -> None:
    model, plain = (mlp(each, 2, "identity").build(3) for each in (WHOLE, WHOLE.hidden))
    assert count_parameters(WHOLE, 3, 2) == len(model.parameters) == len(plain.parameters) + 3 + 6 + 5 + 4
    groups = {f"{name}.{key}": group for name, layer in model.layers().items() for key, group in layer.groups.items()}
    assert groups["inputfactors_1.s"] == (6.0, 6.0)
    assert groups["mix_1.a"] == (0.1, 0.1)
    assert groups["dense_2.W"] == (6**-0.5, 6**0.5)
    assert groups["dense_2.b"] == (0.1, 0.0)
    arrays = model.arrays()
    assert (arrays["inputfactors_1.s"] == 1).all()
    assert (arrays["mix_3.a"] == 1).all()
    # At first the shares change nothing.
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    start = {name: array for name, array in plain.arrays().items() if name in arrays}
    model.load(arrays | start)
    plain.load(plain.arrays() | start)
    np.testing.assert_allclose(model.predict(x), plain.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_whole_network_is_differentiated(dtype: str) -> None:
    """Each gradient in float64 agrees with differences; in bfloat16 with float64 to its rounding."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x, y = np.random.default_rng(1).normal(size=(1, 3)), np.array([[0.5, -1.0]])
    found = {}
    for each in dict.fromkeys(("float64", dtype)):
        model = mlp(WHOLE, 2, "identity").build(3, backend=Backend(), dtype=each)
        rng = np.random.default_rng(2)
        model.load({name: rng.uniform(0.4, 1.2, array.shape) for name, array in model.arrays().items()})
        (clamp,) = (layer for layer in model.chain if isinstance(layer, Clamp))
        clamp.set(-1e9, 1e9)
        loss = Loss("squared_error", model)
        if each == "float64":
            shown = backpropagate(model, loss, x, y)
            assert all(gradient.comparison.passed for gradient in shown.gradients)
            equations = {value.symbol: value.equation for value in shown.values}
            assert equations["u"] == "x ⊙ s"
            assert equations["y_h1"] == "z_h1 + a_h1 ⊙ (mish(z_h1) - z_h1)"
            assert {"s", "a_h1", "a_h2", "a_h3"} <= {gradient.symbol for gradient in shown.gradients}
        with GradientTape() as tape:
            value, _ = loss(model.forward(Tensor(x.astype(model.context.dtype), model.context.backend)), y)
        model.parameters.collect(tape, value)
        found[each] = model.parameters.arrays(model.parameters.gradients)
    for name, exact in found["float64"].items():
        scale = np.abs(exact).max()
        np.testing.assert_allclose(found[dtype][name], exact, rtol=0.1, atol=0.05 * scale, err_msg=name)


# ---- predictions within bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_predictions_are_clamped_and_training_is_not(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    model = mlp(Architecture((), clamp=True), 2, "identity").build(1, dtype=dtype)
    model.load(model.arrays() | {"dense_1.W": np.array([[1.0, -2.0]])})
    x = np.array([[-3.0], [-1.0], [0.0], [2.0], [np.nan], [np.inf]])
    raw = x * [1.0, -2.0]
    np.testing.assert_array_equal(model.predict(x), np.clip(raw, *[s * np.finfo(np.float32).max for s in (-1, 1)]))
    (clamp,) = (layer for layer in model.chain if isinstance(layer, Clamp))
    clamp.set([-1.0, -2.0], [2.0, 2.0])
    np.testing.assert_array_equal(model.predict(x), np.clip(raw, [-1.0, -2.0], [2.0, 2.0]))
    trained = model.forward(Tensor(x.astype(model.context.dtype), model.context.backend), training=True)
    np.testing.assert_array_equal(trained.numpy().astype(float), raw)


def test_classes_are_not_clamped() -> None:
    with pytest.raises(ConfigError, match="softmax"):
        mlp(Architecture((), clamp=True), 3, "softmax")


def test_backpropagation_through_a_clamp() -> None:
    model = Sequential([Dense(3, "tanh"), Dense(2), Clamp()]).build(2, backend=Backend(), dtype=np.float64)
    (clamp,) = (layer for layer in model.chain if isinstance(layer, Clamp))
    clamp.set([-0.1, -9.0], [0.1, 9.0])
    x = np.array([[1.0, 3.0]])
    found = backpropagate(model, Loss("squared_error", model), x, np.array([[1.0, 2.0]]))
    assert [each.symbol for each in found.values][-4:] == ["z_o", "y_o", "f(x)", "y"]
    assert all(each.comparison.passed for each in found.gradients)
    slopes = {each.symbol: each.comparison.taped for each in found.gradients}
    assert slopes["z_o"][0, 0] == 0.0 != slopes["z_o"][0, 1]


@pytest.fixture
def regression(tmp_path: Path) -> Any:
    """Return a function that configures a small regression with settings of the whole network."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (90, 2))
    rows = np.column_stack([x, 100 + 10 * x[:, 0] ** 3, 7 * x[:, 1]])
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="u,v,y,t", comments="")

    def make(target: Any = "y", **model: Any) -> Loaded:
        chosen = {"backend": model.pop("backend", "numpy")}
        return configure(
            task="regression",
            data={"train": str(tmp_path / "rows.csv"), "target": target, "drop": ["t"] if target == "y" else []},
            model={"hidden": [8, 6], "clamp": True, **model},
            training={"epochs": 5, "batch_size": 16},
            optimizer={"learning_rate": 0.05, "averaging": None},
            **chosen,
        )

    return make


@pytest.mark.parametrize("target", ["y", ["y", "t"]])
def test_a_run_clamps_to_the_training_targets(target: Any, regression: Any, tmp_path: Path) -> None:
    train(regression(target, parametrization="ntk"), tmp_path / "run")
    model = load_trained(tmp_path / "run")
    assert model.architecture == Architecture((Hidden(8), Hidden(6)), clamp=True)
    arrays = model.network.arrays()
    model.network.load(arrays | {"dense_3.W": 1e4 * arrays["dense_3.W"]})
    rows = np.loadtxt(tmp_path / "rows.csv", delimiter=",", skiprows=1)
    found = model.predict({"u": rows[:, 0], "v": rows[:, 1]}).reshape(len(rows), -1)
    assert (np.diff(np.sort(found, axis=0)[[0, 9, -10, -1]], axis=0)[[0, 2]] == 0).all()  # many at the bounds
    for column, values in zip(found.T, rows[:, 2:].T, strict=False):
        for bound in (column.min(), column.max()):
            assert np.isclose(values, bound, rtol=1e-5).any()  # a row's own value
    for ending in (".py", ".safetensors", ".onnx") if target == "y" else ():
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(tmp_path / "run", tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed


def test_settings_reach_the_network(regression: Any) -> None:
    more: dict[str, Any] = {"input_factors": True, "trained_activation": True}
    settings = regression(parametrization="ntk", initializer="zeros", **more).settings
    assert architecture_of(settings) == Architecture((Hidden(8), Hidden(6)), "zeros", "ntk", **more, clamp=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_with_all_of_it(backend: str, regression: Any, tmp_path: Path) -> None:
    settings = regression(
        backend=backend,
        parametrization="ntk",
        input_factors=True,
        trained_activation=True,
        activation="mish",
        dropout=0.1,
    )
    result = train(settings, tmp_path / "whole")
    arrays = load_trained(tmp_path / "whole").network.arrays()
    assert not (arrays["inputfactors_1.s"] == 1).any()
    assert not (arrays["mix_2.a"] == 1).any()
    assert result.summary["metrics"]["validation"]["rmse"] < 6
    for ending in (".py", ".safetensors", ".onnx"):
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(tmp_path / "whole", tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed


def test_softmax_is_not_mixed(regression: Any) -> None:
    with pytest.raises(ConfigError, match=r"model.hidden.1.activation: softmax works along rows"):
        regression(hidden=[4, {"units": 3, "activation": "softmax"}], trained_activation=True)

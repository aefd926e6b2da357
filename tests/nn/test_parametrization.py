"""Networks with settings of the whole: where rates come from, and predictions within the range of the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.config import Loaded, configure
from gpumlp.errors import ConfigError
from gpumlp.explain.backprop import backpropagate
from gpumlp.export import export
from gpumlp.nn import Architecture, Clamp, Dense, Hidden, Loss, Sequential, mlp
from gpumlp.optim import Optimizer
from gpumlp.runs import load_trained, train
from gpumlp.training.build import architecture_of

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


def test_unknown_parametrization() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ntk'"):
        Dense(3, parametrization="nkt")


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
        return configure(
            task="regression",
            data={"train": str(tmp_path / "rows.csv"), "target": target, "drop": ["t"] if target == "y" else []},
            model={"hidden": [8, 6], "clamp": True, **model},
            training={"epochs": 5, "batch_size": 16},
            optimizer={"learning_rate": 0.05, "averaging": None},
            backend="numpy",
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
    settings = regression(parametrization="ntk", initializer="zeros").settings
    assert architecture_of(settings) == Architecture((Hidden(8), Hidden(6)), "zeros", "ntk", True)

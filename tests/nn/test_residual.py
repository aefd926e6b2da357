"""Residual blocks: what they compute, and that they go wherever a network goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp import convert
from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.config import Loaded
from gpumlp.errors import ConfigError, ShapeError
from gpumlp.explain.backprop import backpropagate
from gpumlp.explain.network import trace_row
from gpumlp.explain.subject import load_subject
from gpumlp.export import export
from gpumlp.nn import Architecture, Dense, Hidden, Loss, Residual, Sequential, count_parameters, mlp
from gpumlp.runs import load_trained, train

WIDTHS = Architecture(tuple(Hidden(units, "tanh") for units in (4, 4, 3, 3, 3)), residual=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_adds_its_input_to_its_output(backend: str) -> None:
    network = mlp(WIDTHS, 2, "identity").build(5, backend=backends.get(backend), dtype=np.float64, seed=1)
    a, h = network.arrays(), np.random.default_rng(0).standard_normal((7, 5))
    x = h
    for number, adds in enumerate((False, True, False, True, True), 1):
        y = np.tanh(h @ a[f"dense_{number}.W"] + a[f"dense_{number}.b"])
        h = y + h if adds else y
    np.testing.assert_allclose(network.predict(x), h @ a["dense_6.W"] + a["dense_6.b"], rtol=1e-12)
    assert count_parameters(WIDTHS, 5, 2) == network.size
    assert [layer.reach for layer in network.chain] == [0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert Architecture.from_state(WIDTHS.to_state()) == WIDTHS

    loss, target = Loss("squared_error", network), network.context.backend.asarray(np.ones((7, 2)))

    def value() -> float:
        return float(loss(network.forward(Tensor(x, network.context.backend), training=True), target)[0])

    W = network.layers()["dense_1"].weights["W"]
    with GradientTape() as tape:
        total, _ = loss(network.forward(Tensor(x, network.context.backend), training=True), target)
    slope, before = tape.gradient(total, W).numpy(), W.numpy().copy()
    for place in ((0, 0), (4, 3)):
        ends = []
        for step in (1e-6, -1e-6):
            changed = before.copy()
            changed[place] += step
            W.assign(changed)
            ends.append(value())
        W.assign(before)
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope[place], rel=1e-6)


@pytest.mark.parametrize(
    "settings", [(), ("model.norm=batch", "model.dropout=0.2", "members=2"), ("precision=bf16",)]
)
def test_residual_blocks_go_everywhere(
    settings: tuple[str, ...], task: Callable[..., Loaded], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(task("model.residual=true", "model.hidden=[4, 4, 4]", "training.epochs=2", *settings), run)
    model = load_trained(run)
    assert all(any(isinstance(layer, Residual) for layer in each.chain) for each in model.network.networks)
    for ending in (".py", ".onnx") if not settings else ():
        if ending == ".onnx":
            pytest.importorskip("onnx")
        compared, _ = export(run, tmp_path / f"model{ending}")
        assert compared.difference <= compared.allowed
    if settings:
        return
    subject = load_subject(run)
    rows = subject.only(0)
    shown = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    assert all(gradient.comparison.passed for gradient in shown.gradients)
    equations = {value.symbol: value.equation for value in shown.values}
    assert (equations["r_h2"], equations["r_h3"]) == ("h2(x) + h1(x)", "h3(x) + r_h2")
    slopes = {gradient.symbol: gradient.equation for gradient in shown.gradients}
    assert slopes["r_h2"].endswith(" + ∇r_h3")
    assert slopes["h2(x)"] == "∇r_h2"
    nodes = trace_row(subject, 0, gradients=True, summary=False).nodes
    assert len([node for node in nodes if "add" in node.label or "+" in node.label]) >= 2
    assert "residual_1 (Residual, 1 layers back)" in model.network.networks[0].summary()


def test_first_weights_that_suit_rows_know_of_blocks(task: Callable[..., Loaded], tmp_path: Path) -> None:
    more = "model.residual=true", "model.hidden=[4, 4]", "training.epochs=1", "model.initializer=data"
    train(task(*more), tmp_path / "run")
    network = load_trained(tmp_path / "run").network.networks[0]
    for layout in convert.LAYOUTS:
        other = mlp(Architecture((Hidden(4), Hidden(4)), residual=True), 3, "softmax").build(2)
        convert.read(other, convert.write(other, layout), layout)
    assert np.isfinite(network.predict(np.ones((1, 2), np.float32))).all()


def test_what_cannot_be_added_is_refused(task: Callable[..., Loaded]) -> None:
    with pytest.raises(ConfigError, match="no hidden layer is as wide as the one before"):
        task("model.residual=true", "model.hidden=[4, 3]")
    with pytest.raises(ShapeError, match="a residual adds 2 values to 3"):
        Sequential([Dense(3), Residual(1)]).build(2)
    with pytest.raises(ConfigError, match="reaches back 2 layers, to before the first"):
        Sequential([Dense(2), Residual(2)]).build(2)
    with pytest.raises(ConfigError, match="works in a Sequential alone"):
        Residual(1)(np.ones((1, 2)))

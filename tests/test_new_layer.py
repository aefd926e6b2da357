"""A layer is one place: a class, and a row of the table of what may stand before an activation. All else asks it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpumlp import convert
from gpumlp.autodiff import Tensor
from gpumlp.backend import Backend
from gpumlp.config import Loaded
from gpumlp.config.model_settings import Block, Model
from gpumlp.config.settings import Settings
from gpumlp.errors import ConfigError
from gpumlp.explain.backprop import backpropagate
from gpumlp.explain.network import trace_row
from gpumlp.explain.subject import load_subject
from gpumlp.export import export
from gpumlp.nn import NORMS, Declared, Equation, Hidden, Layer, count_parameters, mlp
from gpumlp.runs import load_trained, train

ROOT = Path(__file__).parent.parent


class Mixing(Layer):
    """y = x M + t: a square matrix, which decays, and shifts, which do not."""

    def declare(self, inputs: int) -> Mapping[str, Declared]:
        return {
            "M": Declared((inputs, inputs), "weight", self.start, matrix=True, called={"pytorch": "weight"}),
            "t": Declared((inputs,), "offset", lambda rng: np.zeros(inputs), called={"keras": "shift"}),
        }

    def start(self, rng: np.random.Generator) -> np.ndarray:
        assert self.context is not None
        return np.eye(self.inputs) + rng.normal(0.0, 0.1, (self.inputs, self.inputs))

    def forward(self, x: Tensor, *, training: bool = False) -> Tensor:
        return x @ self.weights["M"] + self.offsets["t"]

    def equation(self, value: str, place: str) -> Equation:
        y, M, t = f"y_{place}", f"M_{place}", f"t_{place}"
        arrays = {"M": (M, f"{value}ᵀ ∇{y}"), "t": (t, f"∇{y}")}
        return Equation(y, f"{value} {M} + {t}", f"∇{y} {M}ᵀ", arrays)

    @property
    def detail(self) -> str:
        return "square"


def rebuild() -> None:
    for section in (Block, Model, Settings):
        section.model_rebuild(force=True)


@pytest.fixture
def mixing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setitem(NORMS, "mixing", Mixing)
        rebuild()
        yield
    rebuild()


@pytest.mark.usefixtures("mixing")
def test_a_new_layer_goes_everywhere(task: Callable[..., Loaded], tmp_path: Path) -> None:
    hidden = "model.hidden=[4, {units: 3, norm: mixing}]"
    run, network = tmp_path / "run", mlp([Hidden(4), Hidden(3, norm="mixing")], 3, "softmax").build(2)

    # from YAML, trained, and back from its file
    train(task(hidden), run)
    model = load_trained(run)
    arrays = model.network.arrays()
    assert arrays["mixing_1.M"].shape == (3, 3)
    assert not np.allclose(arrays["mixing_1.t"], 0)  # it has learnt
    points = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
    again = load_trained(run / "model").network.predict(points)
    np.testing.assert_array_equal(again, model.network.predict(points))

    # counted before it is made, and told of in a summary
    assert (
        count_parameters([Hidden(4), Hidden(3, norm="mixing")], 2, 3) == len(network.parameters) == 12 + 15 + 12 + 12
    )
    assert re.search(r"mixing_1 \(Mixing, square\) +\(N, 3\) +12", network.summary())

    # drawn, and explained
    subject = load_subject(run)
    assert {"mixing_1.M", "mixing_1.t"} <= {
        node.label for node in trace_row(subject, 0, gradients=True, summary=False).nodes
    }
    rows = subject.only(0)
    shown = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    equations = {value.symbol: value.equation for value in shown.values}
    assert equations["y_h2"] == "z_h2 M_h2 + t_h2"
    assert equations["h2(x)"] == "tanh(y_h2)"
    gradients = {gradient.symbol: gradient for gradient in shown.gradients}
    assert gradients["M_h2"].equation == "z_h2ᵀ ∇y_h2"
    assert all(gradient.comparison.passed for gradient in shown.gradients)

    # exported, to be run without it
    compared, _ = export(run, tmp_path / "model.py")
    assert compared.difference <= compared.allowed
    assert "mixing_1.M" in (tmp_path / "model.py").read_text()

    # to other frameworks and back
    assert convert.write(network, "pytorch")["mixing_1.weight"].shape == (3, 3)
    np.testing.assert_array_equal(
        convert.write(network, "pytorch")["mixing_1.weight"], network.arrays()["mixing_1.M"].T
    )
    assert {"mixing_1/M", "mixing_1/shift"} <= convert.write(network, "keras").keys()
    for layout in convert.LAYOUTS:
        other = mlp([Hidden(4), Hidden(3, norm="mixing")], 3, "softmax").build(2, seed=1)
        convert.read(other, convert.write(network, layout), layout)
        for name, array in network.arrays().items():
            np.testing.assert_array_equal(other.arrays()[name], array)


def test_a_layer_that_is_gone_is_unknown_again(task: Callable[..., Loaded]) -> None:
    with pytest.raises(ConfigError, match="mixing"):
        task("model.norm=mixing")


def test_what_is_declared_is_what_is_made() -> None:
    for norm in ("none", *NORMS):
        hidden = [Hidden(5, norm=norm, dropout=0.5), Hidden(3), Hidden(4, norm=norm)]
        network = mlp(hidden, 2, "softmax")
        declared = {name: array.shape for name, array in network.declare(7).items()}
        network.build(7, backend=Backend())
        assert declared == {name: array.shape for name, array in network.arrays().items()}


# ---- what a change costs -----------------------------------------------------------------------------------------

COSTS = {
    "gelu": {"gpumlp/ops/activations.py", "kernels/gelu.cu"},
    "adagrad": {"gpumlp/ops/updates.py", "gpumlp/optim/optimizers.py", "kernels/adagrad.cu"},
    "absolute_error": {"gpumlp/ops/losses.py", "gpumlp/nn/losses.py", "kernels/absolute_error.cu"},
    "LayerNorm": {"gpumlp/nn/layers.py"},
    "one_cycle": {"gpumlp/optim/schedules.py"},
    "read_arff": {"gpumlp/data/source/arff.py", "gpumlp/data/source/read.py"},
    "yeo_johnson": {"gpumlp/data/encoding/transforms.py"},
}
"""The files of the product that know one of each kind: an activation, an optimizer, a loss and so on."""
ELSEWHERE = re.compile(r"gpumlp/(bench/peers|errors|sklearn|(\w+/)?__init__)\.py")
"""What PyTorch, scikit-learn and other libraries call them, and public names for type checkers.

None of which a new one needs.
"""


@pytest.mark.parametrize("name", COSTS)
def test_what_it_costs_to_add_one(name: str) -> None:
    """The table of docs/architecture.md: the files in which the name of an existing one is part of the program."""
    files = [
        path for top in ("gpumlp", "kernels") for path in (ROOT / top).rglob("*.*") if path.suffix in (".py", ".cu")
    ]
    knowing = {path.relative_to(ROOT).as_posix() for path in files if name in names_in(path)}
    assert {path for path in knowing if not ELSEWHERE.fullmatch(path)} == COSTS[name]


def test_the_table_of_costs_says_so() -> None:
    table = re.findall(r"^\| an? [\w ]+ \| (\d) \| `", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert [*map(int, table)] == [len(files) for files in COSTS.values()]


@cache
def names_in(path: Path) -> set[str]:
    """Return the names and the short texts that a program is made of, without comments and docstrings."""
    if path.suffix == ".cu":
        return {path.stem}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case (
                ast.Name(id=name)
                | ast.ClassDef(name=name)
                | ast.FunctionDef(name=name)
                | ast.alias(name=name)
                | ast.Attribute(attr=name)
            ):
                found.add(name)
            case ast.Constant(value=str(text)):
                found.add(text)
    return found

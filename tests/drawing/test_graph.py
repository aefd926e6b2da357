"""Tracing: what is drawn is what was computed, forward and back; in four formats, with what they need escaped."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support import BACKENDS

from gpumlp import backend as backends
from gpumlp.autodiff import FUSED, GradientTape, Tensor, Variable, concat, exp, gradcheck, mean, where
from gpumlp.drawing.diagram import DiagramNode, Edge, number, numbers
from gpumlp.drawing.graph import Graph, trace
from gpumlp.drawing.picture import Text, compose, text_width
from gpumlp.errors import ConfigError, RunError, TapeError
from gpumlp.nn import Dense, Loss, Model, Sequential
from gpumlp.optim import Optimizer

softmax, relu, squared_error = FUSED["softmax"], FUSED["relu"], FUSED["squared_error"]


def labels(graph: Graph, kind: str = "operation") -> list[str]:
    return [node.label for node in graph.nodes if node.kind == kind]


def check_gradients(graph: Graph) -> int:
    """What comes back along the edges that leave a node adds up to its gradient; return for how many nodes."""
    checked = 0
    for i, node in enumerate(graph.nodes):
        out = [edge for edge in graph.edges if edge.source == i]
        parts = [edge.gradient for edge in out if edge.gradient is not None]
        if node.gradient is None or not parts or any(e.flows and e.gradient is None for e in out):
            continue
        np.testing.assert_allclose(sum(parts), node.gradient, rtol=1e-10, atol=1e-14)
        checked += 1
    return checked


class Knot(Model):
    """Two inputs, a shared layer, a skip, two outputs."""

    def __init__(self) -> None:
        self.first, self.shared, self.classes, self.value = Dense(5, "relu"), Dense(5, "tanh"), Dense(3), Dense(1)

    def forward(self, *inputs: Tensor, training: bool = False) -> Tensor:
        x, z = inputs
        h = self.first(concat([x, z]))
        top = self.shared(self.shared(h)) + h
        self.number = self.value(top)
        return self.classes(concat([x, top]))


class TestTwoLayers:
    """The lecture's second tape example: relu(x W1 + b1) W2 + b2 through softmax."""

    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 3))
    W1, b1 = Variable(rng.standard_normal((3, 3))), Variable(np.zeros(3))
    W2, b2 = Variable(rng.standard_normal((3, 3)), name="second"), Variable(np.zeros(3))

    def graph(self, **options: Any) -> Graph:
        W1, b1, W2, b2 = self.W1, self.b1, self.W2, self.b2

        def f(x: Tensor) -> Tensor:
            return softmax(relu(x @ W1 + b1) @ W2 + b2)[:, 0]

        return trace(f, self.x, **options)

    def test_the_operations_are_those_of_the_formula(self) -> None:
        graph = self.graph()
        assert labels(graph) == ["·", "+", "relu", "·", "+", "softmax", "[ ]"]
        assert labels(graph, "input") == ["x"]
        assert labels(graph, "parameter") == ["W1", "b1", "second", "b2"]  # a tensor's own name, else the variable's
        assert labels(graph, "output") == ["output"]

    def test_values_and_gradients_are_those_of_the_tape(self) -> None:
        graph = self.graph()
        with GradientTape() as tape:
            y = softmax(relu(Tensor(self.x) @ self.W1 + self.b1) @ self.W2 + self.b2)[:, 0]
        gradients = tape.gradient(y, [self.W1, self.b1, self.W2, self.b2])
        leaves = [node for node in graph.nodes if node.kind == "parameter"]
        for leaf, variable, gradient in zip(leaves, (self.W1, self.b1, self.W2, self.b2), gradients, strict=True):
            assert gradient is not None
            np.testing.assert_array_equal(leaf.value, variable.numpy())
            np.testing.assert_array_equal(leaf.gradient, gradient.numpy())
        np.testing.assert_array_equal(graph.nodes[-1].value, y.numpy())
        assert check_gradients(graph) == len(graph.nodes) - 1

    def test_without_gradients_there_are_none(self) -> None:
        graph = self.graph(gradients=False)
        assert all(node.gradient is None for node in graph.nodes)
        assert not any(edge.flows for edge in graph.edges)

    def test_a_summary_has_a_box_for_each_layer(self) -> None:
        graph = self.graph(summary=True)
        assert labels(graph) == ["·, +, relu", "·, +, softmax, [ ]"]
        assert [node.note for node in graph.nodes[1:3]] == ["W1 (3 × 3), b1 (3)", "second (3 × 3), b2 (3)"]
        assert labels(graph, "parameter") == []
        assert len(graph.edges) == 3


@pytest.mark.parametrize("name", BACKENDS)
def test_a_fused_layer_is_drawn_as_its_formula(name: str) -> None:
    """What no kernel stores is computed for the drawing: x W, x W + b, and their gradients, checked by hand."""
    backend = backends.get(name)
    model = Sequential([Dense(4, "tanh"), Dense(3, "softmax")]).build(2, backend=backend, dtype=np.float64)
    loss = Loss("cross_entropy", model)
    x, y = np.array([[0.3, -0.7]]), np.array([2], np.int32)
    graph = trace(lambda x, y: loss(model.forward(x), y)[0], x, y, backend=backend)
    assert labels(graph) == ["·", "+", "tanh", "·", "+", "softmax", "cross-entropy"]
    W1, W2 = (model.parameters.variables[f"dense_{i}.W"].numpy() for i in (1, 2))
    b1, b2 = (model.parameters.variables[f"dense_{i}.b"].numpy() for i in (1, 2))
    z = x @ W1 + b1
    h = np.tanh(z)
    o = h @ W2 + b2
    f = np.exp(o) / np.exp(o).sum()
    by_label = {(node.label, str(node.note)): node for node in graph.nodes}
    assert by_label["f(x)", "1 × 3"].kind == "output"
    np.testing.assert_allclose(by_label["f(x)", "1 × 3"].value, f, rtol=1e-12)
    np.testing.assert_allclose(graph.nodes[-1].value, -np.log(f[0, 2]), rtol=1e-12)
    steps = [node for node in graph.nodes if node.kind == "operation"]
    for node, value in zip(steps, (x @ W1, z, h, h @ W2, o, f), strict=False):
        np.testing.assert_allclose(node.value, value, rtol=1e-12)
    into_softmax = next(e for e in graph.edges if graph.nodes[e.target].label == "softmax")
    (into_loss,) = (e for e in graph.edges if graph.nodes[e.source].label == "f(x)")
    assert into_loss.flows
    assert into_loss.gradient is None  # never formed
    dz_o = f - np.eye(3)[[2]]
    dz_h = (dz_o @ W2.T) * (1 - h * h)
    np.testing.assert_allclose(into_softmax.gradient, dz_o, rtol=1e-11)  # f(x) - e(y)
    np.testing.assert_allclose(steps[0].gradient, dz_h, rtol=1e-11)
    np.testing.assert_allclose(steps[1].gradient, dz_h, rtol=1e-11)
    np.testing.assert_allclose(steps[2].gradient, dz_o @ W2.T, rtol=1e-11)
    assert check_gradients(graph) >= 9


def knot(name: str, dtype: Any = np.float64) -> tuple[Knot, Callable[..., dict[str, Tensor]], list[Any]]:
    backend = backends.get(name)
    model = Knot().build(2, 3, backend=backend, dtype=dtype, seed=3)
    loss = Loss("cross_entropy", model)

    def losses(x: Tensor, z: Tensor, y: Tensor, t: Tensor) -> dict[str, Tensor]:
        outputs = model.forward(x, z)
        return {"class loss": loss(outputs, y)[0], "number loss": squared_error(model.number, t)}

    rng = np.random.default_rng(1)
    x, z, t = (rng.standard_normal((6, n)).astype(dtype) for n in (2, 3, 1))
    return model, losses, [x, z, rng.integers(0, 3, 6).astype(np.int32), t]


@pytest.mark.parametrize("name", BACKENDS)
class TestKnot:
    """A graph that is no chain: skip, shared weights, two inputs, two losses."""

    def test_it_is_drawn(self, name: str) -> None:
        model, losses, data = knot(name)
        graph = trace(losses, *data, backend=model.context.backend)
        assert labels(graph, "input") == ["x", "z", "y", "t"]
        assert labels(graph, "loss") == ["class loss", "number loss"]
        assert labels(graph, "output") == ["f₁(x)", "f₂(x)"]
        shared = [i for i, node in enumerate(graph.nodes) if node.label == "shared.W"]
        assert len(shared) == 1
        assert len([edge for edge in graph.edges if edge.source == shared[0]]) == 2
        relu_at = next(i for i, node in enumerate(graph.nodes) if node.label == "relu")
        assert len([edge for edge in graph.edges if edge.source == relu_at]) == 2
        assert check_gradients(graph) >= 20
        for options in ({}, {"values": True, "gradients": True}):
            ElementTree.fromstring(graph.svg(**options))

    def test_its_gradients_are_those_of_the_sum_of_the_losses(self, name: str) -> None:
        model, losses, data = knot(name)
        backend = model.context.backend
        graph = trace(losses, *data, backend=backend)
        with GradientTape() as tape:
            one, two = losses(*(Tensor(d, backend) for d in data)).values()
            total = one + two
        variables = model.parameters.variables
        for name_, gradient in zip(variables, tape.gradient(total, [*variables.values()]), strict=True):
            drawn = next(node for node in graph.nodes if node.label == name_)
            assert gradient is not None
            assert drawn.gradient is not None
            np.testing.assert_allclose(drawn.gradient, gradient.numpy(), rtol=1e-12, atol=1e-15)

    def test_its_gradients_agree_with_finite_differences(self, name: str) -> None:
        model, losses, (x, z, y, t) = knot(name)
        backend = model.context.backend
        fixed = [Tensor(y, backend), Tensor(t, backend)]

        def total(x: Tensor, z: Tensor) -> Tensor:
            one, two = losses(x, z, *fixed).values()
            return one + two

        gradcheck(total, [x, z], backend=backend)
        graph = trace(losses, x, z, y, t, backend=backend)
        found = {node.label: node.gradient for node in graph.nodes if node.kind == "parameter"}
        assert set(found) == set(model.parameters.variables)
        rng = np.random.default_rng(2)
        for key, variable in model.parameters.variables.items():
            kept, move = variable.numpy(), rng.standard_normal(variable.shape)
            sides = []
            for h in (1e-6, -1e-6):
                variable.assign(kept + h * move)
                sides.append(float(total(Tensor(x, backend), Tensor(z, backend))))
            variable.assign(kept)
            assert np.vdot(found[key], move) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-6, abs=1e-8)

    def test_it_trains(self, name: str) -> None:
        model, losses, data = knot(name, np.float32)
        backend = model.context.backend
        optimizer = Optimizer("adam", model.parameters, model.context.clock, learning_rate=0.02)
        tensors = [Tensor(d, backend) for d in data]
        backend.write(optimizer.rates, np.full(optimizer.rates.shape, 0.02, np.float32))

        def step() -> Tensor:
            with GradientTape() as tape:
                one, two = losses(*tensors).values()
                total = one + two
            model.parameters.collect(tape, total)
            optimizer.step()
            return total

        first = float(step())
        for _ in range(200):
            backend.write(model.context.clock, [0, 0, 0])
            last = float(step())
        assert last < 0.2 * first


def test_numbers_stand_in_the_operation_that_takes_them() -> None:
    x = Tensor(np.array([0.5, 2.0]), name="x")
    graph = trace(lambda x: 3.0 / (1 - 2 * x**2) + -x, x)
    assert labels(graph) == ["^ 2", "2 ·", "1 −", "3 ÷", "−", "+"]
    assert labels(graph, "constant") == []


def test_what_has_no_gradient_is_drawn_and_nothing_flows_back() -> None:
    graph = trace(lambda x: mean(where(x > 0.0, exp(x), 0.0)), np.array([-1.0, 0.5, 2.0]))
    assert labels(graph) == ["> 0", "exp", "where", "Σ", "· 0.333"]
    flows = {(graph.nodes[e.source].label, graph.nodes[e.target].label): e.flows for e in graph.edges}
    assert not flows["x", "> 0"]
    assert not flows["> 0", "where"]
    assert flows["exp", "where"]
    assert flows["x", "exp"]


def test_a_result_without_a_gradient_is_drawn() -> None:
    graph = trace(lambda x: x > 0.0, np.ones(2))
    assert labels(graph) == ["> 0"]
    assert not any(edge.flows for edge in graph.edges)


def test_an_operand_that_stands_twice_has_two_edges() -> None:
    graph = trace(lambda x: x * x, np.array(3.0))
    assert [(edge.source, edge.target) for edge in graph.edges] == [(0, 1), (0, 1), (1, 2)]
    assert graph.nodes[0].gradient == 6.0
    assert [float(edge.gradient) for edge in graph.edges[:2] if edge.gradient is not None] == [3.0, 3.0]


def test_several_losses_of_one_prediction_share_its_box() -> None:
    W = Variable(np.ones((2, 1)), name="W")

    def losses(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f = x @ W
        return squared_error(f, y), FUSED["absolute_error"](f, y)

    graph = trace(losses, np.ones((4, 2)), np.zeros((4, 1)))
    assert labels(graph, "output") == ["f(x)"]
    assert labels(graph, "loss") == ["loss 1", "loss 2"]
    into = next(e for e in graph.edges if graph.nodes[e.target].label == "f(x)")
    np.testing.assert_allclose(into.gradient, graph.nodes[into.source].gradient)


def test_what_leads_nowhere_is_left_out() -> None:
    def f(x: Tensor) -> Tensor:
        exp(x)
        return x + 1.0

    assert labels(trace(f, np.ones(3))) == ["+ 1"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [3, None, "text", [], {"a": 1.0}, np.ones(2)])
def test_a_function_must_return_tensors(returned: Any) -> None:
    with pytest.raises(TapeError, match=r"returned .*: there is no graph that leads there"):
        trace(lambda x: returned, np.ones(2))


def test_a_function_must_compute_something() -> None:
    with pytest.raises(TapeError, match="computes nothing from its inputs"):
        trace(lambda x: x, np.ones(2))


def long_chain(steps: int) -> Graph:
    def f(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = exp(x * 0.0)
        return x

    return trace(f, np.ones(2))


def test_a_summary_joins_no_operation_that_is_used_twice() -> None:
    def f(x: Tensor) -> Tensor:
        h = x + 1.0
        return exp(h * 2.0) + h

    assert labels(trace(f, np.ones(2), summary=True)) == ["+ 1", "· 2, exp", "+"]


def test_too_large_a_graph_is_refused_with_what_to_do() -> None:
    graph = long_chain(300)
    for draw in (graph.svg, graph.png, graph.mermaid):
        with pytest.raises(ConfigError, match=r"the graph has \d+ (boxes|edges)[^\0]*--summary"):
            draw()
    assert graph.dot().count("->") == 601


def test_too_large_a_summary_is_not_answered_with_a_summary() -> None:
    W = Variable(np.eye(2))

    def f(x: Tensor) -> Tensor:
        for _ in range(500):
            x = x @ W
        return x

    with pytest.raises(ConfigError, match=r"502 boxes[^\0]*\n  write it as .dot, which has no limit$"):
        trace(f, np.ones((1, 2)), summary=True).svg()


# ---- formats -------------------------------------------------------------------------------------

AWKWARD = 'a<b> & "c" `d` #e \\ é'


def awkward() -> Graph:
    x, W = Tensor(np.ones((1, 2)), name=AWKWARD), Variable(np.ones((2, 2)), name="W")
    return trace(lambda x: mean(x @ W), x)


def test_svg_is_xml_that_says_it_as_it_is() -> None:
    root = ElementTree.fromstring(awkward().svg(values=True, gradients=True))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert AWKWARD in texts
    assert "2 × 2" in texts


def test_svg_boxes_and_texts_lie_on_the_page() -> None:
    picture = compose(long_chain(100), values=True, gradients=True)
    for text in picture.texts:
        assert 0 < text.x < picture.width
        assert 0 < text.y < picture.height
    for curve in picture.curves:
        for x, y in (curve.start, *(point for step in curve.steps for point in step)):
            assert 0 < x < picture.width
            assert 0 < y < picture.height


@pytest.mark.parametrize("options", [{}, {"values": True}, {"values": True, "gradients": True}])
def test_texts_have_room(options: dict[str, bool]) -> None:
    """No text stands on another, or on a box that is not its own, and no line goes through one."""
    model, losses, data = knot("numpy")
    picture = compose(trace(losses, *data, backend=model.context.backend), **options)

    def extent(text: Text) -> tuple[float, float, float, float]:
        half = 0.9 * text_width(text.text, text.size) / 2
        return text.x - half, text.y - 0.5 * text.size, text.x + half, text.y + 0.5 * text.size

    def apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

    extents = [extent(text) for text in picture.texts]
    for one, two in itertools.combinations(extents, 2):
        assert apart(one, two)
    for box in picture.boxes:
        w, h = box.width / 2, box.height / 2
        room = (box.x - w, box.y - h, box.x + w, box.y + h)
        for x, y, x2, y2 in extents:
            inside = room[0] <= x and room[1] <= y and x2 <= room[2] and y2 <= room[3]
            assert inside or apart(room, (x, y, x2, y2))
    for curve in picture.curves:
        corners = [curve.start, *(step[-1] for step in curve.steps)]
        for (ax, ay), (bx, by) in itertools.pairwise(corners):
            line = (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
            assert ay != by or all(apart(line, text) for text in extents)  # those that are level


def test_red_is_only_where_gradients_were_asked_for() -> None:
    graph = awkward()
    assert "#c4161c" in graph.svg(gradients=True)
    assert "#c4161c" not in graph.svg(values=True)
    assert "constraint=false" in graph.dot(gradients=True)
    assert "linkStyle" in graph.mermaid(gradients=True)
    assert "linkStyle" not in graph.mermaid()


def test_dot_escapes_and_has_every_node_and_edge() -> None:
    graph = awkward()
    text = graph.dot(values=True, gradients=True)
    assert 'label="a<b> & \\"c\\" `d` #e \\\\ é\\n1 × 2\\n' in text
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert '"' not in unquoted
    assert unquoted.count("->") == len(graph.edges) + sum(edge.flows for edge in graph.edges)


def test_mermaid_escapes_and_numbers_its_red_links() -> None:
    graph = awkward()
    text = graph.mermaid(gradients=True)
    assert "a#lt;b#gt; & #quot;c#quot; #96;d#96; #35;e" in text
    links = [line for line in text.splitlines() if "-->" in line or "-.->" in line]
    red = re.search(r"linkStyle ([\d,]+)", text)
    assert red is not None
    assert [int(n) for n in red[1].split(",")] == [i for i, line in enumerate(links) if "-.->" in line]


def test_png_is_a_picture_of_the_same_size() -> None:
    pytest.importorskip("matplotlib")
    graph = awkward()
    drawn = graph.png(values=True, gradients=True)
    assert drawn.startswith(b"\x89PNG")
    width, height = (int.from_bytes(drawn[i : i + 4], "big") for i in (16, 20))
    picture = compose(graph, values=True, gradients=True)
    assert (width, height) == pytest.approx((picture.width * 1.5, picture.height * 1.5), abs=1)


def test_png_says_that_it_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunError, match=r"PNG needs matplotlib \(SVG does not\)\n  pip install 'gpumlp\[plot\]'"):
        awkward().png()


def test_numbers_are_told_shortly() -> None:
    assert number(np.float32(-0.123456)) == "−0.123"
    assert number(np.int32(7)) == "7"
    assert numbers(np.array(2.0)) == "2"
    assert numbers(np.array([1.0, -2.5])) == "(1, −2.5)"
    assert numbers(np.arange(4.0)) == "0 … 3"
    assert numbers(np.ones((3, 3))) == "all 1"
    assert numbers(np.array([np.nan, 1.0, 2.0, 3.0])) == "1 of 4 are NaN"
    assert numbers(np.empty((0, 2))) == "empty"


def test_a_graph_can_be_made_by_hand() -> None:
    graph = Graph((DiagramNode("input", "x"), DiagramNode("loss", "L")), (Edge(0, 1),))
    assert "L" in graph.svg()

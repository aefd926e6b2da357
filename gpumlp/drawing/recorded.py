"""From a tape to a diagram: what was recorded, in the symbols of a formula.

The tape records fused operations. A reader wants to see what they are made of, so a dense layer is drawn as a
product, a sum and an activation, and a loss that is computed from linear values as the link, the prediction f(x)
and the loss itself. What lies between them no kernel ever stores; it is computed here for the drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Node, Tensor
from gpumlp.autodiff.fused import DenseOf
from gpumlp.backend import Backend
from gpumlp.drawing import diagram
from gpumlp.drawing.diagram import Diagram, Edge, Kind, Values, number, shape_text
from gpumlp.ops import ACTIVATIONS, Activation
from gpumlp.ops.losses import Loss

SYMBOLS = {
    "add": "+",
    "sub": "−",
    "mul": "⊙",
    "div": "÷",
    "matmul": "·",
    "sum": "Σ",
    "sqrt": "√",
    "transpose": "ᵀ",
    "slice": "[ ]",
    "abs": "|·|",
    "maximum": "max",
    "minimum": "min",
    "greater": ">",
    "greater_equal": "≥",
    "cross_entropy": "cross-entropy",
}
"""How operations are written; all others go by their names."""

AFTER = {"mul": "· {}", "div": "÷ {}", "power": "^ {}"}
BEFORE = {"mul": "{} ·", "div": "{} ÷", "power": "{} ^"}
"""How an operation with one number is written, by the side on which the number stands."""

LOSS_INPUTS = ("targets", "row weights", "class weights")
PREDICTION = "f(x)"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

Results = Mapping[str, Tensor]
Gradients = dict[int, Tensor]
"""The gradients of tensors, by identity."""


def read_tape(
    tape: GradientTape, results: Results, names: Mapping[int, str], *, gradients: bool, fused: bool
) -> Diagram:
    """Return the diagram of all that led to the results.

    ``names`` are those of the inputs, by identity. With ``gradients`` the tape, which must be persistent, is walked
    back from the scalar results, or from all where none is scalar. ``fused`` leaves dense layers in one piece.

    Raises TapeError where a gradient is asked for that there is none of.
    """
    nodes = _leading_to(tape.nodes, results.values())
    slopes = _gradients(tape, nodes, list(results.values())) if gradients else {}
    reader = _Reader(results, names, slopes, fused=fused)
    for result in results.values():
        if not any(node.output is result for node in nodes):
            reader.node_of(result)
    for node in nodes:
        reader.read(node)
    return Diagram(_numbered(reader.nodes), tuple(reader.edges))


def _numbered(nodes: Sequence[diagram.DiagramNode]) -> tuple[diagram.DiagramNode, ...]:
    """Tell the predictions apart where there are several: f1(x), f2(x)."""
    positions = [i for i, node in enumerate(nodes) if node.label == PREDICTION]
    named = {at: f"f{number}(x)".translate(SUBSCRIPTS) for number, at in enumerate(positions, 1)}
    if len(named) < 2:
        return tuple(nodes)
    return tuple(replace(node, label=named.get(i, node.label)) for i, node in enumerate(nodes))


def _leading_to(nodes: Sequence[Node], results: Iterable[Tensor]) -> list[Node]:
    needed = {id(result) for result in results}
    leading = []
    for node in reversed(nodes):
        if id(node.output) in needed:
            needed |= {id(value) for value in node.inputs}
            leading.append(node)
    return leading[::-1]


def _gradients(tape: GradientTape, nodes: Sequence[Node], results: Sequence[Tensor]) -> Gradients:
    """Return the gradients of the sum of the scalar results (or of all) with respect to every value on the way."""
    fixed = {id(value) for node in nodes if isinstance(node.op, Loss) for value in node.inputs[1:]}
    values = {id(v): v for node in nodes for v in (*node.inputs, node.output) if id(v) not in fixed}
    sources = [v for v in values.values() if isinstance(v, Tensor) and tape.tracks(v) and v.differentiable]
    gradients: Gradients = {}
    ends = [result for result in results if result.differentiable]
    for result in [end for end in ends if end.shape == ()] or ends:
        for source, part in zip(sources, tape.gradient(result, sources), strict=True):
            if part is not None:
                gradients[id(source)] = gradients[id(source)] + part if id(source) in gradients else part
    return gradients


class _Reader:
    """Turns what was recorded into nodes and edges, one after the other."""

    def __init__(self, results: Results, names: Mapping[int, str], gradients: Gradients, *, fused: bool) -> None:
        self.results = {id(tensor): name for name, tensor in results.items()}
        self.names, self.gradients, self.fused = names, gradients, fused
        self.nodes: list[diagram.DiagramNode] = []
        self.edges: list[Edge] = []
        self._places: dict[int, int] = {}  # the node that stands for a value, by identity
        self._predictions: dict[tuple[int, str], tuple[int, int]] = {}
        self._backend = next(iter(results.values())).backend

    def read(self, node: Node) -> None:
        """Draw one recorded operation."""
        match node.op:
            case Loss() as loss:
                self._read_loss(node, loss.link)
            case DenseOf(activation) if not self.fused:
                self._read_dense(node, activation)
            case _:
                sources = [self.node_of(value) for value in node.inputs if not is_number(value)]
                self._operation(node, symbol(node), sources)

    # ---- nodes -----------------------------------------------------------------------------------

    def node_of(self, value: Any, role: str = "") -> int:
        """Return the node of a value; one that nothing computed gets a leaf."""
        if id(value) not in self._places:
            kind: Kind = "constant"
            if getattr(value, "is_variable", False):
                kind = "parameter"
            elif id(value) in self.names:
                kind = "input"
            label = getattr(value, "name", "") or self.names.get(id(value)) or role or kind
            host = _host(value, self._backend)
            leaf = self._add(kind, label, f"{kind} {label}", host, gradient=self._gradient(value))
            self._keep(value, leaf)
        return self._places[id(value)]

    def _add(self, kind: Kind, label: str, name: str, value: Values, *, gradient: Values | None) -> int:
        self.nodes.append(diagram.DiagramNode(kind, label, name, shape_text(value), value, gradient))
        return len(self.nodes) - 1

    def _keep(self, value: Any, node: int) -> None:
        """Remember the node of a value; behind the one of a result stands a box that says so."""
        if id(value) in self.results:
            scalar = value.shape == ()
            name = self.results[id(value)]
            host, gradient = value.numpy(), self._gradient(value)
            box = self._add("loss" if scalar else "output", name, name, host, gradient=gradient)
            self._connect(node, box, gradient)
            node = box
        self._places[id(value)] = node

    def _connect(self, source: int, target: int, gradient: Values | None, *, flows: bool = False) -> None:
        self.edges.append(Edge(source, target, flows or gradient is not None, gradient))

    def _gradient(self, value: Any) -> Values | None:
        gradient = self.gradients.get(id(value))
        return None if gradient is None else gradient.numpy()

    def _parts(self, node: Node) -> list[Values | None]:
        """Return what the node contributes to the gradient of each of its inputs."""
        g = self.gradients.get(id(node.output))
        wants = [id(value) in self.gradients for value in node.inputs]
        if g is None or not any(wants):
            return [None] * len(node.inputs)
        return [None if part is None else part.numpy() for part in node.rule(g, wants)]

    def _operation(self, node: Node, label: str, sources: Sequence[int]) -> None:
        parts = [p for v, p in zip(node.inputs, self._parts(node), strict=True) if not is_number(v)]
        output = node.output
        at = self._add("operation", label, node.name, _host(output, self._backend), gradient=self._gradient(output))
        if isinstance(node.op, DenseOf):
            self.nodes[at] = replace(self.nodes[at], layer=layer_formula(node.op.activation))
        for source, part in zip(sources, parts, strict=True):
            self._connect(source, at, part)
        self._keep(output, at)

    # ---- fused operations, taken apart -----------------------------------------------------------

    def _read_dense(self, node: Node, activation: Activation) -> None:
        """Draw f(x W + b) as a product, a sum and f."""
        x, W, b = (_host(value, self._backend) for value in node.inputs)
        of_x, of_W, of_b = self._parts(node)
        product = x @ W
        linear = product + b
        y, dy = _host(node.output, self._backend), self._gradient(node.output)
        dz = dy
        if dy is not None and activation.name != "identity":
            saved = y if activation.saves == "output" else linear
            (dz,) = activation.directions["backward"].formula(np, saved, dy)
        sources = [self.node_of(value) for value in node.inputs[:2]]
        at = self._add("operation", SYMBOLS["matmul"], "matmul", product, gradient=dz)
        for source, part in zip(sources, (of_x, of_W), strict=True):
            self._connect(source, at, part)
        bias = self.node_of(node.inputs[2])
        added = self._add("operation", SYMBOLS["add"], "add", linear, gradient=dz)
        self._connect(at, added, dz)
        self._connect(bias, added, of_b)
        if activation.name != "identity":
            at, added = added, self._add("operation", written(activation.name), activation.name, y, gradient=dy)
            self._connect(at, added, dz)
        self._keep(node.output, added)

    def _read_loss(self, node: Node, link: str) -> None:
        """Draw a loss of linear values as the link, the prediction f(x) and the loss of that."""
        part = self._parts(node)[0]
        prediction = self._prediction(node.inputs[0], link, part)
        roles = zip(LOSS_INPUTS, node.inputs[1:], strict=True)
        others = [self.node_of(value, role) for role, value in roles if value is not None]
        label = written(node.name.removeprefix("softmax_").removeprefix("binary_"))  # the link is drawn by itself
        loss = self._gradient(node.output)
        at = self._add("operation", label, node.name, _host(node.output, self._backend), gradient=loss)
        # With a link, the gradient of f(x) is never formed: it goes from the loss to the linear values in one step.
        self._connect(prediction, at, part if link == "identity" else None, flows=part is not None)
        for other in others:
            self._connect(other, at, None)
        self._keep(node.output, at)

    def _prediction(self, outputs: Tensor, link: str, gradient: Values | None) -> int:
        """Return the node of f(x), the link of some linear values, drawn once."""
        before = self.node_of(outputs)
        if link == "identity" and id(outputs) in self.results:
            return before
        key = id(outputs), link
        if key not in self._predictions:
            value = outputs.numpy()
            edge_index = len(self.edges)  # the edge with the gradient of the linear values
            if link != "identity":
                value = ACTIVATIONS[link].function(np, value)
                at = self._add("operation", written(link), link, value, gradient=None)
                self._connect(before, at, gradient)
                before = at
            box = self._add("output", PREDICTION, "the prediction", value, gradient=None)
            self._connect(before, box, gradient if link == "identity" else None, flows=gradient is not None)
            self._predictions[key] = box, edge_index
            return box
        box, edge_index = self._predictions[key]
        edge = self.edges[edge_index]
        if gradient is not None and edge.gradient is not None:  # of another loss: what comes back is the sum
            self.edges[edge_index] = replace(edge, gradient=edge.gradient + gradient)
        return box


def symbol(node: Node) -> str:
    """Return how a recorded operation is written, with the number that is one of its operands if there is one."""
    sides = [value for value in node.inputs if is_number(value) and value is not None]
    if len(node.inputs) == 2 and len(sides) == 1:
        value = float(sides[0])
        left = is_number(node.inputs[0])
        if node.name == "mul" and value == -1.0:
            return "−"
        pattern = (BEFORE if left else AFTER).get(node.name)
        shown = number(value)
        plain = f"{{}} {written(node.name)}" if left else f"{written(node.name)} {{}}"
        return (pattern or plain).format(shown)
    return written(node.name)


def layer_formula(activation: Activation) -> str:
    """Return how a dense layer is written that is drawn as one box."""
    return "x W + b" if activation.name == "identity" else f"{written(activation.name)}(x W + b)"


def written(name: str) -> str:
    """Return how an operation is written: its symbol, or else its name."""
    return SYMBOLS.get(name, name.replace("_", " "))


def is_number(value: Any) -> bool:
    """Return whether an operand is a plain number, or left out: neither gets an arrow."""
    return value is None or isinstance(value, bool | int | float | np.generic)


def _host(value: Any, backend: Backend) -> Values:
    """Return a copy on the host of a tensor, of an array of the backend, or of anything that makes an array."""
    if isinstance(value, Tensor):
        return value.numpy()
    return backend.to_host(value) if backend.owns(value) else np.asarray(value)

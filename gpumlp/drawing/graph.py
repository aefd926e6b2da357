"""The graph of a computation: traced by running it once, drawn in four formats.

from gpumlp.drawing.graph import trace

graph = trace(lambda x: softmax(x @ W + b), x)
graph.svg(values=True, gradients=True)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from gpumlp.autodiff import GradientTape, Tensor
from gpumlp.backend import Backend
from gpumlp.drawing.diagram import Diagram
from gpumlp.drawing.notation import to_dot, to_mermaid
from gpumlp.drawing.picture import compose
from gpumlp.drawing.png import to_png
from gpumlp.drawing.recorded import read_tape
from gpumlp.drawing.summary import summarised
from gpumlp.drawing.svg import to_svg
from gpumlp.errors import TapeError


class Graph(Diagram):
    """A diagram that can be written. ``values`` shows numbers in the boxes, ``gradients`` those flowing back, in red.

    An array of more than three numbers is shown as its smallest and its largest.
    """

    def svg(self, *, values: bool = False, gradients: bool = False) -> str:
        """Return an SVG document. Raises ConfigError where the graph is too large to be read."""
        return to_svg(compose(self, values=values, gradients=gradients))

    def png(self, *, values: bool = False, gradients: bool = False) -> bytes:
        """Return a PNG file, drawn by matplotlib. Raises as :meth:`svg` does, and RunError without matplotlib."""
        return to_png(compose(self, values=values, gradients=gradients))

    def dot(self, *, values: bool = False, gradients: bool = False) -> str:
        """Return the graph in the language of Graphviz."""
        return to_dot(self, values=values, gradients=gradients)

    def mermaid(self, *, values: bool = False, gradients: bool = False) -> str:
        """Return the graph in the language of Mermaid. Raises ConfigError where it is too large for that."""
        return to_mermaid(self, values=values, gradients=gradients)


def trace(
    function: Callable[..., Any],
    *inputs: Any,
    backend: Backend | None = None,
    gradients: bool = True,
    summary: bool = False,
) -> Graph:
    """Run ``function(*inputs)`` under a tape and return what it computed as a graph.

    The function returns a tensor, or several in a tuple, a list or a dict. Inputs are tensors, or arrays, which are
    put on ``backend``. Tensors that it finds outside of itself count as inputs, too. Names are those of the tensors,
    of the function's arguments, or of its variables. ``gradients`` are those of the sum of the scalar results, or of
    all results where none is scalar. A ``summary`` has one box for each layer.

    Raises TapeError where the function returns something else, or where nothing was recorded.
    """
    tensors = [value if isinstance(value, Tensor) else Tensor(value, backend) for value in inputs]
    named_arguments = zip(_arguments(function), tensors, strict=False)
    names = {id(value): name for name, value in (*_around(function), *_outside(function), *named_arguments)}
    with GradientTape(persistent=True) as tape:
        tape.watch(*tensors, *(value for _, value in _outside(function) if isinstance(value, Tensor)))
        returned = function(*tensors)
    results = results_of(function, returned)
    if not tape.nodes:
        raise TapeError(f"{_name(function)} computes nothing from its inputs that a tape could record")
    diagram = read_tape(tape, results, names, gradients=gradients, fused=summary)
    if summary:
        diagram = summarised(diagram)
    return Graph(diagram.nodes, diagram.edges, summary)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _around(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Return the tensors and arrays of the function's module: what it calls may use them."""
    return [(k, v) for k, v in getattr(function, "__globals__", {}).items() if hasattr(v, "dtype")]


def _outside(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Return the tensors and arrays that a function refers to without being given them, with their names."""
    if not inspect.isfunction(function):
        return []
    variables = inspect.getclosurevars(function)
    return [(k, v) for k, v in {**variables.globals, **variables.nonlocals}.items() if hasattr(v, "dtype")]


def _arguments(function: Callable[..., Any]) -> Iterator[str]:
    """Return names for the inputs: those of the arguments where they can be known."""
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = [p.name for p in inspect.signature(function).parameters.values() if p.kind in named]
    except (TypeError, ValueError):
        parameters = []
    yield from parameters
    number = len(parameters)
    while True:
        number += 1
        yield f"x{number}"


def results_of(function: Callable[..., Any], returned: Any) -> dict[str, Tensor]:
    """Return the tensors that a function returned, by name. Raises TapeError where it is something else."""
    if isinstance(returned, Tensor):
        return {"loss" if returned.shape == () else "output": returned}
    named: dict[str, Any] = {}
    if isinstance(returned, dict):
        named = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, list | tuple):
        roles = ["loss" if getattr(value, "shape", None) == () else "output" for value in returned]
        for i, (role, value) in enumerate(zip(roles, returned, strict=True)):
            named[role if roles.count(role) == 1 else f"{role} {roles[: i + 1].count(role)}"] = value
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        kinds = ", ".join(sorted({type(v).__name__ for v in named.values()})) or type(returned).__name__
        raise TapeError(
            f"{_name(function)} returned {kinds}: there is no graph that leads there",
            hint="return a tensor, or several in a tuple, a list or a dict",
        )
    return named

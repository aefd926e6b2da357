"""What a drawing of a computation shows: boxes, arrows between them, and the numbers that stand with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Values = np.ndarray[Any, Any]
Kind = Literal["input", "parameter", "constant", "operation", "output", "loss", "call"]

FEW = 3  # numbers that are shown one by one


@dataclass(frozen=True, eq=False)
class DiagramNode:
    """A box: a leaf of the graph, an operation, or a result.

    ``label`` is a symbol or a short name, ``name`` says in words what it is, ``note`` stands below. ``gradient`` is
    that of all losses with respect to ``value``. A call takes ``seconds`` and, of all calls, a ``share`` from 0 to 1.
    ``layer`` is the formula of a layer that was left in one piece, empty elsewhere.
    """

    kind: Kind
    label: str
    name: str = ""
    note: str = ""
    value: Values | None = None
    gradient: Values | None = None
    seconds: float = 0.0
    share: float | None = None
    layer: str = ""

    @property
    def is_leaf(self) -> bool:
        """Whether nothing in the diagram leads to it."""
        return self.kind in ("input", "parameter", "constant")


@dataclass(frozen=True, eq=False)
class Edge:
    """An arrow from one node to another, by number. Nodes are in the order of their computation.

    ``flows`` tells that a gradient comes back along it; ``gradient`` is what the target contributes to that of the
    source, None where the two are computed in one kernel that never forms it.
    """

    source: int
    target: int
    flows: bool = False
    gradient: Values | None = None


@dataclass(frozen=True, eq=False)
class Diagram:
    """Nodes, and edges that each lead to a later node. ``summary`` tells that there is none in fewer boxes."""

    nodes: tuple[DiagramNode, ...]
    edges: tuple[Edge, ...]
    summary: bool = False

    @property
    def way_out(self) -> str:
        """What to do where this is too large to be drawn."""
        dot = "write it as .dot, which has no limit"
        return dot if self.summary else f"ask for its summary (--summary, or trace(..., summary=True)), or {dot}"


def captions(node: DiagramNode, *, values: bool, gradients: bool) -> list[tuple[str, bool]]:
    """Return the lines that stand with a node, each with whether it tells a gradient."""
    lines = [] if not node.note else [(node.note, False)]
    if values and node.value is not None:
        lines.append((numbers(node.value), False))
    if gradients and node.is_leaf and node.gradient is not None:
        lines.append((f"∇ {numbers(node.gradient)}", True))
    if node.share is not None:
        lines.append((f"{1e6 * node.seconds:.1f} µs, {100 * node.share:.1f} %", False))
    return lines


def numbers(array: Values) -> str:
    """Return the numbers of an array: each of a few, else the smallest and the largest."""
    flat = array.ravel()
    if flat.size == 0:
        return "empty"
    if flat.size == 1:
        return number(flat[0])
    if flat.size <= FEW:
        return f"({', '.join(map(number, flat))})"
    unknown = int(np.isnan(flat).sum()) if flat.dtype.kind == "f" else 0
    if unknown:
        return f"{unknown} of {flat.size} are NaN"
    least, most = number(flat.min()), number(flat.max())
    return f"all {least}" if least == most else f"{least} … {most}"


def number(value: Any) -> str:
    """Return a number with three figures."""
    text = f"{value:.3g}" if np.asarray(value).dtype.kind == "f" else str(value)
    return text.replace("-", "−")


def shape_text(array: Values) -> str:
    """Return a shape as one writes it, and nothing for a scalar."""
    return " × ".join(map(str, array.shape))

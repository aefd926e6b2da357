"""A diagram in few boxes: one for each layer, one for each run of operations between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpumlp.drawing.diagram import Diagram, DiagramNode, Edge

SHORT = 24  # characters in which the operations of a run are written out
STARTS = ("matmul",)  # where a layer that is written out begins


def summarised(diagram: Diagram) -> Diagram:
    """Return the diagram with parameters and constants inside of what uses them, and runs of operations joined.

    It is meant for a diagram in which fused operations were left as they were recorded.
    """
    inside = {e.source for e in diagram.edges if diagram.nodes[e.source].kind in ("parameter", "constant")}
    owned: dict[int, list[DiagramNode]] = {}
    for edge in diagram.edges:
        leaf = diagram.nodes[edge.source]
        if leaf.kind == "parameter":
            owned.setdefault(edge.target, []).append(leaf)
    edges = [e for e in diagram.edges if e.source not in inside]
    runs = _runs(diagram.nodes, edges, inside)
    group_of = {i: at for at, run in enumerate(runs) for i in run}
    nodes = [_joined([diagram.nodes[i] for i in run], [p for i in run for p in owned.get(i, ())]) for run in runs]
    outer = [replace(e, source=group_of[e.source], target=group_of[e.target]) for e in edges]
    return Diagram(tuple(nodes), tuple(e for e in outer if e.source != e.target))


def _runs(nodes: Sequence[DiagramNode], edges: Sequence[Edge], left_out: set[int]) -> list[list[int]]:
    """Return the nodes in runs: operations that follow each other with no other way in or out."""
    into: dict[int, list[int]] = {}
    out: dict[int, list[int]] = {}
    for edge in edges:
        into.setdefault(edge.target, []).append(edge.source)
        out.setdefault(edge.source, []).append(edge.target)
    runs: list[list[int]] = []
    run_of: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        if i in left_out:
            continue
        before = into.get(i, [])
        joins = len(before) == 1 and _continues(node) and _is_open(nodes[before[0]]) and len(out[before[0]]) == 1
        if joins:
            run_of[i] = run_of[before[0]]
            run_of[i].append(i)
        else:
            run_of[i] = [i]
            runs.append(run_of[i])
    return runs


def _is_open(node: DiagramNode) -> bool:
    return node.kind == "operation" and not node.layer


def _continues(node: DiagramNode) -> bool:
    return _is_open(node) and node.name not in STARTS


def _joined(run: Sequence[DiagramNode], parameters: Sequence[DiagramNode]) -> DiagramNode:
    """Return one node for a run: what its last holds, the names of all, the parameters of all."""
    names = ", ".join(node.layer or node.label for node in run)
    label = names if len(names) <= SHORT else f"{len(run)} operations"
    # A parameter that stands in two operations is told once.
    note = ", ".join(dict.fromkeys(f"{p.label} ({p.note})" for p in parameters)) or run[-1].note
    return replace(run[-1], label=label, name=names, note=note)

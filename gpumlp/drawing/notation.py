"""A diagram as the text of other tools: Graphviz (dot) and Mermaid, which lay it out themselves."""

from __future__ import annotations

from collections.abc import Callable

from gpumlp.drawing.diagram import Diagram, DiagramNode, Kind, captions, numbers
from gpumlp.drawing.picture import FILLS, INK, RED, fill_of
from gpumlp.errors import ConfigError

MOST_EDGES = 500  # that Mermaid draws unless its settings say otherwise

SHAPES: dict[Kind, str] = {
    "input": "box, style=\"rounded,filled\"",
    "parameter": "box, style=filled",
    "constant": "box, style=filled",
    "operation": "ellipse, style=filled",
    "output": "box, peripheries=2, style=\"rounded,filled\"",
    "loss": "hexagon, style=filled",
    "call": "box, style=\"rounded,filled\"",
}  # fmt: skip

BRACKETS: dict[Kind, tuple[str, str]] = {
    "input": ("(", ")"),
    "parameter": ("[", "]"),
    "constant": ("[", "]"),
    "operation": ("([", "])"),
    "output": ("[[", "]]"),
    "loss": ("{{", "}}"),
    "call": ("(", ")"),
}


def to_dot(diagram: Diagram, *, values: bool = False, gradients: bool = False) -> str:
    """Return the diagram in the language of Graphviz. A gradient is a red edge that does not bear on the layout."""
    lines = ["digraph gpumlp {", '  rankdir=LR; node [fontname="DejaVu Sans"]; edge [fontname="DejaVu Sans"];']
    for i, node in enumerate(diagram.nodes):
        text = _label(node, _escaped_for_dot, "\\n", values=values, gradients=gradients)
        look = f'shape={SHAPES[node.kind]}, fillcolor="{fill_of(node)}", color="{INK}"'
        lines.append(f'  n{i} [label="{text}", tooltip="{_escaped_for_dot(node.name)}", {look}];')
    for edge in diagram.edges:
        lines.append(f"  n{edge.source} -> n{edge.target};")
        if gradients and edge.flows:
            text = "" if edge.gradient is None else numbers(edge.gradient)
            look = f'color="{RED}", fontcolor="{RED}", constraint=false'
            lines.append(f'  n{edge.target} -> n{edge.source} [label="{text}", {look}];')
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(diagram: Diagram, *, values: bool = False, gradients: bool = False) -> str:
    """Return the diagram in the language of Mermaid, which GitHub draws inside of Markdown.

    Raises ConfigError where it has more edges than Mermaid takes.
    """
    if len(diagram.edges) > MOST_EDGES:
        raise ConfigError(
            f"the graph has {len(diagram.edges):,} edges; Mermaid draws up to {MOST_EDGES}",
            hint=diagram.way_out,
        )
    lines = ["flowchart LR"]
    for i, node in enumerate(diagram.nodes):
        opening, closing = BRACKETS[node.kind]
        text = _label(node, _escaped_for_mermaid, "<br/>", values=values, gradients=gradients)
        lines.append(f'  n{i}{opening}"{text}"{closing}:::{node.kind}Box')
        if node.share is not None:
            lines.append(f"  style n{i} fill:{fill_of(node)}")
    red, drawn = [], 0
    for edge in diagram.edges:
        lines.append(f"  n{edge.source} --> n{edge.target}")
        drawn += 1
        if gradients and edge.flows:
            text = "" if edge.gradient is None else f'|"{numbers(edge.gradient)}"|'
            lines.append(f"  n{edge.target} -.->{text} n{edge.source}")
            red.append(str(drawn))
            drawn += 1
    if red:
        lines.append(f"  linkStyle {','.join(red)} stroke:{RED},color:{RED}")
    kinds = dict.fromkeys(node.kind for node in diagram.nodes)
    # A class by the name of the kind alone would not do: "call" is a word of the language.
    lines += [f"  classDef {kind}Box fill:{FILLS[kind]},stroke:{INK},color:{INK}" for kind in kinds]
    return "\n".join(lines) + "\n"


def _label(
    node: DiagramNode, escaped: Callable[[str], str], line_break: str, *, values: bool, gradients: bool
) -> str:
    lines = [node.label, *(text for text, _ in captions(node, values=values, gradients=gradients))]
    return line_break.join(escaped(line) for line in lines)


def _escaped_for_dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _escaped_for_mermaid(text: str) -> str:
    """Quoted text may hold anything but quotes, which end it, and what HTML would read."""
    for mark, code in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("`", "#96;"), ("\n", " ")):
        text = text.replace(mark, code)
    return text

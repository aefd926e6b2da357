"""Draw the picture of docs/architecture.md, docs/architecture.svg, from the imports: python docs/architecture.py."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rooms import rooms_below  # noqa: E402

from gpumlp.drawing.diagram import DiagramNode, Edge  # noqa: E402
from gpumlp.drawing.graph import Graph  # noqa: E402

PICTURE = Path(__file__).with_suffix(".svg")
LEFT_OUT = ("__init__", "__main__")
"""What is a name or a door, and no room."""


def drawn(below: dict[str, set[str]]) -> str:
    """Return the rooms, each behind those that it imports from; an arrow that others imply is left out."""
    below = {name: others - {*LEFT_OUT} for name, others in below.items() if name not in LEFT_OUT}
    reached: dict[str, set[str]] = {}

    def all_below(name: str) -> set[str]:
        if name not in reached:
            reached[name] = below[name].union(*map(all_below, below[name]))
        return reached[name]

    order = sorted(below, key=lambda name: (len(all_below(name)), name))
    index = {name: at for at, name in enumerate(order)}
    edges = [
        Edge(index[other], index[name])
        for name in order
        for other in sorted(below[name])
        if not any(other in all_below(between) for between in below[name])
    ]
    return Graph(tuple(DiagramNode("operation", name, name) for name in order), tuple(edges)).svg()


if __name__ == "__main__":
    PICTURE.write_text(drawn(rooms_below()), encoding="utf-8")

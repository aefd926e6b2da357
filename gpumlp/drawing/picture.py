"""A diagram as shapes, lines and texts in their places: what every drawn format is made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gpumlp.drawing.diagram import Diagram, DiagramNode, Edge, Kind, captions, numbers
from gpumlp.drawing.layout import Layout, Link, Point, Route, Size, Step, arrange
from gpumlp.errors import ConfigError

LARGEST = 400  # boxes that can be told apart in one picture
SYMBOL, SIGN, TEXT = 14.0, 19.0, 10.0  # sizes of letters in pixels: of labels, of single signs, of captions
LINE = 13.0  # from one line of text to the next
LETTER = 0.62  # the width of a letter of DejaVu Sans or Verdana, on average, in units of its size
MIDDLE = 0.35  # from the middle of a line of text down to its base, in units of its size
MARGIN = 20.0
STROKE = 1.2
BACK = 6.0  # how far below an arrow its gradient comes back
HEAD = 6.0  # the length of an arrow's head
INNER = 3.0  # from the outer outline of a double box to the inner
SLANT = 10.0  # of the sides of a hexagon
ROUND = {"round": 10.0, "rectangle": 2.0, "double": 7.0}  # radii of corners; those of a pill are half its height

Form = Literal["round", "rectangle", "pill", "double", "hexagon"]
FORMS: dict[Kind, Form] = {
    "input": "round",
    "parameter": "rectangle",
    "constant": "rectangle",
    "operation": "pill",
    "output": "double",
    "loss": "hexagon",
    "call": "round",
}
FILLS: dict[Kind, str] = {  # after Okabe and Ito, lightened: told apart by colour-blind readers, too
    "input": "#cfe8f7",
    "parameter": "#fbe3b3",
    "constant": "#ececec",
    "operation": "#ffffff",
    "output": "#c8ebdd",
    "loss": "#f6d3e4",
    "call": "#ffffff",
}
INK, SOFT, RED = "#222222", "#666666", "#c4161c"
HOT = (213, 94, 0)  # the fill of a call that takes all the time of a step


@dataclass(frozen=True)
class Box:
    """A shape about a centre. ``about`` is a longer text for who points at it."""

    form: Form
    x: float
    y: float
    width: float
    height: float
    fill: str
    about: str

    def outlines(self) -> Iterator[tuple[Point, tuple[Step, ...]]]:
        """Return the closed lines about the shape: where each starts, and its steps."""
        w, h = self.width / 2, self.height / 2
        if self.form == "hexagon":
            corners = [(-w + SLANT, -h), (w - SLANT, -h), (w, 0.0), (w - SLANT, h), (-w + SLANT, h), (-w, 0.0)]
            points = [(self.x + dx, self.y + dy) for dx, dy in corners]
            yield points[-1], tuple((point,) for point in points)
            return
        yield self._rounded(w, h, ROUND.get(self.form, h))
        if self.form == "double":
            yield self._rounded(w - INNER, h - INNER, ROUND["double"] - INNER)

    def _rounded(self, w: float, h: float, radius: float) -> tuple[Point, tuple[Step, ...]]:
        steps: list[Step] = []
        k = radius * (1.0 - 0.5523)  # the control points of a cubic that is a quarter of a circle to 1 in 4000
        for sx, sy in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
            cx, cy = self.x + sx * w, self.y + sy * h
            beside, upright = (cx - sx * radius, cy), (cx, cy - sy * radius)
            near, far = (cx - sx * k, cy), (cx, cy - sy * k)
            if sx == -sy:
                steps += [(beside,), (near, far, upright)]
            else:
                steps += [(upright,), (far, near, beside)]
        return steps[-1][-1], tuple(steps)


@dataclass(frozen=True)
class Curve:
    """A line with a head at its end, or at its start if it goes back."""

    start: Point
    steps: tuple[Step, ...]
    colour: str
    back: bool = False

    @property
    def head(self) -> tuple[Point, Point, Point]:
        """The corners of the head, which points right, or left on its way back: lines leave and enter level."""
        (x, y), way = (self.start, -1.0) if self.back else (self.steps[-1][-1], 1.0)
        return (x, y), (x - way * HEAD, y - HEAD / 2), (x - way * HEAD, y + HEAD / 2)


@dataclass(frozen=True)
class Text:
    """A line of text, centred about its middle."""

    x: float
    y: float
    text: str
    size: float
    colour: str


@dataclass(frozen=True)
class Picture:
    """All there is to draw, in this order, in pixels."""

    width: float
    height: float
    curves: tuple[Curve, ...]
    boxes: tuple[Box, ...]
    texts: tuple[Text, ...]


def compose(diagram: Diagram, *, values: bool = False, gradients: bool = False) -> Picture:
    """Put a diagram in its places. Raises ConfigError where it has more boxes than anybody could read."""
    if len(diagram.nodes) > LARGEST:
        raise ConfigError(
            f"the graph has {len(diagram.nodes):,} boxes, more than can be drawn to be read ({LARGEST})",
            hint=diagram.way_out,
        )
    drafts = [_Draft(node, captions(node, values=values, gradients=gradients)) for node in diagram.nodes]
    firm = _firm(diagram)
    links = [
        Link(e.source, e.target, firm=f, label=_room(e) if gradients else None)
        for e, f in zip(diagram.edges, firm, strict=True)
    ]
    layout = arrange([draft.size for draft in drafts], links)
    placed = [_moved(centre) for centre in layout.centres]
    boxes = [draft.box(*centre) for draft, centre in zip(drafts, placed, strict=True)]
    texts = [text for draft, centre in zip(drafts, placed, strict=True) for text in draft.texts(*centre)]
    curves = _curves(diagram.edges, layout, gradients=gradients)
    if gradients:
        texts += _gradient_texts(diagram.edges, layout)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    return Picture(width, height, tuple(curves), tuple(boxes), tuple(texts))


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is."""
    return LETTER * size * len(text)


def fill_of(node: DiagramNode) -> str:
    """Return the colour of a box: that of its kind, or for a call, between white and hot by its share of the time."""
    if node.share is None:
        return FILLS[node.kind]
    mixed = (round(255 + (part - 255) * node.share**0.5) for part in HOT)
    return "#" + "".join(f"{part:02x}" for part in mixed)


class _Draft:
    """A node with its sizes. An operation's captions stand below its shape, those of other nodes in it."""

    def __init__(self, node: DiagramNode, lines: Sequence[tuple[str, bool]]) -> None:
        self.node, self.lines = node, lines
        self.below = node.kind == "operation"
        widest = max((text_width(line, TEXT) for line, _ in lines), default=0.0)
        label = text_width(node.label, SYMBOL)
        if self.below:
            self.height = 28.0
            self.width = max(28.0, label + 16.0)
            wide, low = max(self.width, widest), self.height / 2 + LINE * len(lines)
            self.size = Size(wide, self.height / 2, low, self.width / 2)
        else:
            self.height = 22.0 + LINE * len(lines) + (2 * INNER if node.kind == "output" else 0.0)
            self.width = max(34.0, label + 16.0, widest + 14.0)
            if node.kind == "loss":
                self.width += 14.0  # the slanted sides of a hexagon
            self.size = Size(self.width, self.height / 2, self.height / 2, self.width / 2)

    def box(self, x: float, y: float) -> Box:
        about = self.node.name or self.node.label
        return Box(FORMS[self.node.kind], x, y, self.width, self.height, fill_of(self.node), about)

    def texts(self, x: float, y: float) -> list[Text]:
        first = y if self.below else y - LINE * len(self.lines) / 2
        texts = [Text(x, first, self.node.label, SIGN if self.below and len(self.node.label) == 1 else SYMBOL, INK)]
        start = y + self.height / 2 + LINE / 2 if self.below else first + LINE + 2.0
        for number, (line, red) in enumerate(self.lines):
            texts.append(Text(x, start + LINE * number, line, TEXT, RED if red else SOFT))
        return texts


def _firm(diagram: Diagram) -> list[bool]:
    """Tell which edges the drawing is built about: all but those of leaves that join something on its way."""
    entered: set[int] = set()
    firm = []
    for edge in diagram.edges:
        firm.append(not diagram.nodes[edge.source].is_leaf or edge.target not in entered)
        entered.add(edge.target)
    return firm


def _room(edge: Edge) -> Size | None:
    if edge.gradient is None:
        return None
    return Size(text_width(numbers(edge.gradient), TEXT) + 8.0, LINE + 1.0, BACK + 2.0, 0.0)


def _moved(point: Point, down: float = 0.0) -> Point:
    return point[0] + MARGIN, point[1] + MARGIN + down


def _curves(edges: Sequence[Edge], layout: Layout, *, gradients: bool) -> list[Curve]:
    curves = [_curve(route, INK) for route in layout.routes]
    if gradients:
        back = [route for edge, route in zip(edges, layout.routes, strict=True) if edge.flows]
        curves += [_curve(route, RED, BACK, back=True) for route in back]
    return curves


def _curve(route: Route, colour: str, down: float = 0.0, *, back: bool = False) -> Curve:
    steps = tuple(tuple(_moved(point, down) for point in step) for step in route.steps)
    return Curve(_moved(route.start, down), steps, colour, back)


def _gradient_texts(edges: Sequence[Edge], layout: Layout) -> list[Text]:
    texts = []
    for edge, route in zip(edges, layout.routes, strict=True):
        if edge.gradient is not None and route.label is not None:
            x, y = _moved(route.label)
            texts.append(Text(x, y - LINE / 2, numbers(edge.gradient), TEXT, RED))
    return texts

"""A picture as SVG text: scalable, searchable, and with a longer text for who points at a box."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from gpumlp.drawing.layout import Point, Step
from gpumlp.drawing.picture import INK, MIDDLE, STROKE, Box, Curve, Picture, Text

FONT = "DejaVu Sans, Verdana, sans-serif"


def to_svg(picture: Picture) -> str:
    """Return the picture as an SVG document."""
    width, height = f"{picture.width:.0f}", f"{picture.height:.0f}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{FONT}" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_curve(curve) for curve in picture.curves),
        *(_box(box) for box in picture.boxes),
        *(_text(text) for text in picture.texts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _curve(curve: Curve) -> str:
    head = " ".join(_point(point) for point in curve.head)
    return (
        f'<path d="{_path(curve.start, curve.steps)}" fill="none" stroke="{curve.colour}" stroke-width="{STROKE}"/>'
        f'<polygon points="{head}" fill="{curve.colour}"/>'
    )


def _path(start: Point, steps: Sequence[Step]) -> str:
    path = f"M{_point(start)}"
    for step in steps:
        path += ("L" if len(step) == 1 else "C") + " ".join(_point(point) for point in step)
    return path


def _point(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _box(box: Box) -> str:
    paint = f'fill="{box.fill}" stroke="{INK}" stroke-width="{STROKE}"'
    shapes = "".join(f'<path d="{_path(*outline)}Z" {paint}/>' for outline in box.outlines())
    return f"<g><title>{escape(box.about)}</title>{shapes}</g>"


def _text(text: Text) -> str:
    position = f'x="{text.x:.1f}" y="{text.y + MIDDLE * text.size:.1f}"'
    return f'<text {position} font-size="{text.size:g}" fill="{text.colour}">{escape(text.text)}</text>'

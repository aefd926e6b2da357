"""A picture as PNG, drawn by matplotlib (extra ``plot``) from the same shapes as the SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from gpumlp.drawing.layout import Point, Step
from gpumlp.drawing.picture import INK, MIDDLE, STROKE, Picture
from gpumlp.errors import RunError

DPI = 144
PIXELS = 96.0  # of the picture in an inch, as browsers have it
POINT = 72.0 / PIXELS


def to_png(picture: Picture) -> bytes:
    """Return the picture as a PNG file. Raises RunError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import PathPatch, Polygon
    except ImportError:
        raise RunError("PNG needs matplotlib (SVG does not)", hint="pip install 'gpumlp[plot]'") from None
    figure = Figure(figsize=(picture.width / PIXELS, picture.height / PIXELS), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, picture.width), ylim=(picture.height, 0.0))
    axes.set_axis_off()
    width = STROKE * POINT
    for curve in picture.curves:
        axes.add_patch(
            PathPatch(_path(curve.start, curve.steps), fill=False, edgecolor=curve.colour, linewidth=width)
        )
        axes.add_patch(Polygon(curve.head, facecolor=curve.colour, linewidth=0))
    for box in picture.boxes:
        for outline in box.outlines():
            axes.add_patch(PathPatch(_path(*outline), facecolor=box.fill, edgecolor=INK, linewidth=width))
    for text in picture.texts:
        base = text.y + MIDDLE * text.size
        look: dict[str, Any] = {"fontsize": text.size * POINT, "color": text.colour, "parse_math": False}
        axes.text(text.x, base, text.text, ha="center", va="baseline", **look)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    return drawn.getvalue()


def _path(start: Point, steps: Sequence[Step]) -> Any:
    from matplotlib.path import Path

    points, codes = [start], [Path.MOVETO]
    for step in steps:
        points += step
        codes += [Path.LINETO] if len(step) == 1 else [Path.CURVE4] * 3
    return Path(points, codes)

"""The activations on one sheet: each function in blue, its derivative in green."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.autodiff import GradientTape, Tensor, activate
from gpumlp.backend import Backend
from gpumlp.ops import ACTIVATIONS, Activation, record_of
from gpumlp.store.figure import new_figure, save

FUNCTION, DERIVATIVE = "#1f77b4", "#2ca02c"
REACH = 4.0  # the curves go from -REACH to REACH
POINTS = 801  # an odd number, so that 0 is one of them
JUMP = 0.05  # from one point to the next: more than any smooth slope changes there
PANEL = (3.2, 2.6)  # inches
ROW = 3  # softmax is a function of a row: what is shown is the first of so many values, the others being 0

Curve = np.ndarray[Any, np.dtype[np.float64]]


def curves(op: Activation, backend: Backend) -> tuple[Curve, Curve, Curve]:
    """Return points x, the values there and the slopes by the tape, each (POINTS,) float64."""
    x = np.linspace(-REACH, REACH, POINTS)
    points = Tensor(x[:, None] * np.eye(ROW)[0], backend)  # what works element by element does not see the zeros
    with GradientTape() as tape:
        tape.watch(points)
        y = activate(op, points)[:, 0]
    slopes = tape.gradient(y, points)
    assert slopes is not None  # y was computed from the points
    return x, y.numpy(), slopes.numpy()[:, 0]


def draw_activations(names: Sequence[str], output: Path, backend: Backend) -> None:
    """Draw the activations of these names, or all there are where none is given, as a .png, .svg or .pdf file.

    Raises ConfigError for an unknown name, RunError where matplotlib is not installed or the format is none that it
    draws.
    """
    ops = [record_of(name) for name in dict.fromkeys(names or ACTIVATIONS)]
    rows = math.isqrt(len(ops))
    columns = math.ceil(len(ops) / rows)
    figure = new_figure(output, PANEL[0] * columns, PANEL[1] * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, op in zip(panels, ops, strict=False):
        _draw(panel, op, *curves(op, backend))
    for panel in panels[len(ops) :]:
        panel.set_axis_off()
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=2, frameon=False)
    save(figure, output)


def _draw(panel: Any, op: Activation, x: Curve, y: Curve, slopes: Curve) -> None:
    jumps = np.flatnonzero(np.abs(np.diff(slopes)) > JUMP) + 1  # a kink of the function: no line joins its two slopes
    panel.axhline(0, color="grey", linewidth=0.6)
    panel.axvline(0, color="grey", linewidth=0.6)
    panel.plot(x, y, color=FUNCTION, label="function")
    panel.plot(np.insert(x, jumps, np.nan), np.insert(slopes, jumps, np.nan), color=DERIVATIVE, label="derivative")
    panel.set_title(f"{op.name}, first of (x{', 0' * (ROW - 1)})" if op.of_rows else op.name, fontsize=10)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)

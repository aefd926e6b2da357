"""Pictures of a study, drawn by matplotlib, which is in the extra ``plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.approximation.starts import width_of_deep
from gpumlp.approximation.study import FINER, POINTS, Curve, Study
from gpumlp.approximation.targets import grid
from gpumlp.store.figure import new_figure, save

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
SWING = 1e-3  # share of the smallest largest error below which the dips to 0 are cut off
SHOWN = 3  # sizes of one activation in the picture of a function of one input


def draw_errors(studies: Sequence[Study], output: Path) -> None:
    """Draw the errors against width and against depth, both scales logarithmic, one panel for each study."""
    figure = new_figure(output, 6.5 * len(studies), 5)
    for axes, study in zip(np.ravel(figure.subplots(1, len(studies))), studies, strict=True):
        _errors(axes, study)
    figure.suptitle(_name(studies[0]))
    save(figure, output)


def _errors(axes: Any, study: Study) -> None:
    for number, curve in enumerate(study.curves):
        colour = COLOURS[number % len(COLOURS)]
        sizes = [fit.size for fit in curve.fits]
        axes.plot(sizes, [fit.error for fit in curve.fits], "o-", color=colour, label=curve.activation)
        axes.plot(sizes, [fit.trained for fit in curve.fits], ":", color=colour, alpha=0.7)
        if curve.floor is not None:
            label = f"floor of degree {curve.degree}"
            axes.axhline(curve.floor, color=colour, linestyle="--", linewidth=1, label=label)
    axes.plot([], [], ":", color="grey", label="before the output is solved")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({fit.size for curve in study.curves for fit in curve.fits})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)  # not along y: errors within one decade would lie beside no number
    deep = f"hidden layers of {width_of_deep(study.target.inputs)} units"
    unit = "units of one hidden layer" if study.kind == "width" else deep
    axes.set(xlabel=unit, ylabel="sup-norm error", title=study.kind)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)  # below, off the curves


def draw_fits(study: Study, output: Path) -> None:
    """Draw target, fit and error: a row for each activation."""
    draw = _lines if study.target.inputs == 1 else _images
    figure = new_figure(output, 11, 3 * len(study.curves))
    columns = 2 if study.target.inputs == 1 else 3
    rows = figure.subplots(len(study.curves), columns, squeeze=False)
    for row, curve in zip(rows, study.curves, strict=True):
        draw(figure, row, study, curve)
    figure.suptitle(f"{_name(study)}: {study.kind}")
    save(figure, output)


def _lines(figure: Any, row: Any, study: Study, curve: Curve) -> None:
    """Of one input: the target with a few fits on the left, their errors on the right."""
    x = _points(study)
    y = study.target(x)
    left, right = row
    left.plot(x[:, 0], y, color="black", linewidth=2.5, alpha=0.35, label="target")
    chosen = sorted({round(i) for i in np.linspace(0, len(curve.fits) - 1, SHOWN)})
    for colour, index in zip(COLOURS, chosen, strict=False):
        fit = curve.fits[index]
        values = fit.network(x)
        label = f"{study.kind} {fit.size}, error {fit.error:.1e}"
        left.plot(x[:, 0], values, color=colour, linewidth=1.2, label=label)
        right.semilogy(x[:, 0], np.abs(values - y), color=colour, linewidth=1)
    if curve.floor is not None:
        right.axhline(curve.floor, color="black", linestyle="--", linewidth=1)
    right.set_ylim(bottom=SWING * min(fit.error for fit in curve.fits))
    left.set(title=curve.activation, ylabel="f(x)")
    floor = "" if curve.floor is None else f", and the floor {curve.floor:.1e} (dashed)"
    right.set(title=f"|error| with {curve.activation}{floor}")
    left.legend(fontsize="x-small")
    for axes in row:
        axes.grid(alpha=0.3)


def _images(figure: Any, row: Any, study: Study, curve: Curve) -> None:
    """Of two inputs: target, the largest network's fit, and its error."""
    x = _points(study)
    y = study.target(x)
    side = round(np.sqrt(len(x)))
    fit = curve.fits[-1]
    values = fit.network(x)
    largest = np.abs(values - y).max()
    limits = {"vmin": y.min(), "vmax": y.max()}
    panels = (
        ("target", y, "viridis", limits),
        (f"{curve.activation}, {study.kind} {fit.size}", values, "viridis", limits),
        (f"error, largest {fit.error:.1e}", values - y, "RdBu_r", {"vmin": -largest, "vmax": largest}),
    )
    for axes, (title, image, colours, scale) in zip(row, panels, strict=True):
        shown = axes.imshow(image.reshape(side, side).T, origin="lower", extent=(-1, 1, -1, 1), cmap=colours, **scale)
        axes.set_title(title, fontsize="medium")
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        figure.colorbar(shown, ax=axes)


def _points(study: Study) -> Any:
    inputs = study.target.inputs
    return grid(inputs, FINER * (POINTS[inputs] - 1) + 1)


def _name(study: Study) -> str:
    return f"{study.target.name}, {study.target.formula}"

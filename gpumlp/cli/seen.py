"""What the verbs do that show what happens inside: gradients and activations."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.table import Table

from gpumlp import backend as backends
from gpumlp.autodiff.differences import MOST, TOLERANCE, Comparison
from gpumlp.cli.display import print_table, remarks, tell
from gpumlp.explain.activations import draw_activations
from gpumlp.explain.backprop import SHOWN, Backprop, backpropagate, shown
from gpumlp.explain.parameters import check_parameters
from gpumlp.explain.subject import Subject, load_subject
from gpumlp.store.formats import check_free, to_json

ROWS = 16  # training rows in a gradient check: enough for batch norm, few enough for thousands of differences
CELL = 9  # columns of a number
PAGE = 80  # columns
BLOCK = 38  # columns of the numbers shown of a gradient, and a gap: two blocks fit on a page
VALUES = 8  # numbers shown of a value: the width of a page


def backprop(path: Path, overrides: Sequence[str], row: int, backend: str | None, as_json: bool) -> None:
    """Print what happens to one training row, forward and back."""
    subject = load_subject(path, overrides, backend)
    rows = subject.only(row)
    walk = backpropagate(subject.network, subject.loss, subject.inputs(rows), subject.targets(rows))
    if as_json:
        head = {"row": row, "backend": subject.network.context.backend.name, "notes": _notes(subject)}
        click.echo(to_json({**head, **_as_dict(walk)}))
        return
    remarks(subject.notes)
    _print(subject, row, walk)


def _notes(subject: Subject) -> list[dict[str, str | None]]:
    return [note.to_json() for note in subject.notes]


def _as_dict(walk: Backprop) -> dict[str, Any]:
    return {
        "loss": walk.loss,
        "values": [
            {"symbol": v.symbol, "equation": v.equation, "shape": v.array.shape, "value": v.array.tolist()}
            for v in walk.values
        ],
        "gradients": [
            {
                "of": g.symbol,
                "equation": g.equation,
                "shape": g.comparison.taped.shape,
                "gradient": g.comparison.taped.tolist(),
                "finite_difference": g.comparison.numeric.tolist(),
                "relative_error": g.comparison.error,
            }
            for g in walk.gradients
        ],
    }


def _print(subject: Subject, row: int, walk: Backprop) -> None:
    tell(f"training row {row}, {_target(subject, row)}; in float64 on {subject.network.context.backend.name}\n")
    tell("forward, as in prediction")
    for value in walk.values:
        _print_head(value.symbol, value.equation, value.array)
        for line in _lines(value.array, VALUES):
            tell(f"    {line}")
    record = subject.loss.record
    tell(f"  L = {record.name} = {walk.loss:.6g}\n    {record.meaning}\n")
    tell("backward: ∇v is the gradient of L with respect to v")
    tell(f"    {'by the tape':<{BLOCK}}by finite differences")
    for gradient in walk.gradients:
        comparison = gradient.comparison
        _print_head(f"∇{gradient.symbol}", gradient.equation, comparison.taped)
        for taped, numeric in zip(_lines(comparison.taped), _lines(comparison.numeric), strict=True):
            tell(f"    {taped:<{BLOCK}}{numeric}")
    worst = max(walk.gradients, key=lambda gradient: _size(gradient.comparison))
    verdict = (
        "all agree" if worst.comparison.passed else "they do not agree (near a kink of an activation they cannot)"
    )
    tell(f"\n{verdict}: the largest relative error is {worst.comparison.error:.1e}, in ∇{worst.symbol}")


def _target(subject: Subject, row: int) -> str:
    """Return the target of a row in the words of the data."""
    name, classes, targets = subject.encoder.target_name, subject.encoder.classes, subject.targets(subject.only(row))
    if (labels := subject.encoder.labels) is not None:
        (words,) = labels.words(targets)
        return ", ".join(f"{one} = {word or 'missing'}" for one, word in zip(labels.names, words, strict=True))
    if np.size(targets) > 1:
        numbers = np.ravel(subject.encoder.decode(np.reshape(targets, (1, -1))))
        each = zip(subject.encoder.target_names, numbers, strict=True)
        return ", ".join(f"{one} = {value:.6g}" for one, value in each)
    (target,) = np.ravel(targets)
    if classes:
        return f"{name} = {classes[target]} (class {target} of 0 to {len(classes) - 1})"
    number = subject.encoder.decode(np.array([[target]]))[0]
    return f"{name} = {number:.6g}, {target:.6g} when standardized"


def _print_head(symbol: str, equation: str, array: np.ndarray[Any, Any]) -> None:
    shape = " × ".join(str(n) for n in array.shape) or "1"
    line = f"  {symbol} = {equation}" if equation else f"  {symbol}"
    tell(f"{line:<{PAGE - 12}}{shape:>12}")


def _lines(array: np.ndarray[Any, Any], most: int = SHOWN) -> list[str]:
    """Return an array as text, one line for each row, with a sign for what is left out."""
    matrix = array.reshape(-1, array.shape[-1]) if array.ndim else np.atleast_2d(array)
    part, lines = shown(matrix, most), []
    pattern = _pattern(part)
    for row in part:
        cells = [pattern.format(value).rjust(CELL) for value in row]
        lines.append("".join([*cells[:-1], " …", cells[-1]] if matrix.shape[1] > most else cells))
    if len(matrix) > most:
        lines.insert(-1, "…".rjust(CELL))
    return lines


def _pattern(array: np.ndarray[Any, Any]) -> str:
    """Return the one format that suits all numbers of an array, of less than CELL columns."""
    largest = np.abs(array).max(initial=0.0)
    if largest < 1e6 and (array == array.round()).all():
        return "{:.0f}"
    return "{:.5f}" if 1e-3 <= largest < 10 else "{:.3f}" if 10 <= largest < 1e3 else "{:.1e}"


def _size(comparison: Comparison) -> float:
    return float(np.nan_to_num(comparison.error, nan=np.inf))


def gradcheck(path: Path, overrides: Sequence[str], backend: str | None, as_json: bool) -> None:
    """Print how far each parameter's gradient is from its finite differences; exit with 1 where one is too far."""
    subject = load_subject(path, overrides, backend)
    rows = slice(0, min(ROWS, len(subject.data)))
    batch = subject.inputs(rows), subject.targets(rows), subject.weights(rows)
    comparisons = check_parameters(subject.network, subject.loss, *batch)
    passed = all(comparison.passed for comparison in comparisons.values())
    if as_json:
        head = {"passed": passed, "tolerance": TOLERANCE, "notes": _notes(subject)}
        click.echo(to_json({**head, "parameters": _table(comparisons)}))
    else:
        remarks(subject.notes)
        _print_check(subject, comparisons, rows.stop)
    if not passed:
        sys.exit(1)


def _table(comparisons: dict[str, Comparison]) -> dict[str, Any]:
    return {
        name: {
            "shape": comparison.taped.shape,
            "elements": comparison.taped.size,
            "checked_one_by_one": comparison.checked,
            "worst_relative_error": comparison.error,
            "passed": comparison.passed,
        }
        for name, comparison in comparisons.items()
    }


def _print_check(subject: Subject, comparisons: dict[str, Comparison], rows: int) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("parameter", "shape", "one by one", "worst relative error", ""):
        table.add_column(title, justify="left" if title in ("parameter", "") else "right")
    for name, comparison in comparisons.items():
        shape, size = " × ".join(map(str, comparison.taped.shape)), comparison.taped.size
        moved = "all" if comparison.checked == size else f"{comparison.checked:,} of {size:,}"
        verdict = "pass" if comparison.passed else "FAIL"
        table.add_row(name, shape, moved, f"{comparison.error:.1e}", verdict)
    print_table(table)
    failed = [name for name, comparison in comparisons.items() if not comparison.passed]
    tell(
        f"{rows} training rows, in float64 on {subject.network.context.backend.name}; tolerance {TOLERANCE:g} of the "
        f"largest element.\nEach element was moved by itself, of many {MOST}, then all in a random direction."
    )
    tell(f"FAIL: {', '.join(failed)}" if failed else f"pass: all {len(comparisons)} parameters")


def activations(names: Sequence[str], output: Path, backend: str, force: bool) -> None:
    """Draw the activations."""
    check_free(output, force=force)
    draw_activations(names, output, backends.get(backend))
    tell(str(output))

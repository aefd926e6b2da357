"""What ``gpumlp approximate`` does: run the studies, print tables, write numbers and pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
from rich import box
from rich.table import Table

from gpumlp import backend as backends
from gpumlp.approximation import TARGETS, Curve, Study, study, target_of
from gpumlp.approximation.activations import activation_of
from gpumlp.approximation.plots import draw_errors, draw_fits
from gpumlp.approximation.starts import width_of_deep
from gpumlp.approximation.study import SIZES, Kind, check_sizes
from gpumlp.cli.display import duration, print_table, say, stdout, tell
from gpumlp.errors import ConfigError, RunError
from gpumlp.store.figure import new_figure
from gpumlp.store.formats import check_free, make_folder, to_json, write_json, writing

NUMBERS, ERRORS, FITS = "approximation.json", "errors.png", "fits-{kind}.png"


def approximate(
    target: str,
    activations: Sequence[str],
    widths: str | None,
    depths: str | None,
    seed: int,
    restarts: int,
    steps: int,
    backend: str,
    device: int,
    output: Path | None,
    force: bool,
    as_json: bool,
    list_targets: bool,
) -> None:
    """Run the experiments that were asked for, and say what came of them."""
    if list_targets:
        _print_targets()
        return
    chosen = target_of(target)
    for name in activations:
        activation_of(name)
    sizes_of = _sizes(widths, depths)
    if output is not None:
        _prepare_output(output, sizes_of, force=force)
    machine = backends.get(backend, device=device)
    began = time.perf_counter()
    studies = [
        study(
            kind,
            chosen,
            machine,
            sizes=sizes,
            activations=activations or None,
            seed=seed,
            restarts=restarts,
            steps=steps,
            listener=partial(_announce, kind),
        )
        for kind, sizes in sizes_of.items()
    ]
    seconds = time.perf_counter() - began
    numbers = {
        "target": chosen.name,
        "formula": chosen.formula,
        "inputs": chosen.inputs,
        "smooth": chosen.smooth,
        "seed": seed,
        "restarts": restarts,
        "steps": steps,
        "backend": machine.name,
        "seconds": seconds,
        "studies": [_as_numbers(each) for each in studies],
    }
    if output is not None:
        _write(output, studies, numbers)
    if as_json:
        click.echo(to_json(numbers))
        return
    tell(f"{chosen.name}: {chosen.formula} on [-1, 1]{'²' if chosen.inputs == 2 else ''}")
    for each in studies:
        _print_study(each)
    tell(
        "Errors are the largest on a fine grid, the best of "
        f"{restarts} start{'s' * (restarts != 1)}, after {steps:,} steps of Adam on all weights and then a solve "
        "of the output layer by reweighted least squares."
    )
    if output is not None:
        tell(f"written to {output}: {', '.join([NUMBERS, *_pictures(sizes_of)])}")


def _sizes(widths: str | None, depths: str | None) -> dict[Kind, list[int]]:
    """Return the sizes of each experiment: those given, or where none are, both experiments' own."""
    texts: dict[Kind, str | None] = {"width": widths, "depth": depths}
    if widths is None and depths is None:
        return {kind: list(sizes) for kind, sizes in SIZES.items()}
    return {kind: check_sizes(kind, _numbers(kind, text)) for kind, text in texts.items() if text is not None}


def _numbers(kind: Kind, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a list of whole numbers", where=f"{kind}s", hint="write them as 4,8,16"
        ) from None


def _pictures(kinds: Sequence[Kind] | dict[Kind, Any]) -> list[str]:
    return [ERRORS, *(FITS.format(kind=kind) for kind in kinds)]


def _prepare_output(folder: Path, sizes_of: dict[Kind, Any], *, force: bool) -> None:
    """Raise RunError or OSError, before anything is trained, where it cannot be written.

    Where there is no such folder one is made, and taken away again: an interruption leaves nothing behind.
    """
    new_figure(folder / ERRORS, 1, 1)  # is there matplotlib?
    if folder.exists() and not folder.is_dir():
        raise RunError("is a file, not a folder", where=str(folder))
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    for name in (NUMBERS, *_pictures(sizes_of)):
        check_free(folder / name, force=force)
    with writing(folder), TemporaryFile(dir=folder):
        pass
    for path in new:
        path.rmdir()


def _write(folder: Path, studies: Sequence[Study], numbers: dict[str, Any]) -> None:
    make_folder(folder)
    write_json(folder / NUMBERS, numbers)
    draw_errors(studies, folder / ERRORS)
    for each in studies:
        draw_fits(each, folder / FITS.format(kind=each.kind))


def _announce(kind: Kind, curve: Curve) -> None:
    say(f"{kind}, {curve.activation}: {curve.networks} networks side by side, {duration(curve.seconds)}", style="dim")


def _as_numbers(study: Study) -> dict[str, Any]:
    return {
        "kind": study.kind,
        "curves": [
            {
                "activation": curve.activation,
                "polynomial_degree": curve.degree,
                "floor": curve.floor,
                "networks": curve.networks,
                "seconds": curve.seconds,
                "fits": [
                    {
                        "size": fit.size,
                        "parameters": fit.parameters,
                        "error": fit.error,
                        "error_before_solve": fit.trained,
                        "restart": fit.restart,
                    }
                    for fit in curve.fits
                ],
            }
            for curve in study.curves
        ],
    }


def _print_study(study: Study) -> None:
    """Print a row for each size and a column for each activation, and say where they must stall."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (study.kind, "parameters", *(curve.activation for curve in study.curves)):
        table.add_column(heading, justify="right")
    for fits in zip(*(curve.fits for curve in study.curves), strict=True):
        table.add_row(str(fits[0].size), f"{fits[0].parameters:,}", *(f"{fit.error:.1e}" for fit in fits))
    floors = ["–" if curve.floor is None else f"{curve.floor:.1e}" for curve in study.curves]
    if any(curve.floor is not None for curve in study.curves):
        table.add_section()
        table.add_row("floor", "", *floors)
    print_table(table)
    if study.kind == "depth":
        tell(f"Each hidden layer has p + K + 2 = {width_of_deep(study.target.inputs)} units.")
    for curve in study.curves:
        if curve.floor is not None:
            tell(_reason(study.kind, curve))
    tell("")


def _reason(kind: Kind, curve: Curve) -> str:
    """Say why networks of this activation stall."""
    form = "affine in x" if curve.degree == 1 else f"a polynomial of degree {curve.degree} in x"
    best = "affine function" if curve.degree == 1 else f"polynomial of degree {curve.degree}"
    return (
        f"{curve.activation}: whatever the {kind}, the network is {form}, "
        f"and no {best} has a largest error below {curve.floor:.3g}."
    )


def _print_targets() -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "inputs", "smooth", "formula"):
        table.add_column(heading)
    for target in TARGETS.values():
        table.add_row(target.name, str(target.inputs), "yes" if target.smooth else "no", target.formula)
    stdout.console.print(table)

"""What ``gpumlp bench`` does and prints."""

from __future__ import annotations

import logging
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from gpumlp import __version__
from gpumlp import backend as backends
from gpumlp.bench import machine
from gpumlp.bench.goals import TEXT, missed, size_text
from gpumlp.bench.kernels import LADDER, QUICK, QUICK_SECONDS, SECONDS, Entry, KernelTimes, bench, entries
from gpumlp.bench.record import ACROSS, DOWN, as_json, draw, families
from gpumlp.cli.display import Notices, Steps, print_table, say, tell
from gpumlp.errors import ConfigError
from gpumlp.store.figure import new_figure, save
from gpumlp.store.formats import check_free, write_json


def kernels(
    backend: str, device: int, only: str | None, quick: bool, json_file: Path | None, plot: Path | None, force: bool
) -> None:
    """Time kernels: a table for each as it comes, then one of them all, and what misses its goal."""
    for file in filter(None, (json_file, plot)):
        check_free(file, force=force)
    chosen = entries(only)
    figure = _figure(plot, chosen) if plot else None
    log = logging.getLogger("gpumlp")
    log.setLevel(logging.INFO)
    log.addHandler(notices := Notices())
    try:
        having = backends.get(backend, device=device)
        on_device, facts = machine.on_device(having), {"gpumlp": __version__, **machine.facts(having)}
        measured = bench(having, chosen, *(QUICK, QUICK_SECONDS) if quick else (LADDER, SECONDS))
        say(f"{len(chosen)} kernels on {machine.name(having)}, backend {having.name}")
        rows: list[KernelTimes] = []
        with Steps("kernel", len(chosen)) as steps:
            for _, group in groupby(measured, key=lambda row: row.entry):
                of_entry = list(group)
                rows += of_entry
                print_table(_table(of_entry))
                if json_file:
                    write_json(json_file, as_json(facts, rows, on_device=on_device))
                steps.advance()
    finally:
        log.removeHandler(notices)
    print_table(_summary(rows, on_device))
    tell(f"goals: {TEXT[on_device]}")
    tell(f"noise: {_noise(rows)} (half the distance of the quartiles, median of all rows)")
    if plot and figure is not None:
        draw(figure, rows, machine.name(having))
        save(figure, plot)


def _figure(plot: Path, chosen: list[Entry]) -> Any:
    """Return an empty figure for the kernels that have several sizes. Raises ConfigError where none has."""
    drawn = [entry for entry in chosen if entry.has_sizes]
    if not drawn:
        raise ConfigError(f"{chosen[0].name} has a single size, so there is no curve to plot", where="--plot")
    return new_figure(plot, ACROSS, 1.0 + DOWN * len(families(drawn)))


def _table(rows: list[KernelTimes]) -> Table:
    """Return the table of one kernel: a line for each size."""
    first = rows[0]
    elements = max(first.size // 4, 1)
    each = f", {first.moved / elements:.0f} bytes an element" if first.size else ""
    table = Table(
        title=f"{first.entry.name}  [dim]{first.entry.family}{each}[/]",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name, width in (("size", 7), *(2 * (("µs", 9), ("± %", 4), ("GB/s", 6), ("of copy", 7)))):
        table.add_column(name, justify="right", min_width=width, no_wrap=True)
    table.columns[1].header, table.columns[5].header = "warm µs", "cold µs"
    for name in ("x formula", "x torch"):
        table.add_column(name, justify="right", min_width=9, no_wrap=True)
    for row in rows:
        cells = [size_text(row.size) if row.size else "–"]
        for temperature, taken in (("warm", row.warm), ("cold", row.cold)):
            cells += [_micro(taken.median), f"{50 * taken.spread:.0f}"]
            cells += [f"{row.bandwidth(temperature) / 1e9:.2f}", _percent(row.share(temperature))]
        table.add_row(*cells, _times(row.gain("formula")), _times(row.gain("torch")))
    return table


def _summary(rows: list[KernelTimes], on_device: bool) -> Table:
    """Return the table of all kernels: how each does at its largest size, and over all of them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    for name in ("kernel", "largest", "GB/s", "of copy", "x formula", "x torch"):
        table.add_column(name, justify="left" if name == "kernel" else "right", no_wrap=True)
    table.add_column("misses", ratio=1)
    for entry, group in groupby(rows, key=lambda row: row.entry):
        of_entry = list(group)
        last = of_entry[-1]
        table.add_row(
            entry.name,
            size_text(last.size) if last.size else "–",
            f"{last.bandwidth('cold') / 1e9:.2f}",
            _percent(last.share("cold")),
            *(_range([row.gain(over) for row in of_entry]) for over in ("formula", "torch")),
            ", ".join(missed(of_entry, on_device)),
        )
    return table


def _noise(rows: list[KernelTimes]) -> str:
    warm, cold = (
        statistics.median(spreads) / 2
        for spreads in zip(*((r.warm.spread, r.cold.spread) for r in rows), strict=True)
    )
    return f"{warm:.1%} of a warm time, {cold:.1%} of a cold one"


def _micro(seconds: float) -> str:
    micro = 1e6 * seconds
    return f"{micro:.1f}" if micro < 1e3 else f"{micro:,.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _times(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:.2f}" if gain < 100 else f"{gain:.0f}"


def _range(gains: list[float | None]) -> str:
    there = [gain for gain in gains if gain is not None]
    return f"{min(there):.1f}–{max(there):.1f}" if there else "–"

"""The benchmark as a file: JSON with every figure, and a picture of bandwidth against size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpumlp.bench.clock import Times
from gpumlp.bench.goals import missed, size_text
from gpumlp.bench.kernels import LADDER, Entry, KernelTimes

TEMPERATURES = ("warm", "cold")
ACROSS, DOWN = 11.0, 2.8
"""Inches of the picture, and of each of its rows."""


def as_json(machine: dict[str, Any], rows: Sequence[KernelTimes], *, on_device: bool) -> dict[str, Any]:
    """Return all that was measured: seconds, bytes per second, shares and ratios."""
    copies = {row.copy.size: row.copy for row in rows if row.copy is not None}
    return {
        "machine": machine,
        "units": "seconds (median and quartiles), bytes, bytes per second; gains are ratios of warm medians",
        "copies": [asdict(copy) for copy in copies.values()],
        "kernels": [_row(row, on_device) for row in rows],
    }


def _row(row: KernelTimes, on_device: bool) -> dict[str, Any]:
    def seconds(taken: Times | None) -> dict[str, float] | None:
        return None if taken is None else asdict(taken)

    return {
        "kernel": row.entry.name,
        "family": row.entry.family,
        "size": row.size,
        "shape": row.shape,
        "bytes_moved": row.moved,
        **{
            temperature: {
                "seconds": seconds(getattr(row, temperature)),
                "bandwidth": row.bandwidth(temperature),
                "share_of_copy": row.share(temperature),
            }
            for temperature in TEMPERATURES
        },
        "formula": seconds(row.formula),
        "torch": seconds(row.torch),
        "gain_over_formula": row.gain("formula"),
        "gain_over_torch": row.gain("torch"),
        "missed": missed([row], on_device),
    }


def families(entries: Sequence[Entry]) -> list[str]:
    """Return the families of kernels in their order."""
    return list(dict.fromkeys(entry.family for entry in entries))


def draw(figure: Any, rows: Sequence[KernelTimes], machine: str) -> None:
    """Draw bandwidth against size: a row of panels for each family, warm on the left, cold on the right."""
    sized = [row for row in rows if row.size]
    names = families([row.entry for row in sized])
    panels = figure.subplots(len(names), len(TEMPERATURES), squeeze=False, sharex=True)
    for family, pair in zip(names, panels, strict=True):
        of_family = [row for row in sized if row.entry.family == family]
        for axes, temperature in zip(pair, TEMPERATURES, strict=True):
            _panel(axes, of_family, temperature)
            axes.set_title(f"{family} ({temperature})", fontsize="medium")
        pair[0].set_ylabel("GB/s")
        pair[1].legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False)
    for axes in panels[-1]:
        axes.set_xlabel("array that the kernel walks over")
    figure.suptitle(f"Bandwidth of kernels on {machine}")


def _panel(axes: Any, rows: Sequence[KernelTimes], temperature: str) -> None:
    copies = {row.size: row.copy for row in rows}
    sizes = sorted(copies)
    axes.plot(sizes, [getattr(copies[s], temperature) / 1e9 for s in sizes], "k--", linewidth=1.5, label="copy")
    for number, entry in enumerate(dict.fromkeys(row.entry for row in rows)):
        of_entry = [row for row in rows if row.entry == entry]
        values = [row.bandwidth(temperature) / 1e9 for row in of_entry]
        style = {"color": f"C{number % 10}", "marker": "os"[number // 10], "markersize": 3, "linewidth": 1}
        axes.plot([row.size for row in of_entry], values, label=_label(entry), **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LADDER, [size_text(size) for size in LADDER], fontsize="small")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _label(entry: Entry) -> str:
    """Return the name of a kernel as short as its family allows."""
    alone = entry.family.startswith("activations") or entry.family == "updates"
    return entry.op.name if alone else entry.name

"""What the kernels are meant to reach, and which of it they do not."""

from __future__ import annotations

from collections.abc import Iterable

from gpumlp.bench.kernels import LADDER, KernelTimes

MIN_SPEEDUP = 2.0
"""Minimum speedup over the NumPy formula, on a CPU, at every size."""
MIN_SHARE = 0.85
"""Minimum share of the bandwidth of a cold copy, at the largest size, on a CPU."""
MIN_SHARE_ON_DEVICE = 0.97
MIN_SHARE_OF_SOFTMAX_ON_DEVICE = 0.95
SOFTMAX = ("softmax", "softmax_cross_entropy")

TEXT = {
    False: f"elementwise kernels and updates: {MIN_SPEEDUP:g} x the formula at every size, "
    f"{MIN_SHARE:.0%} of the copy bandwidth at 64 MiB (cold)",
    True: f"of the copy bandwidth at 64 MiB (cold): elementwise kernels and updates {MIN_SHARE_ON_DEVICE:.0%}, "
    f"softmax and cross-entropy {MIN_SHARE_OF_SOFTMAX_ON_DEVICE:.0%}",
}
"""The goals in words, on a CPU and on a device."""


def wanted_share(row: KernelTimes, on_device: bool) -> float | None:
    """Return the share of the copy bandwidth that is the goal of a kernel at this size, or None without a goal."""
    if row.size != LADDER[-1]:
        return None
    if row.entry.definition.launch == "elementwise":
        return MIN_SHARE_ON_DEVICE if on_device else MIN_SHARE
    return MIN_SHARE_OF_SOFTMAX_ON_DEVICE if on_device and row.entry.op.name in SOFTMAX else None


def missed(rows: Iterable[KernelTimes], on_device: bool) -> list[str]:
    """Return what the rows of one kernel miss, in a few words each."""
    misses = []
    for row in rows:
        goal, share, gain = wanted_share(row, on_device), row.share("cold"), row.gain("formula")
        if goal is not None and share is not None and share < goal:
            misses.append(f"{share:.0%} of copy at {size_text(row.size)}")
        judged = row.size and not on_device and row.entry.definition.launch == "elementwise"
        if judged and gain is not None and gain < MIN_SPEEDUP:
            misses.append(f"{gain:.1f} x at {size_text(row.size)}")
    return misses


def size_text(size: int) -> str:
    """Return a number of bytes that is a power of two in KiB or MiB."""
    return f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"

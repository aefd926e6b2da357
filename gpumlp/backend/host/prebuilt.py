"""Kernels that a wheel carries compiled, for machines without a compiler: a folder for each level of processors.

``prebuild.py`` makes them.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "prebuilt"
LEVELS = {
    "amx": (
        ("-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mtune=sapphirerapids"),
        ("amx_tile", "amx_bf16"),
    ),
    "avx512-bf16": (("-march=x86-64-v4", "-mavx512bf16"), ("avx512_bf16",)),
    "x86-64-v4": (("-march=x86-64-v4",), ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    "x86-64-v3": (("-march=x86-64-v3",), ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")),
    "x86-64-v2": (("-march=x86-64-v2",), ("cx16", "popcnt", "sse4_1", "sse4_2", "ssse3")),
}
"""What asks a compiler for a level, and what /proc/cpuinfo calls that which it has above the next."""


@cache
def level() -> str | None:
    """Return the highest level that this processor has, or None where there is none (or not known)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.machine() == "x86_64" else []
    except OSError:
        lines = []
    has = set(next((line for line in lines if line.startswith("flags")), "").split())
    best = None
    for name, (_, features) in reversed(LEVELS.items()):
        if not has.issuperset(features):
            break
        best = name
    return best


@cache
def folder() -> Path | None:
    """Return the folder of the kernels for this processor, the best that the installation carries."""
    best = level()
    names = list(LEVELS)[list(LEVELS).index(best) :] if best else []
    return next((FOLDER / name for name in names if (FOLDER / name).is_dir()), None)


def file_name(name: str, source: str, flags: Sequence[str]) -> str:
    """Return what the library of a source is called: the same text and flags find it, and no other."""
    digest = hashlib.sha256("\n".join([source, *flags]).encode()).hexdigest()[:24]
    return f"{name}-{digest}.so"

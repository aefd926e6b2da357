"""Compile the kernels that a wheel carries: ``python -m gpumlp.backend.host.prebuild [LEVEL...]``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpumlp.backend.host import prebuilt
from gpumlp.backend.host.builder import PLAIN, TILED, Builder, compile_library, compiler, own_symbols
from gpumlp.limits import threads
from gpumlp.store.atomic import replace_file

STANDALONE = ("-static-libstdc++", "-static-libgcc", "-s")
"""A machine without a compiler may have no C++ library either."""
FLOATS = {"amx": ("float", "bf16"), "avx512-bf16": ("float", "bf16")}
"""Storage dtypes to compile for, by level: bfloat16 pays off where the processor multiplies it."""
PRODUCTS = {
    "amx": (*PLAIN, *TILED),
    "avx512-bf16": (*PLAIN, *(name for name, types in TILED.items() if types.startswith("gpumlp::bfloat16"))),
}
"""Products to compile, by level; elsewhere those by vectors."""


def build(level: str, folder: Path, names: Container[str] | None = None) -> int:
    """Compile what a level of processors may ask for into a folder; return the number of libraries.

    ``names`` are the records, and the parts of ``kernels/host``, to be compiled; all by default.
    """
    command = compiler()
    if command is None:
        raise SystemExit("there is no C++ compiler")
    level_flags, _ = prebuilt.LEVELS[level]

    def make(job: tuple[str, str, tuple[str, ...]]) -> None:
        name, source, flags = job
        content = compile_library([*command, *flags, *level_flags, *STANDALONE, *own_symbols(command)], name, source)
        replace_file(folder / prebuilt.file_name(name, source, flags), content, mode=0o644)

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = Builder().sources(FLOATS.get(level, ("float",)), PRODUCTS.get(level, tuple(PLAIN)))
    jobs = [job for job in sources if names is None or job[0] in names]
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(make, jobs))
    return len(jobs)


def main(levels: list[str]) -> None:
    """Compile the levels named, or all, into the package."""
    for level in levels or prebuilt.LEVELS:
        count = build(level, prebuilt.FOLDER / level)
        size = sum(file.stat().st_size for file in (prebuilt.FOLDER / level).iterdir())
        print(f"{level}: {count} libraries, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])

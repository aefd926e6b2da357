"""What the machine has for this process: memory, cores, and threads to compute with."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where the control group (version 2, then 1) says how much it gives: a number of bytes, or ``max``."""


def host_memory() -> int | None:
    """Return the bytes of memory there are, free or not; None where the system does not tell."""
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a system without sysconf, or without the names
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in LIMITS:
        with contextlib.suppress(ValueError, OSError):
            sizes.append(int(path.read_text()))
    return min(sizes, default=None)


def cache_folder() -> Path | None:
    """Return where what can be made again is kept: ``GPUMLP_CACHE``, or ``gpumlp`` in the user's cache, if any."""
    if folder := os.environ.get("GPUMLP_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpumlp"
    except RuntimeError:  # a user without a home
        return None


def gigabytes(count: float) -> str:
    """Return a number of bytes as text: in GB with three digits, few of them as they are."""
    if count < 1e6:
        return f"{count:,.0f} byte{'s' * (count != 1)}"
    size = count / 1e9
    return f"{size:,.0f} GB" if size >= 100 else f"{size:#.3g} GB"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return how many threads may compute: what ``OMP_NUM_THREADS`` says, else the cores this process is given.

    The cores are those of its affinity, and no more than its control group's quota pays for.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if text.isdigit() and int(text) > 0:
        return int(text)
    return max(1, math.ceil(min(cores(), _quota())))


PIECES_PER_THREAD = 16
"""Pieces of work that each thread gets on average: to hand a thread one item takes longer than most items do."""


def in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return ``function`` of each item, in their order, computed by as many threads as may compute.

    It pays for work that NumPy does without the interpreter's lock. Of several exceptions the first item's is raised.
    """
    items = list(items)
    if len(items) < 2 or threads() == 1:
        return list(map(function, items))
    size = max(1, len(items) // (threads() * PIECES_PER_THREAD))
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(min(threads(), len(pieces))) as pool:
        return [result for piece in pool.map(lambda piece: list(map(function, piece)), pieces) for result in piece]


Begin = Callable[[Callable[[], _Result]], Callable[[], _Result]]
"""Begins a call and returns what waits for its result."""


@contextlib.contextmanager
def beside() -> Iterator[Begin[Any]]:
    """Yield what begins calls in another thread, one after the other; where one thread may compute, in this one."""
    if threads() == 1:
        yield _at_once
        return
    with ThreadPoolExecutor(1) as pool:
        yield lambda call: pool.submit(call).result


def _at_once(call: Callable[[], _Result]) -> Callable[[], _Result]:
    result = call()
    return lambda: result


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _quota() -> float:
    """Return how many cores' time the control group (version 2, then 1) gives this process; infinity for all."""
    try:
        used, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            used = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    return math.inf if used.strip() in ("max", "-1") else int(used) / int(period)

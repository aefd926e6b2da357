"""How much memory the machine has for this process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where the control group (version 2, then 1) says how much it gives: a number of bytes, or ``max``."""


def host_memory() -> int | None:
    """Return the bytes of memory there are, free or not; None where the system does not tell."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a system without sysconf, or without the names
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in LIMITS:
        with contextlib.suppress(ValueError, OSError):
            found.append(int(path.read_text()))
    return min(found, default=None)

"""Locks between processes: a file that one of them holds, and that is free again when it ends, however it ends."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpumlp.store.formats import make_folder, writing

fcntl: Any = None
msvcrt: Any = None
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")
with contextlib.suppress(ImportError):  # on Windows
    msvcrt = importlib.import_module("msvcrt")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of this file meanwhile, or return False at once if another process holds it.

    The file stays: a process that deleted it could take the lock of one that has just opened it.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        yield _take(handle)
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True

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


LOCKED_BYTE = 1 << 40
"""Place of the byte that is locked on Windows, which lets nobody read it: behind the end of any of our files."""


@contextlib.contextmanager
def locked(path: Path, *, without_locks: bool = False) -> Iterator[bool]:
    """Hold the lock of this file meanwhile, or return False at once if another process holds it.

    The file stays: a process that deleted it could take the lock of one that has just opened it.

    Parameters
    ----------
    path
        The file, which is made where it is missing.
    without_locks
        What is returned where the file system has no locks.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        yield _take(handle, without_locks)
    finally:
        os.close(handle)


def _take(handle: int, without_locks: bool) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return without_locks
    return True

"""A file is whole or not there: written beside its place, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from pathlib import Path

PART = ".part"
"""How the names of files end that are being written."""

LEFTOVER = re.compile(rf"\.(?P<name>.+)\.(?P<process>\d+){re.escape(PART)}")
"""Such names in full: of which file, and by which process."""

_one_at_a_time = threading.Lock()
"""So that a file with the number of this process is never that of another thread."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part. Who may read it stays.

    Raises OSError where it cannot be written; nothing is left behind then.
    """
    with _one_at_a_time:
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    _clear(path)
    try:
        with beside.open("xb") as file:
            with contextlib.suppress(OSError):  # there is none yet, or the file system has no permissions
                os.chmod(beside, stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _flush_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, all or nothing. Raises OSError where it cannot be written."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


def _clear(path: Path) -> None:
    """Delete what processes that were killed while they wrote this file left beside it."""
    for other in path.parent.glob(f".*{PART}"):
        found = LEFTOVER.fullmatch(other.name)
        if found and found["name"] == path.name and not _is_at_work(int(found["process"])):
            other.unlink(missing_ok=True)


def _is_at_work(process: int) -> bool:
    """Tell whether another process with this number may be running."""
    if process == os.getpid():
        return False  # it is the number of one that is gone
    if os.name != "posix":
        return True  # signal 0 is no question there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

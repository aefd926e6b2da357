"""A file is whole or not there: written beside its place, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

fcntl: Any = None
with contextlib.suppress(ImportError):  # on Windows
    fcntl = importlib.import_module("fcntl")

PART = ".part"
"""How the names of files end that are being written."""

LEFTOVER = re.compile(rf"\.(?P<name>.+)\.(?P<number>\d+){re.escape(PART)}")
"""Such names in full: of which file, and a number drawn for it."""

_one_at_a_time = threading.Lock()


def replace_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    A link in its place is replaced, not followed. Who may read and write the file stays, unless ``mode`` says so.
    Raises OSError where it cannot be written; nothing is left behind then.
    """
    with _one_at_a_time:
        _replace(path, content, mode)


def _replace(path: Path, content: bytes, mode: int | None) -> None:
    with replacing(path, mode=mode) as (_, file):
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open a new file, by its name and as a stream, that takes the place of ``path`` when all has gone well.

    A link in its place is replaced, not followed. Raises OSError where it cannot be written; nothing is left behind
    then, nor after any other exception.
    """
    clear_leftovers(path.parent, path.name)
    with _part(path) as (beside, file):
        with contextlib.suppress(OSError):  # there is none yet, or the file system has no permissions
            before = path.lstat().st_mode if mode is None else stat.S_IFREG | mode
            if stat.S_ISREG(before):
                os.chmod(beside, stat.S_IMODE(before))
        yield beside, file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows renames no open file
        os.replace(beside, path)
        with contextlib.suppress(OSError):
            file.close()  # what the flush has brought to the disk is there whatever this says
    _flush_folder(path.parent)


@contextlib.contextmanager
def _part(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open a new file beside another, under a name that no other process has.

    It is locked while it is written, so that others can tell it from what a killed process has left. Numbers of
    processes could not: two containers that share a folder have the same ones.
    """
    while True:
        beside = _named_beside(path)
        try:
            with beside.open("xb") as file:
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # the file system has no locks: nothing is deleted there
                        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                    if not _is_there(beside, file.fileno()):
                        continue  # it was taken for a leftover before it was locked
                yield beside, file
                return
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a folder beside another, by a name of its own, that becomes ``path`` when all has gone well.

    Where ``path`` is a folder with something in it, that is replaced, or else it is an error. Raises OSError; nothing
    is left behind then, nor after any other exception. What was there comes back: at once, or with the
    next call where the disk lets nothing be renamed.
    """
    clear_leftovers(path.parent, path.name)
    _give_back(path)
    beside, handle = _held_folder(path)
    old = path.with_name(f".{path.name}.{secrets.randbits(60)}.old")  # which nobody deletes as a leftover
    try:
        yield beside
        _flush_folder(beside)
        try:
            if replace and path.is_dir():
                os.rename(path, old)
            os.rename(beside, path)
        except BaseException:
            if old.is_dir() and not path.exists():
                try:
                    os.rename(old, path)
                except OSError as again:
                    raise OSError(f"{again.strerror}; what was there is in {old.name}") from None
            raise
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if path.exists():  # else it is all that is left
            shutil.rmtree(old, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _give_back(path: Path) -> None:
    """Give a folder back that was moved aside by a process which could not put another one in its place."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*.old"):
        with contextlib.suppress(OSError):
            if path.exists():
                shutil.rmtree(aside)
            else:
                os.rename(aside, path)


def _named_beside(path: Path) -> Path:
    """Return a name that no other process has, of what is to become ``path``."""
    return path.with_name(f".{path.name}.{secrets.randbits(60)}{PART}")


def _held_folder(path: Path) -> tuple[Path, int | None]:
    """Make a folder beside ``path`` and lock it, as ``_part`` does a file; return it, and what holds the lock."""
    while True:
        beside = _named_beside(path)
        beside.mkdir()
        if fcntl is None:  # on Windows no folder can be opened, and none is deleted as a leftover
            return beside, None
        with contextlib.suppress(FileNotFoundError):  # it was taken for a leftover before it was locked
            handle = os.open(beside, os.O_RDONLY)
            with contextlib.suppress(OSError):  # the file system has no locks: nothing is deleted there
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_there(beside, handle):
                return beside, handle
            os.close(handle)


def _is_there(path: Path, handle: int) -> bool:
    """Return whether an open file still has this name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except OSError:
        return False


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, all or nothing. Raises OSError where it cannot be written, or is a link."""
    if path.is_symlink():
        raise OSError(f"{path.name} is a link")
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes have left half written in a folder; only of what is called ``name``, if given."""
    for other in folder.glob(f".*{PART}"):
        match = LEFTOVER.fullmatch(other.name)
        if match and name in (None, match["name"]):
            _delete_unless_locked(other)


def _delete_unless_locked(path: Path) -> None:
    """Delete a leftover, unless a process is writing it."""
    if fcntl is None:  # who writes keeps it open, and Windows deletes no open file
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def open_regular(path: Path) -> int:
    """Return a descriptor to read a file that is one: no link, pipe or device. Raises OSError."""
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"this is {KINDS.get(kind, 'no file')}, not a file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("this is not a file")
    return handle


KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def read_regular(path: Path) -> bytes:
    """Return the content of a file that is one: no link, pipe or device. Raises OSError."""
    with open(open_regular(path), "rb") as file:
        return file.read()


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Sources that are kept, so that several runs of one process read each file once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from gpumlp.data.source.dialect import Dialect
from gpumlp.data.source.query import read_query
from gpumlp.data.source.read import Source, read


class SourceCache:
    """Reads sources and keeps them. Changes of the files are not seen."""

    def __init__(self) -> None:
        self._sources: dict[tuple[Any, ...], Source] = {}
        self._states: dict[Path, tuple[str, int, int]] = {}

    def state_of(self, path: Path) -> tuple[str, int, int]:
        """Return the name, size and date of a file as they were first. Raises OSError where it is not there."""
        if path not in self._states:
            status = path.stat()
            self._states[path] = str(path), status.st_size, status.st_mtime_ns
        return self._states[path]

    def read(self, paths: Sequence[Path], dialect: Dialect, texts: Collection[str]) -> Source:
        """Return what ``read`` returns."""
        key = (tuple(paths), dialect, tuple(texts))
        if key not in self._sources:
            self._sources[key] = read(tuple(paths), dialect, texts=texts)
        return self._sources[key]

    def query(self, text: str, folder: Path, dialect: Dialect, texts: Collection[str]) -> Source:
        """Return what ``read_query`` returns."""
        key = (text, folder, dialect, tuple(texts))
        if key not in self._sources:
            self._sources[key] = read_query(text, folder, dialect, texts=texts)
        return self._sources[key]

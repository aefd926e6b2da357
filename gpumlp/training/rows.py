"""The rows of a configuration in memory, or on disk where they are too many for that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpumlp.config import Settings
from gpumlp.data import Divided, Encoder, Packs, Prepared, files_of, key_of, query_files
from gpumlp.data.source.room import reading_into
from gpumlp.errors import DataError, Note
from gpumlp.limits import gigabytes

WINDOW = 1 << 19
"""Rows that are shuffled among each other, unless memory is too small or the settings say otherwise."""

ENCODED, STAGED = 2, 8
"""The memory of rows is divided by these: what rows may take as they are encoded, and what a window may."""

TEXT_GROWS = 4
"""Bytes of memory that a byte of a file may take: a cell takes two bytes of text at least, and eight of memory."""

Encode = Callable[[Divided], Prepared]
"""What is done with rows once they are divided and the encoding is fitted."""


@dataclass(frozen=True)
class Keeping:
    """Where the rows of a configuration are kept.

    Parameters
    ----------
    settings : of the run
    encoder : an encoding that was fitted before; None: to be fitted
    always : whether rows are packed even where memory holds them
    """

    settings: Settings
    encoder: Encoder | None = None
    always: bool = False

    def rows(self, read: Callable[[Encode], Prepared]) -> Prepared:
        """Return rows, given what reads them: from their pack, or from memory where it holds them.

        Several processes that want the same rows wait for the first to pack them.
        """
        key, size = self._key_and_size()
        memory = self.settings.data.memory
        large = self._asked or (memory is not None and TEXT_GROWS * size > memory)
        with ExitStack() as held:
            if key is not None and large:
                with suppress(DataError):  # a folder that cannot be written matters where rows are packed
                    held.enter_context(self._packs.making(key))
                    large = False
            if key is not None and (found := self._packs.find(key, self.encoder)) is not None:
                rows = sum(map(len, found.parts.values()))
                if self._is_too_much(rows * found.encoder.row_bytes):
                    return self._told(found)

            def encode(divided: Divided) -> Prepared:
                if key is None or not self._is_too_much(divided.nbytes):
                    return divided.encoded()
                if len(divided.tables) < len(divided.parts):
                    if not self._asked:
                        return divided.encoded()
                    raise DataError("only tables are packed, not arrays", where=self.settings.data.title)
                if large:
                    held.enter_context(self._packs.making(key))
                return self._told(self._packs.pack(divided, key, self.settings.training.seed))

            with reading_into(self.settings.data.room):
                return read(encode)

    @property
    def _packs(self) -> Packs:
        return self.settings.data.packs

    @property
    def _asked(self) -> bool:
        """Whether the user wants rows to be packed."""
        return self.always or self.settings.data.pack.window is not None

    def _is_too_much(self, needed: int) -> bool:
        """Return whether rows that take so many bytes are packed."""
        memory = self.settings.data.memory
        return self._asked or (memory is not None and needed > memory // ENCODED)

    def _told(self, found: Prepared) -> Prepared:
        """Return packed rows with the size of a window, and a note on where they are."""
        if self.always:
            return found
        data, row = self.settings.data, found.encoder.row_bytes
        rows, window = sum(map(len, found.parts.values())), data.pack.window
        what = f"{rows:,} rows"
        if window is None:
            memory = data.memory or 0
            window = max(1, min(WINDOW, memory // STAGED // row))
            what += f" take {gigabytes(rows * row)}, over half of data.max_memory ({gigabytes(memory)}):"
        else:
            what += " are"
        place = f"packed in {data.packs.folder}, {min(window, len(found.train)):,} shuffled at a time"
        return replace(found, window=window, notes=(*found.notes, Note(f"{what} {place} (data.pack.window)")))

    def _key_and_size(self) -> tuple[str | None, int]:
        """Return the key of the rows, None where their files cannot be told, and the bytes of these files."""
        settings = self.settings
        try:
            files = _files(settings)
            size = sum(path.stat().st_size for path in files)
            return key_of([_deciding(settings), None if self.encoder is None else _digest(self.encoder)], files), size
        except (DataError, OSError):  # which is told when they are read
            return None, 0


def _files(settings: Settings) -> list[Path]:
    """Return the files that the rows are in."""
    data = settings.data
    folder = Path(data.folder or "")
    named = [each for each in (data.train, data.split.validation, data.split.test) if isinstance(each, str | tuple)]
    found = [path for each in named for path in files_of(each, folder)]
    return found + ([] if data.query is None else [Path(path) for path in query_files(data.query, folder)])


def _deciding(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide how rows are read, divided and encoded."""
    data = settings.data.model_dump(mode="json", exclude={"max_memory", "pack", "folder"})
    others = {"task": settings.task, "goal": asdict(settings.goal), "seed": settings.training.seed}
    return {"data": data, **others, "version": version("gpumlp")}


def _digest(encoder: Encoder) -> str:
    """Return a checksum of an encoding."""
    fields, arrays = encoder.to_state()
    digest = hashlib.sha256(repr(fields).encode())
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()

"""The rows of a configuration in memory, or on disk where they are too many for that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpumlp.config import Settings
from gpumlp.data import Divided, Encoder, Packs, Prepared, SourceCache, files_of, key_of, query_files
from gpumlp.data.source.idx import beside
from gpumlp.data.source.room import reading_into
from gpumlp.errors import DataError, Note
from gpumlp.limits import gigabytes
from gpumlp.store.formats import checksum_of
from gpumlp.version import VERSION

WINDOW = 1 << 19
"""Rows that are shuffled among each other, unless memory is too small or the settings say otherwise."""

ENCODED, STAGED = 2, 8
"""The memory of rows is divided by these: what rows may take as they are encoded, and what windows may."""

TEXT_GROWS = 4
"""Bytes of memory that a byte of a file may take: a cell takes two bytes of text at least, and eight of memory."""

Encode = Callable[[Divided], Prepared]
"""What is done with rows once they are divided and the encoding is fitted."""


@dataclass(frozen=True)
class Keeping:
    """Where the rows of a configuration are kept.

    Parameters
    ----------
    settings
        Settings of the run.
    encoder
        An encoding that was fitted before; None: to be fitted.
    always
        Whether rows are packed even where memory holds them.
    keep_sources
        Whether the raw rows of each part are wanted, too: on disk, where memory is too small.
    cache
        What keeps the files that are read.
    """

    settings: Settings
    encoder: Encoder | None = None
    always: bool = False
    keep_sources: bool = False
    cache: SourceCache = field(default_factory=SourceCache)

    def rows(self, read: Callable[[Encode], Prepared]) -> Prepared:
        """Return rows, given what reads them: from their pack, or from memory where it holds them.

        Several processes that want the same rows wait for the first to pack them.
        """
        keys, size = self._keys_and_size()
        packs, memory, held = self._packs, self.settings.data.memory, ExitStack()

        def encode(divided: Divided) -> Prepared:
            if not keys or not self._is_too_much(divided.nbytes):
                return divided.encoded(keep_sources=self.keep_sources)
            with nullcontext() if is_mine else packs.making(keys[-1]):
                packed = next(filter(None, (packs.find(key, divided.encoder) for key in keys)), None)
                prepared = self._with_note(packed or packs.pack(divided, keys[-1], self.settings.training.seed))
            return replace(prepared, sources=dict(divided.parts)) if self.keep_sources else prepared

        with held:
            is_mine = False
            if keys and (self._is_requested or (memory is not None and TEXT_GROWS * size > memory)):
                with suppress(DataError):  # a folder that cannot be written matters where rows are packed
                    held.enter_context(packs.making(keys[-1]))
                    is_mine = True
            for key in keys if not self.keep_sources else ():
                pack = packs.find(key, self.encoder)
                if pack is not None and self._is_too_much(_encoded_bytes(pack)):
                    return self._with_note(pack)

            with reading_into(self.settings.data.room):
                return read(encode)

    @property
    def _packs(self) -> Packs:
        return self.settings.data.packs

    @property
    def _is_requested(self) -> bool:
        """Whether the user wants rows to be packed."""
        return self.always or self.settings.data.pack.window is not None

    def _is_too_much(self, needed: int) -> bool:
        """Return whether rows that take so many bytes are packed."""
        memory = self.settings.data.memory
        return self._is_requested or (memory is not None and needed > memory // ENCODED)

    def _with_note(self, packed: Prepared) -> Prepared:
        """Return packed rows with the size of a window, and a note on where they are."""
        if self.always:
            return packed
        data, row = self.settings.data, packed.encoder.row_bytes
        window, rows = data.pack.window, f"{sum(map(len, packed.parts.values())):,} rows"
        if window is None:
            memory = data.memory or 0
            window = max(1, min(WINDOW, memory // STAGED // row // self.settings.members.apart))
            rows += f" take {gigabytes(_encoded_bytes(packed))}, over half of data.max_memory ({gigabytes(memory)}):"
        else:
            rows += " are"
        packing = f"packed in {data.packs.folder}, {min(window, len(packed.train)):,} shuffled at a time"
        return replace(packed, window=window, notes=(*packed.notes, Note(f"{rows} {packing} (data.pack.window)")))

    def _keys_and_size(self) -> tuple[list[str], int]:
        """Return the keys that the rows may have, none where their files cannot be told, and the bytes of these.

        The last key is that of the encoding, the one before it of that which is fitted: often it is the same.
        """
        deciding = _deciding(self.settings)
        by = [deciding] if self.encoder is None else [deciding, deciding | {"encoder": _checksum(self.encoder)}]
        try:
            states = [self.cache.state_of(path) for path in _files(self.settings)]
            return [key_of(each, states) for each in by], sum(size for _, size, _ in states)
        except (DataError, OSError):  # which is told when they are read
            return [], 0


def _encoded_bytes(prepared: Prepared) -> int:
    """Return the bytes that rows take as they are encoded."""
    return prepared.encoder.row_bytes * sum(map(len, prepared.parts.values()))


def _files(settings: Settings) -> list[Path]:
    """Return the files that the rows are in."""
    data = settings.data
    folder = Path(data.folder or "")
    named = [each for each in (data.train, data.split.validation, data.split.test) if isinstance(each, str | tuple)]
    files = [each for name in named for path in files_of(name, folder) for each in (path, *beside(path))]
    return files + ([] if data.query is None else [Path(path) for path in query_files(data.query, folder)])


def _deciding(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide how rows are read, divided and encoded."""
    data = settings.data.model_dump(mode="json", exclude={"max_memory", "pack", "folder"})
    others = {"task": settings.task, "goal": asdict(settings.goal), "seed": settings.training.seed}
    return {"data": data, **others, "version": VERSION}


def _checksum(encoder: Encoder) -> str:
    fields, arrays = encoder.to_state()
    return checksum_of(arrays, fields)

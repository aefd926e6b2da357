"""A folder of packs: the rows of a task in blocks, each under a key of what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp.data.dataset import Dataset
from gpumlp.data.encoder import Encoder
from gpumlp.data.encoding.columns import News
from gpumlp.data.packed.blocks import HINT, BlockLayout, PackedRows, Writer, checked_checksums
from gpumlp.data.preparation import Divided, Prepared
from gpumlp.data.source.read import Source
from gpumlp.data.source.room import require_disk
from gpumlp.errors import DataError, Note, RunError, WriteError
from gpumlp.limits import gigabytes
from gpumlp.phases import phase
from gpumlp.seeds import PACK, generator
from gpumlp.store.formats import is_whole, make_folder, read_arrays, read_json, write_arrays, write_sealed
from gpumlp.store.lock import locked

FORMAT = 2
INDEX, ENCODER = "pack.json", "encoder.safetensors"
_PART, _LOCK = ".part", ".lock"
_WAIT_S = 0.2
_KEY_LENGTH = 24
_KEYS = "[0-9a-f]" * _KEY_LENGTH  # what packs are called: nothing else of the folder is deleted
_TRAIN = "train"


@dataclass(frozen=True)
class Packs:
    """A folder of packs.

    Parameters
    ----------
    folder
        Which is made where it is not there.
    max_bytes
        Most bytes that all packs take together; the one that was used longest ago makes room for a new one.
    memory
        Bytes that rows take at a time while they are packed.
    """

    folder: Path
    max_bytes: int | None = None
    memory: int = 1 << 28

    def find(self, key: str, encoder: Encoder | None = None) -> Prepared | None:
        """Return the rows under a key, None where there are none, or they are encoded in another way.

        Raises
        ------
        DataError
            If the pack is damaged.
        """
        folder = self.folder / key
        if not (folder / INDEX).exists():
            return None
        prepared = _open(folder)
        if encoder is not None and not _alike(encoder, prepared.encoder):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / INDEX)  # it has been used
        return prepared

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Wait until nobody else packs rows under this key, and keep others waiting meanwhile.

        Raises
        ------
        WriteError
            If the folder cannot be written.
        """
        while True:
            with _writing(), locked(self.folder / f"{key}{_LOCK}") as mine:
                if mine:
                    yield
                    return
            time.sleep(_WAIT_S)

    @phase("pack")
    def pack(self, divided: Divided, key: str, seed: int) -> Prepared:
        """Encode rows and leave them under a key, whole or not at all.

        Rows for training are dealt to blocks at random, so that each block is like all of them; others keep their
        order.

        Raises
        ------
        DataError
            If the rows do not fit the encoding, or the disk has no room for them.
        WriteError
            If the folder cannot be written.
        """
        self._make_room(key, divided.nbytes)
        target, beside = self.folder / key, self.folder / f".{key}{_PART}"
        with _writing():
            for old in (target, beside):
                shutil.rmtree(old, ignore_errors=True)
            beside.mkdir(parents=True)
            try:
                self._write(divided, beside, seed)
                os.replace(beside, target)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
        return _open(target)

    def _write(self, divided: Divided, folder: Path, seed: int) -> None:
        encoder, notes, parts = divided.encoder, list(divided.notes), {}
        for name, source in divided.parts.items():
            news, count = News(), encoder.count(source)
            targets, weights = encoder.encode_targets(source, news)
            layout, writer = None, None
            for rows in self._chunks(source, count, encoder):
                raw = source.take(rows)
                raw.ask_for()
                features, _ = encoder.encode(raw, targets=False, news=news)
                chunk = Dataset(features.features, targets[rows], None if weights is None else weights[rows])
                if layout is None or writer is None:
                    layout = BlockLayout.of(count, chunk)
                    writer = Writer(folder, name, layout, _dealt(layout, seed) if name == _TRAIN else None)
                writer.add(chunk)
            assert layout is not None
            assert writer is not None
            writer.flush()
            parts[name] = {**layout.to_state(), "checksums": writer.checksums}
            notes += [note.of(name) for note in news.notes()]
        fields, arrays = encoder.to_state()
        checksum = write_arrays(folder / ENCODER, arrays, fields)
        index = {"format": FORMAT, "encoder": checksum, "parts": parts, "notes": [note.to_json() for note in notes]}
        write_sealed(folder / INDEX, index)

    def _chunks(self, source: Source, count: int, encoder: Encoder) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        """Yield the numbers of rows that are encoded together."""
        # As they are read, as encoded, in the order of blocks, and a copy.
        size = max(1, self.memory // (source.row_bytes + 3 * encoder.row_bytes))
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count))

    def _make_room(self, key: str, needed: int) -> None:
        """Delete packs until there is room for so many bytes. Raises DataError where there cannot be."""
        with _writing():
            make_folder(self.folder)
        require_disk(self.folder, needed, "the packed rows")
        for leftover in self.folder.glob(f".{_KEYS}{_PART}"):
            name = leftover.name.removeprefix(".").removesuffix(_PART)
            if name != key:
                with _writing(), locked(self.folder / f"{name}{_LOCK}") as mine:
                    if mine:
                        shutil.rmtree(leftover, ignore_errors=True)
        if self.max_bytes is None:
            return
        if needed > self.max_bytes:
            message = f"the packed rows take {gigabytes(needed)}, and packs may take {gigabytes(self.max_bytes)}"
            raise DataError(message, where=str(self.folder), hint="set a larger data.pack.max_size")
        packs = [each.parent for each in self.folder.glob(f"{_KEYS}/{INDEX}") if each.parent.name != key]
        packs.sort(key=lambda pack: (pack / INDEX).stat().st_mtime_ns)
        sizes = {pack: sum(file.stat().st_size for file in pack.iterdir()) for pack in packs}
        while packs and sum(sizes.values()) + needed > self.max_bytes:
            shutil.rmtree(packs[0], ignore_errors=True)
            sizes.pop(packs.pop(0))


def key_of(fields: Any, states: Iterable[tuple[str, int, int]]) -> str:
    """Return the key of rows: of what decides about them, and of the size and date of their files."""
    text = json.dumps([FORMAT, fields, list(states)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def _open(folder: Path) -> Prepared:
    """Return the rows of a pack. Raises DataError where it is damaged."""
    try:
        index = read_json(folder / INDEX)
        if not isinstance(index, dict) or not is_whole(index) or index.get("format") != FORMAT:
            raise RunError("the index is damaged, or of another version")
        arrays, fields = read_arrays(folder / ENCODER)
        if fields["sha256"] != index["encoder"]:
            raise RunError("the encoding is that of other rows")
        encoder = Encoder.from_state(fields, arrays)
        parts = {}
        for name, each in index["parts"].items():
            layout = BlockLayout.from_state(each)
            parts[name] = PackedRows(folder, name, layout, checked_checksums(layout, each.get("checksums")))
        notes = tuple(Note(each["text"], each["column"]) for each in index["notes"])
        return Prepared(parts[_TRAIN], parts.get("validation"), parts.get("test"), encoder, notes)
    except (RunError, KeyError, TypeError, AttributeError) as error:
        message = error.what if isinstance(error, RunError) else "the index is damaged"
        raise DataError(f"damaged packed rows: {message}", where=str(folder), hint=HINT) from None


def _dealt(layout: BlockLayout, seed: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the block that each row goes to: drawn at random, as many to each block as it has rows."""
    order = generator(seed, PACK).permutation(layout.count)
    order //= layout.size
    return order.astype(np.int32)


def _alike(encoder: Encoder, other: Encoder) -> bool:
    """Return whether two encodings are the same to the bit."""
    (fields, arrays), (others, more) = encoder.to_state(), other.to_state()
    same = fields == others and arrays.keys() == more.keys()
    return same and all(np.array_equal(array, more[name]) for name, array in arrays.items())


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turn what the system says against writing a pack into a WriteError with a hint."""
    hint = "choose another folder by data.pack.folder"
    try:
        yield
    except WriteError as error:
        raise WriteError(f"rows cannot be packed here: {error.what}", where=error.where, hint=hint) from None
    except OSError as error:
        message = f"rows cannot be packed here: {error.strerror or error}"
        raise WriteError(message, where=str(error.filename or ""), hint=hint) from None

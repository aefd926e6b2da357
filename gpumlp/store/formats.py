"""The files of runs and models: text, JSON, and arrays with a checksum, each written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as format_safetensors

from gpumlp.errors import DamageError, RunError, WriteError
from gpumlp.store.atomic import append, new_folder, read_regular, replace_file

Arrays = dict[str, np.ndarray[Any, Any]]
_HEADER_LENGTH = 8  # safetensors: a little-endian u64 length, a JSON header, then the tensors


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing ``path`` into a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


@contextlib.contextmanager
def making_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to write files in that becomes ``path`` when all has gone well, or nothing does.

    Where ``path`` is a folder with something in it, that is replaced, or else it is an error. Raises WriteError.
    """
    with writing(path), new_folder(path, replace=replace) as beside:
        try:
            yield beside
        except WriteError as error:  # by the name that the file would have had
            failed = Path(error.where or "")
            if not failed.is_relative_to(beside):
                raise
            raise WriteError(error.what, where=str(path / failed.relative_to(beside))) from None


def check_free(path: Path, *, force: bool) -> None:
    """See that there is a folder to write in, and nothing there that may not be overwritten. Raises RunError."""
    if not path.parent.is_dir():
        message = f"cannot be written: there is no folder {str(path.parent)!r}"
        raise RunError(message, where=str(path), hint="create it first")
    if path.is_dir():
        raise RunError("cannot be written: this is a folder", where=str(path), hint="pass the name of a file in it")
    if path.is_file() and not force:
        raise RunError("the file exists", where=str(path), hint="choose another name, or overwrite it with --force")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    A link is followed; what is no regular file (a pipe, a device) is written to as it is.
    Raises WriteError where the disk is full or the folder cannot be written; nothing is left behind then.
    """
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            replace_file(Path(os.path.realpath(path)), content)  # a link that leads in a circle is replaced


def write_text(path: Path, text: str) -> None:
    """Write a text file as :func:`write_bytes` does."""
    write_bytes(path, text.encode())


def keep_bytes(path: Path, content: bytes) -> None:
    """Write a file of a run or a model as :func:`write_bytes` does, but never through a link, nor to a device.

    Raises WriteError.
    """
    check_regular(path)
    with writing(path):
        replace_file(path, content)


def check_regular(path: Path) -> None:
    """Raise WriteError where a file of a run would be written through a link, or to a pipe or a device."""
    with writing(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OSError("this is a link, or not a regular file")


def append_line(path: Path, value: Any) -> str:
    """Add a value to a file of JSON lines; return the line. Raises WriteError and leaves the file as it was."""
    line = json_line(value)
    with writing(path):
        append(path, line.encode())
    return line


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there. Raises WriteError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def keep_folder(path: Path) -> None:
    """Make a folder of a run, unless it is there. Raises WriteError where a link is: it may lead anywhere."""
    with writing(path):
        if path.is_symlink():
            raise OSError("this is a link")
        path.mkdir(exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, two blanks deep, as :func:`write_bytes` does."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Return a value as JSON, two blanks deep. What is not a number (an AUC of one class) is null there."""
    return json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)


def json_line(value: Any) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(v) for key, v in value.items()}
        case list() | tuple():
            return [_without_nan(v) for v in value]
        case float() if not math.isfinite(value):
            return None
    return value


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DamageError where it is missing or damaged."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise DamageError("the file is missing", where=str(path)) from None
    except OSError as error:
        raise DamageError(f"cannot be read: {error}", where=str(path)) from None
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> Any:
    """Return what a JSON text stands for. Raises DamageError where it is damaged."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"cannot be read: {error}", where=where) from None


def write_sealed(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write a file of a run or a model as JSON with a checksum, which is ``sha256`` of what is returned."""
    content, checksum = format_sealed(fields)
    keep_bytes(path, content)
    return {**fields, "sha256": checksum}


def format_sealed(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the content of the file that :func:`write_sealed` writes, and its checksum."""
    whole = sealed(_without_nan(fields))
    return (to_json(whole) + "\n").encode(), str(whole["sha256"])


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-able fields with one more, ``sha256``: a checksum of the others."""
    return {**fields, "sha256": checksum_of({}, fields)}


def is_whole(fields: Mapping[str, Any]) -> bool:
    """Return whether fields are as :func:`sealed` left them."""
    return fields.get("sha256") == checksum_of({}, {k: v for k, v in fields.items() if k != "sha256"})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> str:
    """Write arrays and JSON-able metadata as one safetensors file, with a checksum. Return the checksum."""
    content, checksum = format_arrays(arrays, meta)
    keep_bytes(path, content)
    return checksum


def format_arrays(arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the content of the file that :func:`write_arrays` writes, and its checksum."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    checksum = checksum_of(contiguous, meta)
    # One entry only: safetensors writes several in no fixed order, and equal models should be equal files.
    text = json.dumps({"meta": meta, "sha256": checksum}, sort_keys=True)
    return format_safetensors(contiguous, metadata={"gpumlp": text}), checksum


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and metadata that :func:`write_arrays` wrote, the checksum under ``sha256``.

    Raises DamageError where the file is missing, cut short, or does not have the checksum it was written with.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise DamageError("the file is missing", where=str(path)) from None
    except OSError as error:
        raise DamageError(f"not a gpumlp file, or damaged: {error}", where=str(path)) from None
    return parse_arrays(content, str(path))


def parse_arrays(content: bytes, where: str) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and metadata of which :func:`format_arrays` made the content. Raises DamageError."""
    try:
        arrays = parse_safetensors(content)
        length = int.from_bytes(content[:_HEADER_LENGTH], "little")
        header = json.loads(content[_HEADER_LENGTH : _HEADER_LENGTH + length])
        text = json.loads(header["__metadata__"]["gpumlp"])
        meta, checksum = dict(text["meta"]), text["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"not a gpumlp file, or damaged: {error}", where=where) from None
    if checksum != checksum_of(arrays, meta):
        raise DamageError("the file is damaged: its content does not match its checksum", where=where)
    return arrays, meta | {"sha256": checksum}


def checksum_of(arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> str:
    """Return the SHA-256 checksum, in hexadecimal, of arrays and JSON-able metadata."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()

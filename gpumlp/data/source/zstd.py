"""Whether a file of Zstandard frames is whole: the engine reads what is cut short up to the cut, without an error."""

from __future__ import annotations

import os
from typing import IO

_MAGIC = 0xFD2FB528
_SKIPPED = 0x184D2A5  # without the last four bits
_RLE, _RESERVED = 1, 3


def require_whole(stream: IO[bytes]) -> None:
    """Read over the frames and their blocks (RFC 8878, section 3.1), without unpacking any.

    Raises
    ------
    ValueError
        If these are not frames, or the last is cut short.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    while True:
        magic = _number(stream, 4)
        if magic >> 4 == _SKIPPED:
            stream.seek(_number(stream, 4), os.SEEK_CUR)
        elif magic == _MAGIC:
            _pass_frame(stream)
        else:
            raise ValueError("no frame of Zstandard")
        if stream.tell() > size:
            raise ValueError("cut short")
        if stream.tell() == size:
            return


def _pass_frame(stream: IO[bytes]) -> None:
    descriptor = _number(stream, 1)
    is_single, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    dictionary, content = (0, 1, 2, 4)[descriptor & 3], (is_single, 2, 4, 8)[descriptor >> 6]
    stream.seek(1 - is_single + dictionary + content, os.SEEK_CUR)
    is_last = 0
    while not is_last:
        block = _number(stream, 3)
        is_last, kind, length = block & 1, block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise ValueError("no block of Zstandard")
        stream.seek(1 if kind == _RLE else length, os.SEEK_CUR)
    stream.seek(4 * has_checksum, os.SEEK_CUR)


def _number(stream: IO[bytes], count: int) -> int:
    content = stream.read(count)
    if len(content) < count:
        raise ValueError("cut short")
    return int.from_bytes(content, "little")

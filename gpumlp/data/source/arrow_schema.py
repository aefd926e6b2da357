"""What programs that write Parquet by Arrow say of its columns: which are times that passed, and in which unit.

Parquet has no type for these. They are plain integers there, and the schema of Arrow stands beside them.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass

UNITS = (1, 10**3, 10**6, 10**9)
"""Parts of a second, by the number of the unit."""

_DURATION, _MILLISECONDS = 18, 1
_PREFIX_BYTES = 8


@dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer: an offset to where its fields are, which may be left out.

    References
    ----------
    https://flatbuffers.dev/internals/
    """

    content: bytes
    start: int

    def integer(self, number: int, form: str, default: int = 0) -> int:
        """Return a field that is an integer, by its format for ``struct``."""
        at = self._at(number)
        return self._read(form, at) if at else default

    def table(self, number: int) -> _Table:
        """Return a field that is a table."""
        return _Table(self.content, self._followed(self._at(number)))

    def tables(self, number: int) -> list[_Table]:
        """Return a field that is a vector of tables."""
        start = self._followed(self._at(number)) + 4
        starts = range(start, start + 4 * self._read("<I", start - 4), 4)
        return [_Table(self.content, self._followed(each)) for each in starts]

    def text(self, number: int) -> str:
        """Return a field that is a text."""
        start = self._followed(self._at(number)) + 4
        return self.content[start : start + self._read("<I", start - 4)].decode()

    def _at(self, number: int) -> int:
        """Return where a field is, 0 if it is left out."""
        offsets = self.start - self._read("<i", self.start)
        entry = 4 + 2 * number
        offset = self._read("<H", offsets + entry) if entry < self._read("<H", offsets) else 0
        return self.start + offset if offset else 0

    def _followed(self, at: int) -> int:
        return at + self._read("<I", at)

    def _read(self, form: str, at: int) -> int:
        (value,) = struct.unpack_from(form, self.content, at)
        return int(value)


def durations_of(schema: bytes) -> Mapping[str, int]:
    """Return which columns are times that passed, each with the parts of a second that its integers count.

    Parameters
    ----------
    schema
        The value of the key ``ARROW:schema``: a message of Arrow, by base64.

    References
    ----------
    https://github.com/apache/arrow/blob/main/format/Schema.fbs
    """
    try:
        message = base64.b64decode(schema)[_PREFIX_BYTES:]
        (root,) = struct.unpack_from("<I", message)
        fields = _Table(message, root).table(2).tables(1)
        return {
            field.text(0): UNITS[field.table(3).integer(0, "<h", _MILLISECONDS)]
            for field in fields
            if field.integer(2, "<B") == _DURATION
        }
    except (struct.error, ValueError, IndexError):  # damaged: the columns are read as what Parquet says
        return {}

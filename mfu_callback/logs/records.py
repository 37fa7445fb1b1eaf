"""Reads the records of an event file and finds damage in it.

Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. A record consists of the
length of its data (8 bytes), a checksum of the length (4 bytes), the data, and a checksum of the data (4 bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

_LENGTH = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class DamagedFileError(Exception):
    """A file that is damaged or not an event file; the message says how and where."""


class CutOffError(DamagedFileError):
    """A file that ends in the middle of a record, for example because it is still being written."""


def records(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the end of each record, as a byte offset in the file, and its data.

    Args:
        path: The file.
        offset: Byte at which to start; a record must begin there.

    Raises:
        DamagedFileError: If the file is not an event file, or is damaged from some byte on.
        CutOffError: If the file ends in the middle of a record.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        while head := file.read(_LENGTH.size):
            if len(head) < _LENGTH.size:
                raise CutOffError(_cut_off(offset))
            length, checksum = _LENGTH.unpack(head)
            if checksum != _masked(head[:8]):
                raise DamagedFileError("is not an event file" if not offset else f"is damaged at byte {offset:,}")
            rest = file.read(length + _CHECKSUM.size)
            if len(rest) < length + _CHECKSUM.size:
                raise CutOffError(_cut_off(offset))
            data = rest[:length]
            if _CHECKSUM.unpack(rest[length:])[0] != _masked(data):
                raise DamagedFileError(f"is damaged at byte {offset:,}")
            offset += _LENGTH.size + len(rest)
            yield offset, data


def _cut_off(offset: int) -> str:
    return f"ends in the middle of a record, at byte {offset:,}: cut off, or still being written"


def _masked(data: bytes) -> int:
    checksum: int = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF

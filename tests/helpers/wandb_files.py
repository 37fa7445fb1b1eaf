"""Reads the file that W&B writes offline: a log of records in LevelDB's format, each a protocol buffer."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FILE_HEAD = b":W&B"
_HEAD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_BLOCK, _HEAD_OF_FILE = 32768, 7


def history(directory: Path) -> list[dict[str, Any]]:
    """The rows of the only run below a directory, by key."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = directory.rglob("run-*.wandb")
    read = [Record.FromString(data) for data in _records(file.read_bytes())]
    rows = [record.history for record in read if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def _records(data: bytes) -> Iterator[bytes]:
    assert data.startswith(_FILE_HEAD)
    position, parts = _HEAD_OF_FILE, []
    while position + _HEAD.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEAD.size:  # a head does not fit into the rest of the block
            position += left
            continue
        _, length, kind = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        parts.append(data[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
        else:
            assert kind in (_FIRST, _MIDDLE)

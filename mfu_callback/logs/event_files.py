"""Reads runs from TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray

from mfu_callback.logs.names import RECORD_TAG
from mfu_callback.logs.points import Points
from mfu_callback.logs.printable import printable
from mfu_callback.logs.record_json import record_from
from mfu_callback.logs.records import DamagedFileError, records
from mfu_callback.logs.run_log import RunLog, own_tag


def read_event_files(name: str, files: Iterable[Path]) -> RunLog:
    """Read one run from its event files; a damaged file is read up to the damage.

    Args:
        name: Name of the run.
        files: The event files, in any order.
    """
    points, problems = Points(), []
    record: Mapping[str, Any] | None = None
    for file in sorted(files):
        try:
            if not file.stat().st_size:
                problems.append(f"{printable(file.name)} is empty")
            for event in _events(file):
                for value in event.summary.value:
                    if value.tag == RECORD_TAG:
                        record = record_from(b"".join(value.tensor.string_val)) or record
                    elif (tag := own_tag(value.tag)) is not None:
                        points.add(tag, event.step, _number(value), event.wall_time)
        except (DamagedFileError, OSError) as error:
            problems.append(f"{printable(file.name)} {_in_words(error)}; what comes before is shown")
    return RunLog(name=name, scalars=points.series(), record=record, problems=tuple(problems))


def _events(file: Path) -> Iterator[Event]:
    for offset, data in records(file):
        try:
            yield Event.FromString(data)
        except DecodeError as error:
            raise DamagedFileError(f"holds something other than events before byte {offset:,}") from error


def _number(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    try:
        array = make_ndarray(value.tensor)
        return float(array) if array.ndim == 0 else None
    except (TypeError, ValueError):  # text, or a kind of tensor that MFUCallback does not write
        return None


def _in_words(error: Exception) -> str:
    return f"cannot be read ({error})" if isinstance(error, OSError) else str(error)

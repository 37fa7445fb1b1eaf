"""The state of MFUCallback in a checkpoint, and when the fit that wrote it was last seen to train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mfu_callback.logs.names import SUMMARY_FILE
from mfu_callback.logs.record_json import record_from
from mfu_callback.meter.job import Job, job_of, state_of

_DIRECTORY = "directory"


def checkpoint_state(job: Job, directory: Path | None) -> dict[str, Any]:
    """The state that a checkpoint keeps: numbers, and a text.

    Args:
        job: What the job has done.
        directory: Where the fit writes its logs; None if that is not known.
    """
    return {**state_of(job), _DIRECTORY: None if directory is None else str(directory.absolute())}


def last_seen(job: Job, state: Mapping[str, Any], ended: Job | None, *, before: float) -> float:
    """When the fit that wrote a checkpoint last trained, as far as that can be told, in seconds since 1970.

    It is known exactly if the fit came to an end, by itself or by an exception: in this process, or as the latest in
    its directory, where ``mfu_summary.json`` says so. Of a fit that was killed it is taken to be when the logs in its
    directory were last written, at its last logging step. Without any, nothing is known after the checkpoint.

    Args:
        job: The job up to the checkpoint.
        state: The checkpoint's state.
        ended: The job at the end of the fit before in this process; None if there was none.
        before: What was written later is of this process.
    """
    directory = _directory_in(state)
    for end in (ended, _end_in(directory)):
        if end is not None and end.began_at == job.began_at and end.at >= job.at:
            return end.at if end.steps > job.steps else job.at
    return max(_last_write(directory, before), job.at)


def _directory_in(state: Mapping[str, Any]) -> Path | None:
    directory = state.get(_DIRECTORY)
    return Path(directory) if isinstance(directory, str) else None


def _end_in(directory: Path | None) -> Job | None:
    """The job in the directory's summary; None if there is none."""
    if directory is None:
        return None
    with suppress(OSError, ValueError):
        record = record_from((directory / SUMMARY_FILE).read_bytes()) or {}
        return job_of(record.get("job"))
    return None


def _last_write(directory: Path | None, before: float) -> float:
    """When a file in the directory was last written, in seconds since 1970; 0 if none was."""
    if directory is None:
        return 0.0
    try:
        with os.scandir(directory) as entries:
            written = [entry.stat().st_mtime for entry in entries if entry.is_file()]
    except (OSError, ValueError):  # gone, on another machine, or no name of a file
        return 0.0
    return max((time for time in written if time <= before), default=0.0)

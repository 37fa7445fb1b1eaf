"""Chooses one of several runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mfu_callback.logs.run_log import RunLog


def pick_run(runs: Sequence[RunLog], name: str | None, directory: Path) -> RunLog:
    """The run with this name, or the latest: by its last point, the time of its record, or the number in its name.

    Args:
        runs: The runs of the directory.
        name: Name of the run; None for the latest.
        directory: Named in the error message.

    Raises:
        LookupError: If there is no such run.
    """
    logged = [run for run in runs if run.has_values]
    if not logged:
        raise LookupError(f"no run in {directory} has logged MFU: add MFUCallback() to the callbacks of your Trainer")
    if name is None:
        return max(logged, key=_when)
    for run in logged:
        if run.name == name:
            return run
    raise LookupError(f"{directory} has no run named {name!r}. It has: {', '.join(run.name for run in logged)}")


def _when(run: RunLog) -> tuple[float, list[tuple[int, str]]]:
    times = [series.wall_times[-1] for series in run.scalars.values() if series.wall_times]
    parts = re.split(r"(\d+)", run.name)
    return max(times, default=run.record_time or 0.0), [(int(part) if part.isdigit() else -1, part) for part in parts]

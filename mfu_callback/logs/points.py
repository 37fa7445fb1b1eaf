"""Collects the points of a log, which may have any order."""

from __future__ import annotations

import math
from collections import defaultdict

from mfu_callback.logs.run_log import Series


class Points:
    """Points by tag; a step that a run resumed from a checkpoint has logged twice keeps its last value."""

    def __init__(self) -> None:
        self._points: dict[str, dict[int, tuple[float | None, float]]] = defaultdict(dict)

    def add(self, tag: str, step: int, value: float | None, wall_time: float | None) -> None:
        """Add a point if its value is a finite number.

        Args:
            tag: One of MFUCallback's tags.
            step: The Trainer's global step.
            value: The value at this step; None if it is not a number.
            wall_time: When it was logged, in seconds since 1970; None if unknown.
        """
        if value is not None and math.isfinite(value):
            self._points[tag][step] = (wall_time, value)

    def series(self) -> dict[str, Series]:
        """All points by tag, sorted by step."""
        return {tag: _series(points) for tag, points in self._points.items()}


def _series(points: dict[int, tuple[float | None, float]]) -> Series:
    steps = sorted(points)
    wall_times = [points[step][0] for step in steps]
    return Series(
        steps=steps,
        wall_times=[time for time in wall_times if time is not None],
        values=[points[step][1] for step in steps],
    )

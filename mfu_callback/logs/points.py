"""Collects points in whatever order a log has them."""

from __future__ import annotations

import math
from collections import defaultdict

from mfu_callback.logs.run_log import Series


class Points:
    """Points by tag; a step that was logged twice, by a run that went on from a checkpoint, has its last value."""

    def __init__(self) -> None:
        self._points: dict[str, dict[int, tuple[float | None, float]]] = defaultdict(dict)

    def add(self, tag: str, step: int, value: float | None, wall_time: float | None) -> None:
        """Add a point, if it is a number.

        Args:
            tag: Of ours.
            step: The Trainer's.
            value: At this step.
            wall_time: When it was logged, if that is known.
        """
        if value is not None and math.isfinite(value):
            self._points[tag][step] = (wall_time, value)

    def series(self) -> dict[str, Series]:
        """All points by tag, in the order of their steps."""
        return {tag: _series(points) for tag, points in self._points.items()}


def _series(points: dict[int, tuple[float | None, float]]) -> Series:
    steps = sorted(points)
    wall_times = [points[step][0] for step in steps]
    return Series(
        steps=steps,
        wall_times=[time for time in wall_times if time is not None],
        values=[points[step][1] for step in steps],
    )

"""Where the wall time of a whole run went: how much of it was training, and what the rest was."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

# What is not training, in the order in which a report lists it. "rest" is what no other part is.
PARTS = ("training", "setup", "sanity", "warmup", "counting", "sampling", "validation", "checkpoint", "rest")


class WallTime:
    """Adds up the parts of the wall time since a moment.

    Args:
        now: The host's clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self._now = now
        self._began = now()
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, part: str, seconds: float) -> None:
        """Add to a part.

        Args:
            part: One of `PARTS`.
            seconds: How long.
        """
        self._seconds[part] += seconds

    def rest_is(self, part: str) -> None:
        """Give to a part all of the time so far that no part has."""
        self.add(part, self.until_now()["rest"])

    def until_now(self) -> dict[str, float]:
        """Seconds of every part since the beginning; "rest" makes them sum to the wall time."""
        total = self._now() - self._began
        known = {part: seconds for part, seconds in self._seconds.items() if part != "rest"}
        return known | {"rest": max(total - sum(known.values()), 0.0)}

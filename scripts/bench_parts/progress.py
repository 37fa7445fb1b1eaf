"""Shows how far the benchmark is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text


class Expected:
    """The seconds that each size is expected to take; right for those that are over.

    Args:
        seconds: By size, in the order of the run.
        now: The time of day, in seconds since 1970.
    """

    def __init__(self, seconds: dict[str, float], now: Callable[[], float] = time.time) -> None:
        self._seconds = dict(seconds)
        self._now = now
        self._started = now()
        self._current: tuple[str, float] | None = None

    def begin(self, size: str) -> None:
        """A size begins."""
        self._current = (size, self._now())

    def expect(self, seconds: float) -> None:
        """The size in hand will take some seconds from now on."""
        if self._current is not None:
            size, started = self._current
            self._seconds[size] = self._now() - started + seconds

    def end(self) -> None:
        """The size in hand is over."""
        if self._current is not None:
            size, started = self._current
            self._seconds[size] = self._now() - started
            self._current = None

    @property
    def whole(self) -> float:
        """Seconds of the whole run."""
        return max(sum(self._seconds.values()), self.passed)

    @property
    def passed(self) -> float:
        """Seconds since the run began."""
        return self._now() - self._started

    @property
    def left(self) -> float:
        """Seconds until all sizes are over."""
        return max(0.0, sum(self._seconds.values()) - self.passed)


class Bar:
    """A line with what runs now, a bar of the time, and the time left.

    Args:
        expected: The seconds of the run.
        console: Where to show it.
    """

    def __init__(self, expected: Expected, console: Console) -> None:
        self._expected = expected
        self._size = ""
        self._max_steps = 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), _Ticking(expected), _TimeLeft(expected))
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Bar:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away."""
        self._progress.stop()

    def begin(self, size: str) -> None:
        """A size begins."""
        self._size = size
        self._say("starting")
        self._expected.begin(size)

    def listen(self, event: dict[str, Any]) -> None:
        """Show an event of a size's process."""
        if (plan := event.get("plan")) is not None:
            self._max_steps = plan["max_steps"]
            self._expected.expect(plan["seconds"])
        if "doing" in event:
            self._say(event["doing"])
        if "step" in event:
            self._say(f"step {event['step']} of {self._max_steps}")

    def end(self) -> None:
        """The size in hand is over."""
        self._expected.end()

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=f"{self._size}: {what}")


class _Ticking(BarColumn):
    """The share of the time that has passed."""

    def __init__(self, expected: Expected) -> None:
        super().__init__()
        self._expected = expected

    def render(self, task: Task) -> Any:
        task.total, task.completed = self._expected.whole, self._expected.passed
        return super().render(task)


class _TimeLeft(ProgressColumn):
    """The time left, in minutes and seconds."""

    def __init__(self, expected: Expected) -> None:
        super().__init__()
        self._expected = expected

    def render(self, task: Task) -> Text:
        minutes, seconds = divmod(round(self._expected.left), 60)
        return Text(f"about {minutes}:{seconds:02d} left")

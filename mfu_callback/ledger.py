"""Steps that are done by the host, booked once the device has done them too."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from mfu_callback.clock import TRAINING_PHASES, Marks, Phase, StepClock
from mfu_callback.goodput import WallTime
from mfu_callback.totals import Amounts, Sums, Totals

SYNCS = ("step", "events", "window")

# Enough for the median of a run's step time; the totals take every step.
_STEP_TIMES_KEPT = 10_000
# Beyond this many the device is waited for, so that memory does not grow with a run that logs nothing.
_MOST_PENDING = 1_000


class _Step(NamedTuple):
    """A step that the host is through with."""

    part: str
    amounts: Amounts
    marks: Marks


class Ledger:
    """Totals of the steps of one device.

    Args:
        clock: What times the steps.
        sync: When the device is waited for: at both ends of every "step", only where a "window" is read, or never, its
            "events" being read when it has come to them.
        wall: Takes what is not training.
    """

    def __init__(self, clock: StepClock, *, sync: str, wall: WallTime) -> None:
        self._clock = clock
        self._sync = sync
        self._wall = wall
        self._pending: deque[_Step] = deque()
        self._window = Sums()
        self._run = Totals()
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES_KEPT)

    def begin_step(self) -> None:
        """Start a step; what the device still does is not this step's, or is told apart by its events."""
        if self._sync == "step":
            self._clock.synchronize()

    def end_step(self, amounts: Amounts, part: str) -> None:
        """End a step.

        Args:
            amounts: What was done in it.
            part: Of the wall time: "training" joins the totals; "warmup", "counting" and "rest" do not.
        """
        self._pending.append(_Step(part, amounts, self._clock.end_step()))
        if self._sync == "step" or len(self._pending) > _MOST_PENDING:
            self._book_all()
        elif self._sync == "events":
            self._book_what_is_over()

    def take_window(self) -> Totals:
        """The totals of what was booked since the last call."""
        if self._sync == "window":
            self._book_all()
        else:
            self._book_what_is_over()
        return self._close_window()

    def run_totals(self, *, wait: bool) -> Totals:
        """The totals of the whole run.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        # A validation and a checkpoint may have come after the last step.
        self._pending.append(_Step("rest", Amounts(), self._clock.end_step()))
        if wait:
            self._book_all()
        else:
            self._book_what_is_over()
        self._close_window()
        return self._run

    def _book_all(self) -> None:
        self._clock.synchronize()
        while self._pending:
            self._book(self._pending.popleft())

    def _book_what_is_over(self) -> None:
        while self._pending and self._clock.is_over(self._pending[0].marks):
            self._book(self._pending.popleft())

    def _book(self, step: _Step) -> None:
        seconds = self._clock.seconds(step.marks)
        if step.part == "training":
            self._window.add(step.amounts, seconds)
            self.step_times.append(sum(seconds[: len(TRAINING_PHASES)]))
        else:
            self._add_to_wall_time(step.part, seconds)

    def _close_window(self) -> Totals:
        window, self._window = self._window, Sums()
        self._add_to_wall_time("training", window.seconds)
        totals = window.totals()
        self._run += totals
        return totals

    def _add_to_wall_time(self, part: str, seconds: Sequence[float]) -> None:
        self._wall.add(part, sum(seconds[: len(TRAINING_PHASES)]))
        self._wall.add("validation", seconds[Phase.VALIDATION])
        self._wall.add("checkpoint", seconds[Phase.CHECKPOINT])

"""Steps that are done by the host, booked once the device has done them too."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch

from mfu_callback.clock import TRAINING_PHASES, Marks, Phase, StepClock
from mfu_callback.goodput import WallTime
from mfu_callback.totals import Totals, step_totals

SYNCS = ("step", "events", "window")

# Enough for the median of a run's step time; the totals take every step.
_STEP_TIMES_KEPT = 10_000
# Beyond this many the device is waited for, so that memory does not grow with a run that logs nothing.
_MOST_PENDING = 1_000


class DeviceSum:
    """A sum of numbers that lie on the device, which is waited for only when the sum is read."""

    def __init__(self) -> None:
        self.value: torch.Tensor | None = None
        self._is_known = True

    def add(self, number: torch.Tensor | None) -> None:
        """Add a number; None makes the sum unknown for good."""
        self._is_known = self._is_known and number is not None
        if not self._is_known or number is None:
            self.value = None
        else:
            self.value = number if self.value is None else self.value + number

    def read(self) -> float:
        """The sum; NaN where it is unknown or nothing was added."""
        return math.nan if self.value is None else float(self.value)


class _Step(NamedTuple):
    """A step that the host is through with."""

    part: str
    amounts: Totals
    real_tokens: DeviceSum
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
        self._window = Totals()
        self._run = Totals()
        self._real_tokens = DeviceSum()
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES_KEPT)

    def begin_step(self) -> None:
        """Start a step; what the device still does is not this step's, or is told apart by its events."""
        if self._sync == "step":
            self._clock.synchronize()

    def end_step(self, amounts: Totals, real_tokens: DeviceSum, part: str) -> None:
        """End a step.

        Args:
            amounts: What was done in it.
            real_tokens: Its tokens that are not padding.
            part: Of the wall time: "training" joins the totals; "warmup", "counting" and "rest" do not.
        """
        self._pending.append(_Step(part, amounts, real_tokens, self._clock.end_step()))
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
        self._read_real_tokens()
        window, self._window = self._window, Totals()
        return window

    def run_totals(self, *, wait: bool) -> Totals:
        """The totals of the whole run.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        # A validation and a checkpoint may have come after the last step.
        self._pending.append(_Step("rest", Totals(), DeviceSum(), self._clock.end_step()))
        if wait:
            self._book_all()
        else:
            self._book_what_is_over()
        self._read_real_tokens()
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
        self._wall.add(step.part, sum(seconds[phase] for phase in TRAINING_PHASES))
        self._wall.add("validation", seconds[Phase.VALIDATION])
        self._wall.add("checkpoint", seconds[Phase.CHECKPOINT])
        if step.part != "training":
            return
        self._real_tokens.add(step.real_tokens.value)
        totals = step_totals(step.amounts, seconds)
        self._window += totals
        self._run += totals
        self.step_times.append(totals.seconds)

    def _read_real_tokens(self) -> None:
        if self._window.steps:
            value = Totals(real_tokens=self._real_tokens.read())
            self._window, self._run = self._window + value, self._run + value
            self._real_tokens = DeviceSum()

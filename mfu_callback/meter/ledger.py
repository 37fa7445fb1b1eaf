"""Books every second of a run once the device has come to it: measured steps as totals, the rest by what it was."""

from __future__ import annotations

from collections import deque
from itertools import compress

import numpy as np

from mfu_callback.meter.clock import TRAINING_PHASES, Phase, StepClock
from mfu_callback.meter.totals import Amounts, Totals, totals_of

SYNCS = ("step", "events", "window")
# What the wall time of a run is spent on, in the order in which a report lists it; "rest" is what no other part is.
PARTS = ("training", "setup", "sanity", "warmup", "counting", "sampling", "validation", "checkpoint", "rest")

# Enough for the median of a run's step time; the totals take every step.
_STEP_TIMES_KEPT = 10_000
# Beyond this many the device is waited for, so that memory does not grow with a run that logs nothing.
_MOST_PENDING = 1_000


class Ledger:
    """The seconds of one device's run, from the moment that this is made.

    Ending a step marks its end and, where that is asked for, waits for the device; the arithmetic is done for many
    steps at once, where a window is read.

    Args:
        clock: What times the steps; they are ended and taken here alone.
        sync: When the device is waited for: at both ends of every "step", only where a "window" is read, or never, its
            "events" being read when it has come to them.

    Attributes:
        step_times: Seconds of the latest measured steps.
    """

    def __init__(self, clock: StepClock, *, sync: str) -> None:
        self._clock = clock
        self._waits_in_steps = sync == "step"
        self._waits_in_windows = sync == "window"
        self._began = clock.now()
        self._wall = dict.fromkeys(PARTS, 0.0)
        self._pending: deque[tuple[str, Amounts]] = deque()  # steps that the host is through with
        self._window = Totals()
        self._run = Totals()
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES_KEPT)

    def begin_step(self) -> None:
        """Start a step; what the device still does is not this step's, or is told apart by its events."""
        if self._waits_in_steps:
            self._clock.synchronize()

    def end_step(self, amounts: Amounts, part: str) -> None:
        """End a step.

        Args:
            amounts: What was done in it.
            part: Of the wall time: "training" joins the totals; "warmup", "counting", "sampling" and "rest" do not.
        """
        self._clock.end_step()
        self._pending.append((part, amounts))
        if self._waits_in_steps:
            self._clock.synchronize()
        if len(self._pending) >= _MOST_PENDING:
            self._book(wait=True)

    def take_window(self) -> Totals:
        """The totals of the steps that the device has ended since the last call."""
        self._book(wait=self._waits_in_windows)
        window, self._window = self._window, Totals()
        self._run += window
        return window

    def run_totals(self, *, wait: bool) -> Totals:
        """The totals of the whole run, once it is over.

        Args:
            wait: Whether to wait for the device to end its last steps.
        """
        # A validation and a checkpoint may have come after the last step.
        self._clock.end_step()
        self._pending.append(("rest", Amounts()))
        self._book(wait=wait)
        return self._run + self._window

    def rest_is(self, part: str) -> None:
        """Give to a part of `PARTS` all of the wall time so far that no part has."""
        self._wall[part] += self.wall_time_sec()["rest"]

    def wall_time_sec(self) -> dict[str, float]:
        """Seconds so far by part; "rest" makes them sum to the wall time."""
        known = {part: seconds for part, seconds in self._wall.items() if part != "rest"}
        return known | {"rest": max(self._clock.now() - self._began - sum(known.values()), 0.0)}

    def _book(self, *, wait: bool) -> None:
        if wait:
            self._clock.synchronize()
        over = len(self._pending)
        while over and not self._clock.is_over(over - 1):  # whoever is at the end of one has passed those before it
            over -= 1
        if not over:
            return
        parts, amounts = zip(*(self._pending.popleft() for _ in range(over)), strict=True)
        seconds = self._clock.take(over)
        for part in dict.fromkeys(parts):
            of_part = [other == part for other in parts]
            self._book_part(part, list(compress(amounts, of_part)), seconds[of_part])

    def _book_part(self, part: str, amounts: list[Amounts], seconds: np.ndarray) -> None:
        training = seconds[:, : len(TRAINING_PHASES)].sum(axis=1)
        self._wall[part] += float(training.sum())
        self._wall["validation"] += float(seconds[:, Phase.VALIDATION].sum())
        self._wall["checkpoint"] += float(seconds[:, Phase.CHECKPOINT].sum())
        if part == "training":
            self._window += totals_of(amounts, seconds)
            self.step_times.extend(training.tolist())

"""Books every second of a run: measured steps as totals, all other time by its cause."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import compress
from typing import Literal, get_args

import numpy as np

from mfu_callback.meter.clock import Phase, StepClock, training_sec
from mfu_callback.meter.totals import Amounts, Totals, WaitsOfSteps, totals_of
from mfu_callback.meter.waits import StepWaits

Sync = Literal["step", "events", "window"]
SYNCS: tuple[str, ...] = get_args(Sync)
# The parts of a run's wall time in the order of the report; "rest" is the time that no other part has.
PARTS = ("training", "setup", "sanity", "warmup", "counting", "sampling", "validation", "checkpoint", "rest")

# Enough for the median of a run's step time; the totals contain every step.
_STEP_TIMES_KEPT = 10_000
# At this many unbooked steps the ledger waits for the device, so that memory stays bounded if nothing is logged.
_MOST_PENDING = 1_000


class Ledger:
    """Sorts the seconds of one device's run into training and all other uses, from the moment its clock is made.

    Ending a step stamps its end and, if ``sync`` asks for it, waits for the device. The arithmetic is done for many
    steps at once, when a window is read.

    Args:
        clock: The clock of the steps; only the ledger ends and takes them.
        sync: When to wait for the device: at both ends of each "step", only when a "window" is read, or never, in
            which case "events" are read once the device has reached them.

    Attributes:
        step_times: Seconds of the latest measured steps.
    """

    def __init__(self, clock: StepClock, *, sync: str) -> None:
        self._clock = clock
        self._waits_in_steps = sync == "step"
        self._waits_in_windows = sync == "window"
        self._wall = dict.fromkeys(PARTS, 0.0)
        self._pending: deque[tuple[int, str, Amounts]] = deque()  # steps that the host has finished
        self._ended = 0
        self._waits = WaitsOfSteps()
        self._window = Totals()
        self._run = Totals()
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES_KEPT)

    def begin_step(self) -> None:
        """Start a step. With sync="step" wait first, so that earlier work on the device is not counted in it."""
        if self._waits_in_steps:
            self._clock.synchronize()

    def end_step(self, amounts: Amounts, part: str) -> None:
        """End a step.

        Args:
            amounts: Its tokens, samples and FLOPs.
            part: The part of the wall time that it is: "training" joins the totals; "warmup", "counting", "sampling"
                and "rest" do not.
        """
        self._end_step(amounts, part)
        if self._waits_in_steps:
            self._clock.synchronize()
        if len(self._pending) >= _MOST_PENDING:
            self._book(wait=True)

    def take_window(self) -> Totals:
        """Totals of the steps that the device has finished since the last call."""
        self._book(wait=self._waits_in_windows)
        window, self._window = self._window, Totals()
        self._run += replace(window, step_waits=StepWaits())  # who has the window has them
        return window

    def take_last_window(self) -> Totals:
        """Totals of all steps since the last call, where none follows for now; waits for the device."""
        self._end_step(Amounts(), "rest")
        self._book(wait=True)
        return self.take_window()

    def run_totals(self, *, wait: bool) -> Totals:
        """Totals of the whole run, once it is over; the waiting step by step only of those since the last window.

        Args:
            wait: Whether to wait until the device has finished its last steps.
        """
        # A validation and a checkpoint may have come after the last step.
        self._end_step(Amounts(), "rest")
        self._book(wait=wait)
        return self._run + self._window

    def assign_rest(self, part: str) -> None:
        """Assign all unassigned wall time so far to one of `PARTS`."""
        self._wall[part] += self.wall_time_sec()["rest"]

    def wall_time_sec(self) -> dict[str, float]:
        """Wall time so far in seconds by part; "rest" makes the parts sum to it."""
        known = {part: seconds for part, seconds in self._wall.items() if part != "rest"}
        return known | {"rest": max(self._clock.now() - self._clock.made_at - sum(known.values()), 0.0)}

    def _end_step(self, amounts: Amounts, part: str) -> None:
        self._clock.end_step()
        self._ended += 1
        self._pending.append((self._ended, part, amounts))

    def _book(self, *, wait: bool) -> None:
        if wait:
            self._clock.synchronize()
        over = len(self._pending)
        while over and not self._clock.is_over(over - 1):  # a device that has finished one has finished those before it
            over -= 1
        if not over:
            return
        numbers, parts, amounts = zip(*(self._pending.popleft() for _ in range(over)), strict=True)
        seconds = self._clock.take(over)
        for part in dict.fromkeys(parts):
            of_part = [other == part for other in parts]
            self._book_part(part, list(compress(numbers, of_part)), list(compress(amounts, of_part)), seconds[of_part])

    def _book_part(self, part: str, numbers: list[int], amounts: list[Amounts], seconds: np.ndarray) -> None:
        training = training_sec(seconds)
        self._wall[part] += float(training.sum())
        self._wall["validation"] += float(seconds[:, Phase.VALIDATION].sum())
        self._wall["checkpoint"] += float(seconds[:, Phase.CHECKPOINT].sum())
        if part == "training":
            self._window += totals_of(numbers, amounts, seconds, self._waits)
            self.step_times.extend(training.tolist())

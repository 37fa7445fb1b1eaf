"""Books every second of a run: measured steps as totals, all other time by its cause."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from typing import Literal, get_args

import numpy as np

from mfu_callback.meter.amounts import Amounts, done_in
from mfu_callback.meter.clock import END_OF_STEP, Phase, StepClock, training_sec
from mfu_callback.meter.done import NOTHING, Done
from mfu_callback.meter.totals import Totals, WaitsOfSteps, totals_of
from mfu_callback.meter.waits import StepWaits
from mfu_callback.meter.work import END_OF_WORK, Work

Sync = Literal["step", "events", "window"]
SYNCS: tuple[str, ...] = get_args(Sync)
# The parts of a job's wall time in the order of the report. Between a checkpoint and the fit that resumes it come
# "lost", when training went on, and "down", when nothing ran; "rest" is the time that no other part has.
PARTS = (
    *("training", "setup", "sanity", "warmup", "counting", "sampling", "validation", "checkpoint"),
    *("lost", "down", "rest"),
)

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
        work: The work of the steps; only the ledger ends and takes them.
        sync: When to wait for the device: at both ends of each "step", only when a "window" is read, or never, in
            which case "events" are read once the device has reached them.
        warmup_steps: Number of steps to leave out at the start.
        on_warm: Called when the last of them has ended.

    Attributes:
        waits_in_steps: Whether it waits for the device at both ends of each step.
        is_warm: Whether the warm-up is over.
        ended: Number of steps that have ended.
        step_times: Seconds of the latest measured steps.
        steps_by_part: Number of steps so far by part: those of the warm-up, and after it all others.
    """

    def __init__(
        self,
        clock: StepClock,
        work: Work,
        *,
        sync: str,
        warmup_steps: int = 0,
        on_warm: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._mark_end = clock, clock.marker(END_OF_STEP)
        self._work, self._note = work, work.note
        self.waits_in_steps = sync == "step" and clock.runs_behind
        self._waits_in_windows = sync == "window"
        self._wall = dict.fromkeys(PARTS, 0.0)
        self._steps_to_skip = warmup_steps
        self.is_warm = not warmup_steps
        self._on_warm = on_warm
        self._part = "training" if self.is_warm else "warmup"  # of the wall time that the running step is
        self.ended = self._booked = 0
        self._parts: dict[int, str] = {}  # by number, of the steps to be booked that are not training
        self._seeing: set[int] = set()  # the numbers of the steps to be booked in which waiting was measured
        self._waits = WaitsOfSteps()
        self._window = Totals()
        self._run = Totals()
        self.steps_by_part: Counter[str] = Counter()
        self._done = NOTHING
        self.step_times: deque[float] = deque(maxlen=_STEP_TIMES_KEPT)

    def begin_step(self) -> None:
        """Start a step. With sync="step" wait first, so that earlier work on the device is not counted in it."""
        if self.waits_in_steps:
            self._clock.synchronize()

    def leave_out(self, part: str) -> None:
        """Leave the running step out of the totals.

        Args:
            part: The part of the wall time that it is instead: "counting", which overrides others, "sampling", "rest".
        """
        if self._part != "counting":
            self._part = part

    def end_step(self) -> None:
        """End a step."""
        self._mark_end()
        self._note(END_OF_WORK)
        self.ended = ended = self.ended + 1
        if self._part != "training":
            self._end_part()
        if self.waits_in_steps:
            self._clock.synchronize()
        if ended - self._booked >= _MOST_PENDING:
            self._book(wait=True)

    def note_waits(self) -> None:
        """Say of the running step that waiting for other devices was measured in it."""
        self._seeing.add(self.ended + 1)

    def take_window(self) -> Totals:
        """Totals of the steps that the device has finished since the last call."""
        self._book(wait=self._waits_in_windows)
        window, self._window = self._window, Totals()
        self._run += replace(window, step_waits=StepWaits())  # who has the window has them
        return window

    def take_last_window(self) -> Totals:
        """Totals of all steps since the last call, where none follows for now; waits for the device."""
        self._end_rest()
        self._book(wait=True)
        return self.take_window()

    def run_totals(self, *, wait: bool) -> Totals:
        """Totals of the whole run, once it is over; the waiting step by step only of those since the last window.

        Args:
            wait: Whether to wait until the device has finished its last steps.
        """
        self._end_rest()
        self._book(wait=wait)
        return self._run + self._window

    @property
    def done(self) -> Done:
        """All that was trained on up to the latest window, also in steps that no totals have."""
        return replace(self._done, device_sec=self._clock.now() - self._clock.made_at)

    def done_so_far(self) -> Done:
        """All that was trained on; never waits.

        Of steps that the device has not finished, the tokens without padding and those of the loss are taken to be as
        many of all tokens as before.
        """
        self._book(wait=False)
        numbers, not_booked = range(self._booked + 1, self.ended + 1), self._work.not_taken()
        steps = [one for number, one in zip(numbers, not_booked, strict=True) if self._parts.get(number) != "rest"]
        if not steps:
            return self.done
        return self.done + done_in([replace(one, real_tokens=[], loss_tokens=[]) for one in steps]).with_shares_of(
            self._done
        )

    def assign_rest(self, part: str) -> None:
        """Assign all unassigned wall time so far to one of `PARTS`."""
        self._wall[part] += self.wall_time_sec()["rest"]

    def wall_time_sec(self) -> dict[str, float]:
        """Wall time so far in seconds by part; "rest" makes the parts sum to it."""
        known = {part: seconds for part, seconds in self._wall.items() if part != "rest"}
        return known | {"rest": max(self._clock.now() - self._clock.made_at - sum(known.values()), 0.0)}

    def _end_part(self) -> None:
        """Return to training, or to the warm-up if it is not over."""
        self._parts[self.ended] = self._part
        self.steps_by_part[self._part if self.is_warm else "warmup"] += 1
        if not self.is_warm:
            self._steps_to_skip -= 1
            self.is_warm = not self._steps_to_skip
            if self.is_warm:
                self._on_warm()
        self._part = "training" if self.is_warm else "warmup"

    def _end_rest(self) -> None:
        """End what came after the last step, such as a validation or a checkpoint, as a step of its own."""
        self._mark_end()
        self._note(END_OF_WORK)
        self.ended += 1
        self._parts[self.ended] = "rest"

    def _book(self, *, wait: bool) -> None:
        if wait:
            self._clock.synchronize()
        over = self._clock.steps_over()
        if not over:
            return
        numbers = np.arange(self._booked + 1, self._booked + over + 1)
        self._booked += over
        amounts, seconds = self._work.take(over), self._clock.take(over)
        parts = np.array([self._parts.pop(number, "training") for number in numbers.tolist()])
        for part in dict.fromkeys(parts.tolist()):
            of_part = parts == part
            self._book_part(part, numbers[of_part].tolist(), list(compress(amounts, of_part)), seconds[of_part])
        self._seeing.difference_update(numbers.tolist())

    def _book_part(self, part: str, numbers: list[int], amounts: list[Amounts], seconds: np.ndarray) -> None:
        training = training_sec(seconds)
        self._wall[part] += float(training.sum())
        self._wall["validation"] += float(seconds[:, Phase.VALIDATION].sum())
        self._wall["checkpoint"] += float(seconds[:, Phase.CHECKPOINT].sum())
        if part == "training":
            seen = np.array([number in self._seeing for number in numbers])
            totals = totals_of(numbers, amounts, seconds, seen, self._waits)
            self._window += totals
            self._done += totals.work
            self.steps_by_part["training"] += len(numbers)
            self.step_times.extend(training.tolist())
        elif part != "rest":
            self._done += done_in(amounts)

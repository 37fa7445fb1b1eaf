"""Times the phases of training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from itertools import pairwise, repeat
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from mfu_callback.tools import accelerators


class Phase(IntEnum):
    """A phase of a training run; its value is the index of its seconds in an array."""

    DATA = 0
    FORWARD = 1
    BACKWARD = 2
    OPTIMIZER = 3
    OTHER = 4
    # Not part of the training time:
    VALIDATION = 5
    CHECKPOINT = 6
    REPORT = 7
    # Waiting for other devices, in each phase of the training time:
    DATA_WAIT = 8
    FORWARD_WAIT = 9
    BACKWARD_WAIT = 10
    OPTIMIZER_WAIT = 11
    OTHER_WAIT = 12
    # Waiting for other devices in this package's own collective, where metrics are logged:
    EXCHANGE = 13


TRAINING_PHASES = (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER, Phase.OTHER)
# In the order of the phases that they interrupt.
WAITS = (Phase.DATA_WAIT, Phase.FORWARD_WAIT, Phase.BACKWARD_WAIT, Phase.OPTIMIZER_WAIT, Phase.OTHER_WAIT)


_ENDS_STEP = 1 << 7
# The mark at which a step ends, after which it is nobody's time.
END_OF_STEP = Phase.OTHER | _ENDS_STEP


def training_sec(seconds: np.ndarray) -> np.ndarray:
    """Training time of each step, with the waiting in it.

    Args:
        seconds: Seconds of each phase in each step, of shape (steps, phases).

    Returns:
        Seconds, of shape (steps,).
    """
    whole: np.ndarray = seconds[:, [*TRAINING_PHASES, *WAITS, Phase.EXCHANGE]].sum(axis=1)
    return whole


class Timer(Protocol):
    """Stamps moments and computes the seconds between them."""

    @property
    def runs_behind(self) -> bool:
        """Whether the device runs behind the host, which then can wait for it."""

    def now(self) -> float:
        """The host's clock, in seconds."""

    def stamp(self) -> Any:
        """Stamp this moment; never waits."""

    def is_over(self, stamp: Any) -> bool:
        """Whether the device has reached a stamp; never waits."""

    def durations(self, stamps: Sequence[Any]) -> np.ndarray:
        """Seconds from each stamp to the next; the device must have reached all of them."""

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""


class HostTimer:
    """Stamps with the host's clock: correct on a CPU, where the host itself computes.

    Args:
        now: The clock, in seconds.
    """

    runs_behind = False

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.now = self.stamp = now

    def is_over(self, stamp: float) -> bool:
        """Always true: the host finishes its work before it goes on."""
        return True

    def durations(self, stamps: Sequence[float]) -> np.ndarray:
        """Seconds from each stamp to the next."""
        return np.diff(stamps)

    def synchronize(self) -> None:
        """Does nothing: the host finishes its work before it goes on."""


class DeviceTimer:
    """Stamps with device events: correct on an accelerator, which runs behind the host.

    Not yet run on hardware; written against the documentation of `torch.Event`.

    Args:
        device: The accelerator.
        event: Makes an event with ``record()``, ``query()`` and ``elapsed_time(end)`` in milliseconds.
        synchronize: Waits for the device.
        now: The host's clock, in seconds.
    """

    runs_behind = True

    def __init__(
        self,
        device: torch.device,
        event: Callable[[], Any] | None = None,
        synchronize: Callable[[torch.device], None] = accelerators.synchronize,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self.now = now
        self._device = device
        self._event = event or (lambda: accelerators.event(device))
        self._synchronize = synchronize

    def stamp(self) -> Any:
        """Record an event on the current stream."""
        event = self._event()
        event.record()
        return event

    def is_over(self, stamp: Any) -> bool:
        """Whether the device has reached an event."""
        return bool(stamp.query())

    def durations(self, stamps: Sequence[Any]) -> np.ndarray:
        """Seconds from each event to the next on the device's own timeline."""
        return np.array([start.elapsed_time(end) for start, end in pairwise(stamps)]) / 1e3

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        self._synchronize(self._device)


def timer_for(device: torch.device) -> Timer:
    """The timer that is correct for a device."""
    return HostTimer() if device.type == "cpu" else DeviceTimer(device)


class StepClock:
    """Stamps where each phase of each step begins, without a gap; time outside of every other phase is ``OTHER``.

    A mark is only appended to a list, since this is the hot path. The seconds are computed for many steps at once,
    when the device has finished them.

    Args:
        timer: What stamps the moments.

    Attributes:
        now: The host's clock, in seconds.
        made_at: When it was made, by the host's clock.
        synchronize: Waits for the device.
        runs_behind: Whether there is anything to wait for: whether the device runs behind the host.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self.now = timer.now
        self.made_at = self.now()
        self.synchronize = timer.synchronize
        self.runs_behind = timer.runs_behind
        # The phase and the stamp of each mark in turn, of all steps not yet taken; an end of a step has a bit more.
        self._marks: list[Any] = []
        self.start()

    def start(self) -> None:
        """Start over and forget all earlier stamps."""
        self._marks.clear()
        self.enter(Phase.OTHER)

    def enter(self, phase: int) -> None:
        """Begin a phase; with `END_OF_STEP`, end the step."""
        self._marks.extend((phase, self._timer.stamp()))

    def marker(self, phase: int) -> Callable[[], None]:
        """Returns a function that does what `enter` does for this phase.

        It runs eight times a step, so nothing in it is Python: each call takes the next item of endless iterators.
        """
        marks = zip(repeat(int(phase)), iter(self._timer.stamp, object()))
        return map(self._marks.extend, marks).__next__

    @property
    def phase(self) -> Phase:
        """The phase that goes on."""
        return Phase(self._marks[-2] & ~_ENDS_STEP)

    def rename(self, phase: Phase) -> None:
        """Take the phase that goes on, since it began, for another."""
        self._marks[-2] = phase | (self._marks[-2] & _ENDS_STEP)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A context whose time belongs to a phase; afterwards the phase before it goes on."""
        before = self.phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def end_step(self) -> None:
        """End the step and begin the next one; never waits."""
        self.enter(END_OF_STEP)

    def steps_over(self) -> int:
        """How many of the ended steps that were not taken the device has finished; never waits."""
        ends = self._ends()
        over = len(ends)
        while over and not self._timer.is_over(self._marks[2 * ends[over - 1] + 1]):
            over -= 1  # a device that has finished a step has finished those before it
        return over

    def take(self, steps: int) -> np.ndarray:
        """Compute and remove the first steps that were not taken; the device must have finished them.

        Args:
            steps: Number of steps to take.

        Returns:
            Seconds of each phase in each step, of shape (steps, phases).
        """
        ends = self._ends()[:steps]
        last = int(ends[-1])
        # None is negative, also where the clock was set back.
        durations = np.maximum(self._timer.durations(self._marks[1 : 2 * last + 2 : 2]), 0.0)
        # Each mark begins its phase and belongs to the step that ends next.
        cells = np.repeat(np.arange(0, steps * len(Phase), len(Phase)), np.diff(ends, prepend=0))
        cells += np.array(self._marks[: 2 * last : 2]) & ~_ENDS_STEP
        del self._marks[: 2 * last]
        self._marks[0] = Phase.OTHER
        return np.bincount(cells, durations, minlength=steps * len(Phase)).reshape(steps, len(Phase))

    def _ends(self) -> np.ndarray:
        """The index of the mark that ends each step."""
        return np.flatnonzero(np.array(self._marks[::2]) & _ENDS_STEP)

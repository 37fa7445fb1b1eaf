"""How long: where the wall time of a training loop goes, phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from itertools import chain, pairwise
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch


class Phase(IntEnum):
    """What a stretch of a training run's time is spent on; the index of its seconds in a list."""

    DATA = 0
    FORWARD = 1
    BACKWARD = 2
    OPTIMIZER = 3
    OTHER = 4
    # Outside of training time:
    VALIDATION = 5
    CHECKPOINT = 6


TRAINING_PHASES = (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER, Phase.OTHER)


class Timer(Protocol):
    """Something that can stamp moments and tell the seconds between two of them."""

    def stamp(self) -> Any:
        """Mark this moment; never waits."""

    def is_over(self, stamp: Any) -> bool:
        """Whether the device has come to a stamp; never waits."""

    def durations(self, stamps: Sequence[Any]) -> np.ndarray:
        """Seconds from each stamp to the next; the device has come to all of them."""

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""


class HostTimer:
    """Stamps with the host's clock: right where the host itself computes.

    Args:
        now: The clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.stamp = now

    def is_over(self, stamp: float) -> bool:
        """Always: the host computes before it goes on."""
        return True

    def durations(self, stamps: Sequence[float]) -> np.ndarray:
        """Seconds from each stamp to the next."""
        return np.diff(stamps)

    def synchronize(self) -> None:
        """Nothing to wait for: the host computes before it goes on."""


class DeviceTimer:
    """Stamps with the device's events: right where the host runs ahead of an accelerator.

    Not yet run on hardware; written against the documentation of `torch.Event`.

    Args:
        device: The accelerator.
        event: Makes an event that can be recorded and queried, and knows ``elapsed_time`` in milliseconds.
        synchronize: Waits for the device.
    """

    def __init__(
        self,
        device: torch.device,
        event: Callable[[], Any] | None = None,
        synchronize: Callable[[torch.device], None] = torch.accelerator.synchronize,
    ) -> None:
        self._device = device
        self._event = event or (lambda: torch.Event(device, enable_timing=True))
        self._synchronize = synchronize

    def stamp(self) -> Any:
        """Record an event on the current stream."""
        event = self._event()
        event.record()
        return event

    def is_over(self, stamp: Any) -> bool:
        """Whether the device has come to an event."""
        return bool(stamp.query())

    def durations(self, stamps: Sequence[Any]) -> np.ndarray:
        """Seconds from each event to the next on the device's own time line."""
        return np.array([start.elapsed_time(end) for start, end in pairwise(stamps)]) / 1e3

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        self._synchronize(self._device)


def timer_for(device: torch.device) -> Timer:
    """The timer that tells the truth about a device."""
    return HostTimer() if device.type == "cpu" else DeviceTimer(device)


# The phases of a step, and the moments at which they began. (Plain types: these are made in every step.)
Marks = tuple[bytearray, list[Any]]

_FIRST_PHASES = bytes([Phase.OTHER])


class StepClock:
    """Splits time into phases without a gap: what belongs to no phase in particular is ``OTHER``.

    On the hot path it takes a stamp and appends it to a list; the arithmetic waits until the device has come to the
    end of a step.

    Args:
        timer: What stamps the moments.

    Attributes:
        synchronize: Waits for the device.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._stamp = timer.stamp  # read on the hot path
        self.synchronize = timer.synchronize
        self.start()

    def start(self) -> None:
        """Begin anew; what came before is forgotten."""
        self._begin_at(self._stamp())

    def enter(self, phase: Phase) -> None:
        """From now on the time belongs to this phase."""
        self._stamps.append(self._stamp())
        self._phases.append(phase)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Give the time of a block to a phase, and what follows to the phase before."""
        before = Phase(self._phases[-1])
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def end_step(self) -> Marks:
        """The marks since the last call (or the start), with one for this moment; does not wait."""
        self.enter(Phase.OTHER)
        marks = self._phases, self._stamps
        self._begin_at(self._stamps[-1])
        return marks

    def is_over(self, marks: Marks) -> bool:
        """Whether the device has come to the last of these marks; never waits."""
        _, stamps = marks
        return self._timer.is_over(stamps[-1])

    def seconds(self, steps: Sequence[Marks]) -> np.ndarray:
        """Seconds of every phase in each of some steps, to whose ends the device has come.

        Args:
            steps: The marks of each step.

        Returns:
            Of shape (steps, phases).
        """
        lengths = [len(stamps) for _, stamps in steps]
        durations = np.zeros(sum(lengths))
        durations[:-1] = self._timer.durations(list(chain.from_iterable(stamps for _, stamps in steps)))
        durations[np.cumsum(lengths) - 1] = 0.0  # from the end of a step to the start of the next one
        phases = np.frombuffer(b"".join(phases for phases, _ in steps), dtype=np.uint8)
        cells = np.repeat(np.arange(0, len(steps) * len(Phase), len(Phase)), lengths) + phases
        return np.bincount(cells, durations, minlength=len(steps) * len(Phase)).reshape(len(steps), len(Phase))

    def _begin_at(self, stamp: Any) -> None:
        self._phases = bytearray(_FIRST_PHASES)
        self._stamps = [stamp]

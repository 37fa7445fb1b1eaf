"""How long each of several devices waited for the others, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_KEPT = 64  # steps of a window, the latest; a row that ranks exchange has a fixed length
# A device is late in a step if the others waited longer for it than both of these, which are more than noise.
_LATE_SEC, _LATE_SHARE = 5e-4, 0.02


def _unknown() -> np.ndarray:
    return np.full(_KEPT, np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWaits:
    """Seconds that one device waited for others in each of its latest steps.

    Attributes:
        last: The number of the latest step; all devices number their steps alike.
        seconds: Seconds of the steps up to that one, of shape (64,); NaN where they were not measured.
    """

    last: int = 0
    seconds: np.ndarray = field(default_factory=_unknown, compare=False)

    @classmethod
    def of(cls, numbers: Sequence[int], seconds: np.ndarray) -> StepWaits:
        """The waits of some steps.

        Args:
            numbers: The numbers of the steps, ascending.
            seconds: Their seconds, of shape (steps,); NaN where they were not measured.
        """
        if not len(numbers):
            return cls()
        back = numbers[-1] - np.asarray(numbers)  # how many steps before the latest
        kept, of_steps = back < _KEPT, _unknown()
        of_steps[_KEPT - 1 - back[kept]] = seconds[kept]
        return cls(last=numbers[-1], seconds=of_steps)

    def followed_by(self, later: StepWaits) -> StepWaits:
        """These and later ones together."""
        if not later.last:
            return self
        own = self.up_to(later.last)
        return StepWaits(last=later.last, seconds=np.where(np.isnan(later.seconds), own, later.seconds))

    def up_to(self, last: int) -> np.ndarray:
        """Seconds of the steps up to a given one, of shape (64,)."""
        shift, seconds = last - self.last, _unknown()
        if 0 <= shift < _KEPT:
            seconds[: _KEPT - shift] = self.seconds[shift:]
        elif -_KEPT < shift < 0:
            seconds[-shift:] = self.seconds[:shift]
        return seconds

    def as_row(self) -> tuple[float, ...]:
        """The values as a row."""
        return (float(self.last), *self.seconds.tolist())

    @classmethod
    def from_row(cls, row: Sequence[float]) -> StepWaits:
        """The inverse of :meth:`as_row`."""
        return cls(last=int(row[0]), seconds=np.array(row[1:], dtype=float))


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What the steps that all devices have measured tell about them; sums over these steps.

    Attributes:
        steps: Number of these steps.
        shortest_sec: Seconds of the shortest wait in each step: what the collectives themselves take, since the device
            that comes last waits for nothing else.
        waits_sec: Seconds that each device waited, of shape (devices,).
        late_steps: Number of steps in which the others waited longer than each device, of shape (devices,).
    """

    steps: int
    shortest_sec: float
    waits_sec: np.ndarray
    late_steps: np.ndarray

    @classmethod
    def of(cls, ranks: Sequence[StepWaits], step_sec: float) -> Together:
        """The sums over the steps of one window.

        Args:
            ranks: The waits of each device.
            step_sec: Seconds of a step.
        """
        last = max((rank.last for rank in ranks), default=0)
        waits = np.stack([rank.up_to(last) for rank in ranks])
        waits = waits[:, ~np.isnan(waits).any(axis=0)]
        late = _lateness(waits) > max(_LATE_SEC, _LATE_SHARE * step_sec)
        return cls(
            steps=waits.shape[1],
            shortest_sec=float(waits.min(axis=0).sum()),
            waits_sec=waits.sum(axis=1),
            late_steps=late.sum(axis=1),
        )

    def __add__(self, other: Together) -> Together:
        """The sums over both."""
        return Together(
            steps=self.steps + other.steps,
            shortest_sec=self.shortest_sec + other.shortest_sec,
            waits_sec=self.waits_sec + other.waits_sec,
            late_steps=self.late_steps + other.late_steps,
        )

    def share_of_collectives(self, rank: int) -> float:
        """The part of a device's waiting that the collectives themselves take; 1 if that is unknown."""
        waited = float(self.waits_sec[rank])
        return min(self.shortest_sec / waited, 1.0) if waited > 0 else 1.0

    def late_share(self, rank: int) -> float:
        """The share of the steps in which a device was late."""
        return float(self.late_steps[rank]) / self.steps if self.steps else 0.0


def _lateness(waits: np.ndarray) -> np.ndarray:
    """How much longer the others waited than each device itself, of shape (devices, steps)."""
    if len(waits) < 2:
        return np.zeros_like(waits)
    others = [np.median(np.delete(waits, rank, axis=0), axis=0) for rank in range(len(waits))]
    lateness: np.ndarray = np.stack(others) - waits
    return lateness

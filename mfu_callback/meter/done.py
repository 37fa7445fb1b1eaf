"""All that was trained on since a run began, as sums; nothing is left out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Sums over all steps since a run began, with the warm-up and the steps that were counted. Unknown is NaN.

    Attributes:
        steps: Optimizer steps.
        samples: Samples.
        tokens: Tokens, with padding.
        real_tokens: Tokens without padding.
        loss_tokens: Tokens that the loss is taken over.
        flops: Model FLOPs of the forward and backward passes.
        device_sec: Wall time since the run began, times the devices.
    """

    steps: float = 0.0
    samples: float = 0.0
    tokens: float = 0.0
    real_tokens: float = 0.0
    loss_tokens: float = 0.0
    flops: float = 0.0
    device_sec: float = 0.0

    def __add__(self, other: Done) -> Done:
        """What was done in both, one after the other."""
        return Done.from_row([one + two for one, two in zip(self.as_row(), other.as_row(), strict=True)])

    def shared_by(self, devices: int, *, flops_by: int) -> Done:
        """One device's part, if several devices share this work in the same time.

        Args:
            devices: Number of devices that share the batches.
            flops_by: Number of devices whose work the FLOPs are.
        """
        parts = {name: getattr(self, name) / devices for name in _AMOUNTS}
        return replace(self, flops=self.flops / flops_by, **parts)

    def with_shares_of(self, before: Done) -> Done:
        """The same, of whose tokens as many are no padding, and in the loss, as before."""
        of_each = self.tokens / before.tokens if before.tokens else math.nan
        return replace(self, real_tokens=before.real_tokens * of_each, loss_tokens=before.loss_tokens * of_each)

    def as_row(self) -> tuple[float, ...]:
        """The values as a row, in the order of the fields."""
        return astuple(self)

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Done:
        """The inverse of :meth:`as_row`."""
        return cls(**dict(zip(NAMES, row, strict=True)))


NOTHING = Done()
NAMES = tuple(field.name for field in fields(Done))
_AMOUNTS = ("samples", "tokens", "real_tokens", "loss_tokens")


def of_all(devices: Sequence[Done]) -> Done:
    """What several devices have done in the same steps.

    Args:
        devices: What each of them has done, at least one.
    """
    sums = [math.fsum(values) for values in zip(*(one.as_row() for one in devices), strict=True)]
    return replace(Done.from_row(sums), steps=devices[0].steps)


def foreseen(now: Done, then: Done, all_then: Done, devices: int) -> Done:
    """What all devices have done, by what one of them has done since all told each other.

    The others are taken to have gone on as that one, each with the share that it had of the work until then; before
    they have told each other, all alike. With batches of one size that is exact.

    Args:
        now: What this device has done.
        then: What it had done when all told each other.
        all_then: What all had done then.
        devices: Number of devices.
    """
    rows = zip(now.as_row(), then.as_row(), all_then.as_row(), strict=True)
    values = [
        all_before + (of_one - before) * (all_before / before if before else devices)
        for of_one, before, all_before in rows
    ]
    return replace(Done.from_row(values), steps=now.steps)

"""What one device did over some steps, as a row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace

import numpy as np
import torch

from mfu_callback.meter.clock import TRAINING_PHASES

# What is done, in whatever time.
_AMOUNTS = ("samples", "tokens", "real_tokens", "flops", "recomputed_flops")
# What does not add up over time: the latest value is that of the whole.
_LATEST = ("peak_memory_bytes", "peak_flops_per_sec", "achievable_flops_per_sec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What one device did over some steps, and what it could have done. Unknown is NaN: a row of these is a tensor's.

    Attributes:
        steps: Optimizer steps.
        samples: Samples of all their micro-batches.
        tokens: Tokens likewise; NaN where the batch has none.
        real_tokens: Tokens without the padding; NaN where no attention mask says it.
        flops: Model FLOPs of forward and backward; NaN where they were not counted.
        recomputed_flops: FLOPs that ran a second time; NaN where they were not counted.
        data_sec: Seconds of training time spent waiting for data.
        forward_sec: In the forward; with manual optimization, in all that the training step does beside the backward.
        backward_sec: In the backward.
        optimizer_sec: In clipping and the optimizer.
        other_sec: On everything else in the training loop.
        peak_memory_bytes: The most memory that the device's allocator has held; NaN where it does not say.
        peak_flops_per_sec: The device's peak that MFU is measured against, in FLOP/s.
        achievable_flops_per_sec: Its measured peak likewise.
    """

    steps: float = 0
    samples: float = 0
    tokens: float = 0
    real_tokens: float = 0
    flops: float = 0
    recomputed_flops: float = 0
    data_sec: float = 0
    forward_sec: float = 0
    backward_sec: float = 0
    optimizer_sec: float = 0
    other_sec: float = 0
    peak_memory_bytes: float = math.nan
    peak_flops_per_sec: float = math.nan
    achievable_flops_per_sec: float = math.nan

    @property
    def seconds(self) -> float:
        """Training time, in seconds."""
        return self.data_sec + self.forward_sec + self.backward_sec + self.optimizer_sec + self.other_sec

    def __add__(self, other: Totals) -> Totals:
        """Totals of both stretches of one device."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Totals(**sums | {name: getattr(other, name) for name in _LATEST})

    def shared_by(self, devices: int) -> Totals:
        """The part of one of several devices that did all of this together, in the same time."""
        if devices == 1:
            return self
        return replace(self, **{name: getattr(self, name) / devices for name in _AMOUNTS})

    def as_row(self) -> tuple[float, ...]:
        """The values in the order of the fields."""
        return astuple(self)

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Totals:
        """The inverse of :meth:`as_row`."""
        return cls(**{field.name: value for field, value in zip(fields(cls), row, strict=True)})


@dataclass(slots=True)
class Amounts:
    """What one step does, added up while it runs; NaN where it is unknown.

    Attributes:
        samples: Of all its micro-batches.
        tokens: Likewise.
        flops: Model FLOPs of forward and backward.
        recomputed_flops: FLOPs that run a second time.
        real_tokens: Tokens that are not padding, of each micro-batch: numbers on the device, which is not waited for.
    """

    samples: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    recomputed_flops: float = 0.0
    real_tokens: list[torch.Tensor | None] = field(default_factory=list)


def totals_of(steps: Sequence[Amounts], seconds: np.ndarray) -> Totals:
    """The totals of some steps; waits for the numbers on the device.

    Args:
        steps: What was done in each.
        seconds: Of every phase in each, of shape (steps, phases).
    """
    if not steps:
        return Totals()
    amounts = np.array([(one.samples, one.tokens, one.flops, one.recomputed_flops) for one in steps]).sum(axis=0)
    data, forward, backward, optimizer, other = seconds.sum(axis=0)[: len(TRAINING_PHASES)].tolist()
    samples, tokens, flops, recomputed_flops = amounts.tolist()
    return Totals(
        steps=len(steps),
        samples=samples,
        tokens=tokens,
        real_tokens=_sum_on_device([number for one in steps for number in one.real_tokens]),
        flops=flops,
        recomputed_flops=recomputed_flops,
        data_sec=data,
        forward_sec=forward,
        backward_sec=backward,
        optimizer_sec=optimizer,
        other_sec=other,
    )


def _sum_on_device(numbers: Sequence[torch.Tensor | None]) -> float:
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return math.nan
    return float(torch.stack(known).sum())

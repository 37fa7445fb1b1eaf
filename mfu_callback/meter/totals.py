"""Sums over the steps of one device, as a row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace

import numpy as np
import torch

from mfu_callback.meter.clock import TRAINING_PHASES

# Amounts of work; devices that share a batch divide them.
_AMOUNTS = ("samples", "tokens", "real_tokens", "flops", "recomputed_flops")
# States, which do not add up over time: a sum takes the latest value.
_LATEST = ("peak_memory_bytes", "peak_flops_per_sec", "achievable_flops_per_sec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums of work and seconds over some steps of one device; a row that ranks exchange as a tensor. Unknown is NaN.

    Attributes:
        steps: Optimizer steps.
        samples: Samples of all micro-batches.
        tokens: Tokens of all micro-batches; NaN if the batch has none.
        real_tokens: Tokens without padding; NaN without attention masks.
        flops: Model FLOPs of the forward and backward passes; NaN if they were not counted.
        recomputed_flops: FLOPs that ran a second time; NaN if they were not counted.
        data_sec: Seconds of training time spent waiting for data.
        forward_sec: Seconds in the forward pass; with manual optimization, in the training step outside the backward.
        backward_sec: Seconds in the backward pass.
        optimizer_sec: Seconds in gradient clipping and the optimizer.
        other_sec: All other seconds of training time.
        peak_memory_bytes: Peak memory of the device's allocator; NaN if it keeps no statistics.
        peak_flops_per_sec: The device's peak for MFU, in FLOP/s.
        achievable_flops_per_sec: The device's measured peak, in FLOP/s.
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

    @property
    def forward_backward_flops_per_sec(self) -> float:
        """Model FLOP/s of the forward and backward passes alone; NaN if unknown."""
        seconds = self.forward_sec + self.backward_sec
        return self.flops / seconds if seconds > 0 else math.nan

    def __add__(self, other: Totals) -> Totals:
        """Totals of two consecutive stretches of one device."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Totals(**sums | {name: getattr(other, name) for name in _LATEST})

    def shared_by(self, devices: int) -> Totals:
        """One device's part, if several devices share this work in the same time."""
        if devices == 1:
            return self
        return replace(self, **{name: getattr(self, name) / devices for name in _AMOUNTS})

    def as_row(self) -> tuple[float, ...]:
        """The values as a row, in the order of the fields."""
        return astuple(self)

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Totals:
        """The inverse of :meth:`as_row`."""
        return cls(**{field.name: value for field, value in zip(fields(cls), row, strict=True)})


@dataclass(slots=True)
class Amounts:
    """The work of one step, added up while it runs; unknown is NaN. Holds no seconds.

    Attributes:
        samples: Samples of all its micro-batches.
        tokens: Tokens of all its micro-batches.
        flops: Model FLOPs of the forward and backward passes.
        recomputed_flops: FLOPs that run a second time.
        real_tokens: Tokens without padding of each micro-batch, as numbers on the device; None without a mask.
    """

    samples: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    recomputed_flops: float = 0.0
    real_tokens: list[torch.Tensor | None] = field(default_factory=list)


def totals_of(steps: Sequence[Amounts], seconds: np.ndarray) -> Totals:
    """The totals of some steps; waits for numbers on the device.

    Args:
        steps: The work of each step.
        seconds: Seconds of each phase in each step, of shape (steps, phases).
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

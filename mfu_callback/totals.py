"""What one device did over some steps, as a row of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace

from mfu_callback.clock import Phase

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

    def as_row(self) -> tuple[float, ...]:
        """The values in the order of the fields."""
        return astuple(self)

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Totals:
        """The inverse of :meth:`as_row`."""
        return cls(**{field.name: value for field, value in zip(fields(cls), row, strict=True)})


def step_totals(amounts: Totals, seconds: Mapping[Phase, float]) -> Totals:
    """The totals of one step from its amounts and its phases, in seconds."""
    return replace(
        amounts,
        steps=1,
        data_sec=seconds[Phase.DATA],
        forward_sec=seconds[Phase.FORWARD],
        backward_sec=seconds[Phase.BACKWARD],
        optimizer_sec=seconds[Phase.OPTIMIZER],
        other_sec=seconds[Phase.OTHER],
    )

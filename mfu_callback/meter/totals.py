"""Sums over the steps of one device, as a row of numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from mfu_callback.meter.amounts import Amounts, done_in
from mfu_callback.meter.clock import TRAINING_PHASES, WAITS, Phase
from mfu_callback.meter.done import NAMES, NOTHING, Done
from mfu_callback.meter.waits import StepWaits

PHASES = ("data", "forward", "backward", "optimizer", "other")

# Amounts of a batch, which those devices divide that share it, and of the work on it.
_AMOUNTS = ("samples", "tokens", "real_tokens", "loss_tokens")
_FLOPS = ("flops", "recomputed_flops")
# States, which do not add up over time: a sum takes the latest value.
_LATEST = (
    *("peak_memory_bytes", "reserved_bytes", "resident_bytes", "memory_share", "power_watts", "clock_share"),
    *("peak_flops_per_sec", "achievable_flops_per_sec"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums of work and seconds over some steps of one device; a row that ranks exchange as a tensor. Unknown is NaN.

    Attributes:
        steps: Optimizer steps.
        samples: Samples of all micro-batches.
        tokens: Tokens of all micro-batches; NaN if the batch has none.
        real_tokens: Tokens without padding; NaN without attention masks.
        loss_tokens: Tokens that the loss is taken over; NaN without labels.
        flops: Model FLOPs of the forward and backward passes; NaN if they were not counted.
        recomputed_flops: FLOPs that ran a second time; NaN if they were not counted.
        data_sec: Seconds of training time spent waiting for data.
        forward_sec: Seconds in the forward pass; with manual optimization, in the training step outside the backward.
        backward_sec: Seconds in the backward pass.
        optimizer_sec: Seconds in gradient clipping and the optimizer.
        other_sec: All other seconds of training time.
        data_waits_sec: Of the seconds above, those spent waiting for other devices, by phase. They are measured in some
            steps, and taken for as long in the others.
        forward_waits_sec: As above.
        backward_waits_sec: As above.
        optimizer_waits_sec: As above.
        other_waits_sec: As above.
        peak_memory_bytes: Peak memory of the device's allocator; NaN if it keeps no statistics.
        reserved_bytes: The most that the allocator held; NaN if it keeps no statistics.
        resident_bytes: The process's resident memory; NaN if the device is no CPU.
        memory_share: What was reserved, over the device's memory; NaN if the allocator keeps no statistics.
        alloc_retries: How often the allocator found the device full and emptied its cache; likewise.
        ooms: Errors out of memory; likewise.
        power_watts: Power of the device; NaN if it does not tell.
        clock_share: Clock of the device over its highest one; NaN if it does not tell.
        peak_flops_per_sec: The device's peak for MFU, in FLOP/s; where several dtypes are multiplied, the rate at which
            they would all be done if each ran at its own peak.
        achievable_flops_per_sec: The device's measured peak, in FLOP/s; as above.
        flops_of_dtypes: Model FLOPs by dtype of the batches that multiply several; not part of the row.
        done: What the device has done since its run began, also in steps that the totals leave out.
        step_waits: The waiting in each of the latest steps.
    """

    steps: float = 0
    samples: float = 0
    tokens: float = 0
    real_tokens: float = 0
    loss_tokens: float = 0
    flops: float = 0
    recomputed_flops: float = 0
    data_sec: float = 0
    forward_sec: float = 0
    backward_sec: float = 0
    optimizer_sec: float = 0
    other_sec: float = 0
    data_waits_sec: float = 0
    forward_waits_sec: float = 0
    backward_waits_sec: float = 0
    optimizer_waits_sec: float = 0
    other_waits_sec: float = 0
    peak_memory_bytes: float = math.nan
    reserved_bytes: float = math.nan
    resident_bytes: float = math.nan
    memory_share: float = math.nan
    alloc_retries: float = math.nan
    ooms: float = math.nan
    power_watts: float = math.nan
    clock_share: float = math.nan
    peak_flops_per_sec: float = math.nan
    achievable_flops_per_sec: float = math.nan
    flops_of_dtypes: Mapping[str, float] = field(default_factory=dict)
    done: Done = NOTHING
    step_waits: StepWaits = field(default_factory=StepWaits)

    @property
    def seconds(self) -> float:
        """Training time, in seconds."""
        return self.data_sec + self.forward_sec + self.backward_sec + self.optimizer_sec + self.other_sec

    @property
    def work(self) -> Done:
        """The work of these steps, without its time."""
        work = {name: getattr(self, name) for name in ("steps", *_AMOUNTS, "flops")}
        return Done(**work)

    @property
    def waits_sec(self) -> float:
        """Seconds spent waiting for other devices."""
        return sum(self._waits(phase) for phase in PHASES)

    def own_sec(self, *phases: str) -> float:
        """Seconds of some phases without the waiting for other devices.

        Args:
            phases: Names from `PHASES`.
        """
        return float(sum(getattr(self, f"{phase}_sec") - self._waits(phase) for phase in phases))

    @property
    def forward_backward_flops_per_sec(self) -> float:
        """Model FLOP/s of the forward and backward passes alone; NaN if unknown."""
        seconds = self.own_sec("forward", "backward")
        return self.flops / seconds if seconds > 0 else math.nan

    def __add__(self, other: Totals) -> Totals:
        """Totals of two consecutive stretches of one device."""
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _ROW}
        return Totals(
            **sums | {name: getattr(other, name) for name in _LATEST},
            flops_of_dtypes=dict(Counter(self.flops_of_dtypes) + Counter(other.flops_of_dtypes)),
            done=other.done,
            step_waits=self.step_waits.followed_by(other.step_waits),
        )

    def with_flops_times(self, number: float) -> Totals:
        """Totals whose batches turned out to compute some times as much."""
        return replace(
            self,
            flops=self.flops * number,
            recomputed_flops=self.recomputed_flops * number,
            flops_of_dtypes={dtype: flops * number for dtype, flops in self.flops_of_dtypes.items()},
        )

    def shared_by(self, devices: int, *, flops_by: int | None = None) -> Totals:
        """One device's part, if several devices share this work in the same time.

        Args:
            devices: Number of devices that share the batches.
            flops_by: Number of devices whose work the FLOPs are; None if they are those of all that share the batches.
        """
        by = devices if flops_by is None else flops_by
        if devices == by == 1:
            return self
        parts = {name: getattr(self, name) / devices for name in _AMOUNTS}
        parts |= {name: getattr(self, name) / by for name in _FLOPS}
        of_dtypes = {dtype: flops / by for dtype, flops in self.flops_of_dtypes.items()}
        done = self.done.shared_by(devices, flops_by=by)
        return replace(self, flops_of_dtypes=of_dtypes, done=done, **parts)

    def as_row(self) -> tuple[float, ...]:
        """The values as a row, in the order of the fields."""
        return (*(float(getattr(self, name)) for name in _ROW), *self.done.as_row(), *self.step_waits.as_row())

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Totals:
        """The inverse of :meth:`as_row`, without the FLOPs by dtype."""
        values: dict[str, Any] = dict(zip(_ROW, row, strict=False))
        done, waits = row[len(_ROW) : _WAITS_AT], row[_WAITS_AT:]
        return cls(**values, done=Done.from_row(done), step_waits=StepWaits.from_row(waits))

    def _waits(self, phase: str) -> float:
        # An estimate from some steps may exceed what there is.
        return float(min(getattr(self, f"{phase}_waits_sec"), getattr(self, f"{phase}_sec")))


_ROW = tuple(one.name for one in fields(Totals) if one.name not in ("flops_of_dtypes", "done", "step_waits"))
_WAITS_AT = len(_ROW) + len(NAMES)


class WaitsOfSteps:
    """Estimates the waiting in steps in which it was not measured by its mean in those in which it was."""

    def __init__(self) -> None:
        self._steps = 0
        self._sums = np.zeros(len(WAITS))

    def estimate(self, seconds: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Seconds of waiting in some consecutive steps, by phase.

        Args:
            seconds: Seconds of each phase in each step, of shape (steps, phases).
            seen: Whether waiting was measured in each step, of shape (steps,).

        Returns:
            Seconds, of shape (steps, training phases).
        """
        measured = seconds[:, WAITS]
        self._steps += int(seen.sum())
        self._sums += measured[seen].sum(axis=0)
        mean = measured[seen].mean(axis=0) if seen.any() else self._sums / max(self._steps, 1)
        waits: np.ndarray = np.where(seen[:, None], measured, np.minimum(mean, seconds[:, TRAINING_PHASES] + measured))
        # Who has waited in the exchange of metrics does not wait again for the same.
        exchange, other = seconds[:, Phase.EXCHANGE], waits[:, Phase.OTHER]
        waits[:, Phase.OTHER] = np.where(seen, other + exchange, np.maximum(other, exchange))
        return waits


def totals_of(
    numbers: Sequence[int], steps: Sequence[Amounts], seconds: np.ndarray, seen: np.ndarray, waits: WaitsOfSteps
) -> Totals:
    """The totals of some steps; waits for numbers on the device.

    Args:
        numbers: The number of each step.
        steps: The work of each step.
        seconds: Seconds of each phase in each step, of shape (steps, phases).
        seen: Whether waiting for other devices was measured in each step, of shape (steps,).
        waits: Has seen the steps before these.
    """
    if not steps:
        return Totals()
    done = done_in(steps)
    phases = seconds[:, TRAINING_PHASES] + seconds[:, WAITS]
    phases[:, Phase.OTHER] += seconds[:, Phase.EXCHANGE]
    waited = np.where(seen, seconds[:, [*WAITS, Phase.EXCHANGE]].sum(axis=1), np.nan)
    of_dtypes: Counter[str] = sum((Counter(of_batch) for one in steps for of_batch in one.of_dtypes), Counter())
    return Totals(
        steps=done.steps,
        samples=done.samples,
        tokens=done.tokens,
        real_tokens=done.real_tokens,
        loss_tokens=done.loss_tokens,
        flops=done.flops,
        recomputed_flops=sum(one.recomputed_flops for one in steps),
        **_by_phase("sec", phases.sum(axis=0)),
        **_by_phase("waits_sec", waits.estimate(seconds, seen).sum(axis=0)),
        flops_of_dtypes=dict(of_dtypes),
        step_waits=StepWaits.of(numbers, waited),
    )


def _by_phase(unit: str, seconds: np.ndarray) -> dict[str, Any]:
    return {f"{phase}_{unit}": value for phase, value in zip(PHASES, seconds.tolist(), strict=True)}

"""The figures of an evaluation: one loop of validate, test or predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from mfu_callback.flops import FlopCount
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.tags import EVALUATION_TAGS
from mfu_callback.peaks import Peak
from mfu_callback.peaks.peak import dtype_name

STAGES = ("validate", "test", "predict")

_PHASES = ("data", "forward", "other")
_PARTS = tuple(tag.part for tag in EVALUATION_TAGS if tag.part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one loop over evaluated batches, without warm-up and counted ones. None if a figure is unknown.

    A step is one batch. All dataloaders of the loop are taken together.

    Attributes:
        stage: One of `STAGES`.
        steps: Measured batches of the first device.
        tokens: Tokens in the measured batches, all devices.
        tokens_per_sec: Tokens per second, all devices.
        real_tokens_per_sec: Tokens per second without padding, all devices; needs attention masks.
        loss_tokens_per_sec: Tokens per second that the loss is taken over, all devices; needs labels.
        samples_per_sec: Samples per second, all devices.
        step_time_sec: Median seconds of a step, from the end of one batch to the end of the next.
        step_time_sec_min: Mean seconds of a step on the fastest of several devices.
        step_time_sec_max: Mean seconds of a step on the slowest of several devices.
        phases_sec: Mean seconds of a step by phase: data, forward, other.
        mfu: Model FLOPs of the forward passes, over time and peak: a fraction.
        mfu_achievable: The same, over the measured peak.
        flops: The FLOP count of the first batch.
        conventions: How attention is counted; None if FLOPs are given.
        peak: The peak for MFU.
        achievable: The measured peak of the device.
        steps_by_part: Number of this process's batches by what they were, as in `Summary`.
        waterfall: The share of the machine that each part used or lost; sums to 1. Without "optimizer",
            "communication" and "waiting": collectives in a forward pass count as "kernels".
    """

    stage: str
    steps: int
    tokens: int | None = None
    tokens_per_sec: float | None = None
    real_tokens_per_sec: float | None = None
    loss_tokens_per_sec: float | None = None
    samples_per_sec: float | None = None
    step_time_sec: float | None = None
    step_time_sec_min: float | None = None
    step_time_sec_max: float | None = None
    phases_sec: dict[str, float] | None = None
    mfu: float | None = None
    mfu_achievable: float | None = None
    flops: FlopCount | None = None
    conventions: str | None = None
    peak: Peak | None = None
    achievable: Peak | None = None
    steps_by_part: dict[str, int] | None = None
    waterfall: dict[str, float] | None = None

    @classmethod
    def of(cls, stage: str, window: Window, step_times: Sequence[float], **known: Any) -> Evaluation:
        """The figures of a loop.

        Args:
            stage: One of `STAGES`.
            window: The totals of all devices; fields of the same name are filled from it.
            step_times: Seconds of the measured steps of this device.
            known: The other fields.
        """
        if not all(rank.steps for rank in window.ranks):
            return cls(stage=stage, steps=0, **known)
        figures = {field.name: getattr(window, field.name) for field in fields(cls) if hasattr(Window, field.name)}
        figures["step_time_sec"] = median(step_times)
        figures["phases_sec"] = {name: window.phases_sec[name] for name in _PHASES}
        if window.waterfall is not None:
            figures["waterfall"] = {part: window.waterfall[part] for part in _PARTS}
        return cls(stage=stage, **figures | known)

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain data for JSON."""
        plain = asdict(self)
        for name in ("peak", "achievable"):
            if plain[name] is not None:
                plain[name]["dtype"] = dtype_name(plain[name]["dtype"])
        return plain


def evaluation_values(stage: str, window: Window) -> dict[str, float]:
    """The known values of a loop by tag name, each under the stage: ``test/throughput/mfu``.

    Args:
        stage: One of `STAGES`.
        window: The totals of all devices.

    Returns:
        The values; none if a device has measured no step.
    """
    if not all(rank.steps for rank in window.ranks):
        return {}
    return {f"{stage}/{name}": value for name, value in logged_values(window, EVALUATION_TAGS).items()}

"""What a whole run came to."""

from __future__ import annotations

from dataclasses import dataclass

from mfu_callback.flops import FlopCount
from mfu_callback.peaks import Peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a whole run came to, warm-up and the counting step left out. Unknown is None.

    Attributes:
        steps: Measured optimizer steps.
        tokens: Tokens in them, all devices.
        tokens_per_sec: All devices.
        samples_per_sec: All devices.
        step_time_sec: Median seconds of a step.
        mfu: Model FLOPs utilization, a fraction of the peak.
        mfu_achievable: The same against the measured peak.
        hfu: The same with recomputed FLOPs; None where nothing was recomputed.
        flops: The count of the first batch.
        conventions: How attention and the backward are counted; None where FLOPs are given.
        peak: What MFU is measured against.
        achievable: The measured peak of the device, where one is known.
        waterfall: Where the machine went; sums to 1.
    """

    steps: int
    tokens: int | None = None
    tokens_per_sec: float | None = None
    samples_per_sec: float | None = None
    step_time_sec: float | None = None
    mfu: float | None = None
    mfu_achievable: float | None = None
    hfu: float | None = None
    flops: FlopCount | None = None
    conventions: str | None = None
    peak: Peak | None = None
    achievable: Peak | None = None
    waterfall: dict[str, float] | None = None

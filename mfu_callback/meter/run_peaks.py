"""The peaks that a run is measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mfu_callback.peaks import Peak


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPeaks:
    """The peaks that a run is measured against; None if unknown.

    Attributes:
        peak: The peak for MFU: from a datasheet, given, or measured.
        achievable: The best rate that large matmuls have reached on this device.
    """

    peak: Peak | None = None
    achievable: Peak | None = None

    @classmethod
    def of(cls, peak: Peak | None, achievable: Peak | None = None) -> RunPeaks:
        """Both peaks. A measured peak is also the achievable one, unless another is given."""
        is_both = achievable is None and peak is not None and peak.is_measured
        return cls(peak=peak, achievable=peak if is_both else achievable)

    def rates(self) -> dict[str, float]:
        """Their rates under the field names of `Totals`; NaN if unknown."""
        return {
            "peak_flops_per_sec": math.nan if self.peak is None else self.peak.flops_per_sec,
            "achievable_flops_per_sec": math.nan if self.achievable is None else self.achievable.flops_per_sec,
        }

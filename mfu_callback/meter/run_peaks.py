"""The peaks that a run is measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mfu_callback.peaks import Peak

_WORTH_SHOWING = 0.8  # of the peak of the fastest dtype
# A machine can be this many times as fast as in a noisy measurement; beyond that rather the FLOPs are wrong.
_MOST_OVER_NOISY = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPeaks:
    """The peaks that a run is measured against; None if unknown.

    Attributes:
        peak: The peak for MFU: from a datasheet, given, or measured.
        achievable: The best rate that large matmuls have reached on this device.
        fastest: The highest peak of this device in any dtype that models are trained in.
        of_matmuls: The achievable peak without what the run itself has reached.
    """

    peak: Peak | None = None
    achievable: Peak | None = None
    fastest: Peak | None = None
    of_matmuls: Peak | None = None

    def fastest_beyond(self, peak_flops_per_sec: float | None) -> Peak | None:
        """The fastest dtype's peak if MFU of it is less than four fifths of MFU, else None.

        Args:
            peak_flops_per_sec: The peak for MFU, over all devices.
        """
        if peak_flops_per_sec is None or self.peak is None or self.fastest is None:
            return None
        is_beyond = peak_flops_per_sec < _WORTH_SHOWING * self.fastest.flops_per_sec
        return self.fastest if is_beyond and self.fastest.dtype != self.peak.dtype else None

    @classmethod
    def of(cls, peak: Peak | None, achievable: Peak | None = None) -> RunPeaks:
        """Both peaks. A measured peak is also the achievable one, unless another is given."""
        is_both = achievable is None and peak is not None and peak.is_measured
        achievable = peak if is_both else achievable
        return cls(peak=peak, achievable=achievable, of_matmuls=achievable)

    def reached(self, flops_per_sec: float) -> RunPeaks:
        """The peaks after a stretch in which this device ran its forward and backward passes at some rate.

        What a run has reached is achievable: an achievable peak below it is replaced. So is the peak for MFU if it is a
        noisy measurement, and not so much lower that rather the FLOPs are wrong. Any other peak stays, and MFU may
        exceed 1.

        Args:
            flops_per_sec: Model FLOP/s of the forward and backward passes; NaN if unknown.
        """
        if self.achievable is None or not self.achievable.flops_per_sec < flops_per_sec < math.inf:
            return self
        source = f"measured: this run reached it, where matmuls alone reached {self.of_matmuls}"
        achievable = replace(self.achievable, flops_per_sec=flops_per_sec, source=source, is_noisy=True)
        is_noisy = self.peak is not None and self.peak.is_measured and self.peak.is_noisy
        is_credible = self.of_matmuls is None or flops_per_sec <= _MOST_OVER_NOISY * self.of_matmuls.flops_per_sec
        return replace(self, peak=achievable if is_noisy and is_credible else self.peak, achievable=achievable)

    def rates(self) -> dict[str, float]:
        """Their rates under the field names of `Totals`; NaN if unknown."""
        return {
            "peak_flops_per_sec": math.nan if self.peak is None else self.peak.flops_per_sec,
            "achievable_flops_per_sec": math.nan if self.achievable is None else self.achievable.flops_per_sec,
        }

"""The peaks that a run is measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
        of_dtypes: By the name of a dtype other than that of most FLOPs, its own peak and its own achievable peak, which
            is the same where it was not measured.
    """

    peak: Peak | None = None
    achievable: Peak | None = None
    fastest: Peak | None = None
    of_matmuls: Peak | None = None
    of_dtypes: Mapping[str, tuple[Peak, Peak]] = field(default_factory=dict)

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

    def reached(self, flops_per_sec: float, flops: float = 1.0, flops_of_dtypes: Mapping[str, float] = {}) -> RunPeaks:
        """The peaks after a stretch in which this device ran its forward and backward passes at some rate.

        What a run has reached is achievable: an achievable peak below it is replaced. So is the peak for MFU if it is a
        noisy measurement, and not so much lower that rather the FLOPs are wrong. Any other peak stays, and MFU may
        exceed 1.

        Args:
            flops_per_sec: Model FLOP/s of the forward and backward passes; NaN if unknown.
            flops: Model FLOPs of the stretch.
            flops_of_dtypes: Those of batches that multiply several dtypes, by dtype.
        """
        before = self.rates(flops, flops_of_dtypes)["achievable_flops_per_sec"]
        if self.achievable is None or not before < flops_per_sec < math.inf:
            return self
        source = f"measured: this run reached it, where matmuls alone reached {self.of_matmuls}"
        times = flops_per_sec / before
        rate = flops_per_sec if not flops_of_dtypes else self.achievable.flops_per_sec * times
        achievable = replace(self.achievable, flops_per_sec=rate, source=source, is_noisy=True)
        is_noisy = self.peak is not None and self.peak.is_measured and self.peak.is_noisy
        is_credible = self.of_matmuls is None or rate <= _MOST_OVER_NOISY * self.of_matmuls.flops_per_sec
        of_dtypes = {
            dtype: (peak, replace(other, flops_per_sec=other.flops_per_sec * times, source=source, is_noisy=True))
            for dtype, (peak, other) in self.of_dtypes.items()
        }
        peak = achievable if is_noisy and is_credible else self.peak
        return replace(self, peak=peak, achievable=achievable, of_dtypes=of_dtypes)

    def rates(self, flops: float = 1.0, flops_of_dtypes: Mapping[str, float] = {}) -> dict[str, float]:
        """The rates at which some FLOPs would be done at the peaks, each dtype's at its own; NaN if unknown.

        Args:
            flops: Model FLOPs of a stretch.
            flops_of_dtypes: Those of batches that multiply several dtypes, by dtype.

        Returns:
            The rates in FLOP/s, under the field names of `Totals`.
        """
        peak, achievable = _rate(self.peak), _rate(self.achievable)
        own = {dtype: part for dtype, part in flops_of_dtypes.items() if dtype in self.of_dtypes}
        if own and flops > 0:
            rest, others = flops - sum(own.values()), [(part, *self.of_dtypes[dtype]) for dtype, part in own.items()]
            peak = flops / (rest / peak + sum(part / _rate(of_peak) for part, of_peak, _ in others))
            achievable = flops / (rest / achievable + sum(part / _rate(reached) for part, _, reached in others))
        return {"peak_flops_per_sec": peak, "achievable_flops_per_sec": achievable}


def _rate(peak: Peak | None) -> float:
    return math.nan if peak is None else peak.flops_per_sec

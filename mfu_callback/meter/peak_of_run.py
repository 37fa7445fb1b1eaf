"""The peak of a run: found at its start, corrected after the first FLOP count, questioned by what the run reached."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from numbers import Real
from typing import Any

import torch

from mfu_callback.flops import FlopCount
from mfu_callback.meter.loop_settings import LOOP_SETTINGS
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.peaks import (
    DtypeRate,
    Peak,
    PeakArgument,
    fastest_peak,
    hints_for,
    measure_peak,
    rates_in_training,
    resolve_peak,
)
from mfu_callback.peaks.cache import cached_peak, forget_peak
from mfu_callback.peaks.peak import dtype_name
from mfu_callback.peaks.resolve import IN_FIT_SEC

# Why MFU of a measured peak can exceed 1, besides the causes below.
_MEASURED_ON_A_SLOW_MACHINE = (
    "the peak was measured while the machine was slow (a fit that looks for it measures it again at its end;"
    " `python -m mfu_callback.peaks` does it now)"
)
# Why MFU can exceed 1, most likely cause first.
_CAUSES = (
    "the matmuls run in another dtype than the peak is for (fp8, TF32, fp16 with accumulation in fp16)",
    "the device runs above the peak (structured sparsity, a higher boost clock, or a peak= that is too low)",
    "FLOPs were counted twice, or counted FLOPs did not run",
    "steps were measured too short because the device was not synchronized",
)


class PeakOfRun:
    """Finds the peak that a run is measured against, and reports it.

    Args:
        meter: Receives the peaks.
        asked: The user's ``peak=``: a `Peak`, FLOP/s, "measured", or None to look the device up.
        device: The device that runs the matmuls.
        messages: Says what was found.
        loop: The kind of the loop: a key of `mfu_callback.meter.loop_settings.LOOP_SETTINGS`.

    Attributes:
        dtype: The dtype of the matmuls' inputs.
    """

    def __init__(
        self,
        meter: RunMeter,
        asked: PeakArgument,
        device: torch.device,
        messages: Messages,
        *,
        loop: str = "trainer",
    ) -> None:
        self._meter = meter
        self._asked = asked
        self._device = device
        self._settings = LOOP_SETTINGS[loop].precisions
        self._announce, self._warn_once = messages.inform, messages.warn_once
        self.dtype = torch.float32

    def find(self, dtype: torch.dtype) -> None:
        """Find the peak at the dtype of the matmuls' inputs."""
        self.dtype = dtype
        try:
            found = resolve_peak(self._asked, self._device, dtype, self._announce)
        except Exception as error:  # a driver can raise anything
            self._warn_once(
                "peak",
                f"No peak was found ({type(error).__name__}: {error}), so MFU is left out. Pass peak= in FLOP/s.",
            )
            self._meter.peaks = RunPeaks()
            return
        if found.unexpected:
            self._warn_once(f"peak in {dtype}", found.message)
        else:
            self._announce(found.message)
        self._meter.peaks = RunPeaks.of(found.peak, found.achievable)

    def take_count(self, count: FlopCount) -> None:
        """Find the peaks of the dtypes that the model multiplies, of which the Trainer's precision implies one."""
        self.correct_dtype(count)
        self._find_others()

    def correct_dtype(self, count: FlopCount) -> None:
        """Find the peak again if most model FLOPs run in another dtype than the Trainer's precision implies."""
        dtype = _dtype_of_most(count)
        if dtype is None or dtype == self.dtype:
            return
        if isinstance(self._asked, Real | Peak):
            self.dtype = dtype
            return
        self._announce(
            f"most model FLOPs run in {dtype_name(dtype)}, not in {dtype_name(self.dtype)}, the dtype"
            " that the precision of the run implies. The peak is looked up again."
        )
        self.find(dtype)

    def _find_others(self) -> None:
        """Find the peaks of further dtypes; a peak that the user gives holds for all."""
        training, own = self._meter.flops.of_first, dtype_name(self.dtype)
        if training is None or not training.of_dtypes or isinstance(self._asked, Real | Peak):
            return
        if self._meter.peaks.peak is None:
            return
        found = {name: self._peaks_of(name) for name in training.of_dtypes if name != own}
        known = {name: peaks for name, peaks in found.items() if peaks is not None}
        self._meter.peaks = replace(self._meter.peaks, of_dtypes=known)
        shares = sorted(self._meter.shares_of_dtypes().items(), key=lambda item: -item[1]["share"])
        parts = ", ".join(f"{dtype} {one['share']:.1%} over {_over(one)}" for dtype, one in shares)
        self._announce(f"MFU sums the FLOPs of each dtype over its own peak: {parts}.")

    def _peaks_of(self, name: str) -> tuple[Peak, Peak] | None:
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            return None
        try:
            found = resolve_peak(self._asked, self._device, dtype, self._announce)
        except Exception:  # a driver can raise anything, and the other peak is there
            return None
        return None if found.peak is None else (found.peak, found.achievable or found.peak)

    def settle(self) -> None:
        """Measure a measured peak again at the end of fit if it is noisy or lower than what the run has reached.

        A second measurement that is not noisy decides. After a noisy one, the higher of both and of what the run has
        reached is the peak.
        """
        peaks = self._meter.peaks
        if peaks.peak is None or peaks.of_matmuls is None or isinstance(self._asked, Peak | Real):
            return
        reached = max(peaks.achievable or peaks.peak, peaks.of_matmuls, key=_rate)
        if not peaks.peak.is_measured or not (peaks.peak.is_noisy or peaks.peak.flops_per_sec < reached.flops_per_sec):
            return
        self._announce(
            f"the peak is measured once more, which takes {IN_FIT_SEC} s: the device was not idle when it was."
        )
        try:
            again = self._measure_again(reached)
        except Exception:  # a driver can raise anything, and the figures are there without it
            return
        best = replace(max(peaks.of_matmuls, again, key=_rate), is_noisy=again.is_noisy)
        of_dtypes = self._meter.peaks.of_dtypes
        self._meter.peaks = replace(RunPeaks.of(best), of_dtypes=of_dtypes).reached(reached.flops_per_sec)

    def _measure_again(self, reached: Peak) -> Peak:
        known = cached_peak(self._device, self.dtype)
        was_counted = self._meter.flops.first is not None
        if known is not None and known.flops_per_sec < reached.flops_per_sec and was_counted:
            forget_peak(self._device, self.dtype)
        return measure_peak(self._device, self.dtype, time_limit_sec=IN_FIT_SEC)

    def rates(self, *, measure: bool) -> dict[torch.dtype, DtypeRate]:
        """How fast this device multiplies in the run's dtype and in those that it could run in.

        Args:
            measure: Whether to measure what is not known.
        """
        try:
            return rates_in_training(self._device, self.dtype, measure=measure, announce=self._announce)
        except Exception:  # as above
            return {}

    def compare(self, rates: Mapping[torch.dtype, DtypeRate], *, processes: int) -> None:
        """Give the meter the hints on the run's settings, and the peak of the fastest dtype.

        Args:
            rates: The rates of this run's dtype and of those that it could run in.
            processes: Number of processes on this machine that compute this run.
        """
        self._meter.peaks = replace(self._meter.peaks, fastest=fastest_peak(rates))
        with suppress(Exception):  # as above
            self._meter.hints = hints_for(self._device, self.dtype, rates, processes=processes, settings=self._settings)

    def warn_if_above_one(self, window: Window) -> None:
        """Warn if MFU exceeds 1, and list the likely causes."""
        peak = self._meter.peaks.peak
        if window.mfu is None or window.mfu <= 1 or peak is None:
            return
        possible = (_MEASURED_ON_A_SLOW_MACHINE, *_CAUSES) if peak.is_measured else _CAUSES
        causes = "; ".join(f"({number}) {cause}" for number, cause in enumerate(possible, start=1))
        self._warn_once(
            "above one",
            f"MFU is {window.mfu:.2f} but cannot exceed 1, so the measurement is wrong. Likely causes, most likely"
            f" first: {causes}. MFU is measured against {peak.description}. Pass peak= in FLOP/s, or flops= per token.",
        )


def _rate(peak: Peak) -> float:
    return peak.flops_per_sec


def _over(one: Mapping[str, Any]) -> str:
    if one["source"] is None:
        return f"{one['flops_per_sec'] / 1e12:.4g} TFLOP/s, the main dtype's, since its own is unknown"
    return f"{one['flops_per_sec'] / 1e12:.4g} TFLOP/s"


def _dtype_of_most(count: FlopCount) -> torch.dtype | None:
    name, flops = max(count.per_dtype.items(), key=lambda item: item[1], default=("", 0))
    # The operators that were not counted may be most of the model, and in another dtype (fp8 kernels of a library).
    if count.left_out or flops <= sum(count.per_dtype.values()) / 2:
        return None
    return getattr(torch, name, None)

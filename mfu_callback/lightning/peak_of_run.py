"""The peak of a run: found at its start, corrected after the first FLOP count, questioned if MFU exceeds 1."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mfu_callback.flops import FlopCount
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.peaks import Peak, PeakArgument, resolve_peak
from mfu_callback.peaks.peak import dtype_name

# Why MFU can exceed 1, most likely cause first.
_CAUSES = (
    "the matmuls run in another dtype than the peak is for (fp8, TF32, fp16 with accumulation in fp16)",
    "the device runs above the peak (structured sparsity, a higher boost clock, or a peak that was measured while the"
    " machine was busy: `python -m mfu_callback.peaks` measures it again)",
    "FLOPs were counted twice, or counted FLOPs did not run",
    "steps were measured too short because the device was not synchronized",
)


class PeakOfRun:
    """Finds the peak that a run is measured against, and reports it.

    Args:
        meter: Receives the peaks.
        asked: The user's ``peak=``: a `Peak`, FLOP/s, "measured", or None to look the device up.
        device: The device that runs the matmuls.
        warn_once: Warns with a message, once per subject.
    """

    def __init__(
        self,
        meter: MFUMeter,
        asked: PeakArgument,
        device: torch.device,
        warn_once: Callable[[str, str], None],
    ) -> None:
        self._meter = meter
        self._asked = asked
        self._device = device
        self._warn_once = warn_once
        self._dtype = torch.float32

    def find(self, dtype: torch.dtype) -> None:
        """Find the peak at the dtype of the matmuls' inputs."""
        self._dtype = dtype
        try:
            found = resolve_peak(self._asked, self._device, dtype)
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
            rank_zero_info(f"MFUCallback: {found.message}")
        self._meter.peaks = RunPeaks.of(found.peak, found.achievable)

    def correct_dtype(self, count: FlopCount) -> None:
        """Find the peak again if most model FLOPs run in another dtype than the Trainer's precision implies."""
        dtype = _dtype_of_most(count)
        if dtype is None or dtype == self._dtype or isinstance(self._asked, Real | Peak):
            return
        rank_zero_info(
            f"MFUCallback: most model FLOPs run in {dtype_name(dtype)}, not in {dtype_name(self._dtype)}, the dtype of"
            " the Trainer's precision. The peak is looked up again."
        )
        self.find(dtype)

    def warn_if_above_one(self, window: Window) -> None:
        """Warn if MFU exceeds 1, and list the likely causes."""
        peak = self._meter.peaks.peak
        if window.mfu is None or window.mfu <= 1 or peak is None:
            return
        causes = "; ".join(f"({number}) {cause}" for number, cause in enumerate(_CAUSES, start=1))
        self._warn_once(
            "above one",
            f"MFU is {window.mfu:.2f} but cannot exceed 1, so the measurement is wrong. Likely causes, most likely"
            f" first: {causes}. MFU is measured against {peak.description}. Pass peak= in FLOP/s, or flops= per token.",
        )


def _dtype_of_most(count: FlopCount) -> torch.dtype | None:
    name, flops = max(count.per_dtype.items(), key=lambda item: item[1], default=("", 0))
    # The operators that were not counted may be most of the model, and in another dtype (fp8 kernels of a library).
    if count.left_out or flops <= sum(count.per_dtype.values()) / 2:
        return None
    return getattr(torch, name, None)

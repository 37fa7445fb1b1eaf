"""What a run is measured against: found at its start, set right by the first count, doubted when MFU exceeds 1."""

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

# Why MFU can exceed 1, the likeliest first.
_CAUSES = (
    "the peak is that of another dtype than the matmuls run in (fp8, TF32, fp16 with accumulation in fp16)",
    "the device runs above it (structured sparsity, a higher boost clock, a peak that was measured while the machine"
    " was busy: `python -m mfu_callback.peaks` measures it anew)",
    "FLOPs were counted twice or did not run",
    "steps seemed shorter than they are, because the device was not synchronized",
)


class PeakOfRun:
    """Finds what a run is measured against and tells it.

    Args:
        meter: Takes the peaks.
        asked: A peak, FLOP/s, "measured", or None to look the device up.
        device: Where the run's matmuls are computed.
        warn_once: Called with a subject and a message.
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
        except Exception as error:  # what a driver may say is not for us to foresee
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

    def follow(self, count: FlopCount) -> None:
        """Find the peak anew if most of the model is multiplied in another dtype than the Trainer's precision says."""
        dtype = _dtype_of_most(count)
        if dtype is None or dtype == self._dtype or isinstance(self._asked, Real | Peak):
            return
        rank_zero_info(
            f"MFUCallback: most of the model is multiplied in {dtype_name(dtype)}, not in the"
            f" {dtype_name(self._dtype)} of the Trainer's precision."
        )
        self.find(dtype)

    def doubt(self, window: Window) -> None:
        """Warn where MFU exceeds 1, with the likely causes."""
        peak = self._meter.peaks.peak
        if window.mfu is None or window.mfu <= 1 or peak is None:
            return
        causes = "; ".join(f"({number}) {cause}" for number, cause in enumerate(_CAUSES, start=1))
        self._warn_once(
            "above one",
            f"MFU is {window.mfu:.2f}, and nothing can exceed its peak: this is a wrong measurement. The likely causes,"
            f" the likeliest first: {causes}. It is measured against {peak.description}. Pass peak= in FLOP/s, or"
            " flops= per token.",
        )


def _dtype_of_most(count: FlopCount) -> torch.dtype | None:
    name, flops = max(count.per_dtype.items(), key=lambda item: item[1], default=("", 0))
    # What is not counted may be the larger part, and in another dtype (fp8 kernels of a library).
    if count.left_out or flops <= sum(count.per_dtype.values()) / 2:
        return None
    return getattr(torch, name, None)

"""What a run is measured against: what the user gave, the datasheet, or a measurement, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mfu_callback.peaks.find import find_peak
from mfu_callback.peaks.measure import device_name, measure_peak
from mfu_callback.peaks.peak import Peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A peak and the sentence that goes into the log.

    Attributes:
        peak: The peak; None where there is none.
        message: What it is and where it comes from, or why it is missing and what to do.
        unexpected: Whether the message is a warning.
    """

    peak: Peak | None
    message: str
    unexpected: bool = False


def resolve_peak(asked: float | str | None, device: torch.device, dtype: torch.dtype) -> Resolution:
    """Find the peak for a run.

    Args:
        asked: FLOP/s, "measured", or None to look the device up and measure it where it is unknown.
        device: Where the run's matmuls are computed.
        dtype: The dtype of their inputs.
    """
    name = device_name(device)
    if isinstance(asked, int | float):
        return _known(Peak(flops_per_sec=float(asked), name=name, dtype=dtype, source="given as peak="))
    if asked is None and (peak := find_peak(name, dtype, tf32=_uses_tf32())) is not None:
        return _known(peak)
    return _measured(device, dtype, is_surprise=asked is None and device.type != "cpu")


def _known(peak: Peak) -> Resolution:
    rate, dtype = f"{peak.flops_per_sec / 1e12:.4g} TFLOP/s", _short(peak.dtype)
    return Resolution(peak=peak, message=f"MFU is measured against {rate}, {peak.name} in {dtype} ({peak.source}).")


def _measured(device: torch.device, dtype: torch.dtype, *, is_surprise: bool) -> Resolution:
    name = device_name(device)
    try:
        peak = measure_peak(device, dtype)
    except RuntimeError as error:
        message = f"The peak of '{name}' in {_short(dtype)} could not be measured ({error}), so MFU is left out."
        return Resolution(peak=None, message=f"{message} Pass peak= in FLOP/s.", unexpected=True)
    if not is_surprise:
        return _known(peak)
    message = (
        f"No peak is known for '{name}' in {_short(dtype)}, so MFU is measured against this device's own best matmul"
        f" ({peak.flops_per_sec / 1e12:.4g} TFLOP/s). Pass peak=, or add a row to mfu_callback/peaks/table.py."
    )
    return Resolution(peak=peak, message=message, unexpected=True)


def _uses_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch refuses to answer where its newer setting was used
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

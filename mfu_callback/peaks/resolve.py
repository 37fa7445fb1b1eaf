"""Chooses the peak of a run: the user's value, the datasheet's or a measured one, with a message for the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch

from mfu_callback.peaks.cache import cached_peak, confirmed_peak
from mfu_callback.peaks.find import find_device, find_peak
from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.measure import measure_peak
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.tables.unrated import why_unrated
from mfu_callback.peaks.this_machine import device_name, multiprocessors

PeakArgument = Peak | float | Literal["measured"] | None
# Seconds that the start of a fit may wait for a peak; `measure_peak` overruns its limit by a tenth at most.
IN_FIT_SEC = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The peaks of a run and the message for the log.

    Attributes:
        peak: The peak that MFU is measured against; None if there is none.
        achievable: The measured peak; None if there is none.
        message: The peak and its source, or why it is missing and the remedy.
        unexpected: Whether the message is a warning.
    """

    peak: Peak | None
    achievable: Peak | None = None
    message: str
    unexpected: bool = False


def resolve_peak(
    asked: PeakArgument,
    device: torch.device,
    dtype: torch.dtype,
    announce: Callable[[str], object] = lambda message: None,
) -> Resolution:
    """Find the peak for a run.

    Args:
        asked: A `Peak`, a rate in FLOP/s, "measured" to measure the device, or None to look it up and measure it only
            if it is not found.
        device: The device that computes the run's matmuls.
        dtype: The dtype of the matmuls' inputs.
        announce: Told, before the device is measured, that it will be and how long that takes.
    """
    if isinstance(asked, Peak):
        return _known(asked, asked if asked.is_measured else cached_peak(device, dtype))
    if isinstance(asked, Real):
        peak = Peak(flops_per_sec=float(asked), name=device_name(device), dtype=dtype, source="given: peak=")
        return _known(peak, cached_peak(device, dtype))
    if asked is None and (datasheet := datasheet_peak(device, dtype)) is not None:
        return _known(datasheet, cached_peak(device, dtype))
    return _measured(device, dtype, announce, is_asked=asked is not None)


def datasheet_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The table's peak of one of this machine's devices, under torch's current fp32 settings.

    Args:
        device: The device.
        dtype: The dtype of the matmuls' inputs.
    """
    tf32 = fp32_precision(device) != "ieee"
    return find_peak(device_name(device), dtype, tf32=tf32, multiprocessors=multiprocessors(device))


def _measured_now(device: torch.device, dtype: torch.dtype, announce: Callable[[str], object]) -> Peak:
    announce(
        f"The peak of '{device_name(device)}' in {dtype_name(dtype)} is measured, which takes {IN_FIT_SEC} s. It is"
        " kept once two fits agree, and looked at again every day."
    )
    return measure_peak(device, dtype, time_limit_sec=IN_FIT_SEC)


def _known(peak: Peak, achievable: Peak | None) -> Resolution:
    message = f"MFU is measured against {peak.description}."
    if achievable is not None and achievable is not peak:
        message += f" This device has reached {achievable} ({achievable.source})."
    if achievable is not None and achievable.is_noisy:
        message += " The measurement is noisy: the machine's speed varied, so it may reach more when it is quiet."
    return Resolution(peak=peak, achievable=achievable, message=message)


def _measured(
    device: torch.device, dtype: torch.dtype, announce: Callable[[str], object], *, is_asked: bool
) -> Resolution:
    name = device_name(device)
    has_row = find_device(name, multiprocessors(device)) is not None
    reason = None if has_row else why_unrated(name)
    try:
        peak = confirmed_peak(device, dtype) or _measured_now(device, dtype, announce)
    except RuntimeError as error:
        message = f"The peak of '{name}' in {dtype_name(dtype)} could not be measured ({error}), so MFU is left out."
        return Resolution(peak=None, message=f"{message} Pass peak= in FLOP/s.", unexpected=True)
    if is_asked or device.type == "cpu":
        return _known(peak, peak)
    message = (
        f"No peak is known for '{name}' in {dtype_name(dtype)}{'' if reason is None else f' ({reason})'}, so MFU is"
        f" measured against this device's own best matmul ({peak}). Pass peak="
    )
    is_unknown = reason is None and not has_row
    remedy = " in FLOP/s to use another peak."
    if is_unknown:
        remedy = " in FLOP/s, or add a row to the tables in mfu_callback/peaks/tables."
    return Resolution(peak=peak, achievable=peak, message=message + remedy, unexpected=reason is None)

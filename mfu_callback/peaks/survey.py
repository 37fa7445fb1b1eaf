"""The datasheet and measured peaks of this machine's devices, and the rates of all table rows, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mfu_callback.peaks.cache import cached_peak
from mfu_callback.peaks.dtype_rates import trainable_dtypes
from mfu_callback.peaks.find import find_device
from mfu_callback.peaks.fp32_precision import fp32_precision_set
from mfu_callback.peaks.measure import measure_peak
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.resolve import datasheet_peak
from mfu_callback.peaks.tables.device import Device, Rate
from mfu_callback.peaks.tables.unrated import why_unrated
from mfu_callback.peaks.this_machine import device_name, multiprocessors
from mfu_callback.tools.accelerators import accelerators

# The table's name of a rate, and the dtype of the matrices that it applies to.
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """One device of this machine at one dtype.

    Attributes:
        device: Torch's name of the device: "cpu", "cuda:0".
        name: The name that the driver reports.
        row: The device's row of the table; None if it has no row.
        why_no_row: The reason why no table can have a row for it; None if there is a row or no known reason.
        dtype: A key of `DTYPES`: "bfloat16", "tf32", ...
        datasheet: The table's peak; None if there is none.
        measured: The best measured peak; None if there is none.
        error: Why the measurement failed; None if it did not fail.
    """

    device: str
    name: str
    row: Device | None
    why_no_row: str | None
    dtype: str
    datasheet: Peak | None
    measured: Peak | None
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """The measured peak divided by the datasheet's; None if either is missing."""
        if self.datasheet is None or self.measured is None:
            return None
        return self.measured.flops_per_sec / self.datasheet.flops_per_sec


def devices_here() -> list[torch.device]:
    """The accelerators of this machine, or its CPU if there are none."""
    return accelerators() or [torch.device("cpu")]


def usual_dtypes(device: torch.device) -> Sequence[str]:
    """The dtypes that models are usually trained in on this kind of device."""
    first, *others = (dtype_name(dtype) for dtype in trainable_dtypes(device))
    return (first, *(() if device.type == "cpu" else ("tf32",)), *others)


def survey(device: torch.device, dtype: str, *, time_limit_sec: float | None) -> Surveyed:
    """Look up and measure one device at one dtype.

    Args:
        device: The device.
        dtype: One of `DTYPES`.
        time_limit_sec: About how long to measure, in seconds; None to use an earlier measurement instead.
    """
    name, error, measured = device_name(device), None, None
    row = find_device(name, multiprocessors(device))
    with fp32_precision_set("tf32" if dtype == "tf32" else "ieee"):
        datasheet = datasheet_peak(device, DTYPES[dtype])
        try:
            measured = cached_peak(device, DTYPES[dtype])
            if time_limit_sec is not None:
                measured = measure_peak(device, DTYPES[dtype], time_limit_sec=time_limit_sec)
        except RuntimeError as reason:
            error = str(reason).splitlines()[0]
    return Surveyed(
        device=str(device),
        name=name,
        row=row,
        why_no_row=why_unrated(name) if row is None else None,
        dtype=dtype,
        datasheet=datasheet,
        measured=measured,
        error=error,
    )


def table_rates(device: Device) -> dict[str, Rate]:
    """The rates of a row of the table by dtype, without the unknown ones."""
    rates = {name: device.rate(name) for name in (*DTYPES, "int8")}
    return {name: rate for name, rate in rates.items() if rate is not None}

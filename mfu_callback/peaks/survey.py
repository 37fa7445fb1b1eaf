"""What this machine's devices should reach and do reach, and what the table says of all devices: as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mfu_callback.peaks.cache import cached_peak
from mfu_callback.peaks.find import find_device
from mfu_callback.peaks.measure import measure_peak
from mfu_callback.peaks.peak import Peak
from mfu_callback.peaks.resolve import datasheet_peak
from mfu_callback.peaks.tables.device import Device, Rate
from mfu_callback.peaks.tables.unrated import why_unrated
from mfu_callback.peaks.this_machine import device_name, multiprocessors

# What the table calls a rate, and the dtype of the matrices that are multiplied at it.
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.float8_e4m3fn,
}
# A CPU multiplies fp16 up to a hundred times slower than fp32: nobody trains in it there.
_USUAL = {"cpu": ("float32", "bfloat16")}
_USUAL_ELSEWHERE = ("float32", "tf32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """One device of this machine at one dtype.

    Attributes:
        device: As torch counts it: "cpu", "cuda:0".
        name: The name that the driver reports.
        row: The device of the table that it is; None where the table does not have it.
        why_no_row: Why no table can have it, where that is known.
        dtype: "bfloat16", "tf32", ...
        datasheet: The peak by the table, or None.
        measured: The best that was measured, or None.
        error: Why it could not be measured, or None.
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
        """Measured over datasheet."""
        if self.datasheet is None or self.measured is None:
            return None
        return self.measured.flops_per_sec / self.datasheet.flops_per_sec


def devices_here() -> list[torch.device]:
    """The accelerators of this machine, or its CPU where there are none."""
    if not torch.accelerator.is_available():
        return [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]


def usual_dtypes(device: torch.device) -> Sequence[str]:
    """The dtypes that models are trained in on a kind of device."""
    return _USUAL.get(device.type, _USUAL_ELSEWHERE)


def survey(device: torch.device, dtype: str, *, time_limit_sec: float | None) -> Surveyed:
    """Look one device up and measure it.

    Args:
        device: The device.
        dtype: One of `DTYPES`.
        time_limit_sec: About how long to measure; None takes what was measured earlier.
    """
    name, error, measured = device_name(device), None, None
    row = find_device(name, multiprocessors(device))
    with _fp32_precision("tf32" if dtype == "tf32" else "ieee"):
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
    """The rates of a row of the table, by dtype."""
    rates = {name: device.rate(name) for name in (*DTYPES, "int8")}
    return {name: rate for name, rate in rates.items() if rate is not None}


@contextmanager
def _fp32_precision(precision: str) -> Iterator[None]:
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = precision
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value

"""Finds the row of the device table, and the rate, for the name that a driver reports."""

from __future__ import annotations

import re

import torch

from mfu_callback.peaks.peak import DTYPE, Peak, dtype_name
from mfu_callback.peaks.tables.device import Device, Rate
from mfu_callback.peaks.tables.devices import rows_of
from mfu_callback.tools.options import FLAG, Option, checked, instance_of, one_of, whole

_OPTIONS = {
    "device_name": Option("must be the name that the driver reports, a string.", instance_of(str)),
    "dtype": DTYPE,
    "tf32": FLAG,
    "multiprocessors": Option("must be a whole number of at least 0, or None if unknown.", one_of(None), whole(0)),
}
_MIG_SLICE = re.compile(r"\s+MIG\b.*")


def find_peak(
    device_name: str, dtype: torch.dtype, *, tf32: bool = False, multiprocessors: int | None = None
) -> Peak | None:
    """Look up the dense peak of a device.

    A row matches if the words of the name, without vendor and brand, are exactly the words of a name in the row:
    "RTX 3080 Ti" and a "Laptop" card do not match "RTX 3080", and "L40S" does not match "L4". If several devices
    report one name, the number of multiprocessors decides between them; a number that no row has belongs to a rare
    variant, which has no peak here. A slice of a device (MIG, a partition) gets the rate of its share of the
    multiprocessors.

    Args:
        device_name: The name that the driver reports, for example through `torch.cuda.get_device_name()`.
        dtype: The dtype of the matmuls' inputs.
        tf32: Whether fp32 matmuls run on the tensor cores (`torch.set_float32_matmul_precision("high")`).
        multiprocessors: The number of multiprocessors that the driver reports, for example
            `torch.cuda.get_device_properties().multi_processor_count`; None if unknown.

    Returns:
        The peak, or None if no source gives one or if the name fits no device or more than one.

    Raises:
        ValueError: If an argument has a value that is not allowed.

    Example:
        >>> find_peak("NVIDIA A100-SXM4-40GB", torch.bfloat16).flops_per_sec
        312000000000000.0
    """
    given = {"device_name": device_name, "dtype": dtype, "tf32": tf32, "multiprocessors": multiprocessors}
    checked(_OPTIONS, given)
    device = find_device(device_name, multiprocessors)
    rate = None if device is None else _rate(device, dtype, tf32)
    share = None if device is None else _share(device, device_name, multiprocessors)
    if device is None or rate is None or share is None:
        return None
    return Peak(
        flops_per_sec=rate.tflops_per_sec * 1e12 * share,
        name=device.name if share == 1 else f"{device.name} ({multiprocessors}/{device.units} of its multiprocessors)",
        dtype=dtype,
        source=rate.source,
        memory_bytes=_giga(device.memory_gb, share),
        bandwidth_bytes_per_sec=_giga(device.bandwidth_gb_per_sec, share),
    )


def find_device(device_name: str, multiprocessors: int | None = None) -> Device | None:
    """The row of a device; for a slice, the row of the whole device. See `find_peak`."""
    rows = rows_of(_MIG_SLICE.sub("", device_name))
    if multiprocessors is None:
        fitting = [row for row in rows if not row.is_variant]
    else:
        fitting = [row for row in rows if row.units in (None, multiprocessors) or _is_part(row, device_name)]
    return fitting[0] if len(fitting) == 1 else None


def _is_part(row: Device, device_name: str) -> bool:
    """Whether a device with this name may be only a part of the row's device."""
    is_divisible = row.architecture is not None and row.architecture.is_divisible
    return is_divisible or _MIG_SLICE.search(device_name) is not None


def _share(row: Device, device_name: str, multiprocessors: int | None) -> float | None:
    """The share of the row's device that a name stands for; 1 for the whole device, None if it is unknown."""
    if _is_part(row, device_name) and multiprocessors is not None and row.units is not None:
        most = 1 if row.architecture is None else row.architecture.most_together
        share = multiprocessors / row.units
        return share if 0 < share <= most else None
    return None if _MIG_SLICE.search(device_name) else 1


def _rate(device: Device, dtype: torch.dtype, tf32: bool) -> Rate | None:
    name = dtype_name(dtype)
    if name.startswith(("float8_e4m3", "float8_e5m2")):
        return device.rate("float8")
    if name == "float32" and tf32 and device.architecture is not None and device.architecture.composes_tf32:
        return None
    if name == "float32" and tf32:
        return device.rate("tf32") or device.rate("float32")
    return device.rate(name)


def _giga(amount: float | None, share: float) -> float | None:
    # None for a slice: its share of the memory differs from its share of the multiprocessors.
    return amount * 1e9 if amount is not None and share == 1 else None

"""From the name that a driver reports to a row of the device table."""

from __future__ import annotations

import re

import torch

from mfu_callback.peaks.peak import Peak
from mfu_callback.peaks.table import DEVICES, Device

# Words that do not tell one device from another: vendor, brand, and the memory's size.
_NEUTRAL = re.compile(r"nvidia|geforce|tesla|gpu|\d+gb")


def find_peak(device_name: str, dtype: torch.dtype, *, tf32: bool = False) -> Peak | None:
    """Look up the dense peak of a device.

    A row matches when the words of the name, neutral ones aside, are exactly the row's: "RTX 3080 Ti", a "Laptop"
    card, an "L40S" and a MIG slice are none of "RTX 3080", "L4" and "A100".

    Args:
        device_name: The name as the driver reports it, such as `torch.cuda.get_device_name()`.
        dtype: The dtype of the matmuls' inputs.
        tf32: Whether fp32 matmuls run on the tensor cores (`torch.set_float32_matmul_precision("high")`).

    Returns:
        The peak, or None where no source gives one.

    Example:
        >>> find_peak("NVIDIA A100-SXM4-40GB", torch.bfloat16).flops_per_sec
        312000000000000.0
    """
    words = {word for word in re.findall(r"[a-z0-9]+", device_name.lower()) if not _NEUTRAL.fullmatch(word)}
    rows = [device for device in DEVICES if words in device.tokens]
    rate = _rate(rows[0], dtype, tf32) if len(rows) == 1 else None
    if rate is None:
        return None
    return Peak(flops_per_sec=rate * 1e12, name=rows[0].name, dtype=dtype, source=rows[0].source)


def _rate(device: Device, dtype: torch.dtype, tf32: bool) -> float | None:
    name = str(dtype).removeprefix("torch.")
    if name == "float32" and tf32:
        return device.tflops_per_sec.get("tf32", device.tflops_per_sec.get("float32"))
    return device.tflops_per_sec.get(name)

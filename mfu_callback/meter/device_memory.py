"""Peak memory of a device."""

from __future__ import annotations

import math
from contextlib import suppress

import torch


def peak_memory_bytes(device: torch.device) -> float:
    """The most bytes that the device's allocator has held; NaN if it keeps no statistics, as on a CPU."""
    if device.type == "cpu":
        return math.nan
    with suppress(RuntimeError):  # not every accelerator keeps statistics
        return torch.accelerator.max_memory_allocated(device) or math.nan
    return math.nan

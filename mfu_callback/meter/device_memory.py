"""Memory of a device over a run: what its allocator held, how full the device was, and how often it was too full."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from mfu_callback.tools import accelerators
from mfu_callback.tools.host_memory import control_group_memory, status_bytes

Statistics = Callable[[torch.device], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Memory of one device over some steps. Unknown is NaN: on a CPU, what an allocator counts; elsewhere, the others.

    Attributes:
        allocated_bytes: The most that tensors took, since the program began or its user reset the allocator's peaks.
        reserved_bytes: The most that the allocator held for them, likewise.
        resident_bytes: The process's resident memory, the most that was read.
        swapped_bytes: Memory of the process that was swapped out, the most that was read.
        total_bytes: Memory of the device; of a CPU, that of the machine, or the limit of a control group if it is less.
        retries: How often the allocator found the device full, emptied its cache and tried again.
        ooms: Errors out of memory, also those that were caught.
    """

    allocated_bytes: float = math.nan
    reserved_bytes: float = math.nan
    resident_bytes: float = math.nan
    swapped_bytes: float = math.nan
    total_bytes: float = math.nan
    retries: float = math.nan
    ooms: float = math.nan

    @property
    def share(self) -> float:
        """What was taken of the device's memory, as a fraction: what was reserved, or resident on a CPU."""
        used = self.resident_bytes if math.isnan(self.reserved_bytes) else self.reserved_bytes
        return used / self.total_bytes if self.total_bytes else math.nan

    def followed_by(self, other: DeviceMemory) -> DeviceMemory:
        """The memory over these steps and those after them."""
        states = {name: _larger(getattr(self, name), getattr(other, name)) for name in _STATES}
        return DeviceMemory(**states, **{name: getattr(self, name) + getattr(other, name) for name in _COUNTS})

    def since(self, before: DeviceMemory) -> DeviceMemory:
        """The same with what was counted since an earlier reading; counts that were reset meanwhile begin at 0."""
        counts = {name: (getattr(before, name), getattr(self, name)) for name in _COUNTS}
        return replace(self, **{name: now - then if now >= then else now for name, (then, now) in counts.items()})


_STATES = ("allocated_bytes", "reserved_bytes", "resident_bytes", "swapped_bytes", "total_bytes")
_COUNTS = ("retries", "ooms")


class MemoryWatch:
    """Reads a device's memory where it is asked to, and changes none of the allocator's statistics.

    Args:
        device: The device.
        statistics: Returns the statistics of a device's allocator (`torch.accelerator.memory_stats`).
        total_bytes: Returns the memory of a device.
    """

    def __init__(
        self,
        device: torch.device,
        statistics: Statistics = accelerators.memory_stats,
        total_bytes: Callable[[torch.device], int] | None = None,
    ) -> None:
        self._device = device
        self._statistics = statistics
        self._find_total_bytes = total_bytes or device_bytes
        self._total_bytes = math.nan
        self._process = psutil.Process()
        self.restart()

    def restart(self) -> None:
        """Forget what was counted so far."""
        self._before = self._read()
        self._run: DeviceMemory | None = None

    def take_window(self) -> DeviceMemory:
        """The memory since the last call, or the restart."""
        now = self._read()
        window, self._before = now.since(self._before), now
        self._run = window if self._run is None else self._run.followed_by(window)
        return window

    def take_run(self) -> DeviceMemory:
        """The memory since the restart."""
        window = self.take_window()
        return self._run or window

    def _read(self) -> DeviceMemory:
        with suppress(RuntimeError, OSError, psutil.Error):  # not every accelerator keeps statistics
            return self._of_process() if self._device.type == "cpu" else self._of_allocator()
        return DeviceMemory()

    def _of_process(self) -> DeviceMemory:
        swapped = math.nan
        with suppress(OSError):  # only Linux has this figure without a look at every page
            swapped = status_bytes("VmSwap")
        resident = self._process.memory_info().rss
        return DeviceMemory(resident_bytes=resident, swapped_bytes=swapped, total_bytes=self._total())

    def _of_allocator(self) -> DeviceMemory:
        known = self._statistics(self._device)
        if not known:  # nothing was allocated yet
            return DeviceMemory(retries=0, ooms=0)
        return DeviceMemory(
            allocated_bytes=known.get("allocated_bytes.all.peak") or math.nan,
            reserved_bytes=known.get("reserved_bytes.all.peak") or math.nan,
            total_bytes=self._total(),
            retries=known.get("num_alloc_retries", math.nan),
            ooms=known.get("num_ooms", math.nan),
        )

    def _total(self) -> float:
        if math.isnan(self._total_bytes):
            with suppress(RuntimeError, OSError):
                self._total_bytes = self._find_total_bytes(self._device)
        return self._total_bytes


def device_bytes(device: torch.device) -> int:
    """Memory of a device, in bytes; of a CPU, that of the machine, or the limit of a control group if that is less.

    Raises:
        RuntimeError: If the device does not tell.
    """
    if device.type == "cpu":
        return min([int(psutil.virtual_memory().total), *(limit for limit, _ in control_group_memory())])
    return accelerators.total_memory(device)


def _larger(one: float, other: float) -> float:
    return other if math.isnan(one) or other > one else one

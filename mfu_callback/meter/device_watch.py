"""Reads the state of a device beside its steps: memory, power and clocks. Only where metrics are logged."""

from __future__ import annotations

import math
from typing import Any

import torch

from mfu_callback.meter.device_memory import DeviceMemory, MemoryWatch
from mfu_callback.meter.gpu_state import GpuWatch
from mfu_callback.meter.metrics import Window

_OF_GPU = ("power_watts", "clock_share")


class DeviceWatch:
    """The memory and the clocks of this process's device.

    Args:
        device: The device.
        memory: Reads its memory; None makes one.
        gpu: Reads its power and clocks; None makes one.
    """

    def __init__(self, device: torch.device, memory: MemoryWatch | None = None, gpu: GpuWatch | None = None) -> None:
        self._is_cpu = device.type == "cpu"
        self._memory = memory or MemoryWatch(device)
        self._gpu = gpu or GpuWatch(device)
        self._run: tuple[DeviceMemory, dict[str, Any] | None] = (DeviceMemory(), None)

    def restart(self) -> None:
        """Forget what was read so far."""
        self._memory.restart()
        self._gpu.restart()

    def take_window(self) -> dict[str, float]:
        """The state since the last call, under the names of `mfu_callback.meter.totals.Totals`; unknown is NaN."""
        gpu = self._gpu.take_window()
        return self._of_memory(self._memory.take_window()) | _or_nan({name: getattr(gpu, name) for name in _OF_GPU})

    def take_run(self) -> dict[str, float]:
        """The state since the restart, under the same names."""
        self._run = memory, gpu = self._memory.take_run(), self._gpu.take_run()
        return self._of_memory(memory) | _or_nan({name: (gpu or {}).get(name) for name in _OF_GPU})

    def figures(self, window: Window) -> dict[str, dict[str, Any] | None]:
        """The fields ``memory`` and ``gpu`` of the summary, once the run was taken.

        Args:
            window: The run's totals of all devices, which these fields cover where ranks exchange them: the fullest
                device, retries and errors of all of them, the slowest clock. The rest is this process's own.
        """
        own, gpu = self._run
        memory = {
            "allocated_bytes": window.most("peak_memory_bytes"),
            "reserved_bytes": window.most("reserved_bytes"),
            "resident_bytes": window.most("resident_bytes"),
            "total_bytes": own.total_bytes,
            "share": own.share if self._is_cpu else window.memory_share,
            "retries": window.alloc_retries,
            "ooms": window.ooms,
            "swapped_bytes": own.swapped_bytes,
        }
        known = {name: None if value is None or math.isnan(value) else value for name, value in memory.items()}
        slowest = None if gpu is None else gpu | {"slowest_clock_share": window.clock_share}
        return {"memory": known if any(known.values()) else None, "gpu": slowest}

    def _of_memory(self, memory: DeviceMemory) -> dict[str, float]:
        return {
            "peak_memory_bytes": memory.allocated_bytes,
            "reserved_bytes": memory.reserved_bytes,
            "resident_bytes": memory.resident_bytes,
            "memory_share": math.nan if self._is_cpu else memory.share,
            "alloc_retries": memory.retries,
            "ooms": memory.ooms,
        }


def _or_nan(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in figures.items()}

"""Stand-ins for what only a GPU has: its allocator's statistics, torch's properties of it, and NVML."""

# ruff: noqa: N802, N803 - these are NVML's own names

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

GIB = 2**30


class FakeAllocator:
    """Statistics of an allocator under the names of `torch.accelerator.memory_stats`; calls are lookups."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def holds(self, *, allocated: int, reserved: int, retries: int = 0, ooms: int = 0) -> None:
        """Set the peaks in bytes, and what was counted."""
        self.known = {
            "allocated_bytes.all.peak": allocated,
            "reserved_bytes.all.peak": reserved,
            "num_alloc_retries": retries,
            "num_ooms": ooms,
        }

    def __call__(self, device: Any) -> dict[str, int]:
        """The statistics."""
        return self.known


class NVMLError(Exception):
    """What NVML raises for everything."""


class FakeNvml:
    """The part of the module ``pynvml`` that is asked, for two GPUs; the second is the one that torch sees.

    Attributes:
        failing: Names of functions that raise.
        gpus: The state of each GPU by its handle.
        asked: The handles that were asked for a figure.
    """

    def __init__(self, **state: Any) -> None:
        self.failing: set[str] = set()
        idle = {"clock": 345, "reasons": 0x1, "watts": 70.0, "joules": 0.0, "mig": 0}
        self.gpus = {"first": idle, "second": idle | {"clock": 1410, "reasons": 0x4, "watts": 690.0} | state}
        self.asked: set[str] = set()

    def _of(self, handle: str, name: str) -> dict[str, Any]:
        self._check(name)
        self.asked.add(handle)
        return self.gpus[handle]

    def _check(self, name: str) -> None:
        if name in self.failing:
            raise NVMLError(name)

    def nvmlInit(self) -> None:
        self._check("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._check("nvmlDeviceGetHandleByUUID")
        return {"GPU-11111111-0000": "first", "GPU-22222222-0000": "second"}[uuid]

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:
        self._check("nvmlDeviceGetHandleByPciBusId")
        return {"00000000:17:00.0": "first", "00000000:A3:00.0": "second"}[pciBusId]

    def nvmlDeviceGetMigMode(self, device: str) -> list[int]:
        return [self._of(device, "nvmlDeviceGetMigMode")["mig"], 0]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return round(1000 * self._of(handle, "nvmlDeviceGetPowerUsage")["watts"])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return round(1000 * self._of(handle, "nvmlDeviceGetTotalEnergyConsumption")["joules"])

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        self._of(handle, "nvmlDeviceGetEnforcedPowerLimit")
        return 700_000

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:
        assert type == 1, "the clock of the multiprocessors"
        return int(self._of(handle, "nvmlDeviceGetClockInfo")["clock"])

    def nvmlDeviceGetMaxClockInfo(self, handle: str, type: int) -> int:
        assert type == 1, "the clock of the multiprocessors"
        self._of(handle, "nvmlDeviceGetMaxClockInfo")
        return 1980

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        assert sensor == 0, "the GPU itself"
        self._of(handle, "nvmlDeviceGetTemperature")
        return 64

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return int(self._of(handle, "nvmlDeviceGetCurrentClocksThrottleReasons")["reasons"])


def properties_of_second(device: Any) -> Any:
    """Torch's properties of the only device that it sees, which is the machine's second GPU."""
    return SimpleNamespace(uuid="22222222-0000", pci_domain_id=0, pci_bus_id=0xA3, pci_device_id=0)

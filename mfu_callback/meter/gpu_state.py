"""What NVIDIA's management library (NVML) tells of a GPU over a run: power, clocks, and what held the clocks down.

Not yet run on hardware: written against the NVML API reference (https://docs.nvidia.com/deploy/nvml-api/) and the
package nvidia-ml-py, which is optional and is imported only for a GPU.
"""

from __future__ import annotations

import importlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the sentence below is also for logs, which are read without torch
    import torch

# Bits of the mask of current reasons. Left out: an idle GPU (0x1) and clocks that its owner has set (0x2, 0x100).
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
REASONS = (
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "power brake"),
)
_SM_CLOCK, _GPU_TEMPERATURE = 1, 0  # NVML_CLOCK_SM, NVML_TEMPERATURE_GPU
_READINGS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """The state of a GPU at one moment; a figure that it does not tell is None.

    Attributes:
        power_watts: Power, the mean since the reading before; of a GPU that does not count its energy, at this moment.
        power_limit_watts: What the power is kept below.
        clock_mhz: Clock of the multiprocessors.
        max_clock_mhz: Their highest clock, the boost clock.
        temperature_celsius: Temperature of the GPU.
        reasons: What holds the clocks down, in the words of `REASONS`.
    """

    power_watts: float | None = None
    power_limit_watts: float | None = None
    clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    temperature_celsius: float | None = None
    reasons: tuple[str, ...] | None = None

    @property
    def clock_share(self) -> float | None:
        """The clock over the highest one."""
        return self.clock_mhz / self.max_clock_mhz if self.clock_mhz is not None and self.max_clock_mhz else None


class GpuWatch:
    """Reads the state of a GPU where it is asked to. Everything is unknown without NVML, and of a part of a GPU (MIG).

    Args:
        device: The device of torch.
        nvml: The module ``pynvml``; None imports it if the device is a GPU and the module is installed.
        properties: Returns torch's properties of the device.
        now: A clock, in seconds.
    """

    def __init__(
        self,
        device: torch.device,
        nvml: Any = None,
        properties: Callable[[torch.device], Any] | None = None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self._device = device
        self._nvml = nvml
        self._properties = properties
        self._now = now
        self._gpu: Gpu | None = None
        self._energy: tuple[float, float] | None = None
        self._readings: deque[GpuReading] = deque(maxlen=_READINGS_KEPT)

    def restart(self) -> None:
        """Look for the GPU, and forget what was read so far."""
        self._gpu = self._gpu or self._find()
        self._energy = self._energy_now()
        self._readings.clear()

    def take_window(self) -> GpuReading:
        """The state now, with the mean power since the last call, or the restart."""
        gpu = self._gpu
        if gpu is None:
            return GpuReading()
        reading = gpu.read(self._mean_power())
        self._readings.append(reading)
        return reading

    def take_run(self) -> dict[str, Any] | None:
        """The figures of all readings since the restart as plain data; None if nothing is known.

        The device may be idle by now, so that it is read only if it was not read before.
        """
        if not self._readings:
            self.take_window()
        return figures_of(self._readings)

    def _find(self) -> Gpu | None:
        gpu = gpu_of(self._device, self._nvml, self._properties)
        return None if gpu is None or gpu.is_partitioned else gpu

    def _energy_now(self) -> tuple[float, float] | None:
        millijoules = None if self._gpu is None else self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else (self._now(), millijoules / 1e3)

    def _mean_power(self) -> float | None:
        before, self._energy = self._energy, self._energy_now()
        if before is None or self._energy is None or self._energy[0] <= before[0]:
            return None
        joules = self._energy[1] - before[1]
        return joules / (self._energy[0] - before[0]) if joules >= 0 else None


class Gpu:
    """One GPU, and what NVML tells of it.

    Args:
        nvml: The module ``pynvml``.
        handle: NVML's handle of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @property
    def is_partitioned(self) -> bool:
        """Whether programs are given parts of it (MIG)."""
        mode = self.ask("nvmlDeviceGetMigMode")  # current and pending; an error where there is no such mode
        return bool(mode and mode[0])

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of one of NVML's functions; None for an error, or if the package or the driver lacks it."""
        return _answer(lambda: getattr(self._nvml, name)(self._handle, *arguments))

    def ask_system(self, name: str) -> Any:
        """The answer of one of NVML's functions that are of no single GPU; None as above."""
        return _answer(lambda: getattr(self._nvml, name)())

    def read(self, mean_power_watts: float | None = None) -> GpuReading:
        """The state now.

        Args:
            mean_power_watts: The power since the last reading, if it is known.
        """
        watts = mean_power_watts
        if watts is None:
            watts = _thousandth(self.ask("nvmlDeviceGetPowerUsage"))
        return GpuReading(
            power_watts=watts,
            power_limit_watts=_thousandth(self.ask("nvmlDeviceGetEnforcedPowerLimit")),
            clock_mhz=self.ask("nvmlDeviceGetClockInfo", _SM_CLOCK),
            max_clock_mhz=self.ask("nvmlDeviceGetMaxClockInfo", _SM_CLOCK),
            temperature_celsius=self._first(
                ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), _GPU_TEMPERATURE
            ),
            reasons=_words(
                self._first(("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"))
            ),
        )

    def _first(self, names: Sequence[str], *arguments: Any) -> Any:
        """The answer of the first function that has one: the newer name comes before the deprecated one."""
        answers = (self.ask(name, *arguments) for name in names)
        return next((answer for answer in answers if answer is not None), None)


def gpu_of(
    device: torch.device, nvml: Any = None, properties: Callable[[torch.device], Any] | None = None
) -> Gpu | None:
    """The GPU that a device of torch is, or is a part of; None without NVML, and of anything else.

    CUDA_VISIBLE_DEVICES renumbers the devices for torch and not for NVML, so that numbers do not tell which it is.

    Args:
        device: The device of torch.
        nvml: The module ``pynvml``; None imports it.
        properties: Returns torch's properties of the device.
    """
    if device.type != "cuda":
        return None
    with suppress(Exception):  # no package, no library, no driver, no such GPU
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()  # counted by NVML, and never undone: others in this process may use it too
        known = (properties or _properties)(device)
        by_uuid = _answer(lambda: nvml.nvmlDeviceGetHandleByUUID(f"GPU-{known.uuid}"))
        handle = by_uuid or _answer(lambda: nvml.nvmlDeviceGetHandleByPciBusId(_pci_bus_id(known)))
        return None if handle is None else Gpu(nvml, handle)
    return None


def figures_of(readings: Sequence[GpuReading]) -> dict[str, Any] | None:
    """The figures of a run as plain data; None if nothing is known.

    Args:
        readings: One for each window in which metrics were logged.

    Returns:
        ``readings``, their number; the means ``power_watts``, ``clock_mhz`` and ``clock_share``; ``clock_share_min``;
        ``power_limit_watts`` and ``max_clock_mhz``; the highest ``temperature_celsius``; and ``throttle_reasons``, the
        share of the readings by reason, the largest first. What is unknown is None.
    """
    if not any(_known(readings, name) for name in GpuReading.__slots__):
        return None
    of_reasons = _known(readings, "reasons")
    counts = Counter(reason for reasons in of_reasons for reason in reasons)
    return {
        "readings": len(readings),
        "power_watts": _or_none(fmean, _known(readings, "power_watts")),
        "power_limit_watts": _or_none(min, _known(readings, "power_limit_watts")),
        "clock_mhz": _or_none(fmean, _known(readings, "clock_mhz")),
        "max_clock_mhz": _or_none(max, _known(readings, "max_clock_mhz")),
        "clock_share": _or_none(fmean, _known(readings, "clock_share")),
        "clock_share_min": _or_none(min, _known(readings, "clock_share")),
        "temperature_celsius": _or_none(max, _known(readings, "temperature_celsius")),
        "throttle_reasons": {reason: count / len(of_reasons) for reason, count in counts.most_common()}
        if of_reasons
        else None,
    }


def clock_fact(gpu: Mapping[str, Any] | None) -> str | None:
    """The clock of a run as half a sentence; None if it is unknown.

    Args:
        gpu: The figures of a run (`figures_of`), or None.

    Example:
        >>> clock_fact({"clock_mhz": 1410.0, "max_clock_mhz": 1980, "throttle_reasons": {"power cap": 0.8}})
        'the clock was 1,410 of 1,980 MHz on average (power cap in 80 % of the readings)'
    """
    clock, highest = ((gpu or {}).get(name) for name in ("clock_mhz", "max_clock_mhz"))
    if clock is None or highest is None:
        return None
    reasons = (gpu or {}).get("throttle_reasons") or {}
    shares = ", ".join(f"{reason} in {100 * share:.0f} %" for reason, share in reasons.items())
    why = f" ({shares} of the readings)" if shares else ""
    return f"the clock was {clock:,.0f} of {highest:,.0f} MHz on average{why}"


def _properties(device: torch.device) -> Any:
    import torch

    return torch.cuda.get_device_properties(device)


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # any of NVML's errors, an older package without the function, a torch without the property
        return None


def _pci_bus_id(properties: Any) -> str:
    """The id in NVML's form: domain, bus, device, function."""
    return f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"


def _words(mask: int | None) -> tuple[str, ...] | None:
    return None if mask is None else tuple(words for bit, words in REASONS if mask & bit)


def _thousandth(amount: float | None) -> float | None:
    return None if amount is None else amount / 1e3


def _known(readings: Sequence[GpuReading], name: str) -> list[Any]:
    return [value for reading in readings if (value := getattr(reading, name)) is not None]


def _or_none(of: Callable[[list[float]], float], values: list[float]) -> float | None:
    return of(values) if values else None

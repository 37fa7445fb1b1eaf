"""What devices report beside their steps, over all of them: memory, power and clocks."""

from __future__ import annotations

import math

from mfu_callback.meter.totals import Totals


class DeviceStates:
    """The states of devices that have run the same steps. A figure is None if no device knows it.

    Attributes:
        ranks: The totals of each device.
    """

    ranks: tuple[Totals, ...]

    @property
    def peak_memory_gib(self) -> float | None:
        """Peak memory of the device that used most, in GiB."""
        return _gib(self.most("peak_memory_bytes"))

    @property
    def reserved_gib(self) -> float | None:
        """The most that an allocator held, of the device where that was most, in GiB."""
        return _gib(self.most("reserved_bytes"))

    @property
    def resident_gib(self) -> float | None:
        """Resident memory of the largest process, in GiB."""
        return _gib(self.most("resident_bytes"))

    @property
    def memory_share(self) -> float | None:
        """What was reserved over the memory of the fullest device."""
        return self.most("memory_share")

    @property
    def alloc_retries(self) -> float | None:
        """How often an allocator found its device full and emptied its cache, all devices."""
        return self._sum("alloc_retries")

    @property
    def ooms(self) -> float | None:
        """Errors out of memory, all devices."""
        return self._sum("ooms")

    @property
    def power_watts(self) -> float | None:
        """Power of one device in watts, the mean."""
        known = self._known("power_watts")
        return sum(known) / len(known) if known else None

    @property
    def clock_share(self) -> float | None:
        """Clock over the highest clock, of the device where that is least."""
        return min(self._known("clock_share"), default=None)

    def most(self, name: str) -> float | None:
        """The largest of a figure.

        Args:
            name: A field of `mfu_callback.meter.totals.Totals`.
        """
        return max(self._known(name), default=None)

    def _known(self, name: str) -> list[float]:
        return [value for rank in self.ranks if not math.isnan(value := getattr(rank, name))]

    def _sum(self, name: str) -> float | None:
        known = self._known(name)
        return sum(known) if known else None


def _gib(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else size_bytes / 2**30

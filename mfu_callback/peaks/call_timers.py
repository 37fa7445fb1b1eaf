"""Timers for calls on a device, by the host's clock or by the device's events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch

from mfu_callback.tools import accelerators


class CallTimer(Protocol):
    """Anything that times calls."""

    def seconds_of(self, call: Callable[[], Any], count: int) -> list[float]:
        """Run the call `count` times and return the seconds of each run, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallTimer:
    """Reads the host's clock around each call, with the device idle at both readings.

    Attributes:
        synchronize: Waits until the device is idle; on a CPU it does nothing.
        now: The clock, in seconds.
    """

    synchronize: Callable[[], Any]
    now: Callable[[], float] = perf_counter

    def seconds_of(self, call: Callable[[], Any], count: int) -> list[float]:
        """Run the call `count` times and return the seconds of each run, in order."""
        return [self._seconds_of(call) for _ in range(count)]

    def _seconds_of(self, call: Callable[[], Any]) -> float:
        self.synchronize()
        start = self.now()
        call()
        self.synchronize()
        return self.now() - start


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCallTimer:
    """Puts an event before and after each call into the device's queue and waits only once, after the last call.

    The times thus exclude the host's work, which is some microseconds to launch a kernel.

    Attributes:
        make_event: Makes an event with `record()` and `elapsed_time(end)` in milliseconds, like `torch.cuda.Event`.
        synchronize: Waits until the device is idle.
    """

    make_event: Callable[[], Any]
    synchronize: Callable[[], Any]

    def seconds_of(self, call: Callable[[], Any], count: int) -> list[float]:
        """Run the call `count` times and return the seconds of each run, in order."""
        events = [(self.make_event(), self.make_event()) for _ in range(count)]
        for start, end in events:
            start.record()
            call()
            end.record()
        self.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]


def call_timer_for(device: torch.device) -> CallTimer:
    """The timer that suits a device: events on CUDA (and ROCm), the host's clock elsewhere."""
    if device.type == "cpu":
        return HostCallTimer(synchronize=lambda: None)

    def synchronize() -> None:
        accelerators.synchronize(device)

    if device.type == "cuda":
        return EventCallTimer(make_event=lambda: accelerators.event(device), synchronize=synchronize)
    return HostCallTimer(synchronize=synchronize)

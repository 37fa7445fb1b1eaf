"""A device that runs behind the host, as a GPU does: a thread that works through a queue and takes its time."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType

import torch


class SimulatedDevice:
    """Works through its queue by sleeping; use it as a context, in which its thread runs.

    Attributes:
        waits: How often the host has waited for it.
        waited_sec: Seconds that the host has spent so.
    """

    def __init__(self) -> None:
        self.waits = 0
        self.waited_sec = 0.0
        self._queue: queue.Queue[float | SimulatedEvent | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def launch(self, seconds: float) -> None:
        """Queue work that takes so long; the host goes on."""
        self._queue.put(seconds)

    def record(self, event: SimulatedEvent) -> None:
        """Queue an event."""
        self._queue.put(event)

    def synchronize(self, device: torch.device) -> None:
        """Wait until all that is queued is done.

        Args:
            device: Not looked at; an accelerator's own function has it.
        """
        start = time.perf_counter()
        self._queue.join()
        self.waits += 1
        self.waited_sec += time.perf_counter() - start

    def __enter__(self) -> SimulatedDevice:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, SimulatedEvent):
                item.at = time.perf_counter()
            else:
                time.sleep(item)
            self._queue.task_done()


class SimulatedEvent:
    """An event as torch's are: recorded in the device's queue, and over once the device has come to it.

    Args:
        device: The device.
    """

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.at: float | None = None

    def record(self) -> None:
        """Queue it."""
        self._device.record(self)

    def query(self) -> bool:
        """Whether the device has come to it; never waits."""
        return self.at is not None

    def elapsed_time(self, end: SimulatedEvent) -> float:
        """Milliseconds from this event to another, both of which are over."""
        assert self.at is not None
        assert end.at is not None
        return 1e3 * (end.at - self.at)

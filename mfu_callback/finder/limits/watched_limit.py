"""A limit on a process's memory that is watched but not enforced (macOS, Windows)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil

from mfu_callback.finder.limits.available import default_budget_bytes
from mfu_callback.finder.limits.out_of_memory import LimitExceededError

_PERIOD_SEC = 0.005


class WatchedLimit:
    """Watches this process's resident memory every 5 ms. Not yet run on macOS or Windows.

    Nothing keeps a trial from using more, so only sizes that are predicted to fit are run.

    Args:
        budget: Bytes on top of the use before the model; None for a share of the available memory.
        margin: The share of the budget to keep free.
        processes: The number of processes on this machine that share its memory.
        resident_bytes: Returns the process's resident memory.
    """

    is_enforced = False

    def __init__(
        self,
        *,
        budget: int | None,
        margin: float,
        processes: int = 1,
        resident_bytes: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
    ) -> None:
        self._budget = budget
        self._margin = margin
        self._processes = processes
        self._resident_bytes = resident_bytes
        self._held_bytes = 0
        self._before = 0
        self._peak_bytes: int | None = None

    def describe(self) -> str:
        """The limit in words."""
        return (
            f"{self._allowance() / 2**20:,.0f} MiB of this process's resident memory (watched every 5 ms, not enforced:"
            " a process cannot limit itself on this system, so only sizes that are predicted to fit are run)"
        )

    def calibrate(self, *, own_bytes: int, held_bytes: int) -> None:
        """Set the limit on top of the memory in use now, without the model's ``own_bytes``."""
        self.free()
        self._held_bytes = held_bytes
        self._budget = self._budget or default_budget_bytes(self._processes) + own_bytes + held_bytes
        self._before = self._resident_bytes() - own_bytes

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """A context in which memory is watched.

        Raises:
            LimitExceededError: At its end, if the peak exceeds the limit.
        """
        over, seen = Event(), [self._resident_bytes()]

        def watch() -> None:
            while not over.wait(_PERIOD_SEC):
                seen[0] = max(seen[0], self._resident_bytes())

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._peak_bytes = max(0, seen[0] - self._before)
        if self._peak_bytes > self.limit_bytes():
            raise LimitExceededError(f"it took {self._peak_bytes:,} bytes of {self.limit_bytes():,}")

    def check(self) -> None:
        """Nothing to do: no trial is ended in the middle where the limit is not enforced."""

    def limit_bytes(self) -> int:
        """The bytes that a trial may use, including the model."""
        return self._allowance() - self._held_bytes

    def peak_bytes(self) -> int | None:
        """The highest resident memory seen, on top of the use before the model."""
        return self._peak_bytes

    def free(self) -> None:
        """Collect garbage."""
        gc.collect()

    def close(self) -> None:
        """Nothing to do."""

    def _allowance(self) -> int:
        return int((self._budget or 0) * (1 - self._margin))

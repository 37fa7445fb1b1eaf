"""An enforced limit on a process's private memory (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mfu_callback.finder.limits.available import default_budget_bytes
from mfu_callback.finder.limits.out_of_memory import LimitExceededError
from mfu_callback.tools.host_memory import status_bytes

_SWAP_NOISE_BYTES = 2**20
# RLIMIT_DATA is that much above the limit: it also counts what allocators reserve and do not use. A trial that uses
# more than the limit, and less than RLIMIT_DATA, is ended by its high-water mark.
_ROOM, _LEAST_ROOM_BYTES = 0.01, 8 * 2**20


class ProcessLimit:
    """Limits this process's private memory with the soft limit RLIMIT_DATA.

    Until it is closed, glibc returns every freed block of 128 KiB or more to the system. Without this, glibc keeps
    blocks below 32 MiB in a heap that hardly shrinks: less and less would fit under the same limit, and training would
    use up to half as much again as the trials did.

    Args:
        budget: Bytes on top of the use before the model; None for a share of the available memory.
        margin: The share of the budget to keep free.
        processes: The number of processes on this machine that share its memory.
        is_enforced: Whether allocations beyond the limit fail. If not, exceeding it is reported at the end of a trial.
    """

    def __init__(self, *, budget: int | None, margin: float, processes: int = 1, is_enforced: bool = True) -> None:
        self.is_enforced = is_enforced
        self._budget = budget
        self._margin = margin
        self._processes = processes
        self._held_bytes = 0
        self._resident_before = 0
        self._can_tell = False  # whether the high-water mark could be reset
        self._peak_bytes: int | None = None
        _set_heap_thresholds(mmap=128 * 2**10, trim=128 * 2**10)

    def describe(self) -> str:
        """The limit in words."""
        held = f", {self._held_bytes / 2**20:,.0f} MiB of it for the buckets of DDP's gradients"
        how = "RLIMIT_DATA" if self.is_enforced else "watched, not enforced"
        return (
            f"{self._allowance() / 2**20:,.0f} MiB of this process's private memory{held if self._held_bytes else ''}"
            f" ({how}; until the end of fit glibc returns freed blocks of 128 KiB or more at once)"
        )

    def calibrate(self, *, own_bytes: int, held_bytes: int) -> None:
        """Set the limit on top of the memory in use now, without the model's ``own_bytes``.

        Raises:
            RuntimeError: If the model alone exceeds the limit.
        """
        self.free()
        self._held_bytes = held_bytes
        self._budget = self._budget or default_budget_bytes(self._processes) + own_bytes + held_bytes
        if self.limit_bytes() <= own_bytes:
            raise RuntimeError(
                f"BatchSizeFinder may use {self._allowance() / 2**20:,.1f} MiB, but the model alone needs"
                f" {(own_bytes + held_bytes) / 2**20:,.1f} MiB. Not even a batch of 1 fits. Give BatchSizeFinder a"
                " larger budget."
            )
        self._resident_before = status_bytes("RssAnon") - own_bytes

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Lower the soft limit. The hard limit stays, so that the soft limit can be raised again.

        Raises:
            LimitExceededError: If the trial exceeded the limit, or if the system had to swap.
        """
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._can_tell, swapped = _reset_high_water_mark(), status_bytes("VmSwap")
        room = max(_LEAST_ROOM_BYTES, int(_ROOM * self.limit_bytes()))
        data_limit = self._resident_before + self.limit_bytes() + _slack_bytes() + room
        try:
            if self.is_enforced:
                resource.setrlimit(resource.RLIMIT_DATA, (_lower(data_limit, soft), hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
            self._peak_bytes = self._high_water_bytes() if self._can_tell else None
        self._end_if_over(self._peak_bytes or 0)
        if status_bytes("VmSwap") - swapped > _SWAP_NOISE_BYTES:
            raise LimitExceededError("the system swapped")

    def check(self) -> None:
        """End a trial that has exceeded the limit already.

        Raises:
            LimitExceededError: If it has.
        """
        if self._can_tell:
            self._end_if_over(self._high_water_bytes())

    def limit_bytes(self) -> int:
        """The bytes that a trial may use, including the model."""
        return self._allowance() - self._held_bytes

    def peak_bytes(self) -> int | None:
        """The peak of private memory on top of the use before the model."""
        return self._peak_bytes

    def free(self) -> None:
        """Return freed memory to the system."""
        gc.collect()
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)

    def close(self) -> None:
        """Set glibc's thresholds to the values that its dynamic rule reaches in a process that frees large tensors.

        The rule itself cannot be switched on again (mallopt(3), M_MMAP_THRESHOLD).
        """
        _set_heap_thresholds(mmap=32 * 2**20, trim=64 * 2**20)

    def _high_water_bytes(self) -> int:
        # VmHWM also counts mapped files, such as libraries and data sets. They are not private.
        shared = status_bytes("RssFile") + status_bytes("RssShmem")
        return max(0, status_bytes("VmHWM") - shared - self._resident_before)

    def _end_if_over(self, used: int) -> None:
        if used > self.limit_bytes():
            raise LimitExceededError(f"it took {used:,} bytes of {self.limit_bytes():,}")

    def _allowance(self) -> int:
        return int((self._budget or 0) * (1 - self._margin))


def _lower(limit: int, soft: int) -> int:
    return limit if soft < 0 else min(limit, soft)  # a negative soft limit is RLIM_INFINITY


def _slack_bytes() -> int:
    """The bytes reserved but not resident; the kernel counts them in RLIMIT_DATA, but not in a high-water mark."""
    return status_bytes("VmData") - status_bytes("RssAnon")


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
    except OSError:
        return False
    return True


def _set_heap_thresholds(*, mmap: int, trim: int) -> None:
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, mmap)
        libc.mallopt(m_trim_threshold, trim)

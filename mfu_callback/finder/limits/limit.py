"""Limits on the memory of trials. A real limit makes sure that a size that passes a trial also passes in training."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

import torch

from mfu_callback.finder.limits.out_of_memory import LimitExceededError
from mfu_callback.finder.limits.process_limit import ProcessLimit
from mfu_callback.finder.limits.watched_limit import WatchedLimit
from mfu_callback.tools import accelerators
from mfu_callback.tools.torch_features import say_missing


class MemoryLimit(Protocol):
    """A limit on the memory of trials.

    Attributes:
        is_enforced: Whether a trial that exceeds it fails before it does harm. If not, only sizes that are predicted to
            fit may be run.
    """

    is_enforced: bool

    def describe(self) -> str:
        """The limit in words."""

    def calibrate(self, *, own_bytes: int, held_bytes: int) -> None:
        """Set the limit relative to the memory in use now.

        Args:
            own_bytes: Bytes in use that count towards the limit already: the model.
            held_bytes: Bytes in use that training needs and trials do not: DDP's gradient buckets.
        """

    def enforced(self) -> AbstractContextManager[None]:
        """A context in which allocations beyond the limit fail.

        Raises:
            LimitExceededError: At its end, if the limit was exceeded nevertheless, or kept only because the system made
                room.
        """

    def check(self) -> None:
        """End a trial, in the middle of its steps, that has exceeded the limit already.

        Raises:
            LimitExceededError: If it has.
        """

    def limit_bytes(self) -> int | None:
        """The bytes that a trial may use, including the model; None if unknown."""

    def peak_bytes(self) -> int | None:
        """The peak bytes of the last trial, including the model; None if unknown."""

    def free(self) -> None:
        """Return the memory that allocators cache."""

    def close(self) -> None:
        """Undo the settings that were made for the time of the run."""


def limit_for(
    device: torch.device, *, budget: int | None, margin: float, processes: int = 1, may_fail: bool = True
) -> MemoryLimit:
    """The limit for a device.

    Args:
        device: Where the trials run.
        budget: Bytes that model, gradients, optimizer state, activations and batch may use; None for the free memory.
        margin: The share of the budget to keep free.
        processes: The number of processes on this machine that share its memory; used only for a CPU.
        may_fail: Whether a trial may run out of memory. If not, the limit is watched but not enforced.
    """
    if device.type == "cuda":
        return CudaLimit(device, budget=budget, margin=margin, is_enforced=may_fail)
    if device.type != "cpu":
        return DeviceLimit(device)
    if sys.platform == "linux":
        return ProcessLimit(budget=budget, margin=margin, processes=processes, is_enforced=may_fail)
    return WatchedLimit(budget=budget, margin=margin, processes=processes)


class CudaLimit:
    """Limits the memory that torch's allocator may use on a GPU. Not yet run on hardware.

    Args:
        device: The GPU.
        budget: Bytes for this process; None for the free memory and what the allocator has already reserved.
        margin: The share of the budget to keep free.
        is_enforced: Whether allocations beyond the limit fail. If not, exceeding it is reported at the end of a trial.
        cuda: The module to query; tests pass a substitute.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        budget: int | None,
        margin: float,
        is_enforced: bool = True,
        cuda: Any = torch.cuda,
    ) -> None:
        self.is_enforced = is_enforced
        self._device = device
        self._cuda = cuda
        free, self._total = cuda.mem_get_info(device)
        available = free + cuda.memory_reserved(device)
        self._limit_bytes = int(min(available, budget or available) * (1 - margin))

    def describe(self) -> str:
        """The limit in words."""
        return f"{self._limit_bytes / 2**20:,.0f} MiB of the GPU's memory"

    def calibrate(self, *, own_bytes: int, held_bytes: int) -> None:
        """Nothing to do: the allocator counts from zero, and its count includes what training holds."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Lower the allocator's share of the GPU's memory, and reset its peak statistics.

        Raises:
            LimitExceededError: If the allocator had to empty its cache and try again, or the peak exceeds the limit.
        """
        self._cuda.reset_peak_memory_stats(self._device)
        retries = self._count_retries()
        with self._lowered() if self.is_enforced else nullcontext():
            yield
            self._cuda.synchronize(self._device)
        if self._count_retries() > retries:
            raise LimitExceededError("the allocator had to empty its cache and try again")
        self.check()

    def check(self) -> None:
        """End a trial that has exceeded the limit already.

        Raises:
            LimitExceededError: If it has.
        """
        if self.peak_bytes() > self._limit_bytes:
            raise LimitExceededError(f"it took {self.peak_bytes():,} bytes of {self._limit_bytes:,}")

    @contextmanager
    def _lowered(self) -> Iterator[None]:
        share_of = getattr(self._cuda, "get_per_process_memory_fraction", None)
        if share_of is None:
            say_missing("torch.cuda.get_per_process_memory_fraction")
        before = 1.0 if share_of is None else share_of(self._device)
        try:
            self._cuda.set_per_process_memory_fraction(min(1.0, self._limit_bytes / self._total), self._device)
            yield
        finally:
            self._cuda.set_per_process_memory_fraction(before, self._device)

    def limit_bytes(self) -> int | None:
        """The bytes that the allocator may use."""
        return self._limit_bytes

    def peak_bytes(self) -> int:
        """The allocator's peak in bytes."""
        return int(self._cuda.max_memory_allocated(self._device))

    def free(self) -> None:
        """Empty the allocator's cache."""
        gc.collect()
        self._cuda.empty_cache()

    def close(self) -> None:
        """Nothing to do."""

    def _count_retries(self) -> int:
        return int(self._cuda.memory_stats(self._device).get("num_alloc_retries", 0))


class DeviceLimit:
    """No limit: a trial ends with the accelerator's own out-of-memory error. Not yet run on hardware.

    Args:
        device: The accelerator.
    """

    is_enforced = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def describe(self) -> str:
        """The limit in words."""
        return f"the {self._device.type} device's own limit (budget and margin are not applied there)"

    def calibrate(self, *, own_bytes: int, held_bytes: int) -> None:
        """Nothing to do."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Wait for the device at the end, so that its errors are raised inside the context."""
        with suppress(RuntimeError):  # not every device keeps statistics
            accelerators.reset_peak_memory_stats(self._device)
        yield
        accelerators.synchronize(self._device)

    def check(self) -> None:
        """Nothing to do: the limit is unknown."""

    def limit_bytes(self) -> int | None:
        """None: the limit is unknown."""
        return None

    def peak_bytes(self) -> int | None:
        """The allocator's peak; None if the device keeps no statistics."""
        with suppress(RuntimeError):
            return accelerators.max_memory_allocated(self._device) or None
        return None

    def free(self) -> None:
        """Empty the allocator's cache."""
        gc.collect()
        accelerators.empty_cache(self._device)

    def close(self) -> None:
        """Nothing to do."""

"""How much memory a trial may take: a real limit, so that what passes under it passes in training too."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil
import torch

_FREE_SHARE = 0.8  # of what is available: the default budget where no device has a memory of its own
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator
    "std::bad_alloc",
    "could not create a memory",  # oneDNN
    "could not create a primitive",
    "out of memory",  # MPS, cuBLAS and others that raise a plain RuntimeError
)


class MemoryLimit(Protocol):
    """A limit on the memory of trials."""

    def describe(self) -> str:
        """The limit in words."""

    def calibrate(self, model_bytes: int) -> None:
        """Take the use of now, in which nothing but the model is the trials' own, as what a budget comes on top of."""

    def enforced(self) -> AbstractContextManager[None]:
        """A context in which allocations beyond the limit fail."""

    def peak_bytes(self) -> int | None:
        """The most that the last trial took above the use before the model, where that can be told."""

    def free(self) -> None:
        """Give back what allocators hold on to."""

    def close(self) -> None:
        """Undo what was set for the length of the run."""


def limit_for(device: torch.device, *, budget: int | None, margin: float) -> MemoryLimit:
    """The limit that suits a device.

    Args:
        device: Where the trials run.
        budget: Bytes that model, gradients, optimizer state, activations and batch may take; None takes what is free.
        margin: The share of it to keep free.

    Raises:
        RuntimeError: If no limit can be enforced on this device.
    """
    if device.type == "cuda":
        return CudaLimit(device, budget=budget, margin=margin)
    if device.type != "cpu":
        return NoLimit()
    if sys.platform != "linux":
        raise RuntimeError(
            "BatchSizeFinder cannot limit the memory of a CPU run on this system, and without a limit the system would"
            " swap or end the run. Set batch_size yourself, or run on Linux or on an accelerator."
        )
    return ProcessLimit(budget=budget, margin=margin)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: by its type, or by what the CPU's libraries say."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


class ProcessLimit:
    """Limits this process's private memory by the soft RLIMIT_DATA (Linux).

    Until it is closed, glibc hands every freed block of 128 KiB or more back to the system. Otherwise it keeps what
    lies below 32 MiB in a heap that hardly shrinks: the same limit would hold ever less, and training would go on to
    take up to half as much again as the trials did.

    Args:
        budget: Bytes above the use before the model; None takes 80 % of what is available.
        margin: The share of it to keep free.
    """

    def __init__(self, *, budget: int | None, margin: float) -> None:
        self._budget = budget
        self._margin = margin
        self._limit_bytes = 0
        self._resident_before = 0
        self._peak_bytes: int | None = None
        _set_heap_thresholds(mmap=128 * 2**10, trim=128 * 2**10)

    def describe(self) -> str:
        """The limit in words."""
        return (
            f"{self._allowance() / 2**20:,.0f} MiB of this process's private memory (RLIMIT_DATA; until the end of fit"
            " glibc returns freed blocks of 128 KiB or more at once)"
        )

    def calibrate(self, model_bytes: int) -> None:
        """Set the limit on top of the use of now, less the model's own."""
        self.free()
        self._budget = self._budget or int(_FREE_SHARE * available_bytes()) + model_bytes
        if self._allowance() <= model_bytes:
            raise RuntimeError(
                f"BatchSizeFinder may take {self._allowance() / 2**20:,.1f} MiB, and the model alone takes"
                f" {model_bytes / 2**20:,.1f}, so that not even a batch of 1 fits. Give it a larger budget."
            )
        self._limit_bytes = _status_bytes("VmData") - model_bytes + self._allowance()
        self._resident_before = _status_bytes("RssAnon") - model_bytes

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Lower the soft limit; the hard limit stays, so that it can be raised again.

        Raises:
            MemoryError: If the trial took more than it may from the heap's free memory, which the kernel's limit does
                not see taken.
        """
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        can_tell = _reset_high_water_mark()
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (_lower(self._limit_bytes, soft), hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
            self._peak_bytes = self._high_water_bytes() if can_tell else None
        if (self._peak_bytes or 0) > self._allowance():
            raise MemoryError(f"The trial took {self._peak_bytes} bytes of {self._allowance()}.")

    def peak_bytes(self) -> int | None:
        """The high-water mark of private resident memory above the use before the model."""
        return self._peak_bytes

    def free(self) -> None:
        """Return freed memory to the system."""
        gc.collect()
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)

    def close(self) -> None:
        """Set glibc's thresholds to where its own rule ends up in a process that frees large tensors.

        The rule itself cannot be switched on again (mallopt(3), M_MMAP_THRESHOLD).
        """
        _set_heap_thresholds(mmap=32 * 2**20, trim=64 * 2**20)

    def _high_water_bytes(self) -> int:
        # VmHWM counts mapped files too, which are not private: libraries, and data sets that are mapped.
        shared = _status_bytes("RssFile") + _status_bytes("RssShmem")
        return max(0, _status_bytes("VmHWM") - shared - self._resident_before)

    def _allowance(self) -> int:
        return int((self._budget or 0) * (1 - self._margin))


class CudaLimit:
    """Limits what torch's allocator may take of a GPU's memory. Not yet run on hardware.

    Args:
        device: The GPU.
        budget: Bytes for this process; None takes the whole memory.
        margin: The share of it to keep free.
    """

    def __init__(self, device: torch.device, *, budget: int | None, margin: float) -> None:
        self._device = device
        self._total = torch.cuda.get_device_properties(device).total_memory
        self._fraction = min(1.0, (budget or self._total) * (1 - margin) / self._total)

    def describe(self) -> str:
        """The limit in words."""
        return f"{self._fraction * self._total / 2**20:,.0f} MiB of the GPU's memory"

    def calibrate(self, model_bytes: int) -> None:
        """Nothing to do: the allocator's own count starts at zero."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Lower the allocator's share; its peak statistics start anew."""
        before = torch.cuda.get_per_process_memory_fraction(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        try:
            torch.cuda.set_per_process_memory_fraction(self._fraction, self._device)
            yield
            torch.cuda.synchronize(self._device)
        finally:
            torch.cuda.set_per_process_memory_fraction(before, self._device)

    def peak_bytes(self) -> int | None:
        """The allocator's peak."""
        return torch.cuda.max_memory_allocated(self._device)

    def free(self) -> None:
        """Empty the allocator's cache."""
        gc.collect()
        torch.cuda.empty_cache()

    def close(self) -> None:
        """Nothing to do."""


class NoLimit:
    """Leaves the limit to the device, whose own out-of-memory error ends a trial."""

    def describe(self) -> str:
        """The limit in words."""
        return "the device's own limit"

    def calibrate(self, model_bytes: int) -> None:
        """Nothing to do."""

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Wait for the device, so that its errors come up inside."""
        yield
        torch.accelerator.synchronize()

    def peak_bytes(self) -> int | None:
        """Unknown."""
        return None

    def free(self) -> None:
        """Empty the allocator's cache."""
        gc.collect()
        torch.accelerator.empty_cache()

    def close(self) -> None:
        """Nothing to do."""


def available_bytes() -> int:
    """Memory that this process could still get: the system's, or its control group's where that is less."""
    available = int(psutil.virtual_memory().available)
    return min([available, *_cgroup_available()])


def _cgroup_available() -> list[int]:
    # A container's limit and use: version 2 of control groups, then version 1.
    for limit, use in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            return [int(Path(limit).read_text()) - int(Path(use).read_text())]
    return []


def _lower(limit: int, soft: int) -> int:
    return limit if soft < 0 else min(limit, soft)  # a negative soft limit is RLIM_INFINITY


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the high-water mark starts anew
    except OSError:
        return False
    return True


def _set_heap_thresholds(*, mmap: int, trim: int) -> None:
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, mmap)
        libc.mallopt(m_trim_threshold, trim)

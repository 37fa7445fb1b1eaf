"""A limit on the private memory of a whole process, for any code that it runs (Linux with glibc).

This is deliberately not the limit of `mfu_callback.finder`: a check must not share the faults of what it checks.
"""

from __future__ import annotations

import ctypes
import gc
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_THRESHOLD_BYTES = 128 * 2**10


def fix_heap_thresholds() -> None:
    """Make glibc return freed blocks of 128 KiB or more to the system at once.

    The finder of this package does this. Every process of the comparison does it too, so that the searches are compared
    and not the memory that an allocator keeps.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)


def used_bytes() -> int:
    """Returns the private memory of this process after freed memory is given back, as RLIMIT_DATA counts it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (kibibytes,) = re.findall(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kibibytes) * 1024


@contextmanager
def limited_to(total_bytes: int) -> Iterator[None]:
    """A context in which allocations fail beyond this total of private memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (total_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

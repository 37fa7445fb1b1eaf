"""One budget of private memory for a whole process, whatever it calls (Linux with glibc).

This is not the limit of `mfu_callback.finder`, on purpose: what checks it must not share its faults.
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
    """Have glibc return freed blocks of 128 KiB or more at once.

    The finder of this package does so, and every process of the comparison does, so that it is the searches that are
    compared and not what an allocator holds on to.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)


def used_bytes() -> int:
    """Private memory of this process once freed memory is given back, as RLIMIT_DATA counts it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (kibibytes,) = re.findall(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kibibytes) * 1024


@contextmanager
def limited_to(total_bytes: int) -> Iterator[None]:
    """A context in which allocations beyond a total fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (total_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

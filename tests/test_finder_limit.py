from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator

import pytest
import torch
from finder_models import MIB

from mfu_callback.finder.limit import ProcessLimit, available_bytes, is_out_of_memory, limit_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced on Linux alone")


@pytest.fixture
def limit() -> Iterator[ProcessLimit]:
    limit = ProcessLimit(budget=100 * MIB, margin=0.1)
    limit.calibrate(model_bytes=0)
    yield limit
    limit.close()


def ones(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes, MIB, dtype=torch.uint8)


def test_allocations_fail_beyond_the_budget_less_its_margin(limit: ProcessLimit) -> None:
    with limit.enforced():
        ones(80)
    limit.free()
    # The kernel refuses it, or, where the heap had a hole of that size, its pages are counted afterwards.
    with pytest.raises((RuntimeError, MemoryError)) as caught, limit.enforced():
        ones(100)
    assert is_out_of_memory(caught.value)


def test_the_limit_is_lifted_whatever_happens(limit: ProcessLimit) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyboardInterrupt), limit.enforced():  # noqa: PT012
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
        raise KeyboardInterrupt
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    ones(200)


def test_the_peak_is_what_was_taken_above_the_use_before(limit: ProcessLimit) -> None:
    peaks = []
    for size in (20, 60):
        limit.free()
        with limit.enforced():
            ones(size)
        peaks.append(limit.peak_bytes() or 0)
    assert abs(peaks[1] - peaks[0] - 40 * MIB) < 2 * MIB


def test_memory_from_inside_the_heap_counts_too(limit: ProcessLimit) -> None:
    ctypes.CDLL(None).mallopt(-3, 32 * MIB)  # M_MMAP_THRESHOLD: from here on blocks of 1 MiB come from the heap
    blocks = [torch.ones(MIB, dtype=torch.uint8) for _ in range(300)]
    keep = blocks[-1]  # holds the heap's end, so that it cannot shrink
    del blocks
    gc.collect()
    limit.free()
    with pytest.raises(MemoryError), limit.enforced():
        [torch.ones(MIB, dtype=torch.uint8) for _ in range(150)]
    assert keep.sum() == MIB


def test_a_budget_below_the_model_says_so() -> None:
    limit = ProcessLimit(budget=10 * MIB, margin=0.0)
    with pytest.raises(RuntimeError, match=r"10\.0 MiB.*model.*20\.0.*larger budget"):
        limit.calibrate(model_bytes=20 * MIB)
    limit.close()


def test_out_of_memory_is_told_by_type_and_by_what_the_cpu_libraries_say() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"))
    assert is_out_of_memory(RuntimeError("could not create a memory object"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_what_is_available_is_no_more_than_the_machine_has() -> None:
    assert MIB < available_bytes() < 2**50


def test_devices_with_an_own_memory_error_need_no_limit() -> None:
    limit = limit_for(torch.device("mps"), budget=None, margin=0.05)
    assert limit.describe() == "the device's own limit"
    assert limit.peak_bytes() is None

from __future__ import annotations

import ctypes
import errno
import gc
import resource
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from mfu_callback.finder.limits import available, process_limit
from mfu_callback.finder.limits.available import available_bytes, default_budget_bytes
from mfu_callback.finder.limits.limit import CudaLimit, limit_for
from mfu_callback.finder.limits.out_of_memory import LimitExceededError, is_out_of_memory
from mfu_callback.finder.limits.process_limit import ProcessLimit
from mfu_callback.finder.limits.watched_limit import WatchedLimit
from tests.helpers.finder_models import MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced on Linux alone")


@pytest.fixture
def limit() -> Iterator[ProcessLimit]:
    limit = ProcessLimit(budget=100 * MIB, margin=0.1)
    limit.calibrate(own_bytes=0, held_bytes=0)
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
        limit.calibrate(own_bytes=20 * MIB, held_bytes=0)
    limit.close()


def test_what_training_needs_beside_the_trials_is_taken_off() -> None:
    limit = ProcessLimit(budget=100 * MIB, margin=0.0)
    limit.calibrate(own_bytes=0, held_bytes=40 * MIB)
    assert limit.limit_bytes() == 60 * MIB
    assert "40 MiB of it for the buckets" in limit.describe()
    with pytest.raises((RuntimeError, MemoryError)), limit.enforced():
        ones(80)
    limit.close()


def test_a_limit_that_is_not_enforced_is_told_afterwards() -> None:
    limit = ProcessLimit(budget=50 * MIB, margin=0.0, is_enforced=False)
    limit.calibrate(own_bytes=0, held_bytes=0)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(LimitExceededError, match="bytes of"), limit.enforced():
        during = (resource.getrlimit(resource.RLIMIT_DATA), ones(80).numel())[0]
    limit.close()
    assert during == before


def test_a_trial_for_which_the_system_swapped_does_not_fit(
    limit: ProcessLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = iter([0, 50 * MIB])
    read = process_limit.status_bytes
    monkeypatch.setattr(
        process_limit, "status_bytes", lambda field: next(swapped) if field == "VmSwap" else read(field)
    )
    with pytest.raises(LimitExceededError, match="swapped"), limit.enforced():
        pass


def test_processes_of_one_machine_share_what_is_available() -> None:
    assert default_budget_bytes(4) <= default_budget_bytes() / 3


def test_out_of_memory_is_told_by_type_and_by_what_the_libraries_say() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, "mmap"))
    for saying in (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "could not create a memory object",
        "MPS backend out of memory (MPS allocated: 8.60 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ):
        assert is_out_of_memory(RuntimeError(saying))


def test_an_error_that_was_raised_from_a_lack_of_memory_is_one() -> None:
    error = ValueError("the step failed")
    error.__cause__ = MemoryError()
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("my cache is out of memory slots"),
        ValueError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOENT, "no such file"),
    ],
    ids=str,
)
def test_any_other_error_is_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_is_available_is_no_more_than_the_machine_has() -> None:
    assert MIB < available_bytes() < 2**50


def test_a_control_group_that_is_over_its_limit_has_nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "control_group_memory", lambda: iter([(900, 1000), (5000, 100)]))
    assert available_bytes() == 0


class FakeCuda:
    """The part of torch.cuda that the limit asks, with 1,000 bytes of memory of which 100 are others'."""

    def __init__(self) -> None:
        self.fraction = 1.0
        self.fractions: list[float] = []
        self.retries = 0
        self.peak = 0

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 800, 1000

    def memory_reserved(self, device: torch.device) -> int:
        return 100

    def get_per_process_memory_fraction(self, device: torch.device) -> float:
        return self.fraction

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.fraction = fraction
        self.fractions.append(fraction)

    def memory_stats(self, device: torch.device) -> dict[str, int]:
        return {"num_alloc_retries": self.retries}

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = 0

    def synchronize(self, device: torch.device) -> None:
        pass


def cuda_limit(cuda: FakeCuda, *, budget: int | None = None, is_enforced: bool = True) -> CudaLimit:
    return CudaLimit(torch.device("cuda:0"), budget=budget, margin=0.1, is_enforced=is_enforced, cuda=cuda)


def test_a_gpu_is_limited_to_what_others_leave_less_the_margin() -> None:
    assert cuda_limit(FakeCuda()).limit_bytes() == 810
    assert cuda_limit(FakeCuda(), budget=500).limit_bytes() == 450
    assert cuda_limit(FakeCuda(), budget=5000).limit_bytes() == 810


def test_a_gpus_share_is_lowered_for_the_trial_and_put_back() -> None:
    cuda = FakeCuda()
    limit = cuda_limit(cuda)
    with pytest.raises(torch.OutOfMemoryError), limit.enforced():
        raise torch.OutOfMemoryError
    assert cuda.fractions == [0.81, 1.0]


def test_a_torch_that_does_not_tell_the_share_gets_the_whole_gpu_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeCuda, "get_per_process_memory_fraction")
    cuda = FakeCuda()
    with cuda_limit(cuda).enforced():
        assert cuda.fractions == [0.81]
    assert cuda.fractions == [0.81, 1.0]


def test_a_trial_that_made_the_allocator_retry_does_not_fit() -> None:
    cuda = FakeCuda()
    limit = cuda_limit(cuda)
    with pytest.raises(LimitExceededError, match="try again"), limit.enforced():
        cuda.retries += 1
    with limit.enforced():
        cuda.peak = 700
    assert limit.peak_bytes() == 700


def test_a_gpu_on_which_a_trial_may_not_fail_is_watched() -> None:
    cuda = FakeCuda()
    limit = cuda_limit(cuda, is_enforced=False)
    with pytest.raises(LimitExceededError, match="900 bytes of 810"), limit.enforced():
        cuda.peak = 900
    assert cuda.fractions == []


class Resident:
    """A process's resident memory, which can wait until it has been looked at."""

    def __init__(self) -> None:
        self.size = 0
        self._looks = threading.Semaphore(0)

    def __call__(self) -> int:
        self._looks.release()
        return self.size

    def be(self, size: int) -> None:
        self.size = size
        while self._looks.acquire(blocking=False):
            pass
        assert self._looks.acquire(timeout=10)
        assert self._looks.acquire(timeout=10)  # the first may have begun before


def test_where_nothing_can_be_enforced_the_process_is_watched() -> None:
    resident = Resident()
    limit = WatchedLimit(budget=1000, margin=0.1, resident_bytes=resident)
    assert not limit.is_enforced
    limit.calibrate(own_bytes=0, held_bytes=100)
    with limit.enforced():
        resident.be(700)
        resident.be(0)
    assert limit.peak_bytes() == 700
    with pytest.raises(LimitExceededError, match="900 bytes of 800"), limit.enforced():
        resident.be(900)
    assert "not enforced" in limit.describe()


def test_other_accelerators_are_left_to_their_own_errors() -> None:
    limit = limit_for(torch.device("mps"), budget=None, margin=0.05)
    assert "mps device's own limit" in limit.describe()
    assert limit.limit_bytes() is None

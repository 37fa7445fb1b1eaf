"""Tells out-of-memory errors from all others."""

from __future__ import annotations

import errno

import torch

# Texts of out-of-memory errors that libraries raise as a plain RuntimeError or as a general accelerator error.
_SAYINGS = (
    "DefaultCPUAllocator: can't allocate memory",  # torch on Linux and macOS
    "DefaultCPUAllocator: not enough memory",  # torch on Windows
    "std::bad_alloc",  # C++ behind the interpreter
    "could not create a memory",  # oneDNN
    "could not create a primitive",  # oneDNN, for its scratch memory
    "MPS backend out of memory",
    "CUDA error: out of memory",  # outside of torch's own allocator
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "UR_RESULT_ERROR_OUT_OF_HOST_MEMORY",  # XPU's runtime
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
)


class LimitExceededError(MemoryError):
    """A trial ran to its end, but used more than the limit, or ran only because the system made room for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the error that it was raised from, means that memory ran out.

    Args:
        error: Judged by its type (`torch.OutOfMemoryError`, `MemoryError`, `OSError` with ENOMEM), or by its text if a
            library raised a plain RuntimeError.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)

"""Measures how fast a device copies memory, and multiplies matrices of given shapes: the roofs of its operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

import torch

from mfu_callback.peaks.call_timers import CallTimer, call_timer_for
from mfu_callback.peaks.measure import current_device, matmul_of
from mfu_callback.peaks.sweep import Shape

_COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # far more than any last-level cache that is shared by a few cores
_OTHER_BYTES = 2**28
_CALLS, _FEWEST = 5, 2


def measure_bandwidth(device: torch.device, *, time_limit_sec: float = 0.3, timer: CallTimer | None = None) -> float:
    """The best rate at which a device copies a large tensor to another place in its memory.

    Args:
        device: The device.
        time_limit_sec: About how long to measure, in seconds.
        timer: Times the copies; by default with device events on CUDA and with the host's clock elsewhere.

    Returns:
        Bytes per second, those read and those written.

    Raises:
        RuntimeError: If the device has no room for two tensors of 128 MiB (1 GiB on CUDA).
    """
    numbers = _COPIED_BYTES.get(device.type, _OTHER_BYTES) // 4
    with current_device(device):
        source = torch.ones(numbers, dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        seconds = _best(lambda: target.copy_(source), timer or call_timer_for(device), time_limit_sec)
    return 2 * 4 * numbers / seconds


def measure_product(
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    *,
    time_limit_sec: float = 0.12,
    timer: CallTimer | None = None,
) -> float:
    """The best rate at which a device multiplies an (m, k) by a (k, n) matrix, in the faster memory layout.

    Args:
        device: The device.
        dtype: The dtype of the matrices.
        sizes: m, k and n.
        time_limit_sec: About how long to measure, in seconds.
        timer: Times the calls, as above.

    Returns:
        FLOP/s.

    Raises:
        RuntimeError: If the device cannot multiply such matrices.
    """
    timer = timer or call_timer_for(device)
    with current_device(device):
        shapes = [Shape(*sizes, transposed=transposed) for transposed in (False, True)]
        seconds = min(_best(matmul_of(shape, device, dtype), timer, time_limit_sec / 2) for shape in shapes)
    return shapes[0].flops / seconds


def size_class(sizes: tuple[int, int, int], *, most_numbers: float, most_flops: float) -> tuple[int, int, int]:
    """The shape class of a matmul: each of its sizes rounded to a power of two, and the larger ones cut.

    Beyond a few million numbers a matrix is multiplied at about the same rate, and takes long to make and to multiply.

    Args:
        sizes: m, k and n of an (m, k) times a (k, n) matrix.
        most_numbers: The most numbers of the three matrices together.
        most_flops: The most FLOPs of the matmul.
    """
    m, k, n = (2 ** round(math.log2(max(size, 1))) for size in sizes)
    while max(m, k, n) > 1 and (m * k + k * n + m * n > most_numbers or 2 * m * k * n > most_flops):
        m, k, n = (size // 2 if size == max(m, k, n) else size for size in (m, k, n))
    return m, k, n


def _best(call: Callable[[], object], timer: CallTimer, time_limit_sec: float) -> float:
    end = perf_counter() + time_limit_sec
    timer.seconds_of(call, 1)  # the first one touches the memory
    best = min(timer.seconds_of(call, _FEWEST))
    while perf_counter() < end:
        best = min(best, *timer.seconds_of(call, _CALLS))
    return best

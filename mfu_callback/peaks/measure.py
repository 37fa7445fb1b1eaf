"""The peak that a device really reaches, from a short sweep of large matmuls."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

from mfu_callback.peaks.peak import Peak

# Square sizes, small to large. A device that is slow at a dtype (a CPU at fp16) stops at the first.
_SIZES = {"cpu": (512, 1024, 1536, 2048), "accelerator": (1024, 2048, 4096, 8192)}
_MOST_CALLS = 50


def measure_peak(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    *,
    time_limit_sec: float = 3.0,
    now: Callable[[], float] = perf_counter,
) -> Peak:
    """Measure the best rate of large square matmuls on this very device, within this process's own threads.

    Takes no random number from torch's global generators and keeps no memory.

    Args:
        device: The device to measure.
        dtype: The dtype of the matmuls' inputs.
        time_limit_sec: About how long to measure, in seconds; each size gets its equal share and at least two calls,
            the larger sizes only while there is time.
        now: The clock, in seconds.

    Returns:
        The peak; its source says "measured", the shape of the best matmul and the number of calls.

    Raises:
        RuntimeError: If the device cannot multiply matrices of this dtype.

    Example:
        >>> measure_peak("cpu", torch.float32, time_limit_sec=0.1).is_measured
        True
    """
    device = torch.device(device)
    sizes = _SIZES["cpu" if device.type == "cpu" else "accelerator"]
    share_sec, end = time_limit_sec / len(sizes), now() + time_limit_sec
    best_rate, best_size, calls = 0.0, sizes[0], 0
    for size in sizes:
        if calls and now() > end - share_sec / 2:
            break
        seconds = _timed_matmuls(size, device, dtype, now() + share_sec, now)
        calls += len(seconds)
        rate = 2 * size**3 / min(seconds)
        if rate > best_rate:
            best_rate, best_size = rate, size
    source = f"measured: best of {calls} matmuls, reached at {best_size} x {best_size} x {best_size}"
    return Peak(flops_per_sec=best_rate, name=device_name(device), dtype=dtype, source=source)


def device_name(device: torch.device | str) -> str:
    """The name that the driver reports, or the machine's name of its processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_processor_name()}, {torch.get_num_threads()} threads"
    return device.type


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() says only "x86_64" there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, None) or platform.processor() or platform.machine()


def _timed_matmuls(
    size: int, device: torch.device, dtype: torch.dtype, until: float, now: Callable[[], float]
) -> list[float]:
    left, right = _random_matrices(size, device, dtype)
    out = torch.empty(size, size, device=device, dtype=dtype)
    seconds: list[float] = []
    with torch.no_grad():
        torch.mm(left, right, out=out)
        while len(seconds) < 2 or (now() < until and len(seconds) < _MOST_CALLS):
            _synchronize(device)
            start = now()
            torch.mm(left, right, out=out)
            _synchronize(device)
            seconds.append(now() - start)
    return seconds


def _random_matrices(size: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    # Random values: matrices of zeros draw less power and let a GPU clock higher than training ever does.
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, size, size, generator=generator, dtype=torch.float32)
    left, right = values.to(device=device, dtype=dtype)
    return left, right


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

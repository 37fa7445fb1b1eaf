"""Measures the peak that a device really reaches, with a short sweep of large matmuls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from time import perf_counter, process_time
from typing import Any

import torch
from torch.nn import functional

from mfu_callback.peaks.cache import CacheKey, keep_best
from mfu_callback.peaks.call_timers import CallTimer, call_timer_for
from mfu_callback.peaks.peak import DTYPE, Peak
from mfu_callback.peaks.shapes import shapes_for
from mfu_callback.peaks.sweep import Shape, Sweep, sweep_shapes
from mfu_callback.peaks.this_machine import device_name, multiprocessors, usable_cores
from mfu_callback.tools import accelerators
from mfu_callback.tools.accelerators import is_device
from mfu_callback.tools.options import FLAG, Option, above, checked, is_function, one_of

_WHOLE_SWEEP_SEC = 1.0  # a shorter one is stored, but does not confirm a peak
_OPTIONS = {
    "device": Option("must be a device, for example 'cpu' or 'cuda:0'.", is_device),
    "dtype": DTYPE,
    "time_limit_sec": Option("must be above 0 and finite: the seconds of a sweep.", above(0)),
    "use_cache": FLAG,
    "timer": Option(
        "must have seconds_of(call, times); or None, which takes that of the device.",
        *(one_of(None), lambda value: hasattr(value, "seconds_of")),
        error=TypeError,
    ),
    "now": Option("must be a function that returns seconds.", is_function, error=TypeError),
}
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def measure_peak(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    *,
    time_limit_sec: float = 3.0,
    use_cache: bool = True,
    timer: CallTimer | None = None,
    now: Callable[[], float] = perf_counter,
) -> Peak:
    """Measure the best rate of large matmuls on a device, with the threads and cores of this process.

    Shapes of growing size are tried, then the fastest is repeated until the time is up, at least three times. fp32 runs
    with or without TF32 according to torch's settings, and float8 through `torch.nn.functional.scaled_mm`. Draws no
    random numbers from torch's global generators and keeps no memory afterwards.

    Args:
        device: The device to measure.
        dtype: The dtype of the matmuls' inputs.
        time_limit_sec: About how long to measure, in seconds.
        use_cache: Whether to store the result on disk. If an earlier call stored a higher peak, that one is returned
            instead; see `mfu_callback.peaks.cache`.
        timer: Times the matmuls; by default with device events on CUDA and with the host's clock elsewhere.
        now: The clock for the time limit, in seconds.

    Returns:
        The peak. Its source gives "measured", the number of calls, the shape of the matmul, and the best rate divided
        by the median. The peak is noisy, so that the device may reach more, if the best rate exceeds the median by more
        than 15 %, if the medians of the two halves of the calls differ by more than 10 %, if other processes took more
        than a tenth of the cores, or if there was time for fewer than 20 calls.

    Raises:
        RuntimeError: If the device cannot multiply matrices of this dtype.
        ValueError: If an argument has a value that is not allowed.
        TypeError: If ``timer`` or ``now`` is something else.

    Example:
        >>> measure_peak("cpu", torch.float32, time_limit_sec=0.1, use_cache=False).is_measured
        True
    """
    given = {"device": device, "dtype": dtype, "time_limit_sec": time_limit_sec, "use_cache": use_cache}
    checked(_OPTIONS, {**given, "timer": timer, "now": now})
    device = torch.device(device)
    try:
        sweep = _sweep(device, dtype, timer, time_limit_sec, now)
    except (ValueError, AssertionError) as error:  # a build of torch without the device or the kernel
        raise RuntimeError(str(error)) from error
    peak = Peak(
        flops_per_sec=sweep.best,
        name=device_name(device),
        dtype=dtype,
        source=_source(sweep),
        is_noisy=sweep.is_noisy,
    )
    is_whole = time_limit_sec >= _WHOLE_SWEEP_SEC
    return keep_best(peak, CacheKey.of(device, dtype), is_whole=is_whole) if use_cache else peak


def _sweep(
    device: torch.device, dtype: torch.dtype, timer: CallTimer | None, time_limit_sec: float, now: Callable[[], float]
) -> Sweep:
    with current_device(device):
        return sweep_shapes(
            shapes_for(device.type, multiprocessors(device)),
            lambda shape: matmul_of(shape, device, dtype),
            timer or call_timer_for(device),
            time_limit_sec=time_limit_sec,
            now=now,
            core_sec=core_sec_of(device) if timer is None else None,
        )


def core_sec_of(device: torch.device) -> Callable[[], float] | None:
    """A clock of the seconds that this process has computed, per core that it uses; None where that is unknown.

    Torch's threads do not sleep between matmuls, so on idle cores it runs as fast as the time.

    Args:
        device: The device; only a CPU has such a clock, and not under macOS, whose matmuls have threads of their own.
    """
    if device.type != "cpu" or sys.platform == "darwin":
        return None
    used = min(torch.get_num_threads(), usable_cores())
    return lambda: process_time() / used


def matmul_of(shape: Shape, device: torch.device, dtype: torch.dtype) -> Callable[[], Any]:
    """A function without arguments that computes a matmul of one shape.

    Args:
        shape: The shape, (m, k) times (k, n). With fp8 the right matrix is always transposed.
        device: The device to run on.
        dtype: The dtype of both matrices.
    """
    left, right = _random_matrix(shape.m, shape.k, device, dtype), _random_matrix(shape.n, shape.k, device, dtype).t()
    if dtype in _FLOAT8:  # its kernels support no other layout
        one = torch.ones((), device=device, dtype=torch.float32)
        return lambda: _multiply_float8(left, right, one)
    right = right if shape.transposed else right.contiguous()
    out = torch.empty(shape.m, shape.n, device=device, dtype=dtype)

    def multiply() -> None:
        with torch.no_grad():
            torch.mm(left, right, out=out)

    return multiply


def _multiply_float8(left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The product in bfloat16, (m, k) times (k, n) -> (m, n), of matrices that one float32 number scales."""
    scaling = getattr(functional, "ScalingType", None)
    if scaling is None:  # before torch 2.10, scaled_mm had only this name
        return torch._scaled_mm(left, right, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
    scales = (scale, scaling.TensorWise, scale, scaling.TensorWise)
    return functional.scaled_mm(left, right, *scales, output_dtype=torch.bfloat16)


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one, since events are recorded on the stream of the current device."""
    is_one_of_several = device.type != "cpu" and device.index is not None
    return accelerators.current(device) if is_one_of_several else nullcontext()


def _random_matrix(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # Random values, since matrices of zeros draw less power and let a GPU clock higher than it ever does in training.
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float32, device=device).to(dtype)


def _source(sweep: Sweep) -> str:
    text = f"measured: best of {len(sweep.rates)} matmuls of {sweep.shape} on {date.today()}"
    text += f", {sweep.best_over_median:.2f} times their median"
    if sweep.shared_cores:
        text += f", with {sweep.share_of_cores:.0%} of the cores, since other processes ran on them"
    elif sweep.is_noisy:
        text += f", one half of the calls {sweep.half_over_half:.2f} times as fast as the other"
    return text

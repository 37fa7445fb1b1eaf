"""How fast a device multiplies in each dtype that a model can be trained in: from the datasheet, or compared in turns.

The peak of one dtype does not tell that another one is twelve times as fast. CPUs without AVX-512 or AMX multiply
bfloat16 far slower than float32, others faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from mfu_callback.peaks.cache import CacheKey, cached_peak, cached_rates, keep_rates
from mfu_callback.peaks.call_timers import CallTimer, call_timer_for
from mfu_callback.peaks.measure import core_sec_of, current_device, matmul_of
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.resolve import datasheet_peak
from mfu_callback.peaks.sweep import Shape, are_shared
from mfu_callback.peaks.this_machine import device_name

# No fp16 on a CPU: most multiply it a hundred times slower than fp32, so nobody trains in it there.
_TRAINABLE = {"cpu": (torch.float32, torch.bfloat16)}
_TRAINABLE_ELSEWHERE = (torch.float32, torch.float16, torch.bfloat16)
_CPU_SIZES, _ACCELERATOR_SIZES = (256, 512, 1024, 2048), (1024, 2048, 4096, 8192)
_ROUNDS = 4  # about as many as fit into the time
_LEAST_ROUNDS, _MOST_CALLS = 2, 20
_GROWTH = 8  # of the FLOPs from one size to the next
_MOST_OVER = 1.5  # of its share of the time: small matmuls suffer more from a busy machine than large ones
_LAYOUTS = {"plain": False, "transposed": True}  # of the right matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeRate:
    """How fast a device multiplies in one dtype.

    Attributes:
        peak: The datasheet's peak, or the best rate that was measured in either layout of the right matrix.
        in_training: FLOP/s over both layouts, each with half of the FLOPs: a linear layer's forward pass reads its
            weight transposed, its backward pass as it is. Kernels for the two can differ by a factor of ten.
    """

    peak: Peak
    in_training: float


def trainable_dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """The dtypes that models are trained in on this kind of device.

    Args:
        device: The device.
    """
    return _TRAINABLE.get(device.type, _TRAINABLE_ELSEWHERE)


def rates_in_training(
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    measure: bool = True,
    time_limit_sec: float = 1.2,
    announce: Callable[[str], object] = lambda message: None,
) -> dict[torch.dtype, DtypeRate]:
    """The rates of the dtypes that a model can be trained in, without those that are not known or not supported.

    The datasheet's where it rates the dtype in hand; otherwise measured, once for each setting of the machine, unless
    the machine is busy.

    Args:
        device: The device.
        dtype: The dtype of a run, which is compared with the trainable ones.
        measure: Whether to measure what neither the datasheet nor an earlier measurement knows.
        time_limit_sec: About how long to measure, in seconds.
        announce: Told, before anything is measured, that it will be.
    """
    dtypes = tuple(dict.fromkeys((*trainable_dtypes(device), *(() if dtype is None else (dtype,)))))
    datasheet = {one: peak for one in dtypes if (peak := datasheet_peak(device, one)) is not None}
    if datasheet and (dtype is None or dtype in datasheet):
        return {one: DtypeRate(peak=peak, in_training=peak.flops_per_sec) for one, peak in datasheet.items()}
    key = CacheKey.of(device, *dtypes)
    found, is_noisy = cached_rates(key) or {}, False
    if not found and measure:
        announce("the dtypes of this device are compared, which takes up to 2 s, once.")
        found, is_noisy = compare_dtypes(device, dtypes, time_limit_sec=time_limit_sec)
        if not is_noisy:
            keep_rates(found, key)
    return {one: _rate(device, one, found[dtype_name(one)], is_noisy) for one in dtypes if dtype_name(one) in found}


def compare_dtypes(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    *,
    time_limit_sec: float = 1.2,
    timer: CallTimer | None = None,
    now: Callable[[], float] = perf_counter,
    matmul: Callable[[Shape, torch.device, torch.dtype], Callable[[], Any]] = matmul_of,
    core_sec: Callable[[], float] | None = None,
) -> tuple[dict[str, dict[str, float]], bool]:
    """The best rates of large square matmuls, in FLOP/s by name of the dtype and layout of the right matrix.

    The dtypes take turns of equal length, so that a moment in which the machine is slow slows all of them. Draws no
    random numbers from torch's global generators. A dtype that the device cannot multiply is left out.

    Args:
        device: The device.
        dtypes: The dtypes.
        time_limit_sec: About how long to measure, in seconds.
        timer: Times the matmuls; by default as `measure_peak` does.
        now: The clock for the time limit, in seconds.
        matmul: Makes a matmul of a shape on a device in a dtype.
        core_sec: As `sweep_shapes` has it; by default that of this process if the device is a CPU.

    Returns:
        The rates, and whether other processes took cores meanwhile, so that they may be wrong.
    """
    core_sec = core_sec or core_sec_of(device)
    start, used = now(), 0.0 if core_sec is None else core_sec()
    timer, end = timer or call_timer_for(device), start + time_limit_sec
    longest = time_limit_sec / (_ROUNDS * len(_LAYOUTS) * len(dtypes))
    best: dict[tuple[str, str], float] = {}
    with current_device(device):
        contest = []
        for dtype in dtypes:
            for layout, transposed in _LAYOUTS.items():
                sized = _sized(device, dtype, transposed, timer, longest, matmul)
                contest += [] if sized is None else [((dtype_name(dtype), layout), *sized)]
        rounds = 0
        while contest and (rounds < _LEAST_ROUNDS or now() < end):
            for name, shape, call, seconds in contest:
                calls = min(_MOST_CALLS, max(1, int(longest / seconds)))
                rate = shape.flops / min(timer.seconds_of(call, calls))
                best[name] = max(rate, best.get(name, 0.0))
            rounds += 1
    names = dict.fromkeys(dtype for dtype, _ in best)
    rates = {dtype: {layout: best[dtype, layout] for layout in _LAYOUTS if (dtype, layout) in best} for dtype in names}
    return rates, core_sec is not None and are_shared((core_sec() - used) / max(now() - start, 1e-9))


def _sized(
    device: torch.device,
    dtype: torch.dtype,
    transposed: bool,
    timer: CallTimer,
    longest_sec: float,
    matmul: Callable[[Shape, torch.device, torch.dtype], Callable[[], Any]],
) -> tuple[Shape, Callable[[], Any], float] | None:
    """The largest matmul that takes about some seconds, already warm, and its own seconds; None if there is none."""
    found = None
    for size in _CPU_SIZES if device.type == "cpu" else _ACCELERATOR_SIZES:
        shape = Shape(size, size, size, transposed)
        try:
            call = matmul(shape, device, dtype)
            seconds = timer.seconds_of(call, 2)[-1]
            if seconds * _GROWTH > _MOST_OVER * longest_sec:  # it may have been slow for a moment
                seconds = min(seconds, *timer.seconds_of(call, 1 if seconds > longest_sec / 2 else 3))
        except (RuntimeError, ValueError, AssertionError):  # no kernel for the dtype, or no memory for the size
            break
        found = shape, call, seconds
        if seconds * _GROWTH > _MOST_OVER * longest_sec:
            break
    return found


def _rate(device: torch.device, dtype: torch.dtype, by_layout: Mapping[str, float], is_noisy: bool) -> DtypeRate:
    measured = Peak(
        flops_per_sec=max(by_layout.values()),
        name=device_name(device),
        dtype=dtype,
        source="measured: in turns with the other dtypes",
        is_noisy=is_noisy,
    )
    peaks = [measured] if (cached := cached_peak(device, dtype)) is None else [measured, cached]
    return DtypeRate(
        peak=max(peaks, key=lambda peak: peak.flops_per_sec),
        in_training=len(by_layout) / sum(1 / rate for rate in by_layout.values()),
    )

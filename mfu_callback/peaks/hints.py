"""Settings of a run that leave most of its device unused, each said with the setting that would not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import psutil
import torch

from mfu_callback.peaks.dtype_rates import DtypeRate
from mfu_callback.peaks.find import find_peak
from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.this_machine import cores, device_name, multiprocessors

_WORTH_SAYING = 2.0  # times as fast
# Lightning's precision for each dtype, and torch's setting for TF32.
PRECISIONS = {torch.float32: "32-true", torch.bfloat16: "bf16-true", torch.float16: "16-mixed"}
_TF32 = 'torch.set_float32_matmul_precision("high")'


class Hint(NamedTuple):
    """A setting that would make a run's matmuls faster.

    Attributes:
        text: A sentence on it.
        times: How many times as fast they would be.
    """

    text: str
    times: float


def fastest_peak(rates: Mapping[torch.dtype, DtypeRate]) -> Peak | None:
    """The highest peak of all dtypes; None if none is known.

    Args:
        rates: The rates of the dtypes that a model can be trained in.
    """
    return max((rate.peak for rate in rates.values()), key=lambda peak: peak.flops_per_sec, default=None)


def hints_for(
    device: torch.device,
    dtype: torch.dtype,
    rates: Mapping[torch.dtype, DtypeRate],
    *,
    processes: int = 1,
    settings: Mapping[str, str] | None = None,
) -> tuple[Hint, ...]:
    """Settings that would make this run's matmuls at least twice as fast, the largest gain first.

    Args:
        device: The device that computes the matmuls.
        dtype: The dtype of the matmuls' inputs.
        rates: The rates of the dtypes that a model can be trained in, and of this one.
        processes: Number of processes on this machine that compute this run.
        settings: By the name of a dtype, the setting that makes matmuls run in it; None for Lightning's.
    """
    found = (_faster_dtype(dtype, rates, settings), _tf32_off(device, dtype), _one_thread(device, processes))
    return tuple(sorted((hint for hint in found if hint is not None), key=lambda hint: -hint.times))


def rates_text(rates: Mapping[torch.dtype, DtypeRate]) -> str:
    """The rates as text, the fastest first: "float32 124 GFLOP/s, bfloat16 2 (10 in its better layout)".

    Args:
        rates: The rates of the dtypes that a model can be trained in.
    """
    fastest_first = sorted(rates.items(), key=lambda item: -item[1].in_training)
    return ", ".join(_parts_of_text(fastest_first))


def _parts_of_text(rates: list[tuple[torch.dtype, DtypeRate]]) -> Iterator[str]:
    fastest = max((rate.in_training for _, rate in rates), default=0.0)
    scale, unit = (1e12, "TFLOP/s") if fastest >= 1e12 else (1e9, "GFLOP/s")
    for index, (dtype, rate) in enumerate(rates):
        better = f" ({rate.peak.flops_per_sec / scale:.3g} in its better layout)"
        differs = rate.peak.flops_per_sec > _WORTH_SAYING * rate.in_training
        said = f"{dtype_name(dtype)} {rate.in_training / scale:.3g}{'' if index else f' {unit}'}"
        yield said + (better if differs else "")


def _faster_dtype(
    dtype: torch.dtype, rates: Mapping[torch.dtype, DtypeRate], settings: Mapping[str, str] | None
) -> Hint | None:
    own = rates.get(dtype)
    others = {one: rate.in_training for one, rate in rates.items() if one in PRECISIONS and one != dtype}
    if own is None or not others:
        return None
    # Of equal rates bfloat16, which needs no loss scaling.
    best = max(others, key=lambda one: (others[one], one == torch.bfloat16))
    times = others[best] / own.in_training
    if times < _WORTH_SAYING:
        return None
    setting = f'precision="{PRECISIONS[best]}"' if settings is None else settings[dtype_name(best)]
    text = (
        f"{dtype_name(best)} matmuls run {_times(times)} times as fast as {dtype_name(dtype)} on this device:"
        f" {setting}."
    )
    return Hint(text, times)


def _tf32_off(device: torch.device, dtype: torch.dtype) -> Hint | None:
    if device.type != "cuda" or dtype != torch.float32 or fp32_precision(device) != "ieee":
        return None
    name, units = device_name(device), multiprocessors(device)
    without, with_tf32 = (find_peak(name, dtype, tf32=tf32, multiprocessors=units) for tf32 in (False, True))
    if without is None or with_tf32 is None or with_tf32.flops_per_sec < _WORTH_SAYING * without.flops_per_sec:
        return None
    times = with_tf32.flops_per_sec / without.flops_per_sec
    return Hint(
        f"TF32 is off, with which this device multiplies float32 {_times(times)} times as fast: {_TF32}.", times
    )


def _one_thread(device: torch.device, processes: int) -> Hint | None:
    # Two hardware threads of one core multiply no faster than one.
    share = min(cores(), psutil.cpu_count(logical=False) or cores()) // processes
    if device.type != "cpu" or torch.get_num_threads() > 1 or share < 2:
        return None
    remedy = "unset OMP_NUM_THREADS, or call" if "OMP_NUM_THREADS" in os.environ else "call"
    text = (
        f"torch computes with one thread where each process has {share} cores: {remedy} torch.set_num_threads({share})."
    )
    return Hint(text, share)


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"

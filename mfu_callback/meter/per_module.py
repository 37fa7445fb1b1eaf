"""Which part of a model is slow: FLOPs, time and MFU of every module."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mfu_callback.flops import FlopCount
from mfu_callback.flops.per_shape import TrainingFlops
from mfu_callback.flops.table import group_of
from mfu_callback.meter.module_times import ModuleTimes, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFigures:
    """What modules of like names do in the forward and backward of one batch, the modules inside them included.

    Attributes:
        name: Their name, with ``*`` for each number in it; "" is the whole.
        modules: How many there are.
        flops: Model FLOPs of forward and backward; None where they are not known by module.
        forward_sec: Seconds of their forward.
        backward_sec: Seconds of their backward.
        share: Of the time of the whole.
        mfu: Model FLOPs utilization while they run, a fraction of the peak; None where that or FLOPs are unknown.
    """

    name: str
    modules: int
    flops: float | None
    forward_sec: float
    backward_sec: float
    share: float
    mfu: float | None


def figures_of_run(
    times: ModuleTimes | None, count: FlopCount | None, training: TrainingFlops | None, peak_flops_per_sec: float | None
) -> tuple[ModuleFigures, ...] | None:
    """The figures of the batches that were timed; None where none was, or the device has not ended them.

    Args:
        times: What timed them.
        count: The FLOPs of a batch.
        training: The same with its backward.
        peak_flops_per_sec: Of all devices that shared the batch.
    """
    if times is None or not times.batches or not times.is_over():
        return None
    seconds, size = times.seconds()
    if count is None or training is None:
        return figures_per_module(seconds, {}, flops_factor=math.nan, peak_flops_per_sec=peak_flops_per_sec)
    return figures_per_module(
        seconds,
        {} if math.isnan(size) else count.per_module,
        flops_factor=size * training.model / count.forward,
        peak_flops_per_sec=peak_flops_per_sec,
    )


def figures_per_module(
    seconds: Mapping[str, Seconds],
    forward_flops: Mapping[str, float],
    *,
    flops_factor: float,
    peak_flops_per_sec: float | None,
) -> tuple[ModuleFigures, ...]:
    """Join the time and the FLOPs of modules, like ones together, outer ones before those inside them.

    Args:
        seconds: Of each module itself in one batch.
        forward_flops: Model FLOPs of each module itself in the forward of one batch; empty where they are unknown.
        flops_factor: FLOPs of forward and backward over those of the forward, for a batch of the size that was timed.
        peak_flops_per_sec: Of the device, if it is known.
    """
    names: dict[str, set[str]] = defaultdict(set)  # in the order of the run
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    flops: dict[str, float] = defaultdict(float)
    for name, own in seconds.items():
        for outer in _with_outer(name):
            names[group_of(outer)].add(outer)
            forward[group_of(outer)] += own.forward
            backward[group_of(outer)] += own.backward
    for name, number in forward_flops.items():
        for outer in _with_outer(name):
            flops[group_of(outer)] += number * flops_factor
    whole = forward[""] + backward[""]
    ran = {group_of(name) for name in seconds}  # lists of modules and the like do not run themselves

    def figures(group: str) -> ModuleFigures:
        took = forward[group] + backward[group]
        is_known = bool(forward_flops) and peak_flops_per_sec is not None and took > 0
        return ModuleFigures(
            name=group,
            modules=len(names[group]),
            flops=flops[group] if forward_flops else None,
            forward_sec=forward[group],
            backward_sec=backward[group],
            share=took / whole if whole else 0.0,
            mfu=flops[group] / took / peak_flops_per_sec if is_known and peak_flops_per_sec else None,
        )

    return tuple(figures(group) for group in names if group in ran)


def _with_outer(name: str) -> Iterator[str]:
    """The names of the modules that a module is inside of, the outermost first, and its own."""
    yield ""
    parts = name.split(".") if name else []
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])

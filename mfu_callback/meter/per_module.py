"""FLOPs, time and MFU of each module, which show the slow part of a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mfu_callback.flops import FlopCount
from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.flops.table import group_of
from mfu_callback.meter.module_times import ModuleTimes, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFigures:
    """Figures of like modules, with their submodules, in the forward and backward pass of one batch.

    Attributes:
        name: Their common name, with ``*`` for each number in it; "" is the whole model.
        modules: Number of modules.
        flops: Model FLOPs of the forward and backward pass; None if they are unknown by module.
        forward_sec: Seconds of the forward pass.
        backward_sec: Seconds of the backward pass.
        share: Share of the time of the whole model.
        mfu: Model FLOPs utilization while they run, a fraction of the peak; None if FLOPs or the peak are unknown.
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
    """Figures by module over the timed batches; None if there are none, or if the device has not finished them.

    Args:
        times: The times of the modules.
        count: The FLOP count of a batch.
        training: FLOPs of its forward and backward pass.
        peak_flops_per_sec: Sum of the peaks of the devices that share a batch; None if unknown.
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
    """Join the time and the FLOPs of like modules; outer modules come before their submodules.

    Args:
        seconds: Seconds of each module in one batch, without its submodules.
        forward_flops: Model FLOPs of each module in the forward pass, without its submodules; empty if unknown.
        flops_factor: FLOPs of forward and backward pass of a timed batch over those of the pass in ``forward_flops``.
        peak_flops_per_sec: The peak in FLOP/s; None if unknown.
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
    ran = {group_of(name) for name in seconds}  # containers such as ModuleList do not run

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
    """The names of all modules around a module, outermost first, and its own name."""
    yield ""
    parts = name.split(".") if name else []
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])

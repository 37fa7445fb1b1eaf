"""The smallest batch that is as fast as the fastest: a sweep over sizes that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 3  # the sizes take turns: a machine that changes its speed changes it for all of them
_AS_FAST = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """What one batch size reaches.

    Attributes:
        size: Samples in the batch of one process.
        step_time_sec: Median seconds of an optimizer step, on the slowest process.
        samples_per_sec: Samples per second of all processes.
        tokens_per_sec: Tokens likewise; None where the batch has none.
        mfu: Model FLOPs utilization as a fraction; None where FLOPs or the peak are unknown.
        peak_bytes: The most memory that its steps took on this process; None where it cannot be told.
    """

    size: int
    step_time_sec: float
    samples_per_sec: float
    tokens_per_sec: float | None
    mfu: float | None
    peak_bytes: int | None


def sizes_between(smallest: int, largest: int) -> list[int]:
    """The sizes of a sweep: the smallest, every doubling of it, and the largest."""
    sizes = [smallest]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == largest else [*sizes, largest]


def step_times(
    time_steps: Callable[[int], Sequence[float]], sizes: Sequence[int], *, is_over: Callable[[], bool]
) -> dict[int, float]:
    """The median seconds of a step at each size, taken by turns.

    Args:
        time_steps: Runs a few steps at a size and tells the seconds of each.
        sizes: What to time.
        is_over: Whether to end after this round.
    """
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size in sizes:
            times[size].extend(time_steps(size))
        if is_over():
            break
    return {size: float(np.median(seconds)) for size, seconds in times.items()}


def smallest_as_fast(points: Sequence[SweepPoint]) -> int:
    """The smallest size within 2 % of the best rate, in tokens where they are known, else in samples."""
    rates = {p.size: p.samples_per_sec if p.tokens_per_sec is None else p.tokens_per_sec for p in points}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _AS_FAST * best)

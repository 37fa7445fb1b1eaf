"""A sweep over sizes that fit, for the smallest batch that is about as fast as the fastest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 3  # the sizes take turns, so that a change of the machine's speed affects all of them
_AS_FAST = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """The measurements of one batch size.

    Attributes:
        size: Samples in the batch of one process.
        step_time_sec: Median seconds of an optimizer step, on the slowest process.
        samples_per_sec: Samples per second of all processes together.
        tokens_per_sec: Tokens per second of all processes together; None if the batch has no tokens.
        mfu: Model FLOPs utilization as a fraction; None if the FLOPs or the peak are unknown.
        peak_bytes: The peak memory of its steps on this process; None if unknown.
    """

    size: int
    step_time_sec: float
    samples_per_sec: float
    tokens_per_sec: float | None
    mfu: float | None
    peak_bytes: int | None


def sizes_between(smallest: int, largest: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of a sweep: the smallest, about every doubling of it, and the largest.

    Args:
        smallest: The smallest size, or the next larger one of ``sizes``.
        largest: The largest size; one of ``sizes``.
        sizes: The sizes that are allowed, rising.
    """
    index, last = bisect_left(sizes, min(smallest, largest)), bisect_left(sizes, largest)
    swept = [sizes[index]]
    while index < last:
        index = min(last, max(index + 1, bisect_right(sizes, 2 * sizes[index]) - 1))
        swept.append(sizes[index])
    return swept


def step_times(
    time_steps: Callable[[int], Sequence[float]], sizes: Sequence[int], *, is_over: Callable[[], bool]
) -> dict[int, float]:
    """The median seconds of a step at each size; the sizes are timed in turns.

    Args:
        time_steps: Runs a few steps at a size and returns the seconds of each.
        sizes: The sizes to time.
        is_over: Whether to stop after the current round.
    """
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size in sizes:
            times[size].extend(time_steps(size))
        if is_over():
            break
    return {size: float(np.median(seconds)) for size, seconds in times.items()}


def smallest_as_fast(points: Sequence[SweepPoint]) -> int:
    """The smallest size within 2 % of the best rate, in tokens/sec if they are known, else in samples/sec."""
    rates = {p.size: p.samples_per_sec if p.tokens_per_sec is None else p.tokens_per_sec for p in points}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _AS_FAST * best)

"""A short search for the matmul that a device computes fastest, and the rates that it reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from mfu_callback.peaks.call_timers import CallTimer

CALLS = 20  # at the winning shape, at least
_WARM_UP_CALLS, _TRIAL_CALLS = 2, 3
_LARGE = 1024
# Above these a sweep is called noisy: a quiet CPU or GPU stays well below both.
_MOST_BEST_OVER_MEDIAN, _MOST_HALF_OVER_HALF = 1.15, 1.1


class Shape(NamedTuple):
    """Of a matmul: (m, k) times (k, n), the right matrix as it is or the transpose of one that lies in memory (n, k).

    The second is what a linear layer multiplies; kernels for the two can differ in speed by ten times.
    """

    m: int
    k: int
    n: int
    transposed: bool = False

    @property
    def flops(self) -> int:
        """Its FLOPs, 2 for each multiply-accumulate."""
        return 2 * self.m * self.k * self.n

    @property
    def is_large(self) -> bool:
        """Whether it is of the size that large models multiply."""
        return min(self.m, self.k, self.n) >= _LARGE

    def __str__(self) -> str:
        return f"{self.m} x {self.k} x {self.n}{' transposed' if self.transposed else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found.

    Attributes:
        shape: The shape that was fastest.
        rates: FLOP/s of each call at that shape, in order.
    """

    shape: Shape
    rates: tuple[float, ...]

    @property
    def best(self) -> float:
        """The highest rate, in FLOP/s."""
        return max(self.rates)

    @property
    def best_over_median(self) -> float:
        """The highest rate over the median one."""
        return self.best / float(np.median(self.rates))

    @property
    def half_over_half(self) -> float:
        """The median of the faster half of the time over that of the slower half."""
        middle = len(self.rates) // 2
        first, second = np.median(self.rates[:middle]), np.median(self.rates[middle:])
        return float(max(first, second) / min(first, second))

    @property
    def is_noisy(self) -> bool:
        """Whether the device's speed varied, so that its best may lie higher."""
        return self.best_over_median > _MOST_BEST_OVER_MEDIAN or self.half_over_half > _MOST_HALF_OVER_HALF


def sweep_shapes(
    shapes: Iterable[Shape],
    matmul_of: Callable[[Shape], Callable[[], Any]],
    timer: CallTimer,
    *,
    time_limit_sec: float,
    now: Callable[[], float] = perf_counter,
) -> Sweep:
    """Try the shapes, then call the fastest large one until the time is up, 20 times at least.

    A shape of which 20 calls would take more than half of the time, by the best rate so far, is not tried. Small
    shapes, whose calls are short and whose matrices stay in the caches, win only where no large one can be tried.

    Args:
        shapes: Small to large. The first is always tried.
        matmul_of: Makes the matmul of a shape. May raise RuntimeError where a later shape does not fit.
        timer: Times its calls.
        time_limit_sec: About how long, in seconds.
        now: The clock, in seconds.

    Raises:
        RuntimeError: If the first matmul cannot be computed.
    """
    end, best = now() + time_limit_sec, None
    for shape in shapes:
        if best is not None and not _fits(shape, best, time_limit_sec):
            best = _again(best, timer)  # it may have been slow for a moment
            if not _fits(shape, best, time_limit_sec):
                continue
        try:
            trial = _try(shape, matmul_of(shape), timer)
        except RuntimeError:
            if best is None:
                raise
            continue
        is_first_large = best is not None and trial.shape.is_large > best.shape.is_large
        if best is None or is_first_large or trial.rate > best.rate:
            best = trial
    assert best is not None, "no shape was given"
    rates: list[float] = []
    while len(rates) < CALLS or now() < end:
        rates += [best.shape.flops / seconds for seconds in timer.seconds_of(best.matmul, CALLS)]
    return Sweep(shape=best.shape, rates=tuple(rates))


class _Trial(NamedTuple):
    """A shape that was tried, and its best rate in FLOP/s."""

    shape: Shape
    matmul: Callable[[], Any]
    rate: float


def _fits(shape: Shape, best: _Trial, time_limit_sec: float) -> bool:
    return CALLS * shape.flops / best.rate <= time_limit_sec / 2


def _again(trial: _Trial, timer: CallTimer) -> _Trial:
    rate = trial.shape.flops / min(timer.seconds_of(trial.matmul, _TRIAL_CALLS))
    return trial._replace(rate=max(rate, trial.rate))


def _try(shape: Shape, matmul: Callable[[], Any], timer: CallTimer) -> _Trial:
    timer.seconds_of(matmul, _WARM_UP_CALLS)
    return _Trial(shape, matmul, rate=shape.flops / min(timer.seconds_of(matmul, _TRIAL_CALLS)))

"""A short search for the matmul that a device computes fastest, and the rates that it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from mfu_callback.peaks.call_timers import CallTimer

CALLS = 20  # the least number of calls at the winning shape
_WARM_UP_CALLS, _TRIAL_CALLS = 2, 3
_LARGE = 1024
# A sweep above either of these is noisy; a quiet CPU or GPU stays well below both.
_MOST_BEST_OVER_MEDIAN, _MOST_HALF_OVER_HALF = 1.15, 1.1


class Shape(NamedTuple):
    """The shape of a matmul: (m, k) times (k, n), and the memory layout of the right matrix.

    If transposed, the right matrix is the transpose of an (n, k) matrix in memory, as in a linear layer. The speeds of
    the kernels for the two layouts can differ by a factor of ten.
    """

    m: int
    k: int
    n: int
    transposed: bool = False

    @property
    def flops(self) -> int:
        """The FLOPs of the matmul, 2 for each multiply-accumulate."""
        return 2 * self.m * self.k * self.n

    @property
    def is_large(self) -> bool:
        """Whether the matrices are as large as those of large models."""
        return min(self.m, self.k, self.n) >= _LARGE

    def __str__(self) -> str:
        return f"{self.m} x {self.k} x {self.n}{' transposed' if self.transposed else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The result of a sweep.

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
        """The highest rate divided by the median rate."""
        return self.best / float(np.median(self.rates))

    @property
    def half_over_half(self) -> float:
        """The median rates of the first and the second half of the calls, the higher divided by the lower."""
        middle = len(self.rates) // 2
        first, second = np.median(self.rates[:middle]), np.median(self.rates[middle:])
        return float(max(first, second) / min(first, second))

    @property
    def is_noisy(self) -> bool:
        """Whether the device's speed varied, so that its real peak may be higher."""
        return self.best_over_median > _MOST_BEST_OVER_MEDIAN or self.half_over_half > _MOST_HALF_OVER_HALF


def sweep_shapes(
    shapes: Iterable[Shape],
    matmul_of: Callable[[Shape], Callable[[], Any]],
    timer: CallTimer,
    *,
    time_limit_sec: float,
    now: Callable[[], float] = perf_counter,
) -> Sweep:
    """Try the shapes, then call the fastest large one until the time is up, at least 20 times.

    A shape is skipped if 20 calls of it, at the best rate so far, would take more than half of the time. Small shapes
    have short calls and matrices that stay in the caches, so they win only if no large shape can be tried.

    Args:
        shapes: The shapes in order of size, the smallest first. The first is always tried.
        matmul_of: Makes the matmul of a shape. May raise RuntimeError for a shape that does not fit into memory, except
            for the first.
        timer: Times the calls of the matmuls.
        time_limit_sec: About how long the whole sweep takes, in seconds.
        now: The clock, in seconds.

    Raises:
        RuntimeError: If the first matmul cannot be computed.
    """
    end, best = now() + time_limit_sec, None
    for shape in shapes:
        if best is not None and not _fits(shape, best, time_limit_sec):
            best = _again(best, timer)  # the best may have been slow for a moment
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

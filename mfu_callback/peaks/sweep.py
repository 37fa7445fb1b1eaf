"""A short search for the matmul that a device computes fastest, and the rates that it reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from mfu_callback.peaks.call_timers import CallTimer

CALLS = 20  # a sweep with fewer calls at the winning shape is noisy
_WARM_UP_CALLS, _TRIAL_CALLS, _FEWEST_CALLS = 2, 3, 3
_LARGE = 1024
# A sweep above either of these is noisy; a quiet CPU or GPU stays well below both.
_MOST_BEST_OVER_MEDIAN, _MOST_HALF_OVER_HALF = 1.15, 1.1
_LEAST_SHARE_OF_CORES = 0.9  # below it, other processes ran on the cores


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
        share_of_cores: The share of the time in which this process had all cores that it asked for; None if that is
            unknown, as on a device other than the CPU.
    """

    shape: Shape
    rates: tuple[float, ...]
    share_of_cores: float | None = None

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
        """Whether the real peak may be higher: the speed varied, cores were taken away, or there were few calls."""
        varied = self.best_over_median > _MOST_BEST_OVER_MEDIAN or self.half_over_half > _MOST_HALF_OVER_HALF
        return varied or self.shared_cores or len(self.rates) < CALLS

    @property
    def shared_cores(self) -> bool:
        """Whether other processes ran on the cores."""
        return self.share_of_cores is not None and are_shared(self.share_of_cores)


def are_shared(share_of_cores: float) -> bool:
    """Whether other processes took cores from a process that had them for this share of the time."""
    return share_of_cores < _LEAST_SHARE_OF_CORES


def sweep_shapes(
    shapes: Iterable[Shape],
    matmul_of: Callable[[Shape], Callable[[], Any]],
    timer: CallTimer,
    *,
    time_limit_sec: float,
    now: Callable[[], float] = perf_counter,
    core_sec: Callable[[], float] | None = None,
) -> Sweep:
    """Try the shapes, then call the fastest large one until the time is up, at least three times.

    A shape is skipped if 20 calls of it, at the rate of the next smaller one in its layout, would take more than half
    of the time. Small shapes have short calls and matrices that stay in the caches, so they win only if no large shape
    can be tried.

    Args:
        shapes: The shapes in order of size, the smallest first. The first in each layout is always tried.
        matmul_of: Makes the matmul of a shape. May raise RuntimeError for a shape that does not fit into memory, except
            for the first.
        timer: Times the calls of the matmuls.
        time_limit_sec: About how long the whole sweep takes, in seconds.
        now: The clock, in seconds.
        core_sec: The seconds that this process has computed so far, per core that it uses; None if unknown.

    Raises:
        RuntimeError: If the first matmul cannot be computed.
    """
    end = now() + time_limit_sec
    best = _best_trial(shapes, matmul_of, timer, time_limit_sec)
    start, used = now(), core_sec() if core_sec is not None else 0.0
    rates: list[float] = []
    while len(rates) < _FEWEST_CALLS or now() < end:
        calls = min(CALLS, max(_FEWEST_CALLS, int((end - now()) * best.rate / best.shape.flops)))
        rates += [best.shape.flops / seconds for seconds in timer.seconds_of(best.matmul, calls)]
    share = None if core_sec is None else (core_sec() - used) / max(now() - start, 1e-9)
    return Sweep(shape=best.shape, rates=tuple(rates), share_of_cores=share)


class _Trial(NamedTuple):
    """A shape that was tried, and its best rate in FLOP/s."""

    shape: Shape
    matmul: Callable[[], Any]
    rate: float


def _best_trial(
    shapes: Iterable[Shape],
    matmul_of: Callable[[Shape], Callable[[], Any]],
    timer: CallTimer,
    time_limit_sec: float,
) -> _Trial:
    best: _Trial | None = None
    last: dict[bool, _Trial] = {}  # the largest shape that was tried in each layout
    done: set[bool] = set()  # layouts whose next larger shapes would take too long
    for shape in shapes:
        layout, before = shape.transposed, last.get(shape.transposed)
        if layout in done:
            continue
        if before is not None and not _fits(shape, before, time_limit_sec):
            before = last[layout] = _again(before, timer)  # it may have been slow for a moment
            if not _fits(shape, before, time_limit_sec):
                done.add(layout)
                continue
        try:
            last[layout] = trial = _try(shape, matmul_of(shape), timer)
        except RuntimeError:
            if best is None:
                raise
            continue
        is_first_large = best is not None and trial.shape.is_large > best.shape.is_large
        if best is None or is_first_large or trial.rate > best.rate:
            best = trial
    assert best is not None, "no shape was given"
    return best


def _fits(shape: Shape, trial: _Trial, time_limit_sec: float) -> bool:
    return CALLS * shape.flops / trial.rate <= time_limit_sec / 2


def _again(trial: _Trial, timer: CallTimer) -> _Trial:
    rate = trial.shape.flops / min(timer.seconds_of(trial.matmul, _TRIAL_CALLS))
    return trial._replace(rate=max(rate, trial.rate))


def _try(shape: Shape, matmul: Callable[[], Any], timer: CallTimer) -> _Trial:
    timer.seconds_of(matmul, _WARM_UP_CALLS)
    return _Trial(shape, matmul, rate=shape.flops / min(timer.seconds_of(matmul, _TRIAL_CALLS)))

"""The search for the largest size that fits: pure logic; the caller's function tries the sizes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Protocol

# The first size is foreseen to use this share of what the limit leaves for batches: enough to tell what the lines do
# not see, and soon over.
_FIRST_SHARE = 0.2
# After a far extrapolation from peaks, go this share of the way: the line may point too high, and a failed size tells
# little.
_APPROACH = 0.85
_LEAST_RISE = 0.02  # share of what is left of the limit; a smaller difference between two peaks counts as noise
# While peaks rise by less than that, the next distance is this many times the last: a line would then rise by at most
# half of what is left.
_LEAP = 25
# Peaks of one size differ by about this share of the limit. A size whose predicted peak is nearer than that is not
# attempted where a failure would be costly.
_NOISE = 0.002
_MOST_BLUR = 0.05  # of a size: where memory hardly grows with it, that noise is as much as many samples take
# A peak that differs from what was foreseen by this share of what was foreseen to grow with the size, and of the limit.
_MUCH, _LEAST_MUCH = 0.5, 0.05
_FIRST_LEAP = 4  # factor from the first size to the second, whose peak makes a line possible
# A second size that failed though it was foreseen to fit: go this far back, then bisect.
_BACK = 0.95
_ANY_SIZE = range(1, 2**62)


class Foreseen(Protocol):
    """What steps are foreseen to use, as shares of the limit (`MemoryLines`)."""

    def peak(self, size: float) -> float:
        """The peak of a size."""

    def largest_within(self, peak: float) -> float:
        """The largest size with at most this peak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one attempted size.

    Attributes:
        fits: Whether it ran within the limit.
        used: The share of the limit that it used at its peak; None if unknown.
    """

    fits: bool
    used: float | None = None


def find_largest(
    attempt: Callable[[int], Outcome],
    *,
    sizes: Sequence[int] = _ANY_SIZE,
    init_size: int | None = None,
    foreseen: Foreseen | None = None,
    resolution: float = 0.01,
    predicted_only: bool = False,
    used_at_zero: float = 0.0,
    is_over: Callable[[], bool] = lambda: False,
) -> int | None:
    """Find the largest size that fits, with few attempts.

    Where the use of sizes is foreseen, a small size shows what it leaves out, the same bytes at any size. The next
    attempt is the largest size that is then foreseen to fit, and one just above it ends the search: three attempts.
    Otherwise a line through the peaks of small sizes predicts the largest. If that was wrong, or no peaks are known,
    the search bisects between the largest size that fitted and the smallest that failed. No size is attempted twice.
    The size that is returned was attempted and fitted.

    Args:
        attempt: Runs a size and returns its outcome; never called with a larger size than one that failed.
        sizes: The sizes that may be attempted, rising.
        init_size: The first size; the next smaller one of ``sizes`` if it is none of them. None to choose it.
        foreseen: What sizes are foreseen to use; None if unknown.
        resolution: The search ends when the smallest size that failed is at most this share above the largest that
            fitted, or, where memory hardly grows with the size, as much as peaks of one size differ by: 0.2 % of the
            limit, at most 5 % of the size. Otherwise, below ``1 / resolution`` the result is exact. With 0 it is always
            exact.
        predicted_only: Whether to attempt only sizes that the peaks predict to fit. The search then ends when none is
            left.
        used_at_zero: The share of the limit that every size uses at least; it improves predictions from a single peak.
        is_over: Whether to end with the largest size that fitted so far; called only after a size has fitted.

    Returns:
        The largest size known to fit, or None if not even the smallest does.

    Raises:
        ValueError: If ``predicted_only`` is set and a size fits whose peak is unknown.

    Example:
        >>> find_largest(lambda size: Outcome(fits=size <= 37))
        37
    """
    search = _Search(
        sizes=sizes,
        first=init_size or _first_size(foreseen),
        foreseen=foreseen,
        resolution=resolution,
        predicted_only=predicted_only,
        used_at_zero=used_at_zero,
    )
    while (size := search.next_size()) is not None:
        search.add(size, attempt(size))
        if search.fitted and is_over():
            break
    return search.fitted or None


def _first_size(foreseen: Foreseen | None) -> int:
    if foreseen is None:
        return 2
    base = foreseen.peak(0)
    return int(min(foreseen.largest_within(base + _FIRST_SHARE * (1 - base)), _ANY_SIZE[-1]))


class _Search:
    """The bracket, the peaks seen and the next size.

    The bracket lies between the largest size that fitted and the smallest that failed.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        first: int,
        foreseen: Foreseen | None,
        resolution: float,
        predicted_only: bool,
        used_at_zero: float,
    ) -> None:
        self.fitted = 0
        self._sizes = sizes
        self._failed = sizes[-1] + 1
        self._first = first
        self._foreseen = foreseen
        self._resolution = resolution
        self._predicted_only = predicted_only
        self._used_at_zero = used_at_zero
        self._peaks: list[tuple[int, float]] = []  # sizes that fitted and their peaks, rising
        self._blur = 0  # sizes that differ by less cannot be told apart by their peaks
        self._has_failed = False
        self._failures = 0  # sizes that failed since the last one that fitted
        self._steps_up = 0  # consecutive sizes that fitted above the line's limit, which is then too low
        self._is_stepping = False

    def add(self, size: int, outcome: Outcome) -> None:
        if not outcome.fits:
            self._failed, self._has_failed, self._steps_up = size, True, 0
            self._failures += 1
            return
        if outcome.used is not None:
            self._peaks.append((size, outcome.used))
        elif self._predicted_only:
            raise ValueError(f"The peak at size {size} is not known, so no larger size can be predicted to fit.")
        self._steps_up = self._steps_up + 1 if self._is_stepping else 0
        self.fitted, self._failures = size, 0

    def next_size(self) -> int | None:
        self._is_stepping = False
        between = self._between()
        if not between or (self._has_failed and self.fitted and self._failed - self.fitted <= self._step()):
            return None
        if not self.fitted:
            wanted = self._failed // 2 if self._has_failed else self._first
            return self._at_most(wanted, between)
        if self._predicted_only:
            predicted = self._predicted()
            return self._at_most(predicted, between) if between[0] <= predicted else None
        return self._at_most(self._wanted(), between)

    def _between(self) -> Sequence[int]:
        """The sizes inside the bracket."""
        return self._sizes[bisect_right(self._sizes, self.fitted) : bisect_left(self._sizes, self._failed)]

    @staticmethod
    def _at_most(wanted: float, between: Sequence[int]) -> int:
        """The largest of the sizes up to the wanted one, or else the smallest."""
        return between[max(0, bisect_right(between, wanted) - 1)]

    def _step(self, size: float = 0) -> int:
        return max(1, self._blur, int(self._resolution * max(size, self.fitted)))

    def _wanted(self) -> float:
        """The size that should narrow the bracket most; it may lie outside the bracket."""
        if self._failures:
            return self._wanted_below()
        if self._foreseen is not None and len(self._peaks) == 1:
            return self._aim(partial(self._size_foreseen, self._foreseen))
        line = self._line()
        if line is None:
            return self._middle() if self._has_failed else self._leap()
        if line.is_near:
            return self._aim(line.size_at)
        return self.fitted + max(1, int(_APPROACH * (line.size_at(1) - self.fitted)))

    def _wanted_below(self) -> float:
        """The same after a failure."""
        is_foreseen = self._foreseen is not None and len(self._peaks) == 1
        if not self._peaks or self._failures > (2 if is_foreseen else 1):
            return self._middle()
        if is_foreseen:  # one step back may end the search; if that fails too, it is further
            step = max(self._resolution, self._blur / self._failed)
            back = ceil(self._failed / (1 + step)) if self._failures == 1 else _BACK * self._failed
            return min(self._failed - 1, back)
        line = self._line()
        return self._failed - self._step() if line is not None and line.is_near else self._middle()

    def _aim(self, size_at: Callable[[float], float]) -> float:
        """A size a little below the limit: the search ends with a bracket of one step around the limit.

        Args:
            size_at: Returns the size that uses a share of the limit.
        """
        limit = min(size_at(1), self._sizes[-1])
        if self._resolution:
            self._blur = min(int(limit - size_at(1 - _NOISE)), int(_MOST_BLUR * limit))
        is_foreseen = len(self._peaks) == 1  # the nearest size then, above or below: a miss costs one step back
        aim = (round(limit) if is_foreseen else int(limit)) - self._step(limit) // 2
        step_up = self.fitted + (self._step() << self._steps_up)
        self._is_stepping = step_up > aim
        return max(aim, step_up)

    def _size_foreseen(self, foreseen: Foreseen, share: float) -> float:
        """The size that is foreseen to use a share of the limit, corrected by the last peak.

        The difference of that peak is taken to be the same at every size if it is little, and to grow with the size if
        it is much: memory that operators allocate inside themselves.
        """
        size, used = self._peaks[-1]
        base, peak = foreseen.peak(0), foreseen.peak(size)
        if abs(used - peak) < max(_LEAST_MUCH, _MUCH * (peak - base)) or min(used, peak) <= base:
            return foreseen.largest_within(share - (used - peak))
        return foreseen.largest_within(base + (share - base) * (peak - base) / (used - base))

    def _leap(self) -> int:
        """A larger size, for when the peaks do not yet predict the limit."""
        if not self._peaks:
            return 2 * self.fitted
        if len(self._peaks) > 1:
            return max(2 * self.fitted, self.fitted + _LEAP * (self.fitted - self._peaks[-2][0]))
        return _FIRST_LEAP * self.fitted

    def _middle(self) -> int:
        between = self._between()
        return between[(len(between) - 1) // 2]

    def _predicted(self) -> int:
        """The largest size that the peaks predict to fit, approached from below."""
        if self._failures:
            return self._middle()
        line = self._line()
        if line is None:
            return self._predicted_by_one_peak()
        limit = min(line.size_at(1), self._cautious_limit())
        return int(limit) - self._step() // 2 if line.is_near else self.fitted + int(_APPROACH * (limit - self.fitted))

    def _predicted_by_one_peak(self) -> int:
        size, used = self._peaks[-1]
        per_size = (used - self._used_at_zero) / size
        return min(size + int((1 - used) / per_size), _LEAP * size) if per_size > 0 else _LEAP * size

    def _cautious_limit(self) -> float:
        """The size at which the steepest line through the last peak and an earlier one comes near the limit.

        Between two close sizes, noise can make a line flat; a line from a far size hardly notices it.
        """
        (size, used), *earlier = reversed(self._peaks)
        steepest = max((used - u) / (size - s) for s, u in earlier)
        return size + max(0.0, 1 - _NOISE - used) / steepest

    def _line(self) -> _Line | None:
        """The line through two peaks; None if no two differ enough."""
        if not self._peaks:
            return None
        size, used = self._peaks[-1]
        below = [(s, u) for s, u in self._peaks if u < used - _LEAST_RISE * max(0.0, 1 - used)]
        return None if not below else _Line(*below[-1], size, used)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line through the peaks of two sizes."""

    lower_size: int
    lower_used: float
    size: int
    used: float

    def size_at(self, used: float) -> float:
        """The size that uses a share of the limit."""
        return self.size + (used - self.used) * (self.size - self.lower_size) / (self.used - self.lower_used)

    @property
    def is_near(self) -> bool:
        """Whether the limit is no further above the larger size than the two are apart."""
        return self.size_at(1) - self.size <= self.size - self.lower_size

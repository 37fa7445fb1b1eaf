"""The search for the largest size that fits: pure logic; the caller's function tries the sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# After a far extrapolation, go this share of the way: the line may point too high, and a failed size tells little.
_APPROACH = 0.85
_LEAST_RISE = 0.02  # share of what is left of the limit; a smaller difference between two peaks counts as noise
# While peaks rise by less than that, the next distance is this many times the last: a line would then rise by at most
# half of what is left.
_LEAP = 25
# Peaks of one size differ by about this share of the limit. A size whose predicted peak is nearer than that is not
# attempted where a failure would be costly.
_NOISE = 0.002
_FIRST_LEAP = 4  # factor from the first size to the second, whose peak makes a line possible


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
    init_size: int = 2,
    guess: int | None = None,
    max_size: int | None = None,
    multiple_of: int = 1,
    resolution: float = 0.01,
    predicted_only: bool = False,
    used_at_zero: float = 0.0,
    is_over: Callable[[], bool] = lambda: False,
) -> int | None:
    """Find the largest size that fits, with few attempts.

    Memory is close to linear in the size, so a line through the peaks of two small sizes predicts the largest size that
    fits. One attempt there and one just above it end the search. If the line was wrong, or no peaks are known, the
    search bisects between the largest size that fitted and the smallest that failed. No size is attempted twice. The
    size that is returned was attempted and fitted.

    Args:
        attempt: Runs a size and returns its outcome; never called with a larger size than one that failed.
        init_size: The first size.
        guess: A rough prediction of the result; None if there is none.
        max_size: The largest size to attempt.
        multiple_of: Only multiples of this number are attempted.
        resolution: The search ends when the smallest size that failed is at most this share above the largest that
            fitted. Below ``1 / resolution`` the result is exact, and with 0 it is always exact.
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
        first=max(1, init_size // multiple_of),
        guess=None if guess is None else guess // multiple_of,
        most=None if max_size is None else max_size // multiple_of,
        resolution=resolution,
        predicted_only=predicted_only,
        used_at_zero=used_at_zero,
    )
    while (size := search.next_size()) is not None:
        search.add(size, attempt(size * multiple_of))
        if search.fitted and is_over():
            break
    return search.fitted * multiple_of or None


class _Search:
    """The bracket, the peaks seen and the next size; sizes are counted in units of ``multiple_of``.

    The bracket lies between the largest size that fitted and the smallest that failed.
    """

    def __init__(
        self,
        *,
        first: int,
        guess: int | None,
        most: int | None,
        resolution: float,
        predicted_only: bool,
        used_at_zero: float,
    ) -> None:
        self.fitted = 0
        self._failed: int | None = None if most is None else most + 1
        self._first = first if most is None else min(first, most)
        self._guess = guess
        self._resolution = resolution
        self._predicted_only = predicted_only
        self._used_at_zero = used_at_zero
        self._peaks: list[tuple[int, float]] = []  # sizes that fitted and their peaks, rising
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
        if self._failed is not None and self._failed - self.fitted <= (self._step() if self._has_failed else 1):
            return None
        if not self.fitted:
            return self._first if self._failed is None or self._failed > self._first else self._failed // 2
        size = self._predicted() if self._predicted_only else self._wanted()
        if self._failed is not None:
            size = min(size, self._failed - 1)
        return size if size > self.fitted else None

    def _step(self) -> int:
        return max(1, int(self._resolution * self.fitted))

    def _wanted(self) -> int:
        """The size that should narrow the bracket most; it may lie outside the bracket."""
        line = self._limit()
        if line is None:
            return self._middle() if self._has_failed else self._leap()
        limit, is_near = line
        if self._failures > 1 or (self._failures and not is_near):
            return self._middle()
        if not is_near:
            return self.fitted + max(1, int(_APPROACH * (limit - self.fitted)))
        if self._failures and self._failed is not None:
            return max(self._failed - self._step(), self.fitted + 1)
        # The search ends with a bracket of one step around the limit: aim half a step below it.
        aim = int(limit) - self._step() // 2
        step_up = self.fitted + (self._step() << self._steps_up)
        self._is_stepping = step_up > aim
        return max(aim, step_up)

    def _leap(self) -> int:
        """A larger size, for when the peaks do not yet predict the limit."""
        if not self._peaks:
            return 2 * self.fitted
        if len(self._peaks) > 1:
            return max(2 * self.fitted, self.fitted + _LEAP * (self.fitted - self._peaks[-2][0]))
        if self._guess is None:
            return _FIRST_LEAP * self.fitted
        if self._failed is not None and self._guess >= self._failed:
            return self._failed - 1
        return max(self.fitted + 1, int(_APPROACH * self._guess))

    def _middle(self) -> int:
        assert self._failed is not None
        return (self.fitted + self._failed) // 2

    def _predicted(self) -> int:
        """The largest size that the peaks predict to fit, approached from below."""
        if self._failures:
            return self._middle()
        line = self._limit()
        if line is None:
            return self._predicted_by_one_peak()
        limit, is_near = min(line[0], self._cautious_limit()), line[1]
        return int(limit) - self._step() // 2 if is_near else self.fitted + int(_APPROACH * (limit - self.fitted))

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

    def _limit(self) -> tuple[float, bool] | None:
        """The size at which a line through two peaks reaches the limit, and whether that is near.

        Near is no further above the larger of the two sizes than they are apart. None if no two peaks differ enough.
        """
        if not self._peaks:
            return None
        size, used = self._peaks[-1]
        below = [(s, u) for s, u in self._peaks if u < used - _LEAST_RISE * max(0.0, 1 - used)]
        if not below:
            return None
        other_size, other_used = below[-1]
        distance = (1 - used) * (size - other_size) / (used - other_used)
        return size + distance, distance <= size - other_size

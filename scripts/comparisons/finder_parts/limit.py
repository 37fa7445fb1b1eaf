"""Finds the largest size that trains by trying sizes only; slow, and independent of every finder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The limit, and the sizes around it, as fresh processes show them.

    Attributes:
        always: The largest tried size for which it and all smaller tried sizes trained in every process.
        ever: The largest size that trained in any process.
        tried: For each size, whether it trained in each of its processes.
    """

    always: int
    ever: int
    tried: dict[int, list[bool]]

    def is_exact(self, size: int) -> bool:
        """Whether a size is within one of the limits that the processes show, or within 1 %.

        A training Trainer uses a MiB or two besides its steps. RLIMIT_DATA, which limits the processes, also counts
        memory that is reserved and not used: 6 MiB of 1,024 for the network.
        """
        tolerance = max(1, int(_TOLERANCE * self.always))
        return self.always - tolerance <= size <= self.ever + tolerance


def find_limit(trains: Callable[[int], bool], *, start: int, repeats: int) -> Limit:
    """Find the limit from a guess, then try the sizes around it several times.

    Args:
        trains: Returns whether a size trains, each time in a fresh process.
        start: The guess; a wrong one only takes longer.
        repeats: How often the four sizes around the limit are tried.
    """
    tried: dict[int, list[bool]] = {}

    def tries(size: int) -> bool:
        tried.setdefault(size, []).append(trains(size))
        return tried[size][-1]

    low, high = _bracket(tries, max(1, start))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tries(middle) else (low, middle)
    for size in range(max(1, low - 1), low + 3):
        while len(tried.get(size, [])) < repeats:
            tries(size)
    return limit_from(tried)


def limit_from(tried: dict[int, list[bool]]) -> Limit:
    """Returns the limit that the tried sizes show."""
    failing = min((size for size, fits in tried.items() if not all(fits)), default=max(tried) + 1)
    always = max((size for size in tried if size < failing), default=0)
    ever = max((size for size, fits in tried.items() if any(fits)), default=0)
    return Limit(always=always, ever=ever, tried=dict(sorted(tried.items())))


def _bracket(trains: Callable[[int], bool], start: int) -> tuple[int, int]:
    """Returns a size that trains, or 0, and a larger one that does not, found in doubling steps."""
    low, high, step = (start, start, 1)
    if trains(start):
        while trains(high := low + step):
            low, step = high, 2 * step
        return low, high
    while (low := max(0, high - step)) and not trains(low):
        high, step = low, 2 * step
    return low, high

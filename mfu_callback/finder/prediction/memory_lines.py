"""Foresees the memory of large batches from what two small ones used, allocation by allocation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PARTS = 100


class MemoryLines:
    """The peak memory of a step as a function of the batch size: the largest of several lines.

    Two sizes run the same operators. What is in use after the i-th allocation grows from one to the other, and is taken
    for a line in the size: fixed bytes, and bytes for each sample. The peak of any size is the largest of these lines
    there. At small sizes that is one of the optimizer's step, at large ones one of the backward pass, so that no line
    through the peaks of two small sizes foresees a large one.

    Args:
        fixed: Bytes at size 0, of each line.
        per_sample: Bytes that each sample adds, of each line; none is negative.
    """

    def __init__(self, fixed: NDArray[np.float64], per_sample: NDArray[np.float64]) -> None:
        self._fixed = fixed
        self._per_sample = per_sample

    @classmethod
    def through(cls, small: int, small_bytes: Sequence[int], large: int, large_bytes: Sequence[int]) -> MemoryLines:
        """The lines through what two sizes used.

        Where the two did not allocate equally often, as with sequences of several lengths, their steps are cut into
        equally many parts, and the lines go through the peaks of these.

        Args:
            small: The smaller size.
            small_bytes: The bytes in use after each of its allocations, in order.
            large: The larger size.
            large_bytes: The same for it.
        """
        low, high = np.array(small_bytes, dtype=np.float64), np.array(large_bytes, dtype=np.float64)
        if len(low) != len(high):
            parts = min(_PARTS, len(low), len(high))
            low, high = (np.array([np.max(part) for part in np.array_split(one, parts)]) for one in (low, high))
        per_sample = np.maximum(0.0, (high - low) / (large - small))
        return cls(np.maximum(low, high) - per_sample * large, per_sample)

    def shares_of(self, limit_bytes: int) -> MemoryLines:
        """The same lines as shares of a limit."""
        return MemoryLines(self._fixed / limit_bytes, self._per_sample / limit_bytes)

    def peak(self, size: float) -> float:
        """The peak at a size, in bytes, or as a share of the limit after :meth:`shares_of`."""
        return float(np.max(self._fixed + self._per_sample * size))

    def largest_within(self, peak: float) -> float:
        """The largest size whose peak is at most this, not rounded; infinite if the memory does not grow."""
        if self.peak(0) > peak:
            return 0.0
        grows = self._per_sample > 0
        return float(np.min((peak - self._fixed[grows]) / self._per_sample[grows], initial=np.inf))

"""Counts of batches of one shape, whose work may depend on more than their shape."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_ALIKE = 0.005  # relative difference of FLOPs up to which two batches did the same work
_SETTLED = 16  # latest counts that are alike after others that were not: the work has changed for good
_MOST = 256


class TrainingFlops(NamedTuple):
    """FLOPs of one call of ``training_step``; NaN if unknown.

    Attributes:
        model: Model FLOPs of the forward and backward pass.
        recomputed: FLOPs that run a second time.
        of_dtypes: The model FLOPs by the dtype that is multiplied, where they are of several; otherwise empty.
    """

    model: float = math.nan
    recomputed: float = math.nan
    of_dtypes: Mapping[str, float] = {}

    def times(self, number: float) -> TrainingFlops:
        """The FLOPs of a batch that is some times as large."""
        of_dtypes = {dtype: flops * number for dtype, flops in self.of_dtypes.items()}
        return TrainingFlops(self.model * number, self.recomputed * number, of_dtypes)


class RepeatedCounts:
    """The FLOPs of batches of one shape: their mean, where the work also depends on values or on the step.

    Attributes:
        counts: The latest counts.
    """

    def __init__(self) -> None:
        self.counts: list[TrainingFlops] = []

    def add(self, flops: TrainingFlops) -> None:
        """Add a count. Once many have been alike, those before are forgotten: the work has changed for good."""
        self.counts = [*self.counts[1 - _MOST :], flops]
        if len(self.counts) > _SETTLED and not _vary(self.counts[-_SETTLED:]):
            self.counts = self.counts[-1:]

    @property
    def vary(self) -> bool:
        """Whether batches of this shape do unequal work."""
        return _vary(self.counts)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most model FLOPs of a counted batch."""
        return min(one.model for one in self.counts), max(one.model for one in self.counts)

    @property
    def error(self) -> float:
        """The standard error of the mean over the mean; 0 if all counts are alike."""
        if not self.vary:
            return 0.0
        flops = np.array([one.model for one in self.counts])
        return float(flops.std(ddof=1) / math.sqrt(len(flops)) / flops.mean())

    @property
    def mean(self) -> TrainingFlops:
        """The mean of the counts."""
        if len(self.counts) == 1:
            return self.counts[0]
        number, of_dtypes = len(self.counts), Counter[str]()
        for one in self.counts:
            of_dtypes.update(one.of_dtypes or {})
        return TrainingFlops(
            sum(one.model for one in self.counts) / number,
            sum(one.recomputed for one in self.counts) / number,
            {dtype: flops / number for dtype, flops in of_dtypes.items()},
        )


def _vary(counts: list[TrainingFlops]) -> bool:
    flops = [one.model for one in counts]
    return max(flops) - min(flops) > _ALIKE * max(flops)

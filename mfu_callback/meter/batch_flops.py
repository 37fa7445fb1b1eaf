"""The training FLOPs of each micro-batch: given, or counted once for every shape."""

from __future__ import annotations

import math
from collections.abc import Hashable

from mfu_callback.flops import FlopCount
from mfu_callback.flops.per_shape import CountsByShape, TrainingFlops
from mfu_callback.meter.batches import Batches
from mfu_callback.meter.conventions import Conventions


class BatchFlops:
    """Knows the FLOPs of the micro-batch in hand, or that they have to be counted.

    Args:
        conventions: How FLOPs are counted.
        batches: Holds the micro-batch in hand.

    Attributes:
        first: The first count that found anything; None before.
    """

    def __init__(self, conventions: Conventions, batches: Batches) -> None:
        self.first: FlopCount | None = None
        self._conventions = conventions
        self._batches = batches
        self._counts = CountsByShape(conventions.training_flops)

    def model_is(self, state: Hashable) -> None:
        """Say in which state the model is: counts that were made in one (with frozen parts, say) hold for it alone."""
        if state != self._counts.model_state:
            self._counts.model_state = state
            self._batches.forget_counted_flops()

    @property
    def needs_count(self) -> bool:
        """Whether the FLOPs of the micro-batch in hand have to be counted."""
        batch = self._batches.in_hand
        return batch.flops is None and batch.shape is not None and self._counts.needs_count(batch.shape)

    @property
    def is_full(self) -> bool:
        """Whether no further shape is counted: FLOPs of others are scaled from a similar one."""
        return self._counts.is_full

    @property
    def of_first(self) -> TrainingFlops | None:
        """FLOPs of forward and backward of the first batch that was counted; None before, and where they are given."""
        return None if self.first is None else self._conventions.training_flops(self.first)

    def take(self, count: FlopCount | None) -> bool:
        """Take the count of the micro-batch in hand; None where it failed.

        Returns:
            Whether its FLOPs are known now, or will be counted once more.
        """
        shape = self._batches.in_hand.shape
        assert shape is not None
        if count is None:
            self._counts.give_up(shape)
            return False
        if self.first is None or not self.first.forward:
            self.first = count
        return self._counts.add(shape, count)

    def of_batch(self) -> TrainingFlops:
        """FLOPs of one forward and backward of the micro-batch in hand."""
        batch = self._batches.in_hand
        if batch.flops is not None:
            return batch.flops
        assert batch.shape is not None
        flops = self._counts.flops(batch.shape)
        if not self._counts.needs_count(batch.shape):
            batch.flops = flops
        return flops

    def relative_size(self) -> float:
        """FLOPs of the micro-batch in hand over those of the first that was counted; NaN where one is unknown."""
        first = self.of_first
        return self.of_batch().model / first.model if first else math.nan

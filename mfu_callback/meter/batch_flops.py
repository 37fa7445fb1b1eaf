"""FLOPs of each micro-batch: given by the user, or counted once for each shape."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from mfu_callback.flops import FlopCount
from mfu_callback.flops.per_shape import BatchShape, CountsByShape
from mfu_callback.flops.repeated_counts import RepeatedCounts, TrainingFlops
from mfu_callback.meter.batches import Batch, Batches
from mfu_callback.meter.conventions import Conventions


@dataclass(slots=True)
class _Taken:
    """What batches of a shape were taken to compute: their passes, and the FLOPs of these."""

    passes: int = 0
    flops: float = 0.0


class BatchFlops:
    """FLOPs of the forward and backward pass of the micro-batch in hand.

    Args:
        conventions: How FLOPs are counted.
        batches: Has the micro-batch in hand.

    Attributes:
        first: The first count that found forward FLOPs, or else the first count; None before.
        is_recounted: Whether the micro-batch in hand is counted although its shape was counted before.
    """

    def __init__(self, conventions: Conventions, batches: Batches) -> None:
        self.first: FlopCount | None = None
        self.is_recounted = False
        self._conventions = conventions
        self._batches = batches
        self._counts = CountsByShape(self._training_flops)
        self._taken: defaultdict[BatchShape, _Taken] = defaultdict(_Taken)
        self._empty = 0

    def set_model_state(self, state: Hashable) -> None:
        """Set the state of the model, such as its frozen parameters; counts hold for one state alone."""
        if state != self._counts.model_state:
            self._counts.model_state = state
            self._batches.forget_counted_flops()

    @property
    def needs_count(self) -> bool:
        """Whether the micro-batch in hand must be counted. If not, its FLOPs are known from now on."""
        batch = self._batches.in_hand
        if batch.flops is not None or batch.shape is None:
            return False
        if self._counts.needs_count(batch.shape):
            return True
        batch.flops = self._counts.flops(batch.shape)
        return False

    @property
    def repeated(self) -> RepeatedCounts | None:
        """All counts of the shape of the micro-batch in hand; None if there are none, or FLOPs are given."""
        shape = self._batches.in_hand.shape
        return None if shape is None else self._counts.repeated(shape)

    @property
    def error_of_law(self) -> float | None:
        """The largest relative error of FLOPs that are told by those of other shapes; None if none are."""
        return self._counts.error_of_law

    @property
    def error(self) -> float | None:
        """As above, of means of unequal counts too."""
        return self._counts.error

    @property
    def of_first(self) -> TrainingFlops | None:
        """FLOPs of the forward and backward pass of the first counted batch; None before it, and if FLOPs are given."""
        return None if self.first is None else self._conventions.training_flops(self.first)

    def take(self, count: FlopCount | None) -> bool:
        """Store the count of the micro-batch in hand.

        Args:
            count: The count; None if counting failed.

        Returns:
            True if its FLOPs are known now or will be counted again.
        """
        batch = self._batches.in_hand
        assert batch.shape is not None
        was_recounted, self.is_recounted = self.is_recounted, False
        if count is None and was_recounted:
            return True
        if count is None:
            self._counts.give_up(batch.shape)
            return False
        if self.first is None or not self.first.forward:
            self.first = count
        is_known_or_again = self._counts.add(batch.shape, count)
        if not self._counts.needs_count(batch.shape):
            batch.flops = self._counts.flops(batch.shape)
        return is_known_or_again

    def of(self, batch: Batch) -> TrainingFlops:
        """FLOPs of one forward and backward pass of a micro-batch; NaN if unknown.

        Args:
            batch: What is known of it.
        """
        if batch.flops is not None:
            return batch.flops
        assert batch.shape is not None
        return self._counts.flops(batch.shape)

    def of_pass(self, batch: Batch) -> TrainingFlops:
        """As above, of a pass that is being added up: `correction` knows what it was taken to compute."""
        flops = self.of(batch)
        if batch.shape is not None:
            taken = self._taken[batch.shape]
            taken.passes += 1
            taken.flops += flops.model
        return flops

    @property
    def correction(self) -> float:
        """What the FLOPs so far are to be multiplied by where batches do unequal work: later counts tell the mean."""
        as_taken, as_known = 0.0, 0.0
        for shape, taken in self._taken.items():
            known = self._counts.repeated(shape)
            varies = known is not None and known.vary
            as_taken += taken.flops
            as_known += taken.passes * known.mean.model if known is not None and varies else taken.flops
        return as_known / as_taken if as_taken > 0 else 1.0

    def _training_flops(self, count: FlopCount) -> TrainingFlops | None:
        """FLOPs of a counted batch; none at all if a rank that counts its own part has found nothing in two batches."""
        flops = self._conventions.training_flops(count)
        if flops is not None or count.forward or not count.complete or not self._conventions.counts_own_part:
            return flops
        self._empty += 1
        return None if self._empty == 1 else TrainingFlops(0.0, 0.0)

    def relative_size(self) -> float:
        """FLOPs of the micro-batch in hand over those of the first counted batch; NaN if one is unknown."""
        first = self.of_first
        return self.of(self._batches.in_hand).model / first.model if first else math.nan

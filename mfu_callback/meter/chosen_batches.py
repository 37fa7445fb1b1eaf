"""The few batches of a run whose modules or operators are timed."""

from __future__ import annotations

from mfu_callback.meter.meter import RunMeter

# Indices of the batches, counted from 0 after warm-up. No batch is among both.
MODULES_TIMED = frozenset((0, 1, 2, 10, 20, 50, 100))
OPERATORS_PROFILED = frozenset((3, 13, 53))


class ChosenBatches:
    """Says of each batch whether it is one of the chosen ones.

    Args:
        meter: Knows when warm-up is over and which batches are counted, which are not chosen.
        indices: `MODULES_TIMED` or `OPERATORS_PROFILED`.
    """

    def __init__(self, meter: RunMeter, indices: frozenset[int]) -> None:
        self._meter = meter
        self._indices = indices
        self._batches = 0

    def is_next(self) -> bool:
        """Whether the batch in hand is one of them; asked once of each."""
        flops = self._meter.flops
        if not self._meter.is_warm or flops.needs_count or flops.is_recounted:
            return False
        self._batches += 1
        return self._batches - 1 in self._indices

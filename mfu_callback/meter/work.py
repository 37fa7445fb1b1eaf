"""The work of steps: noted while they run, added up when a window is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.meter.amounts import Amounts
from mfu_callback.meter.batches import Batch, LossTokens

END_OF_WORK = "end of step"


class Work:
    """Notes the micro-batches of each step and how often each of them ran; a note is one append to a list.

    Args:
        flops_of: Returns the FLOPs of one forward and backward pass of a micro-batch.

    Attributes:
        note: Adds a note: for each micro-batch its tokens without padding, a number on the device or None, then its
            `LossTokens`, if it has any; then, once for each of its forward and backward passes, what is known of it, a
            `Batch`; then `END_OF_WORK`.
    """

    def __init__(self, flops_of: Callable[[Batch], TrainingFlops]) -> None:
        self._flops_of = flops_of
        self._notes: list[Any] = []
        self.note: Callable[[Any], None] = self._notes.append

    @property
    def is_noted(self) -> bool:
        """Whether the running step has a forward and backward pass so far."""
        of_step = takewhile(lambda note: note is not END_OF_WORK, reversed(self._notes))
        return any(isinstance(note, Batch) for note in of_step)

    def take(self, steps: int) -> list[Amounts]:
        """Add up and forget the first steps.

        Args:
            steps: Number of steps.
        """
        taken, end = self._ended(steps)
        del self._notes[:end]
        return taken

    def not_taken(self) -> list[Amounts]:
        """Add up the steps that have ended and were not taken."""
        return self._ended()[0]

    def _ended(self, most: int | None = None) -> tuple[list[Amounts], int]:
        """The work of the first steps that have ended, and the number of their notes."""
        ends = [number for number, note in enumerate(self._notes) if note is END_OF_WORK][:most]
        starts = [0, *(end + 1 for end in ends)]
        return [self._sum(self._notes[start:end]) for start, end in zip(starts, ends, strict=False)], starts[-1]

    def _sum(self, notes: Sequence[Any]) -> Amounts:
        amounts, is_new, real_tokens, loss_tokens = Amounts(), False, None, None
        for note in notes:
            if isinstance(note, LossTokens):
                loss_tokens = note.number
                continue
            if not isinstance(note, Batch):
                is_new, real_tokens, loss_tokens = True, note, None
                continue
            if is_new:  # its tokens count once, even if it runs again
                amounts.add_batch(note.tokens, note.samples, real_tokens, loss_tokens)
                is_new = False
            amounts.add_pass(self._flops_of(note))
        return amounts

"""Detects in which batches an optimizer stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class OptimizerSteps:
    """Detects optimizer steps from the optimizers' own hooks and from the Trainer's count of steps.

    Each source alone misses some steps. The count misses those of an optimizer that is stepped without Lightning. The
    hooks miss those that a gradient scaler skips and those of optimizers without such hooks.

    Args:
        trainer: The Trainer, at the start of training.

    Attributes:
        was_notified: Whether the hook of an optimizer was called since `any_since_last_asked`; the hook sets it.
        has_skipped: Whether a batch was skipped since this was last set to False: its training step returned None,
            after which Lightning steps all the same. The bracket around the training step sets it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.counter: Any = private_names.step_counter(trainer)
        self.seen = self.counter.completed
        self.was_notified = self.has_skipped = False

    def any_since_last_asked(self) -> bool:
        """Whether an optimizer has stepped since the last call."""
        count = self.counter.completed
        stepped = self.was_notified or count != self.seen
        self.seen, self.was_notified = count, False
        return stepped

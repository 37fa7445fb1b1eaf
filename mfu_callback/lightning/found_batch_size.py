"""The batch size that was searched for before a run: handed from the callback that finds it to those that show it."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer

from mfu_callback.board.facts import FoundBatchSize


class FindsBatchSize(Callback):
    """A callback that searches for a batch size before the first step.

    Attributes:
        result: What it found; None before.
    """

    result: FoundBatchSize | None = None


def found_batch_size(trainer: Trainer) -> FoundBatchSize | None:
    """The result of the first callback of the Trainer that searches for a batch size; None without one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.result for callback in callbacks if isinstance(callback, FindsBatchSize)), None)

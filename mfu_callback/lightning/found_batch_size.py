"""Passes the result of a batch size search from the callback that searches to the code that shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mfu_callback.board.facts import FoundBatchSize
from mfu_callback.lightning.namespaces import Callback

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class FindsBatchSize(Callback):
    """A callback that searches for a batch size before the first step."""

    @property
    def result(self) -> FoundBatchSize | None:
        """The result of the search; None before it has ended."""
        return None


def found_batch_size(trainer: Trainer) -> FoundBatchSize | None:
    """The result of the Trainer's first callback that searches for a batch size; None if there is no such callback."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.result for callback in callbacks if isinstance(callback, FindsBatchSize)), None)

"""Detects in which batches an optimizer stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class OptimizerSteps:
    """Detects optimizer steps from the optimizers' own hooks and from the Trainer's count of steps.

    Each source alone misses some steps. The count misses those of an optimizer that is stepped without Lightning. The
    hooks miss those that a gradient scaler skips and those of optimizers without such hooks.
    """

    def __init__(self) -> None:
        self._count: Callable[[], int] = lambda: 0
        self._seen = 0
        self._was_notified = False

    def start(self, trainer: Trainer) -> None:
        """Start to watch.

        Args:
            trainer: The Trainer, at the start of training.
        """
        self._count = private_names.step_counter(trainer)
        self._seen, self._was_notified = self._count(), False

    def notify(self, *_: Any) -> None:
        """Note that an optimizer has stepped; called by the hook of the optimizer."""
        self._was_notified = True

    def any_since_last_asked(self) -> bool:
        """Whether an optimizer has stepped since the last call."""
        count = self._count()
        stepped = self._was_notified or count != self._seen
        self._seen, self._was_notified = count, False
        return stepped

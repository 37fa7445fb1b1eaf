"""In which batches an optimizer stepped."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from mfu_callback.lightning import private_names


class OptimizerSteps:
    """Watches the optimizers' own hooks and the Trainer's count of steps.

    Either alone misses some: the count those of an optimizer that is stepped past Lightning, the hooks those that a
    gradient scaler leaves out and those of optimizers without such hooks.

    Args:
        trainer: The Trainer, in fit.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._count = private_names.step_counter(trainer)
        self._seen = self._count()
        self._was_told = False

    def tell(self, *_: Any) -> None:
        """Take the word of an optimizer that it has stepped."""
        self._was_told = True

    def any_since_last_asked(self) -> bool:
        """Whether an optimizer has stepped since the last call."""
        count = self._count()
        stepped = self._was_told or count != self._seen
        self._seen, self._was_told = count, False
        return stepped

"""In which batches an optimizer stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from mfu_callback.lightning import private_names


class OptimizerSteps:
    """Watches the optimizers' own hooks and the Trainer's count of steps.

    Either alone misses some: the count those of an optimizer that is stepped past Lightning, the hooks those that a
    gradient scaler leaves out and those of optimizers without such hooks.
    """

    def __init__(self) -> None:
        self._count: Callable[[], int] = lambda: 0
        self._seen = 0
        self._was_told = False

    def start(self, trainer: Trainer) -> None:
        """Watch from now on.

        Args:
            trainer: The Trainer, at the start of training.
        """
        self._count = private_names.step_counter(trainer)
        self._seen, self._was_told = self._count(), False

    def tell(self, *_: Any) -> None:
        """Take the word of an optimizer that it has stepped."""
        self._was_told = True

    def any_since_last_asked(self) -> bool:
        """Whether an optimizer has stepped since the last call."""
        count = self._count()
        stepped = self._was_told or count != self._seen
        self._seen, self._was_told = count, False
        return stepped

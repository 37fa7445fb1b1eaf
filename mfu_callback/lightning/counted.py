"""Counts batches of a fit, inside brackets that are on the Trainer's loop for these batches alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.meter.counting import Counting
from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class CountedBatches:
    """Puts the brackets on for a batch that must be counted, and takes them off after it.

    Args:
        counting: Counts the batches.
        trainer: The Trainer during fit.
    """

    def __init__(self, counting: Counting, trainer: Trainer) -> None:
        self._counting = counting
        self._trainer = trainer
        self._brackets = Brackets()

    def put(self) -> None:
        """Count the batch that runs next: its forward pass, its backward pass and its optimizer step."""
        self.remove()  # a batch that was told not to run has left them on
        self._brackets.put(private_names.optimization_loop(self._trainer), "run", self._around_batch)
        self._brackets.put(self._trainer.strategy, "training_step", self._around_training_step)

    def remove(self) -> None:
        """Take the brackets off."""
        self._brackets.remove()

    def _around_batch(self, run: Function) -> Function:
        @functools.wraps(run)
        def counted(*args: Any, **kwargs: Any) -> Any:
            try:
                with self._counting.batch():
                    return run(*args, **kwargs)
            finally:
                self.remove()

        return counted

    def _around_training_step(self, training_step: Function) -> Function:
        """An optimizer may run it several times; one that returns None skips the batch."""
        automatic = self._trainer.lightning_module.automatic_optimization

        @functools.wraps(training_step)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._counting.forward():
                out = training_step(*args, **kwargs)
            if out is None and automatic:
                self._counting.skip()
            return out

        return counted

"""Counts batches of a fit, inside brackets that are on the Trainer's loop for these batches alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.meter.counting import Counting
from mfu_callback.meter.untouched import Untouched
from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

# What is raised by code that does not work under a dispatch mode; other errors are not looked into.
_OF_MODES = (RuntimeError, TypeError, AssertionError)


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
            out = counted_call(self._counting, self._trainer, training_step, args, kwargs)
            if out is None and automatic:
                self._counting.skip()
            return out

        return counted


def counted_call(
    counting: Counting, trainer: Trainer, step: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a step of the user's in the count of its batch; if it refuses to run there, once more without.

    It is called again only if it has changed nothing by then, and in a single process: the collectives of a second call
    would have no partner.

    Args:
        counting: Counts the batch.
        trainer: The Trainer.
        step: The step, such as ``training_step``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What the step returns.
    """
    untouched = _untouched(trainer, (args, kwargs)) if counting.is_on and trainer.world_size == 1 else None
    try:
        with counting.forward():
            return step(*args, **kwargs)
    except _OF_MODES as error:
        if untouched is None or not untouched.is_still_so():
            raise
        refusal = error.with_traceback(None)  # else it holds the tensors of the first call during the second
    counting.stop()
    untouched.restore_random_states()
    out = step(*args, **kwargs)
    counting.refuse(refusal)
    return out


def _untouched(trainer: Trainer, arguments: Any) -> Untouched | None:
    logged = private_names.logged_results(trainer)
    try:
        return Untouched(trainer.lightning_module.modules(), logged, arguments, trainer.strategy.root_device)
    except Exception:  # an object of the user's that has no length, a device that keeps its random state to itself
        return None

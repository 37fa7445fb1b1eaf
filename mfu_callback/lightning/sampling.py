"""Times the modules in a few batches of a run; the steps of these batches are left out of the run's figures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.meter.clock import Timer
from mfu_callback.meter.meter import MFUMeter
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# Indices of the timed batches, counted from 0 after warm-up.
_SAMPLED = frozenset((0, 1, 2, 10, 20, 50, 100))


class Sampling:
    """Chooses the batches whose modules are timed.

    Args:
        meter: Knows when warm-up is over and which batches are counted; stores the times.
        trainer: The Trainer during fit.
        module: The model.
        timer: Takes the time stamps.
        brackets: Removes the bracket around the optimization loop when measuring ends.
    """

    def __init__(
        self,
        meter: MFUMeter,
        trainer: Trainer,
        module: LightningModule,
        timer: Timer,
        brackets: Brackets,
    ) -> None:
        self._meter = meter
        self._strategy = trainer.strategy
        self._times = meter.module_times = ModuleTimes(module, timer)
        self._batches = 0
        brackets.put(private_names.optimization_loop(trainer), "run", self._around_step)

    def _around_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def sampled(*args: Any, **kwargs: Any) -> Any:
            if not self._meter.is_warm or self._meter.flops.needs_count:
                return run(*args, **kwargs)
            self._batches += 1
            if self._batches - 1 not in _SAMPLED:
                return run(*args, **kwargs)
            return self._sample(run, args, kwargs)

        return sampled

    def _sample(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        brackets = Brackets()
        brackets.put(self._strategy, "training_step", self._times.around_forward)
        self._meter.leave_out("sampling")
        size = self._meter.flops.relative_size()
        try:
            with self._times.watching(size):
                return run(*args, **kwargs)
        finally:
            brackets.remove()

"""Times the modules in a few batches of a run; the steps of these batches are left out of the run's figures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.meter.chosen_batches import MODULES_TIMED, ChosenBatches
from mfu_callback.meter.clock import Timer
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


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
        meter: RunMeter,
        trainer: Trainer,
        module: LightningModule,
        timer: Timer,
        brackets: Brackets,
    ) -> None:
        self._meter = meter
        self._strategy = trainer.strategy
        self._times = meter.module_times = ModuleTimes(module, timer)
        self._chosen = ChosenBatches(meter, MODULES_TIMED)
        brackets.put(private_names.optimization_loop(trainer), "run", self._around_step)

    def _around_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def sampled(*args: Any, **kwargs: Any) -> Any:
            return self._sample(run, args, kwargs) if self._chosen.is_next() else run(*args, **kwargs)

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

"""Profiles the operators of a few batches of a run; the steps of these batches are left out of the run's figures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import namespaces, private_names
from mfu_callback.meter.chosen_batches import OPERATORS_PROFILED, ChosenBatches
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.operator_times import BACKWARD, FORWARD
from mfu_callback.meter.run_operators import RunOperators
from mfu_callback.tools.brackets import Brackets

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Profiling:
    """Chooses the batches that are profiled.

    Args:
        meter: Knows when warm-up is over and which batches are counted; stores the operators.
        trainer: The Trainer during fit.
        operators: Profiles them.
        warn_once: Warns with a message, once per subject.
        brackets: Removes the bracket around the optimization loop when measuring ends.
    """

    def __init__(
        self,
        meter: RunMeter,
        trainer: Trainer,
        operators: RunOperators,
        warn_once: Callable[[str, str], None],
        brackets: Brackets,
    ) -> None:
        self._meter = meter
        self._strategy = trainer.strategy
        self._times = operators.times
        self._warn_once = warn_once
        self._chosen = ChosenBatches(meter, OPERATORS_PROFILED)
        self._is_off = False
        meter.operators = operators
        if isinstance(trainer.profiler, namespaces.classes("profilers", "PyTorchProfiler")):  # type: ignore[attr-defined]
            self._give_up("the Trainer's own PyTorchProfiler needs torch's profiler for itself")
        brackets.put(private_names.optimization_loop(trainer), "run", self._around_step)

    def _around_step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def profiled(*args: Any, **kwargs: Any) -> Any:
            if self._is_off or not self._chosen.is_next():
                return run(*args, **kwargs)
            return self._profile(run, args, kwargs)

        return profiled

    def _profile(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._meter.leave_out("sampling")
        stack = ExitStack()
        try:
            stack.enter_context(self._times.profiling())
        except Exception as error:  # another profiler, or a build of torch without one
            self._give_up(f"{type(error).__name__}: {error}")
            return run(*args, **kwargs)
        brackets = Brackets()
        brackets.put(self._strategy, "training_step", functools.partial(self._times.during, FORWARD))
        brackets.put(self._strategy, "backward", functools.partial(self._times.during, BACKWARD))
        try:
            return run(*args, **kwargs)
        finally:
            brackets.remove()
            try:
                stack.close()
            except Exception as error:
                self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        self._is_off = True
        self._warn_once("operators", f"Operators were not profiled ({why}), so their table is left out.")

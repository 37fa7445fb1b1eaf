"""Brackets at the places of Lightning's loop where a phase begins and no hook exists."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning import private_names
from mfu_callback.lightning.optimizer_steps import OptimizerSteps
from mfu_callback.meter.clock import Phase, StepClock
from mfu_callback.tools.brackets import Brackets, Function

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def bracket_phases(
    brackets: Brackets, trainer: Trainer, clock: StepClock, steps: OptimizerSteps, add_forward: Callable[[], None]
) -> None:
    """Put brackets around loaders' starts, fetches, validation, checkpoints, the training step and the optimizers.

    The start and end of the backward pass and the start of clipping need none: Lightning has hooks for them.

    Args:
        brackets: Removes them at the end of fit.
        trainer: The Trainer, in fit.
        clock: The clock whose phases are entered.
        steps: Is notified of each optimizer step.
        add_forward: Called after each training step, which an optimizer may run several times; not after one that
            returns None, which tells Lightning to skip the batch.
    """
    begin_fetch, begin_forward, end_forward = map(clock.marker, (Phase.DATA, Phase.FORWARD, Phase.OTHER))

    def fetching(fetch: Function) -> Function:
        def call() -> Any:
            begin_fetch()
            return fetch()

        return call

    def during(phase: Phase) -> Callable[[Function], Function]:
        return lambda function: functools.wraps(function)(clock.during(phase)(function))

    brackets.put(private_names.training_epoch_loop(trainer), private_names.FETCH, fetching)
    # An epoch begins by starting its loader, which may be a new one, and the loader's workers.
    brackets.put(trainer.fit_loop, "setup_data", during(Phase.DATA))
    brackets.put(private_names.training_epoch_loop(trainer), "on_run_start", during(Phase.DATA))
    for method in ("run", "setup_data"):
        brackets.put(private_names.validation_loop(trainer), method, during(Phase.VALIDATION))
    brackets.put(trainer, "save_checkpoint", during(Phase.CHECKPOINT))
    # With manual optimization, the backward passes and the optimizer steps run inside the training step.
    automatic = trainer.lightning_module.automatic_optimization
    end_optimizer = clock.marker(Phase.OTHER if automatic else Phase.FORWARD)

    def training(training_step: Function) -> Function:
        @functools.wraps(training_step)
        def call(*args: Any, **kwargs: Any) -> Any:
            begin_forward()
            try:
                out = training_step(*args, **kwargs)
                if automatic and out is None:
                    steps.has_skipped = True
                else:
                    add_forward()
                return out
            finally:
                if not automatic:
                    end_forward()

        return call

    brackets.put(trainer.strategy, "training_step", training)

    def after_optimizer(*_: Any) -> None:
        steps.was_notified = True
        end_optimizer()

    for optimizer in trainer.optimizers:
        if hasattr(optimizer, "register_step_post_hook"):
            brackets.call_at_removal(optimizer.register_step_post_hook(after_optimizer).remove)

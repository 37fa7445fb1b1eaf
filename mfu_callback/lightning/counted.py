"""Wrappers of the Trainer's methods in which batches are counted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mfu_callback.meter.counting import Counting
from mfu_callback.meter.meter import RunMeter
from mfu_callback.tools.brackets import Function


def around_batch(counting: Counting) -> Callable[[Function], Function]:
    """Wraps the method that runs the forward pass, the backward pass and the optimizer for a batch.

    Args:
        counting: Counts the batches whose FLOPs are not known.
    """

    def wrap(run: Function) -> Function:
        @functools.wraps(run)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if not counting.is_due():
                return run(*args, **kwargs)
            with counting.batch():
                return run(*args, **kwargs)

        return counted

    return wrap


def around_training_step(counting: Counting, meter: RunMeter) -> Callable[[Function], Function]:
    """Wraps the training step, which an optimizer may run several times; each call adds to the work of the step.

    Args:
        counting: Counts the batches whose FLOPs are not known.
        meter: Adds up the work.
    """

    def wrap(training_step: Function) -> Function:
        @functools.wraps(training_step)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if not counting.is_on:
                out = training_step(*args, **kwargs)
            else:
                with counting.forward():
                    out = training_step(*args, **kwargs)
            meter.add_forward()
            return out

        return counted

    return wrap

"""Times the modules and profiles the operators in a few blocks of a loop, which are left out of all other figures."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mfu_callback.loops.phases import readable_twice
from mfu_callback.meter.chosen_batches import MODULES_TIMED, OPERATORS_PROFILED, ChosenBatches
from mfu_callback.meter.clock import Timer
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.module_times import ModuleTimes
from mfu_callback.meter.operator_times import BACKWARD, FORWARD
from mfu_callback.meter.run_operators import RunOperators
from mfu_callback.tools.brackets import Brackets, Function


class ModuleSampling:
    """Times the modules.

    Args:
        meter: Stores the times.
        module: The model.
        timer: Stamps the moments.
    """

    def __init__(self, meter: RunMeter, module: nn.Module, timer: Timer) -> None:
        self._meter = meter
        self._times = meter.module_times = ModuleTimes(module, timer)
        self._chosen = ChosenBatches(meter, MODULES_TIMED)

    @contextmanager
    def block(self) -> Iterator[None]:
        """A context for every block; times the modules in the chosen ones."""
        if not self._chosen.is_next():
            yield
            return
        self._meter.leave_out("sampling")
        brackets = Brackets()
        with ExitStack() as stack:
            stack.enter_context(self._times.watching(self._meter.flops.relative_size()))
            stack.callback(brackets.remove)
            brackets.put(torch.autograd, "backward", self._around_backward)
            yield

    def _around_backward(self, backward: Function) -> Function:
        @functools.wraps(backward)
        def call(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            tensors = readable_twice(tensors)
            self._times.end_forward(tensors)
            return backward(tensors, *args, **kwargs)

        return call


class OperatorSampling:
    """Profiles the operators.

    Args:
        meter: Stores the operators.
        device: The device that computes.
        messages: Says what could not be profiled.
    """

    def __init__(self, meter: RunMeter, device: torch.device, messages: Messages) -> None:
        self._meter = meter
        operators = meter.operators = RunOperators(device)
        self._times = operators.times
        self._messages = messages
        self._chosen = ChosenBatches(meter, OPERATORS_PROFILED)
        self._is_off = False

    @contextmanager
    def block(self) -> Iterator[None]:
        """A context for every block; profiles the chosen ones. What comes before their backward pass is forward."""
        if self._is_off or not self._chosen.is_next():
            yield
            return
        self._meter.leave_out("sampling")
        with self._profiled(), ExitStack() as stack:
            forward = stack.enter_context(ExitStack())
            forward.enter_context(self._times.span(FORWARD))
            brackets = Brackets()
            stack.callback(brackets.remove)
            brackets.put(torch.autograd, "backward", functools.partial(self._around_backward, forward))
            yield

    @contextmanager
    def _profiled(self) -> Iterator[None]:
        """The profiler's own context, whose errors do not reach the loop."""
        stack = ExitStack()
        try:
            stack.enter_context(self._times.profiling())
        except Exception as error:  # another profiler, or a build of torch without one
            self._give_up(error)
        try:
            yield
        finally:
            try:
                stack.close()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._is_off = True
        self._messages.warn_once(
            "operators",
            f"Operators were not profiled ({type(error).__name__}: {error}), so their table is left out.",
        )

    def _around_backward(self, forward: ExitStack, backward: Function) -> Function:
        timed = self._times.during(BACKWARD, backward)

        @functools.wraps(backward)
        def call(*args: Any, **kwargs: Any) -> Any:
            forward.close()
            return timed(*args, **kwargs)

        return call

"""The blocks of a loop: each runs one batch or micro-batch, and is counted, timed or profiled if that is due."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from mfu_callback.loops.phases import LoopPhases
from mfu_callback.loops.sampling import ModuleSampling, OperatorSampling
from mfu_callback.meter.clock import Timer
from mfu_callback.meter.measurement import Measurement
from mfu_callback.meter.messages import Messages


class Blocks:
    """Watches the blocks of a loop; nothing stays on any object after a block.

    Args:
        measurement: The measurement of the loop.
        model: The model, as the loop calls it.
        module: The model itself.
        device: The device that trains.
        timer: Stamps the moments of modules.
        messages: Says what could not be profiled.

    Attributes:
        phases: Enters the phases of a block; knows whether an optimizer has stepped in the latest one.
    """

    def __init__(
        self,
        measurement: Measurement,
        model: nn.Module,
        module: nn.Module,
        device: torch.device,
        timer: Timer,
        messages: Messages,
    ) -> None:
        self.phases = LoopPhases(measurement.clock, model, self._begin_backward)
        self._measurement = measurement
        self._samplings: list[ModuleSampling | OperatorSampling] = []
        if measurement.arguments.modules:
            self._samplings.append(ModuleSampling(measurement.meter, module, timer))
        if measurement.arguments.operators:
            self._samplings.append(OperatorSampling(measurement.meter, device, messages))

    @contextmanager
    def block(self, batch: object) -> Iterator[None]:
        """A context for one batch, whose step is left out of the figures if it raises.

        Args:
            batch: The batch; no reference to it is kept.
        """
        meter = self._measurement.meter
        meter.look_at(batch)
        try:
            with ExitStack() as stack:
                self._watch(stack)
                yield
        except BaseException:
            meter.leave_out("rest")  # of a step that was broken off, nothing is known
            raise
        meter.add_forward()

    def _watch(self, stack: ExitStack) -> None:
        counting = self._measurement.counting
        stack.enter_context(self.phases.watched())
        if counting.is_due():
            stack.enter_context(counting.batch(passes=1))
        for sampling in self._samplings:
            stack.enter_context(sampling.block())

    def _begin_backward(self, tensors: list[torch.Tensor]) -> None:
        waits = self._measurement.waits
        if waits is not None and tensors:
            waits.begin_backward(tensors[0])

"""Times waiting for other devices in collectives, in some of the steps."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mfu_callback.flops.passes import in_backward
from mfu_callback.meter.clock import TRAINING_PHASES, WAITS, StepClock
from mfu_callback.tools.brackets import Brackets
from mfu_callback.tools.shards import FSDP2_PARAM_GROUPS

# At most this share of the time is spent on measuring, in at least one step of 16.
_SHARE_OF_TIME, _MOST_APART = 1e-3, 16
_LATEST = 16  # measured steps, over which the mean step is taken
_WORD, _GOLDEN = 1 << 32, 2_654_435_769  # 2^32 over the golden ratio
_SEC_OF_A_STEP, _SEC_OF_A_WAIT = 3e-5, 4e-6  # what a measured step takes, about; and each wait in it
_FSDP2_WAITS = ("wait_for_unshard", "finalize_backward", "_wait_for_post_backward")


def is_measured(step: int, apart: int) -> bool:
    """Whether a step is measured if one of so many is.

    The multiples of the golden ratio, modulo 1, are spread evenly, as those of no fraction are (Weyl's equidistribution
    theorem), so that of the steps of any period equally many are measured.

    Args:
        step: The number of the step.
        apart: Steps from one measured step to the next, in the mean: a power of two. The steps that are measured at
            twice the distance are among them.
    """
    return step * _GOLDEN % _WORD < _WORD // apart


class CollectiveWaits:
    """Times the waiting of this device for others, in steps chosen so that it costs next to nothing.

    In a measured step the clock is in a phase of its own where the host, or the device's current stream, waits:

    * DDP: from the moment when the last of this device's own gradients is there to the end of the gradients'
      synchronization. Autograd runs callbacks in the order in which they were queued, once all nodes are done; ours is
      queued when the backward pass begins, and so comes before that of DDP's reducer.
    * Every collective that Python code waits for: those of FSDP2, of tensor parallelism (DTensor), of the model itself.
    * DDP's broadcast of buffers before the forward pass.

    Nothing is registered with the process groups or as a communication hook. Between the measured steps nothing is left
    on any object. All devices measure the same steps, or about every second, fourth, ... of the same, at intervals that
    vary: a step that is slow every so often is measured as often as the others.

    Args:
        clock: The clock of the steps.
        model: The model as the strategy has wrapped it.

    Attributes:
        is_on: Whether the running step is measured.
    """

    def __init__(self, clock: StepClock, model: nn.Module | None) -> None:
        self.is_on = False
        self._clock = clock
        model = getattr(model, "_orig_mod", model)  # torch.compile wraps the wrapped model
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._brackets = Brackets()
        self._thread = get_ident()
        self._is_waiting = False
        self._waits = 0  # in the running step
        self._steps = 0
        self._apart = 1  # from one measured step to the next, in the mean: a power of two
        self._measured_at: deque[tuple[int, float]] = deque(maxlen=_LATEST)

    def next_step(self) -> None:
        """End the running step, and measure the next one if it is its turn."""
        self._steps += 1
        if self.is_on:
            self._remove()
        if is_measured(self._steps, self._apart):
            self._choose_distance()
            self.is_on, self._waits = True, 0
            self._put()

    def begin_backward(self, loss: torch.Tensor) -> None:
        """Watch for the end of this device's own gradients in the backward pass that begins.

        Args:
            loss: The tensor that it begins from.
        """
        if self.is_on and self._ddp is not None and loss.grad_fn is not None:
            loss.grad_fn.register_prehook(self._queue)

    def suspend(self) -> None:
        """Take off what a measured step has put on, until `resume` is called in the same step."""
        self._brackets.remove()

    def resume(self) -> None:
        """Put it on again."""
        if self.is_on:
            self._put()

    def remove(self) -> None:
        """Remove what a measured step has put on."""
        self._remove()

    def _choose_distance(self) -> None:
        now = self._clock.now()
        if len(self._measured_at) == _LATEST:
            steps, at = self._measured_at[0]
            step_sec = max(now - at, 1e-9) / (self._steps - steps)
            cost = _SEC_OF_A_STEP + self._waits * _SEC_OF_A_WAIT
            while self._apart < _MOST_APART and cost > _SHARE_OF_TIME * step_sec * self._apart:
                self._apart *= 2
            while self._apart > 1 and cost < _SHARE_OF_TIME * step_sec * self._apart / 4:
                self._apart //= 2
        self._measured_at.append((self._steps, now))

    def _put(self) -> None:
        self._thread = get_ident()
        if torch.distributed.is_available():
            import torch.distributed._functional_collectives as functional

            self._brackets.put_on_class(torch.distributed.Work, "wait", self._timed)
            self._brackets.put(functional, "wait_tensor", self._timed)
        for fsdp2 in {sys.modules[name].FSDPParamGroup for name in FSDP2_PARAM_GROUPS if name in sys.modules}:
            for name in _FSDP2_WAITS:
                if hasattr(fsdp2, name):
                    self._brackets.put_on_class(fsdp2, name, self._timed)
        if self._ddp is not None:
            self._brackets.put(self._ddp, "_sync_buffers", self._timed)

    def _remove(self) -> None:
        self.is_on = False
        self._brackets.remove()

    def _timed(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(wait)
        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or self._is_waiting or not self._is_this_run():
                return wait(*args, **kwargs)
            phase = self._clock.phase
            if phase not in TRAINING_PHASES:
                return wait(*args, **kwargs)
            self._is_waiting = True
            self._waits += 1
            self._clock.enter(WAITS[phase])
            try:
                return wait(*args, **kwargs)
            finally:
                self._clock.enter(phase)
                self._is_waiting = False

        return call

    def _is_this_run(self) -> bool:
        """Whether the running code is the training's, and not a thread's that writes a checkpoint, for example."""
        return get_ident() == self._thread or in_backward()

    # The end of a backward pass under DDP

    def _queue(self, gradients: Any) -> None:
        if self.is_on:  # a graph that is kept may run backward again, in a later step
            torch.autograd.Variable._execution_engine.queue_callback(self._begin_synchronization)

    def _begin_synchronization(self) -> None:
        phase = self._clock.phase
        if phase in TRAINING_PHASES:
            self._clock.enter(WAITS[phase])
            # DDP's own callback was queued before this one.
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._clock.enter(phase))

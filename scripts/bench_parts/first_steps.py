"""Times a few short steps of a size, from which follows how long others take."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from gpt import GPTModule
from scripts.bench_parts.needs import work_of_step
from scripts.bench_parts.plan import line_through
from scripts.bench_parts.row import Request
from scripts.bench_parts.trainers import make_trainer

FIRST_CONTEXTS = (8, 8, 64, 256)  # a sequence each
# Of the time that is left: after a step longer than that no other is tried; the first allocates the memory.
QUICK_SHARE, LONG_SHARE = 0.05, 0.45
MEMORY_AGAIN = 0.6  # of the seconds in which the first of them allocates the memory, which the next fit does again
EFFICIENCY = 0.3  # of the device's matmuls, where a step cannot be tried before the plan is made


class FirstSteps(Callback):
    """Times short steps of growing length, until one is long.

    Args:
        left_sec: The seconds that are left.

    Attributes:
        seconds: Those of each step.
    """

    def __init__(self, left_sec: float) -> None:
        self.seconds: list[float] = []
        self._left_sec = left_sec
        self._before = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Training starts."""
        self._before = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A step is over."""
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now
        share = LONG_SHARE if len(self.seconds) == 1 else QUICK_SHARE
        trainer.should_stop = self.seconds[-1] > share * self._left_sec

    def of_context(self) -> dict[int, float]:
        """The seconds of the quickest step of each context that was tried."""
        tried: dict[int, float] = {}
        for context, seconds in zip(FIRST_CONTEXTS, self.seconds, strict=False):
            tried[context] = min(seconds, tried.get(context, math.inf))
        return tried


def time_of_a_step(request: Request, module: GPTModule) -> tuple[Callable[[int, int], float], float]:
    """Returns a function from batch size and context to the seconds of a step, and what the first takes beyond.

    Measured with short steps, whose matmuls are less efficient than those of long ones, so it rather says too much.
    Where first steps would be unlike those that follow, it is computed from the rate of the device's matmuls.
    """
    if request.compile or request.devices > 1 or request.find_batch_size:
        rate = (request.flops_per_sec or math.inf) * EFFICIENCY  # unknown: as many steps as there is time for
        return lambda batch, context: work_of_step(request.size, batch, context, request) / rate, 0.0
    times = FirstSteps(request.end_at - time.time())
    trainer = make_trainer(request, [times], max_steps=len(FIRST_CONTEXTS), accumulate_grad_batches=1)
    vocabulary = module.config.vocab_size
    tokens = [torch.randint(vocabulary, (1, context)) for context in FIRST_CONTEXTS]
    trainer.fit(module, DataLoader([(inputs, inputs) for inputs in tokens], batch_size=None))
    forget(module, trainer)
    of_one = {context: work_of_step(request.size, 1, context, request) for context in FIRST_CONTEXTS}
    batches = request.accumulate_grad_batches  # the first steps had one each
    points = [(of_one[context] / batches, sec) for context, sec in times.of_context().items()]
    beyond = MEMORY_AGAIN * (times.seconds[0] - min(times.seconds[:2]))
    return lambda batch, context: line_through(points, work_of_step(request.size, batch, context, request)), beyond


def forget(module: GPTModule, trainer: Trainer) -> None:
    """Free the gradients and the optimizer's state of a fit, which the next one would need room beside."""
    module.zero_grad(set_to_none=True)
    module.trainer = None
    trainer.strategy.teardown()
    trainer.strategy.optimizers = []
    gc.collect()

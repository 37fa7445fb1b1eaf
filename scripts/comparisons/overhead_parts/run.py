"""One run of scripts/comparisons/overhead.py: trains a tiny model and prints each callback's time per step as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from mfu_callback.lightning import run as measured_run
from mfu_callback.lightning.private_names import FETCH, SEND_METRICS
from mfu_callback.tools.brackets import Brackets, Function

HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
BATCH_SIZE = 4


class Model(LightningModule):
    """Linear layers, of which only the first computes; a step takes a fraction of a millisecond.

    Args:
        modules: Number of layers.
    """

    def __init__(self, modules: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(modules))
        self.layers[1:].requires_grad_(False)
        self.flops_per_batch = 3 * 2 * BATCH_SIZE * 8 * 8  # ThroughputMonitor reads it
        self.optimizer = torch.optim.SGD(self.layers[0].parameters(), lr=1e-3)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Returns the mean of the first layer's output."""
        return self.layers[0](batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD of the first layer."""
        return self.optimizer


class StepTimes:
    """The seconds of one callback, summed for each step.

    Args:
        steps: Number of steps. Their memory is allocated now, so that it does not grow.
    """

    def __init__(self, steps: int) -> None:
        self.seconds = 0.0
        self.per_step = np.full(steps, np.nan)
        self.is_running = False  # what is timed inside of what is timed counts once
        self._ended = 0

    def begin_step(self) -> None:
        """End the last step, if there was one, and begin the next."""
        if self._ended:
            self.per_step[self._ended - 1] = self.seconds
        self._ended += 1
        self.seconds = 0.0

    def timed(self, function: Function) -> Callable[..., Any]:
        """Returns the function, with its time added to the current step."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.is_running:
                return function(*arguments, **keywords)
            self.is_running, start = True, perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += perf_counter() - start
                self.is_running = False

        return call

    def time_hooks_of(self, callback: Callback) -> None:
        """Replace the hooks that a callback has of its own with timed ones."""
        for name in own_hooks(callback):
            setattr(callback, name, self.timed(getattr(callback, name)))


class TimedBrackets(Brackets):
    """Brackets that record their own time, without the time of the methods inside them.

    Args:
        own: Receives the time of the brackets.
        sending: Receives the time that Lightning and its loggers need to send metrics away.
    """

    def __init__(self, own: StepTimes, sending: StepTimes) -> None:
        super().__init__()
        self._own, self._sending = own, sending

    def put(self, owner: object, method: str, wrap: Callable[[Function], Function]) -> Callable[[], None]:
        """Put a timed bracket on."""

        def timed(original: Function) -> Function:
            def uncounted(*arguments: Any, **keywords: Any) -> Any:
                was_running, self._own.is_running = self._own.is_running, False
                start = perf_counter()
                try:
                    return original(*arguments, **keywords)
                finally:
                    seconds = perf_counter() - start
                    self._own.is_running = was_running
                    self._own.seconds -= seconds
                    self._sending.seconds += seconds if method == SEND_METRICS else 0.0

            return self._own.timed(wrap(uncounted))

        return super().put(owner, method, timed)


def own_hooks(callback: Callback) -> list[str]:
    """The hooks of a batch that a callback does not inherit from Lightning's base class."""
    return [name for name in HOOKS if getattr(type(callback), name) is not getattr(Callback, name)]


def empty_like(callback: Callback, times: StepTimes) -> Callback:
    """A callback with the same hooks of a batch, which do nothing: its time is that of the measurement itself.

    Args:
        callback: The other callback.
        times: Where the time of the hooks goes.
    """
    hooks = {name: lambda self, *arguments: None for name in own_hooks(callback)}
    empty: Callback = type("Empty", (Callback,), hooks)()
    times.time_hooks_of(empty)
    return empty


class EmptyBrackets(Callback):
    """Puts empty brackets where MFUCallback has some that run in every step.

    Args:
        brackets: Put on at the start of training.
        times: Where the time of an empty hook of the optimizer goes.
    """

    def __init__(self, brackets: Brackets, times: StepTimes) -> None:
        self._brackets, self._times = brackets, times

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the brackets on."""

        def empty(function: Function) -> Function:
            return lambda *arguments, **keywords: function(*arguments, **keywords)

        self._brackets.put(trainer.fit_loop.epoch_loop, FETCH, empty)
        self._brackets.put(trainer.strategy, "training_step", empty)
        for optimizer in trainer.optimizers:
            register = type(optimizer).register_step_post_hook  # that of the object times the hooks of MFUCallback
            register(optimizer, self._times.timed(lambda *_: None))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them off."""
        self._brackets.remove()


class StepStarts(Callback):
    """Begins a step of all times, before any other callback, and records the memory of the process.

    Args:
        times: The times of all callbacks.
    """

    def __init__(self, times: list[StepTimes]) -> None:
        self._times = times
        self.memory_bytes: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin a step of every callback."""
        if trainer.global_step % 1000 == 0:
            self.memory_bytes.append(psutil.Process().memory_info().rss)
        for one in self._times:
            one.begin_step()


def main() -> None:
    """Train, and print the medians."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Model(arguments.modules)
    ours, nothing, monitor, nothing_of_monitor, sending = (StepTimes(arguments.steps) for _ in range(5))
    callback, other = MFUCallback(peak=1e12, sync=arguments.sync), ThroughputMonitor(batch_size_fn=len)
    empties = [empty_like(callback, nothing), empty_like(other, nothing_of_monitor)]
    empties.append(EmptyBrackets(TimedBrackets(nothing, StepTimes(0)), nothing))
    measured_run.Brackets = partial(TimedBrackets, ours, sending)  # type: ignore
    module.optimizer.register_step_post_hook = timing_registration(module.optimizer, ours)  # type: ignore
    for one, times in ((callback, ours), (other, monitor)):
        times.time_hooks_of(one)
    starts = StepStarts([ours, nothing, monitor, nothing_of_monitor, sending])
    with TemporaryDirectory() as directory:
        trainer = train(module, [starts, callback, other, *empties], arguments, Path(directory))
    if trainer.is_global_zero:
        medians = {
            "MFUCallback": split(ours, nothing, log_every=arguments.log_every),
            "ThroughputMonitor": split(monitor, nothing_of_monitor, log_every=arguments.log_every),
            "nothing": split(nothing, log_every=arguments.log_every),
            "sending": split(sending, log_every=arguments.log_every),
        }
        growth = starts.memory_bytes[-1] - starts.memory_bytes[min(1, len(starts.memory_bytes) - 1)]
        print(json.dumps(medians | {"memory_growth_bytes": growth}))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("steps", "modules", "ranks", "log-every"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--sync", required=True)
    return parser.parse_args()


def rows_of(steps: int) -> torch.Tensor:
    """Returns the rows of so many batches."""
    return torch.zeros(BATCH_SIZE * steps, 8)


def timing_registration(optimizer: torch.optim.Optimizer, times: StepTimes) -> Callable[[Function], Any]:
    """Returns a replacement for the optimizer's method that registers hooks; it registers timed hooks."""
    register = optimizer.register_step_post_hook
    return lambda hook: register(times.timed(hook))


def train(
    module: LightningModule, callbacks: list[Callback], arguments: argparse.Namespace, directory: Path
) -> Trainer:
    """Fit without output."""
    data = DataLoader(rows_of(arguments.steps * arguments.ranks), batch_size=BATCH_SIZE)
    trainer = Trainer(
        accelerator="cpu",
        devices=arguments.ranks,
        strategy="ddp" if arguments.ranks > 1 else "auto",
        max_steps=arguments.steps,
        log_every_n_steps=arguments.log_every,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(directory)),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    return trainer


def split(times: StepTimes, nothing: StepTimes | None = None, *, log_every: int) -> Mapping[str, float]:
    """Returns the median microseconds of logging and of other steps, without the first ``log_every`` steps.

    Args:
        times: The times.
        nothing: Those of an empty callback, which are taken off step by step.
        log_every: Steps from one that logs to the next.
    """
    seconds = times.per_step[:-1] - (0.0 if nothing is None else nothing.per_step[:-1])  # none begins after the last
    logs = (np.arange(len(seconds)) + 1) % log_every == 0
    warm = np.arange(len(seconds)) >= log_every
    return {
        "plain": 1e6 * float(np.median(seconds[warm & ~logs])),
        "logging": 1e6 * float(np.median(seconds[warm & logs])),
    }


if __name__ == "__main__":
    main()

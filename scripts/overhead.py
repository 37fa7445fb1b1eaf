"""What MFUCallback costs a training step, beside Lightning's ThroughputMonitor, in one run.

    python scripts/overhead.py                 # a run of 2,000 steps of a tiny model
    python scripts/overhead.py --sync events --modules 1000

Both callbacks listen to the same steps of one Trainer, and the time that each spends in its own hooks is added up step
by step, so that a machine that changes its speed changes it for both. To ours is added what its brackets around methods
of the Trainer's cost, measured on a function that does nothing. A third callback, whose hooks are empty, shows what
Lightning's dispatch of our hooks takes whatever they do. Steps on which the Trainer logs are counted apart.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from mfu_callback.clock import HostTimer, Phase, StepClock
from mfu_callback.ledger import SYNCS

HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
_BRACKETS = 5  # entered in a step: the fetch, the training step twice, its loop, the optimizer's end


class Model(LightningModule):
    """Some linear layers, of which the first alone computes; a step takes a fraction of a millisecond."""

    def __init__(self, modules: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(modules))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The mean of the first layer's output."""
        return self.layers[0](batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD of the first layer."""
        return torch.optim.SGD(self.layers[0].parameters(), lr=1e-3)


class Empty(Callback):
    """Listens to the hooks that MFUCallback listens to and does nothing."""

    def nothing(self, *arguments: Any) -> None:
        """Do nothing."""

    on_train_batch_start = on_before_zero_grad = on_before_backward = on_after_backward = nothing  # type: ignore
    on_before_optimizer_step = on_train_batch_end = nothing  # type: ignore


class HookTimes:
    """Adds up, step by step, the time that a callback spends in its hooks, and in Lightning's logging from there.

    Args:
        callback: Its hooks are wrapped.
    """

    def __init__(self, callback: Callback) -> None:
        self.seconds: list[float] = []
        self.logging_seconds: list[float] = []
        self._step = self._logging = 0.0
        self._is_inside = False
        for name in HOOKS:
            setattr(callback, name, self._timed(getattr(callback, name), ends_step=name == "on_train_batch_end"))

    def time_logging_of(self, module: LightningModule) -> None:
        """Have the module's logging timed where it is called from the hooks."""
        for name in ("log", "log_dict"):
            setattr(module, name, self._timed_logging(getattr(module, name)))

    def _timed(self, hook: Callable[..., Any], *, ends_step: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._is_inside = True
            start = perf_counter()
            result = hook(*arguments, **keywords)
            self._step += perf_counter() - start
            self._is_inside = False
            if ends_step:
                self.seconds.append(self._step)
                self.logging_seconds.append(self._logging)
                self._step = self._logging = 0.0
            return result

        return call

    def _timed_logging(self, log: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            is_ours, self._is_inside = self._is_inside, False  # log_dict calls log
            start = perf_counter()
            result = log(*arguments, **keywords)
            self._is_inside = is_ours
            if is_ours:
                self._logging += perf_counter() - start
            return result

        return call


def main() -> None:
    """Run and print."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(shlex.join(["python", *sys.argv]))
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    for steps in arguments.steps:
        run(arguments, steps)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[2000], help="of each run (default: %(default)s)")
    parser.add_argument("--modules", type=int, default=10, help="layers of the model (default: %(default)s)")
    parser.add_argument("--sync", choices=SYNCS, default="step", help="of MFUCallback (default: %(default)s)")
    parser.add_argument("--log-every", type=int, default=50, help="log_every_n_steps (default: %(default)s)")
    return parser.parse_args()


def run(arguments: argparse.Namespace, steps: int) -> None:
    """One run with all three callbacks, and its table."""
    module = Model(arguments.modules)
    module.flops_per_batch = 2 * 4 * 8 * 8 * 3  # type: ignore[assignment]
    callbacks = {
        "MFUCallback": MFUCallback(peak=1e12, sync=arguments.sync),
        "ThroughputMonitor": ThroughputMonitor(batch_size_fn=len),
        "empty hooks": Empty(),
    }
    times = {name: HookTimes(callback) for name, callback in callbacks.items()}
    for one in times.values():
        one.time_logging_of(module)
    with TemporaryDirectory() as directory:
        train(module, list(callbacks.values()), steps, arguments.log_every, Path(directory))
    print_times(times, arguments, steps)


def train(module: LightningModule, callbacks: list[Callback], steps: int, log_every: int, directory: Path) -> None:
    """Fit without a word."""
    data = DataLoader(torch.zeros(4 * steps, 8), batch_size=4)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        log_every_n_steps=log_every,
        callbacks=callbacks,
        logger=TensorBoardLogger(str(directory)),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)


def bracket_seconds() -> float:
    """Median seconds that one bracket adds to the method that it is around."""
    clock = StepClock(HostTimer())
    seconds = []
    for _ in range(2000):
        start = perf_counter()
        clock.enter(Phase.DATA)
        seconds.append(perf_counter() - start)
        clock.end_step()
    return float(np.median(seconds))


def print_times(times: dict[str, HookTimes], arguments: argparse.Namespace, steps: int) -> None:
    """Print the medians of the steps with and without logging."""
    print(f"{steps} steps, {arguments.modules} layers, sync={arguments.sync}; microseconds a step, medians")
    table = Table("callback", "without logging", "with logging", "of it in Lightning's logging")
    brackets = _BRACKETS * bracket_seconds()
    for name, one in times.items():
        warm = slice(arguments.log_every, None)
        seconds, in_logging = np.array(one.seconds[warm]), np.array(one.logging_seconds[warm])
        logs = (np.arange(len(seconds)) + arguments.log_every + 1) % arguments.log_every == 0
        own = brackets if name == "MFUCallback" else 0.0
        cells = (seconds[~logs] + own, seconds[logs] + own, in_logging[logs])
        table.add_row(name, *(f"{1e6 * np.median(cell):.1f}" for cell in cells))
    Console().print(table)
    print(f"of ours, {1e6 * brackets:.1f} us are {_BRACKETS} brackets around methods of the Trainer")


if __name__ == "__main__":
    main()

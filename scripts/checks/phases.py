"""Whether time lands where it is spent: a run whose parts really sleep, and where MFUCallback finds that time.

    python scripts/checks/phases.py

A dataset, a training step, a backward, an optimizer, another callback, a validation step and a checkpoint sleep known
times, in a plain run, with gradient accumulation, on two processes with DDP, and in a run that is resumed. What each
really slept, by the clock, is compared with what the summary says of it, less what it says of the same run without any
sleep: the real work of a tiny model, of the loop and of the processes with one another. Within 2 % or 1 ms a batch it
is right; exits with 1 if any is not.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from mfu_callback import MFUCallback

SECONDS = {"data": 0.04, "forward": 0.05, "backward": 0.03, "optimizer": 0.02, "other": 0.03}
OUTSIDE_SECONDS = {"validation": 0.08, "checkpoint": 0.1}
STEPS = 20
HOWS = ("plain", "accumulated", "ddp", "resumed")
_TOLERANCE, _TOLERANCE_SEC = 0.02, 1e-3

_BATCHES_OF_A_STEP = {"accumulated": 3}

slept: Counter[str] = Counter()
is_awake = "--awake" in sys.argv  # the processes that DDP starts have the same command line


def sleep(where: str) -> None:
    """Sleep as long as this part of a run does, and keep how long it was."""
    if not is_awake:
        start = time.perf_counter()
        time.sleep((SECONDS | OUTSIDE_SECONDS)[where])
        slept[where] += time.perf_counter() - start


class SleepingData(Dataset):
    """Batches that take their time."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        sleep("data")
        return torch.ones(4, 8)


class SleepingSGD(torch.optim.SGD):
    """An optimizer that takes its time."""

    def step(self, closure: Any = None) -> Any:
        """Run the closure, which is the forward and the backward; then sleep, then step."""
        loss = None if closure is None else closure()
        sleep("optimizer")
        super().step()
        return loss


class SleepingModel(LightningModule):
    """A linear layer whose every step takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The mean of what the layer returns."""
        sleep("forward")
        return self.layer(batch).mean()

    def backward(self, loss: torch.Tensor) -> None:  # type: ignore[override]
        """The gradients."""
        sleep("backward")
        loss.backward()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Only sleeps."""
        sleep("validation")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A slow disk."""
        sleep("checkpoint")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one that sleeps."""
        return SleepingSGD(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        """Batches as they are."""
        return DataLoader(SleepingData(), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Batches that take no time."""
        return DataLoader(torch.ones(100, 4, 8), batch_size=None)


class SleepingCallback(Callback):
    """Sleeps at the end of every batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Sleep."""
        sleep("other")


class ForgetsTheFirstStep(Callback):
    """What is slept in the step that is counted is not measured; that outside of steps is, always."""

    def __init__(self) -> None:
        self._first = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Forget it, once."""
        if (
            self._first
            and trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        ):
            self._first = False
            for name in SECONDS:
                slept[name] = 0


def main() -> int:
    """Make one run and print it as JSON, or all of them and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=HOWS, help="make this run alone, and print what it found as JSON")
    parser.add_argument("--awake", action="store_true", help="with --only: do not sleep")
    how = parser.parse_args().only
    if how is not None:
        print_run(how)
        return 0
    table = Table("run", "where", "slept", "found", "without sleep", "off", "")
    rights = [add_rows(table, how) for how in HOWS]
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return 0 if all(rights) else 1


def print_run(how: str) -> None:
    """Train, and print what was slept and what was found, in seconds of the whole run."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with TemporaryDirectory() as directory:
        if how == "resumed":
            train(how, Path(directory), 6, None)
            slept.clear()
        checkpoint = next(Path(directory).glob("*.ckpt"), None)
        callback, trainer = train(how, Path(directory), STEPS, checkpoint)
    summary = callback.summary
    if trainer.is_global_zero and summary is not None:
        phases, wall = summary.phases_sec or {}, summary.wall_time_sec or {}
        found = {name: phases[name] * summary.steps for name in SECONDS} | {
            name: wall[name] for name in OUTSIDE_SECONDS
        }
        print(json.dumps({"slept": slept, "found": found, "steps": summary.steps}))


def train(how: str, directory: Path, steps: int, checkpoint: Path | None) -> tuple[MFUCallback, Trainer]:
    """A run that saves a checkpoint in its sixth step and every sixth step after it."""
    callback = MFUCallback(peak=1e12, warmup_steps=0)
    saving = ModelCheckpoint(directory, every_n_train_steps=6, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=2 if how == "ddp" else 1,
        strategy="ddp" if how == "ddp" else "auto",
        max_steps=steps,
        accumulate_grad_batches=_BATCHES_OF_A_STEP.get(how, 1),
        val_check_interval=6,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        callbacks=[SleepingCallback(), callback, ForgetsTheFirstStep(), saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SleepingModel(), ckpt_path=checkpoint)
    return callback, trainer


def add_rows(table: Table, how: str) -> bool:
    """Make a run, asleep and awake, and add what it found; whether all of it is right."""
    asleep, awake = in_own_process(how), in_own_process(how, "--awake")
    batches = asleep["steps"] * _BATCHES_OF_A_STEP.get(how, 1)
    right = True
    for name, found in asleep["found"].items():
        really, work = asleep["slept"][name], awake["found"][name]
        off = found - work - really
        fits = abs(off) <= max(_TOLERANCE * really, _TOLERANCE_SEC * batches)
        right = right and fits
        cells = (*(f"{seconds:.4f} s" for seconds in (really, found, work)), f"{off / really:+.2%}")
        table.add_row(
            how if name == "data" else "", name, *cells, "right" if fits else "WRONG", end_section=name == "checkpoint"
        )
    return right


def in_own_process(how: str, *options: str) -> dict[str, Any]:
    """What a run prints."""
    done = subprocess.run([sys.executable, __file__, "--only", how, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The run {how} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())

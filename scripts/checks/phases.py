"""Checks that MFUCallback reports time under the part of a run that spent it.

    python scripts/checks/phases.py

A dataset, a training step, a backward pass, an optimizer, another callback, a validation step and a checkpoint sleep
for known times: in a plain run, with gradient accumulation, on two processes with DDP, in a resumed run, and beside the
peak of a datasheet that is ten times what this device's matmuls reach, where no sleep is "unreachable". The time that
each part really slept, by the clock, is compared with the time that the summary reports for it, less the time that
the summary reports for it in the same run without sleep: the real work of a tiny model, of the loop, and between the
processes. A difference of up to 2 %, or up to 1 ms per batch, is right. Exits with 1 if any difference is larger.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from mfu_callback import MFUCallback, measure_peak
from mfu_callback.meter.summary import Summary
from mfu_callback.peaks.cache import DIRECTORY_VARIABLE, CacheKey, keep_best

SECONDS = {"data": 0.04, "forward": 0.05, "backward": 0.03, "optimizer": 0.02, "other": 0.03}
OUTSIDE_SECONDS = {"validation": 0.08, "checkpoint": 0.1}
STEPS = 20
HOWS = ("plain", "accumulated", "ddp", "resumed", "datasheet")
_TOLERANCE, _TOLERANCE_SEC = 0.02, 1e-3

_BATCHES_OF_A_STEP = {"accumulated": 3}

slept: Counter[str] = Counter()
is_awake = "--awake" in sys.argv  # the processes that DDP starts have the same command line


def sleep(where: str) -> None:
    """Sleep for the time set for this part of a run, and record how long it really slept."""
    if not is_awake:
        start = time.perf_counter()
        time.sleep((SECONDS | OUTSIDE_SECONDS)[where])
        slept[where] += time.perf_counter() - start


class SleepingData(Dataset):
    """A dataset that sleeps before each batch."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        sleep("data")
        return torch.ones(4, 8)


class SleepingSGD(torch.optim.SGD):
    """SGD that sleeps in each step."""

    def step(self, closure: Any = None) -> Any:
        """Run the closure (forward and backward pass), sleep, then step."""
        loss = None if closure is None else closure()
        sleep("optimizer")
        super().step()
        return loss


class SleepingModel(LightningModule):
    """A linear layer whose hooks sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Sleep, then return the mean of the layer's output."""
        sleep("forward")
        return self.layer(batch).mean()

    def backward(self, loss: torch.Tensor) -> None:  # type: ignore[override]
        """Sleep, then compute the gradients."""
        sleep("backward")
        loss.backward()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Only sleep."""
        sleep("validation")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Sleep, like a slow disk."""
        sleep("checkpoint")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer that sleeps."""
        return SleepingSGD(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of the dataset's batches as they are."""
        return DataLoader(SleepingData(), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Returns a loader that does not sleep."""
        return DataLoader(torch.ones(100, 4, 8), batch_size=None)


class SleepingCallback(Callback):
    """Sleeps at the end of every batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Sleep."""
        sleep("other")


class ForgetsTheFirstStep(Callback):
    """Discards the sleep of the first step, which is counted and therefore not measured.

    Sleep outside of steps is always measured.
    """

    def __init__(self) -> None:
        self._first = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Discard it at the end of the first step."""
        if (
            self._first
            and trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
        ):
            self._first = False
            for name in SECONDS:
                slept[name] = 0


def main() -> int:
    """Make one run and print its figures as JSON, or make all runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=HOWS, help="make only this run, and print its figures as JSON")
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
    """Train, and print the seconds slept and the seconds found, of the whole run."""
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
        if how == "datasheet":
            slept["unreachable"], found["unreachable"] = unreachable_sec(summary)
        print(json.dumps({"slept": slept, "found": found, "steps": summary.steps}))


def peak_of_datasheet(directory: Path) -> float:
    """Ten times the rate of this device's matmuls, which is put into a cache of this run's own for the fit to find."""
    os.environ[DIRECTORY_VARIABLE] = str(directory / "peaks")
    measured = replace(measure_peak("cpu", torch.float32, use_cache=False, time_limit_sec=1.0), is_noisy=False)
    keep_best(measured, CacheKey.of(torch.device("cpu"), torch.float32))
    return 10 * measured.flops_per_sec


def unreachable_sec(summary: Summary) -> tuple[float, float]:
    """What the FLOPs take at the measured peak beyond what they take at the datasheet's, by hand and as reported."""
    known = (summary.peak, summary.achievable, summary.flops, summary.waterfall, summary.phases_sec)
    assert None not in known, known
    flops = 3 * summary.flops.forward * summary.steps
    by_hand = flops / summary.achievable.flops_per_sec - flops / summary.peak.flops_per_sec
    return by_hand, summary.waterfall["unreachable"] * sum(summary.phases_sec.values()) * summary.steps


def train(how: str, directory: Path, steps: int, checkpoint: Path | None) -> tuple[MFUCallback, Trainer]:
    """Train, with a checkpoint every six steps."""
    callback = MFUCallback(peak=peak_of_datasheet(directory) if how == "datasheet" else 1e12, warmup_steps=0)
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
    """Make a run with and without sleep, and add its rows; returns whether all of them are right."""
    asleep, awake = in_own_process(how), in_own_process(how, "--awake")
    batches = asleep["steps"] * _BATCHES_OF_A_STEP.get(how, 1)
    right = True
    for name, found in asleep["found"].items():
        really = asleep["slept"][name]
        work = awake["found"][name] if name in SECONDS | OUTSIDE_SECONDS else 0.0
        off = found - work - really
        fits = abs(off) <= max(_TOLERANCE * really, _TOLERANCE_SEC * batches)
        right = right and fits
        cells = (*(f"{seconds:.4f} s" for seconds in (really, found, work)), f"{off / really:+.2%}")
        table.add_row(
            how if name == "data" else "", name, *cells, "right" if fits else "WRONG", end_section=name == "checkpoint"
        )
    return right


def in_own_process(how: str, *options: str) -> dict[str, Any]:
    """Make a run in its own process and return the figures that it prints."""
    done = subprocess.run([sys.executable, __file__, "--only", how, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The run {how} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())

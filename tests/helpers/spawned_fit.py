"""Fits and tests in processes that a strategy spawns: `spawned_fit.py STRATEGY DIRECTORY`; prints a line of JSON.

It is what the main process sees: the summary before and after the fit, that of a copy, the evaluations, and the files
that are left in the temporary directory.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, make_trainer, two_layers


class Tested(LightningModule):
    """Two layers, which are tested on the batches of training too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = two_layers()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The mean square of what the network returns."""
        return self.network(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in training."""
        self.training_step(batch, batch_idx)

    def test_dataloader(self) -> DataLoader:
        """As in training."""
        return self.train_dataloader()

    def train_dataloader(self) -> DataLoader:
        """Twenty batches of four, which can be divided among processes."""
        return DataLoader(torch.ones(80, 8), batch_size=4)


class Checked(MFUCallback):
    """Ends the group of its process, which gloo sometimes aborts otherwise."""

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Measuring ends, and the group."""
        super().teardown(trainer, pl_module, stage)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def seen(callback: MFUCallback) -> Any:
    """All figures of the summary."""
    return None if callback.summary is None else callback.summary.as_dict()


def main() -> None:
    """Fit, look twice, and test."""
    strategy, directory = sys.argv[1], Path(sys.argv[2])
    callback = Checked(peak=PEAK, warmup_steps=1, summary=None)
    sights = {"before": seen(callback)}
    logger = CSVLogger(directory, name="", version="run")
    options: dict[str, Any] = {"devices": 2, "strategy": strategy, "max_steps": 6, "log_every_n_steps": 2}
    trainer = make_trainer(callback, logger=logger, **options)
    trainer.fit(Tested())
    copied = copy.deepcopy(callback)
    sights |= {"first": seen(callback), "again": seen(callback), "copied": seen(copied)}
    sights |= {"dtype": str(callback.summary.peak.dtype), "logged": sorted(trainer.callback_metrics)}
    make_trainer(callback, **options).test(Tested(), verbose=False)
    figures = callback.evaluations["test"]
    sights |= {"tested": [figures.steps, figures.flops.forward], "after the test": seen(callback)}
    print(json.dumps(sights | {"left": [path.name for path in Path(gettempdir()).glob("mfu_callback-*")]}))


if __name__ == "__main__":
    main()

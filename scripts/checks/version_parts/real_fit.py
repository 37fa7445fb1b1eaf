"""A short real fit with the callback, the finder and TensorBoard; prints what came of it as JSON.

Runs in the environment that is tried, with the installed package and nothing of the checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mfu_callback import BatchSizeFinder, MFUCallback

VOCABULARY, WIDTH, LENGTH, LARGEST = 64, 16, 8, 4
# Two linear layers without bias, of which one is the head, in FLOPs of a token's forward pass.
FLOPS_PER_TOKEN = 2 * (WIDTH * WIDTH + WIDTH * VOCABULARY)
TAGS = ("throughput/tokens_per_sec", "throughput/mfu", "time/step_sec", "waterfall/mfu", "waterfall/kernels")


class Model(LightningModule):
    """A language model of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 1
        layers = nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU(), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.net = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), *layers)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Loss of the next token."""
        (tokens,) = batch
        return nn.functional.cross_entropy(self.net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        """Random tokens."""
        tokens = torch.randint(VOCABULARY, (400, LENGTH + 1))
        return DataLoader(TensorDataset(tokens), batch_size=self.batch_size)


def main(directory: Path) -> dict[str, Any]:
    """Fit, and return what is wrong with what came of it: empty if nothing is."""
    callback, finder = MFUCallback(peak=1e12, warmup_steps=1), BatchSizeFinder(max_size=LARGEST)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=8,
        log_every_n_steps=1,
        logger=TensorBoardLogger(directory),
        callbacks=[finder, callback],
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(Model())
    events = EventAccumulator(str(trainer.log_dir)).Reload()
    missing = sorted(set(TAGS) - set(events.Tags()["scalars"]))
    counted = callback.summary.flops.forward if callback.summary and callback.summary.flops else None
    size = finder.result.batch_size if finder.result else None
    found = {"missing tags": missing, "batch size": size, "forward FLOPs": counted}
    right = {"missing tags": [], "batch size": LARGEST, "forward FLOPs": LARGEST * LENGTH * FLOPS_PER_TOKEN}
    return {name: value for name, value in found.items() if value != right[name]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))

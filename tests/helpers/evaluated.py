"""Models that are validated, tested and predicted with, whose batches are known exactly."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import TINY

STAGES = ("validate", "test", "predict")


def token_batches(samples: int, batch_size: int = 4) -> DataLoader:
    """Batches of 8 tokens a sample."""
    rows = torch.arange(8).repeat(samples, 1)
    return DataLoader(list(zip(rows, rows, strict=True)), batch_size=batch_size)


def evaluate(stage: str, module: LightningModule, trainer: Any, loaders: Any = None) -> Any:
    """Call ``trainer.validate``, ``test`` or ``predict``."""
    quiet = {} if stage == "predict" else {"verbose": False}
    return getattr(trainer, stage)(module, loaders, **quiet)


def figures_of(callback: MFUCallback, stage: str) -> Any:
    """The figures of a stage, the only one that was measured."""
    assert set(callback.evaluations) == {stage}
    return callback.evaluations[stage]


class Evaluated(GPTModule):
    """The GPT with all steps. Predicting draws random numbers, as sampling does."""

    def __init__(self, samples: int = 32) -> None:
        super().__init__(TINY)
        self.samples = samples
        self.hparams.pop("samples", None)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss of a batch."""
        self.log("test/loss", self._loss(batch))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss of a batch."""
        self.log("val/loss", self._loss(batch))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:
        """The logits of a batch, some of them dropped."""
        return nn.functional.dropout(self.model(batch[0]), 0.5)

    def val_dataloader(self) -> Any:
        """Batches of 4 x 8 tokens."""
        return token_batches(self.samples)

    test_dataloader = predict_dataloader = val_dataloader

    def train_dataloader(self) -> Any:
        """A hundred of them."""
        return token_batches(400)


class Line(LightningModule):
    """One Linear layer from 8 to 4 features."""

    forward_flops = 2 * 4 * 8 * 4  # of a batch of four samples

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(8, 4)

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Apply the layer."""
        return self.line(batch)

    validation_step = predict_step = test_step

    def test_dataloader(self) -> DataLoader:
        """Batches of four."""
        return DataLoader(torch.ones(32, 8), batch_size=4)

    val_dataloader = predict_dataloader = test_dataloader

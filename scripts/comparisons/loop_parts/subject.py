"""The model and the batches that every loop trains."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gpt.config import GPTConfig
from gpt.model import GPT, next_token_loss

CONFIG = GPTConfig(n_layer=4, n_head=4, n_embd=256, vocab_size=4096, context_length=128, dropout=0.0)
BATCH_SIZE = 8


class Model(nn.Module):
    """The GPT, which returns its loss as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gpt = GPT(CONFIG)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the loss and the logits of tokens and their targets, each of shape (samples, tokens)."""
        logits = self.gpt(input_ids)
        return {"loss": next_token_loss(logits, labels), "logits": logits}


class Module(LightningModule):
    """The same model for a Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss."""
        loss: torch.Tensor = self.model(**batch)["loss"]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """That of every loop."""
        return optimizer_of(self)


class Tokens(Dataset[dict[str, Any]]):
    """Random tokens and targets."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        size = (steps * BATCH_SIZE, CONFIG.context_length + 1)
        self._rows = torch.randint(CONFIG.vocab_size, size, generator=generator)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        return {"input_ids": row[:-1], "labels": row[1:]}


def loader_of(steps: int) -> DataLoader[dict[str, Any]]:
    """Batches for so many steps, in the same order every time."""
    return DataLoader(Tokens(steps), batch_size=BATCH_SIZE)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, as Hugging Face's Trainer makes it by default but for its decay of weights."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

"""What the batch size finders are compared on: models that keep a log of their own training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gpt import GPTConfig, GPTModule, RandomTokens

_SAMPLES = 20_000  # of each data set; what is tried has to come from it
_FEATURES, _WIDTH = 64, 16_384


@dataclass
class Log:
    """What a search did. It is a global, so that no finder can put it back with the model.

    Attributes:
        attempts: How often training was begun.
        begun: The batch size of every training step.
        ended: How many training steps ended, of each batch size.
        files: The names of files that were there while it trained.
    """

    attempts: int = 0
    begun: list[int] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)

    def begin(self, size: int) -> None:
        """A training step begins."""
        self.begun.append(size)
        self.files.update(os.listdir())

    def clear(self) -> None:
        """Forget everything."""
        self.attempts = 0
        for kept in (self.begun, self.ended, self.files):
            kept.clear()


LOG = Log()


class Logged(LightningModule):
    """Writes the log, and counts its steps in an attribute, as a user's model may."""

    steps_seen = 0

    def on_train_start(self) -> None:
        """Training begins."""
        LOG.attempts += 1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The model's own."""
        if not isinstance(batch[0], FakeTensor):  # else it trains nothing: a finder looks at the model's shapes
            LOG.begin(len(batch[0]))
        self.steps_seen += 1
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step of the optimizer is done."""
        LOG.ended[len(batch[0])] += 1


class LoggedGPT(Logged, GPTModule):
    """The GPT of this repository, whose data module has nothing to validate on."""


class TrainedGPT(LoggedGPT):
    """The same without a validation step."""

    validation_step = LightningModule.validation_step


class WideNetwork(LightningModule):
    """Two wide hidden layers with dropout, between narrow ones with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_wide_block(), *_wide_block(), nn.Linear(_FEATURES, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean squared error of a batch of rows (B, features) and targets (B, 1)."""
        rows, targets = batch
        return F.mse_loss(self.layers(rows), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class LoggedNetwork(Logged, WideNetwork):
    """The wide network."""


class Rows(LightningDataModule):
    """Random rows."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 2
        generator = torch.Generator().manual_seed(0)
        rows, targets = torch.randn(_SAMPLES, _FEATURES + 1, generator=generator).split((_FEATURES, 1), dim=1)
        self.dataset = TensorDataset(rows, targets)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of rows (B, features) and targets (B, 1)."""
        return DataLoader(self.dataset, self.batch_size, drop_last=True, generator=torch.Generator())


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model, its data, and the budget that it is tried with.

    Attributes:
        module: Makes the model.
        data: Makes its data.
        budget_mib: What model, gradients, optimizer state, activations and batch may take.
    """

    module: Callable[[], LightningModule]
    data: Callable[[], LightningDataModule]
    budget_mib: int


def _wide_block() -> tuple[nn.Module, ...]:
    wide, narrow = nn.Linear(_FEATURES, _WIDTH), nn.Linear(_WIDTH, _FEATURES)
    return nn.BatchNorm1d(_FEATURES), wide, nn.ReLU(), nn.Dropout(0.1), narrow


_GPT = GPTConfig(n_layer=2, n_head=4, n_embd=128, vocab_size=4096, context_length=64, dropout=0.1)


def _tokens() -> LightningDataModule:
    return RandomTokens(batch_size=2, context_length=_GPT.context_length, vocab_size=_GPT.vocab_size, length=_SAMPLES)


SUBJECTS = {
    "gpt": Subject(module=lambda: TrainedGPT(_GPT), data=_tokens, budget_mib=512),
    "gpt-without-val-data": Subject(module=lambda: LoggedGPT(_GPT), data=_tokens, budget_mib=512),
    "mlp": Subject(module=LoggedNetwork, data=Rows, budget_mib=1024),
}

"""The models that the batch size finders are compared on; each keeps a log of its own training."""

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

_SAMPLES = 20_000  # in each dataset; a batch of every tried size must come from it
_FEATURES, _WIDTH = 64, 16_384


@dataclass
class Log:
    """A record of what a search did.

    It is global, so that no finder can restore it together with the model.

    Attributes:
        attempts: How often training was started.
        begun: The batch size of every training step that was started.
        ended: Number of finished training steps, by batch size.
        files: The names of the files that existed during training.
    """

    attempts: int = 0
    begun: list[int] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)

    def begin(self, size: int) -> None:
        """Record the start of a training step."""
        self.begun.append(size)
        self.files.update(os.listdir())

    def clear(self) -> None:
        """Forget everything."""
        self.attempts = 0
        for kept in (self.begun, self.ended, self.files):
            kept.clear()


LOG = Log()


class Logged(LightningModule):
    """Writes the log, and counts its steps in an attribute, as a user's model may do."""

    steps_seen = 0

    def on_train_start(self) -> None:
        """Record the start of training."""
        LOG.attempts += 1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Record the step, then run the model's own."""
        if not isinstance(batch[0], FakeTensor):  # a fake tensor trains nothing: a finder only looks at shapes
            LOG.begin(len(batch[0]))
        self.steps_seen += 1
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the end of a training step."""
        LOG.ended[len(batch[0])] += 1


class LoggedGPT(Logged, GPTModule):
    """The GPT of this repository, with a validation step; its data module has no validation data."""


class TrainedGPT(LoggedGPT):
    """The GPT of this repository, without a validation step."""

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
    """The wide network, logged."""


class Rows(LightningDataModule):
    """A data module of random rows."""

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
    """A model, its data, and its budget.

    Attributes:
        module: Makes the model.
        data: Makes its data.
        budget_mib: Memory that model, gradients, optimizer state, activations and batch may use.
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

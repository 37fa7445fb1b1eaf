"""The models that the batch size finders are compared on; each keeps a log of its own training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from gpt import GPTConfig, GPTModule, RandomTokens

_SAMPLES = 20_000  # in each dataset; a batch of every tried size must come from it
_FEATURES, _WIDTH = 64, 16_384
_CLASSES, _WORDS, _WORDS_IN_A_TEXT = 16, 1000, 32


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


class Classifier(LightningModule):
    """A model whose output is compared with classes.

    Args:
        model: The model, from inputs (B, ...) to (B, 16).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy of a batch of inputs (B, ...), perhaps their lengths (B,), and classes (B,)."""
        *inputs, classes = batch
        return F.cross_entropy(self.model(*inputs), classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class LoggedClassifier(Logged, Classifier):
    """The classifier, logged."""


class Recurrent(nn.Module):
    """An LSTM over embedded words, which skips the padding of each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_WORDS, 128)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.head = nn.Linear(128, _CLASSES)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """The classes' logits (B, 16) of words (B, T) with lengths (B,)."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.head(self.lstm(packed)[1][0][-1])


class CheckpointedGPT(TrainedGPT):
    """The GPT with activation checkpointing: the backward pass runs each block's forward pass again."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        for block in self.model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class TensorData(LightningDataModule):
    """A data module of tensors.

    Args:
        tensors: Each with a row for every sample.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.batch_size = 2
        self.dataset = TensorDataset(*tensors)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of as many tensors."""
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


def _rows() -> LightningDataModule:
    rows = torch.randn(_SAMPLES, _FEATURES + 1, generator=torch.Generator().manual_seed(0))
    return TensorData(*rows.split((_FEATURES, 1), dim=1))


def _inputs(*shape: int, samples: int = _SAMPLES) -> Callable[[], LightningDataModule]:
    return lambda: TensorData(torch.zeros(1).expand(samples, *shape), torch.zeros(samples, dtype=torch.long))


def _texts() -> LightningDataModule:
    words = torch.randint(_WORDS, (_SAMPLES, _WORDS_IN_A_TEXT), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(_SAMPLES) % _WORDS_IN_A_TEXT + 1
    return TensorData(words, lengths, words[:, 0] % _CLASSES)


def _perceptron(*widths: int) -> nn.Module:
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], _CLASSES))


def _convolutions() -> nn.Module:
    layers = [_convolution(a, b) for a, b in pairwise((3, 32, 64, 128))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, _CLASSES))


def _convolution(channels: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))


def _tokens() -> LightningDataModule:
    return RandomTokens(batch_size=2, context_length=_GPT.context_length, vocab_size=_GPT.vocab_size, length=_SAMPLES)


SUBJECTS = {
    "gpt": Subject(module=lambda: TrainedGPT(_GPT), data=_tokens, budget_mib=512),
    "gpt-without-val-data": Subject(module=lambda: LoggedGPT(_GPT), data=_tokens, budget_mib=512),
    "mlp": Subject(module=LoggedNetwork, data=_rows, budget_mib=1024),
    "gpt-checkpointed": Subject(module=lambda: CheckpointedGPT(_GPT), data=_tokens, budget_mib=512),
    "cnn": Subject(module=lambda: LoggedClassifier(_convolutions()), data=_inputs(3, 64, 64), budget_mib=512),
    "rnn": Subject(module=lambda: LoggedClassifier(Recurrent()), data=_texts, budget_mib=256),
    # At small batches the optimizer's step takes the most memory, at large ones the backward pass.
    "perceptron": Subject(
        module=lambda: LoggedClassifier(_perceptron(256, 1024, 1024)), data=_inputs(256, samples=10**6), budget_mib=1024
    ),
    "optimizer": Subject(
        module=lambda: LoggedClassifier(_perceptron(4096, 4096, 64)), data=_inputs(4096, samples=10**6), budget_mib=460
    ),
}

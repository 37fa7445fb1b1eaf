"""The small models and data that the finder's tests train."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mfu_callback import BatchSizeFinder

MIB = 2**20
VOCABULARY = 4096  # large, so that the logits need nearly all the memory, but little time


class Sequences(Dataset[Tensor]):
    """Random token sequences, each made from its index."""

    def __init__(self, count: int = 512, context: int = 64) -> None:
        self.count, self.context = count, context

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.randint(VOCABULARY, (self.context + 1,), generator=torch.Generator().manual_seed(index))


class TinyGPT(LightningModule):
    """A causal transformer with dropout and its own train_dataloader()."""

    def __init__(self, batch_size: int = 4, width: int = 32, dataset: Any = None, shuffle: bool = True) -> None:
        super().__init__()
        self.batch_size, self.shuffle = batch_size, shuffle
        self.dataset = Sequences() if dataset is None else dataset
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def loss(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]  # (B, T) each
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.size(1))
        logits = self.head(self.blocks(self.embedding(inputs), mask=mask, is_causal=True))  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.batch_size, shuffle=self.shuffle)


class Tabular(LightningModule):
    """A small network with dropout, BatchNorm and a step counter; its data are 64 rows."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.steps = 0
        self.sizes: list[int] = []
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
        self.dataset: Any = [(torch.full((8,), float(i)).sin(), torch.tensor([float(i % 3)])) for i in range(64)]

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        self.steps += 1
        self.sizes.append(len(inputs))
        return F.mse_loss(self.net(inputs), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.batch_size, shuffle=True)


class TabularData(LightningDataModule):
    """The rows of `Tabular` in a datamodule with the batch size in its hyperparameters."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return DataLoader(Tabular().dataset, batch_size=self.hparams["batch_size"])


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """A silent Trainer on the CPU for three steps."""
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_steps": 3, "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(callbacks=list(callbacks), **(defaults | quiet | options))


def fitted(model: LightningModule, *callbacks: Callback, seed: int = 7, fit: Any = (), **options: Any) -> Trainer:
    """Set the global seed, fit a model, perhaps with loaders, and return the Trainer."""
    run = trainer(*callbacks, **options)
    seed_everything(seed, verbose=False)
    run.fit(model, *fit)
    return run


ROWS: list[Any] = Tabular().dataset


class Unloaded(Tabular):
    """`Tabular` without train_dataloader() and batch_size."""

    train_dataloader = LightningModule.train_dataloader

    def __init__(self) -> None:
        super().__init__()
        del self.batch_size


def found(model: LightningModule, *arguments: Any, **options: Any) -> Any:
    """Fit three steps with a finder, and return its result and the Trainer."""
    finder = BatchSizeFinder(**{"max_size": 12, **options})
    run = fitted(model, finder, fit=arguments)
    assert finder.result is not None
    return finder.result, run

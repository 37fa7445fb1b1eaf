"""The data of the GPT: random tokens, or any file read as bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Example = tuple[Tensor, Tensor]


class RandomTokenDataset(Dataset[Example]):
    """Uniform random token ids; an index always gives the same ones, and no global generator is used.

    Args:
        length: Number of examples.
        context_length: Tokens in each example, T.
        vocab_size: Number of token ids; every id is below it.
        seed: Another seed gives other tokens.
    """

    def __init__(self, *, length: int, context_length: int, vocab_size: int, seed: int = 0) -> None:
        self.length = length
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        """Returns inputs (T,) and targets (T,); the targets are the inputs shifted by one token."""
        generator = torch.Generator().manual_seed(self.seed * self.length + index)
        tokens = torch.randint(self.vocab_size, (self.context_length + 1,), generator=generator)
        return tokens[:-1], tokens[1:]


class ByteDataset(Dataset[Example]):
    """Consecutive pieces of a sequence of bytes.

    Args:
        data: (N,) bytes.
        context_length: Bytes in each piece, T.
    """

    def __init__(self, data: Tensor, *, context_length: int) -> None:
        self.data = data
        self.context_length = context_length

    def __len__(self) -> int:
        return max(0, len(self.data) - 1) // self.context_length

    def __getitem__(self, index: int) -> Example:
        """Returns inputs (T,) and targets (T,); the targets are the inputs shifted by one byte."""
        start = index * self.context_length
        piece = self.data[start : start + self.context_length + 1].long()
        return piece[:-1], piece[1:]


class RandomTokens(LightningDataModule):
    """Batches of random tokens: the benchmark's input.

    Args:
        batch_size: Sequences in a batch. It is read each time a loader is made, so it may be changed before fit.
        context_length: Tokens in a sequence.
        vocab_size: Number of token ids; every id is below it.
        length: Sequences in an epoch.
        num_workers: Processes that make the batches.
        seed: Another seed gives other tokens.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(
        self,
        *,
        batch_size: int = 1,
        context_length: int = 1024,
        vocab_size: int = 50257,
        length: int = 100_000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_at_least_one(batch_size=batch_size, context_length=context_length, vocab_size=vocab_size, length=length)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.dataset = RandomTokenDataset(
            length=length, context_length=context_length, vocab_size=vocab_size, seed=seed
        )

    def train_dataloader(self) -> DataLoader[Example]:
        """Batches of inputs (B, T) and targets (B, T)."""
        return DataLoader(
            self.dataset,
            self.batch_size,
            num_workers=self.num_workers,
            drop_last=True,
            generator=torch.Generator(),  # without one, every epoch draws from the global generator
        )


class TextFile(LightningDataModule):
    """Any file, read as bytes: the vocabulary has 256 ids, and there is no tokenizer.

    Args:
        path: The file.
        batch_size: Pieces in a batch. It is read each time a loader is made, so it may be changed before fit.
        context_length: Bytes in a piece.
        validation_fraction: The fraction of the file, at its end, that is kept for validation.
        num_workers: Processes that make the batches.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A size is below 1, the fraction is not in [0, 1), or the file is too short for one piece.
    """

    vocab_size = 256

    def __init__(
        self,
        path: str | Path,
        *,
        batch_size: int = 1,
        context_length: int = 256,
        validation_fraction: float = 0.1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        _check_at_least_one(batch_size=batch_size, context_length=context_length)
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction is {validation_fraction}: give a value of at least 0 and below 1.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        data = _read_bytes(Path(path))
        split = len(data) - int(len(data) * validation_fraction)
        self.train_data = ByteDataset(data[:split], context_length=context_length)
        self.val_data = ByteDataset(data[split:], context_length=context_length)
        if len(self.train_data) == 0:
            raise ValueError(
                f"{path} has {len(data)} bytes, {split} of them for training; one piece needs {context_length + 1}:"
                " give a longer file or a shorter context_length."
            )

    def train_dataloader(self) -> DataLoader[Example]:
        """Shuffled batches of inputs (B, T) and targets (B, T)."""
        return DataLoader(self.train_data, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Example] | list[DataLoader[Example]]:
        """Batches of inputs (B, T) and targets (B, T) from the validation part, in order.

        Returns an empty list if that part has no whole piece.
        """
        if len(self.val_data) == 0:
            return []
        return DataLoader(self.val_data, self.batch_size, num_workers=self.num_workers)


def _read_bytes(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"There is no text file at '{path}': give the path of a file that exists.")
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8))


def _check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: give 1 or more.")

"""Sequences of many lengths, loaders that fill batches of them by tokens, and a model that trains on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from tests.helpers.finder_models import VOCABULARY, TinyGPT

LONGEST = 48
COUNT = 300
UNSEEN = 2  # an index that is not among the 64 that are looked at


class Sentences(Dataset[Tensor]):
    """Random token sequences of 8 to LONGEST tokens; LONGEST only at one index."""

    def __init__(self, longest_at: int = 0, count: int = COUNT) -> None:
        lengths = [8 + 7 * index % (LONGEST - 12) for index in range(count)]  # up to LONGEST - 5
        lengths[longest_at] = LONGEST
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.randint(VOCABULARY, (self._lengths[index],), generator=torch.Generator().manual_seed(index))


class TokenBatches(Sampler[list[int]]):
    """Batches of shuffled samples, filled while samples x longest is at most ``max_tokens``.

    Args:
        dataset: The sentences.
        max_tokens: The limit.
        known: Whether the sampler shows the lengths.
    """

    def __init__(self, dataset: Sentences, max_tokens: int = 2 * LONGEST, *, known: bool = False) -> None:
        self.max_tokens = max_tokens
        self._lengths_of_all = dataset._lengths
        if known:
            self.lengths = dataset._lengths

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        longest = 0
        for index in random.sample(range(len(self._lengths_of_all)), len(self._lengths_of_all)):
            with_this = max(longest, self._lengths_of_all[index])
            if batch and with_this * (len(batch) + 1) > self.max_tokens:
                yield batch
                batch, with_this = [], self._lengths_of_all[index]
            batch.append(index)
            longest = with_this
        yield batch


class BatchesMadeBefore(TokenBatches):
    """A sampler that makes its batches when it is created, so that a new limit has no effect."""

    def __init__(self, dataset: Sentences, max_tokens: int = 2 * LONGEST) -> None:
        super().__init__(dataset, max_tokens)
        self._batches = list(super().__iter__())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def padded(rows: list[Tensor]) -> Tensor:
    """A batch of (B, T) token ids, padded to the longest."""
    return pad_sequence(rows, batch_first=True)


def loader_of(dataset: Sentences, batches: Any = None) -> DataLoader[Any]:
    """A loader that fills its batches by tokens."""
    batches = TokenBatches(dataset) if batches is None else batches
    return DataLoader(dataset, batch_sampler=batches, collate_fn=padded)


class Trained(TinyGPT):
    """The small GPT, which keeps the shapes of its batches of each epoch; loaders are given to fit."""

    train_dataloader = LightningModule.train_dataloader

    def __init__(self) -> None:
        super().__init__()
        del self.batch_size
        self.shapes: list[tuple[int, int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Train."""
        rows, length = batch.shape
        self.shapes.append((rows, length))
        return super().training_step(batch, batch_idx)


class WithOwnLoader(Trained):
    """Makes its loader from its own attribute, by default ``max_tokens``."""

    def __init__(self, name: str = "max_tokens", **options: Any) -> None:
        super().__init__()
        self.name, self.options = name, options
        self.dataset = Sentences()
        setattr(self, name, 2 * LONGEST)

    def train_dataloader(self) -> Any:
        """Batches of at most that many tokens."""
        return loader_of(self.dataset, TokenBatches(self.dataset, getattr(self, self.name), **self.options))

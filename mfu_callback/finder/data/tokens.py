"""Loaders that fill their batches by tokens: where the limit is set, and batches of the longest samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.finder.data.samples import (
    MOST_SAMPLES,
    WorstCase,
    at_least_one,
    drawn,
    elements,
    largest_of,
    repeated,
    spread_over,
)
from mfu_callback.lightning.namespaces import MisconfigurationException
from mfu_callback.meter.tokens import count_tokens
from mfu_callback.tools.errors import named

# The names of the largest number of tokens in a batch: on samplers, models, hparams and datamodules.
NAMES = (
    "max_tokens",
    "max_tokens_in_batch",
    "max_tokens_per_batch",
    "max_batch_tokens",
    "tokens_per_batch",
    "batch_tokens",
)
_LENGTHS = ("lengths", "sizes", "num_tokens")  # names of the lengths of all samples, on samplers and data sets
_NAME_THE_IDS = "Name the token ids `input_ids`, or yield them as the first tensor of a batch, with integers of (B, T)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """The longest sample of the trials.

    Attributes:
        counted: What the loader's limit counts for it.
        tokens: Its tokens in a batch; as ``counted``, unless a sampler counts differently.
        how: How it was found, in words.
        may_be_exceeded: Whether the data may hold a longer one.
    """

    counted: int
    tokens: int
    how: str
    may_be_exceeded: bool

    def in_words(self, size: int) -> str:
        """A batch of ``size`` such samples in words."""
        samples = "1 sample" if size == 1 else f"{size:,} samples"
        return f"{samples} of {self.tokens:,} tokens: max_tokens={size * self.counted:,}"

    def caution(self) -> str:
        """A sentence on what the size found does not cover."""
        text = f"The length tried is {self.how}."
        if not self.may_be_exceeded:
            return text
        return (
            f"{text} A longer sample in training may need more memory: give worst_case= a batch of the longest, or the"
            " batch sampler the `lengths` of all samples."
        )


class TokenSamples:
    """The longest samples of a loader's data set, drawn once; the loader and its samplers are not iterated.

    If the sampler or the data set has the lengths of all samples, they are the longest of all; else the longest of 64
    that are spread over the data set. If the data set makes the batches (``batch_size=None``), it is asked for them by
    lists of indices.

    Args:
        loader: The loader.

    Raises:
        MisconfigurationException: If there are no samples, or they cannot be drawn.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        known = _known_lengths(loader)
        self._collate = _batch_maker(loader)
        samples = _samples(loader, None if known is None else known.longest())
        sizes = [(count_tokens(self._collate([sample])) or 0, elements(sample)) for sample in samples]
        self._samples = largest_of(samples, sizes)
        self._known = known
        self._tokens = max(sizes)[0]
        self._how = f"the longest of {len(samples)} samples drawn from the data set"
        self._has_others = known is None and len(samples) == MOST_SAMPLES

    @property
    def longest(self) -> Longest:
        """The longest sample.

        Raises:
            MisconfigurationException: If neither a batch of it has token ids, nor are the lengths known.
        """
        counted, how = self._tokens, self._how
        if self._known is not None:
            counted, how = self._known.counted(self._tokens), f"the longest by {self._known}"
        if not counted:
            raise MisconfigurationException(
                "BatchSizeFinder(max_tokens=...) found no token ids in a batch, so it does not know the length of the"
                f" samples. {_NAME_THE_IDS}; give the batch sampler the `lengths` of all samples; or give worst_case="
                " such a batch."
            )
        tokens = self._tokens or counted
        return Longest(counted=counted, tokens=tokens, how=how, may_be_exceeded=self._has_others)

    def batch(self, size: int) -> Any:
        """A batch of ``size`` samples."""
        return self._collate(repeated(self._samples, size))

    def filled(self, limit: int) -> Any:
        """A batch of as many samples as a limit allows, at least one."""
        return self.batch(max(1, limit // self.longest.counted))


def longest_of_worst_case(worst_case: WorstCase) -> Longest:
    """The length of the samples of the user's own worst batch.

    Raises:
        MisconfigurationException: If its batches have no token ids, or their tokens are not proportional to the size.
    """
    one, two = (count_tokens(worst_case.batch(size)) for size in (1, 2))
    if not one:
        raise MisconfigurationException(
            f"BatchSizeFinder(max_tokens=...) found no token ids in the worst_case for one sample. {_NAME_THE_IDS}. A"
            " function is called with the number of samples, each of the longest length, and not with tokens."
        )
    if two != 2 * one:
        raise MisconfigurationException(
            f"The batch of worst_case has {one:,} tokens for one sample and {two or 0:,} for two. With max_tokens=, a"
            " function is called with the number of samples, and each of them must have the longest length."
        )
    return Longest(counted=one, tokens=one, how="the length of worst_case", may_be_exceeded=False)


def limit_of(loader: Any, name: str | None) -> tuple[Any, str] | None:
    """The object that holds the limit of a loader's batches and the attribute's name; None if there is none.

    Args:
        loader: A loader.
        name: A name to look for first; with dots for an attribute of an attribute.
    """
    for known in (*([] if name is None else [name]), *NAMES):
        *path, last = known.split(".")
        holder = reduce(lambda value, part: getattr(value, part, None), path, sampler_of(loader))
        if hasattr(holder, last) and not callable(getattr(holder, last)):
            return holder, last
    return None


def sampler_of(loader: Any) -> Any:
    """The sampler that decides what a batch consists of."""
    sampler = getattr(loader, "batch_sampler", None)
    return getattr(loader, "sampler", None) if sampler is None else sampler


@dataclass(frozen=True, slots=True)
class _Lengths:
    """The lengths of all samples, as a sampler or a data set gives them."""

    owner: Any
    name: str
    values: np.ndarray[Any, Any]
    by_sampler: bool

    def __str__(self) -> str:
        return f"{type(self.owner).__name__}.{self.name}"

    def longest(self) -> list[int]:
        return [int(index) for index in np.flatnonzero(self.values == self.values.max())[:MOST_SAMPLES]]

    def counted(self, tokens: int) -> int:
        """What the limit counts for the longest sample; ``tokens`` are those in a batch of it, 0 if unknown."""
        length = int(self.values.max())
        # The sampler's own lengths are what it fills batches by. Those of a data set may be in another unit, such as
        # bytes: the smaller number gives the smaller batch.
        return length if self.by_sampler or not tokens else min(length, tokens)


def _known_lengths(loader: DataLoader[Any]) -> _Lengths | None:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not len(dataset):
        return None
    sampler = sampler_of(loader)
    for owner in (sampler, dataset):
        for name in _LENGTHS:
            values = _as_lengths(getattr(owner, name, None), len(dataset))
            if values is not None:
                return _Lengths(owner, name, values, owner is sampler)
    return None


def _as_lengths(value: Any, count: int) -> np.ndarray[Any, Any] | None:
    if not hasattr(value, "__len__") or len(value) != count:
        return None
    try:
        values = np.asarray(value)
    except (TypeError, ValueError):  # tensors of a device, or values of several shapes
        return None
    return values if values.ndim == 1 and values.dtype.kind in "iuf" else None


def _samples(loader: DataLoader[Any], indices: list[int] | None) -> list[Any]:
    return at_least_one(_indices(loader, indices) if _makes_batches(loader) else drawn(loader, indices))


def _indices(loader: DataLoader[Any], indices: list[int] | None) -> list[int]:
    """Indices in place of samples: only the data set can make something of them."""
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        raise MisconfigurationException(_cannot_ask(dataset, "it is iterable"))
    indices = spread_over(dataset) if indices is None else indices
    try:
        for index in indices[:1]:
            dataset[[index]]
    except Exception as error:  # the user's code
        raise MisconfigurationException(_cannot_ask(dataset, named(error))) from error
    return indices


def _cannot_ask(dataset: Any, why: str) -> str:
    return (
        f"BatchSizeFinder cannot ask {type(dataset).__name__}, which makes the batches, for one by a list of indices"
        f" ({why}). Give worst_case= a batch of the longest samples."
    )


def _batch_maker(loader: DataLoader[Any]) -> Callable[[list[Any]], Any]:
    """The function that makes a batch of samples, or of their indices if the data set makes the batches."""
    collate: Callable[[Any], Any] = loader.collate_fn
    dataset: Any = loader.dataset
    return (lambda indices: collate(dataset[indices])) if _makes_batches(loader) else collate


def _makes_batches(loader: DataLoader[Any]) -> bool:
    return loader.batch_sampler is None

"""Batches of any size, made from a few samples of a loader's data set without iterating the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.tools.nested import parts_of, tensors_in

MOST_SAMPLES = 64  # that are looked at for the largest


class Samples:
    """A few samples of a loader's data set, drawn once; the loader and its samplers are not touched.

    Where samples differ in size, batches are made of the largest one alone, so that a trial takes what the worst batch
    of training may take; else of all of them, repeated where they are too few.

    Args:
        loader: Makes batches from single samples.

    Raises:
        MisconfigurationException: If the data set is empty.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        samples = list(_draw(loader))
        if not samples:
            raise MisconfigurationException(
                "BatchSizeFinder found no sample in the data set. Give it at least one, or leave the finder out."
            )
        sizes = [_elements(sample) for sample in samples]
        self._samples = [s for s, size in zip(samples, sizes, strict=True) if size == max(sizes)]
        self._collate = loader.collate_fn

    def batch(self, size: int) -> Any:
        """Collate a batch of ``size`` samples."""
        return self._collate([self._samples[i % len(self._samples)] for i in range(size)])


class WorstCase:
    """The user's own worst batch, brought to any size by repeating and cutting it.

    Args:
        batch: A batch, every tensor and list of which that is as long as the batch is brought to the size; or a
            function from a size to a batch.

    Raises:
        MisconfigurationException: If the batch has no tensor whose first dimension is its size.
    """

    def __init__(self, batch: Any) -> None:
        self._make: Callable[[int], Any] = batch if callable(batch) else lambda size: resized(batch, size)

    def batch(self, size: int) -> Any:
        """The batch at a size."""
        return self._make(size)


def resized(batch: Any, size: int) -> Any:
    """A batch with every tensor and list that is as long as the batch repeated or cut to ``size``.

    The batch is as long as the first dimension of its first tensor that has one.

    Raises:
        MisconfigurationException: If it has no such tensor.
    """
    length = batch_length(batch)
    if not length:
        raise MisconfigurationException(
            "worst_case= is a batch without a tensor whose first dimension tells its size. Give a function from a size"
            " to a batch instead."
        )
    indices = torch.arange(size) % length
    return with_tensors(
        batch,
        lambda tensor: tensor[indices.to(tensor.device)] if tensor.ndim and len(tensor) == length else tensor,
        lambda values: [values[index] for index in indices.tolist()] if len(values) == length else values,
    )


def batch_length(batch: Any) -> int:
    """The first dimension of a batch's first tensor that has one; 0 without such a tensor."""
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 0)


def with_tensors(value: Any, tensor: Callable[[Tensor], Tensor], plain: Callable[[list[Any]], list[Any]]) -> Any:
    """A copy of a batch with other tensors, and with other lists of plain values."""
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, Mapping):
        items: Any = {key: with_tensors(part, tensor, plain) for key, part in value.items()}
        return type(value)(items)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(with_tensors(part, tensor, plain) for part in value))
    if isinstance(value, list) and not any(True for _ in tensors_in(value)):
        return plain(value)
    if isinstance(value, list | tuple):
        return type(value)(with_tensors(part, tensor, plain) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: with_tensors(getattr(value, f.name), tensor, plain) for f in fields(value) if f.init}
        return type(value)(**parts)
    return value


def _draw(loader: DataLoader[Any]) -> Iterator[Any]:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        yield from islice(dataset, MOST_SAMPLES)
        return
    if not hasattr(dataset, "__len__"):
        raise MisconfigurationException(
            f"BatchSizeFinder cannot choose samples of a {type(dataset).__name__}, which has no length. Give it one, or"
            " give worst_case= a batch."
        )
    count = min(len(dataset), MOST_SAMPLES)
    indices = [len(dataset) * i // count for i in range(count)]  # from all over it: it may be sorted by length
    if getattr(dataset, "__getitems__", None):  # what torch's own fetcher calls where there is one
        yield from dataset.__getitems__(indices)
    else:
        yield from (dataset[index] for index in indices)


def _elements(sample: Any) -> int:
    """How large a sample is: numbers in tensors and arrays, characters in texts, pixels of images, one for the rest."""
    if isinstance(sample, Tensor):
        return sample.numel()
    if isinstance(sample, np.ndarray):
        return sample.size
    if isinstance(sample, str | bytes):
        return len(sample)
    if hasattr(sample, "width") and hasattr(sample, "height"):
        return int(sample.width * sample.height)
    parts = parts_of(sample)
    if parts is None:
        return len(sample) if isinstance(sample, Sequence) else 1  # a long list of plain numbers
    return sum(_elements(part) for _, part in parts)

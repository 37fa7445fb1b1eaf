"""Makes batches of any size from a few samples of a loader's data set, without iterating the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.lightning.namespaces import MisconfigurationException
from mfu_callback.tools.nested import parts_of, tensors_in

MOST_SAMPLES = 64  # number of samples among which the largest are chosen


class Samples:
    """A few samples of a loader's data set, drawn once; the loader and its samplers are not touched.

    Batches are made of the largest of these samples only, so that a trial needs as much memory as the worst batch of
    training may need. These samples are repeated to fill a batch.

    Args:
        loader: The loader; its ``collate_fn`` makes batches from single samples.

    Raises:
        MisconfigurationException: If the data set is empty, or is not an IterableDataset and has no length.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        samples = at_least_one(drawn(loader))
        self._samples = largest_of(samples, [elements(sample) for sample in samples])
        self._collate = loader.collate_fn

    def batch(self, size: int) -> Any:
        """Collate a batch of ``size`` samples."""
        return self._collate(repeated(self._samples, size))

    def filled(self, limit: int) -> Any:
        """A batch of as many samples as a limit allows: ``limit`` samples."""
        return self.batch(limit)


class WorstCase:
    """The user's own worst batch, repeated or cut to any size.

    Args:
        batch: A batch, or a function from a size to a batch. Of a batch, the tensors and lists that are as long as it
            are repeated or cut to the size.
    """

    def __init__(self, batch: Any) -> None:
        self._make: Callable[[int], Any] = batch if callable(batch) else lambda size: resized(batch, size)

    def batch(self, size: int) -> Any:
        """A batch of ``size`` samples.

        Raises:
            MisconfigurationException: If the user's batch has no tensor whose first dimension is its size.
        """
        return self._make(size)


def resized(batch: Any, size: int) -> Any:
    """A copy of a batch at another size: tensors and lists as long as the batch are repeated or cut to ``size``.

    The length of a batch is the first dimension of its first tensor that has a dimension.

    Raises:
        MisconfigurationException: If the batch has no such tensor.
    """
    length = batch_length(batch)
    if not length:
        raise MisconfigurationException(
            "The batch given as worst_case has no tensor whose first dimension is its size, so it cannot be resized."
            " Give worst_case a function from a size to a batch instead."
        )
    indices = torch.arange(size) % length
    return with_tensors(
        batch,
        lambda tensor: tensor[indices.to(tensor.device)] if tensor.ndim and len(tensor) == length else tensor,
        lambda values: [values[index] for index in indices.tolist()] if len(values) == length else values,
    )


def batch_length(batch: Any) -> int:
    """The first dimension of the batch's first tensor that has a dimension; 0 if there is no such tensor."""
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 0)


def with_tensors(value: Any, tensor: Callable[[Tensor], Tensor], plain: Callable[[list[Any]], list[Any]]) -> Any:
    """A copy of a batch with ``tensor`` applied to its tensors and ``plain`` to its lists of plain values."""
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


def at_least_one(samples: Iterable[Any]) -> list[Any]:
    """Samples as a list.

    Raises:
        MisconfigurationException: If there are none.
    """
    if kept := list(samples):
        return kept
    raise MisconfigurationException(
        "BatchSizeFinder found no sample in the data set. Give it at least one, or leave the finder out."
    )


def largest_of(samples: Sequence[Any], sizes: Sequence[Any]) -> list[Any]:
    """The samples whose size is the largest."""
    most = max(sizes)
    return [sample for sample, size in zip(samples, sizes, strict=True) if size == most]


def repeated(samples: Sequence[Any], size: int) -> list[Any]:
    """As many samples as asked for, each repeated as often as the others, give or take one."""
    return [samples[index % len(samples)] for index in range(size)]


def drawn(loader: DataLoader[Any], indices: list[int] | None = None) -> Iterator[Any]:
    """A few samples of a loader's data set.

    Args:
        loader: The loader.
        indices: Which samples; None for some that are spread over the data set.

    Raises:
        MisconfigurationException: If the data set is not an IterableDataset and has no length.
    """
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        yield from islice(dataset, MOST_SAMPLES)
        return
    indices = spread_over(dataset) if indices is None else indices
    if getattr(dataset, "__getitems__", None):  # torch's own fetcher also prefers it
        yield from dataset.__getitems__(indices)
    else:
        yield from (dataset[index] for index in indices)


def spread_over(dataset: Any) -> list[int]:
    """The indices of a few samples from all over a data set, which may be sorted by length.

    Raises:
        MisconfigurationException: If it has no length.
    """
    if not hasattr(dataset, "__len__"):
        raise MisconfigurationException(
            f"BatchSizeFinder cannot choose samples from a {type(dataset).__name__}, which has no length. Give the"
            " data set a __len__, or pass a batch as worst_case."
        )
    count = min(len(dataset), MOST_SAMPLES)
    return [len(dataset) * i // count for i in range(count)]


def elements(sample: Any) -> int:
    """The size of a sample: elements of tensors and arrays, characters of texts, pixels of images, 1 for others."""
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
    return sum(elements(part) for _, part in parts)

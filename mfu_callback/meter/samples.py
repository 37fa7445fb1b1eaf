"""Counts the samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from mfu_callback.tools.nested import is_plain_sequence, parts_of

_OWN_NUMBERS = ("num_graphs", "batch_size")  # of objects that batch graphs, in torch_geometric and DGL
_CHANNELS, _COLORS = (1, 3, 4), 3
_MANY = 4  # as many tensors of one shape are no inputs and targets


def count_samples(batch: Any) -> int | None:
    """Count the samples of a batch.

    They are the first dimension of the first tensor in it, unless the batch is a sequence with an item for each sample
    (images, texts of their own length, or mappings), or an object that tells its ``num_graphs`` or ``batch_size``.

    Args:
        batch: A batch as the dataloader yields it.

    Returns:
        The batch size, or None if it has no tensor with a dimension.

    Example:
        >>> images = tuple(torch.zeros(3, 32, 32) for _ in range(8))
        >>> count_samples((images, tuple({"boxes": torch.zeros(2, 4)} for _ in range(8))))
        8
    """
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, torch.Tensor):
        return batch.size(0) if batch.dim() else None
    if (number := _samples_as_items(batch) if is_plain_sequence(batch) else _own_number(batch)) is not None:
        return number
    counts = (count_samples(part) for _, part in parts_of(batch) or ())
    return next((count for count in counts if count is not None), None)


def _own_number(batch: Any) -> int | None:
    if isinstance(batch, Mapping) or is_dataclass(batch) or parts_of(batch) is None:
        return None
    numbers = (getattr(batch, name, None) for name in _OWN_NUMBERS)
    return next((number for number in numbers if type(number) is int), None)


def _samples_as_items(items: Sequence[Any]) -> int | None:
    """The length of a sequence that has an item for each sample, or of the columns in it that have; otherwise None."""
    if not items:
        return None
    if all(isinstance(item, torch.Tensor) for item in items):
        return len(items) if _are_samples(items) else None
    if all(map(_is_sample, items)):
        return len(items)
    if all(map(is_plain_sequence, items)) and any(item and all(map(_is_scalar, item)) for item in items):
        return len(items[0])
    return None


def _are_samples(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether each tensor is a sample: an image, or a sequence of its own length; not inputs and targets of all."""
    if len({(tensor.dim(), tensor.dtype) for tensor in tensors}) != 1 or not tensors[0].dim():
        return False
    sizes = {tensor.size(0) for tensor in tensors}
    are_images = all(map(_is_image, tensors)) and (sizes == {_COLORS} or len(tensors) >= _MANY)
    return are_images or len(sizes) > 1


def _is_sample(item: Any) -> bool:
    """Whether an item is a sample of several parts, such as an image and its label, and not itself a batch."""
    if not isinstance(item, Mapping) and not is_plain_sequence(item):
        return False
    parts = [part for _, part in parts_of(item) or ()]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if not tensors or (len(tensors) == len(parts) > 1 and not isinstance(item, Mapping) and _are_samples(tensors)):
        return False
    has_own_size = len({tensor.shape[:1] for tensor in tensors}) > 1
    is_of_vectors = isinstance(item, Mapping) and all(tensor.dim() == 1 for tensor in tensors)
    return has_own_size or is_of_vectors or _is_image(tensors[0]) or any(map(_is_scalar, parts))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | str) or (isinstance(value, torch.Tensor) and not value.dim())


def _is_image(value: torch.Tensor) -> bool:
    """Whether a tensor is one image, as channels, rows and columns."""
    return value.dim() == 3 and value.size(0) in _CHANNELS and min(value.shape[1:]) > max(_CHANNELS)

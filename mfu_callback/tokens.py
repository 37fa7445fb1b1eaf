"""How much: the tokens and the samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_TOKEN_KEYS = ("input_ids", "tokens", "token_ids")


def count_tokens(batch: Any) -> int | None:
    """Count the tokens of a batch, padding included.

    Token ids are the elements of ``input_ids`` (or ``tokens``, ``token_ids``) in a mapping, or of an integer tensor
    of shape (B, T). In a tuple or list, the first item is the model's input; the others (targets, masks) are not
    looked at.

    Args:
        batch: What the dataloader yields.

    Returns:
        The number of token ids, or None where the batch has none that is recognised, such as images.

    Example:
        >>> count_tokens((torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long)))
        32
    """
    if isinstance(batch, Mapping):
        named = next((batch[key] for key in _TOKEN_KEYS if key in batch), None)
        return named.numel() if named is not None and _is_integer(named) else None
    if isinstance(batch, torch.Tensor):
        return batch.numel() if _is_integer(batch) and batch.dim() == 2 else None
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 0:
        return count_tokens(batch[0])
    return None


def count_samples(batch: Any) -> int | None:
    """Count the samples of a batch: the first dimension of the first tensor in it.

    Args:
        batch: What the dataloader yields.

    Returns:
        The batch size, or None where no tensor with a dimension is found.
    """
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.dim() else None
    if isinstance(batch, str) or not isinstance(batch, Mapping | Sequence):
        return None
    items = batch.values() if isinstance(batch, Mapping) else batch
    counts = (count_samples(item) for item in items)
    return next((count for count in counts if count is not None), None)


def _is_integer(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is not torch.bool
        and not value.is_floating_point()
        and not value.is_complex()
    )

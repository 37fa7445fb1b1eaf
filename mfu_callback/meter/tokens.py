"""Counts the tokens and the samples of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from mfu_callback.tools.nested import parts_of

TOKEN_KEYS = ("input_ids", "tokens", "token_ids")
_MASK_KEY = "attention_mask"


def count_tokens(batch: Any) -> int | None:
    """Count the tokens of a batch, with padding.

    Token ids are the elements of ``input_ids`` (or ``tokens``, ``token_ids``) in a mapping or a dataclass, of an
    integer tensor of shape (B, T), or of a packed sequence of integers. In a tuple or list, the first item is the
    model's input; the others (targets, masks) are ignored. The values of a mapping without token ids are batches
    of their own, as several loaders give them.

    Args:
        batch: A batch as the dataloader yields it.

    Returns:
        The number of token ids; None if none are found, as in a batch of images.

    Example:
        >>> count_tokens((torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long)))
        32
    """
    found = list(_token_ids(batch))
    return sum(ids.numel() for ids, _ in found) if found else None


def count_real_tokens(batch: Any) -> torch.Tensor | None:
    """Count the tokens of a batch without padding, from the attention masks next to the token ids.

    Args:
        batch: A batch as the dataloader yields it.

    Returns:
        The number, as a tensor on the device of the masks so that nothing waits for it; None if a tensor of token ids
        has no mask of its shape.
    """
    found = list(_token_ids(batch))
    if not found or any(getattr(mask, "shape", None) != ids.shape for ids, mask in found):
        return None
    with torch.no_grad():
        counts = [mask.count_nonzero() for _, mask in found if mask is not None]
        return counts[0] if len(counts) == 1 else torch.stack(counts).sum()


def _token_ids(batch: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """All tensors of token ids in a batch, each with its attention mask or None."""
    if isinstance(batch, PackedSequence):
        batch = batch.data.unsqueeze(0)
    if isinstance(batch, torch.Tensor):
        if is_integer(batch) and batch.dim() == 2:
            yield batch, None
        return
    parts = dict(parts_of(batch) or ())
    if isinstance(batch, Mapping) or is_dataclass(batch):
        named = next((parts[key] for key in TOKEN_KEYS if key in parts), None)
        if named is not None:
            if is_integer(named):
                yield named, parts.get(_MASK_KEY)
            return
        inputs = [part for part in parts.values() if not isinstance(part, torch.Tensor)]
    else:
        inputs = list(parts.values())[:1]
    for part in inputs:
        yield from _token_ids(part)


def count_samples(batch: Any) -> int | None:
    """Count the samples of a batch: the first dimension of the first tensor in it.

    Args:
        batch: A batch as the dataloader yields it.

    Returns:
        The batch size, or None if it has no tensor with a dimension.
    """
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, torch.Tensor):
        return batch.size(0) if batch.dim() else None
    counts = (count_samples(part) for _, part in parts_of(batch) or ())
    return next((count for count in counts if count is not None), None)


def is_integer(value: Any) -> bool:
    """Whether a value is a tensor of integers, which token ids are."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is not torch.bool
        and not value.is_floating_point()
        and not value.is_complex()
    )

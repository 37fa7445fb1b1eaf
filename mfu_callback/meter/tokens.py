"""Counts the tokens of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from mfu_callback.tools.nested import parts_of

TOKEN_KEYS = ("input_ids", "tokens", "token_ids")
MASK_KEY = "attention_mask"


def count_tokens(batch: Any, *, named_only: bool = False) -> int | None:
    """Count the tokens of a batch, with padding, as its names and shapes tell it.

    Token ids are the elements of ``input_ids`` (or ``tokens``, ``token_ids``) in a mapping or a dataclass, of an
    integer tensor of shape (B, T), or of a packed sequence of integers. In a tuple or list, the first item is the
    model's input; the others (targets, masks) are ignored. The values of a mapping without token ids are batches
    of their own, as several loaders give them.

    Args:
        batch: A batch as the dataloader yields it.
        named_only: Whether an integer tensor without one of these names has no tokens.

    Returns:
        The number of token ids; None if none are found, as in a batch of images.

    Example:
        >>> count_tokens((torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long)))
        32
    """
    found = list(ids_with_masks(batch, named_only=named_only))
    return sum(ids.numel() for ids, _ in found) if found else None


def ids_with_masks(batch: Any, *, named_only: bool = False) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """All tensors of token ids in a batch, each with its attention mask or None.

    Args:
        batch: A batch as the dataloader yields it.
        named_only: As for `count_tokens`.
    """
    if isinstance(batch, PackedSequence):  # of one length each, as texts are
        batch, named_only = batch.data.unsqueeze(0), False
    if isinstance(batch, torch.Tensor):
        if is_integer(batch) and batch.dim() == 2 and not named_only:
            yield batch, None
        return
    parts = dict(parts_of(batch) or ())
    if isinstance(batch, Mapping) or is_dataclass(batch):
        named = next((parts[key] for key in TOKEN_KEYS if key in parts), None)
        if named is not None:
            if is_integer(named):
                yield named, parts.get(MASK_KEY)
            return
        inputs = [part for part in parts.values() if not isinstance(part, torch.Tensor)]
    else:
        inputs = list(parts.values())[:1]
    for part in inputs:
        yield from ids_with_masks(part, named_only=named_only)


def is_integer(value: Any) -> bool:
    """Whether a value is a tensor of integers, which token ids are."""
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is not torch.bool
        and not value.is_floating_point()
        and not value.is_complex()
    )

"""How much: the tokens and the samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch

from mfu_callback.nested import parts_of, tensors_in

_TOKEN_KEYS = ("input_ids", "tokens", "token_ids")


def count_tokens(batch: Any) -> int | None:
    """Count the tokens of a batch, padding included.

    Token ids are the elements of ``input_ids`` (or ``tokens``, ``token_ids``) in a mapping or a dataclass, or of an
    integer tensor of shape (B, T). In a tuple or list, the first item is the model's input; the others (targets,
    masks) are not looked at.

    Args:
        batch: What the dataloader yields.

    Returns:
        The number of token ids, or None where the batch has none that is recognised, such as images.

    Example:
        >>> count_tokens((torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long)))
        32
    """
    if isinstance(batch, torch.Tensor):
        return batch.numel() if _is_integer(batch) and batch.dim() == 2 else None
    parts = dict(parts_of(batch) or ())
    if isinstance(batch, Mapping) or is_dataclass(batch):
        named = next((parts[key] for key in _TOKEN_KEYS if key in parts), None)
        return named.numel() if named is not None and _is_integer(named) else None
    return count_tokens(parts["0"]) if "0" in parts else None


def count_samples(batch: Any) -> int | None:
    """Count the samples of a batch: the first dimension of the first tensor in it.

    Args:
        batch: What the dataloader yields.

    Returns:
        The batch size, or None where no tensor with a dimension is found.
    """
    return next((tensor.size(0) for tensor in tensors_in(batch) if tensor.dim()), None)


def _is_integer(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is not torch.bool
        and not value.is_floating_point()
        and not value.is_complex()
    )

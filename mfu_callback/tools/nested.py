"""Walks the nested values that dataloaders yield and models return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

_LONG = 1000


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
    """The named parts of a mapping, sequence or dataclass, or the tensors of an object; None for anything else."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) > _LONG and not isinstance(value[0], torch.Tensor | Mapping | Sequence):
            return None  # plain data, too long to search at every step
        return [(str(index), part) for index, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, torch.Tensor | type):
        return None
    # Of any other object only the tensors: its other attributes may refer back to it.
    tensors = [(name, part) for name, part in getattr(value, "__dict__", {}).items() if isinstance(part, torch.Tensor)]
    return tensors or None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for _, part in parts_of(value) or ():
            yield from tensors_in(part)

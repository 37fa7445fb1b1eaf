"""Walking through what dataloaders yield and models return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
    """The named parts of a mapping, a sequence, a dataclass or an object with tensors; None for anything else."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [(str(index), part) for index, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    attributes = getattr(value, "__dict__", None) if not isinstance(value, torch.Tensor | type) else None
    if attributes and any(isinstance(part, torch.Tensor) for part in attributes.values()):
        return list(attributes.items())
    return None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for _, part in parts_of(value) or ():
            yield from tensors_in(part)

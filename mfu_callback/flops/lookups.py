"""The integers that embeddings look up, as they were seen during a count."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor

from mfu_callback.flops.rules.operators import operator_name

_EMBEDDING = "aten::embedding"
_ROWS = ("aten::index", "aten::index_select")  # a table that is indexed by hand


class Integers(NamedTuple):
    """A tensor of integers.

    Attributes:
        shape: Its shape; of a jagged one that of its values, as one row.
        storage: The address of its memory, of which a view has the same; 0 if it has none.
    """

    shape: tuple[int, ...]
    storage: int


def integers_of(tensor: Any) -> Integers | None:
    """What identifies a tensor of integers; None for anything else."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        return None
    if tensor.dtype is torch.bool or (tensor.is_nested and tensor.layout is not torch.jagged):
        return None
    if tensor.is_nested:
        tensor = tensor.values().unsqueeze(0)
    return Integers(tuple(tensor.shape), _storage_of(tensor))


def _storage_of(tensor: torch.Tensor) -> int:
    if isinstance(tensor, FakeTensor):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # another layout, or a subclass that has none
        return 0


def looked_up(func: Any, args: tuple[Any, ...]) -> Integers | None:
    """The integers that a call of an operator looks up in a table of vectors; None if it does not.

    Args:
        func: The operator's overload.
        args: Its positional arguments.
    """
    name = operator_name(func)
    if name == _EMBEDDING:
        return integers_of(args[1])
    if name not in _ROWS or not isinstance(args[0], torch.nn.Parameter) or args[0].dim() != 2:
        return None
    if name == _ROWS[0]:
        return integers_of(args[1][0]) if len(args[1]) == 1 else None
    return integers_of(args[2]) if args[1] == 0 else None

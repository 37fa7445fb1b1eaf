"""Bytes that one call of an operator reads and writes.

Each tensor that it reads or writes counts once, at the size that it has in memory: expanded dimensions once, views not
at all. A gather (embedding, index) reads as much of its table as it returns. An operator that writes over a tensor does
not read it. What a kernel keeps in caches, reads again or needs as a workspace is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from mfu_callback.flops.rules.operators import operator_name

_ONLY_ALLOCATE = ("aten::empty", "aten::new_empty")  # the beginnings of their names
# They write over their first tensor and do not read it.
_OVERWRITE = frozenset(
    f"aten::{name}_" for name in ("copy", "fill", "zero", "normal", "uniform", "random", "bernoulli", "exponential")
)
# They read as much of their first tensor as they return.
_GATHER = frozenset({"aten::embedding", "aten::index", "aten::index_select", "aten::gather"})


class Traffic(NamedTuple):
    """Bytes read and bytes written."""

    read: int = 0
    written: int = 0


def traffic_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Traffic:
    """Bytes that a call reads and writes; none for a view and for memory that is only allocated.

    Args:
        func: The operator's overload.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
    """
    name = operator_name(func)
    if is_view(func) or name.startswith(_ONLY_ALLOCATE):
        return Traffic()
    changed: list[Any] = []
    unread: set[int] = set()
    for position, argument_name, is_out in _written_arguments(func):
        value = args[position] if position < len(args) else kwargs.get(argument_name)
        changed.append(value)
        unread.update(id(one) for one in tensors(value) if is_out or name in _OVERWRITE)
    read = [one for one in tensors((args, kwargs)) if id(one) not in unread]
    if name in _GATHER:
        read = [*read[1:], *tensors(out)]
    written = {id(one): one for one in tensors((out, changed))}
    return Traffic(_bytes_of(read), _bytes_of(written.values()))


@cache
def is_view(func: Any) -> bool:
    """Whether an operator returns its input in another form and touches no memory."""
    schema = getattr(func, "_schema", None)
    infos = [one.alias_info for one in schema.returns] if schema is not None else []
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested arguments."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str, bool], ...]:
    """Position and name of each argument that an operator writes, and whether it is only written."""
    arguments = enumerate(func._schema.arguments if hasattr(func, "_schema") else ())
    return tuple(
        (position, one.name, one.is_out)
        for position, one in arguments
        if one.alias_info is not None and one.alias_info.is_write
    )


def _bytes_of(values: Iterable[torch.Tensor]) -> int:
    return sum(_numbers(one) * one.element_size() for one in values if not one.is_nested)


def _numbers(tensor: torch.Tensor) -> int:
    """Its elements in memory: what is expanded is there once."""
    if tensor.layout is not torch.strided:
        return int(tensor.numel())
    return int(
        math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    )

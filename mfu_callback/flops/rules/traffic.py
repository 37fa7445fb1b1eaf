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

from mfu_callback.flops.rules.call import tensors_of
from mfu_callback.flops.rules.operators import operator_name

_ONLY_ALLOCATE = ("aten::empty", "aten::new_empty")  # the beginnings of their names
# Their schemas do not tell that they return their input's memory, or change its size alone.
_VIEWS_IN_EFFECT = frozenset({"aten::_unsafe_view", "aten::_reshape_alias", "aten::resize_", "aten::set_"})
# They write over their first tensor and do not read it.
_OVERWRITE = frozenset(
    f"aten::{name}_"
    for name in (
        *("copy", "fill", "zero", "normal", "uniform", "random", "bernoulli", "exponential", "cauchy", "log_normal"),
        *("geometric", "_foreach_copy", "_foreach_zero"),
    )
)
# They use a tensor's shape alone.
READ_SHAPES = frozenset(
    f"aten::{name}"
    for name in (
        *("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones"),
        "new_full",
    )
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
    is_free, is_gather, uses_shapes, written_arguments = _effects(func)
    if is_free:
        return Traffic()
    read, written = [] if uses_shapes else tensors_of((args, kwargs)), tensors_of(out)
    if is_gather:
        read = [*read[1:], *written]
    if written_arguments:
        changed: dict[int, torch.Tensor] = {}
        for position, name, is_only_written in written_arguments:
            values = tensors_of(args[position] if position < len(args) else kwargs.get(name))
            changed.update((id(one), one) for one in values)
            if is_only_written:
                read = [one for one in read if all(one is not value for value in values)]
        written = list((changed | {id(one): one for one in written}).values())
    return Traffic(_bytes_of(read), _bytes_of(written))


@cache
def is_view(func: Any) -> bool:
    """Whether an operator returns its input in another form and touches no memory."""
    schema = getattr(func, "_schema", None)
    infos = [one.alias_info for one in schema.returns] if schema is not None else []
    is_alias = bool(infos) and all(info is not None and not info.is_write for info in infos)
    return is_alias or operator_name(func) in _VIEWS_IN_EFFECT


@cache
def _effects(func: Any) -> tuple[bool, bool, bool, tuple[tuple[int, str, bool], ...]]:
    """Whether an operator moves nothing, is a gather, or uses shapes alone; and the arguments that it writes.

    Of each of these the position, the name, and whether it is only written.
    """
    name = operator_name(func)
    arguments = enumerate(func._schema.arguments if hasattr(func, "_schema") else ())
    written = tuple(
        (position, one.name, one.is_out or name in _OVERWRITE)
        for position, one in arguments
        if one.alias_info is not None and one.alias_info.is_write
    )
    is_free = is_view(func) or name.startswith(_ONLY_ALLOCATE)
    return is_free, name in _GATHER, name in READ_SHAPES, written


def _bytes_of(values: Iterable[torch.Tensor]) -> int:
    return sum([_numbers(one) * one.element_size() for one in values if not one.is_nested])


def _numbers(tensor: torch.Tensor) -> int:
    """Its elements in memory: what is expanded is there once."""
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return int(tensor.numel())
    return int(
        math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    )

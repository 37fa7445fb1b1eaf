"""Walks the nested values that dataloaders yield and models return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn

_LONG = 1000
_MOST_VISITED = 1000  # objects inside one, which may refer to much more than a batch
_PLAIN = (int, float, complex, str, bytes, bytearray, type(None), np.ndarray, np.generic)
_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.Generator)
_NEVER_DATA = (*_PLAIN, *_OF_TORCH, type, FunctionType, MethodType, ModuleType, nn.Module, Iterator)
_EMPTY: WeakSet[type] = WeakSet()  # kinds of objects for which pickle has written no part: it may take long


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
    """The named parts of a mapping, sequence or dataclass, or the tensors inside an object; None for anything else.

    Lightning moves the tensors of the first three to the device. Any other object moves itself, so its tensors may be
    anywhere in it: in attributes, slots, a store, or objects in these. They are named by their way from the object.
    """
    if isinstance(value, (torch.Tensor, *_NEVER_DATA)):
        return None
    return _members(value) if _is_container(value) else list(_tensors_inside(value)) or None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for _, part in parts_of(value) or ():
            yield from tensors_in(part)


def is_plain_sequence(value: Any) -> bool:
    """Whether a value is a tuple, a list or another sequence, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping) or is_plain_sequence(value) or is_dataclass(value)


def _members(container: Any) -> list[tuple[str, Any]] | None:
    if isinstance(container, Mapping):
        return [(str(key), part) for key, part in container.items()]
    if is_dataclass(container):
        return [(field.name, getattr(container, field.name, None)) for field in fields(container)]
    if len(container) > _LONG and not isinstance(container[0], torch.Tensor | Mapping | Sequence):
        return None  # plain data, too long to search at every step
    return [(str(index), part) for index, part in enumerate(container)]


def _tensors_inside(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that an object holds, by the names on the way to them; nothing is asked for twice."""
    seen: set[int] = set()
    waiting = [("", value)]
    while waiting and len(seen) < _MOST_VISITED:
        name, part = waiting.pop()
        if isinstance(part, torch.Tensor):
            yield name, part
        elif id(part) not in seen and not isinstance(part, _NEVER_DATA):
            seen.add(id(part))
            inside = (_members(part) if _is_container(part) else _attributes(part)) or []
            waiting += [(f"{name}.{key}" if name else key, inner) for key, inner in reversed(inside)]


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, read without its own code for attributes, which may make some up."""
    if isinstance(value, Set):
        return [(str(index), part) for index, part in enumerate(value)]
    held: dict[str, Any] = {}
    for name, slot in _slots(type(value)):
        with suppress(AttributeError):  # it is not set
            held[name] = slot.__get__(value)
    with suppress(AttributeError):
        held |= object.__getattribute__(value, "__dict__")
    return list((held or _pickled(value)).items())


def _slots(kind: type) -> Iterator[tuple[str, MemberDescriptorType]]:
    """The slots of a class and its bases, in the order of their declaration."""
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            slot = vars(base).get(f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") else name)
            if isinstance(slot, MemberDescriptorType):
                yield name, slot


def _pickled(value: Any) -> dict[str, Any]:
    """What pickle would write of an object that has no attributes, such as one of an extension in C."""
    if type(value) in _EMPTY:
        return {}
    with suppress(Exception):  # it cannot be pickled, for whatever reason
        reduced = value.__reduce_ex__(2)
        parts = () if isinstance(reduced, str) else reduced[1:3]
        if any(isinstance(tensor, torch.Tensor) for tensor in tensors_in(parts)):
            return {str(index): part for index, part in enumerate(parts)}
    _EMPTY.add(type(value))
    return {}

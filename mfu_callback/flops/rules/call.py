"""One call of an operator as the rules see it, and the FLOPs that a rule finds in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor


class UncountableError(Exception):
    """Raised by a rule for a call whose FLOPs its arguments do not determine; the message says why."""


class Work(NamedTuple):
    """FLOPs of one call.

    Attributes:
        flops: FLOPs of the pass in which the operator runs.
        backward: FLOPs of gradients that a fused operator computes in its forward.
        recomputed: FLOPs that a fused backward operator computes a second time.
    """

    flops: int
    backward: int = 0
    recomputed: int = 0

    def times(self, number: int) -> Work:
        """The FLOPs of several equal calls."""
        return self if number == 1 else Work(*(number * flops for flops in self))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator.

    Attributes:
        arguments: All arguments by their names in the operator's schema, with defaults.
        out: What it returned.
        attention: The convention for attention: "full" or "causal".
        notes: Receives remarks on how this call was counted.
    """

    arguments: Mapping[str, Any]
    out: Any
    attention: str = "full"
    notes: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, *names: str) -> Any:
        """The first of these arguments that the operator has, or None."""
        return next((self.arguments[name] for name in names if name in self.arguments), None)


Rule = Callable[[Call], int | Work]


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by their names in the operator's schema."""
    names_and_defaults = _signature(func)
    bound = {name: default for name, default in names_and_defaults if default is not _REQUIRED}
    bound.update(zip((name for name, _ in names_and_defaults), args, strict=False))
    return bound | kwargs


def with_defaults(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All arguments of an operator's schema; torch leaves those out that equal their defaults."""
    if not isinstance(func, torch._ops.OpOverload):
        return args, kwargs
    bound = bind(func, args, kwargs)
    known = [one for one in func._schema.arguments if one.name in bound]
    positional = tuple(bound[one.name] for one in known if not one.kwarg_only)
    return positional, {one.name: bound[one.name] for one in known if one.kwarg_only}


def tensors_of(values: Any) -> list[torch.Tensor]:
    """All tensors in an operator's arguments or results; a tenth of the time that torch's pytree takes."""
    found: list[torch.Tensor] = []
    _collect(values, found)
    return found


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, tuple | list):
        for part in value:
            _collect(part, found)
    elif isinstance(value, dict):
        for part in value.values():
            _collect(part, found)


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether a tensor has values; on the meta device and in a replay of compiled code it has none."""
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def multiplied_dtype(args: tuple[Any, ...]) -> str:
    """The name of the dtype that an operator multiplies: that of its first tensor, or of a complex tensor's parts."""
    dtype = next((tensor.dtype for tensor in tensors_of(args)), None)
    return str(dtype.to_real() if dtype is not None else dtype).removeprefix("torch.")


_REQUIRED = object()
# The operators that flex_attention calls have no schema; these are the names of their first arguments.
_WITHOUT_SCHEMA = {
    "flex_attention": ("query", "key", "value", "score_mod", "block_mask"),
    "flex_attention_backward": (
        *("query", "key", "value", "out", "logsumexp", "grad_out", "grad_logsumexp"),
        *("fw_graph", "joint_graph", "block_mask"),
    ),
}


@cache
def _signature(func: Any) -> tuple[tuple[str, Any], ...]:
    if isinstance(func, torch._ops.OpOverload):
        return tuple(
            (argument.name, argument.default_value if argument.has_default_value() else _REQUIRED)
            for argument in func._schema.arguments
        )
    return tuple((name, _REQUIRED) for name in _WITHOUT_SCHEMA.get(func.name(), ()))

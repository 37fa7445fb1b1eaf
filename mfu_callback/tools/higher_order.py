"""Lets a dispatch mode run under higher-order operators where torch itself does not ask modes for it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# The names of the operators that call a kind of mode by now.
_ACCEPTING: dict[type[TorchDispatchMode], set[str]] = defaultdict(set)


def accept_higher_order_operators(kind: type[TorchDispatchMode]) -> None:
    """Have every higher-order operator that there is now call a kind of mode, as it calls it for any other operator.

    A torch whose modes have no ``supports_higher_order_operators`` raises from an operator that does not know the
    running mode; what it compiles calls such operators too, where it keeps the random state for a recomputation.

    Args:
        kind: The class of the mode.
    """
    if hasattr(TorchDispatchMode, "supports_higher_order_operators"):
        return
    operators: dict[str, Any] = torch._ops._higher_order_ops
    for name in operators.keys() - _ACCEPTING[kind]:
        operators[name].py_impl(kind)(_handler(operators[name]))
        _ACCEPTING[kind].add(name)


def _handler(operator: Any) -> Any:
    def handle(mode: TorchDispatchMode, *args: Any, **kwargs: Any) -> Any:
        return mode.__torch_dispatch__(operator, (), args, kwargs)  # type: ignore[no-untyped-call]

    return handle

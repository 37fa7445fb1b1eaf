"""What the dispatch modes of an older torch lack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Dispatch = TypeVar("Dispatch", bound=Callable[..., Any])

# The names of the operators that call a kind of mode by now.
_ACCEPTING: dict[type[TorchDispatchMode], set[str]] = defaultdict(set)


def uncompiled_dispatch(dispatch: Dispatch) -> Dispatch:
    """Have Dynamo pass by a mode's ``__torch_dispatch__``, as a newer torch does for every mode.

    Else it compiles what the mode does with an operator at which compiled code breaks off.
    """
    if hasattr(TorchDispatchMode, "_should_skip_dynamo"):
        return dispatch
    skipped: Dispatch = torch._disable_dynamo(dispatch)  # type: ignore[attr-defined, assignment]
    return skipped


def has_higher_order_operators() -> bool:
    """Whether torch asks modes for higher-order operators before it traces what these run."""
    return hasattr(TorchDispatchMode, "supports_higher_order_operators")


def accept_higher_order_operators(kind: type[TorchDispatchMode]) -> None:
    """Have every higher-order operator that there is now call a kind of mode, as it calls it for any other operator.

    A torch whose modes have no ``supports_higher_order_operators`` raises from an operator that does not know the
    running mode; what it compiles calls such operators too, where it keeps the random state for a recomputation.

    Args:
        kind: The class of the mode.
    """
    if has_higher_order_operators():
        return
    operators: dict[str, Any] = torch._ops._higher_order_ops
    for name in operators.keys() - _ACCEPTING[kind]:
        operators[name].py_impl(kind)(_handler(operators[name]))
        _ACCEPTING[kind].add(name)


def _handler(operator: Any) -> Any:
    def handle(mode: TorchDispatchMode, *args: Any, **kwargs: Any) -> Any:
        return mode.__torch_dispatch__(operator, (), args, kwargs)  # type: ignore[no-untyped-call]

    return handle

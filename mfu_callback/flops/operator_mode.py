"""A dispatch mode that passes every operator to a counter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves, tree_map_only

from mfu_callback.flops.rules.operators import has_rule, operator_name
from mfu_callback.tools.dispatch_modes import (
    accept_higher_order_operators,
    has_higher_order_operators,
    uncompiled_dispatch,
)
from mfu_callback.tools.torch_features import say_missing

# Higher-order operators that run functions: what runs is seen operator by operator. In a replay of compiled code it is
# not known which branch runs, or how often a loop does; they are named there.
CONTROL_FLOW = frozenset({"cond", "while_loop", "scan", "associative_scan", "map_impl"})
_BODY = (FunctionType, GraphModule)
_OPAQUE = torch._C._disabled_torch_dispatch_impl


class OperatorMode(TorchDispatchMode):
    """Runs every operator unchanged and reports it afterwards.

    Args:
        see: Called with the operator, its positional and keyword arguments, and what it returned.
    """

    supports_higher_order_operators = True

    def __init__(self, see: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        accept_higher_order_operators(OperatorMode)
        self._see = see
        self._running = 0

    @property
    def is_in_operator(self) -> bool:
        """Whether an operator is running, whose inner operators are not reported."""
        return self._running > 0

    @classmethod
    def is_infra_mode(cls) -> bool:
        """True, so that Dynamo compiles a function first called under this mode instead of skipping it for good."""
        return True

    @uncompiled_dispatch
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(_unwraps_itself(kind) for kind in types):
            return NotImplemented  # a jagged tensor then calls operators on its values, which arrive here
        if torch.is_inference_mode_enabled() and not (has_rule(func) and _has_nested(args)):
            # In inference mode composite operators (matmul, einsum) arrive whole; run their decomposition instead.
            with self:
                out = func.decompose(*args, **kwargs) if hasattr(func, "decompose") else NotImplemented
            if out is not NotImplemented:
                return out
        if isinstance(func, HigherOrderOperator) and operator_name(func) in CONTROL_FLOW and not has_fake(args):
            if has_higher_order_operators():
                return func(*tree_map_only(_BODY, self._watched, args), **tree_map_only(_BODY, self._watched, kwargs))
            say_missing("TorchDispatchMode.supports_higher_order_operators")
        self._running += 1
        try:
            out = func(*args, **kwargs)
        finally:
            self._running -= 1
        self._see(func, args, kwargs, out)
        return out

    def _watched(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """A body of control flow, whose operators this mode sees too."""

        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return body(*args, **kwargs)

        return run


@contextmanager
def modes_off() -> Iterator[None]:
    """A context in which no counter sees an operator, as far as no mode of another kind is inside of theirs."""
    modes: list[OperatorMode] = []
    while isinstance(innermost := _get_current_dispatch_mode(), OperatorMode):
        innermost.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        modes.append(innermost)
    try:
        yield
    finally:
        for mode in reversed(modes):
            mode.__enter__()  # type: ignore[no-untyped-call]


@cache
def _unwraps_itself(kind: type) -> bool:
    own = getattr(kind, "__torch_dispatch__", _OPAQUE)
    return (
        own is not _OPAQUE
        and own is not getattr(torch.Tensor, "__torch_dispatch__", None)
        # A DTensor's operator is counted whole: its local tensors are shards, and fake ones run to infer shapes.
        # A FunctionalTensor, of a compiler that leaves this mode on (DDP's), is for the mode below.
        and not issubclass(kind, FakeTensor | FunctionalTensor)
        and not hasattr(kind, "device_mesh")
    )


def has_fake(values: Any) -> bool:
    """Whether any tensor in an operator's arguments is fake."""
    return any(isinstance(leaf, FakeTensor) for leaf in tree_leaves(values))


def _has_nested(args: tuple[Any, ...]) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.is_nested for leaf in tree_leaves(args))

"""Counting while a forward pass really runs: hooks on modules with a rule, a dispatch mode for all the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from mfu_callback.flops.compiled import CompiledRegion, compiled_regions, fake_replica
from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.module_rules import OWN_RULES, THOP_TYPES, has_rule, thop_macs
from mfu_callback.flops.operator_rules import computes_without_rule, has_operator_rule, operator_flops


class ForwardCounter:
    """Counts the model FLOPs of the forward work that runs inside its ``with`` block.

    Modules with a rule count themselves; a dispatch mode counts the operators that run outside of them, backward
    passes left out. Compiled regions never see the mode or a hook: what goes into them is replayed, uncompiled, on a
    replica of fake tensors, which takes no memory and computes nothing. All of it is gone when the block is left,
    also by an exception, which passes through unchanged.

    Counting never raises into the code that it watches: what goes wrong in it is kept in :attr:`error`.

    Args:
        module: The module whose submodules' rules apply.
        module_rules: False counts operators alone.
    """

    def __init__(self, module: nn.Module, *, module_rules: bool = True) -> None:
        self.error: Exception | None = None
        self._module = module
        self._module_rules = module_rules
        self._mode: Any = _OperatorMode(self)
        self._cleanup = ExitStack()
        self._inside: list[object] = []  # the counted modules and compiled functions that are running now
        self._thop = 0
        self._functional = 0
        self._uncounted: set[str] = set()

    def __enter__(self) -> ForwardCounter:
        self._guarded(self._install)
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self._cleanup.close()

    def result(self) -> FlopCount:
        """The count so far.

        Raises:
            RuntimeError: If counting failed; the cause is attached.
        """
        if self.error is not None:
            raise RuntimeError(f"FLOPs could not be counted: {self.error}") from self.error
        return FlopCount(
            forward=self._thop + self._functional,
            thop=self._thop,
            functional=self._functional,
            uncounted=tuple(sorted(self._uncounted)),
        )

    def call_compiled(
        self, owner: nn.Module, method: str, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call a compiled function and count the same method of an uncompiled replica of its owner.

        Args:
            owner: The module that the function was compiled from.
            method: The name of the owner's method that was compiled.
            function: The compiled function.
            *args: What it is called with.
            **kwargs: Likewise.
        """
        self._guarded(lambda: self._count_replay(owner, method, args, kwargs))
        self._inside.append(function)
        try:
            with _Suspended(self._mode):
                return function(*args, **kwargs)
        finally:
            self._inside.pop()

    def _install(self) -> None:
        regions = compiled_regions(self._module)
        for region in regions:
            self._cleanup.callback(region.intercept(self._around(region)))
        if self._module_rules:
            hidden = {inner for region in regions for inner in region.module.modules()}
            self._hook([m for m in self._module.modules() if m not in hidden and has_rule(m)])

    def _around(self, region: CompiledRegion) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.call_compiled(region.module, "forward", region.function, *args, **kwargs)

        return call

    def _hook(self, modules: list[nn.Module]) -> None:
        # Last before the forward and first after it, so that what users' own hooks compute is counted as outside.
        for module in modules:
            before = module.register_forward_pre_hook(self._before)
            after = module.register_forward_hook(self._after, prepend=True, with_kwargs=True, always_call=True)
            self._cleanup.callback(before.remove)
            self._cleanup.callback(after.remove)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside.append(module)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._inside or self._inside[-1] is not module:  # a hook before ours has failed
            return
        self._inside.pop()
        if not self._inside and output is not None and not _in_backward():
            self._guarded(lambda: self._count_module(module, args or (kwargs["input"],), output))

    def _count_module(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        flops_per_mac = 8 if isinstance(output, torch.Tensor) and output.is_complex() else 2
        if type(module) in THOP_TYPES:
            self._thop += flops_per_mac * thop_macs(module, inputs, output)
        else:
            self._functional += flops_per_mac * OWN_RULES[type(module)](module, inputs, output)

    def _count_replay(self, owner: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with _Suspended(self._mode):
            replica = fake_replica(owner)
            counter = ForwardCounter(replica.module, module_rules=self._module_rules)
            replica.call(method, args, kwargs, within=counter)
        count = counter.result()
        self._thop += count.thop
        self._functional += count.functional
        self._uncounted.update(count.uncounted)

    def count_operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Add one operator's call, unless a module's rule or a backward pass accounts for it."""
        if not self._inside and not _in_backward():
            self._guarded(lambda: self._count_operator(func, args, kwargs, out))

    def _count_operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        flops = operator_flops(func, args, kwargs, out)
        if flops is not None:
            self._functional += flops
        elif computes_without_rule(func):
            self._uncounted.add(str(func.name()).split(".")[0])

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.error = self.error or error


def _in_backward() -> bool:
    # Also true for what activation checkpointing runs a second time there.
    return torch._C._current_graph_task_id() != -1


class _OperatorMode(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, counter: ForwardCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    @classmethod
    def is_infra_mode(cls) -> bool:
        # Dynamo then compiles a function that is first called under this mode, instead of skipping it for good.
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and not has_operator_rule(func):
            # Here composite operators (matmul, einsum) arrive whole; their own decomposition is what would run.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._counter.count_operator(func, args, kwargs, out)
        return out


class _Suspended:
    """Takes a mode off the stack for the length of a block, where it is the innermost one."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._taken_off = False

    def __enter__(self) -> None:
        self._taken_off = _get_current_dispatch_mode() is self._mode
        if self._taken_off:
            self._mode.__exit__(None, None, None)

    def __exit__(self, *exception: object) -> None:
        if self._taken_off:
            self._mode.__enter__()

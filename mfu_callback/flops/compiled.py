"""Counting what `torch.compile` has compiled, without touching it.

A dispatch mode or a module hook inside a compiled region changes what Dynamo compiles (it may skip the frame for the
rest of the run). So a region is called exactly as it would be without us, and its inputs are replayed through an
uncompiled copy of the module whose parameters, buffers and inputs are fake tensors: shapes without storage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

# What a module may refer to that must be neither copied nor faked: its trainer and the like.
_SHARED_ATTRIBUTES = ("_trainer", "_fabric")


@dataclass(frozen=True, slots=True)
class CompiledRegion:
    """One compiled module: where the compiled function hangs that its calls go through, and that function."""

    module: nn.Module
    holder: nn.Module
    attribute: str
    function: Callable[..., Any]

    def intercept(self, call: Callable[..., Any]) -> Callable[[], None]:
        """Route the region's calls through ``call``; returns what undoes that."""
        namespace = vars(self.holder)
        namespace[self.attribute] = call
        return lambda: namespace.update({self.attribute: self.function})


def compiled_regions(module: nn.Module) -> list[CompiledRegion]:
    """The outermost compiled modules of a tree, compiled by `torch.compile(module)` or `module.compile()`."""
    if isinstance(module, OptimizedModule):
        return [CompiledRegion(module._orig_mod, module, "forward", vars(module)["forward"])]
    if (in_place := vars(module).get("_compiled_call_impl")) is not None:
        return [CompiledRegion(module, module, "_compiled_call_impl", in_place)]
    return [region for child in module.children() for region in compiled_regions(child)]


@dataclass(frozen=True, slots=True)
class FakeReplica:
    """An uncompiled copy of a module that has fake parameters and buffers."""

    module: nn.Module
    fake_mode: FakeTensorMode

    def call(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, within: AbstractContextManager[Any]
    ) -> None:
        """Call a method of the copy on fake versions of these inputs, inside the given context."""
        args, kwargs = tree_map_only(torch.Tensor, self.fake_mode.from_tensor, (args, kwargs))
        with torch.compiler.set_stance("force_eager"), self.fake_mode, within:
            getattr(self.module, method)(*args, **kwargs)


def fake_replica(module: nn.Module) -> FakeReplica:
    """Copy a module's structure, not its storage.

    Raises:
        Exception: Whatever `copy.deepcopy` raises for an attribute that cannot be copied.
    """
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {id(t): fake_mode.from_tensor(t) for t in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        shared = (vars(part).get(name) for name in _SHARED_ATTRIBUTES)
        memo.update((id(value), value) for value in shared if value is not None)
    replica = copy.deepcopy(module, memo)
    for part in replica.modules():
        _drop_compiled_methods(part)
    return FakeReplica(replica, fake_mode)


def _drop_compiled_methods(module: nn.Module) -> None:
    for name, value in list(vars(module).items()):
        if hasattr(value, "_torchdynamo_orig_callable") and not isinstance(value, nn.Module):
            del vars(module)[name]

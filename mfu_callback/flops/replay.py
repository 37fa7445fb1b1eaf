"""Replays calls of compiled code, uncompiled, on fake tensors, which are shapes without storage.

The function runs a second time, so it must not change anything of the user's. It runs on a deep copy of everything
that it refers to, in which every tensor is replaced by a fake. What cannot be copied cannot be replayed.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mfu_callback.tools.dispatch_modes import accept_higher_order_operators, uncompiled_dispatch
from mfu_callback.tools.dynamo import uncompiled
from mfu_callback.tools.nested import tensors_in
from mfu_callback.tools.shards import SHARDED_MODULES, SHARDED_TENSORS

# Attributes of a module that must not be copied, such as its trainer.
_SHARED_ATTRIBUTES = ("_trainer", "_fabric")
# Methods of a LightningModule that act outside of it.
_SILENCED_METHODS = ("log", "log_dict", "print")
# Kinds of globals that a function may change. Others (classes, settings, tokenizers) are not copied.
_CHANGEABLE_GLOBALS = (nn.Module, MethodType, FunctionType, list, dict, set)

Function = Callable[..., Any]


class Replay:
    """A call of a function on fakes of everything that it refers to, with its backward pass if there is one.

    A real tensor that is still reached is replaced by a fake before an operator uses it.

    Args:
        root: The model, whose modules have names.
        function: The uncompiled function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Attributes:
        modules: The copies of the root's modules by the ids of their originals.

    Raises:
        Exception: Any exception that copying raises.
    """

    def __init__(self, root: nn.Module, function: Function, args: Any, kwargs: Any) -> None:
        self._fakes = _Fakes(root)
        self._call = self._fakes.of((function, args, kwargs))
        self.modules = self._fakes.copies_of(root)
        for module in self.modules.values():
            _silence(module)

    def run(self, within: AbstractContextManager[Any], *, backward: bool = True) -> None:
        """Run the call inside a context that watches its operators.

        Args:
            within: The context.
            backward: Whether to run the backward pass of the returned tensors too.

        Raises:
            Exception: Any exception of the function, for example because it needs the values of tensors.
        """
        function, args, kwargs = self._call
        stray = _StrayTensors(self._fakes)
        with _surroundings_kept(), self._fakes.mode, within, stray:
            try:
                out = function(*args, **kwargs)
                if backward and torch.is_grad_enabled():
                    _backward(out, [*self._fakes.leaves, *stray.leaves()])
            finally:
                stray.put_gradients_back()


def _backward(out: Any, leaves: list[torch.Tensor]) -> None:
    differentiable = [tensor for tensor in tensors_in(out) if tensor.requires_grad]
    if differentiable and leaves:
        gradients = [torch.ones_like(tensor) for tensor in differentiable]
        torch.autograd.grad(differentiable, leaves, gradients, allow_unused=True)


class _StrayTensors(TorchDispatchMode):
    """Replaces real tensors by fakes before an operator uses them."""

    supports_higher_order_operators = True

    def __init__(self, fakes: _Fakes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        accept_higher_order_operators(_StrayTensors)
        self._fakes = fakes
        self._gradients: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    @uncompiled_dispatch
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, self._faked, (args, kwargs or {}))
        return func(*args, **kwargs)

    def leaves(self) -> list[torch.Tensor]:
        """The real leaves that were reached; their gradients are computed but never accumulated."""
        return [tensor for tensor, _ in self._gradients.values()]

    def put_gradients_back(self) -> None:
        """Restore the gradients of real leaves, which become fake if the function itself calls backward."""
        for tensor, gradient in self._gradients.values():
            if tensor.grad is not gradient:
                tensor.grad = gradient

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor.requires_grad and tensor.is_leaf:
            self._gradients.setdefault(id(tensor), (tensor, tensor.grad))
        return self._fakes.stand_in(tensor)


class _Fakes:
    """Makes deep copies in which every tensor is fake; the same original always gives the same copy."""

    def __init__(self, root: nn.Module) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        self.leaves: list[torch.Tensor] = []  # the leaves of the backward pass
        self._memo: dict[int, Any] = {}
        self._kept: list[torch.Tensor] = []  # kept alive, so that no id in the memo is reused
        copiers: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
            FunctionType: self._of_function,
            MethodType: self._of_method,
            ModuleType: lambda value, memo: value,
            OptimizedModule: lambda module, memo: self._deepcopy(module._orig_mod, memo),
            FakeTensor: lambda tensor, memo: tensor,
            **dict.fromkeys((torch.Tensor, nn.Parameter), self._of_tensor),
            **dict.fromkeys(SHARDED_TENSORS, self._of_shard),
        }
        for part in root.modules():
            if isinstance(part, SHARDED_MODULES):  # they refuse to be copied
                copiers[type(part)] = self._unsharded
            for name in _SHARED_ATTRIBUTES:
                if (value := vars(part).get(name)) is not None:
                    self._memo[id(value)] = value
        self._deepcopy = _own_deepcopy(copiers)

    def of(self, value: Any) -> Any:
        """A deep copy of a value, by the copiers or else as `copy.deepcopy` does it."""
        return self._deepcopy(value, self._memo)

    def copies_of(self, root: nn.Module) -> dict[int, nn.Module]:
        """The copies made of a module and its submodules, by the ids of their originals."""
        return {id(part): self._memo[id(part)] for part in root.modules() if id(part) in self._memo}

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake of a real tensor, without autograd history."""
        if id(tensor) not in self._memo:
            self._kept.append(tensor)
            self._memo[id(tensor)] = self.mode.from_tensor(tensor.detach())
        return cast(torch.Tensor, self._memo[id(tensor)])

    def _of_tensor(self, tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        if not tensor.requires_grad:
            return self.mode.from_tensor(tensor)
        if tensor.is_leaf:
            return self._as_leaf(self.mode.from_tensor(tensor))
        # A fake of a non-leaf cannot run a backward pass, and a leaf cannot be changed in place: clone a new leaf.
        with torch.enable_grad(), self.mode:
            return self._as_leaf(self.mode.from_tensor(tensor.detach()).requires_grad_()).clone()

    def _of_shard(self, tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        with self.mode:  # the whole tensor, as FSDP gathers it for the forward pass
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return self._as_leaf(whole.requires_grad_()) if tensor.requires_grad else whole

    def _as_leaf(self, fake: torch.Tensor) -> torch.Tensor:
        self.leaves.append(fake)
        return fake

    def _unsharded(self, module: nn.Module, memo: dict[int, Any]) -> nn.Module:
        """A copy of an FSDP2 module in its state before sharding."""
        plain = next(kind for kind in type(module).__mro__ if not issubclass(kind, SHARDED_MODULES))
        twin = memo[id(module)] = cast(nn.Module, object.__new__(plain))
        for name, value in vars(module).items():
            if not name.startswith("__composable_api"):
                kept = _without_hooks_of_fsdp(value) if name.endswith(("_hooks", "_hooks_with_kwargs")) else value
                vars(twin)[name] = self._deepcopy(kept, memo)
        return twin

    def _of_method(self, method: MethodType, memo: dict[int, Any]) -> MethodType:
        return MethodType(self._deepcopy(method.__func__, memo), self._deepcopy(method.__self__, memo))

    def _of_function(self, function: FunctionType, memo: dict[int, Any]) -> Any:
        """A copy of a function, with copies of its closure and of the globals that it may change."""
        if hasattr(function, "_torchdynamo_orig_callable"):  # compiled: copy its original
            return self._deepcopy(function._torchdynamo_orig_callable, memo)
        of_distributed = (function.__module__ or "").startswith("torch.distributed")  # it holds process groups
        if of_distributed or not (function.__closure__ or _is_users(function)):
            return function
        scope = dict(function.__globals__) if _is_users(function) else function.__globals__
        cells = tuple(CellType() for _ in function.__closure__ or ())
        twin = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, cells)
        twin.__kwdefaults__, twin.__qualname__ = function.__kwdefaults__, function.__qualname__
        vars(twin).update(vars(function))
        memo[id(function)] = twin  # it may refer to itself
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            self._fill(cell, original, memo)
        if scope is not function.__globals__:
            for name in function.__code__.co_names:
                if isinstance(value := scope.get(name), _CHANGEABLE_GLOBALS):
                    scope[name] = self._deepcopy(value, memo)
        return twin

    def _fill(self, cell: CellType, original: CellType, memo: dict[int, Any]) -> None:
        try:
            contents = original.cell_contents
        except ValueError:  # not assigned yet
            return
        cell.cell_contents = self._deepcopy(contents, memo)


def _own_deepcopy(copiers: dict[type, Callable[[Any, dict[int, Any]], Any]]) -> Callable[[Any, dict[int, Any]], Any]:
    """A `copy.deepcopy` that prefers these copiers to a type's own way.

    It belongs to a second instance of the module `copy`, so that other users of `copy` are not affected.
    """
    spec = importlib.util.find_spec("copy")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._deepcopy_dispatch.update(copiers)
    return cast(Callable[[Any, dict[int, Any]], Any], module.deepcopy)


def _is_users(function: FunctionType) -> bool:
    """Whether a function is the user's own code; libraries are trusted not to change their globals."""
    return "site-packages" not in function.__code__.co_filename and "/lib/python" not in function.__code__.co_filename


def _without_hooks_of_fsdp(hooks: Any) -> Any:
    kept = ((key, hook) for key, hook in hooks.items() if "fsdp" not in getattr(hook, "__module__", ""))
    return type(hooks)(kept)


def _silence(module: nn.Module) -> None:
    vars(module).update((name, _do_nothing) for name in _SILENCED_METHODS if hasattr(type(module), name))


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def _surroundings_kept() -> Iterator[None]:
    """A context that restores random states and hides the fakes from compilers and hooks around the call."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with uncompiled(), torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


def _itself(tensor: Any) -> Any:
    return tensor

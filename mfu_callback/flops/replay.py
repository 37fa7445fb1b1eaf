"""Counting compiled code: its call is replayed, uncompiled, on fake tensors, which are shapes without storage."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CellType, FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from mfu_callback.nested import tensors_in

_SHARDED_MODULES: tuple[type, ...] = ()
_SHARDED_TENSORS: tuple[type, ...] = ()
if torch.distributed.is_available():  # some builds of torch are made without
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    _SHARDED_MODULES, _SHARDED_TENSORS = (FSDPModule,), (DTensor,)

# What a module may refer to that must be neither copied nor faked: its trainer and the like.
_SHARED_ATTRIBUTES = ("_trainer", "_fabric")
# Methods of a LightningModule that reach out of it.
_SILENCED_METHODS = ("log", "log_dict", "print")

Function = Callable[..., Any]


class Replay:
    """A call of a function on fakes of its arguments and modules, with the backward where there is one.

    Modules are copied from where they are referred to: the arguments, the object of a method, the closure and the
    globals of a function. A real tensor that is reached in any other way is replaced by a fake when an operator gets
    it, so that nothing real is computed or written.

    Args:
        function: The uncompiled function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Attributes:
        modules: The copies of the modules, by the ids of their originals.

    Raises:
        Exception: Whatever copying an attribute raises.
    """

    def __init__(self, function: Function, args: Any, kwargs: Any) -> None:
        self._fakes = _Fakes()
        self._call = self._fakes.of(function), self._fakes.of(args), self._fakes.of(kwargs)
        self.modules = self._fakes.modules

    def run(self, within: AbstractContextManager[Any]) -> None:
        """Run it inside a context that watches its operators.

        Raises:
            Exception: Whatever a function raises that needs the values of tensors.
        """
        function, args, kwargs = self._call
        stray = _StrayTensors(self._fakes)
        with _random_state_kept(), torch.compiler.set_stance("force_eager"), self._fakes.mode, within, stray:
            try:
                out = function(*args, **kwargs)
                if torch.is_grad_enabled():
                    _backward(out, [*self._fakes.leaves, *stray.leaves()])
            finally:
                stray.put_gradients_back()


def _backward(out: Any, leaves: list[torch.Tensor]) -> None:
    differentiable = [tensor for tensor in tensors_in(out) if tensor.requires_grad]
    if differentiable and leaves:
        gradients = [torch.ones_like(tensor) for tensor in differentiable]
        torch.autograd.grad(differentiable, leaves, gradients, allow_unused=True)


class _StrayTensors(TorchDispatchMode):
    """Replaces real tensors by fakes before any operator gets them."""

    supports_higher_order_operators = True

    def __init__(self, fakes: _Fakes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fakes = fakes
        self._gradients: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, self._faked, (args, kwargs or {}))
        return func(*args, **kwargs)

    def leaves(self) -> list[torch.Tensor]:
        """The real leaves that were met; their gradients are asked for, never accumulated."""
        return [tensor for tensor, _ in self._gradients.values()]

    def put_gradients_back(self) -> None:
        """Where the function itself has called backward, a real leaf was given a fake gradient."""
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
    """Copies functions, modules and tensors into fakes; the same original gives the same fake."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.modules: dict[int, nn.Module] = {}
        self.leaves: list[torch.Tensor] = []  # what the backward takes gradients of
        self._memo: dict[int, Any] = {}
        self._kept: list[torch.Tensor] = []  # so that no id in the memo is given to another tensor

    def of(self, value: Any) -> Any:
        """A fake of a value, or the value itself where it holds nothing real."""
        return tree_map(self._of_leaf, value)

    def _of_leaf(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value)
        if isinstance(value, nn.Module):
            return self._of_module(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._of_leaf(value.__self__))
        if isinstance(value, FunctionType):
            return self._of_function(value)
        return value

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake of a tensor that has met no other fake yet, without a history."""
        if id(tensor) not in self._memo:
            self._kept.append(tensor)
            self._memo[id(tensor)] = self.mode.from_tensor(tensor.detach())
        return cast(torch.Tensor, self._memo[id(tensor)])

    def _of_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.requires_grad:
            return self.mode.from_tensor(tensor)
        if tensor.is_leaf:
            return self._as_leaf(self.mode.from_tensor(tensor))
        # Fakes of what autograd has made refuse a backward, and a leaf refuses to be changed in place.
        with torch.enable_grad(), self.mode:
            return self._as_leaf(self.mode.from_tensor(tensor.detach()).requires_grad_()).clone()

    def _as_leaf(self, fake: torch.Tensor) -> torch.Tensor:
        self.leaves.append(fake)
        return fake

    def _of_module(self, module: nn.Module) -> nn.Module:
        for part in module.modules():
            self._note_state(part)
        for part in reversed([*module.modules()]):  # the inner ones first
            if isinstance(part, _SHARDED_MODULES):
                self._memo[id(part)] = self._unsharded(part)
        replica = copy.deepcopy(module, self._memo)
        for original in module.modules():
            self.modules[id(original)] = self._memo[id(original)]
        for part in replica.modules():
            _detach_from_its_surroundings(part)
        return replica

    def _note_state(self, module: nn.Module) -> None:
        """Make the fakes of all that a copy would otherwise copy."""
        for name, value in vars(module).items():
            if name in _SHARED_ATTRIBUTES:
                self._memo[id(value)] = value
            elif not isinstance(value, nn.Module):
                for tensor in tensors_in(value):
                    if id(tensor) not in self._memo:
                        self._memo[id(tensor)] = self._of_state(tensor)

    def _of_state(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, _SHARDED_TENSORS):
            return self._of_tensor(tensor)
        with self.mode:  # the whole of a shard, as FSDP gathers it for the forward
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return self._as_leaf(whole.requires_grad_()) if tensor.requires_grad else whole

    def _unsharded(self, module: nn.Module) -> nn.Module:
        """A copy of a module under FSDP2, which refuses to be copied, as it was before."""
        plain = next(kind for kind in type(module).__mro__ if not issubclass(kind, _SHARDED_MODULES))
        twin = cast(nn.Module, object.__new__(plain))
        for name, value in vars(module).items():
            if name.startswith("__composable_api"):
                continue
            kept = _without_hooks_of_fsdp(value) if name.endswith(("_hooks", "_hooks_with_kwargs")) else value
            vars(twin)[name] = copy.deepcopy(kept, self._memo)
        return twin

    def _of_function(self, function: FunctionType) -> FunctionType:
        """The function with the modules replaced that it closes over or finds among its globals.

        Other functions that it refers to stay: they may refer back to it.
        """
        cells = [self._of_cell(cell) for cell in function.__closure__ or ()]
        found = ((name, function.__globals__.get(name)) for name in function.__code__.co_names)
        replaced = {name: self._of_leaf(value) for name, value in found if _holds_module(value)}
        scope = {**function.__globals__, **replaced} if replaced else function.__globals__
        rebuilt = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, tuple(cells))
        rebuilt.__kwdefaults__ = function.__kwdefaults__
        return rebuilt

    def _of_cell(self, cell: CellType) -> CellType:
        try:
            contents = cell.cell_contents
        except ValueError:  # not assigned yet
            return cell
        return CellType(self._of_leaf(contents)) if _holds_module(contents) else cell


def _holds_module(value: Any) -> bool:
    return isinstance(value, nn.Module) or isinstance(getattr(value, "__self__", None), nn.Module)


def _without_hooks_of_fsdp(hooks: Any) -> Any:
    kept = ((key, hook) for key, hook in hooks.items() if "fsdp" not in getattr(hook, "__module__", ""))
    return type(hooks)(kept)


def _detach_from_its_surroundings(module: nn.Module) -> None:
    namespace = vars(module)
    for name, value in list(namespace.items()):
        if hasattr(value, "_torchdynamo_orig_callable") and not isinstance(value, nn.Module):
            del namespace[name]
    namespace.update((name, _do_nothing) for name in _SILENCED_METHODS if hasattr(type(module), name))


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)

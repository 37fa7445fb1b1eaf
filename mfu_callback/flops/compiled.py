"""Counting what `torch.compile` has compiled, without touching it.

A module hook inside a compiled region changes what Dynamo compiles, and so does a dispatch mode that does not declare
itself infrastructure (Dynamo may skip the frame for the rest of the run). Nor would either see what a compiled kernel
computes. So the hooks are taken out while compiled code runs, what the mode sees of it is not counted, and the inputs
are replayed through an uncompiled copy of the function whose parameters, buffers and inputs are fake tensors: shapes
without storage.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CellType, FrameType, FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
import torch._dynamo.eval_frame as eval_frame
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

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


@contextmanager
def compiled_calls_watched(before: Callable[[Function, Any, Any], None], after: Callable[[], None]) -> Iterator[None]:
    """Be told of every call of compiled code: a module compiled in any way, a function, flex_attention.

    Whatever was compiled goes through one wrapper of Dynamo's, which switches Dynamo on before the call and off after
    it, by a function of its module. That function is watched, so nothing is put on the user's objects.

    Args:
        before: Called before the outermost compiled call with the uncompiled function and its arguments.
        after: Called after it, also when it raised.
    """
    original = eval_frame._maybe_set_eval_frame
    running: list[FrameType] = []

    def watched(callback: Any) -> Any:
        caller = sys._getframe(1)
        if running and running[-1] is caller:
            running.pop()
            if not running:
                after()
        elif caller.f_code.co_name == "compile_wrapper" and callable(callback):
            running.append(caller)
            if len(running) == 1:
                before(*(caller.f_locals[name] for name in ("fn", "args", "kwargs")))
        return original(callback)

    eval_frame._maybe_set_eval_frame = watched
    try:
        yield
    finally:
        eval_frame._maybe_set_eval_frame = original


class Replay:
    """A call of a function on fakes of its arguments and modules, with the backward where there is one.

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
        fakes = _Fakes()
        self._mode = fakes.mode
        self._call = fakes.of(function), fakes.of(args), fakes.of(kwargs)
        self.modules = fakes.modules

    def run(self, within: AbstractContextManager[Any]) -> None:
        """Run it inside a context that watches its operators.

        Raises:
            Exception: Whatever a function raises that needs the values of tensors.
        """
        function, args, kwargs = self._call
        with _random_state_kept(), torch.compiler.set_stance("force_eager"), self._mode, within:
            out = function(*args, **kwargs)
            if torch.is_grad_enabled():
                _backward(out)


def _backward(out: Any) -> None:
    differentiable = [tensor for tensor in tensors_in(out) if tensor.requires_grad]
    if differentiable:
        torch.autograd.backward(differentiable, [torch.ones_like(tensor) for tensor in differentiable])


class _Fakes:
    """Copies functions, modules and tensors into fakes; the same original gives the same fake."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.modules: dict[int, nn.Module] = {}
        self._memo: dict[int, Any] = {}

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
        if isinstance(value, FunctionType) and value.__closure__:
            return self._of_closure(value)
        return value

    def _of_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_leaf or not tensor.requires_grad:
            return self.mode.from_tensor(tensor)
        # Fakes of what autograd has made refuse a backward, and a leaf refuses to be changed in place.
        with torch.enable_grad(), self.mode:
            return self.mode.from_tensor(tensor.detach()).requires_grad_().clone()

    def _of_module(self, module: nn.Module) -> nn.Module:
        for part in module.modules():
            for value in vars(part).values():
                if isinstance(value, torch.Tensor):
                    self._memo[id(value)] = self.mode.from_tensor(value)
            shared = (vars(part).get(name) for name in _SHARED_ATTRIBUTES)
            self._memo.update((id(value), value) for value in shared if value is not None)
        for tensor in (*module.parameters(), *module.buffers()):
            self._memo.setdefault(id(tensor), self._of_state(tensor))
        for part in reversed([*module.modules()]):  # the inner ones first
            if isinstance(part, _SHARDED_MODULES):
                self._memo[id(part)] = self._unsharded(part)
        replica = copy.deepcopy(module, self._memo)
        for original in module.modules():
            self.modules[id(original)] = self._memo[id(original)]
        for part in replica.modules():
            _detach_from_its_surroundings(part)
        return replica

    def _of_state(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, _SHARDED_TENSORS):
            return self.mode.from_tensor(tensor)
        with self.mode:  # the whole of a shard, as FSDP gathers it for the forward
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return whole.requires_grad_(tensor.requires_grad)

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

    def _of_closure(self, function: FunctionType) -> FunctionType:
        """The function with the modules that it closes over replaced; others may be recursive and stay."""
        contents = [_contents(cell) for cell in function.__closure__ or ()]
        if not any(isinstance(value, nn.Module | MethodType) for value in contents):
            return function
        fakes = [self._of_leaf(v) if isinstance(v, nn.Module | MethodType) else v for v in contents]
        cells = tuple(CellType() if fake is _EMPTY else CellType(fake) for fake in fakes)
        rebuilt = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        rebuilt.__kwdefaults__ = function.__kwdefaults__
        return rebuilt


def _without_hooks_of_fsdp(hooks: Any) -> Any:
    kept = ((key, hook) for key, hook in hooks.items() if "fsdp" not in getattr(hook, "__module__", ""))
    return type(hooks)(kept)


_EMPTY = object()


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _EMPTY


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

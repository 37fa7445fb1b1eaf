"""The phases of a step in a loop that has no hooks of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mfu_callback.flops.compiled import compiled_calls_watched
from mfu_callback.meter.clock import Phase, StepClock
from mfu_callback.meter.known_circumstances import is_compiled
from mfu_callback.tools.brackets import Brackets, Function


class LoopPhases:
    """Enters the phases of a block of a loop, by what runs inside it; nothing stays on any object after the block.

    * forward: from the call of the model on, with the loss. A hook on the model would change what is compiled of a
      function that calls it, so where compiled code runs, it begins with the block.
    * backward: ``torch.autograd.backward``, which ``loss.backward()`` calls.
    * optimizer: from the end of a backward pass, if an optimizer steps next (in between gradients are clipped), to the
      end of its step.

    Args:
        clock: The clock whose phases are entered.
        module: The model, as the loop calls it.
        begin_backward: Called with the tensors that a backward pass begins from.

    Attributes:
        has_stepped: Whether an optimizer has stepped in the block.
        has_run_backward: Whether a backward pass has run in any block.
        optimizers: The optimizers that have stepped so far.
    """

    def __init__(
        self, clock: StepClock, module: nn.Module, begin_backward: Callable[[list[torch.Tensor]], None]
    ) -> None:
        self._clock = clock
        self._called = _called_modules(module)
        self._begin_backward = begin_backward
        # TorchScript takes no such hooks.
        scripted = any(isinstance(one, torch.jit.ScriptModule) for one in self._called)
        self._runs_compiled = scripted or is_compiled(module)
        self._is_first = True
        self._thread = 0
        self._in_optimizer = False
        self.has_stepped = False
        self.has_run_backward = False
        self.optimizers: list[torch.optim.Optimizer] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A context that enters the phases of what runs inside it."""
        self._thread, self._in_optimizer, self.has_stepped = get_ident(), False, False
        brackets = Brackets()
        with ExitStack() as stack:
            stack.callback(brackets.remove)
            brackets.put(torch.autograd, "backward", self._around_backward)
            stack.callback(register_optimizer_step_pre_hook(self._before_optimizer).remove)
            stack.callback(register_optimizer_step_post_hook(self._after_optimizer).remove)
            if self._is_first:
                stack.enter_context(compiled_calls_watched(self._note_compiled, lambda: None))
            if self._is_first or self._runs_compiled:
                self._clock.enter(Phase.FORWARD)
            else:
                self._clock.enter(Phase.OTHER)
                self._watch_calls(stack)
            self._is_first = False
            yield
        self._clock.enter(Phase.OTHER)

    def _watch_calls(self, stack: ExitStack) -> None:
        for module in self._called:
            hook = _UncopiedHook(self._before_forward)
            stack.callback(module.register_forward_pre_hook(hook, prepend=True).remove)

    def _note_compiled(self, *_: Any) -> None:
        self._runs_compiled = True

    def _before_forward(self) -> None:
        # Inside a backward pass a checkpoint runs it again.
        if self._is_this_loop() and self._clock.phase is not Phase.BACKWARD:
            self._clock.enter(Phase.FORWARD)

    def _around_backward(self, backward: Function) -> Function:
        @functools.wraps(backward)
        def call(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_this_loop() or self._clock.phase is Phase.BACKWARD:
                return backward(tensors, *args, **kwargs)
            tensors = readable_twice(tensors)
            if self._clock.phase is Phase.OTHER:  # the model was not called by its name: a method of it was, or a part
                self._clock.rename(Phase.FORWARD)
            self._clock.enter(Phase.BACKWARD)
            self.has_run_backward = True
            self._begin_backward(_tensors_of(tensors))
            try:
                return backward(tensors, *args, **kwargs)
            finally:
                self._clock.enter(Phase.OPTIMIZER if self._in_optimizer else Phase.OTHER)

        return call

    def _before_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._is_this_loop():
            return
        self._in_optimizer = True
        if self._clock.phase is Phase.OTHER:  # what came since the backward pass: gradients were clipped
            self._clock.rename(Phase.OPTIMIZER)
        else:
            self._clock.enter(Phase.OPTIMIZER)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._is_this_loop():
            return
        self._in_optimizer, self.has_stepped = False, True
        if not any(one is optimizer for one in self.optimizers):
            self.optimizers.append(optimizer)
        self._clock.enter(Phase.OTHER)

    def _is_this_loop(self) -> bool:
        return get_ident() == self._thread


class _UncopiedHook:
    """A hook whose copies do nothing: those of a model that is copied or pickled in the block.

    Args:
        call: Called without the module and its inputs; None for a copy.
    """

    def __init__(self, call: Callable[[], None] | None = None) -> None:
        self._call = call

    def __call__(self, *_: Any) -> None:
        if self._call is not None:
            self._call()

    def __reduce__(self) -> tuple[type[_UncopiedHook], tuple[()]]:
        return _UncopiedHook, ()


def readable_twice(tensors: Any) -> Any:
    """What a backward pass begins from, as it is, or as a tuple where reading it uses it up.

    Args:
        tensors: The first argument of ``torch.autograd.backward``.
    """
    return tuple(tensors) if isinstance(tensors, Iterator) else tensors


def _tensors_of(roots: Any) -> list[torch.Tensor]:
    """The tensors that a backward pass begins from; edges of the graph are none.

    Args:
        roots: The first argument of ``torch.autograd.backward``, `readable_twice`.
    """
    found = [roots] if isinstance(roots, torch.Tensor) else list(roots)
    return [one for one in found if isinstance(one, torch.Tensor)]


def _called_modules(module: nn.Module) -> list[nn.Module]:
    """The module, or of a list of several models those inside."""
    return list(module.children()) if isinstance(module, nn.ModuleList | nn.ModuleDict) else [module]

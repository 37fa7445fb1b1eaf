"""Counting while a training step really runs: one dispatch mode that sees every operator, forward and backward."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import _disable_current_modes

from mfu_callback.flops.compiled import compiled_calls_watched
from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.module_stack import Frame, ModuleStack
from mfu_callback.flops.operator_mode import OperatorMode, mode_off
from mfu_callback.flops.passes import (
    Pass,
    current_pass,
    current_task,
    in_backward,
    next_node_number,
    recomputes_for_first_graph,
)
from mfu_callback.flops.replay import Replay
from mfu_callback.flops.rules.call import multiplied_dtype
from mfu_callback.flops.rules.operators import may_compute, operator_name, work_of
from mfu_callback.flops.rules.shards import Shards
from mfu_callback.flops.rules.thop import THOP_TYPES, ThopProfile, has_thop_rule, thop_macs
from mfu_callback.flops.unseen import BlankMemory

COUNTERS = ("thop", "dispatch", "thop-modules")
ATTENTIONS = ("full", "causal")


class FlopCounter:
    """Counts the model FLOPs of the forward and backward work that runs inside its ``with`` block.

    Every operator is counted by a dispatch mode. What runs inside a module whose rule thop has (Linear, Conv*) is
    filed as thop's where thop's figure is the same, or where its operators have no rule. An optimizer's own matmuls
    are left out. What goes into compiled code is replayed, uncompiled, on fake tensors, which takes no memory and
    computes nothing; the code itself is compiled and run as it would be without us. Nothing is put on the user's
    objects, and all of it is gone when the block is left, also by an exception, which passes through unchanged.

    Counting never raises into the code that it watches: a rule that fails leaves its operator's name in ``uncounted``.

    Args:
        module: The module whose parts' names stand in the count.
        counter: "thop" as above; "dispatch" files all as functional; "thop-modules" counts exactly what
            `thop.profile` would return, times 2.
        attention: "full" counts the whole T x S square of attention, "causal" only the pairs that attend.
        tensor_parallel: How many devices share the work on one batch; their work together is counted (shards.py).

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> model = nn.Linear(8, 4)
        >>> with FlopCounter(model) as counter:
        ...     model(torch.zeros(2, 8)).sum().backward()
        >>> counter.result().forward, counter.result().backward
        (128, 128)
    """

    def __init__(
        self, module: nn.Module, *, counter: str = "thop", attention: str = "full", tensor_parallel: int = 1
    ) -> None:
        if counter not in COUNTERS:
            raise ValueError(f"counter={counter!r} is not known. Use one of {COUNTERS}.")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention={attention!r} is not known. Use one of {ATTENTIONS}.")
        self.in_forward = True
        self._counter = counter
        self._attention = attention
        self._shards = Shards(tensor_parallel)
        self._modules = ModuleStack(module, self._leave_module)
        self._mode: Any = OperatorMode(self._see)
        self._cleanup = ExitStack()
        self._thread = threading.get_ident()
        self._optimizers = 0  # running now
        self._optimizers_outside = 0  # of those, around the forward: they run it as their closure
        self._hidden: list[range] = []  # sequence numbers of autograd nodes whose backward was replayed
        self._compiled_from: int | None = None  # the first such number of the running compiled call
        self._blank = BlankMemory()
        self._profile = ThopProfile(module) if counter == "thop-modules" else None
        self._flops: Counter[Pass] = Counter()
        self._thop = 0
        self._per_module: Counter[str] = Counter()
        self._per_dtype: Counter[str] = Counter()
        self._uncounted: set[str] = set()
        self._notes: set[str] = set()
        self._saw_backward = False
        self._replaying: _Replaying | None = None

    def __enter__(self) -> FlopCounter:
        self._thread = threading.get_ident()
        with ExitStack() as entered:
            self._enter(entered)
            self._cleanup = entered.pop_all()
        self._mode.__enter__()
        return self

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(compiled_calls_watched(self._enter_compiled, self._leave_compiled))
        stack.callback(register_optimizer_step_pre_hook(self._enter_optimizer).remove)
        stack.callback(register_optimizer_step_post_hook(self._leave_optimizer).remove)
        stack.enter_context(self._modules)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self._cleanup.close()

    @contextmanager
    def forward_only_inside(self) -> Iterator[None]:
        """Count forward work only while this context is open; backward work is always counted."""
        before = self.in_forward, self._optimizers_outside
        self.in_forward, self._optimizers_outside = True, self._optimizers
        try:
            yield
        finally:
            self.in_forward, self._optimizers_outside = before

    def result(self) -> FlopCount:
        """The count so far."""
        if self._profile is not None:
            return self._as_thop_says(2 * self._profile.macs())
        forward = self._flops[Pass.FORWARD]
        return FlopCount(
            forward=forward,
            thop=self._thop,
            functional=forward - self._thop,
            backward=self._flops[Pass.BACKWARD] if self._saw_backward else None,
            recomputed=self._flops[Pass.RECOMPUTED] if self._saw_backward else None,
            attention=self._attention,
            uncounted=tuple(sorted(self._uncounted)),
            notes=tuple(sorted(self._notes)),
            per_module={name: flops for name, flops in self._per_module.items() if flops},
            per_dtype={name: flops for name, flops in self._per_dtype.items() if flops},
        )

    def _as_thop_says(self, flops: int) -> FlopCount:
        return FlopCount(forward=flops, thop=flops, functional=0, uncounted=tuple(sorted(self._uncounted)))

    # Operators

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        try:
            self._see_operator(func, args, kwargs, out)
        except Exception as error:
            self._uncounted.add(f"{operator_name(func)} ({error})")

    def _see_operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        running = self._running_pass() if not self._modules.innermost_is(_SpectralNorm) else None
        self._saw_backward |= in_backward() and self._replaying is None
        if running is None:
            return
        if running is Pass.FORWARD:
            for where in self._blank.filled_unseen(func, args, kwargs, out, self._modules.description):
                self._leave_out(f"{where or 'the training step'} (memory filled outside of torch's operators)")
        work = work_of(func, args, kwargs, out, attention=self._attention, notes=self._notes)
        if work is not None:
            frame = self._modules.innermost
            module = None if frame is None else frame.module
            work = work.times(self._shards.times(args, module, running))
            self._add(running, work.flops, operator_name(func))
            if running is Pass.FORWARD:
                self._per_dtype[multiplied_dtype(args)] += work.flops
            self._flops[Pass.BACKWARD if running is Pass.FORWARD else running] += work.backward
            self._flops[Pass.RECOMPUTED] += work.recomputed
        elif may_compute(func):
            self._leave_out(operator_name(func))

    def _running_pass(self) -> Pass | None:
        if self._compiled_from is not None:
            return None
        if self._replaying is not None:
            return self._replaying.running if current_task() == self._replaying.in_task else current_pass()
        running = current_pass(self._hidden)
        if running is Pass.FORWARD:
            own_thread = threading.get_ident() == self._thread
            by_optimizer = self._optimizers > self._optimizers_outside and not torch.is_grad_enabled()
            return running if self.in_forward and own_thread and not by_optimizer else None
        return running

    def _add(self, running: Pass, flops: int, operator: str) -> None:
        self._flops[running] += flops
        if running is not Pass.FORWARD:
            return
        self._per_module[self._modules.name] += flops
        frame = self._modules.innermost
        if frame is not None:
            frame.flops += flops
        if self._profile is not None and not self._modules.any_type(has_thop_rule):
            self._uncounted.add(operator)

    def _leave_out(self, what: str) -> None:
        frame = self._modules.innermost
        (self._uncounted if frame is None else frame.uncounted).add(what)

    # Modules

    def _leave_module(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> None:
        """File what ran in a module: as thop's where thop's rule fits, with its names given up if so."""
        if self._profile is not None:
            if output is not None and self._running_pass() is Pass.FORWARD:
                self._profile.add(frame.module, inputs, output)
            return
        thops = self._thop_flops(frame, inputs, output)
        if thops is not None and (frame.uncounted or thops == frame.flops or _has_spectral_norm(frame.module)):
            self._thop += thops
            self._flops[Pass.FORWARD] += thops - frame.flops
            self._per_module[frame.name] += thops - frame.flops
        else:
            self._uncounted |= frame.uncounted

    def _thop_flops(self, frame: Frame, inputs: tuple[Any, ...], output: Any) -> int | None:
        fits = self._counter == "thop" and type(frame.module) in THOP_TYPES and output is not None
        if not fits or self._running_pass() is not Pass.FORWARD:
            return None
        try:
            flops_per_mac = 8 if isinstance(output, torch.Tensor) and output.is_complex() else 2
            # thop's rules compute with tensors of their own.
            with nullcontext() if self._replaying is None else _disable_current_modes():
                return flops_per_mac * thop_macs(frame.module, inputs, output)
        except Exception:  # a call that thop's rule does not understand; the operators tell
            return None

    # Optimizers

    def _enter_optimizer(self, *_: Any) -> None:
        self._optimizers += 1

    def _leave_optimizer(self, *_: Any) -> None:
        self._optimizers -= 1

    # Compiled regions

    def _enter_compiled(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        running = self._running_pass()
        if running is not None and not isinstance(getattr(function, "__self__", None), torch.optim.Optimizer):
            self._replay(function, args, kwargs, running)
        self._modules.suspend()
        self._compiled_from = next_node_number()

    def _leave_compiled(self) -> None:
        if self._compiled_from is not None:
            self._hidden.append(range(self._compiled_from, next_node_number()))
            self._compiled_from = None
            self._modules.resume()

    def _replay(self, function: Callable[..., Any], args: Any, kwargs: Any, running: Pass) -> None:
        self._replaying = _Replaying(running, in_task=current_task())
        try:
            with mode_off(self._mode):
                replay = Replay(self._modules.root, function, args, kwargs)
                # What a checkpoint that is not reentrant runs again has its backward in what ran the first time.
                backward = not (running is Pass.RECOMPUTED and recomputes_for_first_graph())
                with self._modules.also_known(replay.modules):
                    replay.run(self._mode, backward=backward)
        except Exception as error:
            self._uncounted.add(f"{self._modules.name_of(function)} (compiled; {type(error).__name__}: {error})")
        finally:
            self._replaying = None


class _Replaying(NamedTuple):
    """A replay that is running: the pass of the compiled call, and the backward that it runs in."""

    running: Pass
    in_task: int


def _has_spectral_norm(module: nn.Module) -> bool:
    """Whether a hook divides the weight by its spectral norm first, by matmuls that are not the model's own."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())

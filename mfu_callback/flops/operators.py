"""Counts every operator that runs, by its pass, module and dtype."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils._pytree import tree_leaves

from mfu_callback.flops.module_stack import ModuleStack
from mfu_callback.flops.operator_calls import OperatorCalls
from mfu_callback.flops.passes import Pass, in_backward
from mfu_callback.flops.rules.call import UncountableError, Work, multiplied_dtype
from mfu_callback.flops.rules.operators import may_compute, operator_name, work_of
from mfu_callback.flops.rules.shards import Shards
from mfu_callback.flops.tally import Tally
from mfu_callback.flops.thop_modules import ModuleRules
from mfu_callback.flops.unseen import BlankMemory


class Operators:
    """Adds the FLOPs of operators to a tally, and the names of operators that it cannot count.

    Args:
        tally: Receives the FLOPs and the names.
        modules: The stack of running modules.
        rules: Called for every operator of the forward that was counted.
        running_pass: Returns the pass that is running, or None if it is not counted.
        attention: The convention for attention: "full" or "causal".
        devices: The number of devices that share the work on one batch.
        calls: Receives every call that really runs.
    """

    def __init__(
        self,
        tally: Tally,
        modules: ModuleStack,
        rules: ModuleRules,
        running_pass: Callable[[], Pass | None],
        *,
        attention: str,
        devices: int,
        calls: OperatorCalls | None = None,
    ) -> None:
        self._calls = calls
        self._tally = tally
        self._modules = modules
        self._rules = rules
        self._running_pass = running_pass
        self._attention = attention
        self._shards = Shards(devices)
        self._blank = BlankMemory()

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, *, is_replay: bool) -> None:
        """Count one call of an operator; never raises.

        Args:
            func: The operator's overload.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            out: What it returned.
            is_replay: Whether it ran on fake tensors.
        """
        work = None
        try:
            self._tally.saw_backward |= in_backward() and not is_replay
            running = self._running_pass()
            if running is not None and not self._modules.innermost_is(_SpectralNorm):
                work = self._count(running, func, args, kwargs, out)
        except UncountableError as reason:
            self._tally.uncounted.add(f"{operator_name(func)} ({reason})")
        except Exception as error:
            self._tally.rule_errors.add(f"{_described(func, args, kwargs)}: {type(error).__name__}: {error}")
        if self._calls is not None and not is_replay:
            self._record(self._calls, func, args, kwargs, out, work)

    def _record(
        self,
        calls: OperatorCalls,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        work: Work | None,
    ) -> None:
        """Record a call, also one whose FLOPs are not the model's: an optimizer's, or one in compiled code."""
        with suppress(Exception):  # such as of a rule; no count depends on it
            work = work or work_of(func, args, kwargs, out, attention=self._attention, notes=set())
        with suppress(Exception):  # such as a tensor without a shape, which then is missing in a table
            calls.add(func, args, kwargs, out, work)

    def _count(self, running: Pass, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Work | None:
        """Count a call; returns the FLOPs of this device, None if it has no rule."""
        if running is Pass.FORWARD:
            for where in self._blank.filled_unseen(func, args, kwargs, out, self._modules.description):
                self._leave_out(f"{where or 'the training step'} (memory filled outside of torch's operators)")
        work = work_of(func, args, kwargs, out, attention=self._attention, notes=self._tally.notes)
        if work is None:
            if may_compute(func):
                self._leave_out(operator_name(func))
            return None
        frame, own = self._modules.innermost, work
        work = work.times(self._shards.times(args, None if frame is None else frame.module, running))
        self._tally.add(running, work, module=self._modules.name, dtype=multiplied_dtype(args))
        if running is Pass.FORWARD:
            if frame is not None:
                frame.flops += work.flops
            self._rules.operator(operator_name(func), self._modules)
        return own

    def _leave_out(self, what: str) -> None:
        frame = self._modules.innermost
        (self._tally.uncounted if frame is None else frame.uncounted).add(what)


def _described(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The operator with the dtypes and shapes of its tensors: "aten::mm(float32[2, 3], float32[3, 4])"."""
    tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    return f"{operator_name(func)}({', '.join(map(_shape, tensors))})"


def _shape(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        return f"{dtype}{list(tensor.shape)}"
    except Exception:  # a strided nested tensor has none, and a tensor subclass may raise anything
        return f"{dtype}[?]"

"""Counts every operator that runs, by its pass, module and dtype."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from mfu_callback.flops.lookups import looked_up
from mfu_callback.flops.module_stack import ModuleStack
from mfu_callback.flops.operator_calls import OperatorCalls
from mfu_callback.flops.passes import Pass, in_backward
from mfu_callback.flops.replaced_nodes import Backward, ReplacedNodes
from mfu_callback.flops.rules.call import UncountableError, Work, multiplied_dtype, tensors_of, with_defaults
from mfu_callback.flops.rules.formulas import REGISTERED_SOURCE, TORCH_SOURCE, Formula, formula_of_operator
from mfu_callback.flops.rules.operators import may_compute, operator_name, source_of, work_of
from mfu_callback.flops.rules.shards import Shards
from mfu_callback.flops.rules.solvers import SOLVERS, remark
from mfu_callback.flops.rules.traffic import traffic_of
from mfu_callback.flops.tally import Tally
from mfu_callback.flops.thop_modules import ModuleRules
from mfu_callback.flops.unseen import UnseenWork

_log = logging.getLogger(__name__)


class FormulaCall(NamedTuple):
    """A call that a formula from elsewhere counts.

    Attributes:
        formula: The formula.
        name: The name of what was called.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        out: What it returned.
        nodes: The sequence numbers of its autograd nodes.
    """

    formula: Formula
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any = None
    nodes: range = range(0)


class LaunchedKernels(Protocol):
    """The Triton kernels that the last operator has launched."""

    def count(self, running: Pass) -> bool:
        """Count them, in place of an operator without a rule; returns whether there are any and all have a formula."""

    def forget(self) -> None:
        """Forget them, at the operator's end."""


class Operators:
    """Adds the FLOPs of operators to a tally, and the names of operators that it cannot count.

    Args:
        tally: Receives the FLOPs and the names.
        modules: The stack of running modules.
        rules: Called for every operator of the forward that was counted.
        nodes: The autograd nodes whose backward counts otherwise.
        unseen: Looks for work that no operator did.
        running_pass: Returns the pass that is running, or None if it is not counted.
        kernels: The Triton kernels that the operator has launched.
        attention: The convention for attention: "full" or "causal".
        devices: The number of devices that share the work on one batch.
        calls: Receives every call that really runs.
    """

    def __init__(
        self,
        tally: Tally,
        modules: ModuleStack,
        rules: ModuleRules,
        nodes: ReplacedNodes,
        unseen: UnseenWork,
        running_pass: Callable[[], Pass | None],
        kernels: LaunchedKernels,
        *,
        attention: str,
        devices: int,
        calls: OperatorCalls | None = None,
    ) -> None:
        self._calls = calls
        self._tally = tally
        self._modules = modules
        self._rules = rules
        self._nodes = nodes
        self._unseen = unseen
        self._running_pass = running_pass
        self._kernels = kernels
        self._attention = attention
        self._shards = Shards(devices)
        self.are_replaced = 0  # how many running modules and Functions have a formula that counts in their place

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
            self._count_due()
            running = self._running_pass()
            self._look(running, func, args, kwargs, out)
            if running is Pass.FORWARD and (integers := looked_up(func, args)) is not None:
                self._tally.lookups.append(integers)
            if running is not None and not self.are_replaced:
                work = self._count(running, func, args, kwargs, out)
        except UncountableError as reason:
            self.leave_out(f"{operator_name(func)} ({reason})")
        except Exception as error:
            self._tally.rule_errors.add(f"{_described(func, args, kwargs)}: {type(error).__name__}: {error}")
        self._kernels.forget()
        if not in_backward():
            self._nodes.operator_ended()
        if self._calls is not None and not is_replay:
            self._record(self._calls, func, args, kwargs, out, work)

    def leave_out(self, what: str) -> None:
        """Name work that cannot be counted, unless a formula counts the module or Function that is running."""
        if not self.are_replaced:
            frame = self._modules.innermost
            (self._tally.uncounted if frame is None else frame.uncounted).add(what)

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

    def _count_due(self) -> None:
        """Count the gradients of a call with a formula when the first of their operators runs."""
        due = self._nodes.due()
        if due is not None:
            work = Work(due.flops)
            self._tally.add(Pass.BACKWARD, work, operator=due.operator, rule=due.rule, dtype=due.dtype, frame=None)

    def _look(self, running: Pass | None, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note which memory a call has used, how much of it, and whether something else has written it."""
        try:  # a tensor subclass may raise anything; no count depends on it
            if running is not None:
                self._tally.moved(running, traffic_of(func, args, kwargs, out), operator_name(func), self._modules.name)
            if running is Pass.FORWARD or torch.is_grad_enabled():
                found = self._unseen.look(func, args, kwargs, out, self._modules.description)
                is_models = running is Pass.FORWARD and not self._modules.innermost_is(DistributedDataParallel)
                for what in found if is_models else ():  # DDP's own buckets are filled by its reducer
                    self.leave_out(what)
            else:
                self._unseen.forget(func, args, kwargs)
        except Exception:
            _log.debug("The memory that %s uses is not known.", func, exc_info=True)

    def _count(self, running: Pass, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Work | None:
        """Count a call; returns the FLOPs of this device, None if it has no rule."""
        name = operator_name(func)
        formula = formula_of_operator(func)
        if formula is not None:
            complete = with_defaults(func, args, kwargs)
            return self.count_by_formula(running, FormulaCall(formula, name, *complete, out, self._nodes.own()))
        if name in SOLVERS:
            self._tally.notes.add(remark(name))
            self._nodes.hide(self._nodes.own() if running is not Pass.BACKWARD else ())
            return None
        work = work_of(func, args, kwargs, out, attention=self._attention, notes=self._tally.notes)
        if work is None:
            if may_compute(func) and not self._kernels.count(running):
                self.leave_out(name)
            return None
        source = source_of(func) or ""
        self._note_convention(name, source)
        self._add(running, work, name, source, args)
        if running is Pass.FORWARD:
            self._rules.operator(name, self._modules)
        return work

    def count_by_formula(self, running: Pass, call: FormulaCall) -> Work:
        """Count a call now, and its gradients when they are computed.

        Args:
            running: The pass that it runs in.
            call: The call.

        Raises:
            UncountableError: If the formula fails.
        """
        formula, name, args, kwargs, out, nodes = call
        work = Work(formula.flops(args, kwargs, out))
        self._note_convention(name, formula.source)
        times = self._add(running, work, name, formula.source, (args, kwargs))
        backward = formula.backward_flops(args, kwargs, out)
        if running is not Pass.BACKWARD and backward is not None:
            dtype = multiplied_dtype((args, kwargs))
            self._nodes.hide(nodes, Backward(times * backward, name, dtype, formula.source))
        return work

    def _add(self, running: Pass, work: Work, name: str, rule: str, args: tuple[Any, ...]) -> int:
        """Add the work of all devices that share it; returns their number."""
        frame = self._modules.innermost
        times = self._shards.times(args, None if frame is None else frame.module, running)
        dtype = multiplied_dtype(args)
        self._tally.add(running, work.times(times), operator=name, rule=rule, dtype=dtype, frame=frame)
        return times

    def _note_convention(self, name: str, source: str) -> None:
        if self._attention == "causal" and source in (REGISTERED_SOURCE, TORCH_SOURCE):
            self._tally.notes.add(f"{name} is counted by its formula in {source}, whatever attention= says")


def _described(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The operator with the dtypes and shapes of its tensors: "aten::mm(float32[2, 3], float32[3, 4])"."""
    return f"{operator_name(func)}({', '.join(map(_shape, tensors_of((args, kwargs))))})"


def _shape(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        return f"{dtype}{list(tensor.shape)}"
    except Exception:  # a strided nested tensor has none, and a tensor subclass may raise anything
        return f"{dtype}[?]"
